-- reload: `rille reload`, new generations of a server's scripts.

local control = require "rille.cli.control"
local json = require "rille.cli.json"

local reload = {}

reload.help = [[
usage: rille reload [SCRIPT] [--canary LOOPS] [--soak S] [--wait] [--json] [--pid N | --control PATH | --conf FILE]

Let a server load a script anew, or, without SCRIPT, its configuration and all of its scripts, in all its processes. Each is loaded and
tried beside the one that serves; only when that went well do new messages go to it. Exit status 1, with the reason, when one is not
reloaded: the one before serves on.

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

-- What the configuration has done; false: nothing, as it is bad.
local function show_conf(conf, is_quiet)
  if conf.message then
    if not is_quiet then io.stderr:write("rille: the configuration is not reloaded: ", conf.message, "\n") end
    return false
  end
  local is_refused = {}
  for _, one in ipairs(conf.refused) do
    is_refused[one.key] = true
    if not is_quiet then io.stderr:write("rille: warning: ", one.key, ": not changed: ", one.why, "\n") end
  end
  for _, line in ipairs(is_quiet and {} or conf.lines) do
    if not is_refused[line:match("^[^:]+")] then print("conf " .. line) end
  end
  return true
end

-- What one process answered: whether all went well, and the answer as a table.
local function report_one(one, is_quiet)
  local problem = not one.answer and one.message or not one.answer.ok and one.answer.text or nil
  local result = not problem and json.decode(one.answer.text) or { message = problem }
  if result.message then
    if not is_quiet then io.stderr:write("rille: ", result.message, "\n") end
    return false, result
  end
  local ok = not result.conf or show_conf(result.conf, is_quiet)
  for _, report in ipairs(result.reports) do
    if not is_quiet then show(report) end
    ok = ok and report.ok
  end
  return ok, result
end

-- Of several processes each is reported.
local function report_all(list, is_quiet)
  local ok, results = true, {}
  for i, one in ipairs(list) do
    if #list > 1 and not is_quiet then print(("process %d:"):format(one.pid)) end
    local is_good, result = report_one(one, is_quiet)
    ok, results[i], result.pid = ok and is_good, result, one.pid
  end
  if is_quiet then io.stdout:write(json.encode(#list == 1 and results[1] or { processes = results }), "\n") end
  return ok and 0 or 1
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
  local list, message = control.ask_all(given, request, TIMEOUT_S * 1000)
  if not list then return list, message end
  return report_all(list, given.json)
end

return reload
