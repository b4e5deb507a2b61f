-- options: what a broker can be told, with defaults and bounds. docs/mqtt.md has the same table.

local misuse = require "rille.misuse"
local units = require "rille.config.units"

local M = {}

M.list = {
  { name = "packet", type = "bytes", default = "256k", min = 128, max = "8m" },
  { name = "topic", type = "bytes", default = 1024, min = 1, max = 65535 },
  { name = "levels", type = "count", default = 32, min = 1, max = 128 },
  { name = "client_id", type = "bytes", default = 256, min = 23, max = 4096 },
  { name = "subscriptions", type = "count", default = 100, min = 1, max = 100000 },
  { name = "inflight", type = "count", default = 20, min = 1, max = 1000 },
  { name = "queue", type = "count", default = 1000, min = 0, max = 1000000 },
  { name = "queue_bytes", type = "bytes", default = "1m", min = 0, max = "1g" },
  { name = "sessions", type = "count", default = 100000, min = 1, max = 10000000 },
  { name = "sessions_size", type = "bytes", default = "64m", min = "16k", max = "16g" },
  { name = "retained_size", type = "bytes", default = "16m", min = "16k", max = "16g" },
  { name = "connect_time", type = "seconds", default = "10s", min = 0.01, max = 3600 },
}

local HOOKS = { authenticate = true, authorize = true, on_publish = true }
local SLOW = { drop = true, disconnect = true }

local function number_of(one, value)
  if one.type == "count" then return type(value) == "number" and value % 1 == 0 and value or nil end
  if one.type == "seconds" then return units.seconds(value) end
  return units.bytes(value)
end

local function check(one, given)
  local value = number_of(one, given)
  local low, high = number_of(one, one.min), number_of(one, one.max)
  if value and value >= low and value <= high then return value end
  misuse("rille.mqtt.broker: %s takes %s from %s to %s, not %s", one.name, one.type == "count" and "a whole number" or one.type,
    tostring(one.min), tostring(one.max), tostring(given))
end

local known = { name = true, slow = true }
for _, one in ipairs(M.list) do known[one.name] = true end

-- A table of every option; raises at the line that asked for a broker.
function M.check(given)
  if given == nil then given = {} end
  if type(given) ~= "table" then misuse("rille.mqtt.broker takes a table of options, not a %s", type(given)) end
  for key, value in pairs(given) do
    if HOOKS[key] then
      if type(value) ~= "function" then misuse("rille.mqtt.broker: %s is a function, not a %s", key, type(value)) end
    elseif not known[key] then
      misuse("rille.mqtt.broker has no option '%s'", tostring(key))
    end
  end
  local name = given.name == nil and "mqtt" or given.name
  if type(name) ~= "string" or #name < 1 or #name > 200 or name:find("%z") then
    misuse("rille.mqtt.broker: name is a string of 1 to 200 bytes, not %s", tostring(name))
  end
  local slow = given.slow == nil and "drop" or given.slow
  if not SLOW[slow] then misuse('rille.mqtt.broker: slow is "drop" or "disconnect", not %s', tostring(slow)) end
  local out = { name = name, slow = slow }
  for _, one in ipairs(M.list) do
    local value = given[one.name]
    out[one.name] = check(one, value == nil and one.default or value)
  end
  for key in pairs(HOOKS) do out[key] = given[key] end
  return out
end

return M
