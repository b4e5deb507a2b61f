-- lane: the place of one connection, which is made when it is wanted, shared by all who want it, and made again, after a pause that grows,
-- when it was lost.

local connection = require "rille.redis.connection"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local wire = require "rille.redis.wire"

local FIRST_PAUSE, LAST_PAUSE = 0.05, 5

local Lane = {}
Lane.__index = Lane

local M = {}

function M.new(address, options)
  return setmetatable({ address = address, options = options, current = false, waiting = false, pause = 0, again_at = 0,
    err = false, message = false, is_closed = false }, Lane)
end

local function remove(arg)
  for i = 1, #arg.list do
    if arg.list[i] == arg.fiber then return table.remove(arg.list, i) end
  end
end

local function wake_all(self)
  local list = self.waiting
  self.waiting = false
  for i = 1, #list do task.wake(list[i], true) end
end

local function open(self)
  self.waiting = {}
  local ok, conn, err, message = pcall(wire.open, self.address, self.options)
  wake_all(self)
  if not ok then error(conn, 0) end -- the task was cancelled; who waited tries itself
  if not conn then
    self.pause = math.min(LAST_PAUSE, math.max(FIRST_PAUSE, self.pause * 2))
    self.again_at = state.clock.now + self.pause * (0.75 + math.random() / 2)
    self.err, self.message = err, message
    return
  end
  self.pause, self.again_at = 0, 0
  self.current = connection.new(conn, self.options)
  if self.is_closed then timer.after(0, function() self:close() end) end -- those who waited for it say theirs before
end

-- The connection; parks while it is being made. nil, err, message: it cannot be, or could not a moment ago.
function Lane:get()
  while true do
    local current = self.current
    if current and current.is_open then return current end
    if self.waiting then
      local fiber = task.current()
      self.waiting[#self.waiting + 1] = fiber
      task.park(remove, { list = self.waiting, fiber = fiber })
    elseif state.clock.now < self.again_at then
      return nil, self.err, self.message
    else
      open(self)
      if not self.current or not self.current.is_open then
        if self.again_at > 0 then return nil, self.err, self.message end
        return nil, "closed"
      end
    end
  end
end

-- End the connection if nobody waits on it; whoever wants one again gets another.
function Lane:rest()
  if not self.current or self.current.pending > 0 then return end
  self.current:close()
  self.current = false
end

-- For good.
function Lane:close()
  self.is_closed = true
  if self.current then self.current:close() end
  self.current = false
end

return M
