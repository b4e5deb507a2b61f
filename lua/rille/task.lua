-- task: pooled coroutines that park instead of blocking.
--
-- A fiber is a coroutine with what is needed to park, wake and cancel it. One fiber at a time is the worker: it goes through the
-- inbox and calls the script's handlers itself, one after the other, so a handler that does not park costs no switch at
-- all and is compiled together with the loop around it. A handler that parks takes its fiber with it, another one becomes
-- the worker, and when the parked one has come to its end it goes back to the pool.
--
-- A fiber parks by yielding PARK. The script's own coroutines hand a park through to the fiber they run in (see
-- coroutine.lua), so parking works at any depth of Lua. What a user holds of rille.spawn is a Task; a fiber is never
-- shown, because it serves many calls.

local leaks = require "rille.leaks"
local misuse = require "rille.misuse"
local state = require "rille.state"

local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local isyieldable, running, status = coroutine.isyieldable, coroutine.running, coroutine.status
local traceback = debug.traceback

local POOL_MAX = 1024

local task = {}

local PARK, DONE = {}, {}
task.PARK = PARK

-- What a parked call of a cancelled task, or of one whose time is over, raises. rille.cancelled and rille.timeout.
local function signal(text)
  return setmetatable({}, { __tostring = function() return text end })
end
task.cancelled = signal("cancelled")
task.timeout = signal("timeout")

local current = nil        -- the fiber that runs
local worker = nil         -- the fiber that goes through the inbox
local pool, pooled = {}, 0
local fibers = {}          -- all that exist: what is parked stays, whoever forgets what it waits for, to cancel what is left at the end
local queue, first, last = {}, 1, 0 -- fibers to resume, oldest first
local held, holds = {}, false -- fibers that begin with task.release; whether those that are spawned now are among them
local over = false         -- task.cancelled once the run is at its end: nothing may park any more

-- Coroutines of the script that hand a park on, marked by coroutine.lua. In somebody's program others may be around: made, or
-- resumed, with functions it kept from before the run.
task.passing = setmetatable({}, { __mode = "k" })
task.is_host = false

-- Called with (fiber, error, traceback) when a fiber's function raised; script.lua sets it.
task.on_failure = nil
-- Called with what a fiber kept when that is over: the call it was given in, the fiber, or the run; mux.lua sets it.
task.let_go = nil

function task.current()
  return current
end

-- ---- running ---------------------------------------------------------------------------------------------------

local function new_fiber(main)
  local fiber = {
    co = create(main), parked = false, queued = false, fn = false, a = false, doom = over, undo = false,
    kept = false, -- what it was given to use until its end, see task.let_go
  }
  fibers[fiber] = true
  return fiber
end

-- The end of what a fiber keeps.
local function let_go(fiber)
  local kept = fiber.kept
  if not kept then return end
  fiber.kept = false
  task.let_go(kept)
end
task.drop_kept = let_go

local function retire(fiber)
  let_go(fiber)
  if not fiber.is_pooled then return end
  fiber.fn, fiber.a = false, false
  fiber.doom, fiber.cancelled = over, nil   -- what it was told was for the call that is over
  fiber.undo, fiber.undo_arg = false, false -- a pooled fiber keeps nothing alive: a lost connection is to be collected
  if pooled < POOL_MAX then
    pooled = pooled + 1
    pool[pooled] = fiber
  else
    fibers[fiber] = nil
  end
end

-- Whatever was raised, as text; its __tostring is a script's, and may raise or return anything.
local function text_of(err)
  local ok, text = pcall(tostring, err)
  if ok and type(text) == "string" then return text end
  return ("(error value: %s that cannot be shown)"):format(type(err))
end

local function failed(fiber, err)
  local trace
  if fiber.fault ~= nil and rawequal(fiber.fault, err) then
    trace = fiber.fault_trace -- taken where it was raised, before with_timeout passed it on
  else
    trace = traceback(fiber.co, text_of(err))
  end
  fiber.dead = true
  fibers[fiber] = nil
  let_go(fiber)
  task.on_failure(fiber, err, trace)
end

-- Resume a fiber: to start it with a function and its argument, or to end its park with (true, value...) or (false, error).
local function step(fiber, x, a, b)
  local before = current
  current = fiber
  local alive, what = resume(fiber.co, x, a, b)
  current = before
  if not alive then return failed(fiber, what) end
  if what == DONE then return retire(fiber) end
  if what == PARK then return end
  if status(fiber.co) == "suspended" then return failed(fiber, task.YIELDED) end
  fibers[fiber] = nil -- it has come to its end
  let_go(fiber)
end

-- Call fn(a, b) in the worker. When it parked, the caller is no longer the worker on return; see task.is_worker.
function task.call(fn, a, b)
  local fiber = current
  fiber.fn, fiber.a = fn, a
  return fn(a, b)
end

-- Whether the fiber that asks may take the next event.
function task.is_worker()
  return current == worker
end

-- A function that makes a closure is never compiled; this one is seldom called.
local function new_worker(go_through)
  local fiber = new_fiber(function()
    while true do
      go_through()
      yield(DONE)
    end
  end)
  fiber.is_pooled = true
  return fiber
end

-- Let workers go through the inbox until it is empty. go_through() takes events while it is the worker and there are any;
-- is_empty() says when there are none.
function task.run_inbox(go_through, is_empty)
  repeat
    local fiber = pool[pooled]
    if fiber then
      pool[pooled] = nil
      pooled = pooled - 1
    else
      fiber = new_worker(go_through)
    end
    worker = fiber
    step(fiber)
    worker = nil
  until is_empty()
end

-- End the park of a fiber at once; only from the dispatcher.
function task.resume(fiber, a, b)
  return step(fiber, true, a, b)
end

-- End the park of a fiber when its turn comes; from anywhere.
local function wake(fiber, ok, a)
  if fiber.queued then return end
  fiber.queued = true
  fiber.ok, fiber.value = ok, a
  last = last + 1
  queue[last] = fiber
end

function task.wake(fiber, value)
  return wake(fiber, true, value)
end

-- Run what is queued now; what these queue waits for the next turn. True when some is left.
function task.run_queue()
  local stop = last
  while first <= stop do
    local fiber = queue[first]
    queue[first] = nil
    first = first + 1
    fiber.queued = false
    if fiber.is_new then
      fiber.is_new = false
      if not fiber.is_dropped then step(fiber, fiber.a) end
    else
      local ok, value = fiber.ok, fiber.value
      fiber.value = nil
      step(fiber, ok, value)
    end
  end
  if first > last then
    first, last = 1, 0
    return false
  end
  return true
end

-- ---- parking ---------------------------------------------------------------------------------------------------

task.BOUNDARY = "cannot park here: a C function is between this call and its task (table.sort, string.gsub, require, "
  .. "a metamethod of the C library); move the call out of that callback"

task.YIELDED = "coroutine.yield outside a coroutine of the script's own: use rille.yield() to let others run"

local KEPT = "cannot park here: this coroutine was resumed by a coroutine.resume or coroutine.wrap that was kept from before "
  .. "rille.run; look them up when they are used"

-- Park the running fiber until somebody ends the park; returns what it was given.
-- undo(arg): takes back what was registered to end it, when the park ends by a raise or never begins.
function task.park(undo, arg)
  local fiber = current
  local err
  if not fiber then
    err = "cannot park outside a task: use rille.spawn, a handler, or `rille exec`"
  elseif fiber.doom then
    err = fiber.doom
  elseif not isyieldable() then
    err = task.BOUNDARY
  elseif task.is_host and running() ~= fiber.co and not task.passing[running()] then
    err = KEPT
  end
  if err then
    if undo then undo(arg) end
    if type(err) == "string" then misuse(err) end
    error(err, 0)
  end
  fiber.undo, fiber.undo_arg = undo, arg
  fiber.parked = true
  local ok, a, b = yield(PARK)
  fiber.parked = false
  if ok then return a, b end
  if type(a) == "string" then -- handed back by coroutine.lua: the park never reached the fiber
    if undo then undo(arg) end
    misuse(a)
  end
  error(a, 0)
end

-- Make every parking call of a fiber raise err, the present one included.
local function doom(fiber, err)
  fiber.doom = err
  if fiber.parked and not fiber.queued then
    local undo = fiber.undo
    if undo then
      fiber.undo = nil
      undo(fiber.undo_arg)
    end
    wake(fiber, false, err)
  end
end

-- The end of a run: everything that is still parked is cancelled, so that scripts can clean up, and nothing parks again.
function task.cancel_all()
  over = task.cancelled
  for fiber in pairs(fibers) do
    if not fiber.dead then doom(fiber, over) end
  end
end

-- Whether a fiber is in the middle of something: parked, or about to begin.
function task.is_waiting(fiber)
  return fiber.fn and not fiber.dead and not fiber.is_dropped and status(fiber.co) == "suspended"
end

-- A list of all those, for leak_report.lua.
function task.waiting()
  local list = {}
  for fiber in pairs(fibers) do
    if task.is_waiting(fiber) then list[#list + 1] = fiber end
  end
  return list
end

-- The run is over: what did not come to its end never will.
function task.reset()
  over = false
  for fiber in pairs(fibers) do let_go(fiber) end
  fibers = {}
  queue, first, last = {}, 1, 0
  pool, pooled = {}, 0
end

-- Call fn(...) where nothing may park, because the loop stands still meanwhile: true and its results, or false and a traceback. why: what
-- a parking call raises.
function task.call_still(why, fn, ...)
  local fiber = current
  local before = fiber.doom
  fiber.doom = why
  local function hand_back(...)
    fiber.doom = before
    return ...
  end
  return hand_back(xpcall(fn, function(err) return traceback(text_of(err), 2) end, ...))
end

-- Make whatever runs for this argument, a connection, and this fiber, which may be another's, raise where it is parked. True when there
-- was something.
function task.cancel_for(a, other)
  local found = false
  for fiber in pairs(fibers) do
    if (fiber.a == a or fiber == other) and not fiber.dead and fiber.parked then
      fiber.cancelled = true
      doom(fiber, task.cancelled)
      found = true
    end
  end
  return found
end

-- ---- rille.yield, with_timeout -----------------------------------------------------------------------------------

-- One turn for the others.
function task.yield()
  local fiber = current
  if fiber and not fiber.doom and isyieldable() then wake(fiber, true) end
  return task.park()
end

-- What the parking calls of a fiber have to raise inside scope: false when nothing.
local function enter_scope(fiber, scope)
  fiber.scope = scope
  local err = fiber.cancelled and task.cancelled or over
  while scope and not err do
    if scope.expired then err = task.timeout end
    scope = scope.outer
  end
  fiber.doom = err
end

local function leave(scope, ok, err, ...)
  scope:cancel()
  enter_scope(scope.fiber, scope.outer)
  if ok then return err, ... end
  if rawequal(err, task.timeout) and scope.expired then return nil, "timeout" end
  error(err, 0)
end

local function remember_fault(err)
  local fiber = current
  if fiber and err ~= task.timeout and err ~= task.cancelled and not rawequal(fiber.fault, err) then
    fiber.fault, fiber.fault_trace = err, traceback(text_of(err), 2)
  end
  return err
end
task.remember_fault = remember_fault

-- As xpcall. What fn raised, passed on by error(err, 0), is reported with the traceback of where that was.
function task.protect(fn, ...)
  local fiber = current
  if fiber and not fiber.scope then fiber.fault, fiber.fault_trace = nil, nil end
  return xpcall(fn, remember_fault, ...)
end

local Scope = {}
Scope.__index = Scope

function Scope:fire()
  self.id = nil
  self.expired = true
  if self.fiber then doom(self.fiber, task.timeout) end
end

function Scope:cancel()
  if self.id then task.stop_timer(self.id) end
  self.id = nil
end

-- A coroutine of the script yielded to its caller from inside with_timeout: its scopes, those inside `before`, wait with
-- it and strike nobody meanwhile. Returns them, for task.take_up when it is resumed, maybe by another task.
function task.set_aside(fiber, before)
  local inner = fiber.scope
  local scope = inner
  while true do
    scope.fiber = nil
    if scope.outer == before then break end
    scope = scope.outer
  end
  scope.outer = nil
  enter_scope(fiber, before)
  return inner
end

function task.take_up(fiber, inner)
  local scope = inner
  while true do
    scope.fiber = fiber
    if not scope.outer then break end
    scope = scope.outer
  end
  scope.outer = fiber.scope
  enter_scope(fiber, inner)
end

-- Run fn(...) for at most s seconds: its results, or nil, "timeout". At the end of the time the parked call inside fn
-- raises rille.timeout.
function task.with_timeout(s, fn, ...)
  local fiber = current
  if not fiber then misuse("rille.with_timeout needs a task: use rille.spawn, a handler, or `rille exec`") end
  if type(fn) ~= "function" then misuse("bad argument #2 to 'with_timeout' (function expected, got %s)", type(fn)) end
  local scope = setmetatable({ fiber = fiber, outer = fiber.scope, expired = false }, Scope)
  scope.id = task.start_timer(s, scope)
  if not fiber.scope then fiber.fault, fiber.fault_trace = nil, nil end
  fiber.scope = scope
  return leave(scope, xpcall(fn, remember_fault, ...))
end

-- ---- rille.spawn -----------------------------------------------------------------------------------------------

local Task = {}
Task.__index = Task

local function finish(self, ok, ...)
  self.fiber = nil
  self.done, self.ok = true, ok
  self.count = select("#", ...)
  self.results = { ... }
  local joiners = self.joiners
  if not joiners then return end
  self.joiners = nil
  for i = 1, #joiners do wake(joiners[i], true) end
end

local function run_spawned(self)
  local args = self.args
  self.args = nil
  finish(self, true, self.fn(unpack(args, 1, args.n)))
end
task.run_spawned = run_spawned

-- The error path of run_spawned, called by script.lua after it logged.
function task.spawn_failed(self, err)
  finish(self, false, err)
end

-- Run fn(a) in a fiber of its own when its turn comes; from anywhere.
local function start_later(fn, a)
  local fiber = new_fiber(fn)
  fiber.fn, fiber.a = fn, a
  fiber.queued, fiber.is_new = true, true
  last = last + 1
  queue[last] = fiber
  return fiber
end
task.start_later = start_later

-- Tasks that are spawned from now on start with task.release.
function task.hold()
  holds = true
end

-- Those that are spawned from here on start in their turn again.
function task.hold_no_more()
  holds = false
end

function task.release()
  local list = held
  held, holds = {}, false
  for _, fiber in ipairs(list) do
    fibers[fiber] = true
    last = last + 1
    queue[last] = fiber
  end
end

-- Run fn(...) in a task of its own; it starts when the caller parks or returns.
function task.spawn(fn, ...)
  if type(fn) ~= "function" then
    misuse("bad argument #1 to 'spawn' (function expected, got %s)", type(fn))
  end
  state.need_loop("spawn")
  local self = setmetatable({ fn = fn, args = { n = select("#", ...), ... }, done = false }, Task)
  self.fiber = start_later(run_spawned, self)
  if holds then
    queue[last] = nil
    last = last - 1
    held[#held + 1] = self.fiber
  end
  if leaks.on then leaks.made("task", self) end
  return self
end

local function forget_joiner(arg)
  local joiners = arg.task.joiners
  for i = 1, joiners and #joiners or 0 do
    if joiners[i] == arg.fiber then
      table.remove(joiners, i)
      return
    end
  end
end

-- Park until the task ends: its results, or nil and the error ("cancelled" for a cancelled one).
function Task:join()
  if self.fiber and self.fiber == current then misuse("a task cannot join itself") end
  while not self.done do
    self.joiners = self.joiners or {}
    self.joiners[#self.joiners + 1] = current
    task.park(forget_joiner, { task = self, fiber = current })
  end
  if self.ok then return unpack(self.results, 1, self.count) end
  local err = self.results[1]
  if rawequal(err, task.cancelled) or rawequal(err, task.timeout) then err = tostring(err) end
  return nil, err
end

-- Make the parked call of the task raise rille.cancelled, and each later one. A task that has not started never does.
function Task:cancel()
  local fiber = self.fiber
  if not fiber then return false end
  if fiber.is_new then
    fiber.is_dropped = true
    finish(self, false, task.cancelled)
    return true
  end
  fiber.cancelled = true
  doom(fiber, task.cancelled)
  return true
end

function Task:is_done()
  return self.done
end

return task
