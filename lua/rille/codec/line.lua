-- line: frames that end in a line end. "\n" also takes "\r\n".

local line = {
  name = "line",
  options = {
    { name = "max", type = "bytes", default = 65536, min = 1, max = 2 ^ 30 },
    { name = "eol", type = "delimiter", default = "\n", max = 64 },
  },
}

function line.delimiters(values)
  return values.eol == "\n" and { "\n", "\r\n" } or { values.eol } -- the first one ends what is sent
end

function line.core()
  return "DELIMITER", {}
end

return line
