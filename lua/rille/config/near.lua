-- near: the name somebody may have meant.

-- How many letters to insert, remove, change or swap with their neighbour.
local function distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      local least = math.min(row[j - 1] + 1, last[j] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        least = math.min(least, before[j - 2] + 1)
      end
      row[j] = least
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

-- The nearest of a list of names, or nil when none is near.
return function(name, names)
  if #name > 40 then return nil end
  local best, least = nil, math.min(2, math.floor(#name / 2)) + 1
  for _, candidate in ipairs(names) do
    local d = distance(name:lower(), candidate)
    if d < least then best, least = candidate, d end
  end
  return best
end
