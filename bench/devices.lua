-- Devices: 10,000 connections of scripts/device_gateway.lua over two loops; what an idle one costs, and how long commands take that are
-- sent to devices at random over HTTP at a constant rate.
local posix = require "bench.posix"
local proc = require "bench.proc"
local stats = require "bench.stats"
local usage = require "bench.usage"

local devices = {}

local COUNT, FIRST, RATE, SECONDS, LOOPS = 10000, 1000, 1000, 5, 2
local COMINGS, READY_MAX_S, SETTLE_S = 8, 120, 2
local FIELDS = { "server_p50_us", "server_p99_us", "p50_us", "p99_us" }

local CONF = [[
return { loops = %d, log = { file = %q }, servers = { {
  listen = "tcp://127.0.0.1:%d", script = %q,
  codec = { "length_field", length = 2, max = "4k" }, concurrency = 16, ordered = false, timeouts = { idle = 600, write = 10 },
  options = { backend = "http://127.0.0.1:1", commands = "http://127.0.0.1:0", deadline = 5 },
} } }
]]

local function read(path)
  local file = io.open(path)
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

local function here()
  local p = io.popen "pwd"
  local path = p:read "*l"
  p:close()
  return path
end

-- The gateway, where each loop has an address of its own for commands.
local function start(settings)
  local base, port = os.tmpname(), posix.free_port()
  local log = base .. ".log"
  local conf = assert(io.open(base, "w"))
  conf:write(CONF:format(LOOPS, log, port, here() .. "/bench/devices_server.lua"))
  conf:close()
  local child = proc.start({ "taskset", "-c", table.concat(settings.cores, ","), "bin/rille", "run", "--conf", base }, {})
  local urls = posix.wait_for(10, function()
    local list = {}
    for url in read(log):gmatch 'msg="commands at ([^"]+)"' do list[#list + 1] = url end
    return #list == LOOPS and posix.is_listening(port) and list
  end)
  local complaint = not urls and child:complaint("the gateway does not listen") .. read(log)
  os.remove(base)
  if complaint then error(complaint, 0) end
  return { child = child, pid = child.pid, log = log, url = ("tcp://127.0.0.1:%d"):format(port), commands = table.concat(urls, ",") }
end

-- What Lua uses on all loops: of the lines that SIGQUIT brings.
local function lua_bytes(gateway)
  local from = #read(gateway.log)
  gateway.child:signal(posix.SIGQUIT)
  local total = posix.wait_for(5, function()
    local count, sum = 0, 0
    for bytes in read(gateway.log):sub(from + 1):gmatch " lua_bytes=(%d+)" do count, sum = count + 1, sum + tonumber(bytes) end
    return count == LOOPS and sum
  end)
  return total or error("the gateway does not tell its state", 0)
end

local function ask(load, line, seconds)
  load:send(line .. "\n")
  return load:read_line(seconds) or error(load:complaint("the load failed"), 0)
end

local function numbers_of(load, seconds)
  local numbers = {}
  for key, value in ask(load, seconds, seconds + 60):gmatch('"([%w_]+)":([%d.]+)') do numbers[key] = tonumber(value) end
  return numbers
end

-- Memory of the gateway when so many devices more are there, and idle.
local function with_more(load, gateway, more)
  ask(load, "+" .. more, READY_MAX_S)
  posix.sleep(SETTLE_S)
  return { resident = usage.memory(gateway.pid).anonymous, lua = lua_bytes(gateway) }
end

local function sum(windows, name)
  local total = 0
  for _, one in ipairs(windows) do total = total + one[name] end
  return total
end

function devices.measure(settings, progress)
  progress("devices: %d, %d windows of %g s", COUNT, settings.pairs, SECONDS)
  local gateway = start(settings)
  local load = proc.start({ "bin/rille", "exec", "bench/devices_load.lua", gateway.url, gateway.commands, tostring(RATE) },
    { core = settings.client_core, talk = true })
  for _ = 1, COMINGS do -- fills what is kept of the garbage of arrivals, whatever their number
    ask(load, "+" .. FIRST, READY_MAX_S)
    ask(load, "-", READY_MAX_S)
  end
  ask(load, "+" .. FIRST, READY_MAX_S)
  numbers_of(load, 2) -- compiles traces, opens the connections for commands
  local before = with_more(load, gateway, 0)
  local after = with_more(load, gateway, COUNT - FIRST)
  local windows = {}
  for i = 1, settings.pairs do windows[i] = numbers_of(load, SECONDS) end
  load:close_stdin()
  load:wait(20)
  load:stop()
  gateway.child:stop()
  os.remove(gateway.log)
  local out = {
    devices = COUNT, rate = RATE, windows = settings.pairs, seconds = SECONDS, loops = LOOPS,
    resident_per_device = (after.resident - before.resident) / (COUNT - FIRST),
    lua_per_device = (after.lua - before.lua) / (COUNT - FIRST),
  }
  for _, name in ipairs { "sent", "answered", "failed", "wrong", "received" } do out[name] = sum(windows, name) end
  for _, name in ipairs(FIELDS) do out[name] = stats.quartiles(stats.column(windows, name)) end
  return out
end

return devices
