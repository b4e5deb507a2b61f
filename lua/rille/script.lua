-- script: a handler script from its file to its hooks, and what becomes of the errors its functions raise: a log record
-- with file, line and traceback, and the end of the one connection they were raised for.

local C = require "rille.core"
local chunk = require "rille.chunk"
local log = require "rille.log"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local script = {}

local HOOKS = {
  on_prepare = C.RILLE_HOOK_PREPARE,
  on_connect = C.RILLE_HOOK_CONNECT,
  on_request = C.RILLE_HOOK_REQUEST,
  on_idle = C.RILLE_HOOK_IDLE,
  on_disconnect = C.RILLE_HOOK_DISCONNECT,
  on_close = C.RILLE_HOOK_CLOSE,
  on_move = C.RILLE_HOOK_MOVE,
}
-- Every other key that is a function is one for listen() or conn:on_request() by name; these have a meaning of their own.
local OTHER = {
  on_start = true, on_tunnel = true, on_balance = true, on_certificate = true,
  on_stage = true, selftest = true, on_migrate = true, on_reload = true,
  on_retire = true,
}

-- ---- loading ---------------------------------------------------------------------------------------------------

-- The file of a script given as a path or as a module name. nil, message when there is none.
function script.find(name)
  if chunk.is_kept(name) then return name end -- whatever became of it since
  local file = io.open(name, "r")
  if file then
    local is_directory = not file:read(0) and file:seek("end") ~= 0
    file:close()
    if is_directory then return nil, ("%s is a directory; name the script in it"):format(name) end
    return name
  end
  if name:find("/", 1, true) or name:find("%.lua$") then
    return nil, ("cannot open script %s: no such file"):format(name)
  end
  local path = package.searchpath(name, package.path)
  if path then return path end
  return nil, ("cannot find script %s: no such file, and no module of that name on package.path"):format(name)
end

-- What a script returned, as a table of hooks. nil, message when it is not a script.
function script.hooks_of(value, name)
  if type(value) == "function" then return { on_request = value } end
  if type(value) ~= "table" then
    return nil, ("script %s returned %s: it has to return a function (its on_request) or a table with one"):format(
      name, value == nil and "nothing" or ("a " .. type(value)))
  end
  if value.on_request == nil then
    return nil, ("script %s returned a table without on_request: add the function that handles input"):format(name)
  end
  for key in pairs(HOOKS) do
    local hook = value[key]
    if hook ~= nil and type(hook) ~= "function" then
      return nil, ("script %s: %s is a %s, it has to be a function"):format(name, key, type(hook))
    end
  end
  for key in pairs(OTHER) do
    local hook = value[key]
    if hook ~= nil and type(hook) ~= "function" then
      return nil, ("script %s: %s is a %s, it has to be a function"):format(name, key, type(hook))
    end
  end
  return value
end

-- Load and run a script file with its options. Its hooks and what it returned, or nil and a message: one line for a file that cannot
-- be read or parsed, a traceback for one that raised.
function script.load(path, options)
  local main, err = chunk.load(path)
  if not main then return nil, ("cannot load script %s"):format(err) end
  local ok, value = xpcall(main, debug.traceback, options or {})
  if not ok then return nil, ("script %s failed: %s"):format(path, tostring(value)) end
  local hooks, message = script.hooks_of(value, path)
  if not hooks then return nil, message end
  return hooks, value
end

-- The bits of enum rille_hook for a table of hooks.
function script.hook_bits(hooks)
  local bits = 0
  for key, bit in pairs(HOOKS) do
    if hooks[key] then bits = bits + bit end
  end
  return bits
end

-- ---- errors ----------------------------------------------------------------------------------------------------

-- A cancelled task that ends by that is no failure.
local function is_signal(err)
  return rawequal(err, task.cancelled)
end

local cleanups = setmetatable({}, { __mode = "k" }) -- by the function a fiber ran: what to do for its argument, and the hook's name

-- After fn(arg) raised in a fiber, cleanup(arg, err, traceback) puts the rest in order; what names the hook in the log.
function script.on_error(fn, what, cleanup)
  cleanups[fn] = { what = what, cleanup = cleanup }
end

function script.report(what, conn, trace)
  if state.handle then
    C.rille_state_count_error(state.handle)
    C.rille_state_note_fault(state.handle, trace, #trace)
  end
  local site = trace:match("^[^\n]-:%d+:") or what -- each place that raises has a rate of its own
  if type(conn) == "table" and conn.id then
    log.record("error", site, conn.id, "%s: %s of conn %d failed: %s", state.label, what, conn.id, trace)
  else
    log.record("error", site, nil, "%s: %s failed: %s", state.label, what, trace)
  end
end

-- A call of the library in tail position leaves no trace of the function it stands in: then the handler itself is named.
local function with_handler(trace, conn)
  local handler = type(conn) == "table" and rawget(conn, "_on_request")
  if type(handler) ~= "function" then return trace end
  local info = debug.getinfo(handler, "S")
  if trace:find(info.short_src, 1, true) then return trace end
  return ("%s\n\t%s:%d: in a tail call of on_request"):format(trace, info.short_src, info.linedefined)
end

task.on_failure = function(fiber, err, trace)
  local known = cleanups[fiber.fn]
  local arg = fiber.a
  trace = with_handler(trace, arg)
  if not is_signal(err) then script.report(known and known.what or "task", arg, trace) end
  if known then known.cleanup(arg, err, trace) end
end

script.on_error(task.run_spawned, "task", task.spawn_failed)
script.on_error(timer.run, "timer", timer.failed)

return script
