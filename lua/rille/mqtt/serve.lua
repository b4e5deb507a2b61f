-- serve: one packet of a client after the other. What is no MQTT, or breaks a rule of the protocol, ends the connection: [MQTT-4.8.0-1];
-- version 3.1.1 has an answer for a refused CONNECT and SUBSCRIBE alone. A packet is consumed when it is done with; until then it may be
-- left to another generation, so hooks may be called once more for the same packet.

local broker = require "rille.mqtt.broker"
local checks = require "rille.mqtt.filter"
local log = require "rille.log"
local output = require "rille.mqtt.output"
local packet = require "rille.mqtt.packet"
local state = require "rille.state"
local timer = require "rille.timer"

local RECEIVED_MAX = 1000 -- packets of QoS 2 of one client that it has not released
local PAUSE = 0.001
local LEFT = "left" -- it stays unread

-- Return codes of CONNACK, section 3.2.2.3, and of SUBACK, section 3.9.3.
local VERSION, IDENTIFIER, UNAVAILABLE, CREDENTIALS, FORBIDDEN = 1, 2, 3, 4, 5
local FAILURE = 0x80

local DOLLAR = ("$"):byte()

-- ---- CONNECT ---------------------------------------------------------------------------------------------------

local function reject(self, conn, code)
  self.counts.refused = self.counts.refused + 1
  conn:write(packet.connack(false, code)) -- [MQTT-3.2.2-4]
  conn:close()                            -- [MQTT-3.2.2-5]
  return true
end

-- Whether there is nobody any more to answer; a peer that has ended its side may be waiting.
local function is_over(conn)
  return conn:local_address() == nil
end

-- To the loop where the session is, with the CONNECT unread.
local function go_home(self, conn, home)
  while true do
    local ok, err = conn:move(home)
    if ok or err == "closed" then return LEFT end -- its peer may be gone by now
    if err ~= "full" then
      if err ~= "shutdown" then log.warn("mqtt: conn %d cannot go to loop %d: %s", conn.id, home, err) end
      return reject(self, conn, UNAVAILABLE)
    end
    timer.sleep(PAUSE)
  end
end

local function is_good_name(self, topic)
  local o = self.options
  return checks.is_name(topic) and topic:byte() ~= DOLLAR and #topic <= o.topic and checks.levels(topic) <= o.levels
end

-- Whether a hook lets a client do something with a topic.
local function may(self, client, topic, action)
  local hook = self.options.authorize
  return not hook or hook(client, topic, action) and true or false
end

-- What the hooks say to a CONNECT: nil, or the code to refuse it with.
local function verdict(self, client, will)
  local hook = self.options.authenticate
  if hook then
    local ok, code = hook(client)
    if not ok then return code == CREDENTIALS and CREDENTIALS or FORBIDDEN end
  end
  if will and not may(self, client, will.topic, "publish") then return FORBIDDEN end
end

local function connect(self, conn, session, _, body)
  if session then return nil, "a second CONNECT" end -- [MQTT-3.1.0-2]
  local asked, err = packet.connect_of(body)
  if not asked then
    if err == "not supported" then return reject(self, conn, VERSION) end -- [MQTT-3.1.2-2]
    return nil, "a malformed CONNECT"
  end
  if #asked.id > self.options.client_id then return reject(self, conn, IDENTIFIER) end
  if asked.id == "" then
    if not asked.clean then return reject(self, conn, IDENTIFIER) end -- [MQTT-3.1.3-8]
    asked.id = ("\1%.0f"):format(conn.id) -- [MQTT-3.1.3-6]; no client can say this one, and it stays here
  elseif asked.id:byte() == 1 then
    return reject(self, conn, IDENTIFIER)
  elseif broker.home(asked.id) ~= state.loop_id then
    return go_home(self, conn, broker.home(asked.id))
  end
  local will = asked.will
  if will and not is_good_name(self, will.topic) then return nil, "a will with a bad topic" end
  local client = { id = asked.id, username = asked.username, peer = conn:peer(), password = asked.password, clean = asked.clean,
    keep_alive = asked.keep_alive }
  local refused = verdict(self, client, will)
  if self:is_away() or is_over(conn) then return LEFT end
  if refused then return reject(self, conn, refused) end
  client.password = nil
  local is_present
  session, is_present = self:attach(conn.id, client, asked.clean, will)
  if not session then
    log.warn("mqtt: %s is refused: no room for a session (sessions, sessions_size)", tostring(client.peer))
    return reject(self, conn, UNAVAILABLE)
  end
  conn:set_timeouts { lifetime = 0, idle = asked.keep_alive * 1.5 } -- [MQTT-3.1.2-24]; 0 is never
  output.send(conn.id, packet.connack(is_present, 0))
  self:go_on(session)
  return true
end

-- ---- PUBLISH ---------------------------------------------------------------------------------------------------

-- Wait while the loops do not keep up. False: there is nothing to wait for any more.
local function wait_for_room(self, conn)
  while self.spread:is_full() do
    timer.sleep(PAUSE)
    if state.is_retiring or is_over(conn) then return false end
  end
  return true
end

local function is_wanted(self, client, topic, payload, qos, retain)
  if topic:byte() == DOLLAR or not may(self, client, topic, "publish") then return false end -- section 4.7.2
  local hook = self.options.on_publish
  return not hook or hook(client, { topic = topic, payload = payload, qos = qos, retain = retain }) ~= false
end

-- The packet id of QoS 2 is noted: the message is taken once, section 4.3.3. True: it is a new one. nil: there are too many.
local function note_received(session, id)
  if session.received[id] then return false end
  if session.received_count >= RECEIVED_MAX then return nil end
  session.received[id], session.received_count = true, session.received_count + 1
  return true
end

local function publish(self, conn, session, flags, body)
  local name, data, id, qos, retain = packet.publish_of(flags, body)
  if not name or name:len() > self.options.topic then return nil, "a malformed PUBLISH" end
  local topic = name:str()
  if not packet.is_text(topic) or not checks.is_name(topic) or checks.levels(topic) > self.options.levels then
    return nil, "a PUBLISH with a bad topic" -- [MQTT-3.3.2-2]
  end
  if not wait_for_room(self, conn) then return LEFT end
  local payload = data:str()
  local wanted = is_wanted(self, session.client, topic, payload, qos, retain)
  if self:is_away() or session.conn ~= conn.id then return LEFT end
  if qos == 2 then
    local is_new = note_received(session, id)
    if is_new == nil then return nil, "too many packets of QoS 2" end
    wanted = wanted and is_new
  end
  local answer = qos > 0 and packet.reply(qos == 1 and packet.PUBACK or packet.PUBREC, id) or nil
  if wanted then
    self:spread_out(topic, payload, qos, retain, conn.id, answer)
  elseif answer then
    self.spread:answer(conn.id, answer) -- [MQTT-3.3.5-2]
  end
  return true
end

-- ---- SUBSCRIBE -------------------------------------------------------------------------------------------------

-- The code for one filter, and what is new to `subscriptions`; 1 is the highest QoS that is granted.
local function grant(self, client, one, subscriptions, count)
  local o = self.options
  if #one.filter > o.topic or checks.levels(one.filter) > o.levels then return FAILURE, count end
  if subscriptions[one.filter] == nil and count >= o.subscriptions then return FAILURE, count end
  if not may(self, client, one.filter, "subscribe") then return FAILURE, count end
  local qos = one.qos > 1 and 1 or one.qos
  if subscriptions[one.filter] == nil then count = count + 1 end
  subscriptions[one.filter] = qos
  return qos, count
end

local function subscribe(self, conn, session, _, body)
  local id, list = packet.filters_of(body, true)
  if not id then return nil, "a malformed SUBSCRIBE" end
  for _, one in ipairs(list) do
    if not checks.is_filter(one.filter) then return nil, "a SUBSCRIBE with a bad filter" end
  end
  local subscriptions, count, codes = {}, session.subscription_count, {}
  for what, qos in pairs(session.subscriptions) do subscriptions[what] = qos end
  for i, one in ipairs(list) do codes[i], count = grant(self, session.client, one, subscriptions, count) end
  if self:is_away() or session.conn ~= conn.id then return LEFT end
  if not self:resubscribe(session, subscriptions) then
    for i = 1, #codes do codes[i] = FAILURE end
  end
  output.send(conn.id, packet.suback(id, codes)) -- [MQTT-3.8.4-5]
  for i, one in ipairs(list) do
    if codes[i] ~= FAILURE then self:give_retained(session, one.filter) end
  end
  return true
end

local function unsubscribe(self, conn, session, _, body)
  local id, list = packet.filters_of(body, false)
  if not id then return nil, "a malformed UNSUBSCRIBE" end
  local subscriptions = {}
  for what, qos in pairs(session.subscriptions) do subscriptions[what] = qos end
  for _, one in ipairs(list) do subscriptions[one.filter] = nil end
  self:resubscribe(session, subscriptions, true)
  output.send(conn.id, packet.reply(packet.UNSUBACK, id)) -- [MQTT-3.10.4-5]
  return true
end

-- ---- the rest --------------------------------------------------------------------------------------------------

local function acknowledged(self, _, session, _, body)
  local id = packet.id_of(body)
  if not id then return nil, "a malformed PUBACK" end
  self:ack(session, id)
  return true
end

local function released(self, conn, session, _, body)
  local id = packet.id_of(body)
  if not id then return nil, "a malformed PUBREL" end
  if session.received[id] then
    session.received[id], session.received_count = nil, session.received_count - 1
  end
  self.spread:answer(conn.id, packet.reply(packet.PUBCOMP, id))
  return true
end

local function ping(_, conn, _, _, body)
  if body:len() ~= 0 then return nil, "a malformed PINGREQ" end
  output.send(conn.id, packet.pingresp)
  return true
end

local function disconnect(_, conn, session, _, body)
  if body:len() ~= 0 then return nil, "a malformed DISCONNECT" end
  session.will = nil -- [MQTT-3.14.4-3]
  conn:close()
  return true
end

local handlers = {
  [packet.CONNECT] = connect, [packet.PUBLISH] = publish, [packet.PUBACK] = acknowledged, [packet.PUBREL] = released,
  [packet.SUBSCRIBE] = subscribe, [packet.UNSUBSCRIBE] = unsubscribe, [packet.PINGREQ] = ping,
  [packet.DISCONNECT] = disconnect,
}

local function refuse(self, conn, why)
  self.counts.refused = self.counts.refused + 1
  log.info("mqtt: %s is disconnected: %s", tostring(conn:peer()), why)
  conn:close()
end

-- The next packet of a connection, if it is there.
return function(self, conn)
  local kind, flags, body, size = packet.decode(conn, self.options.packet)
  if self:is_away() then return end -- it is the next generation's; reading may have parked, when its turn was over
  if not kind then
    if flags then refuse(self, conn, flags == "too large" and "a packet that is too large" or "what is no MQTT") end
    return
  end
  self:load()
  local session = self.by_conn[conn.id]
  local handler = handlers[kind]
  if not handler then return refuse(self, conn, "a packet that is not for a server") end
  if not session and kind ~= packet.CONNECT then return refuse(self, conn, "no CONNECT") end -- [MQTT-3.1.0-1]
  local result, why = handler(self, conn, session, flags, body)
  if not result then return refuse(self, conn, why) end
  if result ~= LEFT then conn:skip(size) end
end
