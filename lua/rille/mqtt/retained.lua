-- retained: the last message of each topic that was published with RETAIN, section 3.3.1.3. The messages are in a dict, which all loops
-- share and which outlives every generation; each loop knows the names, to find those a filter matches.

local dict = require("rille.dict").of
local filter = require "rille.mqtt.filter"
local log = require "rille.log"

local Retained = {}
Retained.__index = Retained

local M = {}

local CELL = 128 / 124 -- of its cells' bytes a dict has so many for what is in them
local SPARE = 4096

function M.new(name, size)
  local values, err = dict(name, { size = size })
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

-- The loop of the publisher keeps it, or forgets it with an empty payload ([MQTT-3.3.1-10]). False when there is no room: a dict that is
-- full would lose others for it.
function Retained:keep(topic, payload, qos)
  if payload == "" then
    self.values:delete(topic)
    return true
  end
  if self.values:free_space() >= (#topic + #payload) * CELL + SPARE and self.values:set(topic, payload, 0, qos) then return true end
  self.values:delete(topic) -- the one before is not the last any more
  self.refused = self.refused + 1
  if self.refused == 1 then log.warn("mqtt: %s is full: messages are delivered and not retained; raise retained_size", self.name) end
  return false
end

-- Every loop notes the name.
function Retained:note(topic, payload)
  open(self)
  if payload == "" then self.tree:remove(topic, true) else self.tree:add(topic, true, 0) end
end

-- Call fn(topic, payload, qos) for each retained message that the filter matches.
function Retained:match(what, fn)
  open(self)
  local stale
  local function one(topic)
    local payload, qos = self.values:get(topic)
    if type(payload) == "string" then
      fn(topic, payload, qos or 0)
    else
      stale = stale or {}
      stale[#stale + 1] = topic
    end
  end
  if filter.is_wild(what) then self.tree:names(what, one) else one(what) end
  for _, topic in ipairs(stale or {}) do self.tree:remove(topic, true) end
end

-- How many names this loop knows.
function Retained:count()
  open(self)
  return self.tree.count
end

return M
