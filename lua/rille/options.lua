-- options: tables of options that scripts give, read by a description of each key. What is wrong raises at the script's line.

local misuse = require "rille.misuse"
local units = require "rille.config.units"

local type = type

local M = {}

local function names_of(spec)
  local list = {}
  for key in pairs(spec) do list[#list + 1] = key end
  table.sort(list)
  return table.concat(list, ", ")
end

-- where: what takes the options, such as "rille.upstream".
function M.refuse(where, key, expected, value)
  local shown = type(value) == "string" and ("%q"):format(value) or type(value) == "number" and tostring(value) or "a " .. type(value)
  misuse("%s: %s is %s, got %s", where, key, expected, shown)
end
local refuse = M.refuse

-- A reader: (value, what the description says, where, key) → the value as it is used.
local function between(convert, what)
  return function(value, one, where, key)
    local number = convert(value)
    if not number or number < one[3] or number > one[4] then
      refuse(where, key, ("%s from %g to %g"):format(what, one[3], one[4]), value)
    end
    return number
  end
end

-- what: a sentence's part; then the types that will do.
function M.typed(what, ...)
  local kinds = {}
  for _, kind in ipairs { ... } do kinds[kind] = true end
  return function(value, _, where, key)
    if not kinds[type(value)] then refuse(where, key, what, value) end
    return value
  end
end
local typed = M.typed

local function plain(value) return type(value) == "number" and value == value and value or nil end
local function whole(value) return type(value) == "number" and value % 1 == 0 and value or nil end

local READERS = {
  any = function(value) return value end,
  string = typed("a string", "string"),
  boolean = typed("true or false", "boolean"),
  table = typed("a table", "table"),
  list = typed("a list", "table"),
  count = between(whole, "a whole number"),
  share = between(plain, "a number"),
  size = between(units.bytes, "bytes"),
  span = between(units.seconds, "seconds"),
}

-- fill(values, spec, where[, defaults]): a table with every key of spec, { kind, default, least, most } each, of which `defaults` may have
-- others. own: readers by kind, besides those above.
function M.filler(own)
  local readers = setmetatable(own, { __index = READERS })
  return function(values, spec, where, defaults)
    local out = {}
    for key, value in pairs(values) do
      local one = spec[key]
      if not one then misuse("%s has no option '%s': it takes %s", where, tostring(key), names_of(spec)) end
      out[key] = readers[one[1]](value, one, where, key)
    end
    for key, one in pairs(spec) do
      if out[key] == nil then
        if defaults then out[key] = defaults[key] else out[key] = one[2] end
      end
    end
    return out
  end
end

return M
