-- output: packets to a connection of this loop, by its id: whichever generation of the script has it just now, it is the loop's.
-- Nothing here parks. A large payload is linked into the output of every receiver, not copied.

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local packet = require "rille.mqtt.packet"
local state = require "rille.state"

local publish_head, u16 = packet.publish_head, packet.u16
local PARK = C.RILLE_PARK

local SLOTS = 2 ^ 20 -- the low bits of an id: the place in the loop's table
local LINKED = 4096  -- from here on a slice is linked

local M = {}

-- The connection; nil when it is over, or has gone to another loop.
local function find(id)
  local loop = state.loop
  if not loop then return nil end
  local p = C.rille_conn_at(loop, id % SLOTS)
  if p ~= nil and C.rille_conn_id(p) == id then return p end
end

-- True: it is in the output, which may be above the high-water mark now.
local function put(p, bytes)
  local code = C.rille_conn_write(p, bytes, #bytes)
  return code == 0 or code == PARK
end

-- A whole packet. True, or false: the connection is over.
function M.send(id, bytes)
  local p = find(id)
  return p ~= nil and put(p, bytes)
end

-- Whether its output is above its high-water mark. nil: the connection is over.
function M.is_above(id)
  local p = find(id)
  if p == nil then return nil end
  return C.rille_conn_is_above(p, 0) == 1
end

local function put_payload(p, message)
  local view = message.view
  if not view then return put(p, message.payload) end
  local code = C.rille_conn_write_view(p, view.base_, view.size_, view.cell_, view.block_, view.epoch_)
  return code == 0 or code == PARK
end

-- A PUBLISH of a message: { topic =, payload =, retained = }. packet_id: with QoS 1. True, or false: the connection is over; one that has
-- no memory for all of a packet is ended.
function M.publish(id, message, packet_id, is_dup)
  local p = find(id)
  if p == nil then return false end
  local head
  if is_dup then
    head = publish_head(message.topic, #message.payload, 1, message.retained, true)
  elseif packet_id then
    head = message.head_1
    if not head then
      head = publish_head(message.topic, #message.payload, 1, message.retained)
      message.head_1 = head
    end
  else
    head = message.head_0
    if not head then
      head = publish_head(message.topic, #message.payload, 0, message.retained)
      message.head_0 = head
    end
  end
  if not put(p, head) then return false end
  if (not packet_id or put(p, u16(packet_id))) and put_payload(p, message) then return true end
  C.rille_conn_abort(p) -- half of a packet is out
  return false
end

-- Before a message goes to many: its payload gets a block of its own, if it is worth it. Until unshare().
function M.share(message)
  if #message.payload <= LINKED then return end
  local buffer = LinkBuffer.new()
  if not (buffer:write(message.payload) and buffer:flush()) then return buffer:close() end
  message.buffer, message.view = buffer, buffer:next(#message.payload)
end

function M.unshare(message)
  local buffer = message.buffer
  if not buffer then return end
  message.buffer, message.view = nil, nil
  buffer:close()
end

-- Close it when its output is sent; abort: at once.
function M.close(id, abort)
  local p = find(id)
  if p == nil then return end
  if abort then C.rille_conn_abort(p) else C.rille_conn_close(p) end
end

return M
