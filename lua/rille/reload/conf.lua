-- conf: the configuration is loaded again: it is read and checked on the staging thread, compared with what serves, and what differs is
-- done: servers come, go and change, what is outside of them is told at once. A bad one changes nothing. One at a time, in a task of the
-- loop that deploys. See docs/reload.md, "The configuration".

local C = require "rille.core"
local channel = require "rille.channel"
local config = require "rille.config"
local deploy = require "rille.reload.deploy"
local diff = require "rille.config.diff"
local live = require "rille.reload.live"
local loaded = require "rille.config.loaded"
local log = require "rille.log"
local names = require "rille.config.names"
local scheme = require "rille.config.scheme"
local task = require "rille.task"
local watching = require "rille.reload.watch"

local M = {}

local TRY_S = 30 -- for the system to say whether addresses are free

local hub          -- what init.lua gives to start
local requests -- channels for the reports
local current      -- what holds outside of servers; its list of servers is that of the last time
local refused = {} -- servers that are to be, but did not come up

-- ---- what serves -----------------------------------------------------------------------------------------------

local function position_of(one)
  for i, other in ipairs(current.servers) do
    if other == one then return i end
  end
  return math.huge
end

-- The configuration as it is: the top of the last one, with what each server has. And the servers, in that order.
local function serving()
  local list, ones = {}, {}
  for _, server in pairs(hub.servers) do
    if not server.is_gone and not server.is_monitor then list[#list + 1] = server end
  end
  local function what(server) return server.is_running and server.wanted or server.held end
  table.sort(list, function(a, b)
    local i, k = position_of(what(a).one), position_of(what(b).one)
    if i ~= k then return i < k end
    return a.number < b.number
  end)
  for i, server in ipairs(list) do ones[i] = what(server).one end
  return setmetatable({ servers = ones }, { __index = current }), list
end

-- ---- reading ---------------------------------------------------------------------------------------------------

-- The configuration of the file, or nil, message.
local function read()
  local limit = current.reload.stage_timeout
  local ok, lost = deploy.check_threads()
  if not ok then return nil, lost end
  local conf, message, files = hub.staging():with({ timeout = limit }):call("rille.reload.stage", "configure", current.loaded.from,
    current.overrides or {})
  if conf then return conf end
  if message == "timeout" then
    return nil, ("%s: it did not load within %g s (reload.stage_timeout); its thread is written off"):format(current.loaded.from, limit)
  end
  return nil, tostring(message), type(files) == "table" and files or nil
end

local seen -- what was in the files of the configuration when it was read last, by path
local watched = {}

local function texts_now()
  return loaded.texts(watched)
end

local function watch(files)
  local paths = { current.loaded.from }
  for _, path in ipairs(files) do paths[#paths + 1] = path end
  watched = paths
  watching.renew_conf(current.reload, paths, refused)
end

-- ---- checking --------------------------------------------------------------------------------------------------

-- Several processes have to come to an address without each other's help.
local function check_processes(one, url)
  local is_inet = scheme.canonical(url):find("^%a+6?://")
  if current.processes == 1 or (is_inet and (one.accept == nil or one.accept == "reuseport")) then return true end
  return nil, ("%s: needs a restart: %d processes do not come to share an address while they run"):format(url, current.processes)
end

-- Whether nobody has the addresses that are new to this process: true, or nil, message.
local function check_addresses(steps)
  for _, step in ipairs(steps) do
    local urls = {}
    for _, url in ipairs(step.opens) do
      local ok, message = check_processes(step.new, url)
      if not ok then return nil, message end
      urls[#urls + 1] = url
    end
    if #urls > 0 then
      local ok, message = hub.staging():with({ timeout = TRY_S }):call("rille.reload.stage", "try", step.new, urls)
      if not ok then return nil, ("server %s: %s"):format(names.of(step.new), tostring(message)) end
    end
  end
  return true
end

-- ---- what is to be done ----------------------------------------------------------------------------------------

local function has(list, url)
  for _, one in ipairs(list) do
    if scheme.canonical(one) == scheme.canonical(url) then return true end
  end
  return false
end

local function without(list, urls)
  local out = {}
  for _, url in ipairs(list) do
    if not has(urls, url) then out[#out + 1] = url end
  end
  return out
end

-- A step for each server that comes or changes: { server = (nil: a new one), old =, new =, opens = addresses, how = }. And the servers that
-- go. result has the servers of `new` at the same places.
local function steps_of(d, new, result, list, old)
  local at, of_old, of_key, steps, gone = {}, {}, {}, {}, {}
  for k, one in ipairs(new.servers) do at[one] = k end
  for i, key in ipairs(names.keys(old.servers)) do of_old[old.servers[i]], of_key[key] = list[i], list[i] end
  for _, one in ipairs(d.added) do
    steps[#steps + 1] = { new = result.servers[at[one]], opens = one.listen, how = { generation = true },
      key = names.keys(new.servers)[at[one]] }
  end
  for _, change in ipairs(d.changed) do
    steps[#steps + 1] = { server = of_old[change.old], old = change.old, new = result.servers[at[change.new]], how = change.how,
      opens = change.listen and change.listen.added or {}, key = change.key }
  end
  for _, key in ipairs(d.removed) do gone[#gone + 1] = of_key[key] end
  for _, move in ipairs(d.moved) do
    for _, step in ipairs(steps) do
      if step.key == move.to and has(step.opens, move.address) then
        step.takes = step.takes or {}
        table.insert(step.takes, { address = move.address, from = of_key[move.from] })
        step.opens = without(step.opens, { move.address })
        break
      end
    end
  end
  for _, same in ipairs(d.same) do
    local server = of_old[same.old]
    server.held = { one = server.held.one, conf = result }
    if not server.is_running then server.wanted = nil end
  end
  return steps, gone
end

-- ---- doing it --------------------------------------------------------------------------------------------------

-- The addresses it takes over are its by number before it arrives, as it finds them by that.
local function take(step)
  for _, one in ipairs(step.takes or {}) do hub.book:move(one.address, one.from.number, step.server.number) end
end

local function took(step, ok)
  for _, one in ipairs(step.takes or {}) do
    local from = one.from
    if ok then
      local copy = {}
      for key, value in pairs(from.held.one) do copy[key] = value end
      copy.listen = without(copy.listen, { one.address })
      from.held = { one = copy, conf = from.held.conf }
    else
      hub.book:move(one.address, step.server.number, from.number)
    end
  end
end

-- It never came up: nothing is left of it but what is watched.
local function drop(server)
  watching.forget(server)
  server.is_gone = true
  server.requests:close()
  hub.book:forget(server.number)
  refused[#refused + 1] = server
  if next(server.generations) == nil then server.on_empty() end
end

-- Only how it is reloaded: no new Lua states.
local function retune(step, result)
  local server = step.server
  server.held, server.reload = { one = step.new, conf = result }, step.new.reload
  if not server.is_running then server.wanted = nil end
  if server.reload.watch then watching.renew(server) else watching.forget(server) end
end

-- These steps side by side; their reports are added to a list.
local function run(steps, result, reports, finally)
  local answers = {}
  for i, step in ipairs(steps) do
    step.is_new = not step.server
    step.server = step.server or hub.add(step.new, result)
    step.server.reload = step.new.reload
    take(step)
    answers[i] = hub.ask(step.server, { change = { one = step.new, conf = result }, finally = finally })
  end
  for i, step in ipairs(steps) do
    local report = answers[i]:receive() or { ok = false, label = step.server.name, message = "no answer", seconds = 0 }
    report.server = step.server.number
    reports[#reports + 1] = report
    took(step, report.ok)
    if step.is_new and not report.ok then drop(step.server) end
  end
end

-- What ends the generations before; while addresses go from one server to another it waits until all have taken theirs.
local function later(is_needed)
  local list = is_needed and {} or nil
  return function(fn)
    if list then list[#list + 1] = fn else fn() end
  end, function()
    local all = list or {}
    list = nil
    for _, fn in ipairs(all) do fn() end
  end
end

local function apply_servers(steps, gone, result)
  local first, rest, reports = {}, {}, {}
  for _, step in ipairs(steps) do
    if not (step.how.generation or step.how.listen) then retune(step, result)
    elseif step.takes then first[#first + 1] = step
    else rest[#rest + 1] = step end
  end
  local finally, release = later(#first > 0)
  run(first, result, reports, finally)
  run(rest, result, reports, finally)
  release()
  for _, server in ipairs(gone) do
    log.info("%s: leaves", server.current.label)
    deploy.leave(server)
    server.requests:close()
    hub.book:forget(server.number)
  end
  return reports
end

-- ---- the whole -------------------------------------------------------------------------------------------------

local function report_of(d, lines, reports, began)
  local report = { ok = true, added = {}, removed = d.removed, changed = {}, refused = {}, lines = lines, reports = reports,
    seconds = C.rille_now() - began }
  for i, one in ipairs(d.added) do report.added[i] = names.of(one) end
  for i, one in ipairs(d.changed) do report.changed[i] = { server = one.key, what = one.what } end
  for i, one in ipairs(d.refused) do report.refused[i] = { key = one.key, why = one.why } end
  for _, one in ipairs(reports) do report.ok = report.ok and one.ok end
  return report
end

local function forget_refused()
  for _, server in ipairs(refused) do deploy.forget_refused(server) end
  refused = {}
end

local function apply(new, began)
  local old, list = serving()
  local d = diff(old, new)
  local result = diff.result(new, d)
  local problem = config.problem(result, new.loaded.from)
  if problem then return nil, problem end
  local steps, gone = steps_of(d, new, result, list, old)
  local ok, message = check_addresses(steps)
  if not ok then return nil, message end
  forget_refused()
  local lines = diff.report(d)
  local messages, failed = live.apply(d, result, hub.team)
  for i, one in ipairs(failed) do
    one.why, d.refused[#d.refused + 1] = messages[1], one
    lines[#lines + 1] = i <= #messages and messages[i] or nil
  end
  current = diff.result(new, d)
  for _, line in ipairs(lines) do log.info("configuration: %s", line) end
  for _, one in ipairs(d.refused) do log.warn("configuration: %s: not changed: %s", one.key, one.why) end
  return report_of(d, lines, apply_servers(steps, gone, current), began)
end

local function reload()
  local began = C.rille_now()
  seen = texts_now()
  local new, message, files = read()
  if new then
    local report
    report, message = apply(new, began)
    files = new.loaded.files
    if report then
      watch(files)
      return report
    end
  end
  log.error("the configuration is not reloaded: %s", message)
  if files then watch(files) end
  return { ok = false, message = message, added = {}, removed = {}, changed = {}, refused = {}, lines = {}, reports = {},
    seconds = C.rille_now() - began }
end

-- What has changed before the watch was there makes one more.
local function look_again()
  if current.reload.watch and M.has_changed() then requests:send(channel(1)) end
end

-- Those who asked while one was under way get the next.
local function attend()
  while true do
    local asked = { requests:receive() }
    if #asked == 0 then return end
    while requests:len() > 0 do asked[#asked + 1] = requests:receive() end
    local ok, report = xpcall(reload, deploy.trace_of)
    if not rawequal(report, task.cancelled) then look_again() end
    if rawequal(report, task.cancelled) then return end
    if not ok then
      log.error("the configuration is not reloaded: %s", report)
      report = { ok = false, message = report, added = {}, removed = {}, changed = {}, refused = {}, lines = {}, reports = {}, seconds = 0 }
    end
    for _, answer in ipairs(asked) do answer:send(report, 0) end
  end
end

-- Whether there is a file that it can be loaded from again.
function M.has_file()
  return current ~= nil and current.loaded ~= nil
end

-- Load it again. A report: { ok =, message = (why nothing has changed), added =, removed =, changed =, refused =, lines = (for people),
-- reports = (of servers that came or changed, each with its number as server) }.
function M.reload()
  local answer = channel(1)
  requests:send(answer)
  return answer:receive()
end

-- Whether its files are not as they were when it was read last.
function M.has_changed()
  for path, text in pairs(texts_now()) do
    if seen[path] ~= text then return true end
  end
  return false
end

-- What holds outside of servers.
function M.current()
  return current
end

-- given: servers (by number), conf, team, book, add(one, conf), ask(server, options), staging().
function M.start(given)
  hub, current, requests = given, given.conf, channel(64)
  if not M.has_file() then return end
  seen = current.loaded.texts
  watch(current.loaded.files)
  look_again()
  task.start_later(attend)
end

return M
