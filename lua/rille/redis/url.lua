-- url: redis://[user:password@]host[:port][/db], rediss:// (TLS), unix:[//]/path[?db=N&password=...], and tcp://, unix: as rille.dial has
-- them; all that a connection has to be told first.

local url = {}

local function decoded(text)
  return (text:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

local function number_of(text)
  if text == nil or text == "" then return 0 end
  return text:find "^%d+$" and #text <= 5 and tonumber(text) or nil
end

-- "host", "host:port", "[::1]:port"
local function with_port(host)
  if host == "" then host = "127.0.0.1" end
  if host:find "^%[.*%]$" or not host:find ":" then return host .. ":6379" end
  return host
end

local function of_path(rest)
  local path, query = rest:match "^([^?]*)%??(.*)$"
  local given = {}
  for key, value in query:gmatch "([^&=]+)=([^&]*)" do given[key] = decoded(value) end
  path = path:gsub("^///", "/")
  local address = (path:find "^/" and "unix://" or "unix:") .. path
  return { dial = address, db = number_of(given.db), user = given.user, password = given.password }
end

-- { dial =, is_tls =, user =, password =, db =, text = }, text being what may be shown; nil: it is none.
function url.parse(text)
  local scheme, rest = text:match "^(%a+):(.*)$"
  if scheme == "unix" then
    local one = of_path(rest)
    one.text = one.dial
    return one.db and one
  end
  rest = rest and rest:match "^//(.*)$"
  if not rest or not (scheme == "redis" or scheme == "rediss" or scheme == "tcp" or scheme == "tls") then return nil end
  local who, where = rest:match "^(.*)@(.*)$"
  local host, db = (where or rest):match "^([^/]*)/?([^/]*)$"
  if not host or not number_of(db) then return nil end
  local user, password = (who or ""):match "^([^:]*):?(.*)$"
  local is_tls = scheme == "rediss" or scheme == "tls"
  host = with_port(host)
  return {
    dial = (is_tls and "tls://" or "tcp://") .. host, is_tls = is_tls, text = scheme .. "://" .. host, db = number_of(db),
    user = user ~= "" and decoded(user) or nil, password = password ~= "" and decoded(password) or nil,
  }
end

return url
