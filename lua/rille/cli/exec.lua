-- exec: `rille exec`, a Lua file inside a loop.

local paths = require "rille.config.paths"
local task = require "rille.cli.task"

local exec = {}

exec.help = [[
usage: rille exec FILE [ARGUMENTS]

Run a Lua file inside a loop, where everything of Rille may be called that parks. The file gets its arguments as `...`
and in the table `arg`; print writes to stdout, require looks in the file's folder first. The loop ends when the file
has ended. Exit status: that of os.exit; 1 after an error; else 0.
]]

exec.spec = { positional = 1, stops = true, options = {} }

-- The chunk of a file, or nil and one line. Lua shortens long names in its messages from the left.
local function load_file(file)
  local f, message = io.open(file)
  if not f then return nil, "cannot open " .. message end
  local source, why = f:read("*a")
  f:close()
  if not source then return nil, ("cannot read %s: %s"):format(file, why) end
  local chunk
  chunk, message = loadfile(file)
  return chunk, message and message:match("^[^\n]*")
end

function exec.main(given)
  local file, rest = given[1], given.rest
  if not file then return false, "a file is missing: rille exec FILE" end
  local chunk, message = load_file(file)
  if not chunk then return nil, message end
  local folder = paths.folder(file)
  if folder == "" then folder = "./" end
  package.path = folder .. "?.lua;" .. folder .. "?/init.lua;" .. package.path
  package.cpath = folder .. "?.so;" .. package.cpath
  arg = rest -- luacheck: ignore 121
  arg[0] = file -- luacheck: ignore 122
  return task.run(file:match("([^/]+)%.lua$") or file, chunk, rest)
end

return exec
