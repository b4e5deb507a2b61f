-- query: the parameters of a request's query string, as a form or a link encodes them (a=1&b=two+words).

local C = require "rille.core"
local ffi = require "ffi"

local Slice = require "rille.slice"
local misuse = require "rille.misuse"

local to_string = ffi.string

local query = {}

local ROOM_FIRST = 1024
local room = ROOM_FIRST
local decoded = ffi.new("uint8_t[?]", room)

local function make_room(size)
  if size <= room then return end
  room = size
  decoded = ffi.new("uint8_t[?]", size)
end

-- The value of the first parameter called name, decoded; "" for one without a value; nil when there is none.
function query.value(bytes, name)
  local size = bytes:len()
  make_room(size)
  local n = C.rille_http_query_value(bytes.base_, size, name, #name, decoded)
  if n < 0 then return nil end
  return to_string(decoded, n)
end

-- All parameters: name → value, or a list of values where a name comes more than once. An empty name is left out.
function query.all(bytes)
  local list, text = {}, bytes:str()
  make_room(#text)
  local function decode(piece)
    return to_string(decoded, C.rille_http_query_decode(piece, #piece, decoded))
  end
  for parameter in text:gmatch("[^&]+") do
    local name, value = parameter:match("^([^=]*)=?(.*)$")
    if name ~= "" then
      name, value = decode(name), decode(value)
      local before = list[name]
      if before == nil then
        list[name] = value
      elseif type(before) == "table" then
        before[#before + 1] = value
      else
        list[name] = { before, value }
      end
    end
  end
  return list
end

-- req:query(name) and req:query(): req.query is a slice, and this is what calling it does.
function Slice.call(bytes, req, name)
  if type(req) ~= "table" then misuse("req:query is a method: call it with a colon") end
  if name == nil then return query.all(bytes) end
  if type(name) ~= "string" then misuse("bad argument #1 to 'query' (a name expected, got %s)", type(name)) end
  return query.value(bytes, name)
end

return query
