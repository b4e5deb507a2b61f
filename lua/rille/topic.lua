-- topic: what one publishes, every connection gets that has subscribed, on whichever loop. core/topic.c keeps the subscribers and
-- sends; here is how a script asks for it.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local bridges = require "rille.bridge"
local conn = require "rille.conn"
local errors = require "rille.errors"
local gone = require("rille.conn_read").gone
local leaks = require "rille.leaks"
local luggage = require "rille.luggage"
local misuse = require "rille.misuse"
local state = require "rille.state"

local type, tonumber = type, tonumber
local istype = ffi.istype
local slice_t, buffer_t = Slice.type, LinkBuffer.type
local text = errors.text

local Topic = {}
Topic.__index = Topic

local SLOW = { drop = C.RILLE_TOPIC_DROP, disconnect = C.RILLE_TOPIC_DISCONNECT }

local err_box = ffi.new("int[1]")
local full_box = ffi.new("double[1]")
local stats_box = ffi.new("rille_topic_stats[1]")

local known = setmetatable({}, { __mode = "v" }) -- by name; a topic has one table in this state
-- Those with options: what was wished stays wished as long as this state does. Only written: that is what keeps them.
local fixed = {} -- luacheck: ignore 241
local configured = {} -- bridges of the configuration, by name

local function wish(options)
  if options == nil then return C.RILLE_TOPIC_ANY end
  if type(options) ~= "table" then misuse("bad argument #2 to 'topic' (table expected, got %s)", type(options)) end
  if options.slow == nil then return C.RILLE_TOPIC_ANY end
  return SLOW[options.slow] or misuse('rille.topic: slow is "drop" or "disconnect", not %s', tostring(options.slow))
end

-- What the bridge of a topic is to be, if it has one. Raises for options that there are not.
local function bridge_of(name, options)
  local given
  for key, value in pairs(options or {}) do
    if key ~= "slow" then
      if options.bridge == nil then misuse("rille.topic has no option '%s': it takes slow, and bridge", tostring(key)) end
      given = given or {}
      given[key] = value
    end
  end
  if not given then return configured[name] end
  local settings, message = require("rille.config").section("topics", given, "rille.topic")
  if not settings then misuse(message) end
  return settings
end

-- Have a topic bridged. True; or nil, err.
local function connect(self, settings)
  local present = self.bridge
  if not present then
    local err
    self.bridge, err = bridges.open(self, settings)
    if not self.bridge then return nil, err end
    fixed[self.name] = self
  elseif present.settings.bridge ~= settings.bridge or present.settings.prefix ~= settings.prefix then
    misuse("topic '%s' has another bridge already: say the same everywhere", self.name)
  end
  return true
end

-- The topic of that name, the same on every loop. options: slow = "drop" (a connection above its high-water mark misses the message)
-- or "disconnect" (it is aborted); bridge = URL and what goes with it. Raises when the topic was given another one before.
local function open(name, options)
  if type(name) ~= "string" then misuse("bad argument #1 to 'topic' (string expected, got %s)", type(name)) end
  local slow = wish(options)
  local settings = bridge_of(name, options)
  if options and options.bridge ~= nil then state.need_loop "topic" end
  local self = known[name]
  if self and slow == C.RILLE_TOPIC_ANY and (not settings or self.bridge and self.bridge.settings == settings) then return self end
  local p = C.rille_topic_open(name, #name, slow, err_box)
  if p == nil then
    local err = err_box[0]
    if err == C.RILLE_ERR_INVALID then
      misuse("bad argument #1 to 'topic' (a name of 1 to %d bytes expected, got %d)", C.RILLE_TOPIC_NAME_MAX, #name)
    elseif err == C.RILLE_ERR_BUSY then
      misuse('topic %q was made with another option than slow = "%s"', name, options.slow)
    end
    return nil, text[-err]
  end
  if self then
    C.rille_topic_close(p) -- it is held already
  else
    self = setmetatable({ name = name, bridge = false, _p = ffi.gc(p, C.rille_topic_close) }, Topic)
    known[name] = self
  end
  if slow ~= C.RILLE_TOPIC_ANY then fixed[name] = self end
  if settings and state.loop then
    local ok, err = connect(self, settings)
    if not ok then return nil, err end
  end
  return self
end

local function published(receivers)
  if receivers < 0 then return nil, text[-receivers] end
  if full_box[0] > 0 then return receivers, "full" end
  return receivers
end

local function publish_here(self, x)
  local loop = state.loop -- nil: a thread without one
  if type(x) == "string" then return published(C.rille_topic_publish(self._p, loop, x, #x, full_box)) end
  if istype(slice_t, x) then
    if x.cell_.epoch ~= x.epoch_ then misuse("slice expired") end
    return published(C.rille_topic_publish_view(self._p, loop, x.base_, x.size_, x.block_, full_box))
  elseif istype(buffer_t, x) then
    return published(C.rille_topic_publish_buffer(self._p, loop, x, full_box))
  end
  misuse("bad argument #1 to 'publish' (a string, slice or LinkBuffer expected, got %s)", type(x))
end

-- What is published, as a string; nil for what cannot be.
local function bytes_of(x)
  if type(x) == "string" then return x end
  if istype(slice_t, x) then return x.cell_.epoch == x.epoch_ and x:str() or nil end
  local all = istype(buffer_t, x) and x:peek(x:len())
  return all and all:str() or nil
end

-- Send x, a string, slice or LinkBuffer (what can be read of it, which stays there), to every subscriber. How many have been sent it or
-- will be; "full" behind that when the mailbox of a loop had no room, and its subscribers are not in it. Or nil, err: "too large",
-- "closed" (a closed LinkBuffer), "no memory".
function Topic:publish(x)
  if not self.bridge then return publish_here(self, x) end
  local bytes = bytes_of(x) -- first: the slice may be of a connection that this ends
  local receivers, err = publish_here(self, x)
  if receivers and bytes then bridges.publish(self.bridge, bytes) end
  return receivers, err
end

local function check(x, name)
  if not conn.is(x) then
    misuse("bad argument #1 to '%s' (a connection expected, got %s)", name, type(x))
  end
  return x._p
end

-- From now on the connection gets what is published, until it is over. True, also when it has been subscribed; or nil, err: "busy" (it
-- speaks HTTP), "closed", "reset".
function Topic:subscribe(x)
  local p = check(x, "subscribe")
  if not p then return gone(x) end
  local code = C.rille_topic_subscribe(self._p, p)
  if code ~= 0 then return nil, text[-code] end
  if leaks.on then leaks.subscribed(x.id, self.name) end
  return true
end

-- False when it was not subscribed.
function Topic:unsubscribe(x)
  local p = check(x, "unsubscribe")
  if leaks.on then leaks.unsubscribed(x.id, self.name) end
  return p and C.rille_topic_unsubscribe(self._p, p) == 1 or false
end

-- Subscribers, of all loops.
function Topic:count()
  return C.rille_topic_count(self._p)
end

-- A new table of numbers, of all loops: publishes, deliveries, dropped, disconnected, subscribers; and bridge, of this Lua state.
function Topic:stats()
  C.rille_topic_stats_read(self._p, stats_box)
  local out = {}
  for _, name in ipairs { "publishes", "deliveries", "dropped", "disconnected", "subscribers" } do
    out[name] = tonumber(stats_box[0][name])
  end
  if self.bridge then out.bridge = bridges.stats(self.bridge) end
  return out
end

function Topic:__tostring()
  return "topic " .. self.name
end

luggage.handle("topic", Topic, function(self) return self.name end, function(name) return open(name) end)

local topic = { open = open }

-- topics: of a configuration. Their bridges are there from the beginning: connections may be subscribed that another generation had.
function topic.set_defaults(topics)
  configured = topics or {}
  for name in pairs(configured) do assert(open(name)) end
end

return topic
