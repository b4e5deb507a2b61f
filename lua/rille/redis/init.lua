-- redis: a client of Redis and of what speaks its protocol. rille.redis{ url = ... } makes one for a loop; its commands are methods.
-- docs/redis.md describes it.

local cluster = require "rille.redis.cluster"
local commands = require "rille.redis.commands"
local json = require "rille.redis.json"
local misuse = require "rille.misuse"
local options = require "rille.redis.options"
local pubsub = require "rille.redis.pubsub"
local resp = require("rille.codec").resp
local server = require "rille.redis.server"
local state = require "rille.state"
local task = require "rille.task"
local transaction = require "rille.redis.transaction"
local wire = require "rille.redis.wire"

local encode, result = wire.encode, wire.result

local redis = { null = resp.null, json = json }

local Client = {}

-- Commands that would change a connection for those who share it, and what is there instead.
local INSTEAD = {
  MULTI = "r:transaction", EXEC = "r:transaction", DISCARD = "r:transaction", WATCH = "r:transaction", UNWATCH = "r:transaction",
  SUBSCRIBE = "r:subscribe", PSUBSCRIBE = "r:psubscribe", SSUBSCRIBE = "r:ssubscribe", UNSUBSCRIBE = "subscription:close",
  PUNSUBSCRIBE = "subscription:close", SUNSUBSCRIBE = "subscription:close", AUTH = "the URL", SELECT = "the URL",
  HELLO = "the option protocol", QUIT = "r:close", RESET = "r:close",
}

local function check(words)
  local name = words[1]:upper()
  if INSTEAD[name] then misuse("redis: %s is not for a shared connection: use %s", name, INSTEAD[name]) end
  if commands.is_stateful(name, words) then misuse("redis: %s is not for a shared connection", name) end
  return name
end

local function need_task(what)
  state.need_loop(what)
  if not task.current() then misuse("redis: %s parks, and works in a task alone: rille.spawn, a handler, on_start", what) end
end

-- ---- commands --------------------------------------------------------------------------------------------------

-- Seconds that a blocking command may take in all: its own time-out, and the usual.
local function patience(self, name, words)
  local seconds
  if name == "XREAD" or name == "XREADGROUP" then
    for i = 2, #words - 1 do
      if words[i]:upper() == "BLOCK" then seconds = (tonumber(words[i + 1]) or 0) / 1000 end
    end
    if not seconds then return self.options.timeout end
  elseif name == "WAIT" or name == "WAITAOF" then
    seconds = (tonumber(words[#words]) or 0) / 1000
  else
    seconds = tonumber(name:find "MPOP$" and words[2] or words[#words]) or 0
  end
  return seconds > 0 and self.options.timeout and seconds + self.options.timeout or nil
end

local function attempt(self, name, words, bytes, timeout)
  if commands.blocking[name] then
    return self.nodes:exchange(words, bytes, timeout or patience(self, name, words), "exchange_alone")
  end
  return self.nodes:exchange(words, bytes, timeout or self.options.timeout, "exchange")
end

local function lost(err) return err == "closed" or err == "reset" end

local function run(self, timeout, ...)
  need_task "call"
  local words = wire.words(...)
  if type(words[1]) ~= "string" or words[1] == "" then misuse "redis: a command begins with its name" end
  local name, bytes = check(words), encode(words)
  local replies, err, message = attempt(self, name, words, bytes, timeout)
  if not replies and lost(err) and self.options.idempotent[name] and not self.is_closed then
    replies, err, message = attempt(self, name, words, bytes, timeout)
  end
  if not replies then return nil, err, message end
  return result(replies[1])
end

-- A command by its words. Its value, nil for null; or nil, err, message.
function Client:call(...)
  return run(self, nil, ...)
end

-- The same, with a time-out of its own in seconds.
function Client:call_within(seconds, ...)
  if type(seconds) ~= "number" or not (seconds > 0) then misuse("redis: call_within takes seconds above 0, got %s", tostring(seconds)) end
  return run(self, seconds, ...)
end

-- ---- several commands ------------------------------------------------------------------------------------------

local Batch = {}

function Batch.__index(_, key)
  if type(key) ~= "string" then return nil end
  local name = key:upper()
  return function(self, ...)
    local list = rawget(self, "list")
    local words = key == "call" and wire.words(...) or wire.words(name, ...)
    check(words)
    if commands.blocking[words[1]:upper()] then misuse("redis: %s waits, and holds up what comes behind it", words[1]:upper()) end
    list[#list + 1] = words
  end
end

-- fn(p) says commands by p's methods; they are sent together. A list of their values, in which redis.null stands for null and an error is
-- { err = message }; or nil, err, message.
function Client:pipeline(fn)
  need_task "pipeline"
  if type(fn) ~= "function" then misuse("bad argument #1 to 'pipeline' (function expected, got %s)", type(fn)) end
  local batch = setmetatable({ list = {} }, Batch)
  fn(batch)
  if #batch.list == 0 then return {} end
  return self.nodes:batch(batch.list, self.options.timeout)
end

-- fn(t) says what happens at once; see transaction.lua.
function Client:transaction(fn, ...)
  need_task "transaction"
  if type(fn) ~= "function" then misuse("bad argument #1 to 'transaction' (function expected, got %s)", type(fn)) end
  local watched = wire.words("WATCH", ...)
  local t, is_begun = setmetatable({ list = {} }, Batch), false
  local function begin(given)
    is_begun = true
    return fn(given)
  end
  return self.nodes:transact(watched[2], function(node)
    local values, err, message = node:alone(transaction.run, self.options, watched, t, begin, check)
    return is_begun, values, err, message
  end)
end

-- A function of a Lua script: script(keys, arguments), two lists. It is sent by its digest, and in full where the server does not know it.
function Client:script(text)
  if type(text) ~= "string" then misuse("bad argument #1 to 'script' (string expected, got %s)", type(text)) end
  local digest
  return function(keys, arguments)
    keys, arguments = keys or {}, arguments or {}
    if type(keys) ~= "table" or type(arguments) ~= "table" then misuse "redis: a script takes two lists: keys, arguments" end
    local words = { #keys }
    for _, one in ipairs(keys) do words[#words + 1] = one end
    for _, one in ipairs(arguments) do words[#words + 1] = one end
    if digest then
      local value, err, message = self:call("EVALSHA", digest, unpack(words))
      if err ~= "error" or not message:find "^NOSCRIPT" then return value, err, message end
    end
    local value, err, message = self:call("EVAL", text, unpack(words))
    if not digest and err ~= "closed" then
      local sum = self:call("SCRIPT", "LOAD", text)
      digest = sum and tostring(sum)
      if self.options.slices then wire.release(sum) end
    end
    return value, err, message
  end
end

for name, kind in pairs { subscribe = "SUBSCRIBE", psubscribe = "PSUBSCRIBE", ssubscribe = "SSUBSCRIBE" } do
  -- An iterator over messages: for channel, message, pattern in r:subscribe("a", ...) do
  Client[name] = function(self, ...)
    need_task(name)
    local words = wire.words(kind, ...)
    if #words == 1 then misuse("redis: %s takes names of channels", name) end
    return pubsub.open(function() return self.nodes:of(kind == "SSUBSCRIBE" and words or { kind }) end, self.options, words,
      self.subscriptions)
  end
end

local function listed(set)
  local list = {}
  for one in pairs(set) do list[#list + 1] = one end
  return list
end

-- ---- the rest --------------------------------------------------------------------------------------------------

-- No further command or message; those under way are answered.
function Client:close()
  self.is_closed = true
  self.nodes:close()
  for _, one in ipairs(listed(self.subscriptions)) do one:close() end
end

-- { connections =, pending =, exclusive =, idle = }
function Client:stats()
  local into = { connections = 0, pending = 0, exclusive = 0, idle = 0 }
  self.nodes:count(into)
  return into
end

-- Any other name is that of a command.
local metatable = {
  __index = function(_, key)
    local own = Client[key]
    if own or type(key) ~= "string" then return own end
    local name = key:upper()
    own = function(self, ...) return run(self, nil, name, ...) end
    Client[key] = own
    return own
  end,
  __tostring = function(self) return "redis " .. self.options.addresses[1].text end,
}

function redis.new(given)
  state.need_loop "redis"
  local checked = options.check(given)
  local nodes = checked.cluster and cluster.new(checked) or cluster.single(server.new(checked.addresses[1], checked))
  return setmetatable({ options = checked, nodes = nodes, is_closed = false, subscriptions = {} }, metatable)
end

-- on_connect, on_request and so on of a proxy; see shard.lua.
function redis.shard(given)
  return require("rille.redis.shard").new(given)
end

return setmetatable(redis, { __call = function(_, given) return redis.new(given) end })
