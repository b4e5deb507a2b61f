-- slice: a borrowed view of bytes in the blocks of a LinkBuffer or a connection. See docs/linkbuffer.md.
--
-- A slice is the plain C struct rille_slice, held by value. Each method first compares the slice's epoch with that of
-- the cell it came from; they differ once the buffer was released, and the method raises "slice expired" instead of
-- reading. Every slice is made by the constructor below from a struct that C filled: this the JIT compiler sinks, so
-- a slice that does not leave a trace costs no garbage. (Letting C fill the slice itself would always allocate it.)

local C = require "rille.core" -- first: it says so when this is not LuaJIT

local bit = require "bit"
local ffi = require "ffi"

local leaks = require "rille.leaks"
local misuse = require "rille.misuse"

local registry = debug.getregistry()
if registry["rille.slice"] then return registry["rille.slice"] end -- a metatype is made once in a state: see core.lua

local pack = require "rille.pack"

local floor, tostring, type = math.floor, tostring, type
local istype, to_string = ffi.istype, ffi.string
local slice_t = ffi.typeof("rille_slice")

local methods = {}
local Slice = { type = slice_t, methods = methods } -- udp.lua adds what a datagram has besides

local function expired()
  misuse("slice expired: its buffer was released or closed; retain() keeps a slice")
end

local function bad_argument(position, name, expected, value)
  misuse("bad argument #%d to '%s' (%s expected, got %s)", position, name, expected, type(value))
end

-- ---- making ----------------------------------------------------------------------------------------------------

-- The slice that C described in the first element of a `rille_slice[1]`.
local function new_from(scratch)
  local s = scratch[0]
  return slice_t(s.base_, s.cell_, s.block_, s.size_, s.epoch_)
end
Slice.new_from = new_from

local nothing = C.rille_cell_of_nothing()

-- A slice of no bytes that never expires.
function Slice.empty()
  return slice_t(nil, nothing, nil, 0, 0)
end

-- Whether x is a slice; x may be anything.
local function is(x)
  return istype(slice_t, x)
end
Slice.is = is

-- ---- retained slices -------------------------------------------------------------------------------------------

-- The leak detector has a record of this slice, which tells who retained it should the collector have to free it.
local function watch(slice, record)
  ffi.gc(slice, function(collected)
    local is_leak = C.rille_slice_is_retained(collected) == 1
    C.rille_slice_collect(collected)
    if is_leak then pcall(leaks.collected, record) end -- a finalizer raises wherever the collector happens to run
  end)
end

-- Keep the bytes beyond the life of the buffer: counts a reference, which release() drops. Each call wants one
-- release(). Returns the same slice. It may then be handed to another thread; slices cut from it with sub() live as
-- long as it does. A retained slice that is collected without release() frees its block, and stats() counts it as
-- leaked.
function methods:retain()
  local code = C.rille_slice_retain(self)
  if code == C.RILLE_ERR_EXPIRED then expired() end
  if code ~= 0 then return nil, to_string(C.rille_err_text(code)) end
  ffi.gc(self, C.rille_slice_collect)
  if leaks.on then
    local record = leaks.made("slice", self)
    if record then watch(self, record) end
  end
  return self
end

-- Drop a reference of retain(). With the last one the slice expires and its block may be used again. Harmless on a
-- slice that is not retained, or expired. Returns true.
function methods:release()
  if C.rille_slice_release(self) == 0 then
    ffi.gc(self, nil)
    if leaks.on then leaks.gone("slice", self) end
  end
  return true
end

-- Whether the bytes may still be looked at.
function methods:is_valid()
  return self.cell_.epoch == self.epoch_
end

-- A retained slice for Lua from a `rille_slice[1]` that holds a counted reference (rille_slice_retain,
-- rille_slice_copy), which now belongs to the result. place: for leaks, where no line of a script made it.
function Slice.adopt(scratch, place)
  local slice = ffi.gc(new_from(scratch), C.rille_slice_collect)
  if leaks.on then
    local record = leaks.made("slice", slice, place or "received from another thread")
    if record then watch(slice, record) end
  end
  return slice
end

-- ---- bytes -----------------------------------------------------------------------------------------------------

-- Length in bytes.
function methods:len()
  if self.cell_.epoch ~= self.epoch_ then expired() end
  return self.size_
end

-- The bytes as a Lua string (a copy). tostring() does the same.
function methods:str()
  if self.cell_.epoch ~= self.epoch_ then expired() end
  return to_string(self.base_, self.size_)
end

-- A `const uint8_t *` to the bytes, and their number. The pointer is valid as long as the slice is.
function methods:ptr()
  if self.cell_.epoch ~= self.epoch_ then expired() end
  return self.base_, self.size_
end

-- The byte at position i (1; counted from 1, negative from the end): 0..255, or nil beyond the ends. With j all bytes
-- from i to j, as string.byte.
function methods:byte(i, j)
  if i == nil then i = 1 end
  if type(i) ~= "number" then bad_argument(1, "byte", "number", i) end
  if self.cell_.epoch ~= self.epoch_ then expired() end
  if j then return to_string(self.base_, self.size_):byte(i, j) end
  if i < 0 then i = self.size_ + i + 1 end
  if i < 1 or i > self.size_ then return nil end
  return self.base_[i - 1]
end

-- The bytes from i to j (-1), counted as string.sub does, as a slice over the same memory: no copy. It expires when
-- this one does; the whole range gives this very slice.
function methods:sub(i, j)
  if type(i) ~= "number" then bad_argument(1, "sub", "number", i) end
  if j == nil then j = -1 end
  if type(j) ~= "number" then bad_argument(2, "sub", "number", j) end
  if self.cell_.epoch ~= self.epoch_ then expired() end
  local size = self.size_
  if i < 0 then
    i = size + i + 1
    if i < 1 then i = 1 end
  elseif i < 1 then
    i = 1
  end
  if j < 0 then j = size + j + 1 elseif j > size then j = size end
  if i > j then return slice_t(self.base_, self.cell_, nil, 0, self.epoch_) end
  i, j = floor(i), floor(j)
  if i == 1 and j == size then return self end
  return slice_t(self.base_ + (i - 1), self.cell_, self.block_, j - i + 1, self.epoch_)
end

-- The first place of text (a string or slice, taken literally) at or after position init (1): its first and last
-- position, or nil.
function methods:find(text, init)
  if init == nil then init = 1 end
  if type(init) ~= "number" then bad_argument(2, "find", "number", init) end
  if self.cell_.epoch ~= self.epoch_ then expired() end
  if init < 0 then init = self.size_ + init + 1 end
  if init < 1 then init = 1 end
  local at, size
  if type(text) == "string" then
    size = #text
    at = C.rille_bytes_find(self.base_, self.size_, text, size, init - 1)
  elseif istype(slice_t, text) then
    if text.cell_.epoch ~= text.epoch_ then expired() end
    size = text.size_
    at = C.rille_bytes_find(self.base_, self.size_, text.base_, size, init - 1)
  else
    bad_argument(1, "find", "string or slice", text)
  end
  if at < 0 then return nil end
  return at + 1, at + size
end

-- The number the bytes spell, as the function tonumber(text, base) reads it, or nil. Plain decimal integers of up to 15
-- digits are read without making a string.
function methods:tonumber(base)
  if self.cell_.epoch ~= self.epoch_ then expired() end
  local p, size = self.base_, self.size_
  if (base == nil or base == 10) and size > 0 and size <= 16 then
    local is_negative = p[0] == 45
    local first = is_negative and 1 or 0
    local value, digits = 0, size - first
    if digits >= 1 and digits <= 15 then
      for i = first, size - 1 do
        local digit = p[i] - 48
        if digit < 0 or digit > 9 then
          digits = 0
          break
        end
        value = value * 10 + digit
      end
      if digits > 0 then return is_negative and -value or value end
    end
  end
  return tonumber(to_string(p, size), base)
end

local hex_of = {}
for i = 0, 255 do hex_of[i] = bit.tohex(i, 2) end

-- Lower-case hex digits of the first max bytes (default all), two for each, as a string.
function methods:hex(max)
  if max == nil then max = self.size_ end
  if type(max) ~= "number" then bad_argument(1, "hex", "number", max) end
  if self.cell_.epoch ~= self.epoch_ then expired() end
  local digits = {}
  for i = 1, max < self.size_ and max or self.size_ do digits[i] = hex_of[self.base_[i - 1]] end
  return table.concat(digits)
end

-- The values that fmt describes (formats of Lua 5.3's string.unpack; native byte order unless < or > stands before),
-- starting at position pos (1, negative from the end), and the position behind them. `nil, "short"` when the slice
-- ends before; `nil, "invalid argument"` when pos is outside or an integer of more than 8 bytes does not fit.
-- Integers beyond 2^53 come as 64-bit cdata. Raises for a bad format.
function methods:unpack(fmt, pos)
  if pos == nil then pos = 1 end
  if type(pos) ~= "number" then bad_argument(2, "unpack", "number", pos) end
  if self.cell_.epoch ~= self.epoch_ then expired() end
  if pos < 0 then pos = self.size_ + pos + 1 end
  if pos < 1 or pos > self.size_ + 1 or pos ~= floor(pos) then return nil, "invalid argument" end
  return pack.unpack(fmt, self.base_, self.size_, pos - 1)
end

-- ---- scalars ---------------------------------------------------------------------------------------------------
-- Each takes the offset off (0, counted from 0) and the byte order: most significant byte first, or "le". `nil,
-- "short"` when the slice ends before, `nil, "invalid argument"` when off is negative or has a fraction.

-- Where the scalar stands, or nil, err.
local function at(self, off, order, size)
  if type(off) ~= "number" then misuse("bad argument #1 (offset: number expected, got %s)", type(off)) end
  if order ~= nil and order ~= "le" and order ~= "be" then
    misuse('bad argument #2 (byte order: "le" or "be" expected, got %s)', tostring(order))
  end
  if self.cell_.epoch ~= self.epoch_ then expired() end
  if off < 0 or off ~= floor(off) then return nil, "invalid argument" end
  if off + size > self.size_ then return nil, "short" end
  return self.base_ + off
end

local function u8(self, off)
  local p, err = at(self, off or 0, nil, 1)
  if not p then return nil, err end
  return p[0]
end

local function u16(self, off, order)
  local p, err = at(self, off or 0, order, 2)
  if not p then return nil, err end
  if order == "le" then return p[1] * 0x100 + p[0] end
  return p[0] * 0x100 + p[1]
end

local function u24(self, off, order)
  local p, err = at(self, off or 0, order, 3)
  if not p then return nil, err end
  if order == "le" then return p[2] * 0x10000 + p[1] * 0x100 + p[0] end
  return p[0] * 0x10000 + p[1] * 0x100 + p[2]
end

local function u32(self, off, order)
  local p, err = at(self, off or 0, order, 4)
  if not p then return nil, err end
  if order == "le" then return p[3] * 0x1000000 + p[2] * 0x10000 + p[1] * 0x100 + p[0] end
  return p[0] * 0x1000000 + p[1] * 0x10000 + p[2] * 0x100 + p[3]
end

-- Both halves of 8 bytes, the more significant one first.
local function halves(self, off, order)
  off = off or 0
  local p, err = at(self, off, order, 8)
  if not p then return nil, err end
  if order == "le" then return u32(self, off + 4, order), u32(self, off, order) end
  return u32(self, off, order), u32(self, off + 4, order)
end

methods.u8, methods.u16, methods.u24, methods.u32 = u8, u16, u24, u32

function methods:i8(off)
  local v, err = u8(self, off)
  if v and v >= 0x80 then v = v - 0x100 end
  return v, err
end

function methods:i16(off, order)
  local v, err = u16(self, off, order)
  if v and v >= 0x8000 then v = v - 0x10000 end
  return v, err
end

function methods:i24(off, order)
  local v, err = u24(self, off, order)
  if v and v >= 0x800000 then v = v - 0x1000000 end
  return v, err
end

function methods:i32(off, order)
  local v, err = u32(self, off, order)
  if v and v >= 0x80000000 then v = v - 0x100000000 end
  return v, err
end

-- 8 bytes as a Lua number; nil, "too large" from 2^53 on.
function methods:u53(off, order)
  local high, low = halves(self, off, order)
  if not high then return nil, low end
  if high >= 0x200000 then return nil, "too large" end
  return high * 0x100000000 + low
end

local u64_t, i64_t = ffi.typeof("uint64_t"), ffi.typeof("int64_t")
local TWO_53 = u64_t(0x20000000000000)

-- 8 bytes as uint64_t cdata.
function methods:u64(off, order)
  local high, low = halves(self, off, order)
  if not high then return nil, low end
  return u64_t(high) * 0x100000000 + low
end

-- 8 bytes as int64_t cdata.
function methods:i64(off, order)
  local high, low = halves(self, off, order)
  if not high then return nil, low end
  return ffi.cast(i64_t, u64_t(high) * 0x100000000 + low)
end

local float = ffi.new("union { uint32_t u32; float f32; uint64_t u64; double f64; }")

-- 4 bytes, an IEEE 754 single.
function methods:f32(off, order)
  local v, err = u32(self, off, order)
  if not v then return nil, err end
  float.u32 = v
  return float.f32
end

-- 8 bytes, an IEEE 754 double.
function methods:f64(off, order)
  local high, low = halves(self, off, order)
  if not high then return nil, low end
  float.u64 = u64_t(high) * 0x100000000 + low
  return float.f64
end

local function long_varint(self, off)
  local value, scale = u64_t(0), u64_t(1)
  for i = 0, 9 do
    if off + i >= self.size_ then return nil, "short" end
    local byte = self.base_[off + i]
    if i == 9 and byte > 1 then return nil, "invalid argument" end
    value = value + (byte % 128) * scale
    if byte < 128 then
      if value < TWO_53 then return tonumber(value), off + i + 1 end
      return value, off + i + 1
    end
    scale = scale * 128
  end
end

-- The unsigned LEB128 integer at offset off (0) and the offset behind it. A Lua number below 2^53, else uint64_t cdata.
-- `nil, "short"` when the slice ends before; `nil, "invalid argument"` when it is wider than 64 bits.
function methods:varint(off)
  off = off or 0
  local p, err = at(self, off, nil, 1)
  if not p then return nil, err end
  local byte = p[0]
  if byte < 128 then return byte, off + 1 end
  local value, scale = byte - 128, 128
  local stop = self.size_ - off
  if stop > 7 then stop = 7 end -- 7 x 7 bits are exact in a double
  for i = 1, stop - 1 do
    byte = p[i]
    if byte < 128 then return value + byte * scale, off + i + 1 end
    value = value + (byte - 128) * scale
    scale = scale * 128
  end
  return long_varint(self, off)
end

-- ---- operators -------------------------------------------------------------------------------------------------

-- Below, at or above 0 as the bytes of a stand before, equal to or behind those of b; strings and slices.
local function compare(a, b)
  local a_bytes, a_size, b_bytes, b_size
  if type(a) == "string" then
    a_bytes, a_size = a, #a
  elseif istype(slice_t, a) then
    if a.cell_.epoch ~= a.epoch_ then expired() end
    a_bytes, a_size = a.base_, a.size_
  else
    misuse("attempt to compare %s with slice", type(a))
  end
  if type(b) == "string" then
    b_bytes, b_size = b, #b
  elseif istype(slice_t, b) then
    if b.cell_.epoch ~= b.epoch_ then expired() end
    b_bytes, b_size = b.base_, b.size_
  else
    misuse("attempt to compare slice with %s", type(b))
  end
  return C.rille_bytes_compare(a_bytes, a_size, b_bytes, b_size)
end

-- req:query(name) is a call of the slice req.query: http/query.lua puts itself here.
function Slice.call()
  misuse("attempt to call a slice")
end

local metatable = {
  __index = methods,
  __call = function(self, ...) return Slice.call(self, ...) end,
  __len = methods.len,
  __tostring = methods.str,
}

-- Called for every comparison with anything, nil too: nothing here may compare a or b with ==.
function metatable.__eq(a, b)
  if not istype(slice_t, a) then a, b = b, a end
  if type(b) ~= "string" and not istype(slice_t, b) then return false end
  return compare(a, b) == 0
end

function metatable.__lt(a, b)
  return compare(a, b) < 0
end

function metatable.__le(a, b)
  return compare(a, b) <= 0
end

local function as_string(x)
  if type(x) ~= "string" and type(x) ~= "number" and not istype(slice_t, x) then
    misuse("attempt to concatenate a %s value", type(x))
  end
  return tostring(x)
end

function metatable.__concat(a, b)
  return as_string(a) .. as_string(b)
end

ffi.metatype(slice_t, metatable)
registry["rille.slice"] = Slice
return Slice
