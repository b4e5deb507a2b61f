-- linkbuffer: byte buffers that grow by linking blocks and hand out slices of them without a copy. docs/linkbuffer.md
-- has the user's view; core/linkbuffer*.c does the work.
--
-- A LinkBuffer is a cdata pointer whose methods are these functions. One thread may read it while another one writes
-- it. Calls return nil, err when they fail and have changed nothing then: "short" (fewer bytes there than asked for),
-- "invalid argument" (negative or fractional lengths, ...), "too large" (above 1 GiB), "read only" (a buffer of
-- take()), "closed", "no memory". Wrong types and expired slices raise.

local C = require "rille.core" -- first: it says so when this is not LuaJIT

local ffi = require "ffi"

local Slice = require "rille.slice"
local errors = require "rille.errors"
local leaks = require "rille.leaks"
local misuse = require "rille.misuse"
local pack = require "rille.pack"

local registry = debug.getregistry()
if registry["rille.linkbuffer"] then return registry["rille.linkbuffer"] end -- a metatype is made once: see core.lua

local floor, type = math.floor, type
local istype, to_string = ffi.istype, ffi.string
local text = errors.text
local slice_t = Slice.type
local buffer_t = ffi.typeof("rille_linkbuffer *")
local u64_t, i64_t = ffi.typeof("uint64_t"), ffi.typeof("int64_t")
local bytes_t = ffi.typeof("uint8_t[?]")

local COPY_MAX = 4096 -- RILLE_COPY_MAX in core/node.h

local scratch = ffi.new("rille_slice[1]")
local err_box = ffi.new("int[1]")
local stats_box = ffi.new("rille_block_stats")
local float = ffi.new("union { uint32_t u32; float f32; uint64_t u64; double f64; }")

-- The pointers that FFI lets through, nil most of all, are stopped here; so the hot path compares two types and no
-- more.
local function bad_argument(self, position, name, expected, value)
  if not istype(buffer_t, self) then
    misuse("'%s' wants a LinkBuffer in front of the colon, got %s", name, type(self))
  end
  misuse("bad argument #%d to '%s' (%s expected, got %s)", position, name, expected, type(value))
end

local function expired()
  misuse("slice expired: its buffer was released or closed; retain() keeps a slice")
end

-- What a writing call in C returned.
local function written(code)
  if code == 0 then return true end
  if code == C.RILLE_ERR_EXPIRED then expired() end
  return nil, text[-code]
end

local LinkBuffer = { type = buffer_t }

-- A new empty buffer. block_size (4096): how many bytes the blocks it grows by have at least, 1 to 8 MiB.
function LinkBuffer.new(block_size)
  if block_size == nil then block_size = 4096 end
  if type(block_size) ~= "number" then
    misuse("bad argument #1 to 'new' (number expected, got %s)", type(block_size))
  end
  local buffer = C.rille_linkbuffer_new(block_size, err_box)
  if buffer == nil then return nil, text[-err_box[0]] end
  if leaks.on then leaks.made("buffer", buffer) end
  return ffi.gc(buffer, C.rille_linkbuffer_free)
end

-- Whether x is a LinkBuffer; x may be anything.
function LinkBuffer.is(x)
  return istype(buffer_t, x)
end

-- What the process holds: blocks_in_use, bytes_in_use (of the blocks handed out), cached_blocks, cached_bytes (kept for
-- reuse), slices_retained, slices_leaked (retained ones the collector had to free), buffers_in_use (not closed).
function LinkBuffer.stats()
  C.rille_block_stats_read(stats_box)
  return {
    blocks_in_use = stats_box.blocks_in_use,
    bytes_in_use = stats_box.bytes_in_use,
    cached_blocks = stats_box.cached_blocks,
    cached_bytes = stats_box.cached_bytes,
    slices_retained = stats_box.slices_retained,
    slices_leaked = stats_box.slices_leaked,
    buffers_in_use = stats_box.buffers_in_use,
  }
end

-- ---- reading ---------------------------------------------------------------------------------------------------

-- Readable bytes; 0 when closed.
function LinkBuffer:len()
  if not self then bad_argument(self, 0, "len") end
  return C.rille_linkbuffer_len(self)
end

-- A slice over the next n bytes, which are consumed. Valid until release() or close(). No copy when they lie in one
-- block; else one copy into a block that lives as long. "short" consumes nothing.
function LinkBuffer:next(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "next", "number", n) end
  local code = C.rille_linkbuffer_next(self, n, scratch)
  if code ~= 0 then return nil, text[-code] end
  local s = scratch[0]
  return slice_t(s.base_, s.cell_, s.block_, s.size_, s.epoch_)
end

-- As next, but the bytes stay.
function LinkBuffer:peek(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "peek", "number", n) end
  local code = C.rille_linkbuffer_peek(self, n, scratch)
  if code ~= 0 then return nil, text[-code] end
  local s = scratch[0]
  return slice_t(s.base_, s.cell_, s.block_, s.size_, s.epoch_)
end

-- Consume n bytes. true, or nil, err.
function LinkBuffer:skip(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "skip", "number", n) end
  local code = C.rille_linkbuffer_skip(self, n)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- A slice through the first delim (a string of 1 byte or more), delim included; consumed, valid as that of next.
-- "short" when delim is not there yet.
function LinkBuffer:read_until(delim)
  if type(delim) ~= "string" or not self then bad_argument(self, 1, "read_until", "string", delim) end
  local code = C.rille_linkbuffer_read_until(self, delim, #delim, scratch)
  if code ~= 0 then return nil, text[-code] end
  local s = scratch[0]
  return slice_t(s.base_, s.cell_, s.block_, s.size_, s.epoch_)
end

-- Offset of the first delim at or after offset from (0), counted from the read cursor, starting at 0. nil when there is
-- none; nil, err when the call is wrong.
function LinkBuffer:index_of(delim, from)
  if type(delim) ~= "string" or not self then bad_argument(self, 1, "index_of", "string", delim) end
  if from == nil then from = 0 end
  if type(from) ~= "number" then bad_argument(self, 2, "index_of", "number", from) end
  local at = C.rille_linkbuffer_index_of(self, delim, #delim, from)
  if at >= 0 then return at end
  if at == -1 then return nil end
  return nil, text[-(at + 1)]
end

-- The next n bytes as a Lua string (a copy), consumed.
function LinkBuffer:read_string(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "read_string", "number", n) end
  local p = C.rille_linkbuffer_front_bytes(self, n)
  if p ~= nil then
    local s = to_string(p, n)
    C.rille_linkbuffer_skip(self, n)
    return s
  end
  -- over several blocks, empty, or an error
  local bytes = n > 0 and n <= C.rille_linkbuffer_len(self) and bytes_t(n) or nil
  local code = C.rille_linkbuffer_read_copy(self, bytes, n)
  if code ~= 0 then return nil, text[-code] end
  return bytes and to_string(bytes, n) or ""
end

-- The next byte as a number, consumed.
function LinkBuffer:read_byte()
  if not self then bad_argument(self, 0, "read_byte") end
  local code = C.rille_linkbuffer_read_byte(self)
  if code < 0 then return nil, text[-code] end
  return code
end

-- Consume n bytes into a new read-only LinkBuffer over the same blocks, without a copy. It has a life of its own, may
-- be handed to another thread, and wants its own close().
function LinkBuffer:take(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "take", "number", n) end
  local buffer = C.rille_linkbuffer_take(self, n, err_box)
  if buffer == nil then return nil, text[-err_box[0]] end
  if leaks.on then leaks.made("buffer", buffer) end
  return ffi.gc(buffer, C.rille_linkbuffer_free)
end

-- Expire every slice of this buffer that is not retained, and give the blocks back that are read to the end. true.
function LinkBuffer:release()
  if not self then bad_argument(self, 0, "release") end
  C.rille_linkbuffer_release(self)
  return true
end

-- The end of the buffer: as release, and all blocks go, read or not. Later calls return nil, "closed". Harmless
-- twice. true.
function LinkBuffer:close()
  if not self then bad_argument(self, 0, "close") end
  C.rille_linkbuffer_close(self)
  if leaks.on then leaks.gone("buffer", self) end
  return true
end

-- ---- writing ---------------------------------------------------------------------------------------------------
-- What is written can be read after flush().

-- A `uint8_t *` to n contiguous bytes to fill, valid until flush(). Their content is undefined before.
function LinkBuffer:malloc(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "malloc", "number", n) end
  local p = C.rille_linkbuffer_malloc(self, n, err_box)
  if err_box[0] ~= 0 then return nil, text[-err_box[0]] end
  return p
end

-- Keep the first n of all unflushed bytes, whatever call they came from, and drop the others. "invalid argument" when
-- there are fewer.
function LinkBuffer:malloc_ack(n)
  if type(n) ~= "number" or not self then bad_argument(self, 1, "malloc_ack", "number", n) end
  return written(C.rille_linkbuffer_malloc_ack(self, n))
end

-- Unflushed bytes.
function LinkBuffer:malloc_len()
  if not self then bad_argument(self, 0, "malloc_len") end
  return C.rille_linkbuffer_malloc_len(self)
end

-- Append x: a string (copied), a slice, or what can be read of another LinkBuffer (which stays as it is). Slices and
-- buffers of more than 4096 bytes are linked, not copied. true, or nil, err.
function LinkBuffer:write(x)
  if not self then bad_argument(self, 0, "write") end
  local code
  if type(x) == "string" then
    code = C.rille_linkbuffer_write(self, x, #x)
  elseif istype(slice_t, x) then
    if x.size_ <= COPY_MAX then -- field by field: a slice whose address is taken is garbage
      if x.cell_.epoch ~= x.epoch_ then expired() end
      code = C.rille_linkbuffer_write(self, x.base_, x.size_)
    else
      code = C.rille_linkbuffer_write_slice(self, x)
    end
  elseif istype(buffer_t, x) then
    code = C.rille_linkbuffer_write_buffer(self, x)
  else
    bad_argument(self, 1, "write", "string, slice or LinkBuffer", x)
  end
  if code ~= 0 then return written(code) end
  return true
end

-- Insert x (as for write) in front of the last `remain` (0) unflushed bytes. Slices and buffers are linked whatever
-- their size. "invalid argument" when fewer bytes are unflushed.
function LinkBuffer:write_direct(x, remain)
  if remain == nil then remain = 0 end
  if type(remain) ~= "number" or not self then bad_argument(self, 2, "write_direct", "number", remain) end
  if type(x) == "string" then return written(C.rille_linkbuffer_write_direct(self, x, #x, remain)) end
  if istype(slice_t, x) then return written(C.rille_linkbuffer_write_direct_slice(self, x, remain)) end
  if istype(buffer_t, x) then return written(C.rille_linkbuffer_write_direct_buffer(self, x, remain)) end
  bad_argument(self, 1, "write_direct", "string, slice or LinkBuffer", x)
end

-- Move all blocks of another LinkBuffer to the end of this one, without a copy; other is empty and usable afterwards,
-- its slices expire. What was flushed in other can be read at once if nothing is unflushed here, else after flush().
function LinkBuffer:append(other)
  if not istype(buffer_t, other) or not self then bad_argument(self, 1, "append", "LinkBuffer", other) end
  return written(C.rille_linkbuffer_append(self, other))
end

-- Make all that was written readable. true, or nil, err.
function LinkBuffer:flush()
  if not self then bad_argument(self, 0, "flush") end
  return written(C.rille_linkbuffer_flush(self))
end

-- ---- writing scalars -------------------------------------------------------------------------------------------
-- The mirror of the slice's readers: most significant byte first, or "le". A value that does not fit is "invalid
-- argument".

local function is_little(self, order, name)
  if order == nil or order == "be" then return 0 end
  if order ~= "le" then
    if type(order) ~= "string" then bad_argument(self, 2, name, '"le" or "be"', order) end
    misuse("bad argument #2 to '%s' (\"le\" or \"be\" expected, got '%s')", name, order)
  end
  return 1
end

local function write_scalar(self, value, size, order, name)
  local code = C.rille_linkbuffer_write_scalar(self, value, size, is_little(self, order, name))
  if code ~= 0 then return written(code) end
  return true
end

-- A writer of integers from low to high in `size` bytes.
local function integer_writer(name, size, low, high)
  return function(self, value, order)
    if type(value) ~= "number" or not self then bad_argument(self, 1, name, "number", value) end
    if not (value >= low and value <= high) or value ~= floor(value) then return nil, "invalid argument" end
    if value < 0 then value = value + 256 ^ size end
    return write_scalar(self, value, size, order, name)
  end
end

for size, bits in ipairs { 8, 16, 24, 32 } do
  local unsigned, signed = "write_u" .. bits, "write_i" .. bits
  LinkBuffer[unsigned] = integer_writer(unsigned, size, 0, 2 ^ bits - 1)
  LinkBuffer[signed] = integer_writer(signed, size, -2 ^ (bits - 1), 2 ^ (bits - 1) - 1)
end

LinkBuffer.write_byte = LinkBuffer.write_u8

-- A value for 64 bits: a whole number or 64-bit cdata within low .. below high, as uint64_t; nil when it is outside.
local function to_64(self, value, name, is_signed)
  if type(value) == "number" then
    if value ~= floor(value) then return nil end
    if is_signed then
      if value >= -2 ^ 63 and value < 2 ^ 63 then return ffi.cast(u64_t, i64_t(value)) end
    elseif value >= 0 and value < 2 ^ 64 then
      return u64_t(value)
    end
    return nil
  end
  if istype(i64_t, value) then
    if not is_signed and value < 0 then return nil end
    return ffi.cast(u64_t, value)
  end
  if istype(u64_t, value) then
    if is_signed and ffi.cast(i64_t, value) < 0 then return nil end
    return value
  end
  bad_argument(self, 1, name, "number or 64-bit cdata", value)
end

function LinkBuffer:write_u64(value, order)
  if not self then bad_argument(self, 0, "write_u64") end
  local bits = to_64(self, value, "write_u64", false)
  if not bits then return nil, "invalid argument" end
  return write_scalar(self, bits, 8, order, "write_u64")
end

function LinkBuffer:write_i64(value, order)
  if not self then bad_argument(self, 0, "write_i64") end
  local bits = to_64(self, value, "write_i64", true)
  if not bits then return nil, "invalid argument" end
  return write_scalar(self, bits, 8, order, "write_i64")
end

-- 8 bytes of a whole number below 2^53.
LinkBuffer.write_u53 = integer_writer("write_u53", 8, 0, 2 ^ 53 - 1)

function LinkBuffer:write_f32(value, order)
  if type(value) ~= "number" or not self then bad_argument(self, 1, "write_f32", "number", value) end
  float.f32 = value
  return write_scalar(self, float.u32, 4, order, "write_f32")
end

function LinkBuffer:write_f64(value, order)
  if type(value) ~= "number" or not self then bad_argument(self, 1, "write_f64", "number", value) end
  float.f64 = value
  return write_scalar(self, float.u64, 8, order, "write_f64")
end

-- An unsigned LEB128 integer, 1 to 10 bytes: a whole number or 64-bit cdata, 0 or more.
function LinkBuffer:write_varint(value)
  if not self then bad_argument(self, 0, "write_varint") end
  local bits = to_64(self, value, "write_varint", false)
  if not bits then return nil, "invalid argument" end
  return written(C.rille_linkbuffer_write_varint(self, bits))
end

-- Append values in the binary format fmt: those of Lua 5.3's string.pack; native byte order unless < or > stands
-- before. true, or nil, err: "invalid argument" when a value does not fit. Raises for a bad format and for values of
-- a wrong type.
function LinkBuffer:pack(fmt, ...)
  if not self then bad_argument(self, 0, "pack") end
  return pack.pack(self, fmt, ...)
end

ffi.metatype("rille_linkbuffer", {
  __index = LinkBuffer,
  __len = LinkBuffer.len,
  __tostring = function(self)
    return ("LinkBuffer (%d bytes readable, %d unflushed)"):format(self:len(), self:malloc_len())
  end,
})

registry["rille.linkbuffer"] = LinkBuffer
return LinkBuffer
