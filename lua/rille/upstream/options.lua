-- options: what an upstream is told: each key with its kind, its default and its bounds. What is wrong raises at the script's line.

local health = require "rille.upstream.health"
local misuse = require "rille.misuse"
local options = require "rille.options"
local scheme = require "rille.config.scheme"

local type = type
local refuse = options.refuse

local M = {}

-- { kind, default, least, most }
local UPSTREAM = {
  name = { "string", "upstream" },
  targets = { "list", nil },
  balance = { "balance", "round_robin" },
  keepalive = { "count", 32, 0, 1e5 },
  keepalive_timeout = { "span", 60, 0, 3.6e6 },
  max_requests = { "count", 1000, 0, 2 ^ 53 },
  max_per_target = { "count", 256, 1, 1e6 },
  queue = { "count", 1024, 0, 1e6 },
  queue_timeout = { "span", 5, 0, 3.6e6 },
  connect_timeout = { "span", 5, 0, 3.6e6 },
  panic = { "boolean", false },
  ttl_min = { "span", 1, 0.01, 3.6e6 },
  ttl_max = { "span", 300, 0.01, 3.6e6 },
  retry = { "retry", nil },
  health = { "health", nil },
  dial = { "dial", nil },
  mux = { "mux", nil },
}

local RETRY = {
  attempts = { "count", 3, 1, 100 },
  budget = { "share", 0.2, 0, 1 },
  on = { "list", nil },
}

local PASSIVE = {
  failures = { "count", 3, 1, 1e6 },
  within = { "span", 10, 0.001, 3.6e6 },
  cooldown = { "span", 3, 0.001, 3.6e6 },
}

local ACTIVE = {
  check = { "check", nil },
  interval = { "span", 2, 0.01, 3.6e6 },
  timeout = { "span", 1, 0.001, 3.6e6 },
  rise = { "count", 2, 1, 1000 },
  fall = { "count", 3, 1, 1000 },
}

local TARGET = {
  url = { "string", nil },
  name = { "string", nil },
  weight = { "count", 1, 1, 1000 },
  backup = { "boolean", false },
  max = { "count", nil, 1, 1e6 },
  dns = { "dns", false },
}

local BALANCES = { round_robin = true, weighted = true, least_connections = true, consistent_hash = true, p2c = true }
local TYPES = { A = true, AAAA = true, SRV = true }
local TARGETS_MAX = 4096
M.TARGETS_MAX = TARGETS_MAX

local fill, fill_below

fill = options.filler {
  dial = options.typed("a table of options of rille.dialer", "table"),
  mux = options.typed("a table of options of rille.mux", "table"),
  balance = function(value, _, where, key)
    if not BALANCES[value] then
      refuse(where, key, '"round_robin", "weighted", "least_connections", "consistent_hash" or "p2c"', value)
    end
    return value
  end,
  dns = function(value, _, where, key)
    if type(value) ~= "boolean" and not TYPES[value] then refuse(where, key, 'true, "A", "AAAA" or "SRV"', value) end
    return value
  end,
  check = function(value, _, where, key)
    if type(value) == "function" or type(value) == "string" and health.parse(value) then return value end
    return refuse(where, key, 'a function, "tcp://", "tcp://:PORT" or "http://HOST:PORT/PATH"', value)
  end,
  retry = function(value, _, where, key) return fill_below(value, RETRY, where, key, "a table") end,
  health = function(value, _, where, key)
    return fill_below(value, { active = { "active", nil }, passive = { "passive", nil } }, where, key, "a table")
  end,
  active = function(value, _, where, key)
    if type(value) ~= "table" then value = { check = value } end
    if value.check == nil then misuse("%s: %s needs a check: a function or a URL", where, key) end
    return fill(value, ACTIVE, where .. ": " .. key)
  end,
  passive = function(value, _, where, key)
    if value == false then return false end
    return fill_below(value, PASSIVE, where, key, "a table, or false")
  end,
}

function fill_below(values, spec, where, key, what)
  if type(values) ~= "table" then refuse(where, key, what, values) end
  return fill(values, spec, where .. ": " .. key)
end

-- ---- targets ---------------------------------------------------------------------------------------------------

-- An address as targets have it: with its scheme, in lower case.
function M.url(url)
  if not url:find("://", 1, true) and not url:find("^[uU][nN][iI][xX]:") then return "tcp://" .. url end
  return (url:gsub("^%a[%w]*:", string.lower))
end

local SCHEMES = { tcp = true, tcp4 = true, tcp6 = true, tls = true, unix = true }

local function check_url(url, where)
  if scheme.is_datagram(url) then misuse("%s: %s is an address of datagrams, which have no connections", where, url) end
  local whole = M.url(url)
  if not SCHEMES[whole:match("^(%a[%w]*):")] then misuse("%s: %s: expected tcp://, tcp4://, tcp6://, tls:// or unix:", where, url) end
  return whole
end

local FAMILIES = { A = "tcp6", AAAA = "tcp4" } -- of which no such records are

-- A target as it was given, with every key.
function M.target(value, where)
  if type(value) == "string" then value = { url = value } end
  if type(value) ~= "table" then misuse("%s: a target is a URL or a table with one, got %s", where, type(value)) end
  local one = fill(value, TARGET, where)
  if not one.url then misuse("%s: a target needs a url", where) end
  one.url = check_url(one.url, where)
  local needs_port = not one.url:find("^unix:") and one.dns ~= "SRV"
  if needs_port and not one.url:find(":%d+$") then misuse("%s: %s has no port", where, one.url) end
  if one.dns and (one.url:find("^unix:") or one.url:find("://%[") or one.url:find("://%d+%.%d+%.%d+%.%d+:")) then
    misuse("%s: dns is for targets with a name, and %s has none", where, one.url)
  end
  if FAMILIES[one.dns] and one.url:match("^%w+") == FAMILIES[one.dns] then
    misuse("%s: dns: an address of %s is none of %s", where, one.dns, one.url)
  end
  return one
end

-- A list of targets, each once.
function M.targets(list, where)
  if type(list) ~= "table" then misuse("%s: targets is a list, got %s", where, type(list)) end
  if #list > TARGETS_MAX then misuse("%s: %d targets, at most %d are possible", where, #list, TARGETS_MAX) end
  local out, seen = {}, {}
  for i = 1, #list do
    local one = M.target(list[i], ("%s: targets[%d]"):format(where, i))
    if seen[one.url] then misuse("%s: targets[%d]: %s is there already", where, i, one.url) end
    seen[one.url] = true
    out[i] = one
  end
  for key in pairs(list) do
    if type(key) ~= "number" then misuse("%s: targets is a list, '%s' is no number", where, tostring(key)) end
  end
  return out
end

-- All of rille.upstream{}.
function M.check(values)
  if type(values) ~= "table" then misuse("bad argument #1 to 'upstream' (a table expected, got %s)", type(values)) end
  local where = "rille.upstream"
  local out = fill(values, UPSTREAM, where)
  out.targets = M.targets(out.targets or {}, where)
  out.retry = out.retry or fill({}, RETRY, where)
  local on = {}
  for i, name in ipairs(out.retry.on or { "connect" }) do
    if type(name) ~= "string" then refuse(where .. ": retry", ("on[%d]"):format(i), "the name of an error", name) end
    on[name] = true
  end
  out.retry.on = on
  out.health = out.health or {}
  if out.health.passive == nil then out.health.passive = fill({}, PASSIVE, where) end
  if out.ttl_max < out.ttl_min then misuse("%s: ttl_max is %g, less than ttl_min (%g)", where, out.ttl_max, out.ttl_min) end
  return out
end

return M
