-- eval: `rille -e`, a piece of Lua inside a loop.

local task = require "rille.cli.task"

local eval = {}

eval.help = [[
usage: rille -e CODE [ARGUMENTS]

Run a piece of Lua inside a loop, as `rille exec` runs a file. `rille` is a global in it, and the arguments are `...`.
]]

eval.spec = { positional = 1, stops = true, options = {} }

function eval.main(given)
  local code, rest = given[1], given.rest
  if not code then return false, "the code is missing: rille -e CODE" end
  local chunk, message = load(code, "=(command line)", "t")
  if not chunk then return nil, message:match("^[^\n]*") end
  arg = rest -- luacheck: ignore 121
  arg[0] = "-e" -- luacheck: ignore 122
  rille = require "rille" -- luacheck: ignore 111
  return task.run("-e", chunk, rest)
end

return eval
