-- Echo of datagrams: two sizes.
local compare = require "bench.compare"
local posix = require "bench.posix"
local server = require "bench.server"

local udp = { RILLE = "bin/rille run scripts/udp_echo.lua --listen udp://127.0.0.1:{port} --loops 1" }

local SIZES = { 64, 1024 }

function udp.measure(settings, name, progress)
  local core, command = settings.server_core, settings.build .. "/udp {port}"
  local baseline = server.start("baseline", command, core, posix.is_receiving)
  local twin = server.start("baseline", command, core, posix.is_receiving)
  local tested = server.start(name, udp.RILLE, core, posix.is_receiving)
  return compare.run_sizes(settings, "udp", SIZES, { "--udp" }, baseline, twin, tested, progress)
end

return udp
