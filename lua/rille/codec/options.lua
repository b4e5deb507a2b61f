-- options: what a framing is told, checked. Each framing has a list of entries { name =, type =, default =, min =, max =, required = }.

local units = require "rille.config.units"

local options = {}

local types = {}

local function whole(value, entry)
  return type(value) == "number" and value % 1 == 0 and value >= entry.min and value <= entry.max
end

function types.bytes(value, entry)
  local bytes = units.bytes(value)
  if whole(bytes, entry) then return bytes end
  return nil, ('a size from %d to %d: bytes, or a string such as "64k", "1m"'):format(entry.min, entry.max)
end

function types.count(value, entry)
  if whole(value, entry) then return value end
  return nil, ("a whole number from %d to %d"):format(entry.min, entry.max)
end

function types.boolean(value)
  if type(value) == "boolean" then return value end
  return nil, "true or false"
end

function types.enum(value, entry)
  local names = {}
  for i, one in ipairs(entry.values) do
    if value == one then return value end
    names[i] = type(one) == "string" and '"' .. one .. '"' or tostring(one)
  end
  local last = table.remove(names)
  return nil, table.concat(names, ", ") .. " or " .. last
end

function types.delimiter(value, entry)
  if type(value) == "string" and #value >= 1 and #value <= entry.max then return value end
  return nil, ("a string of 1 to %d bytes"):format(entry.max)
end

local function shown(value)
  if type(value) == "string" then return ("%q"):format(value):gsub("\\\n", "\\n"):gsub("[%c\127]", "?") end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return value == nil and "nothing" or "a " .. type(value)
end

-- One value for an entry: the value, or nil, problem.
local function convert(value, entry)
  local good, expected = types[entry.type](value, entry)
  if good ~= nil then return good end
  return nil, ("got %s; expected %s"):format(shown(value), expected)
end

local function names_of(entries)
  local names = {}
  for i, entry in ipairs(entries) do names[i] = entry.name end
  return table.concat(names, ", ")
end

-- The option that is not known, the first by name so that it is the same one each time.
local function unknown_key(given, entries)
  local known, found = {}, nil
  for _, entry in ipairs(entries) do known[entry.name] = true end
  for key in pairs(given) do
    if not known[key] and (not found or tostring(key) < tostring(found)) then found = key end
  end
  return found
end

-- given: named options and, by number, values. The checked table; or nil, the key that is wrong, problem.
-- list: the entry of the values by number (nil: there are none), of which there are min_count to max_count.
function options.check(framing, given)
  local entries, list = framing.options, framing.list
  local values, named = {}, {}
  for key, value in pairs(given) do
    if type(key) ~= "number" then named[key] = value end
  end
  for i = 1, #given do
    if not list or i > list.max_count then return nil, i, ("a value too many; %s takes %s"):format(framing.name, names_of(entries)) end
    local value, problem = convert(given[i], list)
    if value == nil then return nil, i, problem end
    values[i] = value
  end
  local key = unknown_key(named, entries)
  if key ~= nil then return nil, key, ("unknown option; %s takes %s"):format(framing.name, names_of(entries)) end
  if list and #values < list.min_count and not (list.stands_for and named[list.stands_for]) then return nil, nil, list.missing end
  if list and list.stands_for and #values > 0 then named[list.stands_for] = values[1] end
  for _, entry in ipairs(entries) do
    local value = named[entry.name]
    if value == nil then
      values[entry.name] = entry.default
    else
      local good, problem = convert(value, entry)
      if good == nil then return nil, entry.name, problem end
      values[entry.name] = good
    end
  end
  values.is_named = named.max ~= nil
  if framing.problem then
    local wrong, problem = framing.problem(values)
    if problem then return nil, wrong, problem end
  end
  return values
end

return options
