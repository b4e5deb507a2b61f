-- The proxy of scripts/redis_proxy.lua beside HAProxy in TCP mode: redis-benchmark through each to the same redis-server, and what a
-- request costs the proxy's processor.
local posix = require "bench.posix"
local proc = require "bench.proc"
local server = require "bench.server"
local stats = require "bench.stats"
local usage = require "bench.usage"

local redis = {}

local CLIENTS, DEPTHS = 50, { 1, 16 }
local HAPROXY = [[
global
  nbthread 1
  maxconn 1000
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen redis
  bind "127.0.0.1:${PORT}"
  server one 127.0.0.1:%d
]]

local function has(program)
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local file = io.open(folder .. "/" .. program)
    if file then
      file:close()
      return true
    end
  end
end

-- One run of redis-benchmark: microseconds of the proxy's CPU a request, requests a second.
local function window(settings, proxy, depth, requests)
  local before, started = usage.threads(proxy.pid), posix.now()
  local child = proc.start({ "redis-benchmark", "-p", tostring(proxy.port), "-t", "set,get", "-c", tostring(CLIENTS), "-n",
    tostring(requests), "-P", tostring(depth), "--csv" }, { core = settings.client_core })
  local ended = child:wait(300)
  local seconds, text = posix.now() - started, child:read_log(0)
  if not ended or not child:has_succeeded() or text:find("rror", 1, true) then error(child:complaint("redis-benchmark failed"), 0) end
  child:stop()
  local cpu = usage.threads_delta(before, usage.threads(proxy.pid))
  return { cpu_us = cpu / 1000 / (2 * requests), requests_per_second = 2 * requests / seconds }
end

local function side(windows)
  return {
    cpu_us = stats.median(stats.column(windows, "cpu_us")),
    requests_per_second = stats.median(stats.column(windows, "requests_per_second")),
  }
end

local function measure_depth(settings, proxies, depth)
  local rille, haproxy, ratios = {}, {}, {}
  local requests = math.floor((depth == 1 and 20000 or 100000) * settings.seconds)
  for _, one in ipairs { proxies.rille, proxies.haproxy } do window(settings, one, depth, requests) end -- warm
  for pair = 1, settings.pairs do -- ABBA
    for _, which in ipairs(pair % 2 == 1 and { "rille", "haproxy" } or { "haproxy", "rille" }) do
      local into = which == "rille" and rille or haproxy
      into[#into + 1] = window(settings, proxies[which], depth, requests)
    end
    ratios[pair] = rille[pair].cpu_us / haproxy[pair].cpu_us
  end
  return { depth = depth, requests = requests, pairs = settings.pairs, rille = side(rille), haproxy = side(haproxy),
    ratio = stats.quartiles(ratios) }
end

-- A list, one for each depth of pipelining; nil where a program is missing.
function redis.measure(settings, progress)
  for _, program in ipairs { "redis-server", "redis-benchmark", "haproxy" } do
    if not has(program) then return progress("redis: %s is not installed: left out", program) end
  end
  local real = server.start("redis-server", "redis-server --port {port} --bind 127.0.0.1 --save ''", settings.client_core)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(HAPROXY:format(real.port))
  file:close()
  local proxies = {
    rille = server.start("rille", ("bin/rille run scripts/redis_proxy.lua --listen tcp://127.0.0.1:{port} -- shards=redis://127.0.0.1:%d")
      :format(real.port), settings.server_core),
    haproxy = server.start("haproxy", "env PORT={port} haproxy -db -f " .. path, settings.server_core),
  }
  local results = {}
  for i, depth in ipairs(DEPTHS) do
    progress("redis: %d pairs with %d commands at a time", settings.pairs, depth)
    results[i] = measure_depth(settings, proxies, depth)
  end
  proxies.rille:stop()
  proxies.haproxy:stop()
  real:stop()
  os.remove(path)
  return results
end

redis.CLIENTS = CLIENTS

return redis
