-- conns: `rille conns`, the connections of a server.

local control = require "rille.cli.control"

local conns = {}

conns.help = [[
usage: rille conns [--json] [--limit N] [--pid N | --control PATH | --conf FILE]

List connections of a server: id, loop, peer, age, how long nothing came or went, bytes that wait in either direction,
what they are doing.

  --json           as JSON on one line
  --limit N        at most so many, 1 to 10000 (1000)

]] .. control.help

conns.spec = { positional = 0, options = { json = {}, limit = { value = "N" } } }
for name, option in pairs(control.options) do conns.spec.options[name] = option end

local LIMIT_MAX = 10000

function conns.main(given)
  local limit = tonumber(given.limit or 1000)
  if not limit or limit % 1 ~= 0 or limit < 1 or limit > LIMIT_MAX then
    return nil, ("--limit: got '%s'; expected a whole number from 1 to %d"):format(given.limit, LIMIT_MAX)
  end
  local answer, text = control.ask(given, ("conns %d\n"):format(limit))
  if not answer then return answer, text end
  if given.json then
    io.stdout:write(text)
    return 0
  end
  print(("%-18s %4s %-24s %9s %9s %7s %s"):format("id", "loop", "peer", "age", "idle", "in/out", "state"))
  for _, c in ipairs(answer.connections) do
    print(("%-18d %4d %-24s %9s %9s %7s %s"):format(c.id, c.loop, c.peer, control.span(c.age), control.span(c.idle),
      ("%d/%d"):format(c["in"], c.out), c.state))
  end
  if answer.total > #answer.connections then print(("%d of %d"):format(#answer.connections, answer.total)) end
  if answer.silent_loops > 0 then print(("%d loops did not answer"):format(answer.silent_loops)) end
  return 0
end

return conns
