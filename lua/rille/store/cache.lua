-- cache: values that a stored dict has read, in this Lua state, as long as Redis says nothing new of them. A connection of its own is
-- told by the server which keys somebody has written (CLIENT TRACKING); without it nothing is taken from here, and when it was lost all is
-- dropped.
--
-- A value on its way has a mark. Whoever hears of a new one takes the mark away, and what comes then is not kept.

local link = require "rille.redis.link"
local log = require "rille.log"
local resp = require("rille.codec").resp
local state = require "rille.state"
local timer = require "rille.timer"
local wire = require "rille.redis.wire"

local TICK = 0.2   -- seconds
local ENTRY = 128  -- bytes that an entry takes beside key and value
local MARKS_MAX = 10000

local Cache = {}
Cache.__index = Cache

local M = {}

local function drop_all(self)
  self.young, self.old, self.bytes, self.marks, self.mark_count = {}, {}, 0, {}, 0
end

function Cache:drop(key)
  self.young[key], self.old[key], self.marks[key] = nil, nil, nil
end

-- Whoever is used least goes: entries that nobody has asked for while half of the bytes were filled anew.
local function put(self, key, entry)
  self.young[key] = entry
  self.bytes = self.bytes + entry.size
  if self.bytes < self.half then return end
  self.old, self.young, self.bytes = self.young, {}, 0
end

-- The entry { value =, flags = } of a key, or nil.
function Cache:find(key)
  if not self.is_on then return nil end
  local entry = self.young[key]
  if not entry then
    entry = self.old[key]
    if not entry then return nil end
    self.old[key] = nil
    put(self, key, entry)
  end
  if entry.until_when > state.clock.now then return entry end
  self:drop(key)
end

-- Before a key is asked for: what keep() wants; nil: it is not to be kept.
function Cache:expect(key)
  if not self.is_on then return nil end
  if self.mark_count >= MARKS_MAX then self.marks, self.mark_count = {}, 0 end
  local mark = { at = state.clock.now }
  self.marks[key] = mark
  self.mark_count = self.mark_count + 1
  return mark
end

-- ttl: seconds, nil: for ever
function Cache:keep(key, mark, value, flags, ttl)
  if self.marks[key] ~= mark or not self.is_on then return end
  self.marks[key] = nil
  local size = #key + (type(value) == "string" and #value or 0) + ENTRY
  if size > self.half then return end
  put(self, key, { value = value, flags = flags, size = size, until_when = mark.at + math.min(ttl or self.seconds, self.seconds) })
end

-- ---- what the server says --------------------------------------------------------------------------------------

local function invalidate(self, keys)
  if type(keys) ~= "table" or keys == resp.null then return drop_all(self) end -- FLUSHALL
  local from = #self.prefix + 1
  for _, key in ipairs(keys) do self:drop(tostring(key):sub(from)) end
end

local function on_value(self, value)
  if resp.type(value) == "push" then
    if value[1] == "invalidate" then invalidate(self, value[2]) end
    return
  end
  local message = wire.error_of(value)
  if message then
    if not self.refused then log.warn("%s: nothing is cached: %s: %s", self.name, self.link.address.text, message) end
    self.refused = true
    return
  end
  if self.is_on or value ~= "OK" then return end
  self.is_on, self.refused = true, false
  self.link:settle()
end

local function turn_off(self)
  self.is_on = false
  drop_all(self)
end

-- options: of redis/options.lua; settings: of the dict.
function M.new(name, options, settings, prefix)
  local self = setmetatable({
    name = name, prefix = prefix, seconds = settings.cache, half = settings.cache_size / 2, is_on = false, refused = false,
  }, Cache)
  drop_all(self)
  self.link = link.new(options, {
    on_value = function(value) return on_value(self, value) end,
    on_up = function(l) return l:say { "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", prefix } end,
    on_down = function() return turn_off(self) end,
  })
  self.ticker = timer.pulse(TICK, function() self.link:tick() end)
  return self
end

-- Nothing is taken from it until the next tick.
function Cache:rest()
  turn_off(self)
  self.link:leave()
end

function Cache:close()
  turn_off(self)
  self.link:close()
  self.ticker:cancel()
end

return M
