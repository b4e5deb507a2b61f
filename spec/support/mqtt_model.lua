-- mqtt_model: packets of MQTT 3.1.1 decoded the plain way, from a string, to compare lua/rille/mqtt/packet.lua with. And streams of
-- packets, good ones and such that were spoiled.

local packet = require "rille.mqtt.packet"

local M = {}

local random = math.random

-- ---- the model -------------------------------------------------------------------------------------------------

-- Whether it is UTF-8 without U+0000: by code points.
local function is_text(text)
  local i = 1
  while i <= #text do
    local byte = text:byte(i)
    local count = byte < 0x80 and 0 or byte >= 0xf0 and byte < 0xf8 and 3 or byte >= 0xe0 and byte < 0xf0 and 2
      or byte >= 0xc0 and byte < 0xe0 and 1
    if not count then return false end
    local code = count == 0 and byte or byte % 2 ^ (6 - count)
    for k = 1, count do
      local next_byte = text:byte(i + k)
      if not next_byte or math.floor(next_byte / 64) ~= 2 then return false end
      code = code * 64 + next_byte % 64
    end
    local least = ({ [0] = 1, 0x80, 0x800, 0x10000 })[count]
    if code < least or code > 0x10ffff or (code >= 0xd800 and code <= 0xdfff) then return false end
    i = i + count + 1
  end
  return true
end

-- "short", "bad", "large", or a kind, the flags, the body and the size.
function M.frame(bytes, max)
  if #bytes == 0 then return "short" end
  local first = bytes:byte()
  local kind, flags = math.floor(first / 16), first % 16
  if kind == 0 or kind == 15 then return "bad" end
  local want = (kind == 6 or kind == 8 or kind == 10) and 2 or 0
  if kind ~= 3 and flags ~= want then return "bad" end
  local length, n = 0, 0
  repeat
    n = n + 1
    if n > 4 then return "bad" end
    local byte = bytes:byte(1 + n)
    if not byte then return "short" end
    length = length + byte % 128 * 128 ^ (n - 1)
  until byte < 128
  local size = 1 + n + length
  if size > max then return "large" end
  if #bytes < size then return "short" end
  return kind, flags, bytes:sub(2 + n, size), size
end

local function u16(body, at) return body:byte(at) * 256 + body:byte(at + 1) end

-- A length and so many bytes at `at` (from 1): these and what is behind.
local function field(body, at)
  if not at or #body < at + 1 then return nil end
  local size = u16(body, at)
  if #body < at + 1 + size then return nil end
  return body:sub(at + 2, at + 1 + size), at + 2 + size
end

local function text(body, at)
  local out, behind = field(body, at)
  if out and is_text(out) then return out, behind end
end

-- A CONNECT as a table; nil, "older" or "bad".
function M.connect(body)
  local name, at = field(body, 1)
  if not name or #body < at + 3 then return nil, "bad" end
  if name == "MQIsdp" then return nil, "older" end
  if name ~= "MQTT" then return nil, "bad" end
  if body:byte(at) ~= 4 then return nil, "older" end
  local bits, rest = {}, body:byte(at + 1)
  for i = 0, 7 do bits[i], rest = rest % 2 == 1, math.floor(rest / 2) end
  local qos = (bits[3] and 1 or 0) + (bits[4] and 2 or 0)
  if bits[0] or qos == 3 or (not bits[2] and (qos > 0 or bits[5])) or (bits[6] and not bits[7]) then return nil, "bad" end
  local out = { clean = bits[1], keep_alive = u16(body, at + 2) }
  out.id, at = text(body, at + 4)
  if at and bits[2] then
    local topic, payload
    topic, at = text(body, at)
    payload, at = field(body, at)
    out.will = { topic = topic, payload = payload, qos = qos, retain = bits[5] }
  end
  if at and bits[7] then out.username, at = text(body, at) end
  if at and bits[6] then out.password, at = field(body, at) end
  if at ~= #body + 1 then return nil, "bad" end
  return out
end

-- topic, payload, id, qos, retain, dup; nil: bad
function M.publish(flags, body)
  local dup, qos, retain = flags >= 8, math.floor(flags / 2) % 4, flags % 2 == 1
  local topic, at = field(body, 1)
  if qos == 3 or (dup and qos == 0) or not topic or topic == "" then return nil end
  if qos == 0 then return topic, body:sub(at), nil, qos, retain, dup end
  if #body < at + 1 or u16(body, at) == 0 then return nil end
  return topic, body:sub(at + 2), u16(body, at), qos, retain, dup
end

-- id, list; nil: bad
function M.filters(body, has_qos)
  if #body < 3 or u16(body, 1) == 0 then return nil end
  local at, list = 3, {}
  while at <= #body do
    local filter, behind = text(body, at)
    if not filter then return nil end
    local one = { filter = filter }
    if has_qos then
      one.qos = body:byte(behind)
      if not one.qos or one.qos > 2 then return nil end
      behind = behind + 1
    end
    list[#list + 1] = one
    at = behind
  end
  return u16(body, 1), list
end

-- ---- what is sent ----------------------------------------------------------------------------------------------

local TEXTS = { "", "a", "a/b", "a/#", "+", "#", "$SYS/x", "/", "\195\188", "\255", "a\0b", ("x"):rep(130), ("l/"):rep(40), "\237\160\128" }

local function some(list) return list[random(#list)] end

local makers = {
  function()
    local options = { id = some(TEXTS), clean = random(2) == 1, keep_alive = random(0, 3) * 100 }
    if random(3) == 1 then options.username = some(TEXTS) end
    if options.username and random(2) == 1 then options.password = some(TEXTS) end
    if random(3) == 1 then options.will = { topic = some(TEXTS), payload = some(TEXTS), qos = random(0, 2), retain = random(2) == 1 } end
    return packet.connect(options)
  end,
  function()
    local qos = random(0, 2)
    return packet.publish(some(TEXTS), ("p"):rep(random(0, 20) ^ 2), qos, random(0, 3), random(2) == 1, qos > 0 and random(3) == 1)
  end,
  function()
    local list = {}
    for i = 1, random(0, 4) do list[i] = { filter = some(TEXTS), qos = random(0, 3) } end
    return random(2) == 1 and packet.subscribe(random(0, 9), list) or packet.unsubscribe(random(0, 9), list)
  end,
  function() return packet.reply(random(4, 7), random(0, 9)) end,
  function() return some { packet.pingreq, packet.pingresp, packet.disconnect, packet.connack(true, 0), packet.suback(1, { 0 }) } end,
}

-- A packet as it may be sent.
function M.packet()
  return makers[random(#makers)]()
end

-- The same with some bytes changed, put in or taken out.
function M.spoil(bytes)
  for _ = 1, random(3) do
    local at = random(math.min(#bytes, 12))
    local byte = string.char(some { 0, 1, 127, 128, 255, random(0, 255) })
    local kind = random(4)
    if kind == 1 then bytes = bytes:sub(1, at - 1) .. byte .. bytes:sub(at)
    elseif kind == 2 then bytes = bytes:sub(1, at - 1) .. bytes:sub(at + 1)
    elseif kind == 3 then bytes = bytes:sub(1, at)
    else bytes = bytes:sub(1, at - 1) .. byte .. bytes:sub(at + 1) end
    if bytes == "" then return byte end
  end
  return bytes
end

return M
