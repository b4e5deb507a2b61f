-- netstring: "5:hello,", the length in decimal digits.

local netstring = {
  name = "netstring",
  options = { { name = "max", type = "bytes", default = 65536, min = 1, max = 2 ^ 30 } },
}

function netstring.core()
  return "NETSTRING", {}
end

return netstring
