-- deploy: brings a new generation of one server to its loops: stage, commit, soak, retire, or roll back. A task of the loop that deploys;
-- what loops answer comes as notes.

local ffi = require "ffi"

local C = require "rille.core"
local channel = require "rille.channel"
local errors = require "rille.errors"
local log = require "rille.log"
local pool = require "rille.pool"
local task = require "rille.task"
local timer = require "rille.timer"
local watching = require "rille.reload.watch"

local deploy = {}

local ANSWER_S = 30     -- a loop whose on_start has not returned then refuses
local LOOK_S = 0.05     -- between two looks at the guards of a canary
local P99_SLACK_S = 0.001 -- what is slower by less is nobody's matter, and the machine's noise
local NOTES = 1024
local STAGING_IDLE_S = 5 -- after which the threads that stage end, and what they hold with them

local DRAIN = { stay = C.RILLE_DRAIN_STAY, migrate = C.RILLE_DRAIN_MIGRATE, close = C.RILLE_DRAIN_CLOSE }

local err_box = ffi.new("int[1]")
local counts_box = ffi.new("rille_generation_counts[1]")

local function as_number(pointer)
  return tonumber(ffi.cast("uintptr_t", pointer))
end

-- ---- generations -----------------------------------------------------------------------------------------------

-- loops: that serve it; had: that have a state of it.
local function own(pointer, number, label)
  return {
    g = ffi.gc(pointer, C.rille_generation_release), number = number, label = label, notes = channel(NOTES), loops = {}, had = {},
    born = C.rille_now(),
  }
end

local function make_generation(server, number)
  local label = ("%s@%d"):format(server.name, number)
  local g = C.rille_generation_new(server.number, number, label, err_box)
  if g == nil then return nil, ("too many Lua states (%s)"):format(errors.text[-err_box[0]]) end
  return own(g, number, label)
end

local function read(one)
  C.rille_generation_read(one.g, counts_box)
  local c = counts_box[0]
  return { messages = c.messages, errors = c.errors, p50 = c.p50, p99 = c.p99, is_broken = c.is_broken ~= 0 }
end

-- The tracebacks of its first errors.
local function faults_of(one)
  local list = {}
  for i = 0, C.RILLE_GENERATION_FAULTS - 1 do
    local text = C.rille_generation_fault(one.g, i)
    if text == nil then break end
    list[i + 1] = ffi.string(text)
  end
  return list
end

local function watch(one, guard_after, guard_rate)
  C.rille_generation_watch(one.g, 1, guard_after or 0, guard_rate or 0)
end

local function forget(server, one)
  server.generations[one.number] = nil
  C.rille_generation_release(ffi.gc(one.g, nil))
  if server.is_gone and next(server.generations) == nil then server.on_empty() end
end

-- ---- staging ---------------------------------------------------------------------------------------------------

function deploy.staging_pool()
  return pool.get("staging", { max = deploy.STAGINGS_MAX, queue = 64, idle_timeout = STAGING_IDLE_S })
end
deploy.STAGINGS_MAX = 4

-- Whether a thread is left to stage on; those of scripts that do not come back are not.
function deploy.check_threads()
  local lost = deploy.staging_pool():stats().lost
  if lost < deploy.STAGINGS_MAX then return true end
  return nil, ("%d stagings have not come back (see reload.stage_timeout): nothing can be reloaded until a restart"):format(lost)
end

-- A batch for a generation; it ends with this state should its task be cancelled. Nil: no memory.
local function new_batch(one)
  local batch = C.rille_batch_new(one.g)
  return batch ~= nil and ffi.gc(batch, C.rille_batch_release) or nil
end

local function release(batch)
  C.rille_batch_release(ffi.gc(batch, nil))
end

-- The states of a generation, a batch. Or nil, message.
local function stage(server, one)
  local ok, message = deploy.check_threads()
  if not ok then return nil, message end
  if server.reload.isolate then
    local passed, why = server.try(one.label)
    if not passed then return nil, why end
  end
  local batch = new_batch(one)
  if not batch then return nil, "no memory" end
  C.rille_batch_retain(batch) -- the job's
  local plan = server.plan(one)
  local limit = server.reload.stage_timeout
  plan.hooks_until = C.rille_now() + limit * 0.9 -- hooks that are parked then raise, and their thread comes back
  local detail
  ok, message, detail = deploy.staging_pool():with({ timeout = limit }):call("rille.reload.stage", "run", as_number(batch), plan)
  if ok then return batch end
  release(batch)
  if message == "timeout" then
    return nil, ("%s: it did not come up within %g s (reload.stage_timeout); its thread is written off"):format(one.label, limit)
  end
  return nil, detail or message
end

-- A state that came back with a note is closed where it does not hold up a loop.
local function discard(state)
  local ok = deploy.staging_pool():post("rille.reload.stage", "discard", as_number(state))
  if not ok then C.rille_state_discard(state) end
end

-- A state of a generation has failed on a loop, which waits for another one; bytes: what it was built from. A task's work.
local function renew(server, one, loop_id, bytes)
  local limit = server.reload.stage_timeout
  local batch = new_batch(one)
  if not batch then return C.rille_reload_renew(server.team, loop_id, one.g, nil, nil) end
  local message
  if deploy.check_threads() then
    C.rille_batch_retain(batch) -- the job's
    local ok, why, detail = deploy.staging_pool():with({ timeout = limit }):call("rille.reload.stage", "renew", as_number(batch), bytes,
      loop_id, limit)
    if why == "timeout" then why = ("it did not come up within %g s (reload.stage_timeout)"):format(limit) end
    if not ok then message = detail or why or "it did not come up" end
  end
  while true do
    local state = not message and C.rille_batch_take(batch, loop_id) or nil
    local code = C.rille_reload_renew(server.team, loop_id, C.rille_batch_generation(batch), state, message)
    if code == 0 then return release(batch) end
    if state ~= nil then C.rille_batch_put(batch, loop_id, state) end
    timer.sleep(0.1)
  end
end

local function run_renewal(wanted)
  renew(wanted.server, wanted.one, wanted.loop, wanted.bytes)
end

-- ---- notes -----------------------------------------------------------------------------------------------------

-- A note of a loop; servers: by number.
function deploy.note(servers, note)
  local server = servers[note.server]
  local one = server and server.generations[note.number]
  if note.state ~= nil then
    discard(note.state)
    note.state = nil
  end
  if not one or note.kind == C.RILLE_NOTE_SPARE then return end
  local kind = note.kind
  if kind == C.RILLE_NOTE_FAILED then
    return task.start_later(run_renewal, { server = server, one = one, loop = note.loop, bytes = ffi.string(note.text, note.size) })
  end
  if kind == C.RILLE_NOTE_RETIRED or (one.retiring and kind == C.RILLE_NOTE_REFUSED) then return deploy.retired(server, one, note) end
  if kind == C.RILLE_NOTE_COMMITTED then one.loops[note.loop] = true end
  if kind == C.RILLE_NOTE_BROKEN or kind == C.RILLE_NOTE_ROLLED_BACK then one.loops[note.loop] = nil end
  one.notes:send({ kind = kind, loop = note.loop, text = ffi.string(note.text, note.size) }, 0)
end

-- The answers of so many loops to a commit: true, or nil, message.
local function await_commits(one, count)
  local message
  while count > 0 do -- others may come between: a canary that breaks at once
    local note = one.notes:receive(ANSWER_S)
    if not note then return nil, message or "a loop did not answer; its on_start may not have returned" end
    if note.kind == C.RILLE_NOTE_COMMITTED then
      one.has_served = true
      count = count - 1
    elseif note.kind == C.RILLE_NOTE_REFUSED then
      count = count - 1
      one.had[note.loop] = nil
      message = message or note.text
    end
  end
  if message then return nil, message end
  return true
end

-- Hand the states of these loops over. True, or nil, message.
local function commit(server, one, batch, loops)
  local sent, problem = 0, nil
  for _, id in ipairs(loops) do
    local state = C.rille_batch_take(batch, id)
    local code = C.rille_reload_commit(server.team, id, state)
    if code ~= 0 then
      discard(state)
      problem = ("loop %d does not take it: %s"):format(id, errors.text[-code])
      break
    end
    one.had[id] = true
    sent = sent + 1
  end
  local ok, message = await_commits(one, sent)
  if problem then return nil, problem end
  return ok, message
end

-- ---- back and out ----------------------------------------------------------------------------------------------

local function each_loop(server, fn)
  for id = 1, server.loop_count do
    if not server.only_loop or server.only_loop == id then fn(id) end
  end
end

-- The loops that `one` has go on with the generation before, and end what it still has.
local function roll_back(server, one)
  if not server.current then return end
  local waits = 0
  for id in pairs(one.loops) do
    if C.rille_reload_rollback(server.team, id, one.g) == 0 then waits = waits + 1 end
  end
  while waits > 0 and next(one.loops) do
    if not one.notes:receive(ANSWER_S) then break end
  end
end

local function retire(server, one)
  local drain = server.reload.drain
  local deadline = drain.deadline and drain.deadline ~= math.huge and drain.deadline * 1000 or -1
  one.retiring = 0
  local how = DRAIN[drain.policy]
  if one.leaves then
    how = C.RILLE_DRAIN_LEAVE
    if deadline < 0 then deadline = server.drain_timeout() * 1000 end
  end
  each_loop(server, function(id)
    if one.had[id] and C.rille_reload_retire(server.team, id, one.g, how, deadline, (drain.jitter or 0) * 1000) == 0 then
      one.retiring = one.retiring + 1
    end
  end)
  if one.retiring == 0 then forget(server, one) end
end

-- The RETIRED note of a loop.
function deploy.retired(server, one, note)
  if note.size > 0 then
    log.info("%s: loop %d: what was still there has ended: %s", one.label, note.loop, ffi.string(note.text, note.size))
  end
  if note.connections > 0 then
    log.warn("%s: loop %d: %d connections closed at the end of %s", one.label, note.loop, note.connections,
      one.leaves and "its time to leave" or "reload.drain.deadline")
  end
  one.retiring = one.retiring - 1
  if one.retiring > 0 then return end
  log.info("%s: retired", one.label)
  forget(server, one)
end

-- ---- soak ------------------------------------------------------------------------------------------------------

-- Why a canary is not to go on; nil: nothing is against it. is_cut: there will be no more messages to wait for.
local function judge(one, before, canary, is_cut)
  local new, old = read(one), read(before)
  if old.messages < canary.min_requests and before.window then old = before.window end
  if new.is_broken or is_cut and new.errors > new.messages * one.rate_max then
    return ("%d of %d requests failed (max_error_rate %g)"):format(new.errors, new.messages, canary.max_error_rate), new, old
  end
  local is_enough = new.messages >= canary.min_requests and old.messages >= canary.min_requests
  if is_enough and new.p99 > old.p99 * canary.max_p99_ratio and new.p99 - old.p99 > P99_SLACK_S then
    return ("p99 %.3f ms is more than %g times that of %s, %.3f ms"):format(new.p99 * 1e3, canary.max_p99_ratio, before.label,
      old.p99 * 1e3), new, old
  end
  return nil, new, old
end

-- Watch a canary for its time, or until another version comes. True, or nil, message.
local function soak(server, one, before, canary, seconds)
  local till = C.rille_now() + seconds
  repeat
    local left = till - C.rille_now()
    local is_cut = server.next
    local is_last = left <= 0 or is_cut
    local problem, new, old = judge(one, before, canary, is_cut)
    if not problem and is_last and C.rille_generation_pass(one.g) == 0 then problem, new, old = judge(one, before, canary) end
    if problem then
      server.evidence = { counts = new, before = old, faults = faults_of(one) }
      return nil, ("%s: rolled back: %s"):format(one.label, problem)
    end
    if not is_last then one.notes:receive(math.min(left, LOOK_S)) end
  until is_last
  return true
end

-- ---- the whole -------------------------------------------------------------------------------------------------

local function split_loops(server, canary)
  local first, rest = {}, {}
  each_loop(server, function(id)
    local list = #first < canary and first or rest
    list[#list + 1] = id
  end)
  return first, rest
end

local function forget_refused(server)
  if server.refused then C.rille_generation_release(ffi.gc(server.refused.g, nil)) end
  server.refused = nil
end
deploy.forget_refused = forget_refused

-- It never served, or no longer. Its files are watched until the next one: mending one of them is a reason to try again.
local function keep_refused(server, one)
  C.rille_generation_retain(one.g)
  server.coming = nil
  server.refused = { g = ffi.gc(ffi.new("rille_generation *", one.g), C.rille_generation_release) }
  watching.renew(server)
end

local function refuse(server, one)
  keep_refused(server, one)
  forget(server, one)
end

local function give_up(server, one, message)
  keep_refused(server, one)
  roll_back(server, one)
  one.leaves = not server.current
  retire(server, one)
  return nil, message
end

-- Of a server that is new there is nothing to compare it with.
local function commit_first(server, one, batch)
  local ok, message = commit(server, one, batch, (split_loops(server, server.loop_count)))
  if not ok then return give_up(server, one, message) end
  return true
end

-- Canary first, then the rest. True, or nil, message: the generation before serves everywhere again.
local function bring(server, one, batch, canary, begin_soak)
  local before = server.current
  local first, rest = split_loops(server, canary.loops > 0 and canary.loops or server.loop_count)
  if not before then return commit_first(server, one, batch) end
  local soaks = canary.loops > 0 or server.reload.soak > 0
  if soaks then
    local old = read(before)
    local old_rate = old.messages > 0 and old.errors / old.messages or 0
    if #rest > 0 then watch(before) end
    one.rate_max = canary.max_error_rate + old_rate
    watch(one, math.max(1, canary.min_requests), one.rate_max)
  end
  local ok, message = commit(server, one, batch, first)
  if ok and soaks then begin_soak() end
  if ok and canary.loops > 0 then ok, message = soak(server, one, before, canary, canary.soak) end
  if ok and #rest > 0 then ok, message = commit(server, one, batch, rest) end
  if ok and canary.loops == 0 and soaks then ok, message = soak(server, one, before, canary, server.reload.soak) end
  if not ok then return give_up(server, one, message) end
  return true
end

-- For the status and the metrics.
local function publish(server, last, has_served)
  local result = last.ok and C.RILLE_RELOAD_DONE or has_served and C.RILLE_RELOAD_ROLLED_BACK or C.RILLE_RELOAD_REFUSED
  C.rille_reload_report(server.number, result, last.label, last.message or "", last.seconds, last.at)
end

local function count_live(server)
  local count = 0
  for _ in pairs(server.generations) do count = count + 1 end
  return count
end

local function check_room(server)
  local live = count_live(server)
  if live < server.reload.max_generations then return true end
  return nil, ("%s: %d generations are alive (reload.max_generations); connections hold the old ones: see reload.drain"):format(
    server.name, live)
end

-- For xpcall: the error with a traceback, but that its task is cancelled as it is.
function deploy.trace_of(err)
  return rawequal(err, task.cancelled) and err or debug.traceback(tostring(err), 2)
end

local function label_of(server)
  return server.current and server.current.label or server.name
end

-- Load the server's script anew and let it serve. canary: options that stand for the configured ones. A report:
-- { ok =, label =, message =, seconds = }. tell(report) is called when a canary begins its soak. finally(fn): gets what ends the generation
-- before, to be called when others have taken over what it gave up; nil: that is done at once.
function deploy.run(server, canary, tell, finally)
  local began, one = C.rille_now(), nil
  local function report(ok, label, message)
    server.last = { ok = ok or false, label = label, message = message, seconds = C.rille_now() - began, at = C.rille_time(),
      evidence = server.evidence }
    server.evidence = nil
    if ok then log.info("%s: serves; %.0f ms after the reload began", label, server.last.seconds * 1000)
    else log.error("%s: not reloaded: %s", server.name, message) end
    publish(server, server.last, one and one.has_served)
    return server.last
  end
  server.coming = nil
  local ok, message = check_room(server)
  if not ok then return report(false, label_of(server), message) end
  forget_refused(server)
  one, message = make_generation(server, server.last_number + 1)
  if not one then return report(false, label_of(server), message) end
  server.last_number = one.number
  server.generations[one.number] = one
  server.coming = one
  watching.expect(server, one)
  local batch
  batch, message = stage(server, one)
  if not batch or server.next or server.is_gone then
    if batch then release(batch) end
    refuse(server, one)
    return report(false, one.label, message or server.is_gone and "its server leaves" or "a newer version came while this one was staged")
  end
  ok, message = bring(server, one, batch, canary or server.reload.canary, function()
    if tell then tell { ok = true, label = one.label, seconds = C.rille_now() - began, soaking = true } end
  end)
  release(batch)
  if not ok then return report(false, one.label, message) end
  local before = server.current
  if server.is_gone then -- meanwhile
    one.leaves = true
    retire(server, one)
    return report(false, one.label, "its server leaves")
  end
  server.current, server.coming = one, nil
  watching.renew(server)
  if before and finally then finally(function() retire(server, before) end)
  elseif before then retire(server, before) end
  C.rille_generation_watch(one.g, server.reload.canary.loops > 0 and 1 or 0, 0, 0)
  return report(true, one.label)
end

-- Keep the last whole window of the generation that serves, for a canary that leaves none beside it.
function deploy.keep_window(server)
  if server.reload.canary.loops == 0 or not server.current then return end
  local counts = read(server.current)
  if counts.messages < server.reload.canary.min_requests then return end
  server.current.window = counts
  watch(server.current)
end

local function send_leave(server, one)
  local deadline = server.drain_timeout() * 1000
  each_loop(server, function(id)
    if one.had[id] then C.rille_reload_retire(server.team, id, one.g, C.RILLE_DRAIN_LEAVE, deadline, 0) end
  end)
end

-- The configuration has the server no more: its connections end as at a stop.
function deploy.leave(server)
  server.is_gone = true
  watching.forget(server)
  forget_refused(server)
  local last = server.current
  for _, one in pairs(server.generations) do
    one.leaves = true
    -- those before the last end already, but now they have nobody to hand on to
    if one ~= last and one.had then send_leave(server, one) end
  end
  if last then retire(server, last) end
  if next(server.generations) == nil then server.on_empty() end
end

-- What `rille run` built.
function deploy.adopt(server, pointer)
  local one = own(pointer, 1, server.name .. "@1")
  each_loop(server, function(id) one.had[id] = true end)
  server.generations, server.current, server.last_number = { one }, one, 1
  if server.reload.canary.loops > 0 then watch(one) end
  return one
end

return deploy
