-- timer: spans of time and descriptors that tasks wait for, and the timers of rille.after and rille.every.
--
-- The clockwork is in C (core/watch.c). A token names what waits for an event of it: a fiber, or a table with fire().

local C = require "rille.core"
local errors = require "rille.errors"
local leaks = require "rille.leaks"
local misuse = require "rille.misuse"
local state = require "rille.state"
local task = require "rille.task"

local timer = {}

-- A token is the place of its entry plus the place's epoch, so that an event which was on its way when its token was given
-- up ends nobody else's wait.
local PLACES, EPOCHS = 2 ^ 20, 2 ^ 12
local entries, ids, tokens = {}, {}, {}
local free, free_count = {}, 0
local used = 0

local function start(fd, mask, ms, entry)
  local handle = state.handle
  if not handle then return nil, "no loop runs here" end
  local place
  if free_count > 0 then
    place = free[free_count]
    free_count = free_count - 1
  else
    used = used + 1
    place = used
    tokens[place] = place
  end
  local token = tokens[place]
  local id = C.rille_watch_start(handle, fd, mask, ms, token)
  if id < 0 then
    free_count = free_count + 1
    free[free_count] = place
    return nil, errors.text[-id]
  end
  entries[place], ids[place] = entry, id
  return token
end

-- The place of a token that is in use, nil for one of the past.
local function place_of(token)
  local place = token % PLACES
  if tokens[place] == token and entries[place] then return place end
end

local function forget(place)
  entries[place], ids[place] = false, false
  tokens[place] = (tokens[place] + PLACES) % (PLACES * EPOCHS)
  free_count = free_count + 1
  free[free_count] = place
end

local function stop(token)
  local place = place_of(token)
  if not place then return end
  C.rille_watch_stop(state.loop, ids[place])
  forget(place)
end

-- The loop is gone, and what waited with it. Tokens go on where they are.
function timer.reset()
  for place = 1, used do
    if entries[place] then forget(place) end
  end
end

local function seconds(s, what)
  if type(s) ~= "number" or s ~= s or s < 0 then
    misuse("bad argument to '%s' (seconds, 0 or more, expected, got %s)", what, tostring(s))
  end
  return s * 1000
end
timer.seconds = seconds

-- An event of core/watch.c; arg: 0 the time is over, else what the descriptor is ready for.
function timer.event(token, arg)
  local place = place_of(token)
  if not place then return end
  local entry = entries[place]
  forget(place)
  if entry.co then
    if not entry.queued then return task.resume(entry, arg) end
  else
    return entry:fire(arg)
  end
end

function task.start_timer(s, entry)
  local token, err = start(-1, 0, seconds(s, "with_timeout"), entry)
  if not token then misuse(err) end
  return token
end
task.stop_timer = stop

-- entry:fire() is called once, s seconds from now: a token for task.stop_timer; or nil, err.
function timer.start(s, entry)
  return start(-1, 0, s * 1000, entry)
end

-- Park the running task for s seconds.
function timer.sleep(s)
  local ms = seconds(s, "sleep")
  state.need_loop("sleep")
  local token, err = start(-1, 0, ms, task.current() or timer)
  if not token then misuse(err) end
  task.park(stop, token)
end

-- Park until woken, at most s seconds (nil: for ever). undo(arg) takes back the registration of who would wake it.
-- Returns the value given to task.wake, or nil, "timeout".
local function stop_both(arg)
  stop(arg.token)
  if arg.undo then arg.undo(arg.arg) end
end

function timer.park(s, undo, arg)
  local fiber = task.current()
  if not s or not fiber then return (task.park(undo, arg)) end -- which raises without a fiber
  local token, err
  if type(s) == "number" and s >= 0 then token, err = start(-1, 0, s * 1000, fiber) end
  if not token then
    if undo then undo(arg) end
    seconds(s, "timeout")
    misuse(err)
  end
  local result = task.park(stop_both, { token = token, undo = undo, arg = arg })
  if result == 0 then
    if undo then undo(arg) end
    return nil, "timeout"
  end
  stop(token)
  return result
end

-- Park until fd is readable ("r"), writable ("w") or either ("rw"); true, or nil, err.
function timer.wait(fd, mode, timeout)
  state.need_loop("wait")
  local mask = mode == "r" and 1 or mode == "w" and 2 or mode == "rw" and 3
  if type(fd) ~= "number" or fd % 1 ~= 0 or not mask then
    misuse("bad argument to 'wait' (a descriptor number and \"r\", \"w\" or \"rw\" expected)")
  end
  if fd < 0 then return nil, "invalid argument" end
  local ms = timeout and seconds(timeout, "wait") or 0
  if timeout and ms == 0 then ms = 1 end
  local token, err = start(fd, mask, ms, task.current() or timer)
  if not token then return nil, err end
  local ready = task.park(stop, token)
  if ready == 0 then return nil, "timeout" end
  return true
end

-- ---- rille.after, rille.every ----------------------------------------------------------------------------------

local Timer = {}
Timer.__index = Timer

-- While a generation is on its way in, or another one serves, timers do not run: a list of those that will.
local held, holds_all = nil, false

local function begin(self)
  if held and (holds_all or self.every) then
    held[#held + 1] = self
    return true
  end
  local token, err = start(-1, 0, self.ms, self)
  self.token = token
  return token, err
end

-- No timer fires from here on until timer.release; all: those of rille.after neither.
function timer.hold(all)
  held, holds_all = held or {}, all or false
  for place = 1, used do
    local entry = entries[place]
    if entry and entry.every and entry.token then
      stop(entry.token)
      entry.token = nil
      held[#held + 1] = entry
    end
  end
end

-- Those that were held never run; others do from here on.
function timer.drop()
  held, holds_all = nil, false
end

function timer.release()
  local list = held or {}
  held, holds_all = nil, false
  for _, self in ipairs(list) do
    if not self.is_cancelled then begin(self) end
  end
end

local function run(self)
  if self.is_cancelled then return end
  if self.pulse then self.ms = self.pulse end
  local s = self.fn()
  if self.pulse and s then self.ms = math.max(1, s * 1000) end
  if self.every and not self.is_cancelled and state.loop then begin(self) end
end
timer.run = run

function Timer:fire()
  self.token = nil
  return task.call(run, self)
end

-- No further call; one that runs goes on. True when there was one to come.
function Timer:cancel()
  local pending = not self.is_cancelled and (self.token ~= nil or self.every ~= nil)
  self.is_cancelled = true
  if self.token then stop(self.token) end
  self.token = nil
  return pending
end

local function make(name, s, fn, every)
  local ms = seconds(s, name)
  if type(fn) ~= "function" then
    misuse("bad argument #2 to '%s' (function expected, got %s)", name, type(fn))
  end
  if every and ms < 1 then ms = 1 end
  local self = setmetatable({ fn = fn, ms = ms, every = every and ms or nil, is_cancelled = false }, Timer)
  local ok, err = begin(self)
  if not ok then misuse(err) end
  if leaks.on then leaks.made("timer", self) end
  return self
end

-- visit(timer) for each that is to fire, for leak_report.lua.
function timer.each(visit)
  for place = 1, used do
    local entry = entries[place]
    if entry and getmetatable(entry) == Timer then visit(entry) end
  end
end

-- Call fn in a task of its own, once, s seconds from now.
function timer.after(s, fn)
  state.need_loop("after")
  return make("after", s, fn, false)
end

-- Call fn every s seconds; the next wait begins when fn has returned. An error in fn is logged and the timer goes on.
-- options: once_per_process = true: on the first loop alone; on the others it is a timer that never fires.
function timer.every(s, fn, options)
  state.need_loop("every")
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #3 to 'every' (a table expected, got %s)", type(options))
  end
  local self = make("every", s, fn, true)
  if options and options.once_per_process and state.loop_id ~= 1 then self:cancel() end
  return self
end

-- For the library: call fn soon, and then each time after as many seconds as it returned, or s.
function timer.pulse(s, fn)
  local self = make("pulse", 0, fn, true)
  self.pulse = math.max(1, s * 1000)
  return self
end

-- The error path of run, called by script.lua after it logged.
function timer.failed(self)
  if self.every and not self.is_cancelled then begin(self) end
end

return timer
