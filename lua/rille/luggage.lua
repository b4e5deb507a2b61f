-- luggage: values that go from one Lua state to another by value: nil, booleans, numbers, strings, 64-bit integers, tables of these without
-- cycles, and what the library has under a name: dicts, topics, pools, connections by their id. A ctx may also have retained slices and
-- LinkBuffers, which go beside the bytes (core/holding.c).

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local leaks = require "rille.leaks"

local luggage = {}

local DEPTH_MAX = 100
local CAME_ALONG = "in a ctx of the generation before" -- the place of what came, for rille leaks

local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"
local slice_box = ffi.new("rille_slice[1]")
local err_box = ffi.new("int[1]")

-- What stands for a handle in the bytes: a table that no script's data can look like.
local Handle = {}
local options = { metatable = { Handle } }
local writer, reader = buffer.new(options), buffer.new(options)

local packers = {} -- by metatable: its kind, and what is needed to find it again
local finders = {} -- by kind: from that, the object; or nil, err

-- A kind of object that has a name everywhere. name_of(object) -> plain value; find(that) -> object, or nil, err.
function luggage.handle(kind, metatable, name_of, find)
  packers[metatable] = { kind = kind, name_of = name_of }
  finders[kind] = find
end

local function handle(kind, name)
  return setmetatable({ kind = kind, name = name }, Handle)
end

-- ---- packing ---------------------------------------------------------------------------------------------------

local function is_plain(value, kind)
  if kind == "cdata" then return ffi.istype(int64, value) or ffi.istype(uint64, value) end
  return kind == "nil" or kind == "boolean" or kind == "number" or kind == "string"
end

-- run: dropped, what cannot go, by name; path, the tables that the value is in; held, see luggage.pack; numbers, of what is in its holding.
local function drop(run, where, why)
  run.dropped[#run.dropped + 1] = ("%s (%s)"):format(where, why)
end

local function hold(run, value)
  local held = run.held
  if not held.holding then
    local p = C.rille_holding_new()
    if p == nil then return C.RILLE_ERR_NO_MEMORY end
    held.holding = ffi.gc(p, C.rille_holding_free)
  end
  local numbers = run.numbers
  local number = numbers[value]
  if not number then
    if Slice.is(value) then number = C.rille_holding_add_slice(held.holding, value)
    else number = C.rille_holding_add_buffer(held.holding, value) end
    if number < 0 then return number end
    numbers[value] = number
  end
  if held.is_last then
    held.objects = held.objects or {}
    held.objects[value] = true
  end
  return number
end

local function copy_cdata(value, where, run)
  local is_slice, is_buffer = Slice.is(value), LinkBuffer.is(value)
  if not (is_slice or is_buffer) then return drop(run, where, "a cdata") end
  if not run.held then return drop(run, where, is_slice and "a slice" or "a LinkBuffer") end
  if is_slice and C.rille_slice_is_retained(value) == 0 then return drop(run, where, "a slice that is not retained") end
  local number = hold(run, value)
  if number < 0 then
    return drop(run, where, (is_slice and "a slice: " or "a LinkBuffer: ") .. errors.text[-number])
  end
  if is_buffer and C.rille_linkbuffer_malloc_len(value) > 0 then drop(run, where, "unflushed bytes of a LinkBuffer") end
  return handle(is_slice and "slice" or "buffer", number)
end

local copy

-- What can go of a table; where: its name, for what cannot.
local function copy_table(value, where, run, depth)
  local path = run.path
  if path[value] then return drop(run, where, "a cycle") end
  if depth >= DEPTH_MAX then return drop(run, where, "too deep") end
  local metatable = getmetatable(value)
  if metatable ~= nil then
    local packer = packers[metatable]
    if packer then return handle(packer.kind, packer.name_of(value)) end
    return drop(run, where, "a table with a metatable")
  end
  path[value] = true
  local out = {}
  for k, v in next, value do
    local name = type(k) == "string" and where .. "." .. k or ("%s[%s]"):format(where, tostring(k))
    local key = copy(k, name, run, depth + 1)
    if key ~= nil then out[key] = copy(v, name, run, depth + 1) end
  end
  path[value] = nil
  return out
end

function copy(value, where, run, depth)
  local kind = type(value)
  if is_plain(value, kind) then return value end
  if kind == "table" then return copy_table(value, where, run, depth) end
  if kind == "cdata" then return copy_cdata(value, where, run) end
  return drop(run, where, "a " .. kind)
end

-- Its bytes ("" for nil), and a list of what could not go, by name below `where`. held: a table, where there may be slices and LinkBuffers:
-- its `holding` is to go along then, if it has one; with is_last, what is found is this state's no longer once luggage.left is told that it
-- has gone.
function luggage.pack(value, where, held)
  if value == nil then return "", {} end
  local run = { dropped = {}, path = {}, held = held, numbers = held and {} }
  local plain = copy(value, where, run, 0)
  if plain == nil then return "", run.dropped end
  return writer:reset():encode(plain):get(), run.dropped
end

-- One reference of each slice, and the LinkBuffers.
function luggage.left(held)
  if not held or not held.holding then return end
  ffi.gc(held.holding, nil)
  for object in pairs(held.objects or {}) do
    if Slice.is(object) then object:release() else object:close() end
  end
end

-- ---- unpacking -------------------------------------------------------------------------------------------------

function finders.slice(number, holding)
  local code = C.rille_holding_slice(holding, number, slice_box)
  if code ~= 0 then return nil, errors.text[-code] end
  return Slice.adopt(slice_box, CAME_ALONG)
end

function finders.buffer(number, holding)
  local b = C.rille_holding_buffer(holding, number, err_box)
  if b == nil then return nil, errors.text[-err_box[0]] end
  ffi.gc(b, C.rille_linkbuffer_free)
  if leaks.on then leaks.made("buffer", b, CAME_ALONG) end
  return b
end

-- found: what stands for each number of the holding.
local function find(value, holding, found)
  local of_holding = value.kind == "slice" or value.kind == "buffer"
  if of_holding and found[value.name] then return found[value.name] end
  if not finders[value.kind] then require "rille" end -- which this script has not
  local object, err = finders[value.kind](value.name, holding)
  if object == nil then error(("%s: %s"):format(value.kind, err), 0) end
  if of_holding then found[value.name] = object end
  return object
end

local function revive(value, holding, found)
  if type(value) ~= "table" then return value end
  if getmetatable(value) == Handle then return find(value, holding, found) end
  local keys
  for k, v in next, value do
    if type(v) == "table" then value[k] = revive(v, holding, found) end
    if type(k) == "table" then
      keys = keys or {}
      keys[#keys + 1] = k
    end
  end
  for _, k in ipairs(keys or {}) do
    local v = value[k]
    value[k] = nil
    value[revive(k, holding, found)] = v
  end
  return value
end

-- holding: what came along with the bytes, if something did. Raises when that cannot be had.
function luggage.unpack(bytes, holding)
  if bytes == "" then return nil end
  return revive(reader:set(bytes):decode(), holding, {})
end

return luggage
