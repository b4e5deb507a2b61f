-- conn_read: the reading methods of a connection. What cannot be answered parks the task and is asked again when the READ
-- event comes. Nothing here makes garbage when it need not park.

local C = require "rille.core"
local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local task = require "rille.task"
local timer = require "rille.timer"

local type = type
local new_slice = Slice.new_from
local text = errors.text
local PARK = C.RILLE_PARK

local LINE_MAX = 65536

local Conn = {}
local scratch = ffi.new("rille_slice[1]")
local scan_box = ffi.new("double[1]")

local readers = {} -- by slot; the fiber that is parked reading

local M = { methods = Conn }

-- What every method of a connection that is over returns.
local function gone(self)
  return nil, self._error or "closed"
end

M.gone = gone

-- ---- parking ---------------------------------------------------------------------------------------------------

-- The READ event.
function M.resume(slot)
  local fiber = readers[slot]
  if not fiber or fiber.queued then return end -- one that waits for several things may have been woken by another
  readers[slot] = false
  return task.resume(fiber)
end

local function cancel(self)
  local slot = self._slot
  if not slot then return end
  readers[slot] = false
  C.rille_conn_unwant(self._p, 1)
end

-- The connection in the slot is over. Its reader was told so; the event of one that gave way to others may still be on its
-- way, and the slot may have a new user when it comes.
function M.forget(slot)
  local fiber = readers[slot]
  readers[slot] = false
  if fiber then task.wake(fiber) end
end

function M.reset()
  readers = {}
end

local function park(self)
  readers[self._slot] = task.current() or false
  task.park(cancel, self)
  if self._p then C.rille_conn_unwant(self._p, 0) end
end

M.park = park

-- The same for at most so many seconds (nil: for ever). True; or nil, "timeout", and nobody reads any more.
function M.park_within(self, seconds)
  readers[self._slot] = task.current() or false
  local _, late = timer.park(seconds, cancel, self)
  if late then return nil, late end
  if self._p then C.rille_conn_unwant(self._p, 0) end
  return true
end

-- The running task waits for this one among others, see select.lua; what rille_conn_want said is RILLE_PARK.
function M.watch(self)
  readers[self._slot] = task.current() or false
end

-- Whether it did, until now or until the event that ended its park.
function M.unwatch(self)
  local slot = self._slot
  if not slot then return false end
  readers[slot] = false
  return true
end

-- Park until the READ event for something other than reading; undo(self) as of task.park, which begins with unpark.
function M.park_for(self, undo)
  readers[self._slot] = task.current() or false
  task.park(undo, self)
end

function M.unpark(self)
  if self._slot then readers[self._slot] = false end
end

-- ---- methods ---------------------------------------------------------------------------------------------------

local function check_size(n, name)
  if type(n) ~= "number" then
    misuse("bad argument #1 to '%s' (a number of bytes expected, got %s)", name, type(n))
  end
end

-- nil, the error, and a slice of what is there.
local function failed(self, code)
  local p = self._p
  if not p then return gone(self) end
  local n = C.rille_conn_len(p)
  if n > 0 and code ~= C.RILLE_ERR_BUSY and code ~= C.RILLE_ERR_INVALID then
    local input = C.rille_conn_input(p)
    if C.rille_linkbuffer_peek(input, n, scratch) == 0 then return nil, text[-code], new_slice(scratch) end
  end
  return nil, text[-code]
end

-- Park until n bytes are readable. The connection's pointer, or nil, err, partial.
local function wait_input(self, n)
  local p = self._p
  if not p then return gone(self) end
  local code = C.rille_conn_want(p, n)
  while code == PARK do
    park(self)
    p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_want(p, n)
  end
  if code ~= 0 then return failed(self, code) end
  return p
end

local function next_slow(self, n, code)
  while code == PARK do
    park(self)
    local p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_next(p, n, scratch)
  end
  if code ~= 0 then return failed(self, code) end
  return new_slice(scratch)
end

function Conn:next(n)
  if type(n) ~= "number" then check_size(n, "next") end
  local p = self._p
  if not p then return gone(self) end
  local code = C.rille_conn_next(p, n, scratch)
  if code ~= 0 then return next_slow(self, n, code) end
  return new_slice(scratch)
end

local function read_slow(self, max, code)
  while code == PARK do
    park(self)
    local p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_read(p, max, scratch)
  end
  if code ~= 0 then return failed(self, code) end
  return new_slice(scratch)
end

function Conn:read(max)
  if max ~= nil and type(max) ~= "number" then check_size(max, "read") end
  local p = self._p
  if not p then return gone(self) end
  local code = C.rille_conn_read(p, max or math.huge, scratch)
  if code ~= 0 then return read_slow(self, max or math.huge, code) end
  return new_slice(scratch)
end

local function read_until(self, delim, max)
  local scan = 0
  while true do
    local p = self._p
    if not p then return gone(self) end
    scan_box[0] = scan
    local code = C.rille_conn_read_until(p, delim, #delim, max, scan_box, scratch)
    if code == 0 then return new_slice(scratch) end
    if code ~= PARK then return failed(self, code) end
    scan = scan_box[0]
    park(self)
  end
end

function Conn:read_until(delim, max)
  if type(delim) ~= "string" then misuse("bad argument #1 to 'read_until' (a string expected, got %s)", type(delim)) end
  if max ~= nil then check_size(max, "read_until") end
  return read_until(self, delim, max or math.huge)
end

-- A line of max bytes may end in CR LF, which is one byte more than the search for LF allows: only with a CR in that place
-- is it allowed. (Taking the line first and refusing it then would consume it.)
local function read_long_line(self, max, ...)
  local p = self._p
  if not p or C.rille_conn_len(p) <= max then return ... end
  if C.rille_linkbuffer_peek(C.rille_conn_input(p), max + 1, scratch) ~= 0 or scratch[0].base_[max] ~= 13 then return ... end
  return read_until(self, "\n", max + 2)
end

function Conn:read_line(max)
  if max ~= nil then check_size(max, "read_line") end
  max = max or LINE_MAX
  local line, err, partial = read_until(self, "\n", max + 1)
  if err == "too large" then line, err, partial = read_long_line(self, max, line, err, partial) end
  if not line then return nil, err, partial end
  local size = line.size_ - 1
  if size > 0 and line.base_[size - 1] == 13 then size = size - 1 end
  return line:sub(1, size)
end

function Conn:peek(n)
  check_size(n, "peek")
  local p, err, partial = wait_input(self, n)
  if not p then return nil, err, partial end
  local code = C.rille_linkbuffer_peek(C.rille_conn_input(p), n, scratch)
  if code ~= 0 then return nil, text[-code] end
  return new_slice(scratch)
end

function Conn:skip(n)
  check_size(n, "skip")
  local p, err, partial = wait_input(self, n)
  if not p then return nil, err, partial end
  local code = C.rille_linkbuffer_skip(C.rille_conn_input(p), n)
  if code ~= 0 then return nil, text[-code] end
  return true
end

function Conn:read_string(n)
  check_size(n, "read_string")
  local p, err, partial = wait_input(self, n)
  if not p then return nil, err, partial end
  return LinkBuffer.read_string(C.rille_conn_input(p), n)
end

function Conn:read_byte()
  local p, err = wait_input(self, 1)
  if not p then return nil, err end
  return C.rille_linkbuffer_read_byte(C.rille_conn_input(p))
end

function Conn:take(n)
  check_size(n, "take")
  local p, err, partial = wait_input(self, n)
  if not p then return nil, err, partial end
  return LinkBuffer.take(C.rille_conn_input(p), n)
end

-- Does not park: looks at what is there.
function Conn:index_of(delim, from)
  local p = self._p
  if not p then return gone(self) end
  if C.rille_conn_is_http(p) == 1 then return nil, "busy" end
  return LinkBuffer.index_of(C.rille_conn_input(p), delim, from)
end

function Conn:len()
  local p = self._p
  return p and C.rille_conn_len(p) or 0
end

function Conn:release()
  local p = self._p
  if p then C.rille_conn_release(p) end
  return true
end

return M
