-- parcel: what a job of a worker pool carries, there and back. Plain data is encoded; slices and LinkBuffers, which have to stand as
-- values of their own and not in a table, cross as they are (core/parcel.c).

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"

local parcel = {}

local size_box = ffi.new("double[1]")
local slice_box = ffi.new("rille_slice[1]")
local reader = buffer.new()

-- Why values cannot be encoded: the first that cannot, by its number without `skip` others, which stand in front.
local function what_is_wrong(values, what, skip, message)
  for i = 1, values.n do
    local ok, why = pcall(buffer.encode, values[i])
    if not ok then return ("%s %d: %s"):format(what, i - skip, why) end
  end
  return message
end

-- Put values into p, a rille_parcel *. what names them in messages: "argument". True; or nil, err, message and nothing is to be
-- sent: "invalid argument" (what cannot be), "slice expired", "closed" (a LinkBuffer), "too large" (too many of them), "no memory".
function parcel.pack(p, what, skip, ...)
  local values, marks = { n = select("#", ...), ... }, nil
  for i = 1, values.n do
    local value = values[i]
    if type(value) == "cdata" then
      local code
      if Slice.is(value) then
        code = C.rille_parcel_add_slice(p, value)
      elseif LinkBuffer.is(value) then
        code = C.rille_parcel_add_buffer(p, value)
      end
      if code then
        if code ~= 0 then return nil, errors.text[-code], ("%s %d: %s"):format(what, i - skip, errors.text[-code]) end
        marks = marks or {}
        marks[#marks + 1] = Slice.is(value) and i or -i
        values[i] = false
      end
    end
  end
  values.marks = marks
  local ok, bytes = pcall(buffer.encode, values)
  if not ok then return nil, "invalid argument", what_is_wrong(values, what, skip, bytes) end
  local code = C.rille_parcel_set(p, bytes, #bytes)
  if code ~= 0 then return nil, errors.text[-code], errors.text[-code] end
  return true
end

-- The values of p as a table with their number `n` and, if there are any, a list `held` of the slices and LinkBuffers in it, which
-- belong to the caller now. nil: nothing was packed.
function parcel.unpack(p)
  local bytes = C.rille_parcel_bytes(p, size_box)
  if bytes == nil then return nil end
  local values = reader:set(bytes, size_box[0]):decode()
  local marks = values.marks
  for k = 1, marks and #marks or 0 do
    local i = marks[k]
    local value
    if i > 0 then
      C.rille_parcel_take_slice(p, slice_box)
      value = Slice.adopt(slice_box)
    else
      i = -i
      value = ffi.gc(C.rille_parcel_take_buffer(p), C.rille_linkbuffer_free)
    end
    values[i], marks[k] = value, value
  end
  values.held = marks
  return values
end

-- Give back what came along.
function parcel.release(values)
  local held = values.held
  for k = 1, held and #held or 0 do
    if Slice.is(held[k]) then held[k]:release() else held[k]:close() end
  end
end

return parcel
