-- The server of bench/devices.lua: scripts/device_gateway.lua, which times its commands: from the turn that read one to its answer's being
-- written, the way to the device and back included. GET /times brings those of this loop since the last time, in microseconds, a line each.
local options = ...
local rille = require "rille"

local clock = require("rille.core").rille_now
local gateway = assert(loadfile "scripts/device_gateway.lua")(options)
local on_command, times, count = gateway.on_command, {}, 0

function gateway.on_command(req, res)
  if req.path == "/times" then
    local list = {}
    for i = 1, count do list[i] = ("%.1f\n"):format(times[i] * 1e6) end
    count = 0
    return res:send(table.concat(list))
  end
  local arrived = rille.now()
  on_command(req, res)
  count = count + 1
  times[count] = clock() - arrived
end

return gateway
