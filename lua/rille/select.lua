-- select: one task that waits for several connections.

local C = require "rille.core"
local conn = require "rille.conn"
local conn_read = require "rille.conn_read"
local misuse = require "rille.misuse"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local PARK, BUSY = C.RILLE_PARK, C.RILLE_ERR_BUSY

-- The same list, but ours: the caller's may be another one when its task goes on.
local function copy(list)
  if type(list) ~= "table" then misuse("bad argument #1 to 'select' (a list of connections expected, got %s)", type(list)) end
  local out = {}
  for i = 1, #list do
    if not conn.is(list[i]) then
      misuse("bad argument #1 to 'select' (number %d is no connection, got %s)", i, type(list[i]))
    end
    out[i] = list[i]
  end
  return out
end

-- Take back what the first `count` of them were told, those that are not over.
local function leave(list, count)
  for i = 1, count do
    local self = list[i]
    if self._p and conn_read.unwatch(self) then C.rille_conn_unwant(self._p, 1) end
  end
end

local function leave_all(arg) leave(arg, #arg) end

-- Whether it has bytes, is over, or is now watched: true, false, or nil, "busy".
local function look(self)
  local p = self._p
  if not p then return true end
  local code = C.rille_conn_want(p, 1)
  if code == C.RILLE_ERR_TIMEOUT then code = C.rille_conn_want(p, 1) end -- the time-out of a read is none of ours
  if code == BUSY then return nil, "busy" end
  if code ~= PARK then return true end
  conn_read.watch(self)
  return false
end

-- Those that are ready; or nil, "busy". All others are watched, but if one is busy none is.
local function gather(list)
  local ready = {}
  for i = 1, #list do
    local is_ready, err = look(list[i])
    if err then
      leave(list, i - 1)
      return nil, err
    end
    if is_ready then ready[#ready + 1] = list[i] end
  end
  return ready
end

-- rille.select(conns[, timeout]): park until at least one has bytes to read or has ended. A list of those, in the order of conns; or
-- nil, err: "timeout", "busy" (another task reads one of them, or it speaks HTTP).
return function(list, timeout)
  state.need_loop("select")
  list = copy(list)
  if timeout ~= nil then timer.seconds(timeout, "select") end
  if not task.current() then misuse("rille.select needs a task: use rille.spawn, a handler, or `rille exec`") end
  if #list == 0 and not timeout then misuse("rille.select: no connections, and no timeout: it would never return") end
  local deadline = timeout and C.rille_now() + timeout
  while true do
    local ready, err = gather(list)
    if not ready then return nil, err end
    local left = deadline and deadline - C.rille_now()
    if #ready > 0 or left and left <= 0 then
      leave_all(list)
      if #ready > 0 then return ready end
      return nil, "timeout"
    end
    local _, late = timer.park(left, leave_all, list)
    if late then return nil, late end
    leave_all(list)
  end
end
