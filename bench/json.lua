-- Writes plain Lua data as JSON: keys sorted, so that two runs can be compared line by line.
local json = { null = setmetatable({}, { __tostring = function() return "null" end }) }

local ESCAPES = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ESCAPES[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function number(value)
  if value ~= value or value == math.huge or value == -math.huge then return "null" end
  if value == math.floor(value) and math.abs(value) < 2 ^ 53 then return ("%.0f"):format(value) end
  return ("%.6g"):format(value)
end

local function write(value, indent)
  local kind = type(value)
  if value == json.null or value == nil then return "null" end
  if kind == "number" then return number(value) end
  if kind == "string" then return quote(value) end
  if kind == "boolean" then return tostring(value) end
  if kind ~= "table" then error("no JSON for a " .. kind) end
  local inner, parts = indent .. "  ", {}
  local is_list = #value > 0
  if is_list then
    for i, item in ipairs(value) do parts[i] = inner .. write(item, inner) end
  else
    local keys = {}
    for key in pairs(value) do keys[#keys + 1] = key end
    table.sort(keys)
    for i, key in ipairs(keys) do parts[i] = inner .. quote(key) .. ": " .. write(value[key], inner) end
  end
  local open, close = is_list and "[" or "{", is_list and "]" or "}"
  if #parts == 0 then return open .. close end
  return open .. "\n" .. table.concat(parts, ",\n") .. "\n" .. indent .. close
end

-- A table with items at 1.. is a list, any other an object.
function json.encode(value)
  return write(value, "")
end

return json
