-- json: reads what the control thread writes, which is JSON without surprises, and writes as simply; for scripts there is rille.http.json.

local json = {}

local ESCAPES = { n = "\n", t = "\t", r = "\r", b = "\b", f = "\f", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }
local WORDS = { ["true"] = true, ["false"] = false }

local function utf8_of(hex)
  local code = tonumber(hex, 16)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xc0 + math.floor(code / 64), 0x80 + code % 64) end
  return string.char(0xe0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local value_at

local function string_at(text, at)
  local from, parts = at + 1, {}
  while true do
    local stop = text:find('["\\]', from) or error("a string without end", 0)
    parts[#parts + 1] = text:sub(from, stop - 1)
    if text:sub(stop, stop) == '"' then return table.concat(parts), stop + 1 end
    local kind = text:sub(stop + 1, stop + 1)
    if kind == "u" then
      parts[#parts + 1] = utf8_of(text:sub(stop + 2, stop + 5))
      from = stop + 6
    else
      parts[#parts + 1] = ESCAPES[kind] or error("a bad escape", 0)
      from = stop + 2
    end
  end
end

local function array_at(text, at)
  local list, count = {}, 0
  at = text:find("%S", at + 1)
  while text:sub(at, at) ~= "]" do
    count = count + 1
    list[count], at = value_at(text, at)
    at = text:find("[^%s,]", at)
  end
  return list, at + 1
end

local function object_at(text, at)
  local object = {}
  at = text:find("%S", at + 1)
  while text:sub(at, at) ~= "}" do
    local key
    key, at = string_at(text, at)
    object[key], at = value_at(text, text:find("[^%s:]", at))
    at = text:find("[^%s,]", at)
  end
  return object, at + 1
end

function value_at(text, at)
  local first = text:sub(at, at)
  if first == "{" then return object_at(text, at) end
  if first == "[" then return array_at(text, at) end
  if first == '"' then return string_at(text, at) end
  local word = text:match("^%a+", at)
  if word then return WORDS[word], at + #word end -- null is nil
  local number = text:match("^[%d%.eE+-]+", at) or error("no value", 0)
  return tonumber(number), at + #number
end

-- The value, or nil, message.
function json.decode(text)
  local ok, value = pcall(value_at, text, text:find("%S") or 1)
  if ok then return value end
  return nil, "the answer is no JSON: " .. tostring(value)
end

-- ---- writing ---------------------------------------------------------------------------------------------------

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function sorted_keys(object)
  local keys = {}
  for key in pairs(object) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- Strings in UTF-8, finite numbers, booleans, lists (an empty table is one) and tables with strings for keys.
function json.encode(value)
  local kind, parts = type(value), {}
  if kind == "string" then return quoted(value) end
  if kind ~= "table" then return kind == "number" and ("%.14g"):format(value) or tostring(value) end
  if value[1] ~= nil or next(value) == nil then
    for i, item in ipairs(value) do parts[i] = json.encode(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for i, key in ipairs(sorted_keys(value)) do parts[i] = quoted(key) .. ":" .. json.encode(value[key]) end
  return "{" .. table.concat(parts, ",") .. "}"
end

return json
