-- fixed: frames of one size.

local fixed = {
  name = "fixed",
  options = { { name = "size", type = "bytes", min = 1, max = 2 ^ 30 } },
  list = {
    type = "bytes", min = 1, max = 2 ^ 30, min_count = 1, max_count = 1, stands_for = "size", missing = "needs a size, as in { 16 }",
  },
}

function fixed.core(values)
  return "FIXED", { max = values.size, is_named = 1 }
end

return fixed
