-- luggage: values that go from one Lua state to another by value: nil, booleans, numbers, strings, 64-bit integers, tables of these without
-- cycles, and what the library has under a name: dicts, topics, pools, connections by their id.

local ffi = require "ffi"
local buffer = require "string.buffer"

local luggage = {}

local DEPTH_MAX = 100
local KIND = "\0rille" -- the key that marks a handle

local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

local packers = {} -- by metatable: its kind, and what is needed to find it again
local finders = {} -- by kind

-- A kind of object that has a name everywhere. name_of(object) -> plain value; find(that) -> object.
function luggage.handle(kind, metatable, name_of, find)
  packers[metatable] = { kind = kind, name_of = name_of }
  finders[kind] = find
end

local function is_plain(value, kind)
  if kind == "cdata" then return ffi.istype(int64, value) or ffi.istype(uint64, value) end
  return kind == "nil" or kind == "boolean" or kind == "number" or kind == "string"
end

local copy

-- What can go of a table; where: its name, for what cannot.
local function copy_table(value, where, dropped, depth, path)
  local packer = packers[getmetatable(value)]
  if packer then return { [KIND] = packer.kind, name = packer.name_of(value) } end
  if getmetatable(value) ~= nil then
    dropped[#dropped + 1] = where .. " (a table with a metatable)"
    return nil
  end
  if path[value] or depth >= DEPTH_MAX then
    dropped[#dropped + 1] = where .. (path[value] and " (a cycle)" or " (too deep)")
    return nil
  end
  path[value] = true
  local out = {}
  for k, v in next, value do
    local name = type(k) == "string" and where .. "." .. k or ("%s[%s]"):format(where, tostring(k))
    local key = copy(k, name, dropped, depth + 1, path)
    if key ~= nil then out[key] = copy(v, name, dropped, depth + 1, path) end
  end
  path[value] = nil
  return out
end

function copy(value, where, dropped, depth, path)
  local kind = type(value)
  if is_plain(value, kind) then return value end
  if kind == "table" then return copy_table(value, where, dropped, depth, path) end
  dropped[#dropped + 1] = ("%s (a %s)"):format(where, kind)
  return nil
end

-- Its bytes ("" for nil), and a list of what could not go, by name below `where`.
function luggage.pack(value, where)
  if value == nil then return "", {} end
  local dropped = {}
  local plain = copy(value, where, dropped, 0, {})
  if plain == nil then return "", dropped end
  return buffer.encode(plain), dropped
end

local function revive(value)
  if type(value) ~= "table" then return value end
  local kind = value[KIND]
  if kind then return finders[kind] and finders[kind](value.name) end
  for k, v in next, value do
    if type(v) == "table" then value[k] = revive(v) end
  end
  return value
end

function luggage.unpack(bytes)
  if bytes == "" then return nil end
  return revive(buffer.decode(bytes))
end

return luggage
