-- System calls a message, counted in a short window of its own: the other numbers never come from it. perf counts
-- tracepoints and hardly slows the server down. strace stops it twice in each call: counts are true, but a server that
-- slow finds every socket ready at each epoll_wait, so that calls of epoll_wait look rarer than they are.
local json = require "bench.json"
local load = require "bench.load"
local posix = require "bench.posix"
local proc = require "bench.proc"

local syscalls = {}

local ATTACH_MAX_S = 5
local TRACEPOINTS = "/sys/kernel/tracing/events/syscalls"
local NAMES = {
  "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "read", "readv", "recvfrom", "recvmsg", "recvmmsg", "sendmmsg",
  "write", "writev", "sendto", "sendmsg", "futex", "timerfd_settime", "madvise",
}

local perf, strace = { name = "perf" }, { name = "strace" }

function perf.start(pid)
  local events = { "raw_syscalls:sys_enter" }
  local is_visible = posix.list(TRACEPOINTS)
  for _, name in ipairs(NAMES) do -- one that this kernel does not have would fail them all
    if not is_visible or posix.list(TRACEPOINTS .. "/sys_enter_" .. name) then
      events[#events + 1] = "syscalls:sys_enter_" .. name
    end
  end
  local tracer = proc.start({ -- disabled until it is told on stdin; the answer comes on stdout, the counts on stderr
    "perf", "stat", "-x", ",", "-D", "-1", "--control", "fd:0,1", "-e", table.concat(events, ","), "-p", tostring(pid),
  }, { talk = true })
  tracer:send("enable\n")
  local answer = tracer:read_line(ATTACH_MAX_S)
  return tracer, answer ~= nil and answer:find("ack", 1, true) ~= nil
end

-- Lines of count,unit,event,...; the count is <not counted> for 0.
function perf.parse(text)
  local calls, total = {}, nil
  for count, event in text:gmatch("([^,\n]*),[^,\n]*,([%w_:]+),") do
    local name = event:match("^syscalls:sys_enter_([%w_]+)$")
    if name then calls[name] = tonumber(count) end
    if event == "raw_syscalls:sys_enter" then total = tonumber(count) end
  end
  return calls, total
end

function strace.start(pid)
  local tracer = proc.start({ "strace", "-c", "-f", "-p", tostring(pid) }, {})
  local has_attached = posix.wait_for(ATTACH_MAX_S, function()
    return not tracer:is_running() or tracer:read_log():find(" attached", 1, true)
  end)
  return tracer, has_attached and tracer:is_running()
end

-- The table of strace -c: a percentage first, calls fourth, the name last.
function strace.parse(text)
  local calls, total = {}, 0
  for line in text:gmatch("[^\n]+") do
    local count, name = line:match("^%s*[%d.]+%s+[%d.]+%s+%d+%s+(%d+)%s+%d*%s*([%a_][%w_]*)$")
    if name and name ~= "total" then
      calls[name] = tonumber(count)
      total = total + calls[name]
    end
  end
  return calls, total > 0 and total or nil
end

-- Calls a message by name and under "total"; or nil and why not.
local function count_with(tool, settings, target, job)
  return load.with_client(settings, target, job, settings.trace_seconds, function(go)
    local tracer, has_attached = tool.start(target.pid)
    local messages = has_attached and go().messages
    tracer:signal(posix.SIGINT)
    tracer:wait(ATTACH_MAX_S)
    local log = tracer:read_log()
    tracer:stop()
    local calls, total = tool.parse(log)
    if not messages or not total then return nil, tool.name .. ": " .. (log:match("[^\n]+") or "no counts") end
    local per_message = { total = total / messages }
    for name, count in pairs(calls) do
      if count > 0 then per_message[name] = count / messages end
    end
    return per_message
  end)
end

local function is_installed(name)
  for folder in (os.getenv("PATH") or ""):gmatch("[^:]+") do
    local file = io.open(folder .. "/" .. name)
    if file then
      file:close()
      return true
    end
  end
  return false
end

-- { tool, baseline, server, error }: either the first three or the last are known.
function syscalls.compare(settings, job, baseline, tested)
  local reasons = {}
  for _, tool in ipairs { perf, strace } do
    local why = tool.name .. " not installed"
    if is_installed(tool.name) then
      local base, other
      base, why = count_with(tool, settings, baseline, job)
      if base then other, why = count_with(tool, settings, tested, job) end
      if other then return { tool = tool.name, baseline = base, server = other, error = json.null } end
    end
    reasons[#reasons + 1] = why
  end
  return { error = table.concat(reasons, "; "), tool = json.null, baseline = json.null, server = json.null }
end

return syscalls
