-- luajit bench/run.lua, from the root of the repository: runs everything and prints one report. See bench/README.md.
package.path = "./?.lua;" .. package.path
jit.off() -- a Ctrl-C reaches the interpreter at once; nothing here is hot

local connects = require "bench.connects"
local devices = require "bench.devices"
local dict = require "bench.dict"
local dns = require "bench.dns"
local echo = require "bench.echo"
local fanout = require "bench.fanout"
local http = require "bench.http"
local idle = require "bench.idle"
local json = require "bench.json"
local loops = require "bench.loops"
local posix = require "bench.posix"
local proc = require "bench.proc"
local redis = require "bench.redis"
local reload = require "bench.reload"
local report = require "bench.report"
local rpc = require "bench.rpc"
local tail = require "bench.tail"
local tls = require "bench.tls"
local udp = require "bench.udp"
local usage = require "bench.usage"

-- In the order they run. Those that compare a server with the baseline take another one by --server.
local PARTS = {
  "echo",
  "http",
  "rpc",
  "fanout",
  "udp",
  "connects",
  "loops",
  "idle",
  "dict",
  "tail",
  "reload",
  "devices",
}
local WITH_PEERS = { "dns", "tls", "redis" } -- left out unless they are named: they need other servers
local OF_OTHERS = { echo = true, http = true, idle = true, dict = true }
local PROGRAMS = {
  "client",
  "connects_client",
  "echo",
  "fanout",
  "fanout_client",
  "http",
  "http_client",
  "reload_client",
  "rpc_client",
  "table.so",
  "tail_client",
  "tls_client",
  "udp",
}
local CASES = {} -- the same list that --only http stands for
for i, case in ipairs(http.CASES) do
  CASES[i] = case.name
  OF_OTHERS[case.name] = true
end

local USAGE = ([[
usage: luajit bench/run.lua [--json] [--only PARTS] [--pairs N] [--quick] [--server CMD] [--build DIR]
  --json        one JSON document on stdout instead of the report
  --only PARTS  of %s,
                or cases of http: %s; several with commas between. Also %s, left out otherwise
  --pairs N     pairs of windows for each size or case (15)
  --quick       3 pairs of 0.3 s windows: is it alive, not how fast is it
  --server CMD  measure this command instead of Rille; {port} stands for the port on 127.0.0.1. It echoes, and idles; what else there
                is is left out, unless --only names http: then {answer} stands for hello or json, which it has to serve
  --build DIR   where the programs in C are (build/bench)
]]):format(table.concat(PARTS, ", "), table.concat(CASES, ", "), table.concat(WITH_PEERS, ", "))

local function fail(text, status)
  io.stderr:write(text)
  os.exit(status)
end

-- The parts in a list with commas, as keys; "http" becomes its cases.
local function parts_of(list)
  local parts, known = {}, {}
  for _, names in ipairs { PARTS, WITH_PEERS, CASES } do
    for _, name in ipairs(names) do known[name] = true end
  end
  for name in (list .. ","):gmatch("([^,]*),") do
    if not known[name] then fail(("--only: no part named %q\n%s"):format(name, USAGE), 1) end
    parts[name] = true
  end
  if parts.http then
    for _, name in ipairs(CASES) do parts[name] = true end
  end
  return parts
end

local function parse(args)
  local options = { build = "build/bench", name = "rille" }
  local i = 1
  local function value()
    i = i + 1
    return args[i] or fail(args[i - 1] .. " needs a value\n" .. USAGE, 2)
  end
  while i <= #args do
    local name = args[i]
    if name == "--json" then
      options.json = true
    elseif name == "--quick" then
      options.quick = true
    elseif name == "--only" then
      options.parts = parts_of(value())
    elseif name == "--pairs" then
      local pairs_wanted = tonumber(value())
      if not pairs_wanted or pairs_wanted < 1 or pairs_wanted > 1000 or pairs_wanted % 1 ~= 0 then
        fail("--pairs takes a whole number from 1 to 1000\n", 1)
      end
      options.pairs = pairs_wanted
    elseif name == "--server" then
      options.command, options.name = value(), "server"
    elseif name == "--build" then
      options.build = value()
    elseif name == "--help" then
      io.write(USAGE)
      os.exit(0)
    else
      fail("unknown option " .. name .. "\n" .. USAGE, 2)
    end
    i = i + 1
  end
  options.parts = options.parts or parts_of(options.command and "echo,idle" or table.concat(PARTS, ","))
  for part in pairs(options.command and options.parts or {}) do
    if not OF_OTHERS[part] then fail(("--server: %s measures Rille alone\n"):format(part), 1) end
  end
  return options
end

local function settings_of(options)
  local cores = posix.cores()
  local quick = options.quick
  return {
    build = options.build,
    pairs = options.pairs or (quick and 3 or 15),
    seconds = quick and 0.3 or 1,
    warmup = quick and 0.03 or 0.1, -- of each window, with its fresh connections
    first_warmup = quick and 0.2 or 1, -- of each server with each load
    trace_seconds = quick and 0.2 or 0.5,
    connections = 64,
    cores = cores,
    server_core = cores[1],
    client_core = cores[2] or cores[1],
  }
end

local function progress(format, ...)
  io.stderr:write((format .. "\n"):format(...))
end

local function measure_idle(options, settings)
  progress("idle connections")
  return {
    baseline = idle.measure(settings, "baseline", echo.baseline(settings)),
    server = idle.measure(settings, options.name, options.command or echo.RILLE),
  }
end

local function measure(options, settings)
  local name, command, parts = options.name, options.command, options.parts
  local has_http = false
  for _, case in ipairs(CASES) do has_http = has_http or parts[case] end
  return {
    version = 1, machine = usage.machine(), settings = settings,
    server = { name = name, command = command or json.null },
    echo = parts.echo and echo.measure(settings, name, command, progress) or nil,
    http = has_http and http.measure(settings, name, command, parts, progress) or nil,
    rpc = parts.rpc and rpc.measure(settings, name, progress) or nil,
    fanout = parts.fanout and fanout.measure(settings, name, progress) or nil,
    udp = parts.udp and udp.measure(settings, name, progress) or nil,
    connects = parts.connects and connects.measure(settings, name, progress) or nil,
    loops = parts.loops and loops.measure(settings, progress) or nil,
    idle = parts.idle and measure_idle(options, settings) or nil,
    dict = parts.dict and dict.measure(settings, progress) or nil,
    tail = parts.tail and tail.measure(settings, progress) or nil,
    reload = parts.reload and reload.measure(settings, progress) or nil,
    dns = parts.dns and dns.measure(settings, progress) or nil,
    tls = parts.tls and tls.measure(settings, name, progress) or nil,
    redis = parts.redis and redis.measure(settings, progress) or nil,
    devices = parts.devices and devices.measure(settings, progress) or nil,
  }
end

local options = parse(arg)
local settings = settings_of(options)
for _, name in ipairs(PROGRAMS) do
  local file = io.open(settings.build .. "/" .. name)
  if not file then fail(settings.build .. "/" .. name .. " is missing: `make bench` builds it\n", 1) end
  file:close()
end
if settings.server_core == settings.client_core then
  progress("only one core: the server and the load share it, and latencies mean little")
end
posix.C.signal(posix.SIGPIPE, require("ffi").cast("void *", 1)) -- ignored: a dead client is seen when it is read
posix.pin(settings.client_core)

-- Errors that say what went wrong outside come without a position (level 0): a traceback would bury them.
local function explain(err)
  if err:find("interrupted!", 1, true) then return "interrupted" end
  return err:find("^[%w_./]+:%d+: ") and debug.traceback(err, 2) or err
end

local all_before, stolen_before = usage.processors()
local ok, result = xpcall(measure, explain, options, settings)
local all, stolen = usage.processors()
proc.stop_all()
if not ok then fail(result .. "\n", result == "interrupted" and 130 or 1) end
result.stolen = (stolen - stolen_before) / math.max(1, all - all_before)
io.write(options.json and json.encode(result) .. "\n" or report.text(result))
