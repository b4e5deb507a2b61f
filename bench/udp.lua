-- Echo of datagrams: two sizes.
local compare = require "bench.compare"
local posix = require "bench.posix"
local server = require "bench.server"
local syscalls = require "bench.syscalls"

local udp = { RILLE = "bin/rille run scripts/udp_echo.lua --listen udp://127.0.0.1:{port} --loops 1" }

local SIZES = { 64, 1024 }

function udp.measure(settings, name, progress)
  local core, results, command = settings.server_core, {}, settings.build .. "/udp {port}"
  local baseline = server.start("baseline", command, core, posix.is_receiving)
  local twin = server.start("baseline", command, core, posix.is_receiving)
  local tested = server.start(name, udp.RILLE, core, posix.is_receiving)
  for i, size in ipairs(SIZES) do
    progress("udp %d B: %d pairs of %g s, twice", size, settings.pairs, settings.seconds)
    local job = { program = "client", arguments = { "--size", size, "--udp" } }
    results[i] = compare.run(settings, job, baseline, twin, tested)
    results[i].size = size
    results[i].syscalls = syscalls.compare(settings, job, baseline, tested)
  end
  tested:stop()
  twin:stop()
  baseline:stop()
  return results
end

return udp
