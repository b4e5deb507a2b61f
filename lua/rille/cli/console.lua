-- console: `rille console`, Lua in a server that runs.

local control = require "rille.cli.control"

local console = {}

console.help = [[
usage: rille console [-e CODE] [--loop N] [--state NAME] [--timeout S] [--pid N | --control PATH | --conf FILE]

Evaluate Lua in a loop of a server, in a task of a script's state: an expression, whose values are shown, or statements.
It may park; `rille` is there, and print writes here. Without -e, a line at a time until end of file. Globals that are
assigned stay for the next line. Exit status 1 when the code raised.

  -e CODE, --eval CODE   this code, and no more
  --loop N               on that loop (1)
  --state NAME           in the state of that script, such as `echo` (the first)
  --timeout S            seconds the code may take (10)

]] .. control.help

console.spec = {
  positional = 0,
  options = { eval = { value = "CODE" }, loop = { value = "N" }, state = { value = "NAME" }, timeout = { value = "S" } },
  short = { e = "eval" },
}
for name, option in pairs(control.options) do console.spec.options[name] = option end

local CODE_MAX = 65536
local GRACE_MS = 2000 -- for the server to say that the time is over

local function number(given, name, default, min, max)
  local n = tonumber(given[name] or default)
  if n and n >= min and n <= max then return n end
  return nil, ("--%s: got '%s'; expected a number from %d to %d"):format(name, given[name], min, max)
end

-- Whether it went well; nil, message when it could not be asked.
local function evaluate(to, code, plan)
  if #code > CODE_MAX then return nil, ("the code has %d bytes; at most %d"):format(#code, CODE_MAX) end
  local request = ("eval loop=%d timeout=%d size=%d%s\n%s"):format(plan.loop, plan.timeout * 1000, #code,
    plan.state and " state=" .. plan.state or "", code)
  local answer, message = control.ask(to, request, plan.timeout * 1000 + GRACE_MS)
  if not answer then return nil, message end
  local out = answer.ok and io.stdout or io.stderr
  if answer.text ~= "" then out:write(answer.text, "\n") end
  return answer.ok
end

local function interact(to, plan)
  io.stdout:write("> ")
  io.stdout:flush()
  for line in io.stdin:lines() do
    if line:find("%S") then
      local ok, message = evaluate(to, line, plan)
      if ok == nil then
        io.stdout:write("\n")
        return nil, message
      end
    end
    io.stdout:write("> ")
    io.stdout:flush()
  end
  io.stdout:write("\n")
  return 0
end

function console.main(given)
  local plan, message = { state = given.state }
  plan.loop, message = number(given, "loop", 1, 1, 256)
  if not plan.loop then return nil, message end
  plan.timeout, message = number(given, "timeout", 10, 0.001, 3600)
  if not plan.timeout then return nil, message end
  if given.state and not given.state:find("^[%w_.@-]+$") then
    return nil, ("--state: got '%s'; expected the name of a script, such as echo"):format(given.state)
  end
  local to
  to, message = control.bind(given)
  if not to then return to, message end
  if not given.eval then return interact(to, plan) end
  local ok
  ok, message = evaluate(to, given.eval, plan)
  if ok == nil then return nil, message end
  return ok and 0 or 1
end

return console
