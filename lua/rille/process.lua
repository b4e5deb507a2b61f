-- process: rille.process, programs that scripts start, talk to and wait for. See docs/process.md. The start is done by a worker (io.lua),
-- the end is seen by the loop, on a descriptor of the kernel's.

local ffi = require "ffi"

local C = require "rille.core"
local conn = require "rille.conn"
local errors = require "rille.errors"
local io = require "rille.io"
local misuse = require "rille.misuse"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local text = errors.text

local OUTPUT_MAX, RUN_TIMEOUT = 2 ^ 20, 60
local KILL = 9

local err_box = ffi.new("int[1]")
local options_t = ffi.typeof("rille_spawn_options")

local process = {}
local Process = {}
Process.__index = Process

local held = setmetatable({}, { __mode = "k" }) -- processes of this run that were not closed

-- ---- what to start ---------------------------------------------------------------------------------------------

local STDIO = {
  null = C.RILLE_STDIO_NULL, pipe = C.RILLE_STDIO_PIPE, inherit = C.RILLE_STDIO_INHERIT, stdout = C.RILLE_STDIO_OUTPUT,
}
local STREAMS = { "stdin", "stdout", "stderr" }
local KNOWN = {
  stdin = true, stdout = true, stderr = true, env = true, inherit_env = true, cwd = true, pty = true, group = true,
  detach = true, timeout = true,
}
local KNOWN_TO_RUN = {
  stdin = true, stdout = true, stderr = true, env = true, inherit_env = true, cwd = true, group = true, timeout = true,
  input = true, max_output = true,
}

local function is_text(value)
  return type(value) == "string" and not value:find("%z")
end

local function check_options(options, what, known)
  if type(options) ~= "table" then
    misuse("bad argument #1 to '%s' (a table with the command and its arguments expected, got %s)", what, type(options))
  end
  for key in pairs(options) do
    if type(key) ~= "number" and not known[key] then misuse("%s: there is no option '%s'", what, tostring(key)) end
  end
  local count = #options
  if count == 0 or options[1] == "" then misuse("%s: the command is missing", what) end
  if count > C.RILLE_PROCESS_ARGUMENTS_MAX then
    misuse("%s: at most %d arguments", what, tonumber(C.RILLE_PROCESS_ARGUMENTS_MAX))
  end
  for i = 1, count do
    if not is_text(options[i]) then
      misuse("%s: argument %d: a string without NUL bytes expected, got %s", what, i - 1, type(options[i]))
    end
  end
end

local function packed(list)
  return table.concat(list, "\0") .. "\0"
end

-- The environment as a list of NAME=value, NULL for that of this process.
local function environment_of(options, what)
  local changes = options.env
  if changes ~= nil and type(changes) ~= "table" then misuse("%s: env: a table expected, got %s", what, type(changes)) end
  if changes == nil and options.inherit_env ~= false then return nil end
  local lines = {}
  local i = 0
  while options.inherit_env ~= false do
    local line = C.rille_environment_at(i)
    if line == nil then break end
    line = ffi.string(line)
    if not changes or changes[line:match("^[^=]*")] == nil then lines[#lines + 1] = line end
    i = i + 1
  end
  for name, value in pairs(changes or {}) do
    if not is_text(name) or name == "" or name:find("=", 1, true) then
      misuse("%s: env: '%s' is no name of a variable", what, tostring(name))
    end
    if type(value) == "number" then value = tostring(value) end
    if value and not is_text(value) then
      misuse("%s: env.%s: a string, or false for none, expected, got %s", what, name, type(value))
    end
    if value then lines[#lines + 1] = name .. "=" .. value end
  end
  return #lines > 0 and packed(lines) or "", #lines
end

local function stream_of(options, i, default, what)
  local name = STREAMS[i]
  local value = options[name]
  if value == nil then value = default end
  if type(value) == "number" and value % 1 == 0 and value >= 0 then return value end
  local kind = type(value) == "string" and STDIO[value]
  if not kind or (value == "stdout" and i ~= 3) then
    misuse("%s: %s: \"pipe\", \"null\", \"inherit\"%s or a descriptor expected, got %s", what, name,
      i == 3 and ", \"stdout\"" or "", tostring(value))
  end
  return kind
end

local function set_terminal(o, pty, what)
  if not pty then return end
  local size = type(pty) == "table" and pty or {}
  if pty ~= true and type(pty) ~= "table" then misuse("%s: pty: true or { rows =, columns = } expected, got %s", what, type(pty)) end
  local rows, columns = size.rows or 24, size.columns or 80
  for _, n in ipairs { rows, columns } do
    if type(n) ~= "number" or n % 1 ~= 0 or n < 1 or n > 65535 then misuse("%s: pty: rows and columns from 1 to 65535", what) end
  end
  o.pty, o.rows, o.columns = 1, rows, columns
end

-- The options for C, and what they point into.
local function read_options(options, what, defaults)
  local o = options_t()
  local args = packed(options)
  o.args, o.args_size = args, #args
  local env, count = environment_of(options, what)
  if env then o.env, o.env_size = env, count == 0 and 0 or #env end
  local cwd = options.cwd
  if cwd ~= nil and not is_text(cwd) then misuse("%s: cwd: a path expected, got %s", what, type(cwd)) end
  if cwd then o.cwd = cwd end
  for i = 1, 3 do o.stdio[i - 1] = stream_of(options, i, defaults[i], what) end
  set_terminal(o, options.pty, what)
  o.group = options.group ~= false and 1 or 0
  o.detach = options.detach and 1 or 0
  return o, { args, env, cwd }
end

-- ---- the start -------------------------------------------------------------------------------------------------

-- A stream as a connection; nil when there is none.
local function adopt(self, i)
  local p = C.rille_process_adopt(self._p, i, state.default_service, err_box)
  if p ~= nil then return conn.own(p) end
  if err_box[0] ~= 0 then return nil, text[-err_box[0]] end
  return nil
end

local function start(options, what, defaults, deadline)
  local o, anchors = read_options(options, what, defaults)
  local job, err, message = io.spawn(deadline, o)
  if not job then return nil, err, message end
  anchors[1] = nil -- C has copies; they had to live until here
  local p = ffi.gc(C.rille_process_take(job), C.rille_process_close)
  io.drop(job)
  local self = setmetatable({ pid = C.rille_process_pid(p), _p = p, _gate = io.new_gate(), _detached = options.detach }, Process)
  held[self] = true
  for i, name in ipairs(STREAMS) do
    local stream
    stream, err = adopt(self, i - 1)
    if err then
      self:close()
      return nil, err, ("cannot use the %s of %s: %s"):format(name, options[1], err)
    end
    self[name] = stream
  end
  if options.pty then self.stdout = self.stdin end
  return self
end

-- Start a program: { "command", "argument", ... }, found on PATH. Options: stdin ("null"), stdout ("pipe"), stderr ("inherit"), env,
-- inherit_env, cwd, pty, group (true), detach, timeout (for the start). A process; or nil, err, message.
function process.spawn(options)
  io.need_task("process.spawn")
  check_options(options, "spawn", KNOWN)
  return start(options, "spawn", { "null", "pipe", "inherit" }, io.deadline(options.timeout, "spawn"))
end

-- ---- the end ---------------------------------------------------------------------------------------------------

local function reap(self)
  local status = err_box
  local result = C.rille_process_reap(self._p, status)
  if result == 0 then return nil end
  local number = status[0]
  if result < 0 then
    self._status = {} -- somebody else has asked for it
  elseif number >= 0 then
    self._status = { exit = number }
  else
    self._status = { signal = -number }
  end
  return self._status
end

local function await(self, deadline)
  local status = reap(self)
  while not status do
    local left = deadline and math.max(0, deadline - C.rille_now())
    local ok, err = timer.wait(C.rille_process_exit_fd(self._p), "r", left)
    status = reap(self)
    if not ok and not status then return nil, err end
  end
  return status
end

local function let_go(self)
  if not self._p then return end
  C.rille_process_close(ffi.gc(self._p, nil))
  self._p = false
  held[self] = nil
end

local function leave(self, ok, ...)
  self._is_awaited = false
  if self._is_closed then let_go(self) end
  self._gate:release()
  if not ok then error((...), 0) end
  return ...
end

-- Park until it has ended, at most so many seconds: { exit = status } or { signal = number }; the same table at each call. nil, err:
-- "timeout", "closed".
function Process:wait(timeout)
  if self._status then return self._status end
  io.need_task("process:wait")
  local deadline = timeout and C.rille_now() + timer.seconds(timeout, "wait") / 1000
  local ok, err = self._gate:acquire(timeout)
  if not ok then return nil, err end
  if self._status or not self._p then
    self._gate:release()
    if self._status then return self._status end
    return nil, "closed"
  end
  self._is_awaited = true
  return leave(self, pcall(await, self, deadline))
end

local SIGNALS = {
  HUP = 1, INT = 2, QUIT = 3, KILL = 9, USR1 = 10, USR2 = 12, PIPE = 13, ALRM = 14, TERM = 15, CONT = 18, STOP = 19,
  TSTP = 20, WINCH = 28,
}

-- Send a signal ("TERM", a name or number), to its whole group with "group". True, or nil, err: "not found" (it has ended, and was waited
-- for), "closed".
function Process:kill(signal, whom)
  if signal == nil then signal = "TERM" end
  local number = SIGNALS[signal] or signal
  if type(number) ~= "number" or number % 1 ~= 0 or number < 0 or number > 64 then
    misuse("bad argument #1 to 'kill' (a signal such as \"TERM\" expected, got %s)", tostring(signal))
  end
  if whom ~= nil and whom ~= "group" then misuse("bad argument #2 to 'kill' (\"group\" expected, got %s)", tostring(whom)) end
  if not self._p then return nil, "closed" end
  local code = C.rille_process_kill(self._p, number, whom and 1 or 0)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- Its streams are closed and it is given up: SIGTERM for it and its group if it runs, unless it is detached. It becomes no zombie.
function Process:close()
  if not self._p or self._is_closed then return true end
  self._is_closed = true
  for _, name in ipairs(STREAMS) do
    if self[name] then self[name]:close() end
  end
  if not self._is_awaited then
    let_go(self)
  elseif not self._detached then
    C.rille_process_kill(self._p, SIGNALS.TERM, 1) -- who waits for it lets it go
  end
  return true
end

Process.__tostring = function(self)
  return ("process %d"):format(self.pid)
end

-- The run is over, and every process that is not detached with it.
function process.reset()
  for self in pairs(held) do let_go(self) end
end

-- ---- run -------------------------------------------------------------------------------------------------------

-- All of a stream; nil, err when it is too much.
local function read_all(stream, max)
  local content = require("string.buffer").new()
  while true do
    local piece = stream:read()
    if not piece then return content:tostring() end
    if #content + piece:len() > max then return nil, "too large" end
    content:putcdata(piece:ptr())
    stream:release()
  end
end

-- A task of its own for a stream beside stdout: what fails there ends the process, so that nobody waits for the rest.
local function beside(run, fn, ...)
  return task.spawn(function(...)
    local ok, err = fn(...)
    if ok == nil and not run.failure then
      run.failure = err
      run.process:kill(KILL, "group")
    end
    return ok
  end, ...)
end

local function feed(stream, input)
  stream:send(input) -- that it does not want all of it is no failure
  stream:close()
  return true
end

local function collect(run, options, max)
  local proc = run.process
  if options.input ~= nil then run.tasks[1] = beside(run, feed, proc.stdin, options.input) end
  local errors_of = proc.stderr and beside(run, read_all, proc.stderr, max)
  run.tasks[#run.tasks + 1] = errors_of
  local output, err
  if proc.stdout then
    output, err = read_all(proc.stdout, max)
    if not output then return nil, run.failure or err end
  end
  local error_text = errors_of and errors_of:join() or nil
  if run.failure then return nil, run.failure end
  local status
  status, err = proc:wait()
  if not status then return nil, err end
  return status, output, error_text
end

local MESSAGES = { timeout = "it took longer than allowed", ["too large"] = "it wrote more than max_output allows" }

local function finish(run, ok, status, err, error_text)
  if not ok or not status then run.process:kill(KILL, "group") end
  for _, helper in ipairs(run.tasks) do helper:cancel() end
  run.process:close()
  if not ok then error(status, 0) end
  if not status then return nil, err, MESSAGES[err] or err end
  return status, err, error_text
end

-- Start a program, read what it writes and wait for its end: status (as of wait), stdout, stderr as strings. Options as of spawn, but
-- for pty and detach, and: input (a string, slice or LinkBuffer for its stdin), max_output (1 MiB, of each), timeout (60 s; 0: none),
-- at whose end the process and its group are killed. nil, err, message: also "timeout" and "too large".
function process.run(options)
  io.need_task("process.run")
  check_options(options, "run", KNOWN_TO_RUN)
  local max, timeout = options.max_output or OUTPUT_MAX, options.timeout or RUN_TIMEOUT
  if type(max) ~= "number" or not (max >= 0) then misuse("run: max_output: bytes, 0 or more, expected, got %s", tostring(max)) end
  timer.seconds(timeout, "run")
  if options.input ~= nil and options.stdin ~= nil then misuse("run: input and stdin exclude each other") end
  if options.input ~= nil then require("rille.file").check_content(options.input, "run: input", 1) end
  local has_input = options.input ~= nil
  local started = C.rille_now()
  local proc, err, message = start(options, "run", { has_input and "pipe" or "null", "pipe", "pipe" }, io.deadline(timeout, "run"))
  if not proc then return nil, err, message end
  local run = { process = proc, tasks = {} }
  if timeout == 0 then return finish(run, pcall(collect, run, options, max)) end
  local left = math.max(0, timeout - (C.rille_now() - started))
  return finish(run, pcall(task.with_timeout, left, collect, run, options, max))
end

return process
