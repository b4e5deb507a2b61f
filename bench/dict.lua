-- rille.dict from two loops of a server at once, beside a Lua table of each loop's own and a hash table in C under one mutex.
local posix = require "bench.posix"
local proc = require "bench.proc"
local stats = require "bench.stats"
local usage = require "bench.usage"

local dict = { STORES = { "dict", "C, mutex", "Lua table" }, CASES = { "get", "set", "incr" } }

local LOOPS = 2
local OTHER_S = 30 -- for starting, and for what is not measured

-- Quartiles of operations a second and loop, and of those a second on a CPU.
local function rates_of(log, store, case)
  local rates, cpu_rates = {}, {}
  for found_store, found_case, rate, cpu_rate in log:gmatch('msg="bench ([^"]-): (%a+) (%d+) (%d+)"') do
    if found_store == store and found_case == case then
      rates[#rates + 1], cpu_rates[#cpu_rates + 1] = tonumber(rate), tonumber(cpu_rate)
    end
  end
  return { rate = stats.quartiles(rates), cpu_rate = stats.quartiles(cpu_rates) }
end

-- loops, cores, windows, waited; stores[store][case] as above
function dict.measure(settings, progress)
  progress("dict")
  local windows = math.min(settings.pairs, 5)
  local cores = settings.cores -- this process is pinned to one of them
  local server = proc.start({ "taskset", "-c", table.concat(cores, ","), "bin/rille", "run", "bench/dict_work.lua", "--listen",
    "tcp://127.0.0.1:0", "--loops", tostring(LOOPS), "--", "seconds=" .. settings.seconds, "windows=" .. windows,
    "table=" .. settings.build .. "/table.so" }, {})
  local seconds = OTHER_S + #dict.STORES * #dict.CASES * (windows + 1) * settings.seconds * 2
  local log
  local before, from = usage.threads(server.pid), posix.now()
  local after, to = before, from
  local is_done = posix.wait_for(seconds, function()
    posix.sleep(0.05)
    log = server:read_log(0)
    if server:is_running() then after, to = usage.threads(server.pid), posix.now() end
    local _, count = log:gsub('msg="bench done"', "")
    return count == LOOPS or not server:is_running() or log:find("level=error", 1, true)
  end)
  if not is_done or not server:is_running() or log:find("level=error", 1, true) then
    error(server:complaint("the dict bench did not end well"), 0)
  end
  server:stop()
  local _, waited = usage.threads_delta(before, after)
  local result = { loops = LOOPS, cores = #cores, windows = windows, waited = waited / 1e9 / (to - from) / LOOPS, stores = {} }
  for _, store in ipairs(dict.STORES) do
    result.stores[store] = {}
    for _, case in ipairs(dict.CASES) do
      result.stores[store][case] = rates_of(log, store, case)
    end
  end
  return result
end

return dict
