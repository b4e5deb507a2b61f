-- probe: what a script is asked before anybody is served by it: its on_stage, then its selftest. Both are tasks' work and may park.

local C = require "rille.core"
local task = require "rille.task"

local traceback = debug.traceback

local probe = {}

local HOOKS = { "on_stage", "selftest" }

-- Whatever was raised, as text; its __tostring is a script's, and may raise or return anything.
local function text_of(err)
  local ok, text = pcall(tostring, err)
  if ok and type(text) == "string" then return text end
  return ("(error value: %s that cannot be shown)"):format(type(err))
end

-- Whether it is what parked calls of this task have to raise now: a script may raise rille.timeout by itself.
local function is_signal(err)
  local fiber = task.current()
  return fiber and fiber.doom and rawequal(err, fiber.doom)
end

-- The traceback at an error of a hook, as far as the hook.
local function trace_of(err)
  local trace = traceback(text_of(err), 3)
  return (trace:gsub("\n\t%[C%]: in function 'xpcall'\n\t[^\n]*probe%.lua:.*$", ""))
end

-- Call the hook. True and what it returned, or false and the text of an error. The signals of its task pass through, and leave in
-- fault.trace where it was parked.
local function call(hook, fault)
  local ok, value, message = xpcall(hook, function(err)
    fault.signal = is_signal(err) and err
    local trace = trace_of(err)
    return trace
  end)
  if ok then return true, value, message end
  if fault.signal then
    fault.trace = value
    error(fault.signal, 0)
  end
  return false, value
end

-- True, or nil and why it does not pass.
local function run_one(hooks, name, deadline)
  local hook = hooks[name]
  if not hook then return true end
  local fault = {}
  local ok, value, message
  if deadline then
    ok, value, message = task.with_timeout(math.max(0, deadline - C.rille_now()), call, hook, fault)
  else
    ok, value, message = call(hook, fault)
  end
  if ok == nil then
    return nil, ("%s did not return in time: %s"):format(name, fault.trace or "timeout")
  elseif not ok then
    return nil, ("%s failed: %s"):format(name, value)
  elseif value == nil and message ~= nil then
    return nil, ("%s failed: %s"):format(name, text_of(message))
  elseif value == false then
    return nil, message ~= nil and ("%s failed: %s"):format(name, text_of(message)) or name .. " returned false"
  end
  return true
end

-- In a task: run on_stage() and then selftest() of a script's table of hooks, where there are such. seconds: for both together; nil: for
-- ever. True; or nil, message when one raises (with the traceback), returns false or nil and a message, or does not return in time. That
-- the task itself is cancelled, or the time of its caller is over, is raised.
function probe.run(hooks, seconds)
  local deadline = seconds and C.rille_now() + seconds
  for _, name in ipairs(HOOKS) do
    local ok, message = run_one(hooks, name, deadline)
    if not ok then return nil, message end
  end
  return true
end

return probe
