-- shard: the callbacks of a proxy that spreads keys over several Redis servers. Each loop has one connection, or a few, to each server,
-- which all clients share; commands are found, routed and forwarded as they came, in runs that go to the same server, and replies go
-- back in each client's order. docs/redis.md describes it.

local bit = require "bit"
local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local answers = require "rille.redis.answers"
local backend = require "rille.redis.backend"
local commands = require "rille.redis.commands"
local conn_write = require "rille.conn_write"
local misuse = require "rille.misuse"
local split = require "rille.redis.split"
local units = require "rille.config.units"
local url = require "rille.redis.url"
local wire = require "rille.redis.wire"

local take_commands, conn_input = C.rille_redis_take_commands, C.rille_conn_input
local new_slice, forward = Slice.new_from, backend.forward
local band, rshift = bit.band, bit.rshift
local OTHER, RUN = C.RILLE_REDIS_OTHER, C.RILLE_REDIS_RUN
local SLOTS = C.RILLE_REDIS_SLOTS
local RUN_BITS = 12

local scratch = ffi.new("rille_slice[1]")
local wait_t = ffi.typeof "rille_redis_wait"

local Proxy = {}
Proxy.__index = Proxy

local M = {}

-- ---- options ---------------------------------------------------------------------------------------------------

local DEFAULTS = {
  connections = 1, max_pending = 1024, max_command = "1m", max_reply = "64m", max_output = "64m", timeout = 5, connect_timeout = 5,
}
local RANGES = { connections = { 1, 64 }, max_pending = { 1, 1e6 }, timeout = { 0.001, 86400 }, connect_timeout = { 0.001, 86400 },
  max_command = { 64, 2 ^ 30 }, max_reply = { 1024, 2 ^ 30 }, max_output = { 1024, 2 ^ 40 } }

local function number_of(key, value)
  local range = RANGES[key]
  local number = key:find "^max_[cro]" and units.bytes(value) or type(value) == "number" and value
  if not number or not (number >= range[1] and number <= range[2]) then
    misuse("rille.redis.shard: %s: got %s; expected %s to %s", key, tostring(value), tostring(range[1]), tostring(range[2]))
  end
  return number
end

local function check(given)
  if type(given) ~= "table" then misuse("rille.redis.shard takes a table of options, not a %s", type(given)) end
  local out = {}
  for key, value in pairs(given) do
    if key ~= "shards" and DEFAULTS[key] == nil then
      misuse("rille.redis.shard: %s is no option: docs/redis.md lists them", tostring(key))
    end
    out[key] = value
  end
  for key, default in pairs(DEFAULTS) do out[key] = number_of(key, out[key] == nil and default or out[key]) end
  local shards = out.shards
  if type(shards) ~= "table" or #shards == 0 or #shards > C.RILLE_REDIS_SHARDS_MAX then
    misuse("rille.redis.shard: shards is a list of 1 to %d URLs", C.RILLE_REDIS_SHARDS_MAX)
  end
  out.addresses = {}
  for i, one in ipairs(shards) do
    out.addresses[i] = type(one) == "string" and url.parse(one)
    if not out.addresses[i] then misuse("rille.redis.shard: shard %d is no URL such as redis://127.0.0.1:6379", i) end
  end
  out.protocol = 2
  out.replies = wire.codec { max_reply = out.max_reply, slices = true }
  return out
end

-- ---- making ----------------------------------------------------------------------------------------------------

-- Slots in equal parts, in the order of the shards.
local function route_of(count)
  local route = C.rille_redis_route_new()
  if route == nil then misuse "rille.redis.shard: no memory" end
  route = ffi.gc(route, C.rille_redis_route_free)
  for i = 1, count do
    C.rille_redis_route_assign(route, math.floor((i - 1) * SLOTS / count), math.floor(i * SLOTS / count) - 1, i - 1)
  end
  for name, keys in pairs(commands.keys) do
    if C.rille_redis_route_add(route, name, #name, ffi.new("rille_redis_keys", keys)) ~= 0 then misuse("cannot route %s", name) end
  end
  return route
end

function Proxy:backend_of(client, key)
  local slot = C.rille_redis_slot(key, #key)
  for i = 1, #self.shards do
    if slot < math.floor(i * SLOTS / #self.shards) then return self.shards[i][client.lane] end
  end
end

-- ---- clients ---------------------------------------------------------------------------------------------------

local PROBLEMS = {
  [C.RILLE_ERR_TOO_LARGE] = "command too large", [C.RILLE_ERR_INVALID] = "a list of bulk strings was expected",
  [C.RILLE_ERR_NOT_SUPPORTED] = "inline commands are not supported",
}

local function refuse(client, code)
  answers.await(client, 0)
  client.conn:write(("-ERR Protocol error: %s\r\n"):format(PROBLEMS[code] or "no memory"))
  client.conn:close()
end

-- Park until the client has taken enough, and not too many commands are under way. Whether it is still there.
local function relax(client)
  if client.is_slow then
    client.is_slow = false
    local p = client.conn._p -- it may have taken all, or have gone, since its output was too much: nobody would wake this then
    if p then conn_write.slow(client.conn, C.rille_conn_wait_output(p, -1)) end
  end
  if client.pending >= client.max_pending then answers.await(client, client.max_pending / 2) end
  return client.conn._p
end

-- No loop: see serve of dispatch.lua.
local function serve(conn)
  local client, p = conn.ctx, conn._p
  if client.is_slow or client.pending >= client.max_pending then p = relax(client) end
  if not p then return end
  local self = client.proxy
  local found = take_commands(self.route, client.wait, conn_input(p), self.max_command, scratch)
  if found >= RUN then
    forward(self.shards[band(found, RUN - 1) + 1][client.lane], client, rshift(found, RUN_BITS), scratch)
  elseif found == OTHER then
    split.serve(self, client, new_slice(scratch))
    if client.is_over then return end
  elseif found == 0 then
    return
  else
    return refuse(client, found)
  end
  p = conn._p
  if p and C.rille_conn_len(p) > 0 then return serve(conn) end
end

-- A client stays with the generation it came to, which has its replies: a function of its own keeps it there.
function Proxy:connect(conn)
  self.next = self.next % self.options.connections + 1
  self.clients = self.clients + 1
  conn.ctx = {
    proxy = self, conn = conn, head = false, tail = false, pending = 0, max_pending = self.options.max_pending, lane = self.next,
    waiters = false, is_slow = false, is_over = false, held = 0, max_output = self.options.max_output, wait = wait_t(),
  }
  conn:on_close(function()
    self.clients = self.clients - 1
    answers.drop(conn.ctx)
  end)
end

-- The callbacks of a proxy: a script returns them.
function M.new(given)
  local options = check(given)
  local self = setmetatable({
    options = options, route = route_of(#options.addresses), max_command = options.max_command, shards = {}, clients = 0, next = 0,
  }, Proxy)
  for i, address in ipairs(options.addresses) do
    local lanes = {}
    for k = 1, options.connections do lanes[k] = backend.new(address, ("shard %d (%s)"):format(i, address.text), options) end
    self.shards[i] = lanes
  end
  return {
    on_connect = function(conn) return self:connect(conn) end,
    on_request = serve,
    -- The client has said all: its answers are still to come.
    on_disconnect = function(conn) if conn.ctx then answers.await(conn.ctx, 0) end end,
  }
end

return M
