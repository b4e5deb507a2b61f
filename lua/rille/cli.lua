-- cli: the command `rille`. Finds the subcommand and says what is wrong with a call of it; each subcommand is a file of its own.
--
-- A subcommand module has `help` (a text), `spec` (for args.parse) and `main(given)`, which returns the exit status, or nil and
-- a message for exit status 1, or false and a message for 2.

local ffi = require "ffi"

local args = require "rille.cli.args"
local near = require "rille.config.near"

local cli = {}

local NAMES = { "run", "check", "exec", "test", "new", "status", "conns", "leaks", "console", "reload", "stop" }
local STDERR_LINES_MAX = 3

local HELP = [[
usage: rille COMMAND [ARGUMENTS]

  run [--conf FILE]              serve what a configuration describes (conf/rille.lua)
  run SCRIPT --listen URL        serve one script
  check [--conf FILE | SCRIPT]   say whether a configuration or a script is good, without serving it
  exec FILE [ARGUMENTS]          run a Lua file inside a loop
  -e CODE [ARGUMENTS]            run a piece of Lua inside a loop
  test [SPEC ...]                run busted inside a loop
  new NAME                       make a folder with a small server, its configuration and its spec
  status [--json]                say how a server is doing
  conns [--json]                 list the connections of a server
  leaks [--json]                 list what is still there in a server, by the line that made it
  console [-e CODE]              evaluate Lua in a server that runs
  reload [SCRIPT] [--wait]       let a server load a script, or all of them, anew
  stop [--now]                   stop a server

  --version                      print the versions of Rille and LuaJIT
  --help                         print this; `rille COMMAND --help` prints more

Exit status: 0 good; 2 a wrong call; 1 anything else that is wrong.
]]

-- ---- what goes wrong -------------------------------------------------------------------------------------------

local function usage_error(command, message)
  local name = command and "rille " .. command or "rille"
  io.stderr:write(("%s: %s\ntry '%s --help'\n"):format(name, message, name))
  return 2
end

local function failure(message)
  local lines = {}
  for line in tostring(message):gmatch("[^\n]+") do
    if #lines == STDERR_LINES_MAX then break end
    lines[#lines + 1] = line
  end
  io.stderr:write("rille: ", table.concat(lines, "\n"), "\n")
  return 1
end

-- ---- subcommands -----------------------------------------------------------------------------------------------

local function load_command(name)
  if name == "-e" then return require "rille.cli.eval" end
  for _, known in ipairs(NAMES) do
    if name == known then return require("rille.cli." .. name) end
  end
end

local function unknown(name)
  if name:sub(1, 1) == "-" then
    local meant = near(name, { "--help", "--version" })
    return usage_error(nil, ("unknown option '%s'%s"):format(name, meant and ("; did you mean '%s'?"):format(meant) or ""))
  end
  local meant = near(name, NAMES)
  return usage_error(nil, ("unknown command '%s'%s"):format(name, meant and ("; did you mean '%s'?"):format(meant) or ""))
end

local function print_help(command)
  io.stdout:write(command and command.help or HELP)
  return 0
end

-- The library; nil and why it cannot be loaded.
local function load_core()
  local ok, core = pcall(require, "rille.core")
  if ok then
    require "rille.pairs"
    return core
  end
  return nil, (tostring(core):gsub("^rille: ", ""))
end

local function print_version()
  local core, message = load_core()
  if not core then return failure(message) end
  io.stdout:write(("rille %s (%s)\n"):format(ffi.string(core.rille_version()), jit.version))
  return 0
end

local function run_command(name, command, argv)
  local given, message = args.parse(argv, 2, command.spec)
  if not given then return usage_error(name, message) end
  if given.help then return print_help(command) end
  local core, core_message = load_core()
  if not core then return failure(core_message) end
  local status, why = command.main(given)
  if status == false then return usage_error(name, why) end
  if status == nil then return failure(why) end
  return status
end

-- argv: the arguments from 1 on. Returns the exit status.
function cli.main(argv)
  local name = argv[1]
  if not name then return usage_error(nil, "a command is missing") end
  local is_help = name == "--help" or name == "-h" or name == "help"
  local is_version = name == "--version" or name == "-V"
  if is_help and argv[2] and not argv[3] and name == "help" then
    local command = load_command(argv[2])
    if not command then return unknown(argv[2]) end
    return print_help(command)
  end
  if is_help or is_version then
    if argv[2] then return usage_error(nil, ("surplus argument '%s'"):format(argv[2])) end
    return is_help and print_help() or is_version and print_version()
  end
  local command = load_command(name)
  if not command then return unknown(name) end
  return run_command(name, command, argv)
end

return cli
