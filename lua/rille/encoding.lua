-- encoding: strings and slices as hex and base64 and back, and the XOR mask of four bytes; see docs/codec.md.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local misuse = require "rille.misuse"

local type = type
local to_string = ffi.string
local bytes_t = ffi.typeof("uint8_t[?]")

local encoding = {}

local function bytes_of(x, name)
  if type(x) == "string" then return x, #x end
  if Slice.is(x) then return x:ptr() end
  misuse("bad argument #1 to '%s' (a string or slice expected, got %s)", name, type(x))
end

local function decoded(to, size)
  if size < 0 then return nil, "invalid argument" end
  return to_string(to, size)
end

-- Lower-case digits, two for each byte.
function encoding.hex_encode(x)
  local p, size = bytes_of(x, "hex_encode")
  local to = bytes_t(2 * size)
  C.rille_hex_encode(p, size, to)
  return to_string(to, 2 * size)
end

-- The bytes, or nil, "invalid argument".
function encoding.hex_decode(x)
  local p, size = bytes_of(x, "hex_decode")
  local to = bytes_t(size / 2 + 1)
  return decoded(to, C.rille_hex_decode(p, size, to))
end

local function url_of(variant, name)
  if variant == nil or variant == "std" then return 0 end
  if variant == "url" then return 1 end
  misuse('bad argument #2 to \'%s\' ("std" or "url" expected, got %s)', name, tostring(variant))
end

-- variant: "std", with padding, or "url", without.
function encoding.base64_encode(x, variant)
  local p, size = bytes_of(x, "base64_encode")
  local to = bytes_t(4 * math.ceil(size / 3))
  return to_string(to, C.rille_base64_encode(p, size, url_of(variant, "base64_encode"), to))
end

-- The bytes, or nil, "invalid argument".
function encoding.base64_decode(x, variant)
  local p, size = bytes_of(x, "base64_decode")
  local to = bytes_t(size + 1)
  return decoded(to, C.rille_base64_decode(p, size, url_of(variant, "base64_decode"), to))
end

local function check_mask(key, offset, name)
  if type(key) ~= "string" or #key ~= 4 then misuse("bad argument #2 to '%s' (a key of 4 bytes expected)", name) end
  if type(offset) ~= "number" or not (offset >= 0 and offset <= 2 ^ 53) or offset % 1 ~= 0 then
    misuse("bad argument #3 to '%s' (an offset of 0 or more expected, got %s)", name, tostring(offset))
  end
end

-- Each byte XORed with one of the four of key, in turn; the first one with that at offset (0). A string.
function encoding.mask(x, key, offset)
  offset = offset or 0
  check_mask(key, offset, "mask")
  local p, size = bytes_of(x, "mask")
  local to = bytes_t(size)
  C.rille_mask(to, p, size, key, offset)
  return to_string(to, size)
end

-- The same where the bytes of a slice stand. The slice.
function encoding.mask_in_place(slice, key, offset)
  offset = offset or 0
  check_mask(key, offset, "mask_in_place")
  if not Slice.is(slice) then misuse("bad argument #1 to 'mask_in_place' (a slice expected, got %s)", type(slice)) end
  local p, size = slice:ptr()
  if size > 0 then C.rille_mask(ffi.cast("uint8_t *", p), p, size, key, offset) end
  return slice
end

return encoding
