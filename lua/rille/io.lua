-- io: requests for what blocks, done in C by the workers of the pool "io" (core/io.h): rille.fs, the start of processes, names that are
-- looked up. A task parks until its request was answered.
--
-- A gate keeps the requests for one file in order: a semaphore of one permit, given back when the request is answered, not when
-- its task goes on. So a task that is cancelled leaves no request behind that runs beside the next one.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local semaphore = require "rille.semaphore"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local next_token = require "rille.token"

local text = errors.text

local M = { POOL = "io" }

local err_box = ffi.new("int[1]")

local pointer            -- the pool, as long as the run
local default_timeout
local waiting = {}       -- by token: requests that were not answered
local last_token = 0

-- ---- the pool --------------------------------------------------------------------------------------------------

local function options_of(conf)
  local options = ffi.new("rille_pool_options")
  options.max, options.queue = conf and conf.workers or -1, conf and conf.queue or -1
  options.scale_threshold, options.idle_ms, options.memory = conf and 1 or -1, -1, -1
  return options
end

-- Before the loops start: the pool, which the registry keeps to the end of the run. conf: `io` of a configuration.
function M.make(conf)
  local p = C.rille_pool_open(M.POOL, options_of(conf), err_box)
  if p ~= nil then C.rille_pool_release(p) end
end

function M.set_timeout(seconds)
  default_timeout = seconds
end

local function pool()
  if not pointer then
    local p = C.rille_pool_open(M.POOL, options_of(nil), err_box)
    if p == nil then return nil, text[-err_box[0]] end
    pointer = ffi.gc(p, C.rille_pool_release)
  end
  return pointer
end

-- The run is over. Requests that were never answered have lost their loop.
function M.reset()
  for _, entry in pairs(waiting) do
    if entry.job then C.rille_job_release(ffi.gc(entry.job, nil)) end
  end
  waiting = {}
  if pointer then C.rille_pool_release(ffi.gc(pointer, nil)) end
  pointer = nil
end

-- ---- time ------------------------------------------------------------------------------------------------------

-- When a call has to be over that may take so many seconds: nil is the configured time, 0 any time. nil: never.
function M.deadline(seconds, what)
  if seconds == nil then seconds = default_timeout or 0 end
  if seconds == 0 then return nil end
  timer.seconds(seconds, what)
  return C.rille_now() + seconds
end

local function left(deadline)
  return deadline and math.max(0, deadline - C.rille_now())
end

-- ---- requests --------------------------------------------------------------------------------------------------

local function drop(job)
  C.rille_job_release(ffi.gc(job, nil))
end
M.drop = drop

-- Nobody waits for it any more. One that runs is answered nevertheless, and only then the next one has its turn.
local function abandon(entry)
  local job = entry.job
  entry.fiber = nil
  if not job then return end
  if C.rille_job_abandon(job) == 1 then
    waiting[entry.token] = nil
    if entry.gate then entry.gate:release() end
  end
  entry.job = nil
  drop(job)
end

-- A request was answered; job is a reference.
function M.receive(job)
  local token = C.rille_job_token(job)
  C.rille_job_release(job) -- the entry has one of its own
  local entry = waiting[token]
  if not entry then return end
  waiting[token] = nil
  local fiber = entry.fiber
  if entry.gate and not (entry.keeps and fiber) then entry.gate:release() end
  if fiber then task.wake(fiber, true) end
end

local function failed(job, code)
  local message = ffi.string(C.rille_io_result_of(job).message)
  drop(job)
  return nil, text[-code], message ~= "" and message or text[-code]
end

-- Park until a request was answered that submit(pool, token, ...) sends. The job, for drop(); or nil, err, message. A gate has
-- been passed already and is given back, with keeps: only when the request failed.
local function await(deadline, gate, keeps, submit, ...)
  local p, err = pool()
  last_token = next_token(last_token, waiting)
  local token = last_token
  local job
  if p then
    job = submit(p, token, ...)
    if job == nil then err = text[-err_box[0]] end
  end
  if err then
    if gate then gate:release() end
    return nil, err, err
  end
  local entry = { fiber = task.current(), job = ffi.gc(job, C.rille_job_release), token = token, gate = gate, keeps = keeps }
  waiting[token] = entry
  local ok
  ok, err = timer.park(left(deadline), abandon, entry)
  if not ok then return nil, err, "it took longer than allowed" end
  local code = C.rille_io_result_of(job).err
  if code == 0 then return job end
  if gate and keeps then gate:release() end
  return failed(job, code)
end

local function need_task(what)
  state.need_loop(what)
  if not task.current() then misuse("%s needs a task: use rille.spawn, a handler, or `rille exec`", what) end
end
M.need_task = need_task

local function submit_io(p, token, op, file, path, other, a, b, buffer)
  if buffer then ffi.gc(buffer, nil) end
  return C.rille_io_submit(p, state.handle, token, op, file, path, other, a, b, buffer, err_box)
end

-- A request without a file. The job, or nil, err, message.
function M.call(deadline, op, path, other, a, b)
  return await(deadline, nil, false, submit_io, op, nil, path, other, a or 0, b or 0, nil)
end

-- One for a file whose gate was passed.
function M.call_file(deadline, gate, keeps, op, file, a, b, buffer)
  return await(deadline, gate, keeps, submit_io, op, file, nil, nil, a or 0, b or 0, buffer)
end

local function submit_spawn(p, token, options)
  return C.rille_process_spawn(p, state.handle, token, options, err_box)
end

function M.spawn(deadline, options)
  return await(deadline, nil, false, submit_spawn, options)
end

function M.new_gate()
  return semaphore(1)
end

-- True, or nil, err, message.
function M.pass(deadline, gate)
  local ok, err = gate:acquire(left(deadline))
  if ok then return true end
  return nil, err, "others were at it for longer than allowed"
end

return M
