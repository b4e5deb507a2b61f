-- varint: the length as unsigned LEB128 in front, as protobuf delimits messages.

local varint = {
  name = "varint",
  options = { { name = "max", type = "bytes", default = 65536, min = 1, max = 2 ^ 30 } },
}

function varint.core()
  return "VARINT", {}
end

return varint
