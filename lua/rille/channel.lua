-- channel: a queue of at most n values between the tasks of one loop. A send to a full one and a receive from an empty one
-- park. With n = 0 a send waits for its receiver.

local misuse = require "rille.misuse"
local task = require "rille.task"
local timer = require "rille.timer"

local Channel = {}
Channel.__index = Channel

-- rille.channel([n = 0])
local function new(n)
  n = n or 0
  if type(n) ~= "number" or n < 0 or n % 1 ~= 0 then
    misuse("bad argument #1 to 'channel' (a whole number, 0 or more, expected, got %s)", tostring(n))
  end
  return setmetatable({ room = n, first = 1, last = 0, values = {}, senders = {}, receivers = {}, is_closed = false }, Channel)
end

local function remove(list, entry)
  for i = 1, #list do
    if list[i] == entry then
      table.remove(list, i)
      return
    end
  end
end

local function forget(entry)
  remove(entry.list, entry)
end

local function push(self, value)
  self.last = self.last + 1
  self.values[self.last] = value
end

-- Put v (not nil) into the channel; parks while it is full, at most timeout seconds (nil: for ever, 0: not at all).
-- true, or nil, "closed" or "timeout".
function Channel:send(v, timeout)
  if v == nil then misuse("cannot send nil: a receiver takes it for the end of the channel") end
  if self.is_closed then return nil, "closed" end
  local receiver = table.remove(self.receivers, 1)
  if receiver then
    receiver.value, receiver.is_served = v, true
    task.wake(receiver.fiber, true)
    return true
  end
  if self:len() < self.room then
    push(self, v)
    return true
  end
  if timeout == 0 then return nil, "timeout" end
  local entry = { fiber = task.current(), value = v, list = self.senders, is_served = false }
  self.senders[#self.senders + 1] = entry
  local ok, err = timer.park(timeout, forget, entry)
  if not ok then return nil, err end
  if not entry.is_served then return nil, "closed" end
  return true
end

-- Take the oldest value; parks while there is none, at most timeout seconds (nil: for ever, 0: not at all).
-- The value, or nil, "closed" (when the channel is closed and empty) or "timeout".
function Channel:receive(timeout)
  local value
  if self:len() > 0 then
    value = self.values[self.first]
    self.values[self.first] = nil
    self.first = self.first + 1
  end
  local sender = table.remove(self.senders, 1)
  if sender then
    sender.is_served = true
    task.wake(sender.fiber, true)
    if value == nil then return sender.value end
    push(self, sender.value)
  end
  if value ~= nil then return value end
  if self.is_closed then return nil, "closed" end
  if timeout == 0 then return nil, "timeout" end
  local entry = { fiber = task.current(), list = self.receivers, is_served = false }
  self.receivers[#self.receivers + 1] = entry
  local ok, err = timer.park(timeout, forget, entry)
  if not ok then return nil, err end
  if not entry.is_served then return nil, "closed" end
  return entry.value
end

-- No more values; those inside can still be received. Senders that wait get "closed".
function Channel:close()
  if self.is_closed then return end
  self.is_closed = true
  for _, list in ipairs { self.senders, self.receivers } do
    for i = #list, 1, -1 do
      local entry = list[i]
      list[i] = nil
      task.wake(entry.fiber, true)
    end
  end
end

-- Values that wait inside.
function Channel:len()
  return self.last - self.first + 1
end

return new
