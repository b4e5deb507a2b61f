-- length_prefixed: frames of a u32 length (big endian) and as many bytes. Each is answered with a frame of
--
--   u32 length | u8 version (1) | u16 sum of the bytes, mod 65536 | varint count of frames so far | the bytes
--
-- read as slices and written with the typed writers: no string is made on the way.
--
--   rille run scripts/length_prefixed.lua --listen tcp://127.0.0.1:7000 -- max=65536

local options = ...
local max = options.max or 65536

local function varint_size(n)
  local size = 1
  while n >= 128 do
    n = math.floor(n / 128)
    size = size + 1
  end
  return size
end

local function sum(frame)
  local total = 0
  for i = 0, frame:len() - 1 do total = total + frame:u8(i) end
  return total % 65536
end

return function(conn)
  local head = conn:peek(4) -- parks until it is there; a peer that leaves in the middle of it ends the connection
  if not head then return conn:close() end
  local size = head:u32(0)
  if size > max then return conn:abort() end
  conn:skip(4)
  local frame = conn:next(size)
  if not frame then return conn:close() end

  local count = (conn.ctx or 0) + 1
  conn.ctx = count
  conn:write_u32(1 + 2 + varint_size(count) + size)
  conn:write_u8(1)
  conn:write_u16(sum(frame))
  conn:write_varint(count)
  conn:write(frame)
end
