-- transaction: WATCH, what is read meanwhile, then MULTI, the commands and EXEC in one write, on a connection of its own.

local resp = require("rille.codec").resp
local wire = require "rille.redis.wire"

local M = {}

-- t.now:get("k"), t.now:call("GET", "k"): carried out at once, before MULTI.
local function now_of(one, timeout, check)
  return setmetatable({}, {
    __index = function(_, key)
      return function(_, ...)
        local words = key == "call" and wire.words(...) or wire.words(key:upper(), ...)
        check(words)
        local replies, err = one:exchange(wire.encode(words), 1, timeout)
        if not replies then return nil, err end
        return wire.result(replies[1])
      end
    end,
  })
end

local function say(one, timeout, ...)
  local replies, err = one:exchange(wire.encode(wire.words(...)), 1, timeout)
  if not replies then return nil, err end
  local message = wire.error_of(replies[1])
  if message then return nil, "error", message end
  return true
end

local function commit(one, timeout, list)
  local parts = { wire.encode { "MULTI" } }
  for i, words in ipairs(list) do parts[i + 1] = wire.encode(words) end
  parts[#parts + 1] = wire.encode { "EXEC" }
  local replies, err = one:exchange(table.concat(parts), #parts, timeout)
  if not replies then return false, nil, err end
  local outcome = replies[#replies]
  if outcome == resp.null then return true, nil end
  if wire.error_of(outcome) then
    local message = wire.error_of(outcome)
    for i = 2, #replies - 1 do -- the command that was refused says more than EXECABORT
      if wire.error_of(replies[i]) then
        message = wire.error_of(replies[i])
        break
      end
    end
    return true, nil, "error", message
  end
  return true, outcome
end

-- For Server:alone. fn(t) says commands by t's methods; false takes everything back. A list of values; nil: a watched key has changed;
-- nil, err, message.
-- check(words) raises for a command that others of this connection must not find carried out.
function M.run(one, options, watched, t, fn, check)
  local timeout = options.timeout
  rawset(t, "now", now_of(one, timeout, check))
  if #watched > 1 then
    local ok, err, message = say(one, timeout, unpack(watched))
    if not ok then return err == "error", nil, err, message end
  end
  local answer = fn(t)
  if answer == false or #t.list == 0 then
    local ok, err = true, nil
    if #watched > 1 then ok, err = say(one, timeout, "UNWATCH") end
    if not ok then return false, nil, err end
    if answer == false then return true, nil, "cancelled" end
    return true, {}
  end
  return commit(one, timeout, t.list)
end

return M
