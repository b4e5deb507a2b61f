-- errand: requests whose on_request runs on a worker, the loop's side. The request's own task waits for the job; what the worker writes or
-- asks for meanwhile is done by tasks that last as long as there is something to do. core/errand.c has the rest, job.lua is the
-- worker's side.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local log = require "rille.log"
local park_reader = require("rille.conn_read").park
local pool = require "rille.pool"
local state = require "rille.state"
local stream = require "rille.stream"
local task = require "rille.task"
local write_slow = require("rille.conn_write").slow

local text, code_of = errors.text, errors.code
local PARK, CLOSED = C.RILLE_PARK, C.RILLE_ERR_CLOSED
local FILE = C.RILLE_ERRAND_FILE
local INPUT = C.RILLE_STREAM_INPUT

local LIMIT = 256 * 1024 -- bytes of an answer that wait for the loop
local IDLE_MAX = 64      -- streams that are kept

local errand = {}

-- ---- while the job runs ----------------------------------------------------------------------------------------

local function forget(self)
  self.waiter = false
end

-- One of the tasks below is through: the request's may wait for that.
local function finish(self, ok, err)
  self.tasks = self.tasks - 1
  local waiter = self.waiter
  self.waiter = false
  if waiter then task.wake(waiter) end
  if not ok then error(err, 0) end
end

local function wait_for_tasks(self)
  while self.tasks > 0 do
    self.waiter = task.current()
    task.park(forget, self)
  end
end

-- What the worker wrote goes out. A code that tells why it does not.
local function pass(self, p)
  local code = C.rille_errand_pass(self.s, p)
  if code <= 0 then return code end
  local ok, err = write_slow(self.conn, code)
  return ok and 0 or code_of[err] or CLOSED
end

local function pass_all(self)
  if not self.s then return end
  repeat
    local p = self.conn._p
    local code = p and pass(self, p) or CLOSED
    if not self.s then return end -- the request was cancelled
    if code ~= 0 then return C.rille_stream_refuse(self.s, code) end
  until C.rille_stream_ready(self.s) == 0
end

local function on_output(self)
  local ok, err = pcall(pass_all, self)
  self.is_passing = false
  finish(self, ok, err)
end

local function feed(self, wish)
  local code
  repeat
    local p = self.conn._p
    if not p then return C.rille_errand_grant(self.s, CLOSED) end
    code = C.rille_errand_feed(self.s, p, wish)
    if code == PARK then park_reader(self.conn) end
  until code ~= PARK or not self.s
end

local function send_file(self)
  local p = self.conn._p
  if not p then return C.rille_errand_file_done(self.s, nil, CLOSED) end
  local code = C.rille_errand_set_head(self.s, p)
  if code == 0 then
    local kind = C.rille_errand_type(self.s)
    local options = kind ~= nil and { type = ffi.string(kind) } or nil
    local ok, err = self.res:file(ffi.string(C.rille_errand_path(self.s)), options)
    code = ok and 0 or code_of[err] or C.RILLE_ERR_ERROR
  end
  if self.s then C.rille_errand_file_done(self.s, self.conn._p or nil, code) end
end

local function grant(self)
  if not self.s then return end -- the request was cancelled
  local wish = C.rille_errand_wish(self.s)
  if wish == FILE then return send_file(self) end
  if wish ~= 0 then return feed(self, wish) end
end

local function on_wish(self)
  local ok, err = pcall(grant, self)
  if not ok and self.s then C.rille_errand_grant(self.s, C.RILLE_ERR_ERROR) end
  finish(self, ok, err)
end

-- Something is there for the loop to do.
local function on_event(self, side)
  if not self.conn then return end -- it was for the request before
  if side == INPUT then
    self.tasks = self.tasks + 1
    task.start_later(on_wish, self)
  elseif not self.is_passing then
    self.is_passing = true
    self.tasks = self.tasks + 1
    task.start_later(on_output, self)
  end
end

-- ---- afterwards ------------------------------------------------------------------------------------------------

-- No worker has seen the request.
local function refuse(conn, res, err)
  if err == "full" then
    res.status = 503
    res:header("Retry-After", 1)
    return res:send("503 Service Unavailable\n")
  end
  log.warn("%s: on_request of conn %d was not run: %s", state.label, conn.id, tostring(err))
  local p = conn._p
  if p then C.rille_http_failed(p, nil, 0) end
end

local function fail(self, p, trace)
  C.rille_state_count_error(state.handle)
  trace = state.is_dev and trace .. "\n" or nil
  pass(self, p) -- what was written before, if the head is out
  p = self.conn._p
  if p then C.rille_http_failed(p, trace, trace and #trace or 0) end
end

-- The handler has returned: the rest of its answer.
local function complete(self, how, ctx, trace)
  local conn = self.conn
  local p = conn._p
  if not p then return end
  if how == "error" then return fail(self, p, trace) end
  local code = C.rille_errand_pass(self.s, p)
  if code == 0 then code = C.rille_errand_set_head(self.s, p) end
  if code < 0 then return conn:close() end
  if ctx ~= nil then conn.ctx = ctx end
  if how == "abort" then return conn:abort() end
  if how then return conn:close() end
end

local function take(plan)
  local self = table.remove(plan.idle)
  if self then return self end
  self = stream.new(plan.pointer(), LIMIT)
  if not self then error("no memory for a stream", 0) end
  self.on_event, self.tasks, self.waiter, self.is_passing = on_event, 0, false, false
  return self
end

local function give(plan, self, conn)
  local p = conn._p
  if p then C.rille_errand_end(p) end
  self.conn, self.res = nil, nil
  if p and #plan.idle < IDLE_MAX then
    plan.idle[#plan.idle + 1] = self
  else
    self:close()
  end
end

local function run(self, conn, res, plan)
  local is_served, how, ctx, trace = pool.run(plan.pool(), "offload", self.s, "rille.http.job", "serve", plan.bytes, conn.id, conn:peer(),
    rawget(conn, "ctx"))
  wait_for_tasks(self)
  if is_served then return complete(self, how, ctx, trace) end
  return refuse(conn, res, how)
end

-- The on_request that stands in for the script's.
function errand.serve(req, res, plan)
  local conn = req[1]
  local self = take(plan)
  self.conn, self.res = conn, res
  local code = C.rille_errand_start(self.s, conn._p)
  if code < 0 then
    give(plan, self, conn)
    if code == C.RILLE_ERR_NO_MEMORY then error(text[-code], 0) end
    return -- the server has answered
  end
  local ok, err = pcall(run, self, conn, res, plan)
  if ok then return give(plan, self, conn) end
  if conn._p then C.rille_errand_end(conn._p) end
  self:close()
  error(err, 0)
end

return errand
