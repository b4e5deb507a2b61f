-- resp_value: RESP2 and RESP3 values as Lua values, both ways. What is read was found whole and well formed by core/codec_resp.c.
-- Tables say by their metatable what they are; docs/codec.md lists them.

local ffi = require "ffi"

local Slice = require "rille.slice"
local misuse = require "rille.misuse"

local floor, tostring, type = math.floor, tostring, type
local to_string = ffi.string
local slice_t = Slice.type
local i64_t, u64_t = ffi.typeof("int64_t"), ffi.typeof("uint64_t")

local DEPTH_MAX = 128

local resp_value = {}

-- ---- kinds -----------------------------------------------------------------------------------------------------
-- __nested: slices in it live as long as the frame does; see concurrency.lua

local function kind(name)
  return { __nested = true, __metatable_name = name }
end

local List, Map, Set, Push = kind "list", kind "map", kind "set", kind "push"
local Status, Error, Verbatim, Big, Attributed = kind "status", kind "error", kind "verbatim", kind "big", kind "attributed"
function Error:__tostring() return self.err end
function Status:__tostring() return self.ok end

local null = setmetatable({}, { __tostring = function() return "null" end, __metatable_name = "null" })
resp_value.null = null

function resp_value.list(t) return setmetatable(t, List) end
function resp_value.map(t) return setmetatable(t, Map) end
function resp_value.set(t) return setmetatable(t, Set) end
function resp_value.push(t) return setmetatable(t, Push) end
function resp_value.status(text) return setmetatable({ ok = text }, Status) end
function resp_value.error(text) return setmetatable({ err = text }, Error) end
function resp_value.verbatim(text, format) return setmetatable({ text = text, format = format or "txt" }, Verbatim) end
function resp_value.big(digits) return setmetatable({ digits = digits }, Big) end

-- "list", "map", "set", "push", "status", "error", "verbatim", "big", "attributed", "null"; "slice"; else Lua's type.
function resp_value.type(x)
  if Slice.is(x) then return "slice" end
  local meta = type(x) == "table" and getmetatable(x)
  return meta and meta.__metatable_name or type(x)
end

-- ---- reading ---------------------------------------------------------------------------------------------------
-- readers[type](p, s, from, line, o): the value whose line is from .. line - 1, and where what follows begins. p: the bytes of the slice s;
-- o: options; a nil value: it cannot be had in Lua.

local readers = {}
local read

local function line_end(p, at)
  while p[at] ~= 13 do at = at + 1 end
  return at
end

local function plain_integer(p, from, line)
  local is_negative = p[from] == 45
  if is_negative or p[from] == 43 then from = from + 1 end
  local value = 0
  for i = from, line - 1 do value = value * 10 + (p[i] - 48) end
  return is_negative and -value or value
end

-- Beyond 2^53 as int64_t; nil beyond that.
local function wide_integer(p, from, line)
  local is_negative = p[from] == 45
  if is_negative or p[from] == 43 then from = from + 1 end
  local value = u64_t(0)
  for i = from, line - 1 do value = value * 10 + (p[i] - 48) end -- 19 digits fit
  if value > (is_negative and 0x8000000000000000ULL or 0x7fffffffffffffffULL) then return nil end
  local signed = ffi.cast(i64_t, value)
  if is_negative then signed = -signed end
  if value < 0x20000000000000ULL then return tonumber(signed) end
  return signed
end

readers[58] = function(p, _, from, line) -- :
  if line - from <= 15 then return plain_integer(p, from, line), line + 2 end
  return wide_integer(p, from, line), line + 2
end

-- The bytes behind the line as the script wants them, and where they end.
local function body(p, s, from, line, o)
  local size = plain_integer(p, from, line)
  local at = line + 2
  if o.strings then return to_string(p + at, size), at + size + 2 end
  return slice_t(p + at, s.cell_, size > 0 and s.block_ or nil, size, s.epoch_), at + size + 2
end

readers[36] = function(p, s, from, line, o) -- $
  if p[from] == 45 then return null, line + 2 end
  return body(p, s, from, line, o)
end

readers[43] = function(p, _, from, line) return to_string(p + from, line - from), line + 2 end -- +
readers[45] = function(p, _, from, line) return resp_value.error(to_string(p + from, line - from)), line + 2 end -- -
readers[40] = function(p, _, from, line) return resp_value.big(to_string(p + from, line - from)), line + 2 end -- (
readers[95] = function(_, _, _, line) return null, line + 2 end -- _
readers[35] = function(p, _, from, line) return p[from] == 116, line + 2 end -- #

local SPECIAL = { inf = math.huge, ["+inf"] = math.huge, ["-inf"] = -math.huge, nan = 0 / 0, ["-nan"] = 0 / 0 }

readers[44] = function(p, _, from, line) -- ,
  local digits = to_string(p + from, line - from)
  return SPECIAL[digits] or tonumber(digits), line + 2
end

readers[33] = function(p, _, from, line) -- !
  local size = plain_integer(p, from, line)
  return resp_value.error(to_string(p + line + 2, size)), line + 4 + size
end

readers[61] = function(p, s, from, line, o) -- =
  local text, after = body(p, s, from, line, o)
  return resp_value.verbatim(text:sub(5), to_string(p + line + 2, 3)), after
end

local function aggregate(meta)
  return function(p, s, from, line, o)
    local list, at = {}, line + 2
    for i = 1, plain_integer(p, from, line) do
      list[i], at = read(p, s, at, o)
      if list[i] == nil then return nil end
    end
    return setmetatable(list, meta), at
  end
end

local read_list = aggregate(List)
readers[126], readers[62] = aggregate(Set), aggregate(Push) -- ~ >

readers[42] = function(p, s, from, line, o) -- *
  if p[from] == 45 then return null, line + 2 end
  return read_list(p, s, from, line, o)
end

-- As many pairs as the line says. Keys that are bytes become strings, so that they can be looked up.
local function pairs_of(p, s, from, line, o)
  local map, at = {}, line + 2
  for _ = 1, plain_integer(p, from, line) do
    local key, value
    key, at = read(p, s, at, o)
    if key == nil or key ~= key then return nil end
    value, at = read(p, s, at, o)
    if value == nil then return nil end
    if Slice.is(key) then key = key:str() end
    map[key] = value
  end
  return setmetatable(map, Map), at
end

readers[37] = pairs_of -- %

readers[124] = function(p, s, from, line, o) -- |
  local attributes, at = pairs_of(p, s, from, line, o)
  if attributes == nil then return nil end
  local value
  value, at = read(p, s, at, o)
  if not o.attributes or value == nil then return value, at end
  return setmetatable({ value = value, attributes = attributes }, Attributed), at
end

function read(p, s, at, o)
  return readers[p[at]](p, s, at + 1, line_end(p, at + 1), o)
end

-- The value in a slice; nil, err: it is one that Lua has no room for.
function resp_value.parse(s, o)
  local value = read(s.base_, s, 0, o)
  if value == nil then return nil, "invalid argument" end
  return value
end

-- ---- writing ---------------------------------------------------------------------------------------------------

local writers = {}
local write

local function bulk(out, text)
  out[#out + 1] = "$" .. #text .. "\r\n" .. text .. "\r\n"
  return true
end

-- A text that has to stay on its line.
local function line(out, mark, text)
  text = tostring(text)
  if text:find("[\r\n]") then return false end
  out[#out + 1] = mark .. text .. "\r\n"
  return true
end

local function write_list(out, mark, list, version, depth)
  if depth > DEPTH_MAX then misuse("resp: values nested deeper than %d", DEPTH_MAX) end
  out[#out + 1] = (version >= 3 and mark or "*") .. #list .. "\r\n"
  for i = 1, #list do
    if not write(out, list[i], version, depth + 1) then return false end
  end
  return true
end

function writers.list(out, x, version, depth) return write_list(out, "*", x, version, depth) end
function writers.set(out, x, version, depth) return write_list(out, "~", x, version, depth) end
function writers.push(out, x, version, depth) return write_list(out, ">", x, version, depth) end
writers.table = writers.list

-- Of version 2 as a list of keys and values.
function writers.map(out, x, version, depth)
  if depth > DEPTH_MAX then misuse("resp: values nested deeper than %d", DEPTH_MAX) end
  local count = 0
  for _ in pairs(x) do count = count + 1 end
  out[#out + 1] = (version >= 3 and "%" .. count or "*" .. 2 * count) .. "\r\n"
  for key, value in pairs(x) do
    if not (write(out, key, version, depth + 1) and write(out, value, version, depth + 1)) then return false end
  end
  return true
end

function writers.status(out, x) return line(out, "+", x.ok) end
function writers.error(out, x) return line(out, "-", x.err) end
function writers.string(out, x) return bulk(out, x) end
function writers.slice(out, x) return bulk(out, x:str()) end

function writers.null(out, _, version)
  out[#out + 1] = version >= 3 and "_\r\n" or "$-1\r\n"
  return true
end
writers["nil"] = writers.null

function writers.boolean(out, x, version)
  out[#out + 1] = version >= 3 and (x and "#t\r\n" or "#f\r\n") or (x and ":1\r\n" or ":0\r\n")
  return true
end

local function double(x)
  if x ~= x then return "nan" end
  if x == math.huge then return "inf" end
  return x == -math.huge and "-inf" or ("%.17g"):format(x)
end

function writers.number(out, x, version)
  if x == floor(x) and x >= -2 ^ 53 and x <= 2 ^ 53 then return line(out, ":", ("%d"):format(x)) end
  if version >= 3 then return line(out, ",", double(x)) end
  return bulk(out, double(x))
end

function writers.cdata(out, x)
  if not ffi.istype(i64_t, x) and not ffi.istype(u64_t, x) then misuse("resp: a %s is no value", tostring(ffi.typeof(x))) end
  return line(out, ":", (tostring(x):gsub("[UL]+$", "")))
end

function writers.verbatim(out, x, version)
  local text = tostring(x.text)
  if version < 3 then return bulk(out, text) end
  if #x.format ~= 3 then return false end
  out[#out + 1] = "=" .. #text + 4 .. "\r\n" .. x.format .. ":" .. text .. "\r\n"
  return true
end

function writers.big(out, x, version)
  if not tostring(x.digits):find("^[+-]?%d+$") then return false end
  if version >= 3 then return line(out, "(", x.digits) end
  return bulk(out, tostring(x.digits))
end

function writers.attributed(out, x, version, depth)
  if version >= 3 then
    local mark = #out + 1
    if not writers.map(out, x.attributes, version, depth + 1) then return false end
    out[mark] = out[mark]:gsub("^%%", "|")
  end
  return write(out, x.value, version, depth + 1)
end

function write(out, x, version, depth)
  local writer = writers[resp_value.type(x)]
  if not writer then misuse("resp: a %s is no value", type(x)) end
  return writer(out, x, version, depth)
end

-- The bytes of a value; nil, err: a line of it has a line end, or its digits are none.
function resp_value.print(x, version)
  local out = {}
  if not write(out, x, version, 1) then return nil, "invalid argument" end
  return table.concat(out)
end

return resp_value
