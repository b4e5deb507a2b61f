-- The load generators (bench/client.c, bench/http_client.c) around a server: one run, with what the server used in it.
-- A job says which: { program = name, arguments = list }.
local posix = require "bench.posix"
local proc = require "bench.proc"
local usage = require "bench.usage"

local load = {}

local CONNECT_MAX_S = 30
local SETTLE_S = 0.003 -- the server goes back to sleep after the last echo; a running thread's time is not yet booked

local function client(settings, job, arguments)
  local argv = { settings.build .. "/" .. job.program }
  for _, argument in ipairs(job.arguments) do argv[#argv + 1] = tostring(argument) end
  for _, argument in ipairs(arguments) do argv[#argv + 1] = tostring(argument) end
  local child = proc.start(argv, { core = settings.client_core, talk = true })
  if child:read_line(CONNECT_MAX_S) ~= "ready" then error(child:complaint("the load cannot start"), 0) end
  return child
end

-- N connections that never send. Returns the process that holds them until it is stopped.
function load.hold_idle(settings, target, count)
  return client(settings, { program = "client", arguments = { "--idle", count } }, { "--port", target.port })
end

local function finish(child)
  child:close_stdin()
  child:wait(5)
  child:stop()
end

-- Connects, warms up, then calls around(go, client_pid), whose two results it returns: go() runs the load for
-- `seconds` and returns the client's numbers.
function load.with_client(settings, target, job, seconds, around)
  local child = client(settings, job, {
    "--port", target.port, "--connections", settings.connections,
    "--seconds", seconds, "--warmup", settings.warmup, "--gate",
  })
  local function go()
    child:send("go\n")
    local line = child:read_line(seconds + 15)
    if not line then
      error(child:complaint("the load failed against " .. target.name) .. target.proc:read_log():sub(-2000), 0)
    end
    local numbers = {}
    for key, value in line:gmatch('"([%w_]+)":([%d.]+)') do numbers[key] = tonumber(value) end
    return numbers
  end
  local result, why = around(go, child.pid)
  finish(child)
  return result, why
end

-- One window: the client's numbers plus cpu_us (a message), user_us, system_us (in all), busy, waited, client_waited
-- (shares of the window), and where the server has a state line lua_allocated and server_messages.
function load.window(settings, target, job, seconds)
  return load.with_client(settings, target, job, seconds, function(go, client_pid)
    local state = target:state()
    posix.sleep(SETTLE_S)
    local user, system = usage.user_system(target.pid)
    local threads, client_threads = usage.threads(target.pid), usage.threads(client_pid)
    local window = go()
    posix.sleep(SETTLE_S)
    local cpu_ns, waited_ns = usage.threads_delta(threads, usage.threads(target.pid))
    local _, client_waited_ns = usage.threads_delta(client_threads, usage.threads(client_pid))
    local user_after, system_after = usage.user_system(target.pid)
    local state_after = target:state()
    window.user_us, window.system_us = user_after - user, system_after - system
    window.cpu_us = cpu_ns / 1000 / window.messages
    window.busy = cpu_ns / 1e9 / window.seconds
    window.waited = waited_ns / 1e9 / window.seconds
    window.client_waited = client_waited_ns / 1e9 / window.seconds
    if state and state_after then
      window.lua_allocated = state_after.lua_allocated and state_after.lua_allocated - state.lua_allocated
      window.server_messages = state_after.messages and state_after.messages - state.messages
    end
    return window
  end)
end

return load
