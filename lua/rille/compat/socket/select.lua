-- select: one task that waits for several sockets of rille.compat.socket. Each of them has _look(is_to_send): true when it is ready; false,
-- and the running task is woken when it may be; nil when another task waits for it; and _leave(fiber, is_to_send), which takes that back.

local C = require "rille.core"
local misuse = require "rille.misuse"
local task = require "rille.task"
local timeouts = require "rille.compat.socket.timeouts"
local timer = require "rille.timer"

local function check(list, number)
  if list ~= nil and type(list) ~= "table" then
    misuse("bad argument #%d to 'select' (a table of sockets, or nil, expected, got %s)", number, type(list))
  end
  for i, sock in ipairs(list or {}) do
    if type(sock) ~= "table" or not sock._look then
      misuse("bad argument #%d to 'select' (number %d is no socket of rille.compat.socket)", number, i)
    end
  end
  return list or {}
end

local function leave(arg)
  for sock in pairs(arg.receiving) do sock:_leave(arg.fiber, false) end
  for sock in pairs(arg.sending) do sock:_leave(arg.fiber, true) end
  arg.receiving, arg.sending = {}, {}
end

-- Those that are ready, by place and by themselves as well; the others are watched. Or nil: another task waits for one of them.
local function gather(list, watched, is_to_send)
  local ready = {}
  for _, sock in ipairs(list) do
    local is_ready = ready[sock] or not watched[sock] and sock:_look(is_to_send)
    if is_ready == nil then return nil end
    if not is_ready then
      watched[sock] = true
    elseif not ready[sock] then
      ready[#ready + 1] = sock
      ready[sock] = #ready
    end
  end
  return ready
end

-- socket.select(receiving, sending[, timeout]): lists of those that can be received from, and sent to; "timeout" behind them when there
-- are none.
return function(receiving, sending, timeout)
  timeouts.need_task("select")
  receiving, sending = check(receiving, 1), check(sending, 2)
  timeout = tonumber(timeout)
  if timeout and not (timeout >= 0 and timeout < math.huge) then timeout = nil end
  local arg = { fiber = task.current(), receiving = {}, sending = {} }
  local deadline, is_late = timeout and C.rille_now() + timeout, false
  while true do
    local readable, writable = gather(receiving, arg.receiving, false), gather(sending, arg.sending, true)
    if not readable or not writable then
      leave(arg)
      misuse("select: another task waits for one of these sockets")
    end
    if is_late or #readable > 0 or #writable > 0 then
      leave(arg)
      if #readable > 0 or #writable > 0 then return readable, writable end
      return readable, writable, "timeout"
    end
    local _, late = timer.park(deadline and math.max(0, deadline - C.rille_now()), leave, arg)
    is_late = late ~= nil
    leave(arg)
  end
end
