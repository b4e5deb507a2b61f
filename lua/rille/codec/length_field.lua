-- length_field: frames with their length in a field of 1, 2, 3, 4 or 8 bytes. The options mean what they do in netty's
-- LengthFieldBasedFrameDecoder: a frame has offset + length + (value of the field) + adjustment bytes, of which the first `strip` go.

local MAX = 2 ^ 30

local length_field = {
  name = "length_field",
  options = {
    { name = "length", type = "enum", default = 4, values = { 1, 2, 3, 4, 8 } },
    { name = "offset", type = "count", default = 0, min = 0, max = 65536 },
    { name = "adjustment", type = "count", default = 0, min = -MAX, max = MAX },
    { name = "strip", type = "count", min = 0, max = MAX },
    { name = "order", type = "enum", default = "be", values = { "be", "le" } },
    { name = "max", type = "bytes", default = 65536, min = 1, max = MAX },
  },
}

function length_field.problem(values)
  local head = values.offset + values.length
  if values.strip == nil then values.strip = head end
  if head > values.max then return "max", ("got %d; expected at least offset + length, %d"):format(values.max, head) end
  if values.strip > values.max then return "strip", ("got %d; expected at most max, %d"):format(values.strip, values.max) end
end

function length_field.core(values)
  return "LENGTH_FIELD", {
    width = values.length, offset = values.offset, adjustment = values.adjustment, strip = values.strip,
    is_little = values.order == "le" and 1 or 0,
  }
end

return length_field
