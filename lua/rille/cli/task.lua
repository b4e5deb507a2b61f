-- task: what exec, -e and test share: a piece of Lua as the one task of a loop in this very Lua state.
--
-- The loop ends when it returns. os.exit ends the loop as well, instead of the process under it, so that connections,
-- buffers and states are closed; the task that called it never runs again.

local M = {}

local DRAIN_TIMEOUT = 1 -- second: who presses Ctrl-C waits for it

local exit_now = os.exit
local park = coroutine.yield -- Lua's own: no rille.cancelled reaches what has called os.exit

local function status_of(code)
  if code == nil or code == true then return 0 end
  return code == false and 1 or tonumber(code) or 1
end

-- From here on os.exit ends the loop. Returns what that was called with, as a function: nil while it was not.
local function take_over_exit()
  local C, state, task = require "rille.core", require "rille.state", require "rille.task"
  local status
  os.exit = function(code) -- luacheck: ignore 122
    status = status_of(code)
    io.stdout:flush()
    -- below a C function (table.sort, a finalizer) nothing can park
    if not (state.loop and task.current() and coroutine.isyieldable()) then exit_now(status) end
    C.rille_loop_exit(state.loop, status)
    while true do park(task.PARK) end
  end
  return function() return status end
end

-- The traceback of an error of the user's code, without the frames of this command below it.
local function trace_of(err)
  local lines = {}
  for line in debug.traceback(tostring(err), 2):gmatch("[^\n]+") do
    if line:find("rille/cli/task.lua:", 1, true) then break end
    lines[#lines + 1] = line:gsub("in function <.*:0>$", "in main chunk")
  end
  if lines[#lines]:find("'xpcall'", 1, true) then lines[#lines] = nil end
  return table.concat(lines, "\n")
end

-- Run fn with a list of arguments in a loop of its own. The exit status (that of os.exit; 1 after an error, whose traceback
-- goes to stderr; else 0), or nil, message.
function M.run(label, fn, arguments)
  local config, server, signals = require "rille.config", require "rille.server", require "rille.task"
  local rille = require "rille"
  local is_asked = false -- rille.shutdown was called: a cancelled task is no failure then
  local shutdown = rille.shutdown
  rille.shutdown = function(...)
    is_asked = true
    return shutdown(...)
  end
  local exit_status = take_over_exit()

  local function guarded()
    local function on_error(err)
      if rawequal(err, signals.cancelled) then return err end
      return trace_of(err) -- a tail call: level 2 is what raised
    end
    local ok, result = xpcall(fn, on_error, unpack(arguments))
    if ok then return 0 end
    if rawequal(result, signals.cancelled) then
      if is_asked or exit_status() then return 0 end
      io.stderr:write("rille: stopped before it had ended\n")
      return 1
    end
    io.stderr:write("rille: ", result, "\n")
    return 1
  end

  local conf = config.defaults()
  conf.drain_timeout = DRAIN_TIMEOUT
  local status, message = server.run_task(conf, label, guarded)
  os.exit = exit_now -- luacheck: ignore 122
  rille.shutdown = shutdown
  if exit_status() then return exit_status() end
  return status, message
end

return M
