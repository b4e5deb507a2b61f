-- json: replies as JSON. Lists are lists also when they are empty; what JSON has no number for is a string.

local http_json = require "rille.http.json"
local resp = require("rille.codec").resp

local encode

local function number(value)
  if value % 1 == 0 and value > -2 ^ 63 and value < 2 ^ 63 then return ("%.0f"):format(value) end
  if value - value ~= 0 then return ('"%s"'):format(value ~= value and "nan" or value > 0 and "inf" or "-inf") end
  return ("%.17g"):format(value)
end

local function list(value)
  local out = {}
  for i = 1, #value do out[i] = encode(value[i]) end
  return "[" .. table.concat(out, ",") .. "]"
end

local function map(value)
  local out = {}
  for key, one in pairs(value) do out[#out + 1] = http_json.encode(tostring(key)) .. ":" .. encode(one) end
  return "{" .. table.concat(out, ",") .. "}"
end

function encode(value)
  local kind = resp.type(value)
  if kind == "null" or kind == "nil" then return "null" end
  if kind == "boolean" then return tostring(value) end
  if kind == "number" then return number(value) end
  if kind == "cdata" then return (tostring(value):gsub("[UL]+$", "")) end
  if kind == "list" or kind == "table" or kind == "set" or kind == "push" then return list(value) end
  if kind == "map" then return map(value) end
  if kind == "error" then return '{"error":' .. http_json.encode(value.err) .. "}" end
  if kind == "verbatim" then value = value.text elseif kind == "big" then value = value.digits end
  return http_json.encode(tostring(value))
end

-- The JSON text of a value that a call, a pipeline or a transaction returned.
return function(value)
  http_json.need()
  return encode(value)
end
