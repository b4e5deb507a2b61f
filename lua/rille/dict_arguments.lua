-- dict_arguments: what the methods of a dict take, checked in the same way whether it is in memory (dict.lua) or in a store
-- (store/init.lua).

local misuse = require "rille.misuse"
local units = require "rille.config.units"

local type = type

local M = {}

-- Seconds of a time to live, 0 when there is none.
function M.ttl_of(ttl, name)
  if ttl == nil then return 0 end
  local seconds = ttl
  if type(ttl) ~= "number" then seconds = units.seconds(ttl) end
  if seconds == nil or not (seconds >= 0) then
    misuse("bad \"exptime\" argument to '%s' (seconds, 0 or more, expected, got %s)", name, tostring(ttl))
  end
  return seconds
end

function M.flags_of(flags, name)
  if flags == nil then return 0 end
  if type(flags) ~= "number" or not (flags >= 0 and flags < 2 ^ 32) or flags % 1 ~= 0 then
    misuse("bad \"flags\" argument to '%s' (a whole number from 0 to 2^32 - 1 expected, got %s)", name, tostring(flags))
  end
  return flags
end

function M.need_number(x, what, name)
  if type(x) ~= "number" then misuse("bad \"%s\" argument to '%s' (a number expected, got %s)", what, name, type(x)) end
  return x
end

return M
