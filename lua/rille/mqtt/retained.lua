-- retained: the last message of each topic that was published with RETAIN, section 3.3.1.3. The messages are in a dict, which all loops
-- share and which outlives every generation; each loop knows the names, to find those a filter matches.

local dict = require "rille.dict"
local filter = require "rille.mqtt.filter"
local log = require "rille.log"

local Retained = {}
Retained.__index = Retained

local M = {}

function M.new(name, size)
  local values, err = dict.of(name, { size = size })
  if not values then error(("rille.mqtt: the dict %s: %s"):format(name, err), 0) end
  return setmetatable({ name = name, values = values, tree = false, refused = 0 }, Retained)
end

-- The names are looked up when they are first needed: a new generation has none.
local function open(self)
  if self.tree then return end
  local tree = filter.tree()
  for _, name in ipairs(self.values:keys(0)) do tree:add(name, true, 0) end
  self.tree = tree
end

-- The loop of the publisher keeps it, or forgets it with an empty payload ([MQTT-3.3.1-10]), before any loop notes it. False when there
-- is no room: no other one goes for it.
function Retained:keep(topic, payload, qos)
  if payload == "" then
    self.values:delete(topic)
    return true
  end
  if dict.set_if_room(self.values, topic, payload, qos) then return true end
  self.values:delete(topic) -- the one before is not the last any more
  self.refused = self.refused + 1
  if self.refused == 1 then log.warn("mqtt: %s is full: messages are delivered and not retained; raise retained_size", self.name) end
  return false
end

-- Every loop notes the name, if there is a message of it: who has changed it last is noted last.
function Retained:note(topic)
  open(self)
  local count = self.tree.count
  if self.values:ttl(topic) then self.tree:add(topic, true, 0) else self.tree:remove(topic, true) end
  if self.tree.count ~= count then self.known = nil end
end

-- A list of the names that a filter matches, not to be changed: those who ask for the same one after the other have the same list.
function Retained:names(what)
  if not filter.is_wild(what) then return { what } end
  open(self)
  local known = self.known
  if not known or known.what ~= what then
    known = { what = what, names = {} }
    local names = known.names
    self.tree:names(what, function(name) names[#names + 1] = name end)
    self.known = known
  end
  return known.names
end

-- The payload and QoS of a name; nil when there is none any more.
function Retained:get(topic)
  local payload, qos = self.values:get(topic)
  if type(payload) == "string" then return payload, qos or 0 end
  open(self)
  self.tree:remove(topic, true)
  self.known = nil
end

-- How many names this loop knows.
function Retained:count()
  open(self)
  return self.tree.count
end

return M
