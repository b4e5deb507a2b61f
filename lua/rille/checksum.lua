-- checksum: CRCs and Adler-32 of strings and slices; see docs/codec.md.

local C = require "rille.core"
local Slice = require "rille.slice"
local misuse = require "rille.misuse"

local type = type

local checksum = {}

local CRC16 = {
  ccitt = C.RILLE_CRC16_CCITT, xmodem = C.RILLE_CRC16_XMODEM, kermit = C.RILLE_CRC16_KERMIT, x25 = C.RILLE_CRC16_X25,
  modbus = C.RILLE_CRC16_MODBUS, arc = C.RILLE_CRC16_ARC, usb = C.RILLE_CRC16_USB,
}

local function bytes_of(x, name)
  if type(x) == "string" then return x, #x end
  if Slice.is(x) then return x:ptr() end
  misuse("bad argument #1 to '%s' (a string or slice expected, got %s)", name, type(x))
end

-- Below 0: there is none.
local function start(before, max, name)
  if before == nil then return -1 end
  if type(before) ~= "number" or not (before >= 0 and before <= max) or before % 1 ~= 0 then
    misuse("%s: the checksum before has to be one, not %s", name, tostring(before))
  end
  return before
end

for _, name in ipairs { "crc32", "crc32c", "adler32" } do
  local call = C["rille_" .. name]
  -- before: the checksum of what stands in front of x
  checksum[name] = function(x, before)
    local p, size = bytes_of(x, name)
    return call(p, size, start(before, 2 ^ 32 - 1, name))
  end
end

-- kind: "ccitt", "xmodem", "kermit", "x25", "modbus", "arc" or "usb"
function checksum.crc16(x, kind, before)
  local number = CRC16[kind] or misuse('crc16 knows "arc", "ccitt", "kermit", "modbus", "usb", "x25" and "xmodem", not %s', tostring(kind))
  local p, size = bytes_of(x, "crc16")
  return C.rille_crc16(number, p, size, start(before, 65535, "crc16"))
end

return checksum
