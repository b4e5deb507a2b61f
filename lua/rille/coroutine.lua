-- coroutine: the script's own `coroutine` table. Its resume and wrap hand a park of the inner coroutine on to the task around
-- it, so that anything that parks works in there too; everything else is as Lua's.

local task = require "rille.task"

local raw = {
  create = coroutine.create, resume = coroutine.resume, wrap = coroutine.wrap, yield = coroutine.yield,
  status = coroutine.status, running = coroutine.running, isyieldable = coroutine.isyieldable,
}
local create, resume, yield, running = raw.create, raw.resume, raw.yield, raw.running
local isyieldable, status = raw.isyieldable, raw.status
local PARK = task.PARK
local passing = task.passing

local parked = setmetatable({}, { __mode = "k" }) -- inner coroutines whose park is being handed on

local aside = setmetatable({}, { __mode = "k" })  -- scopes of with_timeout that inner coroutines yielded out of

local pass

-- The task's park is over: hand what it was given to the inner coroutine.
local function hand_back(co, before, ...)
  parked[co] = nil
  return pass(co, before, resume(co, ...))
end

-- before: the task's scope when co was resumed.
function pass(co, before, alive, first, ...)
  if not (alive and first == PARK) then
    local fiber = task.current()
    if fiber and fiber.scope ~= before then aside[co] = task.set_aside(fiber, before) end
    return alive, first, ...
  end
  if not isyieldable() then return pass(co, before, resume(co, false, task.BOUNDARY)) end
  parked[co] = true
  return hand_back(co, before, yield(PARK))
end

local function script_resume(co, ...)
  if parked[co] then return false, "cannot resume a coroutine that is parked" end
  if not passing[co] and type(co) == "thread" then passing[co] = true end
  local fiber = task.current()
  local before = fiber and fiber.scope
  if fiber and aside[co] then
    task.take_up(fiber, aside[co])
    aside[co] = nil
  end
  return pass(co, before, resume(co, ...))
end

local function unwrap(alive, first, ...)
  if alive then return first, ... end
  error(first, type(first) == "string" and 2 or 0)
end

local function script_wrap(fn)
  local co = create(fn)
  return function(...) return unwrap(script_resume(co, ...)) end
end

local function script_yield(...)
  local fiber = task.current()
  if fiber and fiber.co == running() then error(task.YIELDED, 2) end
  return yield(...)
end

-- A parked one is not the caller's to resume: to others it looks as one that resumed another.
local function script_status(co)
  return parked[co] and "normal" or status(co)
end

local M = {}

local before

-- Put these into the global coroutine table; M.restore() puts back what was there.
function M.install()
  before = { coroutine.resume, coroutine.wrap, coroutine.yield, coroutine.status }
  coroutine.resume, coroutine.wrap, coroutine.yield, coroutine.status = script_resume, script_wrap, script_yield, script_status
end

function M.restore()
  if not before then return end
  coroutine.resume, coroutine.wrap, coroutine.yield, coroutine.status = unpack(before)
  before = nil
end

return M
