-- timeouts: how long a call of an object of rille.compat.socket may park, as LuaSocket counts: "t" (total) and "b" (block, the default)
-- both are for a whole call; where both are set, "b" is for each wait of it. Fields _block and _total: seconds; nil for no limit.

local C = require "rille.core"

local misuse = require "rille.misuse"
local state = require "rille.state"
local task = require "rille.task"

local M = { methods = {} }

-- What parks needs a task of a loop.
function M.need_task(what)
  if not state.loop or not task.current() then
    misuse("%s parks, and nothing can park here: call it in a handler, in rille.spawn, or in a file under `rille exec`", what)
  end
end

-- When a call that begins now has to be over; nil: never.
function M.begin(self)
  local seconds = self._total or self._block
  return seconds and C.rille_now() + seconds
end

-- How long it may park now; nil: for ever.
function M.left(self, deadline)
  if not deadline then return nil end
  local left = math.max(0, deadline - C.rille_now())
  return self._total and self._block and math.min(self._block, left) or left
end

-- seconds: nil or below 0 for no limit; 0 parks for one turn of the loop, in which what has come is taken.
function M.methods:settimeout(seconds, mode)
  seconds = tonumber(seconds)
  if seconds and not (seconds >= 0 and seconds < math.huge) then seconds = nil end
  mode = mode or "b"
  if mode == "b" then
    self._block = seconds
  elseif mode == "t" or mode == "r" then
    self._total = seconds
  else
    misuse("bad argument #2 to 'settimeout' (invalid timeout mode)")
  end
  return 1
end

-- Both of them; -1 stands for no limit.
function M.methods:gettimeout()
  return self._block or -1, self._total or -1
end

return M
