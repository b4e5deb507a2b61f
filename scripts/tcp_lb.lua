-- tcp_lb: connections are spread over servers; those that do not answer are left out until they do. TLS is passed on as it is, by the name
-- that the client asks for; where the balancer listens at tls:// it ends there, and servers get what was in it. Each server may be told
-- who the client is (the PROXY protocol).
--
--   rille run scripts/tcp_lb.lua --listen tcp://127.0.0.1:7000 -- to=tcp://10.0.0.1:80,tcp://10.0.0.2:80
--   rille run scripts/tcp_lb.lua --listen tcp://127.0.0.1:7443 -- \
--     names="a.example.org=10.0.0.1:443,10.0.0.2:443 *.example.net=10.0.0.3:443" to=10.0.0.9:443 proxy=2
--
-- to: servers for every other connection. names: servers by name, "NAME=URL,URL", with spaces between. balance, check, interval: as
-- balance, health.active.check and .interval of rille.upstream. proxy: the version of the header.

local rille = require "rille"
local options = ...

local balance, proxy = options.balance or "least_connections", tonumber(options.proxy)
assert(options.to or options.names, "servers are missing: to=URL,URL, or names")
assert(not options.proxy or proxy == 1 or proxy == 2, "proxy is 1 or 2")
local hello_timeout = tonumber(options.hello_timeout) or 5

local function servers(name, list)
  local targets = {}
  for url in list:gmatch "[^,]+" do targets[#targets + 1] = url end
  return rille.upstream {
    name = name, targets = targets, balance = balance, keepalive = 0, max_per_target = 1e5, connect_timeout = "2s",
    retry = { attempts = 5, budget = 1 },
    health = {
      active = { check = options.check or "tcp://", interval = tonumber(options.interval) or 1, fall = 2, rise = 1 },
      passive = { failures = 2, cooldown = tonumber(options.interval) or 1 },
    },
  }
end

local others = options.to and servers("to", options.to)
local names, has_names = {}, false
for name, list in (options.names or ""):gmatch "(%S+)=(%S+)" do
  names[name:lower()], has_names = servers(name, list), true
end

local function servers_of(name)
  return name and (names[name] or names[name:gsub("^[^.]+", "*", 1)]) or others
end

-- The name that a client of TLS asks for; nil for other clients. Nothing is taken from the connection.
local function name_of(conn)
  local tls = conn:tls()
  if tls then return tls.sni end
  local need = 1
  while true do
    local bytes, _, partial = conn:peek(need)
    local hello, err, more = rille.tls_hello(bytes or partial or "")
    if hello then return hello.name end
    if err ~= "short" or not bytes then return nil end
    need = more
  end
end

local function carry(back, conn)
  local ok, err = true, nil
  if proxy then ok, err = back:send_proxy(conn, { version = proxy }) end
  if not ok then return nil, err end
  conn:pump(back)
  back:close()
  return true
end

return {
  on_connect = function(conn)
    local name = has_names and rille.with_timeout(hello_timeout, name_of, conn) or nil
    local to = servers_of(name)
    if not to then return conn:close() end
    local key = balance == "consistent_hash" and (conn:peer() or "?"):gsub(":%d+$", "") or nil
    local ok, err, message = to:with(function(back) return carry(back, conn) end, { key = key })
    if not ok then
      rille.log.warn("%s: %s", conn:peer() or "a client", message or err)
      return conn:abort()
    end
    conn:close()
  end,
  on_request = function(conn) conn:close() end,
}
