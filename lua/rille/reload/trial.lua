-- trial: with reload.isolate a new version is tried in a process of its own before it is staged in this one: what crashes there, or calls
-- os.exit, is a failed check. The process is a plain luajit, whatever program this is; its stdin says what to load.

local ffi = require "ffi"
local buffer = require "string.buffer"

local process = require "rille.process"

local trial = {}

local OUTPUT_MAX = 2 ^ 22 -- bytes that a trial may write
local TEXT_MAX = 4096     -- of these in the report, the last ones

-- What the process is to run: the library, from where this state has it.
local CODE = "package.path, package.cpath = %q, %q os.exit(require('rille.reload.trial').main(), true)"

-- ---- here ------------------------------------------------------------------------------------------------------

ffi.cdef [[
ssize_t rille_trial_readlink(const char *path, char *to, size_t size) __asm__("readlink");
int rille_trial_getpid(void) __asm__("getpid");
]]

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function find_on_path(name)
  if name:find("/", 1, true) then return exists(name) and name or nil end
  for folder in (os.getenv("PATH") or ""):gmatch("[^:]+") do
    if exists(folder .. "/" .. name) then return folder .. "/" .. name end
  end
end

-- The luajit that runs this; nil when it is another program that has LuaJIT inside. By way of /proc, so that it is there even if the file
-- was replaced.
local function own_luajit()
  local box = ffi.new("char[4096]")
  local size = ffi.C.rille_trial_readlink("/proc/self/exe", box, 4096)
  if size <= 0 then return nil end
  local name = ffi.string(box, size):gsub(" %(deleted%)$", ""):match("[^/]*$")
  return name:find("^luajit") and ("/proc/%d/exe"):format(ffi.C.rille_trial_getpid()) or nil
end

-- As bin/rille looks for it.
local function find_luajit()
  local named = os.getenv("RILLE_LUAJIT")
  if named and named ~= "" then return find_on_path(named) end
  return own_luajit() or find_on_path "luajit" or find_on_path "luajit2"
end

-- The configuration as far as one server needs it, on one loop that nobody reaches.
local function settings_of(conf, server)
  local one = {}
  for key, value in pairs(server) do one[key] = value end
  one.listen, one.only_loop = {}, nil
  return { loops = 1, servers = { one }, timeouts = conf.timeouts, io = conf.io, dev = conf.dev, path = conf.path, cpath = conf.cpath,
    limits = conf.limits, drain_timeout = conf.drain_timeout, debug = conf.debug, dicts = conf.dicts, topics = conf.topics,
    workers = conf.workers, pools = conf.pools, workers_timeout = conf.workers_timeout, log = { format = conf.log.format } }
end

-- What a process wrote, without the end of the line, and not too much of it.
local function tail_of(text)
  text = (text or ""):gsub("%s+$", "")
  if #text > TEXT_MAX then text = "..." .. text:sub(-TEXT_MAX) end
  return (text:gsub("^rille: ", ""))
end

-- Why the process is no proof of the script.
local function problem_of(label, seconds, status, err, said)
  if not status then
    if err == "timeout" then
      return ("%s: it did not come up in a process of its own within %g s (reload.stage_timeout)"):format(label, seconds)
    end
    return ("%s: cannot be tried in a process of its own (reload.isolate): %s"):format(label, said or err)
  end
  local text = tail_of(said)
  local how = status.signal and "ended by signal " .. status.signal or "exit status " .. tostring(status.exit)
  if status.exit == 1 and text ~= "" then return ("%s: tried in a process of its own: %s"):format(label, text) end
  return ("%s: tried in a process of its own: %s%s"):format(label, how, text ~= "" and ": " .. text or "")
end

-- Load a server's script in a process of its own, and run its on_stage and selftest there, within so many seconds. conf: the configuration;
-- server: this server's part of it. Parks. True, or nil and why not.
function trial.run(label, conf, server, seconds)
  local luajit = find_luajit()
  if not luajit then
    return nil, ("%s: reload.isolate needs luajit for a process of its own, and found none: name it in RILLE_LUAJIT"):format(label)
  end
  local word = ("passed %.17g %d"):format(math.random(), ffi.C.rille_trial_getpid()) -- nothing that a script writes by itself
  local input = buffer.encode { conf = settings_of(conf, server), word = word }
  local status, output, said = process.run { luajit, "-e", CODE:format(package.path, package.cpath), input = input, timeout = seconds,
    max_output = OUTPUT_MAX }
  if status and status.exit == 0 and output:sub(-#word) == word then return true end
  return nil, problem_of(label, seconds, status, output, said)
end

-- ---- in the process --------------------------------------------------------------------------------------------

-- The exit status.
function trial.main()
  local plan = buffer.decode(io.stdin:read("*a"))
  require("rille.log").configure { level = "error" }
  local function nothing() end
  local ok, status, message = pcall(require("rille.server").rehearse, plan.conf, nothing, nothing)
  if not ok then status, message = nil, status end
  if not status then io.stderr:write("rille: ", tostring(message), "\n") end
  if status == 0 then io.stdout:write(plan.word) end
  return status == 0 and 0 or 1
end

return trial
