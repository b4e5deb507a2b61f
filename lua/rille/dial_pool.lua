-- dial_pool: the option pool of rille.dial: connections that were given back by conn:keep() are used again. Each address of each pool is an
-- upstream of one target. docs/dial.md, "Connections that are kept", describes it.

local conn = require "rille.conn"
local dial = require "rille.dial"
local misuse = require "rille.misuse"
local upstream = require "rille.upstream"

local POOLS_MAX = 1024 -- addresses of a loop

local pools, count = {}, 0 -- by name, options and address

-- Options as text: nobody gets a connection that was made with others.
local function text_of(value)
  if type(value) ~= "table" then return type(value):sub(1, 1) .. tostring(value) end
  local parts = {}
  for key, one in pairs(value) do parts[#parts + 1] = ("%s=%s"):format(tostring(key), text_of(one)) end
  table.sort(parts)
  return "{" .. table.concat(parts, "\n") .. "}"
end

-- Room for one more: those that have no connections are forgotten. False: there are none.
local function make_room()
  if count < POOLS_MAX then return true end
  for key, up in pairs(pools) do
    if not up:has_connections() then
      up:close()
      pools[key], count = nil, count - 1
    end
  end
  return count < POOLS_MAX
end

-- nil: it is no address that can be kept.
local function open(url, settings)
  local timeout = dial.timeout_of(settings)
  settings.timeout = nil
  local ok, up = pcall(upstream.new, {
    name = "a pool of rille.dial", targets = { url }, connect_timeout = timeout, max_requests = 0,
    max_per_target = 1e6, queue = 0, retry = { attempts = 1 }, health = { passive = false },
    dial = settings,
  })
  return ok and up or nil
end

-- A connection that was kept, or a new one; nil, err, message. settings: the other options; name: of the pool.
local function get(url, settings, name)
  local key = ("%s\n%d:%s\n%s"):format(url, #name, name, next(settings) and text_of(settings) or "")
  local up = pools[key]
  if not up or up.is_closed then
    if not up and not make_room() then
      return nil, "full", ("cannot dial %s: %d addresses are in pools, and all have connections"):format(url:sub(1, 120), POOLS_MAX)
    end
    local made = open(url, settings)
    if not made then return dial.dialer_of(settings):dial(url) end -- which says what is wrong
    if not up then count = count + 1 end
    pools[key], up = made, made
  end
  local c, err, message = up:get()
  if c then return c end
  return nil, err, message
end

function dial.from_pool(url, opts)
  local settings = {}
  for key, value in pairs(opts) do settings[key] = value end
  settings.pool = nil
  return get(url, settings, opts.pool == true and "" or opts.pool)
end

-- Give a connection that was dialed with a pool back: who dials next gets it. True; nil, "closed": it is over, or was given back.
function conn.Conn:keep()
  local lease = rawget(self, "_lease")
  if not lease then misuse("keep: this connection was not dialed with the option pool") end
  return lease.target.owner:put(self)
end

return true
