-- store: what of a persistent session has to outlive its Lua state, in a dict: what it has subscribed to, and its messages of QoS 1, in
-- order. One loop alone writes what belongs to a session. Keys: "s" or "q" and the client id. Subscriptions go in as one value, messages as
-- a list.

local buffer = require "string.buffer"

local dict = require "rille.dict"

local Store = {}
Store.__index = Store

local M = {}

local SPARE = 65536 -- bytes that are left free for messages

function M.new(name, size)
  local values, err = dict.of(name, { size = size })
  if not values then error(("rille.mqtt: the dict %s: %s"):format(name, err), 0) end
  return setmetatable({ values = values, spare = math.min(SPARE, values:capacity() / 8) }, Store)
end

-- Keep the subscriptions of a session, { filter = qos }, and who it is of. False when there is no room; nothing has changed then.
-- is_less: than there were.
function Store:keep(id, client, subscriptions, is_less)
  local bytes = buffer.encode { client = client, subscriptions = subscriptions }
  if not is_less and self.values:free_space() < #bytes * 1.1 + self.spare then return false end
  return dict.set_if_room(self.values, "s" .. id, bytes) == true
end

function Store:forget(id)
  self.values:delete("s" .. id)
  self.values:delete("q" .. id)
end

-- A message more; false when there is no room.
function Store:push(id, message)
  local topic = message.topic
  local size = #topic
  local bytes = string.char(message.retained and 1 or 0, math.floor(size / 256), size % 256) .. topic .. message.payload
  return self.values:rpush("q" .. id, bytes) ~= nil
end

-- The oldest is done with.
function Store:pop(id)
  self.values:lpop("q" .. id)
end

local function message_of(bytes)
  local size = bytes:byte(2) * 256 + bytes:byte(3)
  return { topic = bytes:sub(4, 3 + size), payload = bytes:sub(4 + size), retained = bytes:byte(1) == 1 or nil }
end

-- Call fn(id, client, subscriptions, messages) for each session that is_ours(id).
function Store:each(is_ours, fn)
  local values = self.values
  for _, key in ipairs(values:keys(0)) do
    local id = key:sub(2)
    local bytes = key:byte(1) == 115 and is_ours(id) and values:get(key)
    if bytes then
      local messages = {}
      for i = 1, values:llen("q" .. id) or 0 do -- a list can be looked at from its ends alone: once around
        local one = values:lpop("q" .. id)
        values:rpush("q" .. id, one)
        messages[i] = message_of(one)
      end
      local kept = buffer.decode(bytes)
      fn(id, kept.client, kept.subscriptions, messages)
    end
  end
end

return M
