-- Connects: 15,000 new connections within a second, each of which sends and is answered, over two loops that serve others meanwhile.
-- The baseline is one thread that accepts and echoes.
local load = require "bench.load"
local server = require "bench.server"
local stats = require "bench.stats"

local connects = { RILLE = "bin/rille run scripts/echo.lua --listen tcp://127.0.0.1:{port} --loops 2" }

local JOB = { program = "connects_client", arguments = {} }
local SECONDS = 1 -- all of them are to come within it
local NAMES = { "rate", "seconds", "quiet_p50_us", "quiet_p99_us", "p50_us", "p99_us" }

local function run(settings, target)
  return load.with_client(settings, target, JOB, SECONDS, function(go) return go() end)
end

local function summary(runs)
  local out = { connects = 0, lost = 0 }
  for _, name in ipairs(NAMES) do out[name] = stats.median(stats.column(runs, name)) end
  for _, one in ipairs(runs) do
    out.connects, out.lost = out.connects + one.connects, out.lost + one.lost
    one.growth = one.p99_us / one.quiet_p99_us
  end
  out.p99_growth = stats.quartiles(stats.column(runs, "growth"))
  return out
end

function connects.measure(settings, name, progress)
  local rounds = math.max(math.ceil(settings.pairs / 3), 3)
  progress("connects: %d rounds of 15,000 in %g s, twice", rounds, SECONDS)
  local core = settings.server_core
  local baseline = server.start("baseline", settings.build .. "/echo {port}", core)
  local tested = server.start(name, connects.RILLE, core)
  local base, own = {}, {}
  for i = 1, rounds do
    base[i] = run(settings, baseline)
    own[i] = run(settings, tested)
  end
  tested:stop()
  baseline:stop()
  return { rounds = rounds, baseline = summary(base), server = summary(own) }
end

return connects
