-- cluster: which server a command goes to. Of a single one there is no question; in a cluster the slots of the keys decide, by a map that
-- is fetched again when a server says that a slot has moved.

local C = require "rille.core"
local commands = require "rille.redis.commands"
local server = require "rille.redis.server"
local state = require "rille.state"
local task = require "rille.task"
local wire = require "rille.redis.wire"

local encode = wire.encode

local REDIRECTS_MAX = 5
local REFRESH_PAUSE = 1 -- seconds from one fetch of the map to the next

local M = {}

-- ---- one server ------------------------------------------------------------------------------------------------

local Single = {}
Single.__index = Single

function M.single(node) return setmetatable({ node = node }, Single) end

function Single:of() return self.node end
function Single:exchange(_, bytes, timeout, way) return self.node[way](self.node, bytes, 1, timeout) end
function Single:transact(_, fn) return select(2, fn(self.node)) end
function Single:rest() return self.node:rest() end
function Single:close() return self.node:close() end
function Single:count(into) return self.node:count(into) end

function Single:batch(list, timeout)
  local parts = {}
  for i, words in ipairs(list) do parts[i] = encode(words) end
  return self.node:exchange(table.concat(parts), #list, timeout)
end

-- ---- many ------------------------------------------------------------------------------------------------------

local Cluster = {}
Cluster.__index = Cluster

function M.new(options)
  return setmetatable({ options = options, nodes = {}, slots = {}, fetched_at = -math.huge, fetching = false }, Cluster)
end

-- The server at an address as replies name it; that it is one of these is not in doubt: the cluster says so.
local function node_at(self, host, port)
  local seed = self.options.addresses[1]
  local name = (host:find(":", 1, true) and "[" .. host .. "]" or host) .. ":" .. port
  local node = self.nodes[name]
  if not node then
    node = server.new({
      dial = (seed.is_tls and "tls://" or "tcp://") .. name, is_tls = seed.is_tls, user = seed.user, password = seed.password, db = 0,
      text = name,
    }, self.options)
    self.nodes[name] = node
  end
  return node
end

local function seed_of(self, address)
  local name = address.dial:gsub("^%a+://", "")
  if not self.nodes[name] then self.nodes[name] = server.new(address, self.options) end
  return self.nodes[name]
end

local function is_slot(n)
  return type(n) == "number" and n >= 0 and n < C.RILLE_REDIS_SLOTS and n % 1 == 0
end

local function read_map(self, ranges)
  local slots = {}
  for _, range in ipairs(ranges) do
    if type(range) ~= "table" then return nil end
    local from, to, master = range[1], range[2], range[3]
    if not is_slot(from) or not is_slot(to) or type(master) ~= "table" then return nil end
    local host, port = tostring(master[1]), master[2]
    if type(port) ~= "number" or host:find "[^%w%.:_-]" or host == "" then return nil end
    local node = node_at(self, host, port)
    for slot = from, to do slots[slot] = node end
  end
  return slots
end

-- Ask server after server for the map: true; nil, err, message of the last one.
local function fetch(self)
  local asked, err, message = {}, "unavailable", nil
  local bytes = encode { "CLUSTER", "SLOTS" }
  local list = {}
  for _, address in ipairs(self.options.addresses) do list[#list + 1] = seed_of(self, address) end
  for _, node in pairs(self.nodes) do list[#list + 1] = node end
  for _, node in ipairs(list) do
    if not asked[node] then
      asked[node] = true
      local replies, why, text = node:exchange(bytes, 1, self.options.timeout)
      local ranges = replies and replies[1]
      if replies and wire.error_of(ranges) then
        err, message = "error", wire.error_of(ranges)
      elseif replies then
        local slots = type(ranges) == "table" and read_map(self, ranges)
        if self.options.slices then wire.release(ranges) end
        if slots and next(slots) then
          self.slots, self.fetched_at = slots, state.clock.now
          return true
        end
        err, message = "unavailable", "the cluster names no slots"
      else
        err, message = why, text
      end
    end
  end
  return nil, err, message
end

local function refresh_soon(self)
  if self.fetching or self.is_closed or state.clock.now < self.fetched_at + REFRESH_PAUSE then return end
  self.fetching = true
  task.spawn(function()
    local ok, err = pcall(fetch, self)
    self.fetching = false
    if not ok then error(err, 0) end
  end)
end

-- ---- commands --------------------------------------------------------------------------------------------------

-- The server of a slot; of any when slot is nil. nil, err, message.
local function node_of(self, slot)
  if not next(self.slots) then
    local ok, err, message = fetch(self)
    if not ok then return nil, err, message end
  end
  if slot then
    local node = self.slots[slot]
    if node then return node end
    refresh_soon(self)
    return nil, "unavailable", ("no server has slot %d"):format(slot)
  end
  return (select(2, next(self.slots)))
end

local Failed = {} -- stands for a server that was not found
Failed.__index = Failed
for _, name in ipairs { "alone", "exchange", "exchange_alone", "dedicate" } do
  Failed[name] = function(self) return nil, self.err, self.message end
end

function Cluster:for_key(key)
  local node, err, message = node_of(self, key and C.rille_redis_slot(key, #key))
  return node or setmetatable({ err = err, message = message }, Failed)
end

-- The key that decides.
local function key_of(words)
  local name = words[1]:upper()
  local key = commands.first_key(name, words)
  if not key and (commands.blocking[name] or name == "SSUBSCRIBE") then
    key = name:find "MPOP$" and words[4] or name ~= "WAIT" and name ~= "WAITAOF" and words[2] or nil
    if name == "XREAD" or name == "XREADGROUP" then
      for i = 2, #words - 1 do
        if words[i]:upper() == "STREAMS" then key = words[i + 1] end
      end
    end
  end
  return key
end

function Cluster:of(words) return self:for_key(key_of(words)) end

-- Where a redirection points: its kind, the server.
local function target_of(self, message)
  local kind, slot, host, port = message:match "^(%u+) (%d+) (.-):(%d+)$"
  if kind ~= "MOVED" and kind ~= "ASK" or host == "" or host:find "[^%w%.:_%[%]-]" or tonumber(port) > 65535 then return nil end
  local node = node_at(self, host:gsub("^%[(.*)%]$", "%1"), port)
  if kind == "MOVED" then
    self.slots[tonumber(slot)] = node
    refresh_soon(self)
  end
  return kind, node
end

-- A reply, and if it is a redirection those that follow from it. way: "exchange" or "exchange_alone", of Server. A list of one value; nil,
-- err, message.
local function follow(self, replies, bytes, timeout, way)
  for _ = 1, REDIRECTS_MAX do
    local message = wire.error_of(replies[1])
    local kind, node = nil, nil
    if message then kind, node = target_of(self, message) end
    if not kind then return replies end
    local err, text
    if kind == "ASK" then
      replies, err, text = node[way](node, encode { "ASKING" } .. bytes, 2, timeout)
      if replies then replies = { replies[2] } end
    else
      replies, err, text = node[way](node, bytes, 1, timeout)
    end
    if not replies then return nil, err, text end
  end
  return replies
end

function Cluster:exchange(words, bytes, timeout, way)
  local node = self:of(words)
  local replies, err, message = node[way](node, bytes, 1, timeout)
  if not replies then
    refresh_soon(self) -- it may be gone
    return nil, err, message
  end
  return follow(self, replies, bytes, timeout, way)
end

-- fn(server of the key) returns whether the transaction has begun, and what it returned. Once it has, what was moved is told: it is the
-- caller's to try again.
function Cluster:transact(key, fn)
  for tries = 1, REDIRECTS_MAX do
    local is_begun, values, err, message = fn(self:for_key(key))
    local kind = err == "error" and message and target_of(self, message)
    if kind ~= "MOVED" or is_begun or tries == REDIRECTS_MAX then return values, err, message end
  end
end

-- Commands by server, each server's in one write; what is redirected goes again by itself.
function Cluster:batch(list, timeout)
  local groups, order, results = {}, {}, {}
  for i, words in ipairs(list) do
    local key = commands.first_key(words[1]:upper(), words)
    local node, err, message = node_of(self, key and C.rille_redis_slot(key, #key))
    if not node then return nil, err, message end
    if not groups[node] then
      groups[node] = {}
      order[#order + 1] = node
    end
    table.insert(groups[node], i)
  end
  local tasks = {}
  for k, node in ipairs(order) do
    tasks[k] = task.spawn(function()
      local parts = {}
      for at, i in ipairs(groups[node]) do parts[at] = encode(list[i]) end
      local replies, err, message = node:exchange(table.concat(parts), #parts, timeout)
      if not replies then return nil, err, message end
      for at, i in ipairs(groups[node]) do
        local one
        one, err, message = follow(self, { replies[at] }, parts[at], timeout, "exchange")
        if not one then return nil, err, message end
        results[i] = one[1]
      end
      return true
    end)
  end
  local failed, err, message
  for _, one in ipairs(tasks) do
    local ok, why, text = one:join()
    if not ok and not failed then failed, err, message = true, why, text end
  end
  if failed then return nil, err, message end
  return results
end

function Cluster:close()
  self.is_closed = true
  for _, node in pairs(self.nodes) do node:close() end
end

function Cluster:count(into)
  for _, node in pairs(self.nodes) do node:count(into) end
end

return M
