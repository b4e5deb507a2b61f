-- reload: `rille reload`, new generations of a server's scripts.

local control = require "rille.cli.control"
local json = require "rille.cli.json"

local reload = {}

reload.help = [[
usage: rille reload [SCRIPT] [--canary LOOPS] [--soak S] [--wait] [--json] [--pid N | --control PATH | --conf FILE]

Let a server load a script anew, or all of its scripts and its configuration. Each is loaded and tried beside the one that serves; only
when that went well do new messages go to it. Exit status 1, with the reason, when one is not reloaded: the one before serves on.

  SCRIPT           the server's name, or the path of its script as the configuration has it
  --canary LOOPS   on so many loops first, and on the others when it did well there; 0: on all at once
  --soak S         how long the canary is watched
  --wait           until the canary and its soak are over; else until the first loops serve it
  --json           as JSON on one line

]] .. control.help

reload.spec = { positional = 1, options = { canary = { value = "LOOPS" }, soak = { value = "S" }, wait = {}, json = {} } }
for name, option in pairs(control.options) do reload.spec.options[name] = option end

local TIMEOUT_S = 3600

local function number_of(given, name, min)
  local text = given[name]
  if not text then return nil end
  local n = tonumber(text)
  if n and n >= min then return n end
  return nil, ("--%s: got '%s'; expected a number, %d or more"):format(name, text, min)
end

local function show_evidence(evidence)
  local new, old = evidence.counts, evidence.before
  local line = "  it: %d requests, %d failed, p99 %.3f ms; the one before: %d requests, %d failed, p99 %.3f ms\n"
  io.stderr:write(line:format(new.messages, new.errors, new.p99 * 1e3, old.messages, old.errors, old.p99 * 1e3))
  for _, fault in ipairs(evidence.faults) do io.stderr:write("  ", (fault:gsub("\n", "\n  ")), "\n") end
end

local function show(report)
  if report.ok then
    local what = report.soaking and "the first loops serve it" or "serves"
    print(("ok %s: %s after %.0f ms"):format(report.label, what, report.seconds * 1000))
  else
    io.stderr:write("rille: ", report.label, " is not served: ", report.message, "\n")
    if report.evidence then show_evidence(report.evidence) end
  end
end

function reload.main(given)
  local canary, problem = number_of(given, "canary", 0)
  local soak
  if not problem then soak, problem = number_of(given, "soak", 0) end
  if problem then return nil, problem end
  local name = given[1] and ("%q"):format(given[1]) or "nil"
  local options = ("{ script = %s, canary = %s, soak = %s, wait = %s }"):format(name, canary or "nil", soak or "nil",
    given.wait and "true" or "false")
  local code = ("print(require('rille.reload').answer(%s))"):format(options)
  local request = ("eval loop=0 timeout=%d size=%d\n%s"):format(TIMEOUT_S * 1000, #code, code)
  local answer, message = control.ask(given, request, TIMEOUT_S * 1000)
  if not answer then return answer, message end
  if not answer.ok then return nil, answer.text end
  if given.json then
    io.stdout:write(answer.text, "\n")
  end
  local result = json.decode(answer.text)
  if result.message then return nil, result.message end
  local ok = true
  for _, report in ipairs(result.reports) do
    if not given.json then show(report) end
    ok = ok and report.ok
  end
  return ok and 0 or 1
end

return reload
