-- rehearse: the Lua state of a script under `rille check`. It is made as one that serves; then, in place of on_start, its script is asked
-- whether it is good, and the loop ends with the answer.

local C = require "rille.core"
local boot = require "rille.boot"
local dispatch = require "rille.dispatch"
local probe = require "rille.reload.probe"
local script = require "rille.script"
local state = require "rille.state"

local rehearse = {}

local function finish(status)
  C.rille_loop_exit(state.loop, status)
end

-- What rille_state_new runs.
function rehearse.main(loop_address, state_address, bytes)
  local run, message = boot.main(loop_address, state_address, bytes)
  if not run then return nil, message end
  local plan = require("string.buffer").decode(bytes)
  local function refuse(why)
    io.stderr:write(("rille: script %s: %s\n"):format(plan.server.script, why))
    finish(1)
  end
  local function ask()
    local ok, why = probe.run(state.script, plan.stage_timeout)
    if ok then return finish(0) end
    refuse(why)
  end
  script.on_error(ask, "selftest", function(_, err) refuse(("on_stage or selftest was %s"):format(tostring(err))) end)
  dispatch.on_start = ask
  return run
end

return rehearse
