-- Remote calls of 1 KiB to scripts/rpc_server.lua, in three ways: a connection for each call, one call at a time on connections that stay,
-- and many at a time on few. The baseline sends each call back as it is.
local compare = require "bench.compare"
local server = require "bench.server"
local syscalls = require "bench.syscalls"

local rpc = { RILLE = "bin/rille run scripts/rpc_server.lua --listen tcp://127.0.0.1:{port} --loops 1" }

local CASES = {
  { name = "short", connections = 64, depth = 1, arguments = { "--reconnect" } },
  { name = "long", connections = 64, depth = 1, arguments = {} },
  { name = "mux", connections = 4, depth = 16, arguments = { "--depth", 16 } },
}

function rpc.measure(settings, name, progress)
  local core, command = settings.server_core, settings.build .. "/echo {port}"
  local baseline, twin = server.start("baseline", command, core), server.start("baseline", command, core)
  local tested = server.start(name, rpc.RILLE, core)
  local results = {}
  for i, case in ipairs(CASES) do
    progress("rpc %s: %d pairs of %g s, twice", case.name, settings.pairs, settings.seconds)
    local job = { program = "rpc_client", arguments = case.arguments }
    local own = setmetatable({ connections = case.connections }, { __index = settings })
    results[i] = compare.run(own, job, baseline, twin, tested)
    results[i].case, results[i].depth, results[i].connections = case.name, case.depth, case.connections
    results[i].syscalls = syscalls.compare(own, job, baseline, tested)
  end
  tested:stop()
  twin:stop()
  baseline:stop()
  return results
end

return rpc
