-- conn_write: the writing methods of a connection. What is written is buffered and sent at the end of the turn; above the
-- high-water mark the writer parks until half of it is gone, and flush parks until all is.

local C = require "rille.core"
local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local gone = require("rille.conn_read").gone
local misuse = require "rille.misuse"
local task = require "rille.task"
local timer = require "rille.timer"

local type = type
local istype = ffi.istype
local slice_t, buffer_t = Slice.type, LinkBuffer.type
local text = errors.text
local PARK = C.RILLE_PARK

local Conn = {}
local err_box = ffi.new("int[1]")

local writers = {} -- by slot; the fibers that are parked writing, oldest first

local M = { methods = Conn }

-- ---- parking ---------------------------------------------------------------------------------------------------

-- The WRITE event.
function M.resume(slot)
  local list = writers[slot]
  if not list then return end
  writers[slot] = false
  for i = 1, #list do
    if list[i].parked and not list[i].queued then task.resume(list[i]) end
  end
end

local function cancel(arg)
  local list = writers[arg.slot]
  for i = 1, list and #list or 0 do
    if list[i] == arg.fiber then
      table.remove(list, i)
      return
    end
  end
end

-- The connection in the slot is over: see conn_read.lua.
function M.forget(slot)
  local list = writers[slot]
  writers[slot] = false
  for i = 1, list and #list or 0 do task.wake(list[i]) end
end

function M.reset()
  writers = {}
end

-- The running task waits for the WRITE event. What unwatch() takes to end that.
local function watch(self)
  local slot = self._slot
  local list = writers[slot]
  if not list then
    list = {}
    writers[slot] = list
  end
  local fiber = task.current()
  list[#list + 1] = fiber
  return { slot = slot, fiber = fiber }
end

M.watch, M.unwatch = watch, cancel

local function park(self)
  task.park(cancel, watch(self))
end

-- The same for at most so many seconds (nil: for ever). True, or nil, "timeout".
function M.park_within(self, seconds)
  local _, late = timer.park(seconds, cancel, watch(self))
  if late then return nil, late end
  return true
end

-- ---- methods ---------------------------------------------------------------------------------------------------

-- 0 of C is true, an error is nil and its text.
local function result(code)
  if code ~= 0 then return nil, text[-code] end
  return true
end
M.result = result

-- Above the high-water mark: the bytes are taken; park until half of it is sent, or until at most `level` bytes wait.
local function write_slow(self, code, level)
  while code == PARK do
    park(self)
    local p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_wait_output(p, level or -1)
  end
  return result(code)
end

M.slow = write_slow

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
    park(self)
    p = self._p
    if not p then return gone(self) end
    code = C.rille_conn_wait_output(p, 0)
  end
  return result(code)
end

function Conn:send(x)
  local ok, err = self:write(x)
  if not ok then return nil, err end
  return self:flush()
end

-- The LinkBuffer's writer methods, on the output. What they reserve must be filled before the handler parks or returns.
local function reserved(self)
  local p = self._p
  if not p then return gone(self) end
  if C.rille_conn_is_http(p) == 1 then return nil, "busy" end
  local out = C.rille_conn_output(p, err_box)
  if out == nil then return nil, text[-err_box[0]] end
  return out
end

local function output(self)
  local p = self._p
  if not p then return gone(self) end
  local code = C.rille_conn_throttle(p)
  if code ~= 0 then
    local ok, why = write_slow(self, code)
    if not ok then return nil, why end
  end
  return reserved(self)
end

-- These look at what is reserved; to park before them would send it unfilled.
for _, name in ipairs { "malloc_ack", "malloc_len" } do
  local method = LinkBuffer[name]
  Conn[name] = function(self, n)
    local out, err = reserved(self)
    if not out then return nil, err end
    return method(out, n)
  end
end

for _, name in ipairs {
  "malloc", "write_byte", "write_direct", "append", "write_varint", "pack",
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

-- x as a frame of a codec, that of the connection's input if none is named.
function Conn:write_frame(x, codec)
  codec = codec or self._codec
  if type(codec) ~= "table" or type(codec.encode) ~= "function" then
    misuse("write_frame: the connection has no codec with a function 'encode', and none is given")
  end
  if not codec.put then return codec.encode(self, x) end -- one written in Lua
  local out, err = output(self)
  if not out then return nil, err end
  return codec:put(out, x)
end

function Conn:send_frame(x, codec)
  local ok, err = self:write_frame(x, codec)
  if not ok then return nil, err end
  return self:flush()
end

return M
