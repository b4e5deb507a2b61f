-- proxy_model: the header of the PROXY protocol, read slowly and plainly from a whole string: what core/proxy_head.c has to agree with.

local bit = require "bit"
local ffi = require "ffi"

ffi.cdef [[int proxy_pton(int family, const char *text, void *to) __asm__("inet_pton");]]

local M = {}

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"
local SIZES = { [0] = 0, 12, 36, 216 }

local function crc32c(bytes)
  local crc = 0xffffffff
  for i = 1, #bytes do
    crc = bit.bxor(crc, bytes:byte(i))
    for _ = 1, 8 do
      local low = bit.band(crc, 1)
      crc = bit.rshift(crc, 1)
      if low == 1 then crc = bit.bxor(crc, 0x82f63b78) end
    end
  end
  return bit.tobit(bit.bnot(crc))
end

local function u16(s, at)
  return s:byte(at) * 256 + s:byte(at + 1)
end

local function is_port(text)
  return text:match "^%d+$" and #text <= 5 and (text == "0" or text:sub(1, 1) ~= "0") and tonumber(text) <= 65535
end

local room = ffi.new("char[16]")

local function line(s)
  local stop = s:sub(1, 107):find("\n", 1, true)
  if not stop then return #s < 107 and 0 or -2 end
  local text = s:sub(1, stop)
  if text:sub(-2) ~= "\r\n" or text:find "%z" then return -2 end
  text = text:sub(7, -3)
  if text:match "^UNKNOWN$" or text:match "^UNKNOWN " then return stop, "unknown" end
  local protocol, source, destination, from, to = text:match "^(TCP[46]) ([^ ]+) ([^ ]+) ([^ ]+) ([^ ]+)$"
  if not protocol then return -2 end
  local family = protocol == "TCP4" and 2 or 10
  if ffi.C.proxy_pton(family, source, room) ~= 1 or ffi.C.proxy_pton(family, destination, room) ~= 1 then return -2 end
  if not is_port(from) or not is_port(to) then return -2 end
  return stop, ("%s %s %s"):format(family == 2 and "inet" or "inet6", from, to)
end

local function tlvs(s, at)
  local crc
  while at <= #s do
    if at + 2 > #s then return false end
    local size = u16(s, at + 1)
    if at + 2 + size > #s then return false end
    if s:byte(at) == 3 then
      if size ~= 4 then return false end
      crc = at + 3
    end
    at = at + 3 + size
  end
  return true, crc
end

local function binary(s)
  local command, kind = s:byte(13), s:byte(14)
  if command and command ~= 0x20 and command ~= 0x21 then return -2 end
  if command == 0x21 and kind and (kind >= 0x40 or kind % 16 > 2) then return -2 end
  if #s < 16 then return 0 end
  local size = 16 + u16(s, 15)
  if #s < size then return 0 end
  s = s:sub(1, size)
  if command == 0x20 then return size, "local" end
  local family = kind % 16 == 0 and 0 or math.floor(kind / 16)
  local at = 16 + SIZES[family]
  if at > size then return -2 end
  local good, crc = tlvs(s, at + 1)
  if not good then
    if family == 0 then return size, "unknown" end
    return -2
  end
  if crc then
    local zeroed = s:sub(1, crc - 1) .. "\0\0\0\0" .. s:sub(crc + 4)
    local said = bit.tobit(u16(s, crc) * 65536 + u16(s, crc + 2))
    if crc32c(zeroed) ~= said then return -3 end
  end
  if family == 0 then return size, "unknown" end
  if family == 3 then return size, "unix" end
  local ports = 16 + (family == 1 and 8 or 32) + 1
  return size, ("%s %d %d"):format(family == 1 and "inet" or "inet6", u16(s, ports), u16(s, ports + 2))
end

-- As rille_proxy_decode: a length, 0 or a fault; and in a word what it said.
function M.decode(s)
  local n = math.min(#s, 12)
  if s:sub(1, n) == SIGNATURE:sub(1, n) then
    if n < 12 then return 0 end
    return binary(s)
  end
  n = math.min(#s, 6)
  if s:sub(1, n) ~= ("PROXY "):sub(1, n) then return -1 end
  if n < 6 then return 0 end
  return line(s)
end

return M
