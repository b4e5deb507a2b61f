-- mux_link: the connection of a mux, made when it is needed where the mux can dial, and the task that reads its answers; see mux.lua.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local concurrency = require "rille.concurrency"
local conn = require "rille.conn"
local conn_read = require "rille.conn_read"
local errors = require "rille.errors"
local queue = require "rille.mux_queue"
local script = require "rille.script"
local task = require "rille.task"

local type, tonumber = type, tonumber
local istype, slice_t = ffi.istype, Slice.type
local give_answer = queue.answer
local text = errors.text
local PARK, TIMEOUT = C.RILLE_PARK, C.RILLE_ERR_TIMEOUT

local BATCH = 256 -- answers between two looks at what the connection may still use of this turn

local M = {}

-- ---- answers ---------------------------------------------------------------------------------------------------

-- The bytes of a frame stay until the task that gets it calls again, or ends. nil, err
local function keep(fiber, frame)
  if istype(slice_t, frame) then
    local code = C.rille_slice_retain(frame)
    if code ~= 0 then return nil, text[-code] end
    fiber.kept = frame
  elseif type(frame) == "table" then
    concurrency.hold(frame)
    fiber.kept = frame
  end
  return true
end

task.let_go = function(kept)
  if istype(slice_t, kept) then
    C.rille_slice_release(kept)
  else
    concurrency.let_go(kept)
  end
end

local function answer(self, frame)
  local id = self.id_of(frame)
  if type(id) ~= "number" then id = tonumber(id) end
  local entry = id and self.calls[id % self.size + 1]
  if entry and entry.id == id then
    local ok, err = keep(entry.fiber, frame)
    if not ok then return queue.fail(self, entry, err) end
    self.answered = self.answered + 1
    return give_answer(self, entry, frame)
  end
  if id and id >= 1 and id <= self.highest and id % 1 == 0 then -- of a call that is over
    self.late = self.late + 1
    return
  end
  self.unmatched = self.unmatched + 1
  if self.on_unmatched then return self.on_unmatched(frame) end
end

-- The connection is over: what was sent has no answer any more.
local function lose(self, c, err)
  if self.conn ~= c then return end
  self.conn, self.reader = false, false
  if not self.dial then self.err = err end
  queue.fail_sent(self, err)
  c:close()
  if self.err then return queue.fail_waiting(self, err) end
  return queue.admit(self)
end
queue.lose = lose

-- The frames that are there, at most BATCH. How many bytes more than those that are left have to come before there is another; or nil, err.
local function receive(self, c)
  local decode = self.decode
  for _ = 1, BATCH do
    if not c._p then return nil, c._error end
    local frame, err = decode(c)
    if frame == nil then
      if err then return nil, err end
      return 1
    end
    answer(self, frame)
  end
  return 0
end

-- Park until there may be so many bytes more: true, or nil, err. No loop here: one that mostly runs once would keep its caller from being
-- compiled.
local function await(c, more)
  local p = c._p
  if not p then return nil, c._error end
  local n = C.rille_conn_len(p) + more
  local code = C.rille_conn_want(p, n > 0 and n or 1)
  if code == PARK then
    conn_read.park(c)
    return true
  end
  if code == 0 or code == TIMEOUT then return true end -- the time-out of a read is none of ours
  return nil, text[-code]
end

local function read(self)
  local c = self.conn
  if not c then return end
  self.reader = task.current()
  while true do
    local ok, err = receive(self, c)
    if ok then
      queue.admit(self)
      c:release()
      ok, err = await(c, ok)
    elseif c._p and self.conn == c then
      conn.refuse_frame(c, err)
    end
    if not ok then return lose(self, c, errors.code[err] and err or "closed") end
  end
end

script.on_error(read, "a mux", function(self)
  if self.conn then lose(self, self.conn, "error") end
end)

-- ---- connections -----------------------------------------------------------------------------------------------

function M.attach(self, c)
  self.conn = c
  task.start_later(read, self)
end

local function connect(self)
  local c, err = self.dial()
  self.is_dialing = false
  if self.err then
    if c then c:close() end
    return
  end
  if not c then return queue.fail_waiting(self, errors.code[err] and err or "closed") end
  if not conn.is(c) then error("the function of a mux has to return a connection, or nil and an error", 0) end
  M.attach(self, c)
  return queue.admit(self)
end
queue.connect = connect

script.on_error(connect, "a mux", function(self)
  self.is_dialing = false
  queue.fail_waiting(self, "error")
end)

return M
