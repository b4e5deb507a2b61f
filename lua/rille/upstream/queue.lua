-- queue: callers that wait for a connection, in the order they came. Who is next is woken with a place on a target, and often a connection.

local task = require "rille.task"
local timer = require "rille.timer"

local Queue = {}
Queue.__index = Queue

local function new()
  return setmetatable({ first = 1, last = 0, count = 0 }, Queue)
end

local function forget(waiter)
  if waiter.is_over then return end
  local queue = waiter.queue
  waiter.is_over = true
  queue[waiter.at] = nil -- or what it is given would not be collected when its task loses it
  queue.count = queue.count - 1
end

-- Park until somebody gives the caller something: what was given, a target and maybe a connection; or nil, err.
function Queue:wait(seconds, key, tried)
  local at = self.last + 1
  local waiter = {
    queue = self, at = at, fiber = task.current(), key = key, tried = tried, is_over = false, target = nil, conn = nil, err = nil,
  }
  self.last, self[at] = at, waiter
  self.count = self.count + 1
  local _, err = timer.park(seconds > 0 and seconds or nil, forget, waiter)
  if err then return nil, nil, err end
  return waiter.target, waiter.conn, waiter.err
end

-- The next one in the queue; nil.
function Queue:head()
  while self.first <= self.last do
    local waiter = self[self.first]
    if waiter then return waiter end
    self.first = self.first + 1
  end
  self.first, self.last = 1, 0
end

-- One of those that wait is given a place, or an error.
function Queue.give(waiter, target, conn, err)
  forget(waiter)
  waiter.target, waiter.conn, waiter.err = target, conn, err
  task.wake(waiter.fiber, true)
end

function Queue:reset()
  for i = self.first, self.last do self[i] = nil end
  self.first, self.last, self.count = 1, 0, 0
end

return new
