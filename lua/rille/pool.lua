-- pool: rille.pool, calls that run on worker threads. A pool is the process's, known by its name; what scripts hold is an object of
-- this state that names it.

local ffi = require "ffi"

local C = require "rille.core"
local chunk = require "rille.chunk"
local errors = require "rille.errors"
local log = require "rille.log"
local luggage = require "rille.luggage"
local misuse = require "rille.misuse"
local parcel = require "rille.parcel"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local vm = require "rille.vm"
local next_token = require "rille.token"

local text = errors.text

local pool = {
  MEMORY_MIN = 4 * 2 ^ 20, -- what the library and a small module take, twice
}

local err_box = ffi.new("int[1]")
local seconds_box = ffi.new("double[1]")
local options_box = ffi.new("rille_pool_options")
local stats_box = ffi.new("rille_pool_stats")
local name_box = ffi.new("char[128]")

local cores = {}   -- by name: { name, p, on_error, and what its environment was made from }
local waiting = {} -- by token: the call that waits for a job
local last_token = 0

-- ---- pools -----------------------------------------------------------------------------------------------------

local Pool = {}
Pool.__index = Pool

local OPTIONS = {
  { name = "max", field = "max", min = 1, max = C.RILLE_POOL_WORKERS_MAX, whole = true },
  { name = "scale_threshold", field = "scale_threshold", min = 1, max = C.RILLE_POOL_QUEUE_MAX, whole = true },
  { name = "queue", field = "queue", min = 1, max = C.RILLE_POOL_QUEUE_MAX, whole = true },
  { name = "idle_timeout", field = "idle_ms", min = 0, max = 3.6e6, factor = 1000 },
  { name = "memory", field = "memory", min = 0, max = 2 ^ 40, whole = true },
}

local function check_number(where, option, value)
  if type(value) ~= "number" or not (value >= option.min and value <= option.max) or option.whole and value % 1 ~= 0 then
    misuse("%s %s: expected a %snumber from %.0f to %.0f, got %s", where, option.name, option.whole and "whole " or "", option.min,
      option.max, tostring(value))
  end
end

-- The options of rille.pool in the box for C; the on_error among them.
local function read_options(opts)
  local left = {}
  if opts ~= nil and type(opts) ~= "table" then misuse("bad argument #2 to 'pool' (table expected, got %s)", type(opts)) end
  for key in pairs(opts or left) do left[key] = true end
  for _, option in ipairs(OPTIONS) do
    local value = opts and opts[option.name]
    left[option.name] = nil
    if value ~= nil then check_number("rille.pool: option", option, value) end
    options_box[option.field] = value and value * (option.factor or 1) or -1
  end
  if options_box.memory > 0 and options_box.memory < pool.MEMORY_MIN then
    misuse("rille.pool: option memory: expected 0 or at least %d bytes, got %d", pool.MEMORY_MIN, opts.memory)
  end
  local on_error = opts and opts.on_error
  left.on_error = nil
  if on_error ~= nil and type(on_error) ~= "function" then
    misuse("rille.pool: option on_error: expected a function, got %s", type(on_error))
  end
  local unknown = next(left)
  if unknown ~= nil then
    misuse("rille.pool: there is no option '%s'; there are max, scale_threshold, queue, idle_timeout, memory, on_error", tostring(unknown))
  end
  return on_error
end

local function open(name)
  local p = C.rille_pool_open(name, options_box, err_box)
  if p ~= nil then return ffi.gc(p, C.rille_pool_release) end
  if err_box[0] == C.RILLE_ERR_INVALID then
    misuse("rille.pool: pool '%s' was made with other options; give them in one place, or the same everywhere", name)
  end
  misuse("rille.pool: cannot make pool '%s': %s", name, text[-err_box[0]])
end

-- The pool of that name ("default"), which is made when there is none. opts: max (workers; as many as processors),
-- scale_threshold (1: jobs that wait before another worker starts), queue (1024: jobs that wait), idle_timeout (60 s, after which a
-- worker ends), memory (1 GiB: bytes of a worker's Lua state, at least 4 MiB; 0: no limit),
-- on_error(err, traceback, "module.fn"), of this Lua state. Raises when the pool has other options.
function pool.get(name, opts)
  state.need_loop("pool")
  if name == nil then name = "default" end
  if type(name) ~= "string" or name == "" or #name > C.RILLE_POOL_NAME_MAX or name:find("[%c]") then
    misuse("bad argument #1 to 'pool' (a name of 1 to %d characters expected, got %s)", C.RILLE_POOL_NAME_MAX, tostring(name))
  end
  local core = cores[name]
  if core and opts == nil and core.p then return core.object end
  local on_error = read_options(opts)
  local p = open(name)
  if not core then
    core = { name = name }
    core.object = setmetatable({ _core = core }, Pool)
    cores[name] = core
  end
  core.p = p
  core.on_error = on_error or core.on_error
  return core.object
end

-- The C pool; that of an earlier run in this program is gone.
local function pointer_of(core, what)
  if core.p then return core.p end
  state.need_loop(what)
  read_options(nil)
  core.p = open(core.name)
  return core.p
end

pool.Pool, pool.pointer_of = Pool, pointer_of -- for stream.lua

-- The pools of a configuration, before any script is loaded.
function pool.make_all(conf)
  local all = { default = conf.workers }
  for name, one in pairs(conf.pools or {}) do all[name] = one end
  for name, one in pairs(all) do
    for _, option in ipairs(OPTIONS) do
      local value = one[option.name]
      options_box[option.field] = value and value * (option.factor or 1) or -1
    end
    local p = C.rille_pool_open(name, options_box, err_box)
    if p == nil then return nil, ("pool %s: %s"):format(name, text[-err_box[0]]) end
    C.rille_pool_release(p)
  end
  return true
end

-- Workers close the Lua states they made of it when nobody else has it.
local function leave_environment(core)
  if not core.environment then return end
  C.rille_environment_release(ffi.gc(core.environment, nil))
  core.environment, core.path, core.cpath = nil, nil, nil
end

-- What a worker makes its Lua state from: the paths of this one, as they are now.
local function environment_of(core, p)
  if core.path == package.path and core.cpath == package.cpath then return core.environment end
  local bytes = require("string.buffer").encode {
    path = package.path, cpath = package.cpath, label = state.label, generation = state.generation, pool = core.name,
    chunks = chunk.current,
  }
  local environment = C.rille_pool_environment(p, vm.source("rille.worker"), bytes, #bytes, chunk.current or 0, err_box)
  if environment == nil then return nil, text[-err_box[0]] end
  leave_environment(core)
  core.path, core.cpath, core.environment = package.path, package.cpath, ffi.gc(environment, C.rille_environment_release)
  return core.environment
end

-- ---- jobs ------------------------------------------------------------------------------------------------------

local function drop(job)
  C.rille_job_release(ffi.gc(job, nil))
end

-- A job in the queue, and its token. nil, err[, message].
local function submit(self, what, stream, module, fn, ...)
  local core = self._core
  local p = pointer_of(core, "pool")
  if type(module) ~= "string" then misuse("bad argument #1 to '%s' (a module's name expected, got %s)", what, type(module)) end
  if type(fn) ~= "string" then misuse("bad argument #2 to '%s' (a function's name expected, got %s)", what, type(fn)) end
  local environment, err = environment_of(core, p)
  if not environment then return nil, err end
  last_token = next_token(last_token, waiting)
  local token = last_token
  local job = C.rille_job_new(p, state.handle, environment, token, what == "post" and 1 or 0, module .. "." .. fn)
  if job == nil then return nil, "no memory" end
  ffi.gc(job, C.rille_job_release)
  if stream then C.rille_job_use_stream(job, stream) end
  local ok, message
  ok, err, message = parcel.pack(C.rille_job_input(job), "argument", 2, module, fn, ...)
  if ok then
    local code = C.rille_job_submit(job)
    if code == 0 then return job, token end
    err, message = text[-code], nil
  end
  drop(job)
  if err == "slice expired" then misuse("bad argument to '%s': %s", what, message) end
  return nil, err, message
end

local function abandon(entry)
  waiting[entry.token] = nil
  local job = entry.job
  if not job then return end
  entry.job = nil
  C.rille_job_abandon(job)
  drop(job)
end

-- What a job that is done gave: its results, or nil, err, message.
local function results_of(entry)
  local fault, values = entry.fault, entry.values
  if fault then return nil, fault, fault end
  if values[1] then return unpack(values, 2, values.n) end
  return nil, values[2], values[3]
end

-- Park until a job is done, or was not submitted at all.
local function call(self, fiber, job, token, message)
  if not job then return nil, token, message end
  local entry = { fiber = fiber, job = job, token = token }
  waiting[token] = entry
  local ok, err = timer.park(self._timeout, abandon, entry)
  if not ok then return nil, err end
  return results_of(entry)
end

-- The same with a stream (a rille_stream *), for stream.lua.
function pool.run(self, what, stream, module, fn, ...)
  return call(self, task.current(), submit(self, what, stream, module, fn, ...))
end

-- Call function fn of a module on a worker with the other arguments: plain data, slices, LinkBuffers (which are empty afterwards). Parks;
-- the results, or nil, err, message: what the function raised, with a traceback; "not found" (the module, or the function in it),
-- "invalid argument" (what cannot be sent), "full" (the queue), "timeout" (of with{ timeout = }), "closed", "shutdown", "no memory".
function Pool:call(module, fn, ...)
  local fiber = task.current()
  if not fiber then misuse("pool:call needs a task: use rille.spawn, a handler, or `rille exec`") end
  return call(self, fiber, submit(self, "call", nil, module, fn, ...))
end

-- The same without waiting, and without a result: true, or nil, err, message. An error goes to on_error, or the log.
function Pool:post(module, fn, ...)
  local job, err, message = submit(self, "post", nil, module, fn, ...)
  if not job then return nil, err, message end
  drop(job)
  return true
end

-- The same pool with a deadline for each call, in seconds.
function Pool:with(opts)
  local timeout = type(opts) == "table" and opts.timeout
  for key in pairs(type(opts) == "table" and opts or {}) do
    if key ~= "timeout" then misuse("pool:with: there is no option '%s'; there is timeout", tostring(key)) end
  end
  if type(timeout) ~= "number" or not (timeout >= 0) then
    misuse("bad argument #1 to 'with' ({ timeout = seconds } expected)")
  end
  return setmetatable({ _core = self._core, _timeout = timeout }, Pool)
end

-- At most max workers from now on: more begin when jobs wait, those beyond it end when they are idle. True, or nil, err.
function Pool:resize(max)
  check_number("pool:resize:", OPTIONS[1], max)
  local code = C.rille_pool_resize(pointer_of(self._core, "pool"), max)
  if code ~= 0 then return nil, text[-code] end
  return true
end

local function whole(value)
  return math.floor(value)
end

-- A new table: name, workers, max, busy, idle, queued, done, failed, abandoned, lost, states, and lost_jobs: for each lost worker { job =
-- "module.fn", seconds = }.
function Pool:stats()
  local p = pointer_of(self._core, "pool")
  C.rille_pool_stats_read(p, stats_box)
  local s = stats_box
  local out = {
    name = self._core.name, workers = whole(s.workers), max = whole(s.options.max), busy = whole(s.busy),
    idle = whole(math.max(0, s.workers - s.busy)), queued = whole(s.queued), done = whole(s.done), failed = whole(s.failed),
    abandoned = whole(s.abandoned), lost = whole(s.lost), states = whole(s.states), lost_jobs = {},
  }
  for i = 0, out.lost - 1 do
    local size = C.rille_pool_lost_job(p, i, name_box, 128, seconds_box)
    if size == 0 then break end
    out.lost_jobs[i + 1] = { job = ffi.string(name_box), seconds = seconds_box[0] }
  end
  return out
end

function Pool:__tostring()
  return ("pool %s"):format(self._core.name)
end

luggage.handle("pool", Pool, function(self) return { name = self._core.name, timeout = self._timeout } end, function(its)
  local found = pool.get(its.name)
  return its.timeout and found:with { timeout = its.timeout } or found
end)

-- ---- what comes back -------------------------------------------------------------------------------------------

local function tell(failure)
  failure.on_error(failure.err, failure.message, failure.name)
end
script.on_error(tell, "on_error of a pool", function() end)

-- A job that failed: on_error hears of it, else the log. What kept a call from being run at all is only its caller's business.
local function report(core, name, err, message)
  if core and core.on_error then
    task.start_later(tell, { on_error = core.on_error, err = err, message = message, name = name })
  else
    log.record("error", name, nil, "%s: pool %s: %s failed: %s", state.label, core and core.name or "?", name, tostring(message))
  end
end

-- A call is done, or any job failed; job is a reference.
function pool.receive(job)
  ffi.gc(job, C.rille_job_release)
  local token = C.rille_job_token(job)
  local fault = C.rille_job_fault(job)
  fault = fault ~= nil and ffi.string(fault)
  local values = not fault and parcel.unpack(C.rille_job_output(job))
  local entry = waiting[token]
  if entry then
    waiting[token] = nil
    drop(entry.job)
    entry.job, entry.fault, entry.values = nil, fault, values
    task.wake(entry.fiber, true)
  end
  if fault then
    report(cores[ffi.string(C.rille_job_pool(job))], ffi.string(C.rille_job_name(job)), fault, fault)
  elseif not values[1] and (values[4] or not entry) then
    report(cores[ffi.string(C.rille_job_pool(job))], ffi.string(C.rille_job_name(job)), values[2], values[3])
  end
  drop(job)
end

-- The state goes to another loop: nobody waits for what was called before.
function pool.settle()
  waiting = {}
end

-- The run is over, and its pools with it.
function pool.reset()
  waiting = {}
  for _, core in pairs(cores) do
    leave_environment(core)
    if core.p then C.rille_pool_release(ffi.gc(core.p, nil)) end
    core.p = nil
  end
end

return pool
