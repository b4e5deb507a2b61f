-- try: exceptions as LuaSocket has them. What try raises is a table of its own kind, which protect turns into nil, err; other errors
-- pass, those that end a task among them.

local M = {}

local Raised = {
  __tostring = function(self) return tostring(self[1]) end,
}

-- A function that hands its arguments on, unless the first is nil or false: then it calls finalizer, and raises the second.
function M.newtry(finalizer)
  return function(...)
    if ... then return ... end
    if finalizer then pcall(finalizer) end
    error(setmetatable({ (select(2, ...)) }, Raised), 0)
  end
end

M.try = M.newtry()

local function caught(ok, ...)
  if ok then return ... end
  local err = ...
  if getmetatable(err) == Raised then return nil, err[1] end
  error(err, 0)
end

-- fn, but what try raises inside is returned as nil, err.
function M.protect(fn)
  return function(...)
    return caught(pcall(fn, ...))
  end
end

-- What stands behind the first n arguments.
function M.skip(n, ...)
  return select(n + 1, ...)
end

return M
