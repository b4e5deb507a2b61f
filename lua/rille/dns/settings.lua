-- settings: what a forwarder is told, checked. Values may come from a command line, as text.

local C = require "rille.core"
local flaw_of = require "rille.config.address"
local misuse = require "rille.misuse"
local units = require "rille.config.units"

local M = {}

local function seconds(value) return units.seconds(tonumber(value) or value) end
local function bytes(value) return units.bytes(tonumber(value) or value) end
local function count(value)
  local number = tonumber(value)
  return number and number % 1 == 0 and number or nil
end

-- name = { how it is read, default, least, most, what it is }
local OPTIONS = {
  size = { bytes, 16 * 2 ^ 20, 65536, 2 ^ 40, "bytes, 64k or more" },
  ttl_min = { seconds, 0, 0, 86400, "seconds, up to 1 day" },
  ttl_max = { seconds, 86400, 1, 7 * 86400, "seconds, from 1 to 7 days" },
  negative_max = { seconds, 3600, 0, 86400, "seconds, up to 1 day" },
  stale = { seconds, 0, 0, 7 * 86400, "seconds, up to 7 days" },
  failure_ttl = { seconds, 5, 1, 300, "seconds, from 1 to 300" }, -- RFC 9520, 3.2
  timeout = { seconds, 2, 0.01, 60, "seconds, up to 60" },
  tries = { count, 2, 1, 10, "a whole number, 1 to 10" },
  max_pending = { count, 1000, 1, 30000, "a whole number, 1 to 30000" },
  max_waiting = { count, 2000, 1, 1000000, "a whole number, 1 to 1000000" },
}

-- "192.0.2.1", "192.0.2.1:5300", "2001:db8::1", "[2001:db8::1]:5300"
local function server_of(text)
  local address = text
  if not text:find("[%[%]]") and select(2, text:gsub(":", "")) > 1 then address = "[" .. text .. "]" end
  if not address:find("%]:%d+$") and not address:find("^[^%[%]]*:%d+$") then address = address .. ":53" end
  local url = "udp://" .. address
  local is_good = address:find("^[%x.:%[%]%%]") and not address:find(":0+$") and C.rille_address_needs_lookup(url) == 0
  if not is_good or flaw_of(url) then
    misuse("dns.forwarder: upstreams: %q is no address such as \"192.0.2.1\" or \"[2001:db8::1]:5300\"", text)
  end
  return { udp = url, tcp = "tcp://" .. address }
end

local function servers_of(given)
  if type(given) == "string" then
    local list = {}
    for one in given:gmatch("[^%s,]+") do list[#list + 1] = one end
    given = list
  end
  if type(given) ~= "table" or #given == 0 then
    misuse("dns.forwarder: upstreams is missing: a list of addresses, or one text with commas between them")
  end
  local list = {}
  for i, one in ipairs(given) do
    if type(one) ~= "string" then misuse("dns.forwarder: upstreams[%d] is an address, not a %s", i, type(one)) end
    list[i] = server_of(one)
  end
  return list
end

-- A new table with every key; raises for what is wrong.
function M.of(options)
  if type(options) ~= "table" then misuse("bad argument #1 to 'forwarder' (a table expected, got %s)", type(options)) end
  for key in pairs(options) do
    if key ~= "upstreams" and not OPTIONS[key] then
      misuse("dns.forwarder has no option '%s': docs/dns.md lists them", tostring(key))
    end
  end
  local set = { upstreams = servers_of(options.upstreams) }
  for key, rule in pairs(OPTIONS) do
    local value = rule[2]
    if options[key] ~= nil then value = rule[1](options[key]) end
    if type(value) ~= "number" or not (value >= rule[3] and value <= rule[4]) then
      misuse("dns.forwarder: %s: %s expected, got %s", key, rule[5], tostring(options[key]))
    end
    set[key] = value
  end
  if set.ttl_min > set.ttl_max then misuse("dns.forwarder: ttl_min is more than ttl_max") end
  return set
end

return M
