-- bridge: topics that several processes share, over PUBLISH and SUBSCRIBE of a Redis server. What this Lua state publishes goes there in
-- its order, behind a mark of the process; what others have published is handed on to the topic by one Lua state of the process, see
-- core/bridge.c, whichever has subscribed first.
--
-- When that one retires, the state which comes after it subscribes too and publishes a claim. Both see the claim at the same place among
-- the messages: those before it are for the one, those behind it for the other, which keeps them until the first has come so far.

local ffi = require "ffi"

local C = require "rille.core"
local link = require "rille.redis.link"
local log = require "rille.log"
local redis_options = require "rille.redis.options"
local server = require "rille.redis.server"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local wire = require "rille.redis.wire"

local TICK = 0.2                           -- seconds
local BATCH, BATCH_BYTES = 256, 256 * 1024 -- of messages that are sent together
local OVERHEAD = 128                       -- bytes that a waiting message counts beside its own
local LATE = 5                             -- seconds that a generation which retires and the next one wait for each other
local LOOK = 0.01                          -- seconds, whether the former one has come to the claim
local MAX_REPLY = "64m"

-- then the mark, ":", and what was published; or "!" and the number of a claim. A message without it is taken as it is.
local HEAD = "rille1:"
local HEAD_SIZE = #HEAD + C.RILLE_MARK_SIZE + 1
local CLAIM = ("!"):byte()

local char_t = ffi.typeof "const char *"
local full_box = ffi.new "double[1]"

-- All bridges of this Lua state to one server, on one connection to listen and one to publish.
local Group = {}
Group.__index = Group

local groups = {}

local M = {}

local mark

local function mark_of_process()
  if mark then return mark end
  local box = ffi.new("char[?]", C.RILLE_MARK_SIZE)
  if C.rille_process_mark(box) == 0 then mark = ffi.string(box, C.RILLE_MARK_SIZE) end
  return mark
end

-- ---- what this state publishes ---------------------------------------------------------------------------------

local function batch_of(self)
  local parts, bytes = {}, 0
  while self.first <= self.last and #parts < BATCH and bytes < BATCH_BYTES do
    local one = self.queue[self.first]
    self.queue[self.first] = nil
    self.first = self.first + 1
    parts[#parts + 1] = one
    bytes = bytes + #one.text
  end
  return parts
end

local function send(self, batch)
  local encoded = {}
  for i, one in ipairs(batch) do
    encoded[i] = wire.encode { "PUBLISH", one.bridge.channel, HEAD .. mark .. one.text }
  end
  return self.server:exchange(table.concat(encoded), #batch, self.options.timeout)
end

local function count_batch(batch, replies)
  for i, one in ipairs(batch) do
    local name = replies and type(replies[i]) == "number" and "sent" or "lost"
    if not one.is_claim then one.bridge[name] = one.bridge[name] + 1 end
  end
end

local function go(self)
  while self.first <= self.last do
    local batch = batch_of(self)
    local ok, replies = pcall(send, self, batch)
    for _, one in ipairs(batch) do self.waiting = self.waiting - #one.text - OVERHEAD end
    count_batch(batch, ok and replies)
    if not ok then
      self.is_going = false
      error(replies, 0)
    end
  end
  self.first, self.last, self.is_going = 1, 0, false
end

local function put(self, one)
  self.waiting = self.waiting + #one.text + OVERHEAD
  self.last = self.last + 1
  self.queue[self.last] = one
  if self.is_going then return end
  self.is_going = true
  task.start_later(go, self)
end

-- Send a message, a string, to the other processes. It does not park: it waits in a queue, and is lost when that is full or the
-- server is not there.
function M.publish(bridge, bytes)
  local self = bridge.group
  if not state.loop or self.waiting + #bytes + OVERHEAD > bridge.settings.queue then
    bridge.lost = bridge.lost + 1
    return
  end
  put(self, { bridge = bridge, text = ":" .. bytes })
end

-- ---- what others publish ---------------------------------------------------------------------------------------

local function deliver(bridge, message, from)
  bridge.received = bridge.received + 1
  C.rille_topic_publish(bridge.topic._p, state.loop, ffi.cast(char_t, message) + from, #message - from, full_box)
end

-- A message that came behind the claim, while the former one is still at those before it.
local function keep(bridge, message, from)
  bridge.kept_bytes = bridge.kept_bytes + #message + OVERHEAD
  if bridge.kept_bytes > bridge.settings.queue then
    bridge.lost = bridge.lost + 1
    return
  end
  bridge.kept[#bridge.kept + 1] = { message = message, from = from }
end

-- From here on this one hands on.
local function succeed(bridge)
  local kept = bridge.kept
  bridge.claim, bridge.kept = false, false
  for _, one in ipairs(kept) do deliver(bridge, one.message, one.from) end
end

local function is_over(bridge)
  if bridge.claim and bridge.is_behind and C.rille_bridge_has(bridge.p) == 1 then succeed(bridge) end
  return not bridge.claim
end

local function look(bridge, claim)
  if bridge.claim ~= claim or is_over(bridge) then return end
  timer.after(LOOK, function() return look(bridge, claim) end)
end

local function come_to(bridge, claim)
  if bridge.claim == claim then
    bridge.is_behind = true
    return look(bridge, claim)
  end
  if claim then C.rille_bridge_pass(bridge.p, claim) end
end

local function hand_on(bridge, message)
  local from = 0
  if message:sub(1, #HEAD) == HEAD and #message >= HEAD_SIZE then
    local is_own = message:sub(#HEAD + 1, HEAD_SIZE - 1) == mark
    if message:byte(HEAD_SIZE) == CLAIM then return is_own and come_to(bridge, tonumber(message:sub(HEAD_SIZE + 1))) end
    if is_own then return end -- this process has had it
    from = HEAD_SIZE
  end
  if not is_over(bridge) then return bridge.is_behind and keep(bridge, message, from) end
  if C.rille_bridge_has(bridge.p) == 1 then return deliver(bridge, message, from) end
end

local function up(self)
  if self.is_down then log.info("bridge to %s: it is back", self.link.address.text) end
  self.is_down = false
  self.link:settle()
end

local function receive(self, value)
  if type(value) ~= "table" then return end
  local message = wire.error_of(value)
  if message then
    self.problem = message
    return self.link:abort()
  end
  local bridge = self.by_channel[value[2]]
  if not bridge then return end
  if value[1] == "message" then return hand_on(bridge, value[3]) end
  if value[1] ~= "subscribe" then return end
  bridge.is_heard = true
  up(self)
  if bridge.claim then return put(self, { bridge = bridge, text = ("!%.0f"):format(bridge.claim), is_claim = true }) end
end

-- There is no connection that has heard of them.
local function forget(self)
  for _, bridge in pairs(self.by_channel) do
    bridge.is_heard, bridge.is_wanted, bridge.claim, bridge.kept = false, false, false, false
    C.rille_bridge_pass(bridge.p, 0) -- who has claimed its place, if one has, hears more now
  end
end

local function leave(self)
  forget(self)
  return self.link:leave()
end

local function down(self, err, message)
  forget(self)
  message, self.problem = self.problem or message or err, nil
  if not self.is_down and message and not self.link.is_closed then
    log.warn("bridge to %s is down: %s", self.link.address.text, message)
  end
  self.is_down = true
end

-- Whether this one hands on, or is the next that does.
local function is_ready(bridge)
  if bridge.claim and state.clock.now > bridge.claimed_at + LATE then
    if C.rille_bridge_seize(bridge.p) == 1 then succeed(bridge) end
    bridge.claim, bridge.kept = false, false
  end
  if bridge.claim then return true end
  if state.is_retiring then return C.rille_bridge_has(bridge.p) == 1 end
  if C.rille_bridge_take(bridge.p) == 1 then return true end
  local claim = C.rille_bridge_claim(bridge.p)
  if claim == 0 then return false end
  bridge.claim, bridge.claimed_at, bridge.is_behind, bridge.kept, bridge.kept_bytes = claim, state.clock.now, false, {}, 0
  return true
end

-- Subscribe to what nobody of the process hands on, and no longer to what somebody else does.
local function listen(self)
  local more, less = { "SUBSCRIBE" }, { "UNSUBSCRIBE" }
  local wanted = 0
  for channel, bridge in pairs(self.by_channel) do
    local is_wanted = is_ready(bridge)
    if is_wanted then wanted = wanted + 1 end
    if self.link.one and is_wanted and not bridge.is_wanted then
      more[#more + 1] = channel
    elseif self.link.one and not is_wanted and bridge.is_wanted then
      less[#less + 1] = channel
    end
    if self.link.one then bridge.is_wanted = is_wanted end
    if not is_wanted then bridge.is_heard = false end
  end
  if #more > 1 then self.link:say(more) end
  if #less > 1 then self.link:say(less) end
  if wanted > 0 then return self.link:tick() end
  if self.link.one then leave(self) end
end

-- ---- making them -----------------------------------------------------------------------------------------------

-- What is of the loop; made again when the state has come to another one.
local function connect(self)
  self.queue, self.first, self.last, self.waiting, self.is_going = {}, 1, 0, 0, false
  self.server = server.new(self.options.addresses[1], self.options)
  self.link = link.new(self.options, {
    on_value = function(value) return receive(self, value) end,
    on_up = function() return listen(self) end,
    on_down = function(err, message) return down(self, err, message) end,
  })
end

local function group_of(settings)
  local id = ("%s %g %s"):format(settings.bridge, settings.timeout, settings.ca or "")
  local self = groups[id]
  if self then return self end
  local options = redis_options.check {
    url = settings.bridge, timeout = settings.timeout, connect_timeout = settings.timeout, max_reply = MAX_REPLY,
    tls = settings.ca and { ca = settings.ca } or nil,
  }
  self = setmetatable({ options = options, by_channel = {}, is_down = false, problem = nil }, Group)
  connect(self)
  groups[id] = self
  self.ticker = timer.pulse(TICK, function() listen(self) end)
  return self
end

-- The bridge of a topic (a table of topic.lua). Nil, err: "no memory", "system error".
function M.open(topic, settings)
  if not mark_of_process() then return nil, "system error" end
  local p = C.rille_bridge_new(topic._p)
  if p == nil then return nil, "no memory" end
  local group = group_of(settings)
  local self = {
    p = ffi.gc(p, C.rille_bridge_free), topic = topic, settings = settings, channel = settings.prefix .. topic.name, group = group,
    is_wanted = false, is_heard = false, claim = false, kept = false, sent = 0, received = 0, lost = 0,
  }
  group.by_channel[self.channel] = self
  return self
end

-- { connected =, sent =, received =, lost = } of this Lua state.
function M.stats(bridge)
  local is_connected = bridge.is_heard and C.rille_bridge_has(bridge.p) == 1
  return { connected = is_connected, sent = bridge.sent, received = bridge.received, lost = bridge.lost }
end

-- ---- the life of the state -------------------------------------------------------------------------------------

local function has_any(self)
  for _, bridge in pairs(self.by_channel) do
    if C.rille_bridge_has(bridge.p) == 1 then return true end
  end
end

local function rest(self)
  if not state.is_retiring then return end
  if not has_any(self) or state.clock.now > self.late_at then leave(self) end
  self.server:rest()
  timer.after(TICK, function() rest(self) end)
end

-- Another generation serves: what this one hands on it goes on with, until that one has subscribed.
function M.aside()
  for _, self in pairs(groups) do
    for _, bridge in pairs(self.by_channel) do
      C.rille_bridge_offer(bridge.p)
      if C.rille_bridge_has(bridge.p) == 0 then bridge.claim, bridge.kept = false, false end
    end
    self.late_at = state.clock.now + LATE
    self.link:hold()
    timer.after(TICK, function() rest(self) end)
  end
end

-- The loop is gone, and every connection with it.
function M.reset()
  for _, self in pairs(groups) do
    self.link:close()
    forget(self)
    connect(self)
  end
end

return M
