-- packet: the control packets of MQTT 3.1.1, read where they lie and written. Sections and [MQTT-...] are those of the OASIS standard
-- "MQTT Version 3.1.1". What is read are slices of the connection's own blocks; nothing is consumed here.

local bit = require "bit"

local band, rshift, floor, char = bit.band, bit.rshift, math.floor, string.char

local M = {
  CONNECT = 1, CONNACK = 2, PUBLISH = 3, PUBACK = 4, PUBREC = 5, PUBREL = 6, PUBCOMP = 7, SUBSCRIBE = 8, SUBACK = 9,
  UNSUBSCRIBE = 10, UNSUBACK = 11, PINGREQ = 12, PINGRESP = 13, DISCONNECT = 14,
  LENGTH_MAX = 268435455, -- of what follows the length: four bytes of seven bits, section 2.2.3
}

-- The low four bits of the first byte, section 2.2.2; a PUBLISH has its own.
local FLAGS = { [0] = false, 0, 0, false, 0, 0, 2, 0, 2, 0, 2, 0, 0, 0, 0, false }

local PUBLISH = M.PUBLISH

-- ---- reading ---------------------------------------------------------------------------------------------------

-- The next packet in `from`, a connection or a LinkBuffer: its kind, its flags, a slice of what follows the length, the bytes of the whole.
-- nil: it is not all there. nil, err: "invalid argument" (it is not MQTT), "too large" (above max bytes, said by its length).
function M.decode(from, max)
  local there = from:len()
  if there < 1 then return nil end
  local head = from:peek(there < 5 and there or 5)
  if not head then return nil end
  local first = head:byte(1)
  local kind, flags = rshift(first, 4), band(first, 15)
  local wanted = FLAGS[kind]
  if kind ~= PUBLISH and flags ~= wanted then return nil, "invalid argument" end -- [MQTT-2.2.2-2]
  local length, unit, at = 0, 1, 2
  while true do
    if at > 5 then return nil, "invalid argument" end
    if at > there then return nil end
    local byte = head:byte(at)
    length = length + band(byte, 127) * unit
    if byte < 128 then break end
    unit, at = unit * 128, at + 1
  end
  local size = at + length
  if size > max then return nil, "too large" end
  if there < size then return nil end
  local whole = from:peek(size)
  if not whole then return nil end
  return kind, flags, whole:sub(at + 1, size), size
end

-- The string or data at an offset from 0: a slice, and the offset behind it; nil when it is not all there. Section 1.5.3.
local function field(body, at)
  local there = body:len()
  if at + 2 > there then return nil end
  local behind = at + 2 + body:u16(at)
  if behind > there then return nil end
  return body:sub(at + 3, behind), behind
end

local function continues(text, from, count)
  for i = from, from + count - 1 do
    local byte = text:byte(i)
    if not byte or byte < 0x80 or byte > 0xbf then return false end
  end
  return true
end

-- How many bytes the character at i has; nil when it is none: a form that is too long, a surrogate, beyond U+10FFFF.
local function character(text, i)
  local byte, second = text:byte(i, i + 1)
  if byte < 0x80 then return 1 end
  if byte < 0xc2 or byte > 0xf4 or not second then return nil end
  if byte < 0xe0 then return continues(text, i + 1, 1) and 2 or nil end
  if byte < 0xf0 then
    if (byte == 0xe0 and second < 0xa0) or (byte == 0xed and second > 0x9f) then return nil end
    return continues(text, i + 1, 2) and 3 or nil
  end
  if (byte == 0xf0 and second < 0x90) or (byte == 0xf4 and second > 0x8f) then return nil end
  return continues(text, i + 1, 3) and 4 or nil
end

-- Whether a string is UTF-8 without U+0000: [MQTT-1.5.3-1], [MQTT-1.5.3-2].
function M.is_text(text)
  if not text:find("[%z\128-\255]") then return true end
  if text:find("%z") then return false end
  local i, size = 1, #text
  while i <= size do
    local step = character(text, i)
    if not step then return false end
    i = i + step
  end
  return true
end

local is_text = M.is_text

-- A string at an offset, copied; nil when it is not there or no UTF-8.
local function text_at(body, at)
  local slice, behind = field(body, at)
  if not slice then return nil end
  local text = slice:str()
  if not is_text(text) then return nil end
  return text, behind
end

-- Section 3.1.2.3: what the flags of a CONNECT may not say.
local function are_bad(flags)
  local has_will, qos, retains = band(flags, 4) ~= 0, band(rshift(flags, 3), 3), band(flags, 32) ~= 0
  if band(flags, 1) ~= 0 or qos == 3 then return true end                       -- [MQTT-3.1.2-3], [MQTT-3.1.2-14]
  if not has_will and (qos ~= 0 or retains) then return true end                 -- [MQTT-3.1.2-13], [MQTT-3.1.2-15]
  return band(flags, 64) ~= 0 and band(flags, 128) == 0                          -- [MQTT-3.1.2-22]
end

local function read_will(body, at, flags)
  local topic, payload
  topic, at = text_at(body, at)
  if not topic then return nil end
  payload, at = field(body, at)
  if not payload then return nil end
  return { topic = topic, payload = payload:str(), qos = band(rshift(flags, 3), 3), retain = band(flags, 32) ~= 0 }, at
end

-- What a CONNECT says: a table of id, clean, keep_alive (seconds), will ({ topic, payload, qos, retain }), username, password. nil, err:
-- "invalid argument", or "not supported": it is of another version of the protocol.
function M.connect_of(body)
  local name, at = field(body, 0)
  if not name or at + 4 > body:len() then return nil, "invalid argument" end
  local is_older = name == "MQIsdp"
  if name ~= "MQTT" and not is_older then return nil, "invalid argument" end -- [MQTT-3.1.2-1]
  if is_older or body:u8(at) ~= 4 then return nil, "not supported" end       -- [MQTT-3.1.2-2]
  local flags = body:u8(at + 1)
  if are_bad(flags) then return nil, "invalid argument" end
  local out = { clean = band(flags, 2) ~= 0, keep_alive = body:u16(at + 2) }
  out.id, at = text_at(body, at + 4)
  if at and band(flags, 4) ~= 0 then out.will, at = read_will(body, at, flags) end
  if at and band(flags, 128) ~= 0 then out.username, at = text_at(body, at) end
  if at and band(flags, 64) ~= 0 then
    local password
    password, at = field(body, at)
    out.password = password and password:str()
  end
  if at ~= body:len() then return nil, "invalid argument" end
  return out
end

-- Of a PUBLISH: a slice of its topic, a slice of its payload, its packet id (nil with QoS 0), QoS, retain, dup. nil: it is malformed.
function M.publish_of(flags, body)
  local qos = band(rshift(flags, 1), 3)
  local is_dup = flags >= 8
  if qos == 3 or (is_dup and qos == 0) then return nil end -- [MQTT-3.3.1-4], [MQTT-3.3.1-2]
  local topic, at = field(body, 0)
  if not topic or topic:len() == 0 then return nil end -- [MQTT-4.7.3-1]
  local id
  if qos > 0 then
    if at + 2 > body:len() then return nil end
    id, at = body:u16(at), at + 2
    if id == 0 then return nil end -- [MQTT-2.3.1-1]
  end
  return topic, body:sub(at + 1), id, qos, band(flags, 1) == 1, is_dup
end

-- The packet id that is all there is: of PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK. nil: it is malformed.
function M.id_of(body)
  if body:len() ~= 2 then return nil end
  local id = body:u16(0)
  return id ~= 0 and id or nil
end

-- Of a SUBSCRIBE or, without qos, an UNSUBSCRIBE: its packet id and a list of { filter =, qos = }. nil: it is malformed.
function M.filters_of(body, has_qos)
  if body:len() < 2 then return nil end
  local id, at, size = body:u16(0), 2, body:len()
  if id == 0 or at == size then return nil end -- [MQTT-2.3.1-1], [MQTT-3.8.3-3]
  local list = {}
  while at < size do
    local filter, behind = text_at(body, at)
    if not filter then return nil end
    local one = { filter = filter }
    if has_qos then
      if behind >= size then return nil end
      one.qos = body:u8(behind)
      if one.qos > 2 then return nil end -- [MQTT-3-8.3-4]
      behind = behind + 1
    end
    list[#list + 1] = one
    at = behind
  end
  return id, list
end

-- Of a CONNACK: whether there was a session, and the return code. nil: it is malformed.
function M.connack_of(body)
  if body:len() ~= 2 or body:u8(0) > 1 then return nil end
  return body:u8(0) == 1, body:u8(1)
end

-- Of a SUBACK: its packet id and the list of return codes. nil: it is malformed.
function M.suback_of(body)
  if body:len() < 3 then return nil end
  local codes = {}
  for i = 2, body:len() - 1 do codes[i - 1] = body:u8(i) end
  return body:u16(0), codes
end

-- ---- writing ---------------------------------------------------------------------------------------------------

local function u16(n)
  return char(floor(n / 256), n % 256)
end
M.u16 = u16

local function length_of(n)
  if n > M.LENGTH_MAX then error(("a packet of %d bytes cannot be written"):format(n), 3) end
  local out = ""
  repeat
    local low = n % 128
    n = floor(n / 128)
    out = out .. char(n > 0 and low + 128 or low)
  until n == 0
  return out
end

local function packet(first, body)
  return char(first) .. length_of(#body) .. body
end

local function text(x)
  if #x > 65535 then error(("a string of %d bytes cannot be written"):format(#x), 3) end
  return u16(#x) .. x
end

-- A PUBLISH up to where the packet id stands, if there is one (qos 1 and 2), or the payload of `size` bytes.
function M.publish_head(topic, size, qos, retain, is_dup)
  local first = 0x30 + (is_dup and 8 or 0) + qos * 2 + (retain and 1 or 0)
  return char(first) .. length_of(2 + #topic + (qos > 0 and 2 or 0) + size) .. text(topic)
end

-- A whole one. id: with qos 1 and 2.
function M.publish(topic, payload, qos, id, retain, is_dup)
  return M.publish_head(topic, #payload, qos or 0, retain, is_dup) .. ((qos or 0) > 0 and u16(id) or "") .. payload
end

-- PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK
function M.reply(kind, id)
  return char(kind * 16 + FLAGS[kind], 2) .. u16(id)
end

function M.connack(is_present, code)
  return char(0x20, 2, is_present and 1 or 0, code)
end

function M.suback(id, codes)
  local parts = { u16(id) }
  for i, code in ipairs(codes) do parts[i + 1] = char(code) end
  return packet(0x90, table.concat(parts))
end

M.pingreq, M.pingresp, M.disconnect = "\192\0", "\208\0", "\224\0"

-- options: as connect_of returns them
function M.connect(options)
  local will = options.will
  local flags = (options.clean and 2 or 0) + (options.username and 128 or 0) + (options.password and 64 or 0)
  if will then flags = flags + 4 + (will.qos or 0) * 8 + (will.retain and 32 or 0) end
  return packet(0x10, text("MQTT") .. char(4, flags) .. u16(options.keep_alive or 0) .. text(options.id or "")
    .. (will and text(will.topic) .. text(will.payload) or "") .. (options.username and text(options.username) or "")
    .. (options.password and text(options.password) or ""))
end

-- list: { filter =, qos = }
function M.subscribe(id, list)
  local parts = { u16(id) }
  for _, one in ipairs(list) do parts[#parts + 1] = text(one.filter) .. char(one.qos or 0) end
  return packet(0x82, table.concat(parts))
end

function M.unsubscribe(id, list)
  local parts = { u16(id) }
  for _, one in ipairs(list) do parts[#parts + 1] = text(one.filter) end
  return packet(0xa2, table.concat(parts))
end

return M
