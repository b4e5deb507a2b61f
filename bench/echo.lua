-- Echo: messages of three sizes.
local compare = require "bench.compare"
local server = require "bench.server"
local syscalls = require "bench.syscalls"

local echo = { RILLE = "bin/rille run scripts/echo.lua --listen tcp://127.0.0.1:{port} --loops 1" }

local SIZES = { 64, 1024, 16384 }

function echo.baseline(settings)
  return settings.build .. "/echo {port}"
end

-- command: of the server, or nil for Rille. Returns one record for each size.
function echo.measure(settings, name, command, progress)
  local core, results = settings.server_core, {}
  local baseline = server.start("baseline", echo.baseline(settings), core)
  local twin = server.start("baseline", echo.baseline(settings), core)
  local tested = server.start(name, command or echo.RILLE, core)
  for i, size in ipairs(SIZES) do
    progress("echo %d B: %d pairs of %g s, twice", size, settings.pairs, settings.seconds)
    local job = { program = "client", arguments = { "--size", size } }
    results[i] = compare.run(settings, job, baseline, twin, tested)
    results[i].size = size
    results[i].syscalls = syscalls.compare(settings, job, baseline, tested)
  end
  tested:stop()
  twin:stop()
  baseline:stop()
  return results
end

return echo
