-- balance: which of the targets that are up gets the next request. A way of choosing is a function (set, key, tried) that returns one with
-- room, none of `tried`, or nil; `set` has the targets of one rank: `live` and their `count`.
--
-- round_robin, p2c: as long as targets have room, the same work for any number of them. consistent_hash: a binary search. weighted,
-- least_connections, and round_robin with different weights: all targets are looked at.

local bit = require "bit"
local ffi = require "ffi"

local C = require "rille.core"

local band, bxor, rshift = bit.band, bit.bxor, bit.rshift
local floor = math.floor

local M = {}

local POINTS = 100        -- of the ring, for a target of weight 1, or less,
local POINTS_MAX = 2 ^ 15 -- when there would be more of them
local INDEXES = 2 ^ 13    -- more than targets

local function usable(target, tried)
  return not (tried and tried[target]) and target:has_room()
end

local function in_turn(set, _, tried)
  local live, count, at = set.live, set.count, set.cursor
  for _ = 1, count do
    at = at % count + 1
    local target = live[at]
    if usable(target, tried) then
      set.cursor = at
      return target
    end
  end
end

-- Each target gains its weight each time, and the richest pays for all: so a heavy one's turns lie among those of the others.
local function by_weight(set, _, tried)
  local live, best, total = set.live, nil, 0
  for i = 1, set.count do
    local target = live[i]
    if usable(target, tried) then
      target.current = target.current + target.weight
      total = total + target.weight
      if not best or target.current > best.current then best = target end
    end
  end
  if best then best.current = best.current - total end
  return best
end

function M.round_robin(set, key, tried)
  if set.is_even then return in_turn(set, key, tried) end
  return by_weight(set, key, tried)
end

M.weighted = M.round_robin

-- Equal ones get their turns.
function M.least_connections(set, _, tried)
  local live, count, at = set.live, set.count, set.cursor
  local best, least, place
  for _ = 1, count do
    at = at % count + 1
    local target = live[at]
    if usable(target, tried) then
      local load = (target:load() + 1) / target.weight
      if not best or load < least then best, least, place = target, load, at end
    end
  end
  if best then set.cursor = place end
  return best
end

local function random(set, n)
  set.seed = set.seed * 16807 % 2147483647
  return set.seed % n + 1
end

-- The better of two that are drawn.
function M.p2c(set, key, tried)
  local live, count = set.live, set.count
  if count < 3 then return M.least_connections(set, key, tried) end
  local i = random(set, count)
  local k = random(set, count - 1)
  if k >= i then k = k + 1 end
  local a, b = live[i], live[k]
  local is_a, is_b = usable(a, tried), usable(b, tried)
  if is_a and is_b then
    return (a:load() + 1) / a.weight <= (b:load() + 1) / b.weight and a or b
  end
  return is_a and a or is_b and b or in_turn(set, key, tried)
end

-- ---- the ring --------------------------------------------------------------------------------------------------

local function multiply(a, b) -- of 32 bits
  return (a % 65536 * b + floor(a / 65536) * b % 65536 * 65536) % 2 ^ 32
end

local function stir(h)
  h = multiply(bxor(h, rshift(h, 16)) % 2 ^ 32, 0x85ebca6b)
  h = multiply(bxor(h, rshift(h, 13)) % 2 ^ 32, 0xc2b2ae35)
  return bxor(h, rshift(h, 16)) % 2 ^ 32
end

-- A CRC of texts that differ in few bits differs in few bits, so it is stirred.
local function hash(text)
  return stir(C.rille_crc32c(text, #text, -1))
end

-- Points of all targets of a rank, down ones too: those that are up keep their keys when another one goes. A point and the number of its
-- target are one number, so that sorting them calls no function.
local function make_ring(all)
  local total = 0
  for _, target in ipairs(all) do total = total + target.weight end
  local each = math.min(POINTS, POINTS_MAX / math.max(1, total))
  local points, count = {}, 0
  for index, target in ipairs(all) do
    local h = hash(target.url)
    for i = 1, math.max(1, floor(target.weight * each)) do
      count = count + 1
      points[count] = stir((h + i * 0x9e3779b9) % 2 ^ 32) * INDEXES + index
    end
  end
  table.sort(points)
  local ring = { count = count, at = ffi.new("double[?]", count + 1), targets = {} }
  for i = 1, count do
    ring.at[i - 1], ring.targets[i] = floor(points[i] / INDEXES), all[points[i] % INDEXES]
  end
  return ring
end

local function first_at(ring, h)
  local low, high = 0, ring.count
  local at = ring.at
  while low < high do
    local middle = floor((low + high) / 2)
    if at[middle] < h then low = middle + 1 else high = middle end
  end
  return low
end

-- The next one of the ring that is up and has room.
function M.consistent_hash(set, key, tried)
  local ring = set.ring
  if not ring then
    ring = make_ring(set.all)
    set.ring = ring
  end
  local count = ring.count
  if count == 0 then return nil end
  local at = first_at(ring, hash(key))
  local before
  for i = 0, count - 1 do
    local target = ring.targets[(at + i) % count + 1]
    if target ~= before and target.is_live and usable(target, tried) then return target end
    before = target
  end
end

-- ---- ranks -----------------------------------------------------------------------------------------------------

-- Targets of one rank: primary ones, or those for when none of these is up.
function M.new_set()
  local seed = 1 + band(floor(C.rille_now() * 1e6), 0x3fffffff)
  return { all = {}, live = {}, count = 0, cursor = 0, is_even = true, ring = nil, seed = seed }
end

-- all: a list of targets; those that are live may be chosen. is_new: not just their states have changed.
function M.refill(set, all, is_new)
  local live, count, is_even = {}, 0, true
  for _, target in ipairs(all) do
    if target.is_live then
      count = count + 1
      live[count] = target
      is_even = is_even and target.weight == live[1].weight
    end
  end
  set.all, set.live, set.count, set.is_even = all, live, count, is_even
  if is_new then set.ring = nil end
end

return M
