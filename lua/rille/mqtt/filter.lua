-- filter: topic names and topic filters, section 4.7 of MQTT 3.1.1, and the tree in which a broker finds who has subscribed to what. A
-- message costs a walk along the levels of its topic, however many subscriptions there are.

require "rille.pairs" -- first: before what walks

local find, sub, byte = string.find, string.sub, string.byte

local Tree = {}
Tree.__index = Tree

local M = {}

local DOLLAR = byte "$"

-- ---- what may be written ---------------------------------------------------------------------------------------

-- How many levels a name or filter has.
function M.levels(text)
  local count, at = 1, find(text, "/", 1, true)
  while at do count, at = count + 1, find(text, "/", at + 1, true) end
  return count
end

-- Whether a message may be published to it: [MQTT-3.3.2-2], [MQTT-4.7.3-1].
function M.is_name(text)
  return #text >= 1 and not find(text, "[#+%z]")
end

-- Whether it can be subscribed to: "#" is the whole of the last level, "+" the whole of a level. [MQTT-4.7.1-2], [MQTT-4.7.1-3]
function M.is_filter(text)
  if #text < 1 or find(text, "%z") then return false end
  local from = 1
  while true do
    local slash = find(text, "/", from, true)
    local level = sub(text, from, (slash or 0) - 1)
    if #level > 1 and find(level, "[#+]") then return false end
    if level == "#" and slash then return false end
    if not slash then return true end
    from = slash + 1
  end
end

-- Whether a filter has wildcards.
function M.is_wild(text)
  return find(text, "[#+]") ~= nil
end

-- ---- the tree --------------------------------------------------------------------------------------------------
-- A node is of one level: `below` has the nodes of the next one by their text, wildcards too; `who` the subscribers whose filter ends here.

function M.tree()
  return setmetatable({ root = {}, count = 0 }, Tree)
end

-- From now on `who` (any value) is found for the filter, with `qos`; another one takes the place of what there was.
function Tree:add(filter, who, qos)
  local node, from = self.root, 1
  while from do
    local slash = find(filter, "/", from, true)
    local level = sub(filter, from, (slash or 0) - 1)
    local below = node.below
    if not below then
      below = {}
      node.below = below
    end
    local next_node = below[level]
    if not next_node then
      next_node = {}
      below[level] = next_node
    end
    node, from = next_node, slash and slash + 1
  end
  if not node.who then node.who = {} end
  if node.who[who] == nil then self.count = self.count + 1 end
  node.who[who] = qos
end

-- Take it out below a node; true when nothing is left of that node.
local function remove(self, node, filter, from, who)
  if not from then
    if node.who and node.who[who] ~= nil then
      node.who[who] = nil
      self.count = self.count - 1
      if next(node.who) == nil then node.who = nil end
    end
  else
    local slash = find(filter, "/", from, true)
    local level = sub(filter, from, (slash or 0) - 1)
    local next_node = node.below and node.below[level]
    if next_node and remove(self, next_node, filter, slash and slash + 1, who) then
      node.below[level] = nil
      if next(node.below) == nil then node.below = nil end
    end
  end
  return not node.who and not node.below
end

function Tree:remove(filter, who)
  remove(self, self.root, filter, 1, who)
end

-- The largest QoS of those that overlap: section 3.3.5 lets a message be delivered once then.
local function take(found, who)
  for one, qos in next, who do
    local before = found[one]
    if before == nil or before < qos then found[one] = qos end
  end
end

local function walk(node, topic, from, found)
  local below = node.below
  if not from then
    if node.who then take(found, node.who) end
    local rest = below and below["#"]
    if rest and rest.who then take(found, rest.who) end -- "a/#" is "a" as well, section 4.7.1.2
    return
  end
  if not below then return end
  local slash = find(topic, "/", from, true)
  local after = slash and slash + 1
  local exact = below[sub(topic, from, (slash or 0) - 1)]
  if exact then walk(exact, topic, after, found) end
  if from == 1 and byte(topic) == DOLLAR then return end -- [MQTT-4.7.2-1]
  local any = below["+"]
  if any then walk(any, topic, after, found) end
  local rest = below["#"]
  if rest and rest.who then take(found, rest.who) end
end

-- Put everybody whose filters match a topic's name into `found`, by who they are: their QoS.
function Tree:match(topic, found)
  return walk(self.root, topic, 1, found)
end

-- ---- the other way round ---------------------------------------------------------------------------------------
-- A tree of names, added as filters without wildcards: which of them does a filter match?

local function collect(node, name, fn)
  if node.who then fn(name) end
  for level, one in next, node.below or {} do collect(one, name .. "/" .. level, fn) end
end

local function search(node, filter, from, name, fn)
  if not from then
    if node.who then fn(name) end
    return
  end
  local slash = find(filter, "/", from, true)
  local level = sub(filter, from, (slash or 0) - 1)
  local lead = from == 1 and "" or name .. "/"
  if level == "#" and from > 1 and node.who then fn(name) end
  for text, one in next, node.below or {} do
    local is_hidden = from == 1 and byte(text) == DOLLAR
    if level == "#" then
      if not is_hidden then collect(one, lead .. text, fn) end
    elseif level == text or (level == "+" and not is_hidden) then
      search(one, filter, slash and slash + 1, lead .. text, fn)
    end
  end
end

-- Call fn(name) for each name that the filter matches.
function Tree:names(filter, fn)
  return search(self.root, filter, 1, "", fn)
end

return M
