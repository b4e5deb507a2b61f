-- shared: one connection for each target that all callers of a loop share, their answers matched by ids: see mux.lua. Calls wait there and
-- not in the queue of the upstream, in which callers wait for a connection of their own.

local conn = require "rille.conn"
local health = require "rille.upstream.health"
local mux = require "rille.mux"
local state = require "rille.state"
local task = require "rille.task"

local M = {}

-- ---- the connection --------------------------------------------------------------------------------------------

local Line = {} -- what conn.lua tells that the connection is over
Line.__index = Line

local function leave(target)
  target.open = target.open - 1
  target.owner:place_free(target)
end

function Line:left()
  local target = self.target
  target.in_use = target.in_use - 1
  return leave(target)
end

-- Whether nobody calls any more, nor will: while it was connected to, the target was removed, or another generation began to serve.
local function is_too_late(target)
  return (target.is_leaving or state.is_retiring) and target.mux:load() == 0
end

local function connect(target)
  target.open = target.open + 1
  local ok, c, err, message = task.protect(target.connect, target, nil)
  if ok and c and is_too_late(target) then
    c:close()
    leave(target)
    return nil, "closed"
  end
  if ok and c then
    target.in_use = target.in_use + 1
    conn.hold(c, setmetatable({ target = target }, Line))
    return c
  end
  leave(target)
  if not ok then error(c, 0) end
  health.failed(target, err, message)
  return nil, err, message
end

-- What a target has for its callers. options: of rille.mux.
function M.new(target, options)
  return mux.new(function() return connect(target) end, options)
end

-- ---- calls -----------------------------------------------------------------------------------------------------

-- The end of a call of a target that is tried out.
local function probed(target, ok, ...)
  target.is_probing = false
  if not ok then error(..., 0) end
  return ...
end

local function ask(target, request, timeout)
  target.requests = target.requests + 1
  local line = target.mux
  if not target.is_half then return line:call(request, timeout) end
  target.is_probing = true
  return probed(target, task.protect(line.call, line, request, timeout))
end

-- A request that was not sent, as its connection could not be made, is the target's fault already.
local function judge(target, answer, err, is_unsent)
  if answer ~= nil then health.succeeded(target)
  elseif not is_unsent then health.failed(target, err) end
  if target.is_leaving or state.is_retiring then target.mux:drop() end
end

local OF_CALLER = { full = true, ["too large"] = true, ["invalid argument"] = true }

-- Whether a request was not sent because there was no connection, and not because it is none that can be written, or there was no room.
local function is_unmade(target, err, is_unsent)
  if not is_unsent or OF_CALLER[err] then return false end
  local c = target.mux.conn
  return err ~= "timeout" or not (c and c:is_active())
end

-- The frame that answers; or nil, err, message. choose(self, key, tried): a target, or nil, err; explain(self, err): a sentence.
function M.call(self, choose, explain, request, timeout, key)
  local tried
  local number = 1
  while true do
    local target, why = choose(self, key, tried)
    if not target then return nil, why, explain(self, why) end
    local answer, err, is_unsent = ask(target, request, timeout)
    judge(target, answer, err, is_unsent)
    if answer ~= nil then return answer end
    number = number + 1
    if self.is_closed or not self.retry:allows(number, err, is_unmade(target, err, is_unsent), false) then
      return nil, err
    end
    tried = tried or {}
    tried[target] = true
  end
end

return M
