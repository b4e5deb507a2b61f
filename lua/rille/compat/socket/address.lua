-- address: LuaSocket's host and port as Rille's URLs, and back.

local M = {}

local ANY = { tcp6 = "[::]", udp6 = "[::]", tcp4 = "0.0.0.0", udp4 = "0.0.0.0", tcp = "0.0.0.0", udp = "0.0.0.0" }

-- scheme: "tcp", "udp", with 4 or 6 for a family. "*" is every address. Nil for what is no port.
function M.url(scheme, host, port)
  port = tonumber(port)
  if not port or port % 1 ~= 0 or port < 0 or port > 65535 then return nil end
  host = tostring(host)
  if host == "*" then
    host = ANY[scheme]
  elseif host:find(":", 1, true) then
    host = "[" .. host .. "]"
  end
  return ("%s://%s:%d"):format(scheme, host, port)
end

-- Of "tcp://127.0.0.1:80", "127.0.0.1:80", "[::1]:80": host, port, "inet" or "inet6"; of a Unix socket its path. nil for nothing.
function M.parts(url)
  if not url then return nil end
  local path = url:match("^unix:/*(/.*)$") or url:match("^unix:(.*)$")
  if path then return path, 0, "unix" end
  local bare = url:match("^%a+[46]?://(.*)$") or url
  local six, port = bare:match("^%[(.*)%]:(%d+)$")
  if six then return six, tonumber(port), "inet6" end
  local host
  host, port = bare:match("^(.*):(%d+)$")
  if host then return host, tonumber(port), "inet" end
end

-- As getsockname of LuaSocket has them: the port is a string there.
function M.own_parts(url)
  local host, port, family = M.parts(url)
  return host, port and tostring(port), family
end

return M
