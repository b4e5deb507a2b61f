-- A server against the baseline, and the baseline against itself, in alternating windows of one load.
local json = require "bench.json"
local load = require "bench.load"
local stats = require "bench.stats"
local syscalls = require "bench.syscalls"

local compare = {}

-- One window of each. Odd pairs run a then b, even ones b then a: ABBA cancels a drift.
local function run_pair(settings, job, pair, a, b, into_a, into_b)
  local function run(target, into) into[#into + 1] = load.window(settings, target, job, settings.seconds) end
  if pair % 2 == 1 then
    run(a, into_a)
    run(b, into_b)
  else
    run(b, into_b)
    run(a, into_a)
  end
end

-- Quartiles over the pairs of b's value divided by a's.
local function ratio(as, bs, name)
  local ratios = {}
  for i, a in ipairs(as) do ratios[i] = bs[i][name] / a[name] end
  return stats.quartiles(ratios)
end

local function ratios(as, bs)
  return { cpu = ratio(as, bs, "cpu_us"), rate = ratio(as, bs, "rate"), p99 = ratio(as, bs, "p99_us") }
end

local function total(windows, name)
  if not windows[1][name] then return nil end
  return stats.sum(stats.column(windows, name))
end

-- Medians over the windows. Ticks are coarse: their sum over all windows only splits the exact CPU time.
local function summary(windows)
  local function median(name) return stats.median(stats.column(windows, name)) end
  local messages = total(windows, "messages")
  local user, system = total(windows, "user_us"), total(windows, "system_us")
  local cpu_us, user_share = median("cpu_us"), user / math.max(user + system, 1)
  local allocated, handled = total(windows, "lua_allocated"), total(windows, "server_messages")
  return {
    messages = messages,
    answer_bytes = median("answer_bytes"),
    requests_per_second = median("rate"),
    cpu_us = cpu_us,
    user_us = cpu_us * user_share,
    system_us = cpu_us * (1 - user_share),
    busy = median("busy"),
    waited = median("waited"),
    client_waited = median("client_waited"),
    p50_us = median("p50_us"),
    p99_us = median("p99_us"),
    p999_us = median("p999_us"),
    max_us = stats.quantile(stats.column(windows, "max_us"), 1),
    lua_bytes_per_message = allocated and allocated / messages or json.null,
    calls_per_message = handled and handled / messages or json.null,
  }
end

-- job: see bench/load.lua. baseline, twin: two processes of the baseline; tested: the server. Returns one record.
function compare.run(settings, job, baseline, twin, tested)
  local base, rille = {}, {}
  local noise_a, noise_b = {}, {}
  for _, target in ipairs { baseline, twin, tested } do -- compiles traces, fills caches
    load.window(settings, target, job, settings.first_warmup)
  end
  for pair = 1, settings.pairs do
    run_pair(settings, job, pair, baseline, tested, base, rille)
    run_pair(settings, job, pair, baseline, twin, noise_a, noise_b)
  end
  return {
    baseline = summary(base),
    server = summary(rille),
    ratio = ratios(base, rille),
    noise = ratios(noise_a, noise_b),
  }
end

-- The same for messages of several sizes, as a list of records. Stops the three.
function compare.run_sizes(settings, what, sizes, arguments, baseline, twin, tested, progress)
  local results = {}
  for i, size in ipairs(sizes) do
    progress("%s %d B: %d pairs of %g s, twice", what, size, settings.pairs, settings.seconds)
    local job = { program = "client", arguments = { "--size", size, unpack(arguments) } }
    results[i] = compare.run(settings, job, baseline, twin, tested)
    results[i].size = size
    results[i].syscalls = syscalls.compare(settings, job, baseline, tested)
  end
  tested:stop()
  twin:stop()
  baseline:stop()
  return results
end

return compare
