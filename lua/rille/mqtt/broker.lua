-- broker: MQTT 3.1.1 on all loops of a server. A client has its home on the loop that its id stands for, and its connection goes there with
-- its CONNECT: its session is one loop's alone, so a takeover, an acknowledgement and a queue need nobody else. What is published goes from
-- the publisher's loop to all loops (spread.lua), and each finds its own subscribers in its tree.
--
-- While a generation of the script gives way to another, the sessions go over at once, on_retire to on_reload. From then on the old one
-- changes nothing: a packet whose hook was parked meanwhile is left unread for the new one, an end of a connection is posted to it.
-- What each packet does is in serve.lua; here are sessions and messages.

local buffer = require "string.buffer"

local checksum = require "rille.checksum"
local filter = require "rille.mqtt.filter"
local log = require "rille.log"
local misuse = require "rille.misuse"
local options = require "rille.mqtt.options"
local output = require "rille.mqtt.output"
local owed = require "rille.mqtt.owed"
local packet = require "rille.mqtt.packet"
local post = require "rille.post"
local retained = require "rille.mqtt.retained"
local sessions = require "rille.mqtt.session"
local spread = require "rille.mqtt.spread"
local state = require "rille.state"
local store = require "rille.mqtt.store"
local task = require "rille.task"
local timer = require "rille.timer"

local Broker = {}
Broker.__index = Broker

local M = { Broker = Broker }

local MODULE = "rille.mqtt.broker"
local VERSION = 2 -- of what goes from generation to generation

local WARN_EACH = 10 -- seconds

local brokers = {} -- by name, of this state

-- ---- messages --------------------------------------------------------------------------------------------------

-- One of QoS 1 is lost for a client: who runs the broker wants to know, but not of each.
local function lose(self, session)
  self.counts.dropped = self.counts.dropped + 1
  local now = state.clock.now
  if now < self.warn_at then return end
  self.warn_at = now + WARN_EACH
  log.warn("mqtt: a message for %q is dropped, as it has no room (queue, queue_bytes, sessions_size); %d were so far",
    session.id, self.counts.dropped)
end

-- A message for one session. It is the broker's to say what becomes of those that have no room: section 4.1 leaves that open.
local function give(self, session, message, qos)
  local counts = self.counts
  if qos == 0 then
    local conn = session.conn
    if not conn then return end
    local is_above = output.is_above(conn)
    if is_above == nil then return end
    if is_above then
      counts.dropped = counts.dropped + 1
    elseif output.publish(conn, message) then
      counts.delivered = counts.delivered + 1
    end
    return
  end
  if session:push(message, self.options, not session.clean and self.store or nil) then
    counts.delivered = counts.delivered + 1
    return
  end
  lose(self, session)
  if self.options.slow == "disconnect" and session.conn then output.close(session.conn, true) end
end

local function deliver_one(self, topic, payload, flags)
  if flags >= 4 then self.retained:note(topic) end
  local found = self.found
  if next(found) then found = {} end -- somebody raised
  self.found = found
  self.tree:match(topic, found)
  if next(found) == nil then return end
  local message, qos = { topic = topic, payload = payload }, flags % 4
  output.share(message)
  for session, granted in next, found do
    found[session] = nil
    give(self, session, message, granted < qos and granted or qos)
  end
  output.unshare(message)
end

-- What came from a loop: topic, payload, flags of each.
local function deliver(self, items)
  self:load()
  for i = 1, #items, 3 do deliver_one(self, items[i], items[i + 1], items[i + 2]) end
end

-- What is published on this loop and retained.
local function keep(self, items)
  for i = 1, #items, 3 do
    local flags = items[i + 2]
    if flags >= 4 then self.retained:keep(items[i], items[i + 1], flags - 4) end
  end
end

-- To everybody; answer: for the connection `id`, when all loops have it.
function Broker:spread_out(topic, payload, qos, retain, id, answer)
  self.counts.published = self.counts.published + 1
  if qos > 1 then qos = 1 end
  return self.spread:add(topic, payload, qos + (retain and 4 or 0), id, answer)
end

-- What the retained messages are of a filter, for a session that has just subscribed: [MQTT-3.3.1-6], [MQTT-3.3.1-8].
function Broker:give_retained(session, what)
  owed.add(session, what)
  owed.settle(self, session)
end

-- ---- sessions --------------------------------------------------------------------------------------------------

local function add_session(self, session)
  self.sessions[session.id] = session
  self.count = self.count + 1
  if session.conn then self.by_conn[session.conn] = session end
  for what, qos in pairs(session.subscriptions) do self.tree:add(what, session, qos) end
end

-- The persistent sessions of this loop, when no generation before handed them over.
function Broker:load()
  if self.is_loaded then return end
  self.is_loaded = true
  self.store:each(function(id) return M.home(id) == state.loop_id end, function(_, client, subscriptions, messages)
    local session = sessions.new(client, false)
    session.subscriptions = subscriptions
    for _ in pairs(subscriptions) do session.subscription_count = session.subscription_count + 1 end
    session:fill(messages)
    add_session(self, session)
  end)
end

-- The loop that has the session of a client.
function M.home(id)
  return checksum.crc32(id) % state.loop_count + 1
end

-- Nothing is left of it, in the store neither.
function Broker:discard(session)
  if self.sessions[session.id] ~= session then return end
  self.sessions[session.id] = nil
  self.count = self.count - 1
  for what in pairs(session.subscriptions) do self.tree:remove(what, session) end
  if not session.clean then self.store:forget(session.id) end
end

function Broker:publish_will(session)
  local will = session.will
  session.will = nil
  if will then self:spread_out(will.topic, will.payload, will.qos, will.retain) end
end

-- Its connection is over, or another's: [MQTT-3.1.2-8].
local function part(self, session, err)
  self.by_conn[session.conn] = nil
  session.conn, self.owing[session] = false, nil
  if err ~= "shutdown" then self:publish_will(session) end
  if session.clean then self:discard(session) end
end

-- The session for a connection that has said CONNECT, and whether there was one: section 3.1.4. The connection before that has the same
-- client id is closed, [MQTT-3.1.4-2]. nil: there is no room.
function Broker:attach(id, client, is_clean, will)
  local session = self.sessions[client.id]
  if session and session.conn then
    output.close(session.conn)
    part(self, session)
    session = self.sessions[client.id]
  end
  if session and (is_clean or session.client.username ~= client.username) then -- what one user may read is not another's
    self:discard(session) -- [MQTT-3.1.2-6]
    session = nil
  end
  local is_present = session ~= nil
  if not session then
    if self.count >= self.options.sessions then return nil end
    session = sessions.new(client, is_clean)
    if not is_clean and not self.store:keep(client.id, client, {}) then return nil end
    add_session(self, session)
  end
  session.client, session.conn, session.will = client, id, will
  self.by_conn[id] = session
  return session, is_present
end

-- Give a session other subscriptions: false when there is no room to keep them. is_less: than it has, which is done in any case.
function Broker:resubscribe(session, subscriptions, is_less)
  local is_kept = session.clean or self.store:keep(session.id, session.client, subscriptions, is_less)
  if not is_kept and not is_less then return false end
  local count = 0
  for what, qos in pairs(subscriptions) do
    count = count + 1
    if session.subscriptions[what] ~= qos then self.tree:add(what, session, qos) end
  end
  for what in pairs(session.subscriptions) do
    if not subscriptions[what] then
      self.tree:remove(what, session)
      owed.drop(session, what)
    end
  end
  session.subscriptions, session.subscription_count = subscriptions, count
  return true
end

-- Its connection has been told that it is there: what it has not acknowledged, and what waits.
function Broker:go_on(session)
  session:resend()
  session:pump(self.options.inflight)
  if session.owed[1] then owed.settle(self, session) end
end

function Broker:ack(session, id)
  session:ack(id, not session.clean and self.store or nil)
  session:pump(self.options.inflight)
  if self.owing[session] then owed.settle(self, session) end
end

-- The connection of that id has ended.
local function lost(self, id, err)
  self:load()
  local session = self.by_conn[id]
  if session then part(self, session, err) end
end

-- ---- generations -----------------------------------------------------------------------------------------------

-- Between its being asked for the sessions and another generation's serving there may be tasks that run.
local function has_just_left(self)
  return self.left_at and self.left_at == state.clock.now
end

-- Whether another generation has the sessions. In between it waits a turn.
function Broker:is_away()
  if has_just_left(self) then task.yield() end
  return state.is_retiring
end

-- A call of a function below in the generation that serves this loop.
local function hand_on(fn, ...)
  while true do
    local ok, err = post.call(state.loop_id, MODULE, fn, ...)
    if ok or err ~= "full" then return ok, err end
    timer.sleep(0.001)
  end
end

-- For on_close of the script.
function Broker:closed(id, err)
  if self:is_away() then return hand_on("lost", self.options.name, id, err) end
  return lost(self, id, err)
end

-- For on_retire: everything, as plain data.
function Broker:retire()
  if not self.is_loaded then return nil end
  local left = self.spread:leave()
  self.left_at = state.clock.now
  local messages, lists, numbers = {}, {}, {}
  local function list_of(names)
    if not numbers[names] then
      lists[#lists + 1] = names
      numbers[names] = #lists
    end
    return numbers[names]
  end
  local function number_of(message)
    local number = numbers[message]
    if not number then
      number = #messages + 1
      messages[number] = { topic = message.topic, payload = message.payload, retained = message.retained }
      numbers[message] = number
    end
    return number
  end
  local packed = {}
  for _, session in pairs(self.sessions) do packed[#packed + 1] = session:pack(number_of, list_of) end
  -- as one string: it is walked once
  local all = { messages = messages, lists = lists, sessions = packed, left = left, counts = self.counts }
  return { version = VERSION, bytes = buffer.encode(all) }
end

local function clear(self)
  self.sessions, self.by_conn, self.owing, self.count, self.tree = {}, {}, {}, 0, filter.tree()
  self.found, self.is_loaded, self.left_at = {}, false, false
  self.counts = { published = 0, delivered = 0, dropped = 0, refused = 0 }
end

-- For on_reload. What is not from a broker of this kind is not taken: the sessions are those of the store then.
function Broker:reload(data)
  clear(self)
  local is_known = type(data) == "table" and data.version == VERSION
  local kept = is_known and buffer.decode(data.bytes) or { left = {} }
  if is_known then
    self.is_loaded, self.counts = true, kept.counts
    for _, one in ipairs(kept.sessions) do
      local session = sessions.unpack(one, kept.messages, kept.lists)
      add_session(self, session)
      if session.conn and session.owed[1] then owed.later(self, session) end
    end
  end
  self.spread:take(kept.left)
end

-- ---- from other loops and generations, by rille.post ---------------------------------------------------------------

-- The broker of a name; nil when this version of the script has none.
function M.find(name)
  local self = brokers[name]
  if not self then log.debug("mqtt: there is no broker %q any more", name) end
  return self
end

local find = M.find

function M.receive(name, items)
  local self = find(name)
  if self then deliver(self, items) end
end

function M.lost(name, id, err)
  local self = find(name)
  if self then lost(self, id, err) end
end

function M.publish(name, topic, payload, qos, retain)
  local self = find(name)
  if self then self:spread_out(topic, payload, qos, retain) end
end

-- ---- for scripts -----------------------------------------------------------------------------------------------

-- A broker: docs/mqtt.md has its options. Of each name there is one in a script.
function M.new(given)
  local o = options.check(given)
  if brokers[o.name] then misuse("rille.mqtt.broker: there is a broker '%s' in this script already", o.name) end
  local self = setmetatable({ options = o, give = give, warn_at = 0 }, Broker)
  clear(self)
  self.retained = retained.new(o.name .. ".retained", o.retained_size)
  self.store = store.new(o.name .. ".sessions", o.sessions_size)
  self.spread = spread.new(o.name, function(items) return keep(self, items) end, function(items) return deliver(self, items) end)
  brokers[o.name] = self
  return self
end

-- Publish a message of the script's own; topics that begin with $ are for those. options: qos (0 or 1), retain. True; or nil, err: "full":
-- a loop does not keep up; "invalid argument": the topic has wildcards or is no UTF-8; "too large".
function Broker:publish(topic, payload, given)
  state.need_loop("mqtt.publish")
  if type(topic) ~= "string" then misuse("bad argument #1 to 'publish' (string expected, got %s)", type(topic)) end
  if type(payload) ~= "string" then misuse("bad argument #2 to 'publish' (string expected, got %s)", type(payload)) end
  if given ~= nil and type(given) ~= "table" then misuse("bad argument #3 to 'publish' (table expected, got %s)", type(given)) end
  local qos, retain = given and given.qos or 0, given and given.retain or false
  if qos ~= 0 and qos ~= 1 then misuse("publish: qos is 0 or 1, not %s", tostring(qos)) end
  if #topic > self.options.topic or #topic + #payload > self.options.packet then return nil, "too large" end
  if not filter.is_name(topic) or not packet.is_text(topic) then return nil, "invalid argument" end
  if filter.levels(topic) > self.options.levels then return nil, "too large" end
  if state.is_retiring or has_just_left(self) then
    return post.call(state.loop_id, MODULE, "publish", self.options.name, topic, payload, qos, retain and true)
  end
  if self.spread:is_full() and not self.spread:flush() then return nil, "full" end
  self:spread_out(topic, payload, qos, retain)
  return true
end

-- A new table of numbers, of this loop.
function Broker:stats()
  self:load()
  local out = { sessions = self.count, connected = 0, subscriptions = self.tree.count, inflight = 0, queued = 0 }
  for _ in pairs(self.by_conn) do out.connected = out.connected + 1 end
  for _, session in pairs(self.sessions) do
    out.inflight, out.queued = out.inflight + session:inflight(), out.queued + session:queued()
  end
  for key, value in pairs(self.counts) do out[key] = value end
  out.retained, out.not_retained = self.retained:count(), self.retained.refused
  return out
end

-- The callbacks of a script that is this broker.
function Broker:handlers()
  local serve = require("rille.mqtt.serve")
  return {
    on_connect = function(conn) conn:set_timeouts { lifetime = self.options.connect_time } end,
    on_request = function(conn) return serve(self, conn) end,
    on_idle = function(conn, which)
      if which == "read" then conn:close() end -- [MQTT-3.1.2-24]
    end,
    on_close = function(conn, err) return self:closed(conn.id, err) end,
    on_retire = function() return self:retire() end,
    on_reload = function(data) return self:reload(data) end,
  }
end

return M
