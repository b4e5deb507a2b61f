-- codec_model: what each framing makes of bytes that are all there, as plainly as it can be said. A model takes a string and options, and
-- returns how many bytes the first frame takes and its body; nil when bytes are missing; or nil and the error.

local model = {}

-- Ends at the place where a delimiter is complete first; of several there, the longest.
function model.delimiter(s, o)
  local longest = 0
  for _, d in ipairs(o.delimiters) do longest = math.max(longest, #d) end
  for stop = 1, math.min(#s, o.max + longest) do
    local found = 0
    for _, d in ipairs(o.delimiters) do
      if s:sub(1, stop):sub(-#d) == d and #d <= stop then found = math.max(found, #d) end
    end
    if found > 0 and stop - found > o.max then return nil, "too large" end
    if found > 0 then return stop, s:sub(1, o.keeps and stop or stop - found) end
  end
  if #s >= o.max + longest then return nil, "too large" end
end

function model.fixed(s, o)
  if #s >= o.max then return o.max, s:sub(1, o.max) end
end

function model.length_field(s, o)
  local head = o.offset + o.width
  if #s < head then return nil end
  local field, value = s:sub(o.offset + 1, head), 0
  for byte in (o.little and field:reverse() or field):gmatch(".") do value = value * 256 + byte:byte() end
  if value >= 2 ^ 62 then return nil, "too large" end
  local size = value + o.adjustment + head
  if size < head then return nil, "invalid argument" end
  if size > o.max then return nil, "too large" end
  if o.strip > size then return nil, "invalid argument" end
  if #s >= size then return size, s:sub(o.strip + 1, size) end
end

function model.netstring(s, o)
  local digits, rest = s:match("^(%d*)(.?)")
  for i = 1, #digits do
    if i == 2 and digits:sub(1, 1) == "0" then return nil, "invalid argument" end
    if tonumber(digits:sub(1, i)) > o.max then return nil, "too large" end
  end
  if rest == "" then return nil end
  if rest ~= ":" or digits == "" then return nil, "invalid argument" end
  local size = #digits + 2 + tonumber(digits)
  if #s < size then return nil end
  if s:sub(size, size) ~= "," then return nil, "invalid argument" end
  return size, s:sub(#digits + 2, size - 1)
end

function model.varint(s, o)
  local value = 0
  for i = 1, #s do
    local byte = s:byte(i)
    if i == 10 and byte > 1 then return nil, "invalid argument" end
    value = value + byte % 128 * 128 ^ (i - 1)
    if byte < 128 then
      if value > o.max then return nil, "too large" end
      if #s < i + value then return nil end
      return i + value, s:sub(i + 1, i + value)
    end
  end
end

-- ---- RESP --------------------------------------------------------------------------------------------------------

local function is_double(text)
  return text:find("^[+-]?inf$") or text:find("^-?nan$") or text:find("^[+-]?%d+%.?%d*$") or text:find("^[+-]?%.%d+$")
    or text:find("^[+-]?%d+%.?%d*[eE][+-]?%d+$") or text:find("^[+-]?%.%d+[eE][+-]?%d+$")
end

local lines = {
  ["+"] = function(text) return not text:find("\n") end, ["-"] = function(text) return not text:find("\n") end,
  [":"] = function(text) return text:find("^[+-]?%d+$") and #text:gsub("^[+-]", "") <= 19 end,
  ["("] = function(text) return text:find("^[+-]?%d+$") end, [","] = is_double,
  ["_"] = function(text) return text == "" end, ["#"] = function(text) return text == "t" or text == "f" end,
}

-- Where the value at `at` ends; nil; or nil, err.
local function value(s, at, o, depth)
  local kind = s:sub(at, at)
  if kind == "" then return nil end
  if kind:find("[;.]") then return nil, "not supported" end
  if not kind:find("[-+:(,_#$!=*%%~>|]") then return nil, "invalid argument" end
  local cr = s:find("\r", at + 1, true)
  if not cr or cr == #s then return nil end
  local text, after = s:sub(at + 1, cr - 1), cr + 2
  if s:sub(cr + 1, cr + 1) ~= "\n" then return nil, "invalid argument" end
  if lines[kind] then
    if lines[kind](text) then return after end
    return nil, "invalid argument"
  end
  if text == "-1" and kind:find("[$*]") then return after end
  if text == "?" then return nil, "not supported" end
  if not text:find("^%d+$") or text:find("^0.") then return nil, "invalid argument" end
  local n = tonumber(text)
  if kind:find("[$!=]") then
    if after - 1 + n + 2 > o.max then return nil, "too large" end
    if #s < after + n + 1 then return nil end
    if s:sub(after + n, after + n + 1) ~= "\r\n" then return nil, "invalid argument" end
    if kind == "=" and (n < 4 or s:sub(after + 3, after + 3) ~= ":") then return nil, "invalid argument" end
    return after + n + 2
  end
  if kind == "%" then n = 2 * n elseif kind == "|" then n = 2 * n + 1 end
  if after - 1 + 3 * n > o.max or (n > 0 and depth == o.depth) then return nil, "too large" end
  for _ = 1, n do
    local err
    after, err = value(s, after, o, depth + 1)
    if not after then return nil, err end
  end
  return after
end

function model.resp(s, o)
  local after, err = value(s:sub(1, o.max), 1, o, 0)
  if after then return after - 1, s:sub(1, after - 1) end
  if not err and #s >= o.max then err = "too large" end
  return nil, err
end

-- ---- all of an input ---------------------------------------------------------------------------------------------

-- Frames in the body of an outer one: a list, and an error.
local function inside(body, o)
  local list = {}
  repeat
    local size, frame
    if body ~= "" then size, frame = model[o.inner](body, o) end
    if not size then return list, frame or "short" end
    list[#list + 1] = { frame, #body }
    body = body:sub(size + 1)
  until body == ""
  return list
end

-- A list of bodies, the error, and the bytes left over.
function model.decode(s, o)
  local list = {}
  while s ~= "" do
    local size, body = model[o.kind](s, o)
    if not size then return list, body, #s end
    if o.inner then
      local frames, err = inside(body, o)
      for _, frame in ipairs(frames) do list[#list + 1] = frame[1] end
      if err then return list, err end
    else
      list[#list + 1] = body
    end
    s = s:sub(size + 1)
  end
  return list, nil, 0
end

return model
