-- worker: what runs in the Lua state of a pool's worker: one function, called for each job. There is no loop here, so what parks
-- raises "needs a running loop".

local ffi = require "ffi"

local C = require "rille.core"
require "rille.pairs" -- first: before what walks
local chunk = require "rille.chunk"
local log = require "rille.log"
local job_stream = require "rille.job_stream"
local leaks = require "rille.leaks"
local parcel = require "rille.parcel"
local vm = require "rille.vm"

local worker = {}

local handle -- rille_worker *

local function text_of(err)
  local ok, text = pcall(tostring, err)
  if ok and type(text) == "string" then return text end
  return ("(error value: %s that cannot be shown)"):format(type(err))
end

-- What went wrong, as it is packed: the error, a text that says more, whether a function raised it.
local function fault(err, message, is_raised)
  return { err = err, message = message, is_raised = is_raised or false }
end

-- A job that passed the limit of its Lua state's memory hears of it by an error of this text (core/heap.c).
local function on_raise(err)
  if type(err) == "string" and C.rille_worker_is_short(handle) == 1 and err:find("not enough memory (", 1, true) then
    return fault("no memory", debug.traceback(err, 2), true)
  end
  return fault(err, debug.traceback(text_of(err), 2), true)
end

local function find(name, key)
  local ok, module = xpcall(require, on_raise, name)
  if not ok then
    local why = type(module) == "table" and module or fault(module, text_of(module), true)
    local text = text_of(why.err)
    if text:find(("module '%s' not found:"):format(name), 1, true) then return nil, fault("not found", text) end
    return nil, why
  end
  local fn = type(module) == "table" and module[key]
  if type(fn) ~= "function" then return nil, fault("not found", ("module %s has no function '%s'"):format(name, key)) end
  return fn
end

-- Out of memory the state may be left with anything half done.
local function is_broken(err)
  return err == "not enough memory" or err == "error in error handling"
end

local function report(name, why)
  log.record("error", name, nil, "pool %s: %s failed: %s", worker.pool, name, text_of(why.message))
end

-- Pack what a job returned. Its arguments are given back before its caller hears of it, so the caller finds their blocks free.
local function answer(job, arguments, ok, ...)
  local why
  local output = C.rille_job_output(job)
  if ok then
    local packed, err, message = parcel.pack(output, "result", 1, true, ...)
    if not packed then why = fault(err, message) end
  else
    why = ...
    if type(why) ~= "table" then why = fault(why, text_of(why), true) end -- the message handler failed itself
  end
  if why and not parcel.pack(output, "error", 0, false, why.err, why.message, why.is_raised) then
    parcel.pack(output, "error", 0, false, text_of(why.err), why.message, why.is_raised)
  end
  local name = why and ffi.string(C.rille_job_name(job))
  job_stream.finish()
  C.rille_parcel_close(output) -- an argument may be among the results
  parcel.release(arguments)
  if C.rille_worker_answer(handle, why and 1 or 0) == 0 and why then report(name, why) end
  return why and is_broken(why.err)
end

local function run()
  local job = C.rille_worker_job(handle)
  local values = parcel.unpack(C.rille_job_input(job))
  local fn, why = find(values[1], values[2])
  if not fn then return answer(job, values, false, why) end
  local stream = C.rille_worker_stream(handle)
  if stream ~= nil then
    local input, output = job_stream.start(stream)
    return answer(job, values, xpcall(fn, on_raise, input, output, unpack(values, 3, values.n)))
  end
  return answer(job, values, xpcall(fn, on_raise, unpack(values, 3, values.n)))
end

-- What the C core runs once in a new state: the function above.
function worker.main(address, bytes)
  local plan = require("string.buffer").decode(bytes)
  handle = ffi.cast("rille_worker *", ffi.cast("uintptr_t", address))
  worker.pool = plan.pool
  C.rille_worker_set_library(handle, debug.getinfo(1, "S").source:match("^(.*/)worker%.lua$") or "")
  package.path, package.cpath = plan.path, plan.cpath
  if plan.chunks then chunk.install(plan.chunks) end
  log.set_context(plan.label, 0)
  leaks.begin()
  vm.seed()
  _G.print = vm.print_to_log
  return run
end

return worker
