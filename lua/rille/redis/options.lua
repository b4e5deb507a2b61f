-- options: what rille.redis is told, checked.

local misuse = require "rille.misuse"
local timer = require "rille.timer"
local units = require "rille.config.units"
local url = require "rille.redis.url"
local wire = require "rille.redis.wire"

local options = {}

local DEFAULTS = {
  connections = 1, max_exclusive = 32, max_pending = 10000, max_reply = "64m", max_queue = 1000, timeout = 5, connect_timeout = 5,
  protocol = 3, slices = false, cluster = false, idempotent = {}, name = false, tls = {}, url = "redis://127.0.0.1:6379",
}

local COUNTS = { connections = 64, max_exclusive = 10000, max_pending = 1e6, max_queue = 1e6 }

local function problem_of(key, value)
  local default = DEFAULTS[key]
  if default == nil then return "is no option: docs/redis.md lists them" end
  if COUNTS[key] then
    if type(value) ~= "number" or value % 1 ~= 0 or value < 1 or value > COUNTS[key] then
      return ("is a whole number from 1 to %d"):format(COUNTS[key])
    end
  elseif key == "protocol" then
    if value ~= 2 and value ~= 3 then return "is 2 or 3" end
  elseif key == "max_reply" then
    local bytes = units.bytes(value)
    if not bytes or bytes < 1024 or bytes > 2 ^ 30 then return "is a size from 1k to 1g" end
  elseif key == "name" then
    if type(value) ~= "string" or value:find "[%c ]" then return "is a string without spaces" end
  elseif key == "url" then
    for _, one in ipairs(type(value) == "table" and value or { value }) do
      if type(one) ~= "string" or not url.parse(one) then
        return ('is "redis://[user:password@]host[:port][/db]", "rediss://...", "unix:/path", or a list of such')
      end
    end
    if type(value) == "table" and #value == 0 then return "is a list without a server" end
  elseif type(value) ~= type(default) then
    if not (type(default) == "number" and value == false) then return "is a " .. type(default) end
  end
end

local function names(list)
  local out = {}
  for key, value in pairs(list) do
    local name = type(key) == "number" and value or value and key
    if type(name) ~= "string" then misuse("rille.redis: idempotent is a list of names of commands") end
    out[name:upper()] = true
  end
  return out
end

-- What was given, with what was not.
function options.check(given)
  if type(given) == "string" then given = { url = given } end
  if given ~= nil and type(given) ~= "table" then misuse("rille.redis takes a table of options or a URL, not a %s", type(given)) end
  local out = {}
  for key, value in pairs(DEFAULTS) do out[key] = value end
  for key, value in pairs(given or {}) do
    local problem = problem_of(key, value)
    if problem then misuse("rille.redis: %s %s", tostring(key), problem) end
    out[key] = value
  end
  for _, key in ipairs { "timeout", "connect_timeout" } do
    if out[key] then timer.seconds(out[key], "redis") else out[key] = nil end
  end
  out.idempotent, out.max_reply = names(out.idempotent), units.bytes(out.max_reply)
  local urls = type(out.url) == "table" and out.url or { out.url }
  out.addresses = {}
  for i, one in ipairs(urls) do out.addresses[i] = url.parse(one) end
  if #urls > 1 and not out.cluster then misuse("rille.redis: several URLs are for cluster = true") end
  if not out.name then out.name = nil end
  out.replies = wire.codec(out)
  return out
end

return options
