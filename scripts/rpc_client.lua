-- rpc_client: a front for scripts/rpc_server.lua. A line "NAME ARGUMENT" is a call, its result is a line; errors begin with "error: ".
-- The calls of all clients share one connection to the server (one for each loop), which is made when it is needed, and again when it was
-- lost. A client may send its lines without waiting; it gets the results in their order.
--
--   rille run scripts/rpc_client.lua --listen tcp://127.0.0.1:7001 -- server=tcp://127.0.0.1:7000 timeout=2
--   printf 'echo hello\nsum 1 2 3\n' | nc 127.0.0.1 7001

local rille = require "rille"

local options = ...
local address = options.server or "tcp://127.0.0.1:7000"
local timeout = tonumber(options.timeout) or 5 -- seconds, for a connect and for a call

-- Frames of a u32 length with a u32 id in front: that is what a mux has without further options.
local server = rille.mux(function() return rille.dial(address, { timeout = timeout }) end,
  { timeout = timeout, max_in_flight = tonumber(options.max_in_flight) or 1000 })

local function handle(conn, line)
  local frame, err = server:call(line)
  if not frame then return conn:write("error: " .. err .. "\n") end
  if frame:u8(4) ~= 0 then conn:write "error: " end
  conn:write(frame:sub(6)) -- behind id and status, linked, not copied, when it is large
  conn:write "\n"
end

local lines = rille.codec.line { max = options.max or "16k" }

return {
  on_connect = function(conn) conn:on_request(handle, lines, { concurrency = 100 }) end,
  on_request = handle,
}
