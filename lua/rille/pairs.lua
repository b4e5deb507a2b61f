-- pairs: where LuaJIT makes wrong machine code of walks over tables, gives this Lua state a pairs() and next() that are not compiled.
-- Everything else is, and elsewhere nothing is changed. To be required before what walks. docs/internals.md says what is wrong.

require "rille.core"

-- LuaJIT compiles walks since September 2021; the last fault was mended days before versions got numbers of their own. Until then all
-- were "LuaJIT 2.1.0-beta3". Those of that name that do not compile walks are too old for Rille anyway.
if not jit.version:find("2.1.0-beta", 1, true) then return { is_stock = true } end

local registry = debug.getregistry()
local M = { is_stock = false }
local before = registry["rille.pairs"]
if before then -- a test runner may empty package.loaded, and put back the globals as they were
  if next == before.stock_next then next, pairs = before.next, before.pairs end
  return M
end

local next_entry = assert(package.loadlib(registry["rille.core.path"], "rille_lua_next"))
local stock_next, stock_pairs, type = next, pairs, type

-- A LuaJIT that was built for more of Lua 5.2 asks tables for __pairs too. What is not a table may have it in any: cdata.
local has_hook = stock_pairs(setmetatable({}, { __pairs = function() return true end })) == true

local function replaced(iterator, ...)
  if iterator == stock_next then iterator = next_entry end
  return iterator, ...
end

local function pairs_of(...)
  local t = ...
  if type(t) == "table" then return next_entry, t, nil end
  return stock_pairs(...) -- a tail call: errors are of the caller's line, and __pairs may park
end

local function pairs_or_hook(...)
  if type((...)) ~= "table" then return stock_pairs(...) end
  return replaced(stock_pairs(...))
end

next = next_entry
pairs = has_hook and pairs_or_hook or pairs_of
if table.foreach then jit.off(table.foreach) end -- has a walk of its own
registry["rille.pairs"] = { stock_next = stock_next, next = next, pairs = pairs }

return M
