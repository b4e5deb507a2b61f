-- DNS: scripts/dns_cache.lua beside dnsmasq, both with all the answers in their caches; dnsperf asks. What counts is how many answers a
-- server gives for a second of its processor time.
local posix = require "bench.posix"
local proc = require "bench.proc"
local server = require "bench.server"
local stats = require "bench.stats"
local usage = require "bench.usage"

local dns = { NAMES = 1000 }

local DNSMASQ = "env PATH=$PATH:/usr/sbin dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --pid-file --user= "
  .. "--port={port} --listen-address=127.0.0.1 --bind-interfaces "
local ORIGIN = DNSMASQ .. "--address=/bench.test/192.0.2.1 --local-ttl=86400"
local CACHE = DNSMASQ .. "--server=127.0.0.1#%d --cache-size=10000 --dns-forward-max=1000"
local RILLE = "bin/rille run scripts/dns_cache.lua --loops 1 --listen udp://127.0.0.1:{port} -- upstreams=127.0.0.1:%d"

-- The questions, one a line.
local function questions()
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  for i = 1, dns.NAMES do file:write(("host-%d.bench.test A\n"):format(i)) end
  file:close()
  return path
end

-- How many questions were answered.
local function ask(settings, target, file, ...)
  local child = proc.start({ "dnsperf", "-s", "127.0.0.1", "-p", tostring(target.port), "-d", file, ... }, { core = settings.client_core })
  local has_ended = child:wait(settings.seconds + 30)
  local log = child:read_log(0)
  local answered = tonumber(log:match("Queries completed:%s+(%d+)"))
  if not has_ended or not answered or answered == 0 then error(child:complaint("dnsperf failed"), 0) end
  if not log:find("NOERROR %d+ %(100%.00%%%)") then error(child:complaint("not every answer is good"), 0) end
  child:stop()
  return answered
end

local function window(settings, target, file)
  local before, state = usage.threads(target.pid), target:state()
  local seconds = math.max(1, math.ceil(settings.seconds))
  local answers = ask(settings, target, file, "-l", tostring(seconds), "-c", "4", "-q", "200")
  local ran, waited = usage.threads_delta(before, usage.threads(target.pid))
  local after = target:state()
  return {
    cpu_us = ran / 1000 / answers, rate = answers / seconds, waited = waited / 1e9 / seconds,
    lua_bytes = state and (after.lua_allocated - state.lua_allocated) / answers or 0,
  }
end

local function summary(windows)
  local out = {}
  for _, name in ipairs { "cpu_us", "rate", "waited", "lua_bytes" } do out[name] = stats.median(stats.column(windows, name)) end
  out.answers_per_cpu_second = 1e6 / out.cpu_us
  return out
end

function dns.measure(settings, progress)
  progress("dns: %d pairs of %g s", settings.pairs, math.max(1, settings.seconds))
  local core, file = settings.server_core, questions()
  local origin = server.start("origin", ORIGIN, settings.client_core, posix.is_receiving)
  local dnsmasq = server.start("dnsmasq", CACHE:format(origin.port), core, posix.is_receiving)
  local tested = server.start("rille", RILLE:format(origin.port), core, posix.is_receiving)
  local windows = { [dnsmasq] = {}, [tested] = {} }
  for target in pairs(windows) do
    ask(settings, target, file, "-n", "1", "-q", "20") -- fills the cache
    ask(settings, target, file, "-l", "1", "-q", "200") -- compiles traces
  end
  for pair = 1, settings.pairs do -- ABBA
    for _, target in ipairs(pair % 2 == 1 and { dnsmasq, tested } or { tested, dnsmasq }) do
      local into = windows[target]
      into[#into + 1] = window(settings, target, file)
    end
  end
  local ratios = {}
  for i, one in ipairs(windows[tested]) do ratios[i] = windows[dnsmasq][i].cpu_us / one.cpu_us end
  for _, one in ipairs { tested, dnsmasq, origin } do one:stop() end
  os.remove(file)
  return {
    pairs = settings.pairs, names = dns.NAMES, dnsmasq = summary(windows[dnsmasq]), server = summary(windows[tested]),
    ratio = stats.quartiles(ratios),
  }
end

return dns
