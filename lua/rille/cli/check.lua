-- check: `rille check`. Each script is loaded as a server would load it and asked whether it is good (its on_stage and selftest), but
-- in a process of its own and without its addresses: a script that crashes or never comes back is a failed check, not the end of it.

local ffi = require "ffi"

local conf = require "rille.cli.conf"

ffi.cdef [[
int rille_check_fork(void) __asm__("fork");
int rille_check_waitpid(int pid, int *status, int options) __asm__("waitpid");
unsigned rille_check_alarm(unsigned seconds) __asm__("alarm");
void rille_check_exit(int status) __asm__("_exit");
void *rille_check_map(void *at, size_t size, int access, int flags, int fd, long offset) __asm__("mmap");
]]

local check = {}

check.help = [[
usage: rille check [--conf FILE]
       rille check SCRIPT [-- KEY=VALUE ...]

Say whether a configuration and its scripts, or one script, can be served: they are read, checked and loaded, and
their on_stage and selftest are run, but no address is bound and on_start is not called. Prints an `ok` line for each;
exit status 1 with the reason if not.

  --conf FILE   the configuration; without it, and without a script: the one `rille run` would take
]]

check.spec = { positional = 1, rest = true, options = { conf = { value = "FILE" } } }

local LOAD_TIME_MAX = 10 -- seconds
local GRACE = 1 -- seconds that a hook has to end in order when its time is over
local SIGALRM, EINTR = 14, 4
local READ_AND_WRITE, SHARED, ANONYMOUS = 3, 1, 32

-- What the child has come to, for its parent.
local LOADS, RUNS_HOOKS, ENDS, HAS_ANSWERED = 0, 1, 2, 3
local DOING = { [LOADS] = "loaded it", [RUNS_HOOKS] = "ran its on_stage and selftest", [ENDS] = "ended what it had started" }

local function new_progress()
  local page = ffi.C.rille_check_map(nil, ffi.sizeof("int"), READ_AND_WRITE, SHARED + ANONYMOUS, -1, 0)
  if ffi.cast("intptr_t", page) == -1 then error("no memory") end
  return ffi.cast("int *", page)
end

local progress

-- In the child: load the script in a state made for it, as server.lua does, and run its hooks; ends the process.
local function rehearse_here(settings)
  local function go_on(to, seconds)
    progress[0] = to
    ffi.C.rille_check_alarm(seconds)
  end
  go_on(LOADS, LOAD_TIME_MAX)
  settings.loops = 1 -- one loads what each would
  local ok, status, message = pcall(require("rille.server").rehearse, settings, function()
    -- one that does not park is not stopped by its own time-out
    go_on(RUNS_HOOKS, math.ceil(settings.servers[1].reload.stage_timeout) + GRACE)
  end, function() go_on(ENDS, LOAD_TIME_MAX) end)
  if not ok then status, message = nil, status end
  if not status then io.stderr:write("rille: ", tostring(message), "\n") end
  io.stdout:flush()
  progress[0] = HAS_ANSWERED
  ffi.C.rille_check_exit(status == 0 and 0 or 1)
end

-- Why the child is no proof of the script; nil: it has answered.
local function why_not(server, name, signal)
  if progress[0] == HAS_ANSWERED then return nil end
  local at = progress[0]
  if signal == SIGALRM and at == LOADS then
    return ("script %s did not finish loading within %d s"):format(name, LOAD_TIME_MAX)
  elseif signal == SIGALRM and at == RUNS_HOOKS then
    return ("script %s: on_stage and selftest did not return within %g s"):format(name, server.reload.stage_timeout)
  end
  local how = signal == 0 and "by itself" or ("with signal %d"):format(signal)
  return ("script %s ended the process that %s %s"):format(name, DOING[at], how)
end

-- True, or false and a message; false alone when the child has said why.
local function try(settings, name)
  progress = progress or new_progress()
  progress[0] = LOADS
  io.stdout:flush()
  local pid = ffi.C.rille_check_fork()
  if pid < 0 then return false, "cannot start a process to load " .. name end
  if pid == 0 then rehearse_here(settings) end
  local status = ffi.new("int[1]")
  while ffi.C.rille_check_waitpid(pid, status, 0) < 0 do
    if ffi.errno() ~= EINTR then return false, "cannot wait for the process that loads " .. name end
  end
  local signal, code = status[0] % 128, math.floor(status[0] / 256)
  local why = why_not(settings.servers[1], name, signal)
  if why then return false, why end
  return code == 0
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
