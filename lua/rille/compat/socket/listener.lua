-- listener: where a socket accepts. Rille accepts by itself; who came waits in a queue until accept() takes it; when that is
-- full, the kernel keeps the others.

local C = require "rille.core"
local listener = require "rille.listener"
local semaphore = require "rille.semaphore"
local task = require "rille.task"
local timeouts = require "rille.compat.socket.timeouts"
local timer = require "rille.timer"

local Listener = {}
Listener.__index = Listener

local M = {}

local BACKLOG, BACKLOG_MAX = 32, 65535

-- Nil for one whose client is gone already, and when there is no memory.
local function adopt(conn)
  local fd = conn:detach()
  if not fd then return nil end
  local own = require("rille").adopt(fd)
  if not own then C.rille_descriptor_close(fd) end
  return own
end

-- All of them: one that is cancelled meanwhile would keep it from the others.
local function wake_all(self)
  local waiting = self.waiting
  self.waiting = {}
  for fiber in pairs(waiting) do task.wake(fiber) end
end

-- Nothing of it has been read yet, so it can be taken from here as it is, to be one without handlers. False refuses it.
local function on_prepare(self, conn)
  self.room:acquire()
  local own = not self.is_closed and adopt(conn)
  if not own then
    self.room:release()
    return false
  end
  self.queue[#self.queue + 1] = own
  wake_all(self)
end

-- A listener at a URL; or nil, err.
function M.open(url)
  local self = setmetatable({ queue = {}, waiting = {}, backlog = BACKLOG, room = semaphore(BACKLOG) }, Listener)
  local hooks = { on_request = function() end, on_prepare = function(conn) return on_prepare(self, conn) end }
  local err
  self.listener, err = listener.listen(url, hooks, { limits = { max_connections = BACKLOG }, timeouts = { idle = 0 } })
  if not self.listener then return nil, err end
  return self
end

-- A larger queue; nil: it stays.
function Listener:set_backlog(backlog)
  backlog = math.min(math.floor(tonumber(backlog) or 0), BACKLOG_MAX)
  if backlog <= self.backlog then return end
  self.room:release(backlog - self.backlog)
  self.backlog = backlog
end

function Listener:address()
  return self.listener:address()
end

-- The running task is woken when somebody came, until leave.
function Listener:watch()
  local fiber = task.current()
  self.waiting[fiber] = true
  return fiber
end

function Listener:leave(fiber)
  self.waiting[fiber] = nil
end

local function leave(arg)
  arg.self:leave(arg.fiber)
end

-- The next connection; or nil, err. socket: whose time-outs count.
function Listener:accept(socket)
  local deadline, is_late = timeouts.begin(socket), false
  while not self.is_closed do
    local conn = table.remove(self.queue, 1)
    if conn then
      self.room:release()
      return conn
    end
    if is_late then return nil, "timeout" end
    local fiber = self:watch()
    local _, late = timer.park(timeouts.left(socket, deadline), leave, { self = self, fiber = fiber })
    is_late = late ~= nil
  end
  return nil, "closed"
end

function Listener:is_ready()
  return self.is_closed or #self.queue > 0
end

function Listener:close()
  if self.is_closed then return end
  self.is_closed = true
  self.listener:close()
  for _, conn in ipairs(self.queue) do conn:abort() end
  self.queue = {}
  wake_all(self)
  self.room:release(BACKLOG_MAX) -- who waits for room is refused
end

return M
