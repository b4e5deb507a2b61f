-- boot: makes a Lua state part of a loop. A state of its own (rille run) gets everything: path, print, seed, the script,
-- its listeners. The state of somebody's program (rille.run, rille exec) is attached and later left as it was.

local ffi = require "ffi"

local C = require "rille.core"
require "rille.pairs" -- first: before what walks
local balance = require "rille.balance"
local bridges = require "rille.bridge"
local chunk = require "rille.chunk"
local codecs = require "rille.codec"
local concurrency = require "rille.concurrency"
local conn = require "rille.conn"
local coroutines = require "rille.coroutine"
local dial = require "rille.dial"
local dict = require "rille.dict"
local dispatch = require "rille.dispatch"
local leaks = require "rille.leaks"
local listener = require "rille.listener"
local log = require "rille.log"
local mux = require "rille.mux"
local loop_face = require "rille.loop"
local offload = require "rille.offload"
local pool = require "rille.pool"
local process = require "rille.process"
local requests = require "rille.io"
local resolve = require "rille.resolve"
local scheme = require "rille.config.scheme"
local script = require "rille.script"
local state = require "rille.state"
local stores = require "rille.store"
local stream = require "rille.stream"
local task = require "rille.task"
local timer = require "rille.timer"
local topic = require "rille.topic"
local udp = require "rille.udp"
local udp_session = require "rille.udp_session"
local upstream = require "rille.upstream"
local vm = require "rille.vm"

local boot = {}

local function as_number(pointer)
  return tonumber(ffi.cast("uintptr_t", pointer))
end
boot.as_number = as_number

-- From here on this Lua state runs tasks of loop. plan: { label, generation, loop_id, loop_count }.
function boot.attach(loop, handle, plan)
  state.loop, state.handle = loop, handle
  state.inbox, state.clock, state.place = C.rille_state_inbox(handle), C.rille_loop_clock(loop), C.rille_loop_place(loop)
  state.label, state.generation = plan.label, plan.generation
  state.loop_id, state.loop_count = plan.loop_id, plan.loop_count
  state.services = {}
  state.shutdown_hooks = {}
  task.is_host = plan.is_host or false
  -- Connections that a script makes itself (pair, adopt): no hooks, no time-outs but linger.
  state.is_dev = plan.is_dev or false
  state.default_service = listener.service({}, { timeouts = { linger = plan.linger or 2 }, limits = plan.limits })
  requests.set_timeout(plan.io_timeout)
  resolve.set_defaults(plan.dns)
  dial.set_defaults(plan.dial)
  dict.set_defaults(plan.dicts)
  topic.set_defaults(plan.topics)
  log.set_context(plan.label, plan.loop_id)
  leaks.begin()
  coroutines.install()
end

function boot.detach()
  coroutines.restore()
  pool.reset()
  stream.reset()
  requests.reset()
  process.reset()
  resolve.reset()
  dial.reset()
  upstream.reset()
  stores.reset()
  bridges.reset()
  task.reset()
  timer.reset()
  concurrency.reset()
  mux.reset()
  conn.reset()
  udp.reset()
  udp_session.reset()
  leaks.reset()
  log.set_context(nil, 0)
  state.loop, state.handle, state.inbox, state.clock, state.place = nil, nil, nil, nil, nil
  state.script, state.services, state.default_service = nil, {}, nil
  dispatch.on_start, dispatch.on_accept, dispatch.on_stop = nil, nil, nil
end

-- ---- servers ---------------------------------------------------------------------------------------------------

-- Bring up the services and listeners of one server. Its hooks and listeners, or nil, message.
-- number: its own among those of the configuration. groups: the numbers of its addresses, which the loops of a team share.
function boot.serve(server, hooks, number, groups)
  local problem = balance.problem(server, hooks)
  if problem then return nil, problem end
  local listeners, services = {}, {}
  for i, url in ipairs(server.listen) do
    local ok, l, _, message = pcall(listener.open, services, hooks, url, server, groups and groups[i], number)
    if not ok then l, message = nil, tostring(l) end
    if not l then
      for k = 1, i - 1 do listener.give_up(listeners[k], groups) end
      return nil, message
    end
    listeners[i] = l
  end
  return listeners
end

local function addresses_of(listeners)
  local list = {}
  for i, l in ipairs(listeners) do list[i] = l:address() end
  return list
end

-- What on_start gets: the listeners themselves stay the server's.
local function views_of(listeners)
  local list = {}
  for i, l in ipairs(listeners) do list[i] = listener.view(l) end
  return list
end

-- It does not come up, and says why to whoever sent it. What it has begun does not go on.
local function refuse(message)
  task.cancel_all()
  if C.rille_state_is_incoming(state.handle) == 1 then C.rille_state_explain(state.handle, message, #message)
  else log.error("%s", message) end
  C.rille_state_refuse_start(state.handle)
end

local function start_failed(message)
  if C.rille_state_is_incoming(state.handle) == 1 then return refuse(message) end
  log.error("%s", message)
  C.rille_state_refuse_start(state.handle)
end

-- Whether its on_stage lets a script serve that was not staged: the first one, and one that takes the place of a state that failed.
local function is_ready(one)
  if not one.stage_timeout or not one.hooks.on_stage then return true end
  local ok, message = require("rille.reload.probe").run({ on_stage = one.hooks.on_stage }, one.stage_timeout)
  if not ok then start_failed(("%s: not starting: %s"):format(state.label, message)) end
  return ok
end

-- The START event: on_stage and on_start of every server, then the loop may accept.
-- served: { { hooks =, listeners =, stage_timeout = (nil: it has been staged) } ... }; opened(addresses) is called when it does.
function boot.start_with(served, opened)
  local all = {}
  local function on_start()
    for _, one in ipairs(served) do
      if not is_ready(one) then return end
      local addresses = addresses_of(one.listeners)
      for _, address in ipairs(addresses) do all[#all + 1] = address end
      if one.hooks.on_start then
        local go = one.hooks.on_start {
          addresses = addresses, listeners = views_of(one.listeners), loop = state.loop_id, loops = state.loop_count,
          label = state.label, process = loop_face.process, processes = loop_face.processes,
        }
        if go == false then return start_failed(("%s: on_start returned false: not starting"):format(state.label)) end
      end
    end
    C.rille_state_started(state.handle)
  end
  script.on_error(on_start, "on_start", function() start_failed(state.label .. ": on_start failed: not starting") end)
  dispatch.on_start = on_start
  dispatch.on_accept = opened and function() opened(all) end
  dispatch.on_stop = boot.run_shutdown_hooks
end

function boot.run_shutdown_hooks()
  local hooks = state.shutdown_hooks
  while #hooks > 0 do table.remove(hooks)() end
  C.rille_state_hooks_done(state.handle)
end
-- One hook that fails does not keep the others from running.
script.on_error(boot.run_shutdown_hooks, "on_shutdown", function() task.start_later(boot.run_shutdown_hooks) end)

-- What is done when the loop accepts: the addresses go to the log, the lines of the banner to stderr as they are.
function boot.announcer(banner)
  return function(addresses)
    for _, address in ipairs(addresses) do log.info("listening on %s", address) end
    for _, line in ipairs(banner or {}) do io.stderr:write(line, "\n") end
    C.rille_given_warn()
  end
end

-- The same in one of several processes, whose parent names the addresses.
function boot.announcer_of_child()
  C.rille_given_warn()
end

-- ---- a state on its way to a loop that serves ---------------------------------------------------------------------

-- It was built for a loop of the staging thread's; here is the one it is for.
local function settle()
  local handle = state.handle
  local loop = C.rille_state_loop(handle)
  pool.settle()
  state.loop, state.inbox = loop, C.rille_state_inbox(handle)
  state.clock, state.place = C.rille_loop_clock(loop), C.rille_loop_place(loop)
  state.is_staged = false
end

-- What a state that takes over does first: its listeners, what its script has begun, on_start.
local function arrive(one)
  local plan, hooks = one.plan, one.hooks
  local listeners, message = boot.serve(plan.server, hooks, plan.number, plan.groups)
  local ok = listeners
  if ok then ok, message = listener.open_staged() end
  if ok then ok, message = udp.open_staged() end
  if not ok then return refuse(message) end
  boot.start_with({ { hooks = hooks, listeners = listeners } }, nil)
  timer.release()
  task.release()
  dispatch.on_start()
end
script.on_error(arrive, "on_start", function(_, _, trace) refuse(("%s: on_start failed: %s"):format(state.label, trace)) end)

-- The hooks that the staging thread calls, on a loop of its own: on_stage, and of a state that is thrown away afterwards selftest.
local function try_hooks(plan, hooks)
  local probe = require "rille.reload.probe"
  local ok, message = probe.run(plan.is_probe and hooks or { on_stage = hooks.on_stage },
    math.max(0, plan.hooks_until - C.rille_now()))
  if not ok then C.rille_state_explain(state.handle, message, #message) end
  C.rille_loop_exit(state.loop, ok and 0 or 1)
end

-- What it needs on its loop is loaded before it is there.
local function load_all(server)
  for _, url in ipairs(server.listen) do
    if scheme.split(url, server.protocol) == "http" then require "rille.http.serve" end
  end
  require("rille.reload.calls").look_up()
end

-- What a state does first when it is staged.
local function stage(plan, hooks)
  load_all(plan.server)
  dispatch.on_start = function()
    local has_arrived = C.rille_state_is_incoming(state.handle) == 1 or C.rille_state_is_renewed(state.handle) == 1
    if not has_arrived then return try_hooks(plan, hooks) end
    settle()
    task.start_later(arrive, { plan = plan, hooks = hooks })
  end
end

-- ---- a state of its own ----------------------------------------------------------------------------------------

-- require looks in the script's folder first.
function boot.look_beside(path)
  local folder = path:match("^(.*/)[^/]*$") or "./"
  package.path = folder .. "?.lua;" .. folder .. "?/init.lua;" .. package.path
  package.cpath = folder .. "?.so;" .. package.cpath
end

-- What rille_state_new runs: the dispatcher, or nil and a message. Addresses come as numbers.
function boot.main(loop_address, state_address, bytes)
  local plan = require("string.buffer").decode(bytes)
  local loop = ffi.cast("rille_loop *", ffi.cast("uintptr_t", loop_address))
  local handle = ffi.cast("rille_state *", ffi.cast("uintptr_t", state_address))
  package.path, package.cpath = plan.path, plan.cpath
  if plan.chunks then chunk.install(plan.chunks) end
  C.rille_state_set_library(handle, debug.getinfo(1, "S").source:match("^(.*/)boot%.lua$") or "")
  boot.attach(loop, handle, plan)
  vm.seed()
  _G.print = vm.print_to_log
  local path, message = script.find(plan.server.script)
  if not path then return nil, message end
  boot.look_beside(path)
  if C.rille_state_is_renewed(handle) == 1 then plan.is_staged = false end -- it takes the place of one that has been through that
  if plan.is_staged then
    state.is_staged = true
    timer.hold(true)
    task.hold()
  end
  local hooks, value = script.load(path, plan.server.options)
  task.hold_no_more()
  if plan.is_probe then timer.drop() end
  if not hooks then return nil, value end
  vm.watch_globals()
  state.script = hooks
  if hooks.on_migrate then C.rille_state_set_migrates(handle) end
  C.rille_state_set_wish(handle, (hooks.on_stage and C.RILLE_WISH_STAGE or 0) + (hooks.selftest and C.RILLE_WISH_SELFTEST or 0))
  local codec = plan.server.codec
  if plan.server.offload then
    hooks = offload.wrap(hooks, plan.server, path)
    codec, plan.server.codec = nil, nil
  end
  if codec then
    local resolved, why = codecs.resolve(codec)
    if not resolved then return nil, why end
    plan.server.codec = resolved
  end
  if plan.is_staged then
    stage(plan, hooks)
    return dispatch.run
  end
  local listeners, why = boot.serve(plan.server, hooks, plan.number, plan.groups)
  if not listeners then return nil, why end
  -- the others have the same addresses, and so has a state that replaces one
  local is_first = plan.loop_id == 1 and C.rille_state_is_renewed(handle) == 0
  local announce = is_first and (C.rille_process_number() == 0 and boot.announcer(plan.banner) or boot.announcer_of_child)
  boot.start_with({ { hooks = hooks, listeners = listeners, stage_timeout = plan.stage_timeout } }, announce or nil)
  return dispatch.run
end

conn.log_bad_frame = function(self, err)
  log.warn("%s: conn %d sent a bad frame: %s", state.label, self.id, err)
end

return boot
