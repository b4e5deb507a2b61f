-- concurrency: the frames of one connection, handled by several tasks at a time. on_request cuts a frame off, hands it to a worker and
-- goes on with the next one, until as many as allowed are under way. In order, the first frame under way, the head, writes to the
-- connection as ever; what the others write is held in a buffer of their own, which is linked behind the output when their turn comes.
--
-- A worker is a fiber and a record of the frame it handles. Between frames it is parked, and serves any connection.

local C = require "rille.core"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local conn = require "rille.conn"
local gone = require("rille.conn_read").gone
local script = require "rille.script"
local task = require "rille.task"
local write_slow = require("rille.conn_write").slow

local rawget, rawset, type = rawget, rawset, type
local Conn = conn.Conn

local IDLE_MAX = 256 -- workers that are kept

local M = {}

local idle, idle_count = {}, 0

-- ---- frames ----------------------------------------------------------------------------------------------------

local function retain(slice) slice:retain() end
local function release(slice) slice:release() end

-- Whether slices are to be looked for in a table of a frame: in values of codec/resp_value.lua.
local function is_nested(value)
  local meta = type(value) == "table" and getmetatable(value)
  return meta and meta.__nested
end

-- fn(slice) for a frame that is a slice, or for each one in a frame that is a table.
local function each_slice(frame, fn)
  if Slice.is(frame) then return fn(frame) end
  if type(frame) ~= "table" then return end
  for _, value in pairs(frame) do
    if Slice.is(value) then fn(value) elseif is_nested(value) then each_slice(value, fn) end
  end
end

-- Keep the slices of a frame that is a table, and give them back.
function M.hold(frame) return each_slice(frame, retain) end
function M.let_go(frame) return each_slice(frame, release) end

-- ---- workers ---------------------------------------------------------------------------------------------------

local function put_back(w)
  w.conn, w.lane, w.frame, w.fn, w._on_request = false, false, false, false, false
  if w.is_dead or idle_count == IDLE_MAX then
    w.is_leaving = true
    if w.out then w.out:close() end
    if w.is_parked then task.wake(w.fiber) end
    return
  end
  idle_count = idle_count + 1
  idle[idle_count] = w
end

-- What a frame has held goes out; from now on it writes for itself.
local function let_out(lane, w)
  w.is_head = true
  lane.held = lane.held - w.held
  w.held = 0
  local p = lane.conn._p
  if not w.out or LinkBuffer.len(w.out) + w.out:malloc_len() == 0 then return end
  if C.rille_conn_append(p, w.out) == C.RILLE_ERR_NO_MEMORY then C.rille_conn_abort(p) end
end

-- A handler that failed, or that closed the connection while it was not its turn.
local function end_by(lane, w)
  if lane.is_over then return end
  local p = lane.conn._p
  if w.has_failed then C.rille_conn_raise(p)
  elseif w.wants_close then C.rille_conn_close(p)
  else return end
  lane.is_over = true
end

-- The frames whose turn it is.
local function advance(lane)
  local queue = lane.queue
  while lane.first <= lane.last do
    local w = queue[lane.first]
    if not w.is_head then let_out(lane, w) end
    end_by(lane, w)
    if w.is_waiting then task.wake(w.fiber) end
    w.is_waiting = false
    if not w.is_done then return end
    if w.is_last then -- what came behind it is no frame
      w.wants_close = true
      end_by(lane, w)
    end
    queue[lane.first] = nil
    lane.first = lane.first + 1
    lane.running = lane.running - 1
    put_back(w)
  end
  lane.first, lane.last = 1, 0
end

local function finish(w, has_failed)
  local lane = w.lane
  each_slice(w.frame, release)
  task.drop_kept(w.fiber)
  if not lane.conn._p then return put_back(w) end -- the run was ended by force
  w.is_done, w.has_failed = true, has_failed
  if lane.is_ordered then
    lane.is_ending = lane.is_ending or has_failed
    advance(lane)
  else
    lane.running = lane.running - 1
    end_by(lane, w)
    put_back(w)
  end
  if lane.driver then task.wake(lane.driver) end
  C.rille_conn_leave(lane.conn._p)
end

local function work(w)
  while true do
    w.fn(w.conn, w.frame)
    finish(w, false)
    if w.is_leaving then return end
    w.is_parked = true
    task.park()
    w.is_parked = false
    if w.is_leaving then return end
  end
end

local function forget(w)
  if w.out then w.out:close() end
  for i = 1, idle_count do
    if idle[i] == w then
      idle[i] = idle[idle_count]
      idle[idle_count] = nil
      idle_count = idle_count - 1
      return
    end
  end
end

script.on_error(work, "on_request", function(w)
  w.is_dead, w.is_parked = true, false
  if w.lane then return finish(w, true) end
  forget(w) -- cancelled between two frames: the end of the run
end)

local function start(lane, fn, frame)
  local w = idle[idle_count]
  if w then
    idle[idle_count] = nil
    idle_count = idle_count - 1
  else
    w = { out = false, is_parked = false, is_leaving = false, is_dead = false }
  end
  local self = lane.conn
  w.conn, w.lane, w.frame, w.fn = self, lane, frame, fn
  w.id, w._on_request = self.id, fn -- for the log, if it raises
  w.held, w.is_done, w.has_failed, w.wants_close, w.is_waiting, w.is_last = 0, false, false, false, false, false
  lane.running = lane.running + 1
  lane.last = lane.last + 1
  w.is_head = not lane.is_ordered or lane.first == lane.last
  if lane.is_ordered then lane.queue[lane.last] = w end
  C.rille_conn_enter(self._p)
  if w.fiber then return task.wake(w.fiber) end
  w.fiber = task.start_later(work, w)
  w.fiber.frame = w
end

-- ---- on_request ------------------------------------------------------------------------------------------------

local function undo(lane)
  lane.driver = false
end

-- Room for one more frame, and its output below the high-water mark: true.
local function wait_for_room(self, lane, limit)
  while lane.running >= limit or lane.is_ending do
    if lane.is_over then return false end
    lane.driver = task.current()
    task.park(undo, lane)
    lane.driver = false
  end
  if not self._p then return false end
  local code = C.rille_conn_throttle(self._p)
  if code ~= 0 then return (write_slow(self, code)) end
  return true
end

local function lane_of(self, key, is_ordered)
  local lane = rawget(self, "_lane")
  if lane and lane.key == key then return lane end
  lane = {
    key = key, conn = self, is_ordered = is_ordered, queue = {}, first = 1, last = 0, running = 0, held = 0,
    driver = false, is_ending = false, is_over = false,
  }
  rawset(self, "_lane", lane) -- keeps nothing alive: it goes with the connection's table
  return lane
end

-- conn.framed for more than one task.
function conn.concurrent(fn, decode, limit, is_ordered)
  local key = {}
  return function(self)
    local lane = lane_of(self, key, is_ordered)
    if not wait_for_room(self, lane, limit) then return end
    local frame, err = decode(self)
    if frame == nil then
      if not err then return end
      conn.refuse_frame(self, err)
      if lane.running == 0 or not is_ordered then return self:close() end
      lane.is_ending, lane.queue[lane.last].is_last = true, true -- after what came before it
      return
    end
    each_slice(frame, retain)
    start(lane, fn, frame)
  end
end

-- ---- what a handler writes before its turn ------------------------------------------------------------------------

local Ordered = setmetatable({}, { __index = Conn })
conn.ordered.__index = Ordered

-- The frame that the caller handles, if its turn has not come.
local function waiting_frame(self)
  local fiber = task.current()
  local w = fiber and fiber.frame
  if w and w.conn == self and not w.is_head then return w end
end

local function stop_waiting(w)
  w.is_waiting = false
end

local function wait_for_turn(w)
  w.is_waiting = true
  task.park(stop_waiting, w)
end

-- The buffer for what it writes; or nil, err.
local function buffer_of(self, w)
  if not self._p then return gone(self) end
  if w.wants_close then return nil, "closed" end
  local out, err = w.out, nil
  if not out then
    out, err = LinkBuffer.new()
    w.out = out or false
  end
  return out, err
end

-- How much is held is known anew.
local function noted(w, ...)
  local size = w.out:len() + w.out:malloc_len()
  w.lane.held = w.lane.held + size - w.held
  w.held = size
  return ...
end

function Ordered:write(x)
  local w = waiting_frame(self)
  if not w then return Conn.write(self, x) end
  local out, err = buffer_of(self, w)
  if not out then return nil, err end
  local ok
  ok, err = noted(w, out:write(x))
  if not ok or C.rille_conn_is_above(self._p, w.lane.held) == 0 then return ok, err end
  wait_for_turn(w)
  if not self._p then return gone(self) end
  return write_slow(self, C.rille_conn_throttle(self._p))
end

for _, name in ipairs { "malloc_ack", "malloc_len" } do
  local plain, method = Conn[name], LinkBuffer[name]
  Ordered[name] = function(self, n)
    local w = waiting_frame(self)
    if not w then return plain(self, n) end
    local out, err = buffer_of(self, w)
    if not out then return nil, err end
    return noted(w, method(out, n))
  end
end

for _, name in ipairs {
  "malloc", "write_byte", "write_direct", "append", "write_varint", "pack",
  "write_u8", "write_u16", "write_u24", "write_u32", "write_u64",
  "write_i8", "write_i16", "write_i24", "write_i32", "write_i64", "write_f32", "write_f64",
} do
  local plain, method = Conn[name], LinkBuffer[name]
  Ordered[name] = function(self, ...)
    local w = waiting_frame(self)
    if w and self._p and C.rille_conn_is_above(self._p, w.lane.held) == 1 then
      wait_for_turn(w)
      w = nil
    end
    if not w then return plain(self, ...) end
    local out, err = buffer_of(self, w)
    if not out then return nil, err end
    return noted(w, method(out, ...))
  end
end

function Ordered:write_frame(x, codec)
  codec = codec or self._codec
  local w = waiting_frame(self)
  if w and self._p and C.rille_conn_is_above(self._p, w.lane.held) == 1 then
    wait_for_turn(w)
    w = nil
  end
  if not w or not codec or not codec.put then return Conn.write_frame(self, x, codec) end
  local out, err = buffer_of(self, w)
  if not out then return nil, err end
  return noted(w, codec:put(out, x))
end

-- These are about all output so far, so it has to be there.
for _, name in ipairs { "flush", "shutdown", "detach" } do
  local plain = Conn[name]
  Ordered[name] = function(self, ...)
    local w = waiting_frame(self)
    if w then
      if w.wants_close then return nil, "closed" end
      wait_for_turn(w)
    end
    return plain(self, ...)
  end
end

-- At its turn, behind the answers to the frames before.
function Ordered:close()
  local w = waiting_frame(self)
  if not w then return Conn.close(self) end
  w.wants_close, w.lane.is_ending = true, true
  return true
end

function M.reset()
  for i = 1, idle_count do
    if idle[i].out then idle[i].out:close() end
  end
  idle, idle_count = {}, 0
end

return M
