-- resp_ping: a small server of the Redis protocol: PING, ECHO, SET, GET, DEL and QUIT, over a dict that all loops share.
--
--   rille run scripts/resp_ping.lua --listen tcp://127.0.0.1:6379
--   redis-cli -p 6379 ping

local rille = require "rille"

local codec = rille.codec
local resp = codec.resp
local requests = codec.resp { max = 65536, depth = 2, strings = true }
local values = rille.dict("resp_ping", { size = "4m" })

local commands = {}

function commands.PING(_, text) return text or resp.status "PONG" end

function commands.ECHO(_, text)
  return text or resp.error "ERR wrong number of arguments for 'echo'"
end

function commands.SET(_, key, value)
  if not value then return resp.error "ERR wrong number of arguments for 'set'" end
  local ok, err = values:set(key, value)
  return ok and resp.status "OK" or resp.error("ERR " .. err)
end

function commands.GET(_, key)
  if not key then return resp.error "ERR wrong number of arguments for 'get'" end
  return values:get(key) or resp.null
end

function commands.DEL(_, ...)
  local count = 0
  for _, key in ipairs { ... } do
    if values:get(key) ~= nil then count = count + 1 end
    values:delete(key)
  end
  return count
end

function commands.QUIT(conn)
  conn:write_frame(resp.status "OK")
  conn:close()
end

-- A request is a list of strings.
local function answer(conn, request)
  local name = resp.type(request) == "list" and request[1]
  if type(name) ~= "string" then return conn:write_frame(resp.error "ERR expected a list of strings") end
  for _, word in ipairs(request) do
    if type(word) ~= "string" then return conn:write_frame(resp.error "ERR expected a list of strings") end
  end
  local command = commands[name:upper()]
  if not command then return conn:write_frame(resp.error "ERR unknown command") end
  local result = command(conn, unpack(request, 2))
  if result ~= nil then return conn:write_frame(result) end
end

return {
  on_connect = function(conn) conn:on_request(answer, requests) end,
  on_request = function() end,
}
