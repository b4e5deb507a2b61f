-- session: what a broker knows of one client, section 3.1.2.4: its connection, its subscriptions, and the messages of QoS 1 that it has not
-- acknowledged. These are in two lists: the window, which were sent and wait for their PUBACK, and the queue behind it. Of a persistent
-- session both are in the store as well, except what was sent at once when that had no room. It packs itself as plain data for another
-- generation.

local output = require "rille.mqtt.output"
local owed = require "rille.mqtt.owed"

local Session = {}
Session.__index = Session

local M = { Session = Session }

-- One of a client: { id, username, peer }.
function M.new(client, is_clean)
  return setmetatable({
    id = client.id, client = client, clean = is_clean, conn = false, will = nil,
    subscriptions = {}, subscription_count = 0,
    window = {}, first = 1, last = 0, -- { id =, message =, acked =, is_unstored = }
    queue = {}, queue_first = 1, queue_last = 0, queue_bytes = 0,
    next_id = 0,
    received = {}, received_count = 0, -- packet ids of QoS 2 that were not released
    owed = {}, -- see owed.lua
  }, Session)
end

function Session:queued()
  return self.queue_last - self.queue_first + 1
end

function Session:inflight()
  return self.last - self.first + 1
end

-- A packet id that is not in use, [MQTT-2.3.1-4]: the window is far smaller than what there is.
local function take_id(self)
  local id = self.next_id
  repeat
    id = id % 65535 + 1
    local is_used = false
    for i = self.first, self.last do
      if self.window[i].id == id then is_used = true end
    end
  until not is_used
  self.next_id = id
  return id
end

local function send(self, message, is_unstored)
  local id = take_id(self)
  self.last = self.last + 1
  self.window[self.last] = { id = id, message = message, is_unstored = is_unstored }
  output.publish(self.conn, message, id)
end

-- Whether another message may be sent now. One that is not sent for want of room in the output is by the next PUBACK.
local function may_send(self, limit)
  if not self.conn then return false end
  local count = self:inflight()
  return count < limit and (count == 0 or not output.is_above(self.conn))
end

-- Whether a message that need not come now, with this QoS, may.
function Session:has_room(qos, limit)
  if qos == 0 then return self.conn and output.is_above(self.conn) == false end
  return self:queued() == 0 and may_send(self, limit)
end

-- Send what waits in the queue, as far as the window goes.
function Session:pump(limit)
  while self.queue_first <= self.queue_last and may_send(self, limit) do
    local message = self.queue[self.queue_first]
    self.queue[self.queue_first] = nil
    self.queue_first = self.queue_first + 1
    self.queue_bytes = self.queue_bytes - #message.payload
    send(self, message)
  end
end

-- A message of QoS 1 for it. False: there is no room, and it has not got it. o: the broker's options; store: nil for a clean session.
function Session:push(message, o, store)
  local is_next = self:queued() == 0 and may_send(self, o.inflight)
  if not is_next and (self:queued() >= o.queue or self.queue_bytes + #message.payload > o.queue_bytes) then return false end
  local is_unstored = store and not store:push(self.id, message)
  if is_unstored and not is_next then return false end -- those that are away have the room: it need not wait for them
  if is_next then
    send(self, message, is_unstored)
  else
    self.queue_last = self.queue_last + 1
    self.queue[self.queue_last] = message
    self.queue_bytes = self.queue_bytes + #message.payload
  end
  return true
end

-- The client has acknowledged a packet; in the order in which they were sent, [MQTT-4.6.0-2], or not. False: there is no such packet.
function Session:ack(id, store)
  local window, found = self.window, false
  for i = self.first, self.last do
    local one = window[i]
    if one.id == id and not one.acked then
      one.acked, found = true, true
      break
    end
  end
  while self.first <= self.last and window[self.first].acked do
    local is_stored = store and not window[self.first].is_unstored
    window[self.first] = nil
    self.first = self.first + 1
    if is_stored then store:pop(self.id) end
  end
  return found
end

-- Of a client that is back: what it had not acknowledged is sent again, in order, [MQTT-4.4.0-1], [MQTT-4.6.0-1].
function Session:resend()
  for i = self.first, self.last do
    local one = self.window[i]
    if not one.acked then output.publish(self.conn, one.message, one.id, true) end
  end
end

-- ---- to another generation -------------------------------------------------------------------------------------

-- As plain data. number_of(message): a message is written once, however many sessions wait for it; list_of(names), the same of a list.
function Session:pack(number_of, list_of)
  local out = { window = {}, queue = {}, received = {}, owed = owed.pack(self, list_of) }
  for _, key in ipairs { "client", "clean", "conn", "will", "subscriptions", "next_id" } do out[key] = self[key] end
  for i = self.first, self.last do
    local one = self.window[i]
    out.window[#out.window + 1] = { one.id, number_of(one.message), one.acked or false, one.is_unstored }
  end
  for i = self.queue_first, self.queue_last do out.queue[#out.queue + 1] = number_of(self.queue[i]) end
  for id in pairs(self.received) do out.received[#out.received + 1] = id end
  return out
end

function M.unpack(packed, messages, lists)
  local self = M.new(packed.client, packed.clean)
  self.conn, self.will, self.subscriptions, self.next_id = packed.conn, packed.will, packed.subscriptions, packed.next_id
  for _ in pairs(self.subscriptions) do self.subscription_count = self.subscription_count + 1 end
  for i, one in ipairs(packed.window) do
    self.window[i] = { id = one[1], message = messages[one[2]], acked = one[3], is_unstored = one[4] }
  end
  self.last = #packed.window
  self:fill(packed.queue, messages)
  for _, id in ipairs(packed.received) do self.received[id] = true end
  self.received_count = #packed.received
  owed.unpack(self, packed.owed, lists)
  return self
end

-- Put messages into the queue, as they are: numbers of `messages`, or these themselves.
function Session:fill(list, messages)
  for _, one in ipairs(list) do
    local message = messages and messages[one] or one
    self.queue_last = self.queue_last + 1
    self.queue[self.queue_last] = message
    self.queue_bytes = self.queue_bytes + #message.payload
  end
end

return M
