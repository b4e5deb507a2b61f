-- The tail: 2,000 requests a second on one loop, and what 1 % of them that need 10 ms of computing, on a pool, cost the others.
local proc = require "bench.proc"
local server = require "bench.server"
local stats = require "bench.stats"

local tail = {}

local RATE = 2000
local SECONDS = 2 -- of a window: 4,000 requests, 40 beyond the 99th percentile
local FIELDS = { "server_p50_us", "server_p99_us", "server_p999_us", "p50_us", "p99_us" }

local function numbers_of(child, kind)
  child:send(kind .. "\n")
  local line = child:read_line(SECONDS + 45)
  if not line then error(child:complaint("the load failed"), 0) end
  local numbers = {}
  for key, value in line:gmatch('"([%w_]+)":([%d.]+)') do numbers[key] = tonumber(value) end
  return numbers
end

local function medians(windows)
  local out = {}
  for _, name in ipairs(FIELDS) do out[name] = stats.median(stats.column(windows, name)) end
  return out
end

local function ratio(plain, mixed, name)
  local ratios = {}
  for i, one in ipairs(plain) do ratios[i] = mixed[i][name] / one[name] end
  return stats.quartiles(ratios)
end

-- Workers may run on every core, the loop and the load have one each at first: nobody is pinned but the load.
function tail.measure(settings, progress)
  progress("tail: %d pairs of %g s", settings.pairs, SECONDS)
  local cores = table.concat(settings.cores, ",")
  local tested = server.start("rille", ("taskset -c %s bin/rille run bench/tail_server.lua --listen tcp://127.0.0.1:{port}")
    :format(cores))
  local child = proc.start({ settings.build .. "/tail_client", "--port", tostring(tested.port), "--connections", "64",
    "--seconds", tostring(SECONDS), "--rate", tostring(RATE) }, { core = settings.client_core, talk = true })
  if child:read_line(10) ~= "ready" then error(child:complaint("the load cannot start"), 0) end
  local plain, mixed = {}, {}
  numbers_of(child, "m") -- compiles traces, starts workers
  for pair = 1, settings.pairs do -- ABBA
    for _, kind in ipairs(pair % 2 == 1 and { "p", "m" } or { "m", "p" }) do
      local into = kind == "p" and plain or mixed
      into[#into + 1] = numbers_of(child, kind)
    end
  end
  child:close_stdin()
  child:wait(5)
  child:stop()
  tested:stop()
  return {
    pairs = settings.pairs, plain = medians(plain), mixed = medians(mixed),
    server_ratio = ratio(plain, mixed, "server_p99_us"), client_ratio = ratio(plain, mixed, "p99_us"),
  }
end

tail.RATE, tail.SECONDS = RATE, SECONDS

return tail
