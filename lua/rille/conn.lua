-- conn: a connection as scripts see it. One table for each connection that a script has seen and still holds; the C side
-- owns everything else. docs/script.md describes every method.
--
-- A read that cannot be answered parks the task and is asked again when the READ event comes; so does a write above the
-- high-water mark, and flush. Nothing here makes garbage when it need not park.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local state = require "rille.state"
local task = require "rille.task"

local type, rawset = type, rawset
local istype = ffi.istype
local slice_t, new_slice = Slice.type, Slice.new_from
local buffer_t = LinkBuffer.type
local text = errors.text
local PARK = C.RILLE_PARK

local LINE_MAX = 65536

local Conn = {}
local scratch = ffi.new("rille_slice[1]")
local err_box = ffi.new("int[1]")
local scan_box = ffi.new("double[1]")
local name_box = ffi.new("char[?]", 512)

local objects = setmetatable({}, { __mode = "v" }) -- by slot; a table lives while a script holds it
-- By slot; those with something a script put there. Only written: that is what keeps them alive.
local pinned = {} -- luacheck: ignore 241
local readers = {} -- by slot; the fiber that is parked reading
local writers = {} -- by slot; the fibers that are parked writing

local M = { Conn = Conn }

-- ---- tables ----------------------------------------------------------------------------------------------------

local function pin(self)
  local slot = self._slot
  if slot then pinned[slot] = self end
end

local function set_high_water(self, bytes)
  if type(bytes) ~= "number" or not (bytes >= 0) then
    misuse("conn.high_water takes bytes, 0 or more, not %s", tostring(bytes))
  end
  if self._p then C.rille_conn_set(self._p, C.RILLE_SET_HIGH_WATER, bytes) end
end

local metatable = {
  __index = Conn,
  -- Whatever a script keeps in a connection (ctx, most of all) makes the table live as long as the connection does.
  __newindex = function(self, key, value)
    if key == "high_water" then return set_high_water(self, value) end
    pin(self)
    rawset(self, key, value)
  end,
  __tostring = function(self) return ("conn %d %s"):format(self.id, self:peer() or "?") end,
}

local function wrap(p, service)
  local slot = C.rille_conn_slot(p)
  local self = setmetatable({ _p = p, _slot = slot, _on_request = service.on_request or false, id = C.rille_conn_id(p) }, metatable)
  C.rille_conn_know(p)
  objects[slot] = self
  return self
end

-- The table of the connection in a slot; nil when there is none (any more).
function M.at(slot)
  local self = objects[slot]
  if self then return self end
  local p = C.rille_conn_at(state.loop, slot)
  if p == nil then return nil end
  return wrap(p, state.services[C.rille_conn_service(p)])
end

-- A connection made by the script itself, from a pointer of rille_conn_adopt or rille_conn_pair. Without on_request nobody but the script
-- can close it, so losing its table does.
function M.own(p)
  local self = wrap(p, state.services[C.rille_conn_service(p)])
  local id, loop, loop_id = self.id, state.loop, state.loop_id
  rawset(self, "_guard", ffi.gc(ffi.new("char[1]"), function()
    if state.loop == loop and state.loop_id == loop_id then C.rille_conn_abandon(loop, id) end
  end))
  return self
end

-- The connection is over; the table stays what it is for those who hold it.
function M.forget(self, err)
  local slot = self._slot
  self._p, self._slot = false, false
  rawset(self, "_error", err or "closed")
  rawset(self, "_guard", nil)
  objects[slot], pinned[slot] = nil, nil
end

-- ---- events ----------------------------------------------------------------------------------------------------

function M.resume_reader(slot)
  local fiber = readers[slot]
  if not fiber then return end
  readers[slot] = false
  return task.resume(fiber)
end

function M.resume_writers(slot)
  local list = writers[slot]
  if not list then return end
  writers[slot] = false
  for i = 1, #list do
    if list[i].parked and not list[i].queued then task.resume(list[i]) end
  end
end

local function cancel_read(self)
  local slot = self._slot
  if slot and readers[slot] then
    readers[slot] = false
    C.rille_conn_unwant(self._p, 1)
  elseif self._p then
    C.rille_conn_unwant(self._p, 1)
  end
end

local function park_reader(self)
  local fiber = task.current()
  readers[self._slot] = fiber or false
  task.park(cancel_read, self)
  if self._p then C.rille_conn_unwant(self._p, 0) end
end

local function cancel_write(arg)
  local list = writers[arg.slot]
  for i = 1, list and #list or 0 do
    if list[i] == arg.fiber then
      table.remove(list, i)
      return
    end
  end
end

local function park_writer(self)
  local slot = self._slot
  local list = writers[slot]
  if not list then
    list = {}
    writers[slot] = list
  end
  local fiber = task.current()
  list[#list + 1] = fiber
  task.park(cancel_write, { slot = slot, fiber = fiber })
end

-- ---- reading ---------------------------------------------------------------------------------------------------

local function check_size(n, name)
  if type(n) ~= "number" then
    misuse("bad argument #1 to '%s' (a number of bytes expected, got %s)", name, type(n))
  end
end

local function gone(self)
  return nil, self._error or "closed"
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
    park_reader(self)
    p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_want(p, n)
  end
  if code ~= 0 then return failed(self, code) end
  return p
end

local function next_slow(self, n, code)
  while code == PARK do
    park_reader(self)
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
    park_reader(self)
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
    park_reader(self)
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

-- ---- writing ---------------------------------------------------------------------------------------------------

local function write_error(code)
  return nil, text[-code]
end

-- Above the high-water mark: the bytes are taken; park until half of it is sent.
local function write_slow(self, code)
  while code == PARK do
    park_writer(self)
    local p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_wait_output(p, -1)
  end
  if code ~= 0 then return write_error(code) end
  return true
end

local function write_slice(self, p, s)
  if s.cell_.epoch ~= s.epoch_ then misuse("slice expired") end
  local code = C.rille_conn_write_view(p, s.base_, s.size_, s.cell_, s.block_, s.epoch_)
  if code ~= 0 then return write_slow(self, code) end
  return true
end

function Conn:write(x)
  local p = self._p
  if not p then return gone(self) end
  local code
  if type(x) == "string" then
    code = C.rille_conn_write(p, x, #x)
  elseif istype(slice_t, x) then
    return write_slice(self, p, x)
  elseif istype(buffer_t, x) then
    code = C.rille_conn_write_buffer(p, x)
  else
    misuse("bad argument #1 to 'write' (a string, slice or LinkBuffer expected, got %s)", type(x))
  end
  if code ~= 0 then return write_slow(self, code) end
  return true
end

function Conn:flush()
  local p = self._p
  if not p then return gone(self) end
  local code = C.rille_conn_flush(p)
  while code == PARK do
    park_writer(self)
    p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_wait_output(p, 0)
  end
  if code ~= 0 then return write_error(code) end
  return true
end

function Conn:send(x)
  local ok, err = self:write(x)
  if not ok then return nil, err end
  return self:flush()
end

-- The LinkBuffer's writer methods, on the output. What they reserve must be filled before the handler parks or returns.
local function output(self)
  local p = self._p
  if not p then return gone(self) end
  local out = C.rille_conn_output(p, err_box)
  if out == nil then return nil, text[-err_box[0]] end
  return out
end

for _, name in ipairs {
  "malloc", "malloc_ack", "malloc_len", "write_byte", "write_direct", "append", "write_varint", "pack",
  "write_u8", "write_u16", "write_u24", "write_u32", "write_u64",
  "write_i8", "write_i16", "write_i24", "write_i32", "write_i64", "write_f32", "write_f64",
} do
  local method = LinkBuffer[name]
  if name == "pack" then
    Conn[name] = function(self, ...)
      local out, err = output(self)
      if not out then return nil, err end
      return method(out, ...)
    end
  else
    Conn[name] = function(self, a, b)
      local out, err = output(self)
      if not out then return nil, err end
      return method(out, a, b)
    end
  end
end

-- ---- the end ---------------------------------------------------------------------------------------------------

function Conn:close()
  local p = self._p
  if p then C.rille_conn_close(p) end
  return true
end

function Conn:abort()
  local p = self._p
  if p then C.rille_conn_abort(p) end
  return true
end

function Conn:shutdown(how)
  if how ~= "write" then misuse("bad argument #1 to 'shutdown' (\"write\" expected, got %s)", tostring(how)) end
  local p = self._p
  if not p then return gone(self) end
  local code = C.rille_conn_shutdown(p)
  if code ~= 0 then return write_error(code) end
  return true
end

function Conn:detach()
  local ok, err = self:flush()
  if not ok then return nil, err end
  local fd = C.rille_conn_detach(self._p)
  if fd < 0 then return write_error(fd) end
  return fd
end

function Conn:on_close(fn)
  if type(fn) ~= "function" then misuse("bad argument #1 to 'on_close' (function expected, got %s)", type(fn)) end
  if not self._p then
    local err = self._error
    fn(self, err ~= "closed" and err or nil)
    return true
  end
  local closers = self._closers
  if not closers then
    closers = {}
    self._closers = closers -- pins
  end
  closers[#closers + 1] = fn
  return true
end

-- ---- the rest --------------------------------------------------------------------------------------------------

-- fn: a function, or a key of the script's table. codec: { decode = function(conn) -> frame or nil[, err] }.
function Conn:on_request(fn, codec)
  if type(fn) == "string" then
    local key = fn
    fn = type(state.script) == "table" and state.script[key]
    if type(fn) ~= "function" then misuse("the script's table has no function '%s'", key) end
  elseif type(fn) ~= "function" then
    misuse("bad argument #1 to 'on_request' (a function or a key of the script's table expected, got %s)", type(fn))
  end
  local p = self._p
  if not p then return gone(self) end
  if codec then fn = M.framed(fn, codec) end
  self._on_request = fn
  pin(self)
  C.rille_conn_serve(p, 1)
  return true
end

-- A handler of whole frames from a codec written in Lua: decode(conn) returns a frame, nil when it needs more bytes (it must
-- not have consumed any then), or nil and an error, which closes the connection.
function M.framed(fn, codec)
  local decode = type(codec) == "table" and codec.decode
  if type(decode) ~= "function" then misuse("a codec is a table with a function 'decode' (got %s)", type(codec)) end
  return function(conn)
    local frame, err = decode(conn)
    if frame ~= nil then return fn(conn, frame) end
    if err then
      M.log_bad_frame(conn, err)
      conn:close()
    end
  end
end

local function address(fill, self)
  local p = self._p
  if not p then return nil, "closed" end
  local size = tonumber(fill(p, name_box, 512))
  if size == 0 then return nil, "closed" end
  return ffi.string(name_box, size)
end

-- "127.0.0.1:5000"; known until on_close has returned.
function Conn:peer()
  return address(C.rille_conn_peer, self)
end

-- "tcp://127.0.0.1:7000"
function Conn:local_address()
  return address(C.rille_conn_local, self)
end

function Conn:is_active()
  local p = self._p
  return p and C.rille_conn_is_active(p) == 1 or false
end

local timeout_settings = {
  read = C.RILLE_SET_READ, write = C.RILLE_SET_WRITE, idle = C.RILLE_SET_IDLE, lifetime = C.RILLE_SET_LIFETIME,
  linger = C.RILLE_SET_LINGER,
}
M.timeout_settings = timeout_settings

function Conn:set_timeouts(t)
  if type(t) ~= "table" then misuse("bad argument #1 to 'set_timeouts' (table expected, got %s)", type(t)) end
  for name, seconds in pairs(t) do
    if not timeout_settings[name] then
      misuse("set_timeouts has no '%s': it takes read, write, idle, lifetime, linger", tostring(name))
    elseif type(seconds) ~= "number" or not (seconds >= 0) then
      misuse("set_timeouts: %s takes seconds, 0 (none) or more, not %s", name, tostring(seconds))
    end
  end
  local p = self._p
  if not p then return gone(self) end
  for name, seconds in pairs(t) do C.rille_conn_set(p, timeout_settings[name], seconds * 1000) end
  return true
end

function Conn:pause()
  if self._p then C.rille_conn_pause(self._p, 1) end
  return true
end

function Conn:resume()
  if self._p then C.rille_conn_pause(self._p, 0) end
  return true
end

local function result(code)
  if code ~= 0 then return write_error(code) end
  return true
end

function Conn:set_nodelay(on)
  if not self._p then return gone(self) end
  return result(C.rille_conn_set(self._p, C.RILLE_SET_NODELAY, on == false and 0 or 1))
end

-- set_keepalive(false), or (idle seconds[, seconds between probes[, probes]])
function Conn:set_keepalive(idle, interval, count)
  if not self._p then return gone(self) end
  if idle == false then idle = 0 end
  if type(idle) ~= "number" then
    misuse("bad argument #1 to 'set_keepalive' (seconds or false expected, got %s)", type(idle))
  end
  return result(C.rille_conn_keepalive(self._p, idle, interval or 0, count or 0))
end

-- trace(true): every read and write of this connection goes to the log, as hex.
function Conn:trace(on)
  if self._p then C.rille_conn_trace(self._p, on == false and 0 or 1) end
  return true
end

return M
