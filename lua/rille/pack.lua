-- pack: the binary formats of Lua 5.3's string.pack and string.unpack, for slice:unpack and buf:pack.
--
-- A format is compiled once into straight-line Lua, which the JIT compiler takes as it is, and kept. Positions in the
-- generated code are offsets from the start of the data. Packing goes over the values twice: the first pass checks them
-- and adds up the size, so that a wrong value leaves the buffer as it was; the second fills one reservation.
--
-- Differences from Lua 5.3: data that is too short is `nil, "short"` and a value that does not fit its option is
-- `nil, "invalid argument"`, not an error; integers that a double cannot hold are 64-bit cdata, both ways.

local C = require "rille.core" -- first: it says so when this is not LuaJIT

local ffi = require "ffi"

local misuse = require "rille.misuse"

local floor, type = math.floor, type
local istype, to_string = ffi.istype, ffi.string
local u64_t, i64_t = ffi.typeof("uint64_t"), ffi.typeof("int64_t")
local slice_t = ffi.typeof("rille_slice")
local err_box = ffi.new("int[1]")

local NATIVE_LITTLE = ffi.abi("le")
local NATIVE_ALIGN = 8
local INT_MAX_SIZE = 16
local LOCALS_MAX = 120 -- values that get a local of their own in the generated code
local CACHE_MAX = 500  -- formats kept; they are constants of a program, unless it makes them up as it goes

-- Bytes of one scalar in native order.
local scalar = ffi.new("union { uint8_t bytes[8]; uint64_t u64; int64_t i64; float f32; double f64; }")

-- ---- parsing ---------------------------------------------------------------------------------------------------

local SIZES = { b = 1, B = 1, h = 2, H = 2, i = 4, I = 4, l = 8, L = 8, j = 8, J = 8, T = 8, f = 4, n = 8, d = 8 }
local SIGNED = { b = true, h = true, i = true, l = true, j = true }

local function bad_format(name, ...)
  misuse("bad argument #1 to '%s' (%s)", name, string.format(...))
end

-- The items of a format: {kind, size, is_little, align}; kind is int, uint, float, char, string, zstring, padding,
-- align.
local function parse(fmt, name)
  if type(fmt) ~= "string" then bad_format(name, "string expected, got %s", type(fmt)) end
  local items = {}
  local at, is_little, max_align = 1, NATIVE_LITTLE, 1

  local function number(default)
    local digits = fmt:match("^%d+", at)
    if not digits then return default end
    at = at + #digits
    return tonumber(digits)
  end

  local function int_size(default)
    local size = number(default)
    if size < 1 or size > INT_MAX_SIZE then
      bad_format(name, "integral size (%d) out of limits [1,%d]", size, INT_MAX_SIZE)
    end
    return size
  end

  -- One option; an item, or nil when it only changes how the next ones are read.
  local function option()
    local c = fmt:sub(at, at)
    at = at + 1
    if c == "i" or c == "I" then return { kind = c == "i" and "int" or "uint", size = int_size(4) } end
    if c == "f" or c == "d" or c == "n" then return { kind = "float", size = SIZES[c] } end
    if SIZES[c] then return { kind = SIGNED[c] and "int" or "uint", size = SIZES[c] } end
    if c == "s" then return { kind = "string", size = int_size(8) } end
    if c == "z" then return { kind = "zstring", size = 0 } end
    if c == "x" then return { kind = "padding", size = 1 } end
    if c == "c" then
      local size = number(nil)
      if not size then bad_format(name, "missing size for format option 'c'") end
      if size > 2 ^ 30 then bad_format(name, "size of format option 'c' is above 1 GiB") end
      return { kind = "char", size = size }
    end
    if c == "<" then is_little = true
    elseif c == ">" then is_little = false
    elseif c == "=" then is_little = NATIVE_LITTLE
    elseif c == "!" then max_align = int_size(NATIVE_ALIGN)
    elseif c ~= " " then bad_format(name, "invalid format option '%s'", c)
    end
  end

  while at <= #fmt do
    local item
    local align = 0
    if fmt:sub(at, at) == "X" then
      at = at + 1
      local next_item = at <= #fmt and option()
      if not next_item or next_item.kind == "char" or next_item.size == 0 then
        bad_format(name, "invalid next option for option 'X'")
      end
      item = { kind = "align", size = 0 }
      align = next_item.size
    else
      item = option()
      if item and item.kind ~= "char" then align = item.size end
    end
    if item then
      if align > max_align then align = max_align end
      if align > 1 and not (align == 2 or align == 4 or align == 8 or align == 16) then
        bad_format(name, "format asks for alignment not power of 2")
      end
      item.align, item.is_little = align, is_little
      items[#items + 1] = item
    end
  end
  return items
end

-- ---- code ------------------------------------------------------------------------------------------------------

-- How value number i is called in the generated code.
local function namer(count)
  if count > LOCALS_MAX then return function(i) return ("v[%d]"):format(i) end, "v" end
  local names = {}
  for i = 1, count do names[i] = "v" .. i end
  return function(i) return names[i] end, table.concat(names, ", ")
end

local function count_values(items)
  local count = 0
  for _, item in ipairs(items) do
    if item.kind ~= "padding" and item.kind ~= "align" then count = count + 1 end
  end
  return count
end

-- The name of a chunk begins as that of this file does: to misuse() it is a part of the library.
local chunk_prefix = debug.getinfo(1, "S").source

local function load_code(lines, what, env)
  return setfenv(assert(loadstring(table.concat(lines, "\n"), chunk_prefix .. ": " .. what)), env)()
end

-- Offset of byte k of a scalar, k = 0 the least significant.
local function byte_offset(item, k)
  return item.is_little and k or item.size - 1 - k
end

-- ---- unpack ----------------------------------------------------------------------------------------------------

local readers = { to_string = to_string, scalar = scalar, unpack = unpack }

-- An integer of 7 bytes or more at p. nil when more than 8 bytes do not fit.
function readers.integer(p, size, is_little, is_signed)
  local used = size < 8 and size or 8
  local step = is_little and 1 or -1
  local first = is_little and 0 or size - 1
  local value, scale = u64_t(0), u64_t(1)
  for k = 0, used - 1 do
    value = value + p[first + step * k] * scale
    scale = scale * 256
  end
  local is_negative = is_signed and p[first + step * (used - 1)] >= 128
  for k = 8, size - 1 do
    if p[first + step * k] ~= (is_negative and 255 or 0) then return nil end
  end
  if is_negative and used < 8 then value = value - scale end
  if is_signed then
    value = ffi.cast(i64_t, value)
    if value >= -0x20000000000000 and value <= 0x20000000000000 then return tonumber(value) end
  elseif value <= 0x20000000000000 then
    return tonumber(value)
  end
  return value
end

-- Offset of the first zero byte from pos on, or nil.
function readers.zero(p, pos, size)
  local at = C.rille_bytes_find(p, size, "\0", 1, pos)
  return at >= 0 and at or nil
end

local function read_int(lines, target, item, is_signed)
  local size = item.size
  if size > 6 then
    lines[#lines + 1] = ("%s = integer(p + pos, %d, %s, %s)"):format(target, size, item.is_little, is_signed)
    lines[#lines + 1] = ("if %s == nil then return nil, 'invalid argument' end"):format(target)
    return
  end
  local terms = {}
  for k = 0, size - 1 do terms[#terms + 1] = ("p[pos + %d] * 0x%x"):format(byte_offset(item, k), 256 ^ k) end
  lines[#lines + 1] = target .. " = " .. table.concat(terms, " + ")
  if is_signed then
    lines[#lines + 1] = ("if %s >= 0x%x then %s = %s - 0x%x end"):format(target, 256 ^ size / 2, target, target, 256 ^ size)
  end
end

local function compile_unpack(fmt)
  local items = parse(fmt, "unpack")
  local count = count_values(items)
  local value, all = namer(count)
  local lines = { "return function(p, size, pos)", count > 0 and "local " .. all or "" }
  if count > LOCALS_MAX then lines[2] = "local v = {}" end
  local function add(...) lines[#lines + 1] = string.format(...) end
  local function need(size) add("if pos + %s > size then return nil, 'short' end", size) end

  local i = 1
  for _, item in ipairs(items) do
    local kind, size = item.kind, item.size
    local target = value(i)
    if item.align > 1 then add("pos = pos + -pos %% %d", item.align) end
    need(size)
    if kind == "int" or kind == "uint" then
      read_int(lines, target, item, kind == "int")
    elseif kind == "float" then
      for k = 0, size - 1 do
        add("scalar.bytes[%d] = p[pos + %d]", NATIVE_LITTLE and k or size - 1 - k, byte_offset(item, k))
      end
      add("%s = scalar.%s", target, size == 4 and "f32" or "f64")
    elseif kind == "char" then
      add("%s = to_string(p + pos, %d)", target, size)
    elseif kind == "string" then
      add("do local length")
      read_int(lines, "length", item, false)
      add("pos = pos + %d", size)
      add("if length > size - pos then return nil, 'short' end")
      add("%s = to_string(p + pos, length)", target)
      add("pos = pos + length end")
    elseif kind == "zstring" then
      add("do local stop = zero(p, pos, size)")
      add("if not stop then return nil, 'short' end")
      add("%s = to_string(p + pos, stop - pos)", target)
      add("pos = stop + 1 end")
    end
    if kind ~= "padding" and kind ~= "align" then i = i + 1 end
    if kind ~= "string" and size > 0 then add("pos = pos + %d", size) end
  end

  if count == 0 then add("return pos + 1 end")
  elseif count > LOCALS_MAX then add("v[%d] = pos + 1 return unpack(v, 1, %d) end", count + 1, count + 1)
  else add("return %s, pos + 1 end", all)
  end
  return load_code(lines, "unpack " .. fmt, readers)
end

-- ---- pack ------------------------------------------------------------------------------------------------------

local writers = { scalar = scalar }

-- The value of an integer option, or nil when it does not fit.
function writers.check_int(v, index, size, is_signed)
  local bits = size < 8 and size * 8 or 64
  local low, high = 0, 2 ^ bits
  if is_signed then low, high = -2 ^ (bits - 1), 2 ^ (bits - 1) end
  if type(v) == "number" then
    if v ~= floor(v) or v < low or v >= high then return nil end
    return v
  end
  local is_u64 = istype(u64_t, v)
  if not is_u64 and not istype(i64_t, v) then
    misuse("bad argument #%d to 'pack' (integer expected, got %s)", index + 1, type(v))
  end
  local is_top_bit_set = ffi.cast(i64_t, v) < 0 -- negative, or 2^63 and above
  if size >= 8 then
    if is_top_bit_set and (is_u64 and is_signed and size == 8 or not is_u64 and not is_signed) then return nil end
    return v
  end
  if is_u64 and is_top_bit_set then return nil end
  v = ffi.cast(i64_t, v)
  if v < low or v >= high then return nil end
  return v
end

function writers.check_float(v, index)
  if type(v) ~= "number" then misuse("bad argument #%d to 'pack' (number expected, got %s)", index + 1, type(v)) end
  return v
end

-- The bytes of a string option and their number.
function writers.check_string(v, index)
  if type(v) == "string" then return v, #v end
  if istype(slice_t, v) then return v:ptr() end
  misuse("bad argument #%d to 'pack' (string or slice expected, got %s)", index + 1, type(v))
end

function writers.has_zero(bytes, size)
  return C.rille_bytes_find(bytes, size, "\0", 1, 0) >= 0
end

-- Put an integer into the scalar and say which byte fills what is wider than 8.
function writers.set(v, is_signed)
  if type(v) == "number" then
    if v < 0 then scalar.i64 = v else scalar.u64 = v end
    return v < 0 and 255 or 0
  end
  if istype(i64_t, v) then scalar.i64 = v else scalar.u64 = v end
  return is_signed and istype(i64_t, v) and v < 0 and 255 or 0
end

writers.fill = ffi.fill
writers.copy = ffi.copy

local function put_int(add, source, item, is_signed)
  local size = item.size
  add("%sset(%s, %s)", size > 8 and "fill_byte = " or "", source, is_signed)
  for k = 0, (size < 8 and size or 8) - 1 do
    add("p[pos + %d] = scalar.bytes[%d]", byte_offset(item, k), NATIVE_LITTLE and k or 7 - k)
  end
  for k = 8, size - 1 do add("p[pos + %d] = fill_byte", byte_offset(item, k)) end
end

local function compile_pack(fmt)
  local items = parse(fmt, "pack")
  local count = count_values(items)
  local value, all = namer(count)
  local check = { "return", "", "function(" .. (count > LOCALS_MAX and "..." or all) .. ")" }
  local lines = check
  if count > LOCALS_MAX then lines[#lines + 1] = "local v = { ... }" end
  local function add(...) lines[#lines + 1] = string.format(...) end

  add("local pos = 0 local _, length")
  local i = 1
  for _, item in ipairs(items) do
    local kind, size = item.kind, item.size
    local v = value(i)
    if item.align > 1 then add("pos = pos + -pos %% %d", item.align) end
    if kind == "int" or kind == "uint" then
      add("if check_int(%s, %d, %d, %s) == nil then return nil end", v, i, size, kind == "int")
    elseif kind == "float" then
      add("check_float(%s, %d)", v, i)
    elseif kind == "char" or kind == "string" or kind == "zstring" then
      add("_, length = check_string(%s, %d)", v, i)
      if kind == "char" then add("if length > %d then return nil end", size)
      elseif kind == "string" then
        if size < 6 then add("if length >= 0x%x then return nil end", 256 ^ size) end
        add("pos = pos + length")
      else
        add("if has_zero(_, length) then return nil end pos = pos + length + 1")
      end
    end
    if size > 0 then add("pos = pos + %d", size) end
    if kind ~= "padding" and kind ~= "align" then i = i + 1 end
  end
  add("return pos end")
  local measure = load_code(check, "pack " .. fmt, writers)

  lines = { "return function(p" .. (count == 0 and "" or count > LOCALS_MAX and ", ..." or ", " .. all) .. ")" }
  if count > LOCALS_MAX then lines[#lines + 1] = "local v = { ... }" end
  add("local pos, bytes, length, fill_byte, gap = 0")
  i = 1
  for _, item in ipairs(items) do
    local kind, size = item.kind, item.size
    local v = value(i)
    if item.align > 1 then
      add("gap = -pos %% %d fill(p + pos, gap) pos = pos + gap", item.align)
    end
    if kind == "int" or kind == "uint" then
      put_int(add, v, item, kind == "int")
    elseif kind == "float" then
      add("scalar.%s = %s", size == 4 and "f32" or "f64", v)
      for k = 0, size - 1 do
        add("p[pos + %d] = scalar.bytes[%d]", byte_offset(item, k), NATIVE_LITTLE and k or size - 1 - k)
      end
    elseif kind == "char" then
      add("bytes, length = check_string(%s, %d)", v, i)
      add("copy(p + pos, bytes, length) fill(p + pos + length, %d - length)", size)
    elseif kind == "string" then
      add("bytes, length = check_string(%s, %d)", v, i)
      put_int(add, "length", item, false)
      add("copy(p + pos + %d, bytes, length) pos = pos + length", size)
    elseif kind == "zstring" then
      add("bytes, length = check_string(%s, %d)", v, i)
      add("copy(p + pos, bytes, length) p[pos + length] = 0 pos = pos + length + 1")
    elseif kind == "padding" then
      add("p[pos] = 0")
    end
    if size > 0 then add("pos = pos + %d", size) end
    if kind ~= "padding" and kind ~= "align" then i = i + 1 end
  end
  add("end")
  return { measure = measure, put = load_code(lines, "pack " .. fmt, writers), count = count }
end

-- ---- the two calls ---------------------------------------------------------------------------------------------

local function cached(compile)
  local cache, size = {}, 0
  return function(fmt)
    local code = compile(fmt)
    if size >= CACHE_MAX then
      for key in pairs(cache) do cache[key] = nil end
      size = 0
    end
    size = size + 1
    cache[fmt] = code
    return code
  end, cache
end

local compile_unpacker, unpackers = cached(compile_unpack)
local compile_packer, packers = cached(compile_pack)

local M = {}

-- The values of fmt in the size bytes at base, from offset on, and the position behind them (counted from 1);
-- or nil, "short" or "invalid argument". Raises for a bad format.
function M.unpack(fmt, base, size, offset)
  return (unpackers[fmt] or compile_unpacker(fmt))(base, size, offset)
end

-- Append the values to a LinkBuffer. true, or nil, err: then nothing is written. Raises for a bad format, a missing
-- value or one of a wrong type.
function M.pack(buffer, fmt, ...)
  local packer = packers[fmt] or compile_packer(fmt)
  local size = packer.measure(...)
  if not size then return nil, "invalid argument" end
  local p = C.rille_linkbuffer_malloc(buffer, size, err_box)
  if err_box[0] ~= 0 then return nil, to_string(C.rille_err_text(err_box[0])) end
  packer.put(p, ...)
  return true
end

return M
