-- Fan-out: one message to many connections of two loops.
local compare = require "bench.compare"
local server = require "bench.server"
local syscalls = require "bench.syscalls"

local fanout = { RILLE = "bin/rille run bench/fanout_topic.lua --listen tcp://127.0.0.1:{port} --loops 2" }

local CONNECTIONS = 10000

-- A window has some twenty rounds of 10,000 messages each; connecting takes longer than that, so there are fewer pairs.
local function settings_for(settings)
  local own = { connections = CONNECTIONS, pairs = math.max(math.ceil(settings.pairs / 2), 3) }
  return setmetatable(own, { __index = settings })
end

function fanout.measure(all, name, progress)
  local settings = settings_for(all)
  local core, command = settings.server_core, settings.build .. "/fanout {port}"
  local baseline = server.start("baseline", command, core)
  local twin = server.start("baseline", command, core)
  local tested = server.start(name, fanout.RILLE, core)
  progress("fanout: %d pairs of %g s, twice", settings.pairs, settings.seconds)
  local job = { program = "fanout_client", arguments = {} }
  local result = compare.run(settings, job, baseline, twin, tested)
  result.connections, result.pairs, result.shares_core = CONNECTIONS, settings.pairs, true
  result.syscalls = syscalls.compare(settings, job, baseline, tested)
  tested:stop()
  twin:stop()
  baseline:stop()
  return result
end

return fanout
