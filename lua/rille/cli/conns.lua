-- conns: `rille conns`, the connections of a server.

local control = require "rille.cli.control"

local conns = {}

conns.help = [[
usage: rille conns [--json] [--limit N | --by generation] [--pid N | --control PATH | --conf FILE]

List connections of a server: id, loop, script@generation, peer, age, how long nothing came or went, bytes that wait in
either direction, what they are doing.

  --json           as JSON on one line
  --limit N        at most so many, 1 to 10000 (1000)
  --by generation  only how many each generation of each script has, and how old they are

]] .. control.help

conns.spec = { positional = 0, options = { json = {}, limit = { value = "N" }, by = { value = "generation" } } }
for name, option in pairs(control.options) do conns.spec.options[name] = option end

local LIMIT_MAX = 10000

-- The loops together: { script =, connections =, youngest =, mean_age =, oldest = } of each generation, the largest number last.
local function merge(generations)
  local list, by_label = {}, {}
  for _, g in ipairs(generations) do
    local one = by_label[g.script]
    if not one then
      one = { script = g.script, name = g.script:match("^(.*)@") or g.script, generation = g.generation, connections = 0, ages = 0,
        youngest = math.huge, oldest = 0 }
      by_label[g.script], list[#list + 1] = one, one
    end
    one.connections, one.ages = one.connections + g.connections, one.ages + g.mean_age * g.connections
    one.youngest, one.oldest = math.min(one.youngest, g.youngest), math.max(one.oldest, g.oldest)
  end
  table.sort(list, function(a, b)
    if a.name ~= b.name then return a.name < b.name end
    return a.generation < b.generation
  end)
  return list
end

local function print_silent(answer)
  if answer.silent_loops > 0 then print(("%d loops did not answer"):format(answer.silent_loops)) end
end

local function show_generations(given)
  if given.by ~= "generation" then return nil, ("--by: got '%s'; expected generation"):format(given.by) end
  if given.limit then return false, "--by and --limit exclude each other" end
  local answer, text = control.ask(given, "conns by=generation\n")
  if not answer then return answer, text end
  if given.json then
    io.stdout:write(text)
    return 0
  end
  print(("%-32s %9s %9s %9s %9s"):format("script", "conns", "youngest", "mean", "oldest"))
  for _, one in ipairs(merge(answer.generations)) do
    print(("%-32s %9d %9s %9s %9s"):format(one.script, one.connections, control.span(one.youngest),
      control.span(one.ages / one.connections), control.span(one.oldest)))
  end
  print_silent(answer)
  return 0
end

function conns.main(given)
  if given.by then return show_generations(given) end
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
  print(("%-18s %4s %-20s %-24s %9s %9s %7s %s"):format("id", "loop", "script", "peer", "age", "idle", "in/out", "state"))
  for _, c in ipairs(answer.connections) do
    print(("%-18d %4d %-20s %-24s %9s %9s %7s %s"):format(c.id, c.loop, c.script, c.peer, control.span(c.age), control.span(c.idle),
      ("%d/%d"):format(c["in"], c.out), c.state))
  end
  if answer.total > #answer.connections then print(("%d of %d"):format(#answer.connections, answer.total)) end
  print_silent(answer)
  return 0
end

return conns
