-- semaphore: n permits for the tasks of one loop. Those that wait get them in the order they came.

local misuse = require "rille.misuse"
local task = require "rille.task"
local timer = require "rille.timer"

local Semaphore = {}
Semaphore.__index = Semaphore

-- rille.semaphore(n): n permits, 0 or more.
local function new(n)
  if type(n) ~= "number" or n < 0 or n % 1 ~= 0 then
    misuse("bad argument #1 to 'semaphore' (a whole number, 0 or more, expected, got %s)", tostring(n))
  end
  return setmetatable({ permits = n, waiting = {} }, Semaphore)
end

local function forget(arg)
  local waiting = arg.semaphore.waiting
  for i = 1, #waiting do
    if waiting[i] == arg.fiber then
      table.remove(waiting, i)
      return
    end
  end
end

-- Take a permit; parks until there is one, at most timeout seconds (nil: for ever, 0: not at all).
-- true, or nil, "timeout".
function Semaphore:acquire(timeout)
  if self.permits > 0 and #self.waiting == 0 then
    self.permits = self.permits - 1
    return true
  end
  if timeout == 0 then return nil, "timeout" end
  local fiber = task.current()
  self.waiting[#self.waiting + 1] = fiber
  return timer.park(timeout, forget, { semaphore = self, fiber = fiber })
end

-- Give n permits (1) back.
function Semaphore:release(n)
  n = n or 1
  if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then
    misuse("bad argument #1 to 'release' (a whole number, 1 or more, expected, got %s)", tostring(n))
  end
  self.permits = self.permits + n
  while self.permits > 0 and #self.waiting > 0 do
    self.permits = self.permits - 1
    task.wake(table.remove(self.waiting, 1), true)
  end
end

-- Permits that are free, and tasks that wait.
function Semaphore:count()
  return self.permits, #self.waiting
end

return new
