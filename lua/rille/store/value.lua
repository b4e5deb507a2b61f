-- value: what a dict keeps, as bytes in Redis: a letter for its type, then the value. A capital letter is followed by its flags:
-- "stext", "n42", "t", "f", "S7:text". Numbers have as many digits as make them the same number again.

local Slice = require "rille.slice"

local floor, format, tonumber, type = math.floor, string.format, tonumber, type

local value = {}

function value.number(x)
  return x == floor(x) and x > -1e15 and x < 1e15 and x ~= 0 and format("%d", x) or format("%.17g", x)
end

-- The bytes of a string, slice, number or boolean; nil for anything else.
function value.encode(x, flags)
  local kind = type(x)
  local letter, rest
  if kind == "string" then letter, rest = "s", x
  elseif kind == "number" then letter, rest = "n", value.number(x)
  elseif kind == "boolean" then letter, rest = x and "t" or "f", ""
  elseif Slice.is(x) then letter, rest = "s", x:str()
  else return nil end
  if flags == 0 then return letter .. rest end
  return format("%s%d:", letter:upper(), flags) .. rest
end

-- The value and its flags; nil: that was not written by a dict.
function value.decode(bytes)
  local letter, flags = bytes:sub(1, 1), 0
  local from = 2
  if letter:find "^[SNTF]" then
    local digits, to = bytes:match "^.(%d+):()"
    if not digits then return nil end
    letter, flags, from = letter:lower(), tonumber(digits), to
  end
  if letter == "s" then return bytes:sub(from), flags end
  if letter == "n" then return tonumber(bytes:sub(from)), flags end
  if letter == "t" then return true, flags end
  if letter == "f" then return false, flags end
end

return value
