-- store: a dict that a Redis server keeps, so that processes on several machines have it together: the methods of rille.dict, which park
-- here. docs/dict.md says what is different.

local Slice = require "rille.slice"
local arguments = require "rille.dict_arguments"
local cache = require "rille.store.cache"
local luggage = require "rille.luggage"
local misuse = require "rille.misuse"
local redis = require "rille.redis"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local value = require "rille.store.value"

local encode, decode = value.encode, value.decode
local null = redis.null
local ttl_of, flags_of, need_number = arguments.ttl_of, arguments.flags_of, arguments.need_number

local KEY_MAX = 65535
local KEYS_DEFAULT = 1024
local TTL_MAX = 3e9 -- seconds: whoever asks for more means for ever, as in a dict in memory
local REST = 0.5 -- seconds
local COUNT = 500 -- keys that the server looks at for one SCAN

local READS = { "GET", "PTTL", "LLEN", "EXISTS", "TOUCH", "SCAN" }

local Store = {}
Store.__index = Store

-- ---- scripts ---------------------------------------------------------------------------------------------------

-- KEYS[1]: the number; ARGV: what is added, init or "", milliseconds or "0". The new number as text; 0: there is none, 1: it is something
-- else. Doubles are added, as a dict in memory does.
local INCR = [[
local v = redis.pcall('GET', KEYS[1])
if type(v) == 'table' then return 1 end
if not v then
  if ARGV[2] == '' then return 0 end
  local sum = string.format('%.17g', tonumber(ARGV[2]) + tonumber(ARGV[1]))
  if ARGV[3] == '0' then redis.call('SET', KEYS[1], 'n' .. sum)
  else redis.call('SET', KEYS[1], 'n' .. sum, 'PX', ARGV[3]) end
  return sum
end
local head, number = string.match(v, '^(n)(.*)$')
if not head then head, number = string.match(v, '^(N%d+:)(.*)$') end
number = number and tonumber(number)
if not number then return 1 end
local sum = string.format('%.17g', number + tonumber(ARGV[1]))
redis.call('SET', KEYS[1], head .. sum, 'KEEPTTL')
return sum]]

-- ---- arguments -------------------------------------------------------------------------------------------------

local function key_of(key, name)
  local text = type(key) == "string" and key or Slice.is(key) and key:str() or nil
  if not text then misuse("bad key to '%s' (a string or a slice expected, got %s)", name, type(key)) end
  if #text < 1 or #text > KEY_MAX then misuse("bad key to '%s' (1 to %d bytes expected, got %d)", name, KEY_MAX, #text) end
  return text
end

-- Milliseconds of a time to live, 0 when there is none.
local function ms_of(ttl, name)
  local seconds = ttl_of(ttl, name)
  return seconds < TTL_MAX and math.ceil(seconds * 1000) or 0
end

-- ---- asking ----------------------------------------------------------------------------------------------------

local WORDS = {
  OOM = "no memory", NOAUTH = "permission denied", WRONGPASS = "permission denied", NOPERM = "permission denied", LOADING = "unavailable",
  READONLY = "unavailable", MASTERDOWN = "unavailable", BUSY = "unavailable", MISCONF = "unavailable", NOREPLICAS = "unavailable",
}

-- err, message for an error of the client. wrong: what a value of another type is.
local function error_of(err, message, wrong)
  if err ~= "error" then return err, message end
  local word = message and message:match "%f[%w](%u%u%u+)%f[%W]"
  if word == "WRONGTYPE" and wrong then return wrong end
  return WORDS[word] or "error", message
end

local clients = {} -- by what they were made from

local function redis_options(self)
  local s = self.settings
  return {
    url = s.store, timeout = s.timeout, connect_timeout = s.timeout, max_reply = math.min(2 ^ 30, s.max_value + 65536), idempotent = READS,
    tls = s.ca and { ca = s.ca } or nil,
  }
end

-- The client that this dict shares with others of the same server.
local function client_of(self, name)
  if not state.loop or not task.current() then
    misuse("dict '%s': %s asks its store and parks: call it in a task on a loop, such as a handler or rille.spawn", self.name, name)
  end
  local client = self.client
  if client then return client end
  local s = self.settings
  local id = ("%s %g %g %s"):format(s.store, s.timeout, s.max_value, s.ca or "")
  client = clients[id]
  if not client then
    local made = redis(redis_options(self))
    client = { redis = made, incr = made:script(INCR) }
    clients[id] = client
  end
  self.client = client
  if s.cache > 0 then
    self.cache = cache.new(tostring(self), require("rille.redis.options").check(redis_options(self)), s, self.prefix)
  end
  return client
end

-- A command about a key: its reply, null for null; or nil, err, message.
local function ask(self, name, wrong, ...)
  local reply, err, message = client_of(self, name).redis:call(...)
  if err then return nil, error_of(err, message, wrong) end
  if reply == nil then return null end
  return reply
end

-- Two commands in one write: their replies.
local function ask_both(self, name, wrong, one, two, key)
  local replies, err, message = client_of(self, name).redis:pipeline(function(p)
    p:call(one, key)
    p:call(two, key)
  end)
  if not replies then return nil, nil, error_of(err, message, wrong) end
  for _, reply in ipairs(replies) do
    if type(reply) == "table" and reply.err then return nil, nil, error_of("error", reply.err, wrong) end
  end
  return replies[1], replies[2]
end

local function written(self, key)
  if self.cache then self.cache:drop(key) end
end

-- ---- values ----------------------------------------------------------------------------------------------------

local function given_back(found, flags)
  if flags and flags ~= 0 then return found, flags end
  return found
end

local function decoded(reply)
  if reply == null then return true end
  local found, flags = decode(reply)
  if found == nil then return false end
  return true, found, flags
end

local function get_through(self, key)
  local mark = self.cache:expect(key)
  local reply, ms, err, message = ask_both(self, "get", "value is a list", "GET", "PTTL", self.prefix .. key)
  if reply == nil then return nil, err, message end
  local is_ours, found, flags = decoded(reply)
  if not is_ours then return nil, "invalid argument" end
  if mark and (found == nil or ms ~= -2) then self.cache:keep(key, mark, found, flags, ms >= 0 and ms / 1000 or nil) end
  return given_back(found, flags)
end

function Store:get(key)
  key = key_of(key, "get")
  client_of(self, "get")
  if self.cache then
    local entry = self.cache:find(key)
    if entry then return given_back(entry.value, entry.flags) end
    return get_through(self, key)
  end
  local reply, err, message = ask(self, "get", "value is a list", "GET", self.prefix .. key)
  if reply == nil then return nil, err, message end
  local is_ours, found, flags = decoded(reply)
  if not is_ours then return nil, "invalid argument" end
  return given_back(found, flags)
end

local function bytes_of(x, flags, name)
  local bytes = encode(x, flags)
  if bytes then return bytes end
  misuse("bad value to '%s' (a string, slice, number or boolean expected%s, got %s)", name,
    name == "set" and ", or nil to remove the key" or "", type(x))
end

-- mode: "NX", "XX" or nil; refusal: what it is when that forbids it.
local function put(self, key, x, exptime, flags, mode, refusal, name)
  key = key_of(key, name)
  local bytes, ms = bytes_of(x, flags_of(flags, name), name), ms_of(exptime, name)
  if #bytes > self.settings.max_value then return nil, "too large", false end
  local words = { "SET", self.prefix .. key, bytes }
  if ms > 0 then words[4], words[5] = "PX", ms end
  words[#words + 1] = mode
  local reply, err, message = ask(self, name, nil, unpack(words))
  written(self, key)
  if reply == nil then return nil, err, false, message end
  if reply == null then return nil, refusal, false end
  return true, nil, false
end

local function remove(self, key, name)
  key = key_of(key, name)
  local reply, err, message = ask(self, name, nil, "DEL", self.prefix .. key)
  written(self, key)
  if reply == nil then return nil, err, false, message end
  return true, nil, false
end

function Store:set(key, x, exptime, flags)
  if x == nil then return remove(self, key, "set") end
  return put(self, key, x, exptime, flags, nil, nil, "set")
end

function Store:add(key, x, exptime, flags)
  return put(self, key, x, exptime, flags, "NX", "exists", "add")
end

function Store:replace(key, x, exptime, flags)
  return put(self, key, x, exptime, flags, "XX", "not found", "replace")
end

function Store:delete(key)
  return remove(self, key, "delete")
end

local REFUSALS = { [0] = "not found", "not a number" }

function Store:incr(key, by, init, init_ttl)
  key = key_of(key, "incr")
  need_number(by, "value", "incr")
  if init ~= nil then
    need_number(init, "init", "incr")
  elseif init_ttl ~= nil then
    misuse "must provide \"init\" when providing \"init_ttl\" to 'incr'"
  end
  local ms = ms_of(init_ttl, "incr")
  local sum, err, message = client_of(self, "incr").incr({ self.prefix .. key },
    { ("%.17g"):format(by), init and ("%.17g"):format(init) or "", ("%d"):format(ms) })
  written(self, key)
  if err then
    err, message = error_of(err, message, "not a number")
    return nil, err, false, message
  end
  if type(sum) == "number" then return nil, REFUSALS[sum], false end
  return tonumber(sum), nil, false
end

-- ---- time ------------------------------------------------------------------------------------------------------

function Store:ttl(key)
  local ms, err, message = ask(self, "ttl", nil, "PTTL", self.prefix .. key_of(key, "ttl"))
  if ms == nil then return nil, err, message end
  if ms == -2 then return nil, "not found" end
  return ms < 0 and 0 or ms / 1000
end

local function expire(self, key, ms, name)
  local reply, err, message, _
  if ms > 0 then
    reply, err, message = ask(self, name, nil, "PEXPIRE", self.prefix .. key, ms)
  else
    reply, _, err, message = ask_both(self, name, nil, "EXISTS", "PERSIST", self.prefix .. key)
  end
  written(self, key)
  if reply == nil then return nil, err, message end
  if reply == 0 then return nil, "not found" end
  return true
end

function Store:expire(key, exptime)
  key = key_of(key, "expire")
  if exptime == nil then misuse "bad \"exptime\" argument to 'expire' (seconds, 0 or more, expected, got nil)" end
  return expire(self, key, ms_of(exptime, "expire"), "expire")
end

function Store:touch(key, exptime)
  key = key_of(key, "touch")
  if exptime ~= nil then return expire(self, key, ms_of(exptime, "touch"), "touch") end
  local reply, err, message = ask(self, "touch", nil, "TOUCH", self.prefix .. key)
  if reply == nil then return nil, err, message end
  if reply == 0 then return nil, "not found" end
  return true
end

-- ---- lists -----------------------------------------------------------------------------------------------------

local NO_LIST = "value not a list"

local function push(self, key, x, command, name)
  key = key_of(key, name)
  if type(x) ~= "string" and type(x) ~= "number" and not Slice.is(x) then
    misuse("bad value type to '%s' (a string, slice or number expected, got %s)", name, type(x))
  end
  local bytes = encode(x, 0)
  if #bytes > self.settings.max_value then return nil, "too large" end
  local reply, err, message = ask(self, name, NO_LIST, command, self.prefix .. key, bytes)
  written(self, key)
  if reply == nil then return nil, err, message end
  return reply
end

function Store:lpush(key, x)
  return push(self, key, x, "LPUSH", "lpush")
end

function Store:rpush(key, x)
  return push(self, key, x, "RPUSH", "rpush")
end

local function pop(self, key, command, name)
  key = key_of(key, name)
  local reply, err, message = ask(self, name, NO_LIST, command, self.prefix .. key)
  written(self, key)
  if reply == nil then return nil, err, message end
  local is_ours, found = decoded(reply)
  if not is_ours then return nil, "invalid argument" end
  return found
end

function Store:lpop(key)
  return pop(self, key, "LPOP", "lpop")
end

function Store:rpop(key)
  return pop(self, key, "RPOP", "rpop")
end

function Store:llen(key)
  local reply, err, message = ask(self, "llen", NO_LIST, "LLEN", self.prefix .. key_of(key, "llen"))
  if reply == nil then return nil, err, message end
  return reply
end

-- ---- all of it -------------------------------------------------------------------------------------------------

-- visit(keys), lists of keys with the prefix, until it returns true or there are no more. True; or nil, err, message.
local function scan(self, name, visit)
  local pattern = self.prefix:gsub("[%[%]%*%?\\^-]", "\\%0") .. "*"
  local cursor, ends_at = "0", state.clock and state.clock.now + self.settings.scan_timeout
  repeat
    local reply, err, message = ask(self, name, nil, "SCAN", cursor, "MATCH", pattern, "COUNT", COUNT)
    if reply == nil then return nil, err, message end
    cursor = tostring(reply[1])
    local is_enough
    is_enough, err, message = visit(reply[2])
    if err then return nil, err, message end
    if is_enough then return true end
    if cursor ~= "0" and state.clock.now >= ends_at then return nil, "timeout" end
  until cursor == "0"
  return true
end

function Store:keys(max)
  if max == nil then max = KEYS_DEFAULT end
  if type(max) ~= "number" or not (max >= 0) then
    misuse("bad argument #1 to 'keys' (a number, 0 or more, expected, got %s)", tostring(max))
  end
  if max == 0 then max = math.huge end
  local list, seen, from = {}, {}, #self.prefix + 1
  local ok, err, message = scan(self, "keys", function(keys)
    for _, key in ipairs(keys) do
      if #list < max and not seen[key] then
        seen[key] = true
        list[#list + 1] = key:sub(from)
      end
    end
    return #list >= max
  end)
  if not ok then return nil, err, message end
  return list
end

-- True when every key that was there is removed; or nil, err, message.
function Store:flush()
  local ok, err, message = scan(self, "flush", function(keys)
    if #keys == 0 then return false end
    local reply, why, more = ask(self, "flush", nil, "UNLINK", unpack(keys))
    for _, key in ipairs(keys) do written(self, key:sub(#self.prefix + 1)) end
    if reply == nil then return nil, why, more end
    return false
  end)
  if not ok then return nil, err, message end
  return true
end

function Store.capacity()
  return nil, "not supported"
end
Store.free_space = Store.capacity

function Store:__tostring()
  return ("dict '%s'"):format(self.name)
end

-- ---- by name ---------------------------------------------------------------------------------------------------

local M = { Store = Store }

local all = {}

-- The dict of that name with these settings, as the configuration has them; nil: it is there with another store or prefix.
function M.open(name, settings)
  local prefix = settings.prefix or ("rille:%s:"):format(name)
  local known = all[name]
  if known then
    if known.settings.store ~= settings.store or known.prefix ~= prefix then return nil end
    return known
  end
  known = setmetatable({ name = name, settings = settings, prefix = prefix, client = false, cache = false }, Store)
  all[name] = known
  return known
end

function M.find(name)
  return all[name]
end

luggage.handle("stored dict", Store, function(self) return { name = self.name, settings = self.settings } end, function(what)
  return all[what.name] or M.open(what.name, what.settings)
end)

-- Another generation serves: connections end that nobody uses, as they keep this one alive.
local function rest()
  if not state.is_retiring then return end
  for _, client in pairs(clients) do client.redis.nodes:rest() end
  for _, self in pairs(all) do
    if self.cache then self.cache:rest() end
  end
  timer.after(REST, rest)
end

function M.aside()
  if next(clients) then timer.after(0, rest) end
end

-- The loop is gone, and every connection with it.
function M.reset()
  for _, self in pairs(all) do
    if self.cache then self.cache:close() end
    self.client, self.cache = false, false
  end
  clients = {}
end

return M
