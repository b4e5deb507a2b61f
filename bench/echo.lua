-- Echo: messages of three sizes.
local compare = require "bench.compare"
local server = require "bench.server"

local echo = { RILLE = "bin/rille run scripts/echo.lua --listen tcp://127.0.0.1:{port} --loops 1" }

local SIZES = { 64, 1024, 16384 }

function echo.baseline(settings)
  return settings.build .. "/echo {port}"
end

-- command: of the server, or nil for Rille. Returns one record for each size.
function echo.measure(settings, name, command, progress)
  local core = settings.server_core
  local baseline = server.start("baseline", echo.baseline(settings), core)
  local twin = server.start("baseline", echo.baseline(settings), core)
  local tested = server.start(name, command or echo.RILLE, core)
  return compare.run_sizes(settings, "echo", SIZES, {}, baseline, twin, tested, progress)
end

return echo
