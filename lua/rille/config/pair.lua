-- pair: which server of a new configuration is which of the old one, and what becomes of its addresses.

local scheme = require "rille.config.scheme"

local pair = {}

-- How often each address is listened on, as { [canonical] = count }.
local function set_of(listen)
  local set = {}
  for _, url in ipairs(listen) do
    local key = scheme.canonical(url)
    set[key] = (set[key] or 0) + 1
  end
  return set
end

-- How many addresses two servers have in common.
local function overlap(a, b)
  local set, count = set_of(a.listen), 0
  for _, url in ipairs(b.listen) do
    local key = scheme.canonical(url)
    if (set[key] or 0) > 0 then
      set[key] = set[key] - 1
      count = count + 1
    end
  end
  return count
end

local function is_script_same(a, b)
  return rawequal(a.script, b.script)
end

-- Of two that both have names, different ones, and no address in common, one is not the other.
local function may_be_same(a, b)
  return not (a.name and b.name)
end

-- How much speaks for a and b to be one, 0: nothing. In turns: what the first finds is no more free for the second.
local RULES = {
  function(a, b) return a.name and a.name == b.name and 1 or 0 end,
  function(a, b)
    local n = overlap(a, b)
    return n == #a.listen and n == #b.listen and is_script_same(a, b) and 1 or 0
  end,
  overlap,
  function(a, b, i, k) return i == k and is_script_same(a, b) and may_be_same(a, b) and 1 or 0 end,
  function(a, b) return is_script_same(a, b) and may_be_same(a, b) and 1 or 0 end,
}

local function apply(rule, olds, news, of_new, is_taken)
  for k, b in ipairs(news) do
    local best, most = nil, 0
    for i, a in ipairs(of_new[k] and {} or olds) do
      local weight = is_taken[i] and 0 or rule(a, b, i, k)
      if weight > most then best, most = i, weight end
    end
    if best then of_new[k], is_taken[best] = best, true end
  end
end

-- By the position of a new server that of the old one which it is; those that are new are left out.
function pair.match(olds, news)
  local of_new, is_taken = {}, {}
  for _, rule in ipairs(RULES) do apply(rule, olds, news, of_new, is_taken) end
  return of_new
end

local function protocols_of(server)
  local of = {}
  for _, url in ipairs(server.listen) do
    local protocol, _, is_tls = scheme.split(url, server.protocol)
    of[scheme.canonical(url)] = is_tls and protocol .. " over TLS" or protocol
  end
  return of
end

-- { added =, removed =, kept = } of two lists of addresses, as the new list writes those that stay; second: whether one that stays
-- changes between http:// and another way of writing it, with that what is spoken there.
function pair.addresses(a, b)
  local left, out = set_of(a.listen), { added = {}, removed = {}, kept = {} }
  local before, after, is_respoken = protocols_of(a), protocols_of(b), false
  for _, url in ipairs(b.listen) do
    local key = scheme.canonical(url)
    local is_kept = (left[key] or 0) > 0
    if is_kept then left[key] = left[key] - 1 end
    table.insert(is_kept and out.kept or out.added, url)
    if is_kept and before[key] ~= after[key] then is_respoken = true end
  end
  -- of those that are written twice the last ones go
  for i = #a.listen, 1, -1 do
    local key = scheme.canonical(a.listen[i])
    if left[key] > 0 then
      left[key] = left[key] - 1
      table.insert(out.removed, 1, a.listen[i])
    end
  end
  return out, is_respoken
end

return pair
