-- check: `rille check`. Each script is loaded as a server would load it, but in a process of its own and without its addresses:
-- a script that crashes or never comes back is a failed check, not the end of it.

local ffi = require "ffi"

local conf = require "rille.cli.conf"

ffi.cdef [[
int rille_check_fork(void) __asm__("fork");
int rille_check_waitpid(int pid, int *status, int options) __asm__("waitpid");
unsigned rille_check_alarm(unsigned seconds) __asm__("alarm");
void rille_check_exit(int status) __asm__("_exit");
]]

local check = {}

check.help = [[
usage: rille check [--conf FILE]
       rille check SCRIPT [-- KEY=VALUE ...]

Say whether a configuration and its scripts, or one script, can be served: they are read, checked and loaded, but
no address is bound and on_start is not called. Prints an `ok` line for each; exit status 1 with the reason if not.

  --conf FILE   the configuration; without it, and without a script: the one `rille run` would take
]]

check.spec = { positional = 1, rest = true, options = { conf = { value = "FILE" } } }

local LOAD_TIME_MAX = 10 -- seconds
local SIGALRM, EINTR = 14, 4

-- In the child: load the script in a state made for it, as server.lua does; ends the process.
local function load_here(settings)
  local C, server = require "rille.core", require "rille.server"
  ffi.C.rille_check_alarm(LOAD_TIME_MAX)
  settings.loops = 1 -- one loads what each would
  local ok, team, message = pcall(server.build, settings)
  if not ok then team, message = nil, team end
  if not team then
    io.stderr:write("rille: ", tostring(message), "\n")
    ffi.C.rille_check_exit(1)
  end
  C.rille_team_free(team)
  io.stdout:flush()
  ffi.C.rille_check_exit(0)
end

-- True, or false and a message; false alone when the child has said why.
local function try(settings, name)
  io.stdout:flush()
  local pid = ffi.C.rille_check_fork()
  if pid < 0 then return false, "cannot start a process to load " .. name end
  if pid == 0 then load_here(settings) end
  local status = ffi.new("int[1]")
  while ffi.C.rille_check_waitpid(pid, status, 0) < 0 do
    if ffi.errno() ~= EINTR then return false, "cannot wait for the process that loads " .. name end
  end
  local signal, code = status[0] % 128, math.floor(status[0] / 256)
  if signal == SIGALRM then
    return false, ("script %s did not finish loading within %d s"):format(name, LOAD_TIME_MAX)
  elseif signal ~= 0 then
    return false, ("script %s ended the process that loaded it with signal %d"):format(name, signal)
  elseif code ~= 0 then
    return false
  end
  return true
end

local function check_scripts(settings)
  local servers, all_good = settings.servers, true
  for _, one in ipairs(servers) do
    one.listen = {}
    settings.servers = { one }
    local ok, message = try(settings, one.script)
    if ok then
      print("ok " .. one.script)
    else
      if message then io.stderr:write("rille: ", message, "\n") end
      all_good = false
    end
  end
  return all_good and 0 or 1
end

function check.main(given)
  local script = given[1]
  if script and given.conf then return false, ("--conf and a script ('%s') exclude each other"):format(script) end
  if given.rest and not script then return false, "options after -- need a script: rille check SCRIPT -- KEY=VALUE" end
  local settings, message
  if script then
    settings, message = conf.of_script(script, { "tcp://127.0.0.1:0" }, given.rest)
  else
    settings, message = conf.of_file(given.conf)
  end
  if not settings then return nil, message end
  if not script then print("ok " .. message) end
  return check_scripts(settings)
end

return check
