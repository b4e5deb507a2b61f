-- Loops: the same load on one loop and on two, which may use every core that the load leaves.
local load = require "bench.load"
local server = require "bench.server"
local stats = require "bench.stats"

local loops = {}

local COUNTS = { 1, 2 }
local CASES = {
  { name = "echo 64 B", script = "scripts/echo.lua", scheme = "tcp", job = { program = "client", arguments = { "--size", 64 } } },
  { name = "http hello", script = "scripts/hello.lua", scheme = "http", job = { program = "http_client", arguments = {} } },
}

local function command(case, count)
  return ("bin/rille run %s --listen %s://127.0.0.1:{port} --loops %d"):format(case.script, case.scheme, count)
end

local function measure_case(settings, case, rounds)
  local servers, windows = {}, {}
  for i, count in ipairs(COUNTS) do
    servers[i], windows[i] = server.start(count .. " loops", command(case, count)), {}
    load.window(settings, servers[i], case.job, settings.first_warmup)
  end
  local ratios = {}
  for round = 1, rounds do
    for i in ipairs(COUNTS) do windows[i][round] = load.window(settings, servers[i], case.job, settings.seconds) end
    ratios[round] = windows[2][round].rate / windows[1][round].rate
  end
  for _, one in ipairs(servers) do one:stop() end
  local result = { case = case.name, rounds = rounds, ratio = stats.quartiles(ratios), loops = {} }
  for i, count in ipairs(COUNTS) do
    local function median(name) return stats.median(stats.column(windows[i], name)) end
    result.loops[i] = { loops = count, requests_per_second = median("rate"), cpu_us = median("cpu_us"), busy = median("busy"),
      p50_us = median("p50_us"), p99_us = median("p99_us") }
  end
  return result
end

function loops.measure(settings, progress)
  local rounds, results = math.max(math.ceil(settings.pairs / 2), 3), {}
  for i, case in ipairs(CASES) do
    progress("loops, %s: %d windows of %g s, twice", case.name, rounds, settings.seconds)
    results[i] = measure_case(settings, case, rounds)
  end
  return results
end

return loops
