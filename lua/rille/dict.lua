-- dict: shared memory of the process, the same in every Lua state. See docs/dict.md.
--
-- The memory is in C (core/dict.c); a state holds a handle. Keys and values go there as pointers, so neither a string nor a slice is
-- copied on its way, and a number, a boolean or nil comes back without garbage.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local arguments = require "rille.dict_arguments"
local errors = require "rille.errors"
local luggage = require "rille.luggage"
local misuse = require "rille.misuse"
local store = require "rille.store"
local units = require "rille.config.units"

local text = errors.text
local istype, to_string, type = ffi.istype, ffi.string, type
local slice_t = Slice.type
local ttl_of, flags_of, need_number = arguments.ttl_of, arguments.flags_of, arguments.need_number

local NIL, NO, YES = C.RILLE_DICT_NIL, C.RILLE_DICT_FALSE, C.RILLE_DICT_TRUE
local NUMBER, STRING = C.RILLE_DICT_NUMBER, C.RILLE_DICT_STRING
local SET, ADD, REPLACE = C.RILLE_DICT_SET, C.RILLE_DICT_ADD, C.RILLE_DICT_REPLACE
local IF_ROOM = C.RILLE_DICT_IF_ROOM

local KEY_MAX = 65535
local KEYS_DEFAULT = 1024
local ROOM = 65536 -- for strings on their way out; longer ones get memory of their own

local Dict = {}
Dict.__index = Dict

-- ---- arguments -------------------------------------------------------------------------------------------------

local function bad_key(key, name)
  if type(key) == "string" or Slice.is(key) then
    misuse("bad key to '%s' (1 to %d bytes expected, got %d)", name, KEY_MAX, #key)
  end
  misuse("bad key to '%s' (a string or a slice expected, got %s)", name, type(key))
end

-- The bytes of a string or slice; nil for anything else.
local function bytes_of(x)
  if type(x) == "string" then return x, #x end
  if istype(slice_t, x) then return x:ptr() end
end

local function key_of(key, name)
  local bytes, size = bytes_of(key)
  if size == nil or size < 1 or size > KEY_MAX then bad_key(key, name) end
  return bytes, size
end

-- ---- what C writes to ------------------------------------------------------------------------------------------

local out = ffi.new("rille_dict_value")
local result_box = ffi.new("double[1]")
local err_box = ffi.new("int[1]")

-- Where strings go on their way out. Taken for the time of a call: a finalizer that runs in it must not find it.
local spare = ffi.new("uint8_t[?]", ROOM)

-- The Lua value of a kind that is no string; or nil, err.
local function plain_value(kind, number)
  if kind == NUMBER then return number end
  if kind == NIL then return nil end
  if kind == YES then return true end
  if kind == NO then return false end
  return nil, text[-kind]
end

-- The value, err and flags of what did not fit: fn is called again with memory that it fits into.
local function long_value(fn, self, key, key_size, at_end)
  while true do
    local room = out.size
    local bytes = ffi.new("uint8_t[?]", room)
    out.bytes, out.room = bytes, room
    local kind
    if at_end == nil then
      kind = fn(self.handle, key, key_size, out)
    else
      kind = fn(self.handle, key, key_size, at_end, out)
    end
    local size, flags = out.size, out.flags
    -- it may be another value by now
    if kind ~= STRING then
      local value, err = plain_value(kind, out.number)
      return value, err, flags
    end
    if size <= room then return to_string(bytes, size), nil, flags end
  end
end

-- ---- values ----------------------------------------------------------------------------------------------------

-- The value of a key, and the flags it was set with if they are not 0; nil when there is none. nil, "value is a list".
function Dict:get(key)
  local bytes, size = key_of(key, "get")
  local to = spare
  spare = nil
  if to == nil then to = ffi.new("uint8_t[?]", ROOM) end
  out.bytes, out.room = to, ROOM
  local kind = C.rille_dict_get(self.handle, bytes, size, out)
  local flags, length = out.flags, out.size
  local value, err
  if kind ~= STRING then
    value, err = plain_value(kind, out.number)
  elseif length <= ROOM then
    value = to_string(to, length)
  else
    value, err, flags = long_value(C.rille_dict_get, self, bytes, size)
  end
  spare = to
  if err then return nil, err end
  if flags ~= 0 then return value, flags end
  return value
end

local function bad_value(value, name)
  misuse("bad value to '%s' (a string, slice, number or boolean expected%s, got %s)", name,
    name == "set" and ", or nil to remove the key" or "", type(value))
end

-- Kind, number, bytes, size.
local function value_of(value, name)
  local t = type(value)
  if t == "string" then return STRING, 0, value, #value end
  if t == "number" then return NUMBER, value, nil, 0 end
  if t == "boolean" then return value and YES or NO, 0, nil, 0 end
  if t == "nil" then return NIL, 0, nil, 0 end
  if istype(slice_t, value) then
    local bytes, size = value:ptr()
    return STRING, 0, bytes, size
  end
  bad_value(value, name)
end

local function put(self, key, value, exptime, flags, mode, name)
  local bytes, size = key_of(key, name)
  local kind, number, value_bytes, value_size = value_of(value, name)
  if kind == NIL and mode ~= SET then bad_value(value, name) end
  local code = C.rille_dict_set(self.handle, bytes, size, mode, kind, number, value_bytes, value_size, ttl_of(exptime, name),
    flags_of(flags, name))
  if code >= 0 then return true, nil, code ~= 0 end
  return nil, text[-code], false
end

-- Put a value under a key, for exptime seconds (0: until it is removed); nil removes it. flags: a number kept beside it.
-- true, nil, whether others had to go for it; or nil, err.
function Dict:set(key, value, exptime, flags)
  return put(self, key, value, exptime, flags, SET, "set")
end

-- The same if the key is not there: else nil, "exists".
function Dict:add(key, value, exptime, flags)
  return put(self, key, value, exptime, flags, ADD, "add")
end

-- The same if the key is there: else nil, "not found".
function Dict:replace(key, value, exptime, flags)
  return put(self, key, value, exptime, flags, REPLACE, "replace")
end

-- Remove a key; true, also when it was not there.
function Dict:delete(key)
  return put(self, key, nil, nil, nil, SET, "delete")
end

-- Add a number to the one that is there, at one go for all threads. Without the key: nil, "not found"; with init it is set to
-- init + by, for init_ttl seconds. The new number, nil, whether others had to go for it; or nil, err ("not a number").
function Dict:incr(key, by, init, init_ttl)
  local bytes, size = key_of(key, "incr")
  need_number(by, "value", "incr")
  if init ~= nil then
    need_number(init, "init", "incr")
  elseif init_ttl ~= nil then
    misuse "must provide \"init\" when providing \"init_ttl\" to 'incr'"
  end
  local code = C.rille_dict_incr(self.handle, bytes, size, by, init ~= nil, init or 0, ttl_of(init_ttl, "incr"), result_box)
  if code >= 0 then return result_box[0], nil, code ~= 0 end
  return nil, text[-code], false
end

-- ---- time ------------------------------------------------------------------------------------------------------

-- Seconds until the key expires, 0 when it does not; or nil, "not found".
function Dict:ttl(key)
  local bytes, size = key_of(key, "ttl")
  local seconds = C.rille_dict_ttl(self.handle, bytes, size)
  if seconds < 0 then return nil, text[-seconds] end
  return seconds
end

local function touch(self, bytes, size, seconds)
  local code = C.rille_dict_touch(self.handle, bytes, size, seconds)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- The key expires exptime seconds from now (0: not at all). true, or nil, "not found".
function Dict:expire(key, exptime)
  local bytes, size = key_of(key, "expire")
  if exptime == nil then misuse "bad \"exptime\" argument to 'expire' (seconds, 0 or more, expected, got nil)" end
  return touch(self, bytes, size, ttl_of(exptime, "expire"))
end

-- As if the key had been read just now; with exptime, as expire. true, or nil, "not found".
function Dict:touch(key, exptime)
  local bytes, size = key_of(key, "touch")
  return touch(self, bytes, size, exptime == nil and -1 or ttl_of(exptime, "touch"))
end

-- ---- lists -----------------------------------------------------------------------------------------------------

local function push(self, key, value, at_end, name)
  local bytes, size = key_of(key, name)
  local kind, number, value_bytes, value_size = value_of(value, name)
  if kind ~= STRING and kind ~= NUMBER then
    misuse("bad value type to '%s' (a string, slice or number expected, got %s)", name, type(value))
  end
  local length = C.rille_dict_push(self.handle, bytes, size, at_end, kind, number, value_bytes, value_size)
  if length < 0 then return nil, text[-length] end
  return length
end

-- Put a string, slice or number at the beginning of a list, which is made if the key is not there. Its length; or nil, err.
function Dict:lpush(key, value)
  return push(self, key, value, 0, "lpush")
end

-- The same at the end.
function Dict:rpush(key, value)
  return push(self, key, value, 1, "rpush")
end

local function pop(self, key, at_end, name)
  local bytes, size = key_of(key, name)
  local to = spare
  spare = nil
  if to == nil then to = ffi.new("uint8_t[?]", ROOM) end
  out.bytes, out.room = to, ROOM
  local kind = C.rille_dict_pop(self.handle, bytes, size, at_end, out)
  local length = out.size
  local value, err
  if kind ~= STRING then
    value, err = plain_value(kind, out.number)
  elseif length <= ROOM then
    value = to_string(to, length)
  else
    value, err = long_value(C.rille_dict_pop, self, bytes, size, at_end)
  end
  spare = to
  if err then return nil, err end
  return value
end

-- Take the first item of a list; a list without items is no key any more. nil when there is none; nil, "value not a list".
function Dict:lpop(key)
  return pop(self, key, 0, "lpop")
end

-- The same with the last one.
function Dict:rpop(key)
  return pop(self, key, 1, "rpop")
end

-- Items of a list, 0 when the key is not there; or nil, "value not a list".
function Dict:llen(key)
  local bytes, size = key_of(key, "llen")
  local length = C.rille_dict_llen(self.handle, bytes, size)
  if length < 0 then return nil, text[-length] end
  return length
end

-- ---- all of it -------------------------------------------------------------------------------------------------

-- A list of keys, at most max (1024; 0: all). Others may set and remove keys meanwhile.
function Dict:keys(max)
  if max == nil then max = KEYS_DEFAULT end
  if type(max) ~= "number" or not (max >= 0) then
    misuse("bad argument #1 to 'keys' (a number, 0 or more, expected, got %s)", tostring(max))
  end
  if max == 0 then max = math.huge end
  local list, count = {}, 0
  local walk, size = ffi.new("rille_dict_walk"), ROOM
  local bytes = ffi.new("uint8_t[?]", size)
  repeat
    local more = C.rille_dict_keys(self.handle, walk, bytes, size)
    local at, used = 0, walk.used
    while at < used and count < max do
      local length = bytes[at] + 256 * bytes[at + 1]
      count = count + 1
      list[count] = to_string(bytes + at + 2, length)
      at = at + 2 + length
    end
    if walk.wanted > size then
      size = walk.wanted
      bytes = ffi.new("uint8_t[?]", size)
    end
  until more == 0 or count >= max
  return list
end

-- Remove every key that is there.
function Dict:flush()
  C.rille_dict_flush(self.handle)
end

-- Bytes it was made with, of which it uses no more.
function Dict:capacity()
  return C.rille_dict_capacity(self.handle)
end

-- Bytes of cells that nothing is in. What has expired counts as used until it is found.
function Dict:free_space()
  return C.rille_dict_free_space(self.handle)
end

function Dict:__tostring()
  return ("dict '%s'"):format(self.name)
end

-- ---- by name ---------------------------------------------------------------------------------------------------

local dicts = {}

-- size in bytes, 0: whatever it has. The dict; or nil, err.
local function open(name, size)
  local handle = C.rille_dict_open(name, #name, size, err_box)
  if handle == nil then return nil, text[-err_box[0]] end
  local known = dicts[name]
  if not known then
    known = setmetatable({ handle = handle, name = name }, Dict)
    dicts[name] = known
  end
  return known
end

local function size_of(options)
  if options == nil then return 0 end
  for key in pairs(options) do
    if key ~= "size" then misuse("bad argument #2 to 'dict': unknown key '%s'; expected size, or store", tostring(key)) end
  end
  if options.size == nil then return 0 end
  return units.bytes(options.size)
    or misuse("bad size of a dict (bytes, or a string such as \"16m\", expected, got %s)", tostring(options.size))
end

-- ---- in a store ------------------------------------------------------------------------------------------------

local configured = {} -- of the configuration, by name

-- One that Redis keeps; nil: it is none of those.
local function stored(name, options)
  local settings = configured[name]
  settings = settings and settings.store and settings or nil
  if options and options.store ~= nil then
    local given, message = require("rille.config").section("dicts", options, "rille.dict")
    if not given then misuse(message) end
    settings = given
  end
  local known = store.find(name)
  if not settings and not known then return nil end
  if options and options.size ~= nil then misuse("dict '%s' is in a store, and has no size", name) end
  if not settings then return known end
  if dicts[name] then misuse("dict '%s' is in memory already, and not in a store", name) end
  if #name < 1 or #name > 255 then misuse("bad name of a dict: '%s' (1 to 255 bytes)", name) end
  return store.open(name, settings)
    or misuse("dict '%s' is in another store already, or has another prefix: say the same everywhere", name)
end

local dict = { open = open }

-- For modules that must not lose what they keep: as self:set, but no other key goes for it; nil, "no memory" then.
function dict.set_if_room(self, key, value, flags)
  return put(self, key, value, nil, flags, IF_ROOM, "set")
end

function dict.set_defaults(given)
  configured = given or {}
end

-- rille.dict(name[, { size = "16m" }]): the dict of that name, the same for the whole process; made if there is none, else it must
-- have that size. nil, "no memory". With a store, there or in the configuration, a dict of store/init.lua.
function dict.of(name, options)
  if type(name) ~= "string" then misuse("bad argument #1 to 'dict' (a string expected, got %s)", type(name)) end
  if options ~= nil and type(options) ~= "table" then misuse("bad argument #2 to 'dict' (a table expected, got %s)", type(options)) end
  local elsewhere = stored(name, options)
  if elsewhere then return elsewhere end
  local size = size_of(options)
  if size == 0 and dicts[name] then return dicts[name] end
  local found, err = open(name, size)
  if err == "exists" then
    misuse("dict '%s' has %.0f bytes already, not %.0f: give the same size everywhere, or none", name,
      open(name, 0):capacity(), size)
  elseif err == "not supported" then
    misuse("dict '%s' is in a store, which the handlers of a server alone can ask", name)
  elseif err == "invalid argument" then
    misuse("bad name or size of a dict: '%s' of %.0f bytes (1 to 255 bytes without NUL, 16k to 256g)", name, size)
  end
  return found, err
end

luggage.handle("dict", Dict, function(self) return self.name end, function(name) return dict.of(name) end)

-- The dicts of a configuration: { name = { size = bytes } }. True, or nil, message.
function dict.make_all(given)
  for name, one in pairs(given) do
    local made, err
    if one.store then
      local code = C.rille_dict_reserve(name, #name)
      made, err = code == 0, text[-code]
    else
      made, err = open(name, one.size)
    end
    if err == "exists" and one.store then return nil, ("dicts.%s: it is in memory already: a store needs a restart"):format(name) end
    if err == "exists" then
      return nil, ("dicts.%s: it has %.0f bytes already, not %.0f"):format(name, open(name, 0):capacity(), one.size)
    end
    if not made then return nil, ("dicts.%s: %s"):format(name, err) end
  end
  return true
end

return dict
