-- reload: the loop that deploys: it has no connections, only the tasks that bring new generations of the servers' scripts to their loops.
-- rille.reload.deploy does that; here is when, and how the loop comes to life.

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local boot = require "rille.boot"
local channel = require "rille.channel"
local defaults = require "rille.defaults"
local dispatch = require "rille.dispatch"
local errors = require "rille.errors"
local log = require "rille.log"
local script = require "rille.script"
local task = require "rille.task"
local timer = require "rille.timer"
local vm = require "rille.vm"

local reload = {}

local LABEL = "reload@1"
local START_MS = 10000 -- far above what it takes
local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", 4096)

local function pointer(kind, address)
  return ffi.cast(kind, ffi.cast("uintptr_t", address))
end

-- ---- the thread that starts the server -------------------------------------------------------------------------

-- A configuration without metatables.
local function plain(conf)
  local out = {}
  for _, entry in ipairs(defaults.top) do out[entry.name] = conf[entry.name] end
  out.file, out.loaded, out.overrides = conf.file, conf.loaded, conf.overrides
  return out
end

-- Bring the loop to life, on a thread of its own. A handle for reload.stop, or nil, message. generations: of each server, the
-- first; groups: the numbers of its addresses.
function reload.start(conf, team, generations, groups)
  local loop = C.rille_loop_new(C.RILLE_LOOP_PRIVATE, err_box)
  if loop == nil then return nil, ("cannot make a loop: %s"):format(errors.text[-err_box[0]]) end
  local g = C.rille_generation_new(0, 1, LABEL, err_box)
  if g == nil then
    C.rille_loop_free(loop)
    return nil, "too many Lua states"
  end
  local addresses = {}
  for i, one in ipairs(generations) do
    C.rille_generation_retain(one)
    addresses[i] = boot.as_number(one)
  end
  local plan = {
    conf = plain(conf), groups = groups, team = boot.as_number(team), generations = addresses, path = package.path,
    cpath = package.cpath,
  }
  local bytes = buffer.encode(plan)
  local handle = C.rille_state_new(loop, g, 0, vm.source("rille.reload"), bytes, #bytes, message_box, 4096)
  C.rille_generation_release(g)
  local code = handle ~= nil and C.rille_loop_thread_start(loop) or 0
  if handle == nil or code ~= 0 then
    C.rille_loop_free(loop)
    return nil, handle == nil and ffi.string(message_box) or errors.text[-code]
  end
  C.rille_reload_await(START_MS) -- so that who talks to a server that runs finds it
  return loop
end

function reload.stop(loop)
  C.rille_loop_interrupt(loop)
  C.rille_loop_thread_join(loop)
  C.rille_reload_leave()
  C.rille_loop_free(loop)
end

-- ---- its own thread --------------------------------------------------------------------------------------------

local servers = {}  -- by number
local book          -- of the numbers of addresses
local team
local last_server = 0
local last_of = {}  -- by name: the number of the last generation, as a name may come back

local function conf_module() return require "rille.reload.conf" end

-- A server that has no generation yet.
local function make_server(conf, one, number)
  local names, plan = require "rille.config.names", require "rille.plan"
  local server = {
    name = names.of(one), script = one.script, number = number, team = team, loop_count = conf.loops, only_loop = one.only_loop,
    is_monitor = one.is_monitor, reload = one.reload or conf.reload, requests = channel(64), held = { one = one, conf = conf },
    generations = {},
    last_number = last_of[names.of(one)] or 0,
  }
  -- from what serves, or what is to
  server.plan = function(generation)
    local its = server.wanted or server.held
    local made = plan.of(its.conf, its.one, number, generation.number, generation.g, book:of(number, its.one.listen))
    made.is_staged = true
    return made
  end
  server.try = function(label)
    local its = server.wanted or server.held
    return require("rille.reload.trial").run(label, its.conf, its.one, server.reload.stage_timeout)
  end
  server.drain_timeout = function() return conf_module().current().drain_timeout end
  server.on_empty = function() servers[number] = nil end
  servers[number] = server
  return server
end

local function answer_one(request, result)
  if request.answer then request.answer:send(result, 0) end
  request.answer = nil
end

local function answer_all(requests, result)
  for _, one in ipairs(requests) do answer_one(one, result) end
end

-- What a request has instead of the configured canary; nil: nothing.
local function canary_of(server, options)
  if not (options.canary or options.soak) then return nil end
  local out = {}
  for key, value in pairs(server.reload.canary) do out[key] = value end
  out.loops, out.soak = options.canary or math.max(out.loops, 1), options.soak or out.soak
  return out
end

-- What it is called by the configuration that is tried, or holds.
local function rename(server, its)
  server.name, server.script = require("rille.config.names").of(its.one), its.one.script
end

-- A reload is over: what was tried holds now, or is kept for the next try.
local function settle(server, ok)
  server.is_running = false
  if ok and server.wanted then server.held, server.wanted = server.wanted, nil end
  if server.is_gone then return end
  rename(server, server.held)
  last_of[server.name] = math.max(last_of[server.name] or 0, server.last_number)
  if ok then book:settle(server.number, server.held.one.listen) end
end

-- Those that were asked together: the last configuration counts.
local function merge(server, asked)
  local finally
  for _, one in ipairs(asked) do
    server.wanted, finally = one.change or server.wanted, one.finally or finally
  end
  if server.wanted then rename(server, server.wanted) end
  server.is_running = true
  return finally
end

-- Reloads of one server, one after the other; what comes while one runs makes one more.
local function attend(server)
  local deploy = require "rille.reload.deploy"
  while true do
    local request = server.requests:receive()
    if not request then return end
    server.next = nil
    local asked = { request }
    while server.requests:len() > 0 do asked[#asked + 1] = server.requests:receive() end
    if server.is_gone then return answer_all(asked, { ok = false, label = server.name, message = "it leaves", seconds = 0 }) end
    local finally = merge(server, asked)
    local ok, result = xpcall(deploy.run, deploy.trace_of, server, request.canary, function(early)
      for _, one in ipairs(asked) do
        if not one.waits then answer_one(one, early) end
      end
    end, finally)
    if rawequal(result, task.cancelled) then return end
    if not ok then
      log.error("%s: reload failed: %s", server.name, result)
      result = { ok = false, label = server.name, message = result, seconds = 0 }
    end
    settle(server, result.ok)
    answer_all(asked, result)
  end
end

-- Load a server anew. options: canary, soak, wait (for the end of these); change: { one =, conf = }, what it is from then on, and finally,
-- see deploy.run. A channel that the report comes by.
function reload.ask(server, options)
  local answer = channel(1)
  options = options or {}
  server.next = true
  server.requests:send({ answer = answer, canary = canary_of(server, options), waits = options.wait, change = options.change,
    finally = options.finally })
  return answer
end

function reload.servers()
  return servers
end

-- Those a request means: by the name of the server or the path of its script; nil: all of them.
local function find(name)
  local list = {}
  for _, server in pairs(servers) do
    local is_meant = not name or server.name == name or server.script == name
    if is_meant and not server.is_gone then list[#list + 1] = server end
  end
  table.sort(list, function(a, b) return a.number < b.number end)
  return list
end

-- Load these servers anew; their reports are added to a list.
local function ask_all(list, options, reports)
  local answers = {}
  for i, server in ipairs(list) do answers[i] = reload.ask(server, options) end
  for _, answer in ipairs(answers) do reports[#reports + 1] = answer:receive() end
  return reports
end

-- The configuration, then every server that has not changed with it. The reports of servers, and that of the configuration, nil without a
-- file of it.
local function reload_all(options)
  if not conf_module().has_file() then return ask_all(find(), options, {}) end
  local conf = conf_module().reload()
  local reports, is_done, list = {}, {}, {}
  for _, report in ipairs(conf.reports) do reports[#reports + 1], is_done[report.server] = report, true end
  conf.reports = nil
  if conf.message then return reports, conf end
  for _, server in ipairs(find()) do
    if not is_done[server.number] then list[#list + 1] = server end
  end
  return ask_all(list, options, reports), conf
end

-- What the control socket asks for; see rille.cli.reload. A list of reports, and that of the configuration; or nil, message.
function reload.command(options)
  if not options.script then
    local reports, conf = reload_all(options)
    return reports, nil, conf
  end
  local list = find(options.script)
  if #list == 0 then
    local names = {}
    for _, server in ipairs(find()) do names[#names + 1] = server.name end
    return nil, ("there is no server '%s'; there are %s"):format(options.script, table.concat(names, ", "))
  end
  return ask_all(list, options, {})
end

-- The same as JSON.
function reload.answer(options)
  local reports, message, conf = reload.command(options)
  return require("rille.cli.json").encode { reports = reports, message = message, conf = conf }
end

local function take_notes(handle)
  local deploy = require "rille.reload.deploy"
  local note = C.rille_reload_take(handle)
  if note == nil then return end
  if note.kind == C.RILLE_NOTE_REQUEST then
    task.start_later(reload_all, {})
    return C.rille_note_free(note)
  end
  deploy.note(servers, note)
  C.rille_note_free(note)
end

local function keep_windows()
  local deploy = require "rille.reload.deploy"
  for _, server in pairs(servers) do deploy.keep_window(server) end
end

-- Of those whose files have changed the configuration is first.
local function renew(keys)
  local is_done = {}
  if keys.conf and conf_module().has_changed() then
    for _, report in ipairs(conf_module().reload().reports) do is_done[report.server] = true end
  end
  for number in pairs(keys) do
    local server = servers[number]
    if server and not server.is_gone and not is_done[number] then reload.ask(server) end
  end
end

local function start_watching(plan)
  local watch = require "rille.reload.watch"
  watch.start(servers, plan.conf.reload, function(keys) task.start_later(renew, keys) end)
  for _, server in pairs(servers) do
    watch.expect(server, server.current)
    watch.renew(server)
  end
end

-- A server of a new configuration.
local function add_server(one, conf)
  last_server = last_server + 1
  local server = make_server(conf, one, last_server)
  task.start_later(attend, server)
  return server
end

-- The configuration as its file has it: without the server that was added, and with the ports that were asked for.
local function as_written(conf)
  local list = {}
  for _, one in ipairs(conf.servers) do
    one.listen = one.asked or one.listen
    if not one.is_monitor then list[#list + 1] = one end
  end
  conf.servers = list
  return conf
end

local function begin(plan, handle)
  local deploy = require "rille.reload.deploy"
  local conf, ones = plan.conf, plan.conf.servers
  team, book = pointer("rille_team *", plan.team), require("rille.reload.groups").book()
  as_written(conf)
  C.rille_reload_attend(handle)
  for number, address in ipairs(plan.generations) do
    local server = make_server(conf, ones[number], number)
    book:adopt(number, ones[number].listen, plan.groups[number])
    deploy.adopt(server, pointer("rille_generation *", address))
    last_of[server.name] = 1
    task.start_later(attend, server)
  end
  last_server = #ones
  timer.every(1, keep_windows)
  start_watching(plan)
  conf_module().start { servers = servers, conf = conf, team = team, book = book, add = add_server, ask = reload.ask,
    staging = deploy.staging_pool }
  C.rille_state_started(handle)
  C.rille_reload_settle()
end

-- What rille_state_new runs.
function reload.main(loop_address, state_address, bytes)
  local plan = buffer.decode(bytes)
  local handle = pointer("rille_state *", state_address)
  package.path, package.cpath = plan.path, plan.cpath
  boot.attach(pointer("rille_loop *", loop_address), handle,
    { label = LABEL, generation = 1, loop_id = 0, loop_count = 0, io_timeout = plan.conf.io.timeout })
  vm.seed()
  jit.off() -- nothing here is hot, and what is compiled would be memory that grows
  _G.print = vm.print_to_log
  -- now, and not when descriptors may be short
  for _, name in ipairs {
    "reload.deploy", "reload.watch", "reload.conf", "reload.groups", "reload.live", "reload.trial", "plan", "config.names", "cli.json",
    "console",
  } do require("rille." .. name) end
  dispatch.on_start = function() return begin(plan, handle) end
  dispatch.on_note = function() return task.call(take_notes, handle) end
  script.on_error(begin, "reload", function()
    log.error("reloading is not possible")
    C.rille_reload_settle()
  end)
  return dispatch.run
end

return reload
