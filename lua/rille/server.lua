-- server: brings up a checked configuration and runs it to its end: `rille run` with Lua states of their own, rille.run inside
-- somebody's program.

local ffi = require "ffi"

local C = require "rille.core"
local address_groups = require "rille.reload.groups"
local boot = require "rille.boot"
local dict = require "rille.dict"
local dispatch = require "rille.dispatch"
local errors = require "rille.errors"
local leaks = require "rille.leaks"
local log = require "rille.log"
local names = require "rille.config.names"
local prefork = require "rille.prefork"
local offload = require "rille.offload"
local plan = require "rille.plan"
local pool = require "rille.pool"
local reload = require "rille.reload"
local requests = require "rille.io"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"
local vm = require "rille.vm"

local server = {}

local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", 4096)

local function set_up(loop, conf)
  C.rille_loop_set_drain(loop, conf.drain_timeout * 1000)
  C.rille_loop_set_budget(loop, conf.limits.turn_time * 1000)
  C.rille_loop_set_pipes(loop, conf.limits.pipes)
end

local CPUS_MAX = 1024

-- The processors that the loops are pinned to, a list of numbers. nil: they are not. nil, message.
local function cpus_of(conf)
  if not conf.pin then return nil end
  local box, usable = ffi.new("int[?]", CPUS_MAX), {}
  for i = 1, C.rille_cpu_list(box, CPUS_MAX) do usable[i] = box[i - 1] end
  if conf.pin == true then return usable end
  for i, cpu in ipairs(conf.pin) do
    local found = false
    for _, one in ipairs(usable) do found = found or one == cpu end
    if not found then
      return nil, ("pin[%d]: processor %d is none that this process may use: those are %s"):format(i, cpu, table.concat(usable, ", "))
    end
  end
  return conf.pin
end

local function pin(loop, id, cpus)
  if cpus and #cpus > 0 then C.rille_loop_pin(loop, cpus[(id - 1) % #cpus + 1]) end
end

local function new_loop(conf)
  local cpus, problem = cpus_of(conf)
  if problem then return nil, problem end
  local loop = C.rille_loop_new(1, err_box)
  if loop == nil then return nil, ("cannot make a loop: %s"):format(errors.text[-err_box[0]]) end
  set_up(loop, conf)
  pin(loop, 1, cpus)
  return loop
end

-- log.to of a program: lines are kept and handed to that function, from the thread that runs its Lua.
local function configure_log(conf)
  local l = conf.log
  local ok, err = log.configure { level = l.level, format = l.format, file = l.file, to = l.to and "queue" or nil }
  if not ok then return nil, ("log.file %s: %s"):format(tostring(l.file), err) end
  return true
end

local PROCESS_PATIENCE_MS = 2000

-- The loops are over: the workers of every pool have so long to come back, then the processes that scripts have started.
local function stop_pools()
  C.rille_pools_stop()
  C.rille_processes_stop(PROCESS_PATIENCE_MS)
end

-- What all loops share, before there is one. True, or nil, message.
local function make_shared(conf)
  C.rille_processes_limit(conf.limits.processes)
  C.rille_pools_set_patience(conf.workers_timeout * 1000)
  C.rille_binding_set_max(conf.limits.bindings)
  requests.make(conf.io)
  leaks.configure(conf.debug)
  C.rille_loops_time_work(conf.debug.turns and 1 or 0)
  return dict.make_all(conf.dicts)
end

-- For people, so not between records for machines.
local function banner_of(conf)
  return conf.log.format ~= "json" and conf.banner or nil
end

local function release(generations)
  for _, g in ipairs(generations) do C.rille_generation_release(g) end
end

-- The first generation of each server. A list, or nil, message.
local function make_generations(conf)
  local list = {}
  for i, one in ipairs(conf.servers) do
    local g = C.rille_generation_new(i, 1, names.of(one) .. "@1", err_box)
    if g == nil then
      release(list)
      return nil, ("too many servers: no room for the Lua states of number %d"):format(i)
    end
    list[i] = g
  end
  return list
end

-- The states of one loop, a server each; wishes gets what their hooks want (enum rille_wish). True, or nil, message.
local function build_states(loop, loop_id, conf, generations, groups, main, wishes)
  for i, one in ipairs(conf.servers) do
    if not one.only_loop or one.only_loop == loop_id then
      local its = plan.of(conf, one, i, 1, generations[i], groups[i])
      its.loop_id = loop_id
      its.banner = loop_id == 1 and i == #conf.servers and banner_of(conf) or nil
      local bytes = require("string.buffer").encode(its)
      local handle = C.rille_state_new(loop, generations[i], one.limits.memory, vm.source(main), bytes, #bytes, message_box, 4096)
      if handle == nil then return nil, ffi.string(message_box) end
      wishes[i] = C.rille_state_wish(handle)
    end
  end
  return true
end

-- Every state of every loop built and proven, its listeners bound but not accepting. The team, the generations and, of each server, what
-- its hooks want; or nil, message: nothing is left then. groups: the numbers of the addresses of each server. main: the module that makes
-- a state of its own; nil: boot.lua.
function server.build(conf, groups, main)
  local made, why = make_shared(conf)
  if made then made, why = pool.make_all(conf) end
  if not made then return nil, why end
  local cpus, problem = cpus_of(conf)
  if problem then return nil, problem end
  local generations
  generations, problem = make_generations(conf)
  if not generations then return nil, problem end
  local team = C.rille_team_new(conf.loops, err_box)
  if team == nil then release(generations) end
  if team == nil then return nil, ("cannot make %d loops: %s"):format(conf.loops, errors.text[-err_box[0]]) end
  local wishes = {}
  for id = 1, conf.loops do
    local loop = C.rille_team_loop(team, id)
    set_up(loop, conf)
    pin(loop, id, cpus)
    local ok, message = build_states(loop, id, conf, generations, groups, main or "rille.boot", wishes)
    if not ok then
      release(generations)
      stop_pools() -- a script may use one before another raises
      C.rille_team_free(team)
      return nil, message
    end
  end
  return team, generations, wishes
end

-- The selftest of each server that has one, in a state that serves nobody. True, or nil, message.
local function pass_selftests(conf, generations, groups, wishes)
  for i, one in ipairs(conf.servers) do
    if wishes[i] >= C.RILLE_WISH_SELFTEST then
      local its = plan.of(conf, one, i, 1, generations[i], groups[i])
      its.is_staged, its.hooks_until = true, C.rille_now() + its.stage_timeout
      local ok, message = require("rille.reload.stage").probe(generations[i], its)
      if not ok then return nil, ("%s: %s"):format(its.label, message) end
    end
  end
  return true
end

-- For `rille check`: the scripts loaded, then their on_stage and selftest run on a loop. The exit status, or nil, message.
-- loaded() and over() are called before the loop runs and behind.
function server.rehearse(conf, loaded, over)
  local team, generations = server.build(conf, address_groups.first(conf.servers), "rille.cli.rehearse")
  if not team then return nil, generations end
  release(generations)
  loaded()
  local status = C.rille_team_run(team)
  over()
  stop_pools()
  C.rille_team_free(team)
  return status
end

-- ---- watching it -----------------------------------------------------------------------------------------------

-- The configuration with one more server, behind the others, where `metrics.listen` asks for it. It is a server of loop 1, as it does
-- next to nothing, and says until the end how the process is. here: in this Lua state.
local function with_monitor(conf, here)
  local listen = conf.metrics.listen
  if not listen then return conf end
  local checked = assert(require("rille.config").server({ protocol = "http", accept = "shared" }, "metrics"))
  checked.listen, checked.script, checked.options = listen, here and require "rille.monitor" or "rille.monitor", {}
  checked.only_loop, checked.stays, checked.is_monitor = 1, true, true
  local servers = { unpack(conf.servers) }
  servers[#servers + 1] = checked
  return setmetatable({ servers = servers }, { __index = conf })
end

-- Where this process is to be asked: each of several has a socket of its own.
local function control_path(conf)
  local path, number = conf.control.path, C.rille_process_number()
  return path and number > 0 and ("%s.%d"):format(path, number) or path
end

-- The thread for signals and the control socket. True, or nil, message.
local function start_control(conf, is_served)
  local code = C.rille_control_start()
  if code ~= 0 then return nil, ("cannot start the control thread: %s"):format(errors.text[-code]) end
  C.rille_control_describe(conf.file or "")
  C.rille_control_set_stall(conf.stall_after * 1000)
  C.rille_metric_limit(conf.metrics.max, conf.metrics.series)
  local control = conf.control
  if not is_served or not control.enabled then return true end
  if C.rille_control_listen(control_path(conf), message_box, 4096) == 0 then return true end
  if not control.path then -- nobody asked for it by name
    log.warn("%s: `rille status` will not find this server", ffi.string(message_box))
    return true
  end
  C.rille_control_stop()
  return nil, ffi.string(message_box)
end

-- Run the loops of this process until a signal or rille.shutdown ends them. The exit status, or nil, message when it did not start.
local function serve(conf)
  local started, problem = start_control(conf, true)
  if not started then return nil, problem end
  local groups = address_groups.first(conf.servers)
  local team, generations, wishes = server.build(conf, groups)
  if not team then
    C.rille_control_stop()
    return nil, generations
  end
  local ok, message = pass_selftests(conf, generations, groups, wishes)
  if not ok then
    release(generations)
    stop_pools()
    C.rille_team_free(team)
    C.rille_control_stop()
    return nil, message
  end
  C.rille_process_built()
  local deployer, problem_of_it = reload.start(conf, team, generations, groups)
  release(generations)
  if not deployer then log.error("%s", problem_of_it) end
  local status = C.rille_team_run(team)
  if deployer then reload.stop(deployer) end
  stop_pools()
  C.rille_team_free(team)
  C.rille_control_stop()
  if status < 0 then return nil, ("cannot start a loop thread: %s"):format(errors.text[-status]) end
  server.say_goodbye()
  return status
end

-- The whole server. The exit status, or nil, message when it did not start.
function server.run(conf)
  if conf.log.to then return nil, "log.to needs rille.run in a program of your own; set log.file" end
  conf = with_monitor(conf, false)
  local ok, message = prefork.prepare(conf)
  if ok then ok, message = configure_log(conf) end
  if not ok then return nil, message end
  if conf.processes == 1 then return serve(conf) end
  local status
  status, message = prefork.fork(conf, serve, banner_of(conf))
  if status == 0 and C.rille_process_number() == 0 then server.say_goodbye() end
  return status, message
end

-- The last record: what a clean end has left, which is nothing.
function server.say_goodbye()
  local stats = ffi.new("rille_block_stats[1]")
  C.rille_block_stats_read(stats)
  local s = stats[0]
  log.info("stopped: %d blocks, %d retained slices, %d leaked slices, %d buffers left", s.blocks_in_use,
    s.slices_retained, s.slices_leaked, s.buffers_in_use)
end

-- ---- inside somebody's program ---------------------------------------------------------------------------------

local lua_run

local function hand_on(to)
  for line in log.take do pcall(to, line) end
end

-- The dispatcher, which hands on what was logged in the turn.
local function dispatcher(to)
  if not to then return dispatch.run end
  return function()
    local more = dispatch.run()
    hand_on(to)
    return more
  end
end

-- Run a loop in this VM. setup() brings up what the loop is to do, after this state is attached; nil, message ends it at once.
local function run_here(conf, label, setup, is_served)
  if state.loop then return nil, "a loop runs in this Lua state already" end
  lua_run = lua_run or assert(package.loadlib(debug.getregistry()["rille.core.path"], "rille_lua_run"))
  local ok, message = prefork.adopt()
  if ok then ok, message = configure_log(conf) end
  if ok then ok, message = make_shared(conf) end
  if ok then ok, message = start_control(conf, is_served) end
  if not ok then return nil, message end
  local loop
  loop, message = new_loop(conf)
  if not loop then
    C.rille_control_stop()
    return nil, message
  end
  local g = C.rille_generation_new(0, 1, label, err_box)
  local handle = g ~= nil and C.rille_state_host(loop, g) or nil
  if g ~= nil then C.rille_generation_release(g) end
  if handle == nil then
    C.rille_loop_free(loop)
    C.rille_control_stop()
    return nil, "no memory for a loop"
  end
  boot.attach(loop, handle, {
    label = label, generation = 1, loop_id = 1, loop_count = 1, linger = conf.timeouts.linger, is_host = true,
    io_timeout = conf.io.timeout, is_dev = conf.dev, dns = conf.dns, dial = conf.dial, dicts = conf.dicts,
    topics = conf.topics,
  })
  local path, cpath = package.path, package.cpath
  local is_set_up, status
  ok, message = pool.make_all(conf)
  if ok then is_set_up, ok, message = pcall(setup, loop) end
  if is_set_up == false then ok, message = nil, tostring(ok) end
  if ok then status = lua_run(boot.as_number(loop), boot.as_number(handle), dispatcher(conf.log.to)) end
  package.path, package.cpath = path, cpath
  stop_pools()
  boot.detach()
  C.rille_loop_free(loop)
  C.rille_control_stop()
  if conf.log.to then
    hand_on(conf.log.to)
    log.configure { level = conf.log.level, format = conf.log.format }
  end
  if not ok then return nil, message end
  return status
end

-- A function belongs to the Lua state it was made in, and each loop has its own: what is wrong then, or nil.
local function need_paths(conf)
  for i, one in ipairs(conf.servers) do
    if type(one.script) ~= "string" then
      return ("rille.run: servers[%d].script: got a %s; with %d loops expected a path or a module name"):format(
        i, type(one.script), conf.loops)
    end
  end
end

local function run_loops(conf)
  local problem = need_paths(conf)
  if problem then return nil, problem end
  local status, message = server.run(conf)
  if not status then return nil, message end
  if status ~= 0 then return nil, "not started: see the log" end
  return true
end

-- What only the command may do to a process, or nil.
local function need_no_process(conf)
  if conf.processes > 1 then
    return ("rille.run: processes: got %d; a program is not forked, only `rille run` starts processes"):format(conf.processes)
  end
  if conf.user then return "rille.run: user: a program keeps its rights, only `rille run` gives them up" end
end

-- rille.run: servers whose script may be a function or a table of hooks. True after a shutdown, or nil, message.
function server.run_inside(conf)
  local problem = need_no_process(conf)
  if problem then return nil, problem end
  if conf.loops > 1 then return run_loops(conf) end
  conf = with_monitor(conf, true)
  local status, message = run_here(conf, "app@1", function()
    local served = {}
    for i, one in ipairs(conf.servers) do
      local hooks, why
      if type(one.script) == "string" then
        local path
        path, why = script.find(one.script)
        if not path then return nil, why end
        boot.look_beside(path)
        hooks, why = script.load(path, one.options)
        if hooks and one.offload then hooks = offload.wrap(hooks, one, path) end
      else
        hooks, why = script.hooks_of(one.script, ("servers[%d].script"):format(i))
      end
      if not hooks then return nil, why end
      state.script = state.script or hooks
      local listeners
      listeners, why = boot.serve(one, hooks, i)
      if not listeners then return nil, why end
      served[i] = { hooks = hooks, listeners = listeners, stage_timeout = (one.reload or conf.reload).stage_timeout }
    end
    boot.start_with(served, boot.announcer(banner_of(conf)))
    return true
  end, true)
  if not status then return nil, message end
  if status ~= 0 then return nil, "not started: see the log" end
  return true
end

-- Run fn(...) as a task of a loop of its own (rille exec, -e, test); the loop ends when fn has returned. fn's result is the exit status:
-- a number, or nothing for 0; an error is logged with its traceback and gives 1.
function server.run_task(conf, label, fn, ...)
  local args, count = { ... }, select("#", ...)
  return run_here(conf, label, function(loop)
    vm.seed()
    local function body()
      local status = fn(unpack(args, 1, count))
      C.rille_loop_exit(loop, type(status) == "number" and status or 0)
    end
    script.on_error(body, "main task", function() C.rille_loop_exit(loop, 1) end)
    boot.start_with({}, nil)
    local open = dispatch.on_start
    dispatch.on_start = function()
      open()
      task.start_later(body)
    end
    return true
  end)
end

return server
