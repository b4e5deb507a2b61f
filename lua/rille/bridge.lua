-- bridge: topics that several processes share, over PUBLISH and SUBSCRIBE of a Redis server. What this Lua state publishes goes there in
-- its order, behind a mark of the process; what others have published is handed on to the topic by one Lua state of the process, see
-- core/bridge.c, whichever has subscribed first.

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
local LATE = 5                             -- seconds that a generation which retires waits for the next one to take over
local MAX_REPLY = "64m"

local HEAD = "rille1:" -- then the mark, ":", and what was published; a message without it is taken as it is
local HEAD_SIZE = #HEAD + C.RILLE_MARK_SIZE + 1

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

-- ---- what others publish ---------------------------------------------------------------------------------------

local function hand_on(bridge, message)
  local from = 0
  if message:sub(1, #HEAD) == HEAD and #message >= HEAD_SIZE then
    if message:sub(#HEAD + 1, HEAD_SIZE - 1) == mark then return end -- this process has had it
    from = HEAD_SIZE
  end
  if C.rille_bridge_has(bridge.p) == 0 then return end
  bridge.received = bridge.received + 1
  C.rille_topic_publish(bridge.topic._p, state.loop, ffi.cast(char_t, message) + from, #message - from, full_box)
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
  if C.rille_bridge_take(bridge.p) == 0 then
    bridge.is_wanted, bridge.is_heard = false, false
    return self.link:say { "UNSUBSCRIBE", bridge.channel }
  end
end

-- There is no connection that has heard of them.
local function forget(self)
  for _, bridge in pairs(self.by_channel) do bridge.is_heard, bridge.is_wanted = false, false end
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

-- Subscribe to what nobody of the process hands on, and no longer to what somebody else does.
local function listen(self)
  local more, less = { "SUBSCRIBE" }, { "UNSUBSCRIBE" }
  local wanted = 0
  for channel, bridge in pairs(self.by_channel) do
    local chance = C.rille_bridge_may(bridge.p)
    -- what another one has offered is taken when the server has confirmed, so that no message falls between the two
    local may = chance == 2 or chance == 1 and C.rille_bridge_take(bridge.p) == 1
    if may then wanted = wanted + 1 end
    if self.link.one and may and not bridge.is_wanted then
      more[#more + 1] = channel
    elseif self.link.one and not may and bridge.is_wanted then
      less[#less + 1] = channel
    end
    if self.link.one then bridge.is_wanted = may end
    if not may then bridge.is_heard = false end
  end
  if #more > 1 then self.link:say(more) end
  if #less > 1 then self.link:say(less) end
  if wanted > 0 then return self.link:tick() end
  if self.link.one then leave(self) end
end

-- ---- what this state publishes ---------------------------------------------------------------------------------

local function batch_of(self)
  local parts, bytes = {}, 0
  while self.first <= self.last and #parts < BATCH and bytes < BATCH_BYTES do
    local one = self.queue[self.first]
    self.queue[self.first] = nil
    self.first = self.first + 1
    parts[#parts + 1] = one
    bytes = bytes + #one.bytes
  end
  return parts
end

local function send(self, batch)
  local encoded = {}
  for i, one in ipairs(batch) do
    encoded[i] = wire.encode { "PUBLISH", one.bridge.channel, HEAD .. mark_of_process() .. ":" .. one.bytes }
  end
  return self.server:exchange(table.concat(encoded), #batch, self.options.timeout)
end

local function count_batch(batch, replies)
  for i, one in ipairs(batch) do
    local is_sent = replies and type(replies[i]) == "number"
    local name = is_sent and "sent" or "lost"
    one.bridge[name] = one.bridge[name] + 1
  end
end

local function go(self)
  while self.first <= self.last do
    local batch = batch_of(self)
    local ok, replies = pcall(send, self, batch)
    for _, one in ipairs(batch) do self.waiting = self.waiting - #one.bytes - OVERHEAD end
    count_batch(batch, ok and replies)
    if not ok then
      self.is_going = false
      error(replies, 0)
    end
  end
  self.first, self.last, self.is_going = 1, 0, false
end

-- Send a message, a string, to the other processes. It does not park: it waits in a queue, and is lost when that is full or the
-- server is not there.
function M.publish(bridge, bytes)
  local self = bridge.group
  if not state.loop or self.waiting + #bytes + OVERHEAD > bridge.settings.queue then
    bridge.lost = bridge.lost + 1
    return
  end
  self.waiting = self.waiting + #bytes + OVERHEAD
  self.last = self.last + 1
  self.queue[self.last] = { bridge = bridge, bytes = bytes }
  if self.is_going then return end
  self.is_going = true
  task.start_later(go, self)
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
    is_wanted = false, is_heard = false, sent = 0, received = 0, lost = 0,
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
    for _, bridge in pairs(self.by_channel) do C.rille_bridge_offer(bridge.p) end
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
