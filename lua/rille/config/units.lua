-- units: durations and sizes as people write them, to seconds and bytes and back.

local units = {}

local DURATIONS = { ms = 0.001, s = 1, m = 60, h = 3600 }
local SIZES = { k = 2 ^ 10, m = 2 ^ 20, g = 2 ^ 30 }

local function convert(value, factors)
  if type(value) == "number" then return value == value and value or nil end
  if type(value) ~= "string" then return nil end
  local number, unit = value:match("^(%d+%.?%d*)(%a+)$")
  local factor = factors[unit]
  return factor and tonumber(number) * factor or nil
end

-- Seconds of a number or "250ms", "2s", "5m", "1h"; nil for anything else.
function units.seconds(value)
  return convert(value, DURATIONS)
end

-- Bytes of a number or "64k", "1m", "1g" (1k is 1024; K, M, G as well); nil for anything else, and for part of a byte.
function units.bytes(value)
  local bytes = convert(type(value) == "string" and value:lower() or value, SIZES)
  return bytes and bytes % 1 == 0 and bytes or nil
end

return units
