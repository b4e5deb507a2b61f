-- dispatch: works through the inbox of this state, once a turn. Each event resumes the fiber that waits for it or starts one of
-- the pool; the drivers below run in those fibers and are what calls the script.

local C = require "rille.core"
local balance = require "rille.balance"
local conn = require "rille.conn"
local take_moved = require("rille.conn_move").take
local conn_read = require "rille.conn_read"
local conn_tls = require "rille.conn_tls"
local conn_write = require "rille.conn_write"
local errors = require "rille.errors"
local generation = require "rille.generation"
local dial_event = require("rille.resolve").event
local receive_io = require("rille.io").receive
local receive_call = require("rille.pool").receive
local receive_post = require("rille.post").receive
local script = require "rille.script"
local stream_event = require("rille.stream").event
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local udp = require "rille.udp"
local udp_session = require "rille.udp_session"

local call = task.call
local is_worker = task.is_worker
local conn_at = conn.at
local resume_reader, resume_writers = conn_read.resume, conn_write.resume
local timer_event = timer.event
local serve_datagram = udp.serve
local run_inbox, run_queue = task.run_inbox, task.run_queue

local EVENT_REQUEST, EVENT_READ, EVENT_WRITE = C.RILLE_EVENT_REQUEST, C.RILLE_EVENT_READ, C.RILLE_EVENT_WRITE
local EVENT_WATCH, EVENT_OPEN, EVENT_IDLE = C.RILLE_EVENT_WATCH, C.RILLE_EVENT_OPEN, C.RILLE_EVENT_IDLE
local EVENT_DISCONNECT, EVENT_CLOSE = C.RILLE_EVENT_DISCONNECT, C.RILLE_EVENT_CLOSE
local EVENT_POST, EVENT_ACCEPT, EVENT_JOB = C.RILLE_EVENT_POST, C.RILLE_EVENT_ACCEPT, C.RILLE_EVENT_JOB
local EVENT_BALANCE = C.RILLE_EVENT_BALANCE
local EVENT_DATAGRAM, EVENT_SESSION, EVENT_UDP = C.RILLE_EVENT_DATAGRAM, C.RILLE_EVENT_SESSION, C.RILLE_EVENT_UDP
local EVENT_MOVE = C.RILLE_EVENT_MOVE
local EVENT_STREAM, EVENT_DIAL, EVENT_TLS = C.RILLE_EVENT_STREAM, C.RILLE_EVENT_DIAL, C.RILLE_EVENT_TLS
local EVENT_START, EVENT_STOP, EVENT_END = C.RILLE_EVENT_START, C.RILLE_EVENT_STOP, C.RILLE_EVENT_END
local EVENT_CONSOLE = C.RILLE_EVENT_CONSOLE
local EVENT_MIGRATE, EVENT_CHANGE, EVENT_RELOAD = C.RILLE_EVENT_MIGRATE, C.RILLE_EVENT_CHANGE, C.RILLE_EVENT_RELOAD

local dispatch = {
  on_start = nil, -- called in a fiber before the listeners accept; set by boot.lua
  on_accept = nil, -- called in a fiber when they do, on every loop of the server
  on_stop = nil,  -- called in a fiber when a shutdown begins
  on_note = nil,  -- called for each note about generations, where these are deployed
}

local function service_of(self)
  return state.services[C.rille_conn_service(self._p)]
end

-- ---- drivers ---------------------------------------------------------------------------------------------------

-- No loop here: one that mostly runs once would keep its caller from being compiled.
local function serve(self)
  local p = self._p
  if C.rille_conn_begin(p) == 0 then return end
  self._on_request(self)
  if C.rille_conn_done(p) == 1 then return serve(self) end
end

dispatch.serve = serve

script.on_error(serve, "on_request", function(self)
  if not rawget(self, "_leaves") then C.rille_conn_raise(self._p) end
  C.rille_conn_done(self._p)
end)

local function open(self)
  local service, p = service_of(self), self._p
  C.rille_conn_enter(p)
  if service.on_prepare then
    rawset(self, "_preparing", true)
    if service.on_prepare(self) == false or C.rille_conn_is_active(p) == 0 then return C.rille_conn_refuse(p) end
    rawset(self, "_preparing", nil)
    C.rille_conn_admit(p)
    if conn_tls.wait(self) ~= 0 then return self._p and C.rille_conn_refuse(self._p) end
  end
  if service.on_connect then service.on_connect(self) end
  C.rille_conn_opened(p)
end

script.on_error(open, "on_connect", function(self)
  local p = self._p
  C.rille_conn_raise(p)
  if rawget(self, "_preparing") then C.rille_conn_refuse(p) else C.rille_conn_opened(p) end
end)

-- A connection that came from another loop; on_request follows.
local function arrive(self, old_id)
  local hook = service_of(self).on_move
  C.rille_conn_enter(self._p)
  if hook then hook(self, old_id) end
  C.rille_conn_opened(self._p)
end

script.on_error(arrive, "on_move", function(self)
  C.rille_conn_raise(self._p)
  C.rille_conn_opened(self._p)
end)

local function receive_moved(slot)
  local ctx, old_id = take_moved()
  local self = conn_at(slot)
  if not self then return end
  if ctx ~= nil then self.ctx = ctx end
  return call(arrive, self, old_id)
end

local function disconnect(self)
  local hook = service_of(self).on_disconnect
  if hook then hook(self) end
  C.rille_conn_leave(self._p)
end

script.on_error(disconnect, "on_disconnect", function(self)
  C.rille_conn_raise(self._p)
  C.rille_conn_leave(self._p)
end)

local directions = { "read", "write" }

local function idle(self, which)
  local hook = service_of(self).on_idle
  if hook then hook(self, directions[which]) end
  C.rille_conn_idle_done(self._p)
end

script.on_error(idle, "on_idle", function(self)
  C.rille_conn_raise(self._p)
  C.rille_conn_idle_done(self._p)
end)

local function forget(self, err)
  local p = self._p
  conn.forget(self, err)
  C.rille_conn_free(p)
end

-- on_close functions, last added first, then the script's hook. One that raises does not keep the others from running.
local function run_closers(self, err)
  local closers = rawget(self, "_closers")
  while closers and #closers > 0 do table.remove(closers)(self, err) end
end

local function close(self)
  local err = self._end
  run_closers(self, err)
  local service = service_of(self)
  if service.on_close and not rawget(self, "_told") then
    self._told = true
    service.on_close(self, err)
    run_closers(self, err) -- which it may have added
  end
  forget(self, err)
end

script.on_error(close, "on_close", function(self) task.start_later(close, self) end)

-- ---- the inbox -------------------------------------------------------------------------------------------------

-- What workers have sent comes by one kind of event in one list: whose it is the job itself says.
local function receive_job()
  local job = C.rille_job_take(state.handle)
  if job == nil then return end
  return (C.rille_job_is_io(job) == 1 and receive_io or receive_call)(job)
end

local function rare_event(kind, slot, arg)
  if kind == EVENT_START then
    if dispatch.on_start then call(dispatch.on_start) end
    return
  elseif kind == EVENT_ACCEPT then
    if dispatch.on_accept then call(dispatch.on_accept) end
    return
  elseif kind == EVENT_STOP then
    if dispatch.on_stop then call(dispatch.on_stop) else C.rille_state_hooks_done(state.handle) end
    return
  elseif kind == EVENT_END then
    return task.cancel_all()
  elseif kind == EVENT_POST then
    return receive_post()
  elseif kind == EVENT_JOB then
    return receive_job()
  elseif kind == EVENT_BALANCE then
    return call(balance.decide, slot)
  elseif kind == EVENT_UDP then
    return udp.event(slot)
  elseif kind == EVENT_MOVE then
    return receive_moved(slot)
  elseif kind == EVENT_STREAM then
    return stream_event(slot, arg)
  elseif kind == EVENT_DIAL then
    return dial_event(slot)
  elseif kind == EVENT_TLS then
    return conn_tls.event(slot, arg)
  elseif kind == EVENT_CONSOLE then
    return require("rille.console").receive()
  elseif kind == EVENT_MIGRATE then
    return generation.migrate(slot, arg)
  elseif kind == EVENT_CHANGE then
    return call(generation.change, arg)
  elseif kind == EVENT_RELOAD then
    return dispatch.on_note()
  end
  local self = conn_at(slot)
  if not self then return end
  if kind == EVENT_OPEN then
    return call(open, self)
  elseif kind == EVENT_DISCONNECT then
    return call(disconnect, self)
  elseif kind == EVENT_IDLE then
    return call(idle, self, arg)
  elseif kind == EVENT_CLOSE then
    local err = arg ~= 0 and errors.text[-arg] or nil
    self._end = err
    return call(close, self)
  end
end

-- The next event as plain values: a reference to the struct that stood in a local of the loop below would be made into an
-- object at each resume.
local function take_event(inbox)
  local at = inbox.next
  inbox.next = at + 1
  local event = inbox.items[at]
  return event.kind, event.slot, event.arg
end

local function go_through()
  local inbox = state.inbox
  while inbox.next < inbox.count do
    local kind, slot, arg = take_event(inbox)
    if kind == EVENT_REQUEST then
      local self = conn_at(slot)
      if self then call(self._serve, self) end
    elseif kind == EVENT_READ then
      resume_reader(slot)
    elseif kind == EVENT_WATCH then
      state.place.conn = 0 -- a timer is no connection's; see core/stall.c
      timer_event(slot, arg)
    elseif kind == EVENT_WRITE then
      resume_writers(slot)
    elseif kind == EVENT_DATAGRAM then
      call(serve_datagram, slot)
    elseif kind == EVENT_SESSION then
      udp_session.event(slot, arg)
    else
      rare_event(kind, slot, arg)
    end
    if not is_worker() then return end
  end
end

local function is_empty()
  local inbox = state.inbox
  return inbox.next >= inbox.count
end

-- One call a turn. True when tasks are left that can run.
function dispatch.run()
  if not is_empty() then run_inbox(go_through, is_empty) end
  state.place.conn = 0
  return run_queue()
end

return dispatch
