-- delimiter: frames that end in one of several delimiters: the one that is complete first, of those that end together the longest.

local delimiter = {
  name = "delimiter",
  options = {
    { name = "max", type = "bytes", default = 65536, min = 1, max = 2 ^ 30 },
    { name = "strip", type = "boolean", default = true },
  },
  list = {
    type = "delimiter", max = 64, min_count = 1, max_count = 16, missing = 'needs a delimiter, as in { "\\0" }',
  },
}

function delimiter.delimiters(values)
  return values
end

function delimiter.core(values)
  return "DELIMITER", { keeps = values.strip and 0 or 1 }
end

return delimiter
