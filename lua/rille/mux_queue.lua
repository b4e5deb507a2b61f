-- mux_queue: the calls of a mux, how long they wait, and for what; see mux.lua.
--
-- An entry is a call that is under way: it waits for room, is let in, or is sent; who made it gives it back. Calls with the time-out of
-- the mux stand in lists in the order of their deadlines, and share one timer at the first of these; one with a time-out of its own
-- has a timer of its own.

local C = require "rille.core"
local drain_output = require("rille.conn_write").slow
local script = require "rille.script"
local task = require "rille.task"
local timer = require "rille.timer"

local wake = task.wake
local HUGE = math.huge

local Entry, Clock = {}, {}
Entry.__index, Clock.__index = Entry, Clock

local M = {
  connect = nil, -- (mux), in a task: see to a connection; set by mux_link.lua
  lose = nil,    -- (mux, conn, err): the connection is of no use; set there, too
}

local admit -- below

-- ---- entries ---------------------------------------------------------------------------------------------------

-- Behind those whose deadlines are not later: mostly all of them.
local function insert(list, entry)
  local before, deadline = list.prev, entry.deadline
  while before ~= list and before.deadline > deadline do before = before.prev end
  local after = before.next
  entry.next, entry.prev = after, before
  before.next, after.prev = entry, entry
end

local function append(list, entry)
  local before = list.prev
  entry.next, entry.prev = list, before
  before.next, list.prev = entry, entry
end

local function unlink(entry)
  local before, after = entry.prev, entry.next
  before.next, after.prev = after, before
  entry.next, entry.prev = false, false
end

-- What fires at the first deadline.
function M.new_clock(self)
  return setmetatable({ mux = self }, Clock)
end

function M.new_list()
  local list = {}
  list.next, list.prev = list, list
  return list
end

local function take(self, fiber)
  local free, count = self.free, self.free_count
  local entry
  if count > 0 then
    entry = free[count]
    self.free_count = count - 1
  else
    entry = setmetatable({
      mux = self, next = false, prev = false, token = false, id = false, err = false, frame = false,
      is_waiting = false, is_admitted = false, has_own = false, deadline = HUGE, fiber = fiber,
    }, Entry)
  end
  entry.fiber = fiber
  return entry
end

-- It is in no list any more.
local function leave(self, entry)
  if entry.next then unlink(entry) end
  if entry.token then
    task.stop_timer(entry.token)
    entry.token = false
  end
  local id = entry.id
  if id then
    self.calls[id % self.size + 1] = false
    self.in_flight = self.in_flight - 1
    entry.id = false
  elseif entry.is_waiting then
    entry.is_waiting = false
    self.waiting_count = self.waiting_count - 1
  end
end

-- The call is over, whoever made it knows how.
local function give(self, entry)
  leave(self, entry)
  entry.fiber, entry.frame, entry.err, entry.has_own = false, false, false, false
  local count = self.free_count + 1
  self.free_count = count
  self.free[count] = entry
end
M.give = give

local function fail(self, entry, err)
  leave(self, entry)
  entry.err = err
  return wake(entry.fiber)
end
M.fail = fail

-- The frame is its answer.
function M.answer(self, entry, frame)
  leave(self, entry)
  entry.frame = frame
  return wake(entry.fiber)
end

-- The task that made the call is not to have its answer.
local function abandon(entry)
  local self = entry.mux
  give(self, entry)
  return admit(self)
end

function M.fail_waiting(self, err)
  local waiting = self.waiting
  while waiting.next ~= waiting do fail(self, waiting.next, err) end
end

function M.fail_sent(self, err)
  local calls = self.calls
  for i = 1, self.size do
    if calls[i] then
      self.lost = self.lost + 1
      fail(self, calls[i], err)
    end
  end
end

-- ---- deadlines -------------------------------------------------------------------------------------------------

-- Without memory for a timer the next call tries again.
local function arm(self, deadline)
  if self.token then
    if self.armed_at <= deadline then return end
    task.stop_timer(self.token)
  end
  local now = C.rille_now()
  self.armed_at = deadline
  self.token = timer.start(deadline > now and deadline - now or 0, self.clock) or false
end

-- Of calls that wait, those with timers of their own stand among the others.
local function expire_waiting(self, now)
  local waiting = self.waiting
  local entry = waiting.next
  while entry ~= waiting do
    local after = entry.next
    if not entry.has_own then
      if entry.deadline > now then return entry.deadline end
      self.timeouts = self.timeouts + 1
      fail(self, entry, "timeout")
    end
    entry = after
  end
  return HUGE
end

-- The loop has read its connections before, so an answer that came in time is not late because the loop was.
function Clock:fire()
  local mux = self.mux
  mux.token = false
  local now, due = C.rille_now(), mux.due
  while due.next ~= due and due.next.deadline <= now do
    mux.timeouts = mux.timeouts + 1
    fail(mux, due.next, "timeout")
  end
  local first = expire_waiting(mux, now)
  if due.next ~= due and due.next.deadline < first then first = due.next.deadline end
  if first < HUGE then arm(mux, first) end
  return admit(mux)
end

function Entry:fire()
  self.token = false
  if self.is_admitted then return end -- it will see that when it runs
  local mux = self.mux
  mux.timeouts = mux.timeouts + 1
  fail(mux, self, "timeout")
  return admit(mux)
end

-- true; or nil, err
local function set_deadline(self, entry, timeout)
  if timeout == nil or timeout == self.timeout then
    if self.timeout == 0 then
      entry.deadline, entry.has_own = HUGE, true
      return true
    end
    entry.deadline = C.rille_now() + self.timeout
    return true
  end
  entry.deadline, entry.has_own = HUGE, true
  if timeout == 0 then return true end
  local token, err = timer.start(timeout, entry)
  if not token then return nil, err end
  entry.token, entry.deadline = token, C.rille_now() + timeout
  return true
end

-- ---- room ------------------------------------------------------------------------------------------------------

local function has_room(self)
  local c = self.conn
  if not c or self.in_flight >= self.max_in_flight then return false end
  local p = c._p
  if not p then return true end -- its end is noticed when it is written to
  return C.rille_conn_is_above(p, self.admitted * self.request_size) == 0
end

-- Its output is above the mark: one task waits for all calls.
local function drain(self)
  local c = self.conn
  local ok, err = true, nil
  if c and c._p then ok, err = drain_output(c, C.rille_conn_throttle(c._p)) end
  self.is_draining = false
  if not ok then return M.lose(self, c, err) end
  return admit(self)
end

script.on_error(drain, "a mux", function(self) self.is_draining = false end)

-- Somebody waits: see that the queue will be looked at.
local function see_to_room(self)
  local c = self.conn
  if not c then
    if self.dial and not self.is_dialing then
      self.is_dialing = true
      task.start_later(M.connect, self)
    end
  elseif self.in_flight < self.max_in_flight and not self.is_draining then
    self.is_draining = true
    task.start_later(drain, self)
  end
end

-- Let in as many as there is room for, in their order. Their places are taken from here on; what they will write is guessed from the
-- last request.
function admit(self)
  local waiting = self.waiting
  if waiting.next == waiting then return end
  while waiting.next ~= waiting and has_room(self) do
    local entry = waiting.next
    unlink(entry)
    entry.is_waiting, entry.is_admitted = false, true
    self.waiting_count = self.waiting_count - 1
    self.in_flight, self.admitted = self.in_flight + 1, self.admitted + 1
    wake(entry.fiber)
  end
  if waiting.next ~= waiting then see_to_room(self) end
end

-- Park until it is let in: true, or nil, err.
local function wait(self, entry)
  if self.waiting_count >= self.queue then return nil, "full" end
  entry.is_waiting = true
  self.waiting_count = self.waiting_count + 1
  append(self.waiting, entry)
  if not entry.has_own then arm(self, entry.deadline) end
  see_to_room(self)
  task.park(abandon, entry)
  if not entry.is_admitted then return nil, entry.err end
  entry.is_admitted = false
  self.in_flight, self.admitted = self.in_flight - 1, self.admitted - 1 -- nobody else runs before it is written
  if entry.has_own and entry.deadline < HUGE and not entry.token then -- its timer is over
    self.timeouts = self.timeouts + 1
    return nil, "timeout"
  end
  return true
end

-- An entry that may write now; or nil, err.
function M.enter(self, timeout)
  local fiber = task.current()
  if not fiber or fiber.doom then task.park() end -- which raises
  if timeout then timer.seconds(timeout, "call") end
  if self.err then return nil, self.err end
  local entry = take(self, fiber)
  local ok, err = set_deadline(self, entry, timeout)
  if ok and (self.waiting_count > 0 or not has_room(self)) then ok, err = wait(self, entry) end
  while ok and not self.conn do -- lost between the two
    if self.err then ok, err = nil, self.err else ok, err = wait(self, entry) end
  end
  if ok then return entry end
  give(self, entry)
  admit(self)
  return nil, err
end

-- Its request, in which the last frame may have been, is written: park until it is answered. The frame; or nil, err.
function M.await(self, entry, id)
  if entry.fiber.kept then task.drop_kept(entry.fiber) end
  entry.id = id
  self.calls[id % self.size + 1] = entry
  self.in_flight = self.in_flight + 1
  if not entry.has_own then
    insert(self.due, entry)
    arm(self, entry.deadline)
  end
  task.park(abandon, entry)
  local frame, err = entry.frame, entry.err
  give(self, entry)
  if err then return nil, err end
  return frame
end

M.admit = admit

return M
