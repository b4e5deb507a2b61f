-- reload: the loop that deploys: it has no connections, only the tasks that bring new generations of the servers' scripts to their loops.
-- rille.reload.deploy does that; here is when, and how the loop comes to life.

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local boot = require "rille.boot"
local channel = require "rille.channel"
local dispatch = require "rille.dispatch"
local errors = require "rille.errors"
local log = require "rille.log"
local script = require "rille.script"
local task = require "rille.task"
local timer = require "rille.timer"
local vm = require "rille.vm"

local reload = {}

local LABEL = "reload@1"
local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", 4096)

local function pointer(kind, address)
  return ffi.cast(kind, ffi.cast("uintptr_t", address))
end

-- ---- the thread that starts the server -------------------------------------------------------------------------

-- Bring the loop to life, on a thread of its own. A handle for reload.stop, or nil, message. generations: of each server, the first.
function reload.start(conf, team, generations)
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
    conf = reload.plain(conf), team = boot.as_number(team), generations = addresses, path = package.path,
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
  return loop
end

function reload.stop(loop)
  C.rille_loop_interrupt(loop)
  C.rille_loop_thread_join(loop)
  C.rille_reload_leave()
  C.rille_loop_free(loop)
end

-- A configuration without functions and metatables.
function reload.plain(conf)
  local out = {}
  for _, key in ipairs { "loops", "servers", "timeouts", "io", "dev", "path", "cpath", "file", "reload", "limits", "drain_timeout", "debug",
    "dicts", "workers", "pools", "workers_timeout", "log" } do
    out[key] = conf[key]
  end
  return out
end

-- ---- its own thread --------------------------------------------------------------------------------------------

local servers = {} -- by number

local function make_server(conf, team, number, pointer_of_first)
  local deploy, names, plan = require "rille.reload.deploy", require "rille.config.names", require "rille.plan"
  local one = conf.servers[number]
  local server = {
    name = names.of(one), script = one.script, number = number, team = team, loop_count = conf.loops, only_loop = one.only_loop,
    reload = one.reload or conf.reload, requests = channel(64),
  }
  server.plan = function(generation)
    local its = plan.of(conf, number, generation.number, generation.g)
    its.is_staged = true
    return its
  end
  server.try = function(label)
    return require("rille.reload.trial").run(label, conf, one, server.reload.stage_timeout)
  end
  deploy.adopt(server, pointer_of_first)
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

local function trace_of(err)
  return rawequal(err, task.cancelled) and err or debug.traceback(tostring(err), 2)
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
    local ok, result = xpcall(deploy.run, trace_of, server, request.canary, function(early)
      for _, one in ipairs(asked) do
        if not one.waits then answer_one(one, early) end
      end
    end)
    if rawequal(result, task.cancelled) then return end
    if not ok then
      log.error("%s: reload failed: %s", server.name, result)
      result = { ok = false, label = server.current.label, message = result, seconds = 0 }
    end
    answer_all(asked, result)
  end
end

-- Load a server anew. options: canary, soak, wait (for the end of these). A channel that the report comes by.
function reload.ask(server, options)
  local answer = channel(1)
  options = options or {}
  server.next = true
  server.requests:send({ answer = answer, canary = canary_of(server, options), waits = options.wait })
  return answer
end

function reload.servers()
  return servers
end

-- Those a request means: by the name of the server or the path of its script; nil: all of them.
local function find(name)
  local list = {}
  for _, server in pairs(servers) do
    if not name or server.name == name or server.script == name then list[#list + 1] = server end
  end
  table.sort(list, function(a, b) return a.number < b.number end)
  return list
end

-- What the control socket asks for; see rille.cli.reload. A list of reports; or nil, message.
function reload.command(options)
  local list = find(options.script)
  if #list == 0 then
    local names = {}
    for _, server in ipairs(find()) do names[#names + 1] = server.name end
    return nil, ("there is no server '%s'; there are %s"):format(options.script, table.concat(names, ", "))
  end
  local answers, reports = {}, {}
  for i, server in ipairs(list) do answers[i] = reload.ask(server, options) end
  for i, answer in ipairs(answers) do reports[i] = answer:receive() end
  return reports
end

-- The same as JSON.
function reload.answer(options)
  local reports, message = reload.command(options)
  return require("rille.cli.json").encode { reports = reports, message = message }
end

local function take_notes(handle)
  local deploy = require "rille.reload.deploy"
  local note = C.rille_reload_take(handle)
  if note == nil then return end
  if note.kind == C.RILLE_NOTE_REQUEST then
    for _, server in ipairs(find()) do reload.ask(server) end
    return C.rille_note_free(note)
  end
  deploy.note(servers, note)
  C.rille_note_free(note)
end

local function keep_windows()
  local deploy = require "rille.reload.deploy"
  for _, server in pairs(servers) do deploy.keep_window(server) end
end

local function start_watching(plan)
  local watch = require "rille.reload.watch"
  watch.start(servers, plan.conf.reload, reload.ask)
  for _, server in pairs(servers) do
    watch.expect(server, server.current)
    watch.renew(server)
  end
end

local function begin(plan, handle)
  local conf = plan.conf
  local team = pointer("rille_team *", plan.team)
  C.rille_reload_attend(handle)
  for number, address in ipairs(plan.generations) do
    local server = make_server(conf, team, number, pointer("rille_generation *", address))
    task.start_later(attend, server)
  end
  timer.every(1, keep_windows)
  start_watching(plan)
  C.rille_state_started(handle)
end

-- What rille_state_new runs.
function reload.main(loop_address, state_address, bytes)
  local plan = buffer.decode(bytes)
  local handle = pointer("rille_state *", state_address)
  package.path, package.cpath = plan.path, plan.cpath
  boot.attach(pointer("rille_loop *", loop_address), handle,
    { label = LABEL, generation = 1, loop_id = 0, loop_count = 0, io_timeout = plan.conf.io.timeout })
  vm.seed()
  _G.print = vm.print_to_log
  dispatch.on_start = function() return begin(plan, handle) end
  dispatch.on_note = function() return task.call(take_notes, handle) end
  script.on_error(begin, "reload", function() log.error("reloading is not possible") end)
  return dispatch.run
end

return reload
