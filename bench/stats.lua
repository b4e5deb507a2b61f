-- Order statistics and a straight line.
local stats = {}

-- The q-quantile (0..1) of a list of numbers, interpolated between neighbours; nil for an empty list.
function stats.quantile(values, q)
  if #values == 0 then return nil end
  local sorted = {}
  for i, value in ipairs(values) do sorted[i] = value end
  table.sort(sorted)
  local at = 1 + (#sorted - 1) * q
  local low = math.floor(at)
  local high = math.min(low + 1, #sorted)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
end

function stats.median(values)
  return stats.quantile(values, 0.5)
end

function stats.quartiles(values)
  return { q1 = stats.quantile(values, 0.25), median = stats.median(values), q3 = stats.quantile(values, 0.75) }
end

-- One field of each record.
function stats.column(records, name)
  local values = {}
  for i, record in ipairs(records) do values[i] = record[name] end
  return values
end

function stats.sum(values)
  local sum = 0
  for _, value in ipairs(values) do sum = sum + value end
  return sum
end

-- Slope of the least-squares line through (xs[i], ys[i]).
function stats.slope(xs, ys)
  local mean_x, mean_y = stats.sum(xs) / #xs, stats.sum(ys) / #ys
  local above, below = 0, 0
  for i, x in ipairs(xs) do
    above = above + (x - mean_x) * (ys[i] - mean_y)
    below = below + (x - mean_x) ^ 2
  end
  return above / below
end

return stats
