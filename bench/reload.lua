-- Reloads under load: what they cost the requests meanwhile, and how soon the new code answers; beside `nginx -s reload`, if nginx is
-- there. Then a script of 100 modules: the longest turn of a loop with reloads and without.
local posix = require "bench.posix"
local proc = require "bench.proc"
local servers = require "bench.reload_servers"
local stats = require "bench.stats"

local reload = { RATE = 2000, CONNECTIONS = 200, EVERY_S = 2, LOOPS = servers.LOOPS, MODULES = servers.MODULES }

local WINDOWS_MAX, SECONDS = 6, 10 -- a minute of each kind

local function temporary_folder()
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkdir " .. path) == 0)
  return path
end

-- A server and its load. run.version is that of the code.
local function begin(kind, settings, seconds)
  local folder = temporary_folder()
  local it = kind.start(folder)
  local load = proc.start({ settings.build .. "/reload_client", "--port", tostring(it.port), "--connections",
    tostring(reload.CONNECTIONS), "--seconds", tostring(seconds), "--rate", tostring(reload.RATE) },
    { core = settings.client_core, talk = true })
  if load:read_line(10) ~= "ready" then error(load:complaint("the load cannot start"), 0) end
  return { kind = kind, folder = folder, server = it, load = load, version = 1, seconds = seconds }
end

local function finish(run)
  run.load:close_stdin()
  run.load:wait(5)
  run.load:stop()
  run.server:stop()
  os.execute("rm -r " .. run.folder)
end

-- Numbers of the load's line, and by version when it answered first and last.
local function read_answer(run)
  local line = run.load:read_line(run.seconds + 30)
  if not line then error(run.load:complaint("the load failed"), 0) end
  local numbers, versions = {}, {}
  for key, value in line:gmatch('"([%w_]+)":([%d.]+)') do numbers[key] = tonumber(value) end
  for version, first, last in line:gmatch("%[(%d+),([%d.]+),([%d.]+)%]") do
    versions[tonumber(version)] = { first = tonumber(first), last = tonumber(last) }
  end
  return numbers, versions
end

-- Wait until then, noting the most memory that was taken.
local function watch(run, numbers, time)
  repeat
    numbers.memory = math.max(numbers.memory, servers.memory(run.server.pid))
    posix.sleep(math.max(0, math.min(0.25, time - posix.now())))
  until posix.now() >= time
end

-- A window, in which the code changes every two seconds if that is wanted.
local function window(run, is_reloading)
  local asked, meanwhile = {}, { memory = 0 }
  local start = posix.now()
  run.load:send("\n")
  local time = start + 1
  while time < start + run.seconds - 0.9 do
    watch(run, meanwhile, time)
    if is_reloading then
      run.version = run.version + 1
      asked[run.version] = posix.now()
      run.kind.change(run.folder, run.version, run.server)
    end
    time = time + reload.EVERY_S
  end
  watch(run, meanwhile, start + run.seconds)
  local numbers, versions = read_answer(run)
  numbers.memory, numbers.reloads, numbers.first_s, numbers.last_s = meanwhile.memory, 0, {}, {}
  for version, at in pairs(asked) do
    local new, old = versions[version], versions[version - 1]
    if not new then error(("%s: version %d never answered"):format(run.kind.name, version), 0) end
    numbers.reloads = numbers.reloads + 1
    table.insert(numbers.first_s, new.first - at)
    table.insert(numbers.last_s, old and math.max(0, old.last - at) or 0)
  end
  return numbers
end

local function joined(windows, name)
  local all = {}
  for _, one in ipairs(windows) do
    for _, value in ipairs(one[name]) do all[#all + 1] = value end
  end
  return all
end

local function sum(windows, name) return stats.sum(stats.column(windows, name)) end
local function most(values) return math.max(unpack(values)) end

local function summary(steady, reloading)
  local ratios = {}
  for i, one in ipairs(steady) do ratios[i] = reloading[i].p99_us / one.p99_us end
  return {
    reloads = sum(reloading, "reloads"), answers = sum(reloading, "answers"), failed = sum(reloading, "failed"),
    closed = sum(reloading, "closed"), steady_failed = sum(steady, "failed") + sum(steady, "closed"),
    p99_us = { steady = stats.median(stats.column(steady, "p99_us")), reloading = stats.median(stats.column(reloading, "p99_us")) },
    p99_ratio = stats.quartiles(ratios),
    first_s = { median = stats.median(joined(reloading, "first_s")), most = most(joined(reloading, "first_s")) },
    last_s = { median = stats.median(joined(reloading, "last_s")), most = most(joined(reloading, "last_s")) },
    memory = { steady = most(stats.column(steady, "memory")), reloading = most(stats.column(reloading, "memory")) },
  }
end

-- The kinds take turns, ABBA.
local function compare(kinds, settings, count, seconds)
  local runs, results = {}, {}
  for i, kind in ipairs(kinds) do
    runs[i] = { it = begin(kind, settings, seconds), steady = {}, reloading = {} }
    window(runs[i].it, false) -- compiles traces
  end
  for pair = 1, count do
    for _, is_reloading in ipairs(pair % 2 == 1 and { false, true } or { true, false }) do
      for i = 1, #runs do
        local run = runs[pair % 2 == 1 and i or #runs + 1 - i]
        local into = is_reloading and run.reloading or run.steady
        into[#into + 1] = window(run.it, is_reloading)
      end
    end
  end
  for i, run in ipairs(runs) do
    finish(run.it)
    results[i] = summary(run.steady, run.reloading)
    results[i].name = kinds[i].name
  end
  return results
end

-- Two servers after each other, so that the longest turn of each is its own.
local function modules(settings, count, seconds)
  local function all_windows(is_reloading)
    local run, windows = begin(servers.many, settings, seconds), {}
    window(run, false)
    for i = 1, count do windows[i] = window(run, is_reloading) end
    local longest, work = servers.many.longest_turn(run.folder)
    finish(run)
    return windows, longest, work
  end
  local steady, steady_ms, steady_work_ms = all_windows(false)
  local reloading, reloading_ms, reloading_work_ms = all_windows(true)
  local result = summary(steady, reloading)
  result.longest_turn_ms = { steady = steady_ms, reloading = reloading_ms }
  result.longest_work_ms = { steady = steady_work_ms, reloading = reloading_work_ms } -- without waits for a processor
  return result
end

function reload.measure(settings, progress)
  local seconds, count = settings.pairs < 4 and 3 or SECONDS, math.min(settings.pairs, WINDOWS_MAX)
  local kinds = { servers.rille, servers.nginx.is_there() and servers.nginx or nil }
  progress("reload: %d pairs of %g s%s", count, seconds, kinds[2] and "" or "; no nginx to compare with")
  local result = { pairs = count, seconds = seconds, servers = compare(kinds, settings, count, seconds) }
  progress("reload: a script of %d modules", servers.MODULES)
  result.modules = modules(settings, math.ceil(count / 2), seconds)
  return result
end

return reload
