-- balance: on_balance of a script, which says for each connection of `accept = "balanced"` which loop serves it. It runs on the loop
-- that accepts, in the turn in which the connection came; the core gives one without an answer to the next loop in turn.

local ffi = require "ffi"

local C = require "rille.core"
local log = require "rille.log"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"

local balance = {}

local NO_LOOP = -1

local question = ffi.new("rille_balance_question[1]")
local loads = {} -- the same for each call

local function ask(slot)
  if C.rille_balance_ask(state.loop, slot, question) == 0 then return nil end
  local q = question[0]
  for i = 1, q.count do loads[i] = q.loads[i - 1] end
  for i = #loads, q.count + 1, -1 do loads[i] = nil end
  return q.ticket, q.service, ffi.string(q.peer)
end

local function trace_of(err)
  if rawequal(err, task.cancelled) then return nil end -- it parked, and the loop ends
  return debug.traceback(tostring(err), 2)
end

-- What the hook returned; 0 (the next loop) for nil and after an error, NO_LOOP for what cannot be one.
local function loop_of(hook, peer)
  local ok, answer = xpcall(hook, trace_of, peer, loads)
  if not ok then
    if answer then script.report("on_balance", nil, answer) end
    return 0
  end
  if answer == nil then return 0 end
  return type(answer) == "number" and answer ~= 0 and answer or NO_LOOP, answer
end

-- A hook that parks comes back when its ticket is over, and is not listened to.
function balance.decide(slot)
  local ticket, service, peer = ask(slot)
  if not ticket then return end
  local loop_id, answer = loop_of(state.services[service].on_balance, peer)
  if C.rille_balance_answer(state.loop, slot, ticket, loop_id) < 0 then
    log.warn("%s: on_balance returned %s; expected nil or a loop from 1 to %d: the connection goes to the next one", state.label,
      tostring(answer), state.loop_count)
  end
end

-- What is wrong with a server whose hooks are these, or nil.
function balance.problem(server, hooks)
  if server.balance == "script" and server.accept == "balanced" and not hooks.on_balance then
    return ('%s: balance = "script" needs a function on_balance in the table that the script returns'):format(state.label)
  end
end

return balance
