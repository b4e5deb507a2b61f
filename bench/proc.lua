-- A child process: started pinned to a core, talked to by lines, ended by its pid. Every child is in one list, so that
-- stop_all() leaves none behind; should this process die without it, the kernel sends each child a SIGTERM.
local ffi = require "ffi"
local posix = require "bench.posix"

local C = posix.C
local O_RDWR, O_CLOEXEC = 2, 0x80000
local POLLIN, WNOHANG, PR_SET_PDEATHSIG, MFD_CLOEXEC = 1, 1, 1, 1
local STOP_GRACE_S = 5

local proc = {}
proc.__index = proc

local running = {} -- in the order they were started

-- Runs in the child, and never returns.
local function exec(argv, core, stdin, stdout, stderr, parent)
  pcall(function()
    C.prctl(PR_SET_PDEATHSIG, posix.SIGTERM, 0, 0, 0)
    if C.getppid() ~= parent then C._exit(127) end
    C.signal(posix.SIGPIPE, nil)
    C.dup2(stdin, 0)
    C.dup2(stdout, 1)
    C.dup2(stderr, 2)
    if core and not posix.pin(core) then C._exit(126) end
    local args = ffi.new("const char *[?]", #argv + 1)
    for i, arg in ipairs(argv) do args[i - 1] = arg end
    args[#argv] = nil
    C.execvp(argv[1], ffi.cast("char *const *", args))
    local text = "cannot run " .. argv[1] .. ": " .. posix.error_text() .. "\n"
    C.write(2, text, #text)
  end)
  C._exit(127)
end

local function pipe()
  local ends = ffi.new("int[2]")
  if C.pipe2(ends, O_CLOEXEC) ~= 0 then error("pipe: " .. posix.error_text()) end
  return ends[0], ends[1]
end

-- argv: program and arguments. options: core (pins it); talk (stdin and stdout are pipes to this process; else stdin is
-- /dev/null and stdout goes to the log). stderr goes to the log, a file without a name.
function proc.start(argv, options)
  local log = C.memfd_create("bench-log", MFD_CLOEXEC)
  if log < 0 then error("memfd_create: " .. posix.error_text()) end
  local self = setmetatable({ argv = argv, log = log, pending = "" }, proc)
  local child_in, child_out
  if options.talk then
    child_in, self.stdin = pipe()
    self.stdout, child_out = pipe()
  else
    child_in, child_out = C.open("/dev/null", O_RDWR + O_CLOEXEC), log
  end
  local parent = C.getpid()
  local pid = C.fork()
  if pid == 0 then exec(argv, options.core, child_in, child_out, log, parent) end
  if pid > 0 then
    self.pid = pid
    running[#running + 1] = self
  end
  C.close(child_in)
  if options.talk then C.close(child_out) end
  if pid < 0 then error("fork: " .. posix.error_text()) end
  return self
end

function proc:is_running()
  if self.status then return false end
  local status = ffi.new("int[1]")
  if C.waitpid(self.pid, status, WNOHANG) == 0 then return true end
  self.status = status[0]
  return false
end

-- true when it ended by itself with status 0
function proc:has_succeeded()
  return self.status == 0
end

-- What it wrote to the log from byte `from` (0-based) on.
function proc:read_log(from)
  local parts, at, chunk = {}, from or 0, ffi.new("char[65536]")
  while true do
    local got = tonumber(C.pread(self.log, chunk, 65536, at))
    if got <= 0 then return table.concat(parts) end
    parts[#parts + 1] = ffi.string(chunk, got)
    at = at + got
  end
end

-- An error text: what went wrong, the command, the end of its log.
function proc:complaint(what)
  local log = self:read_log(0)
  return ("%s: %s\n%s"):format(what, table.concat(self.argv, " "), log:sub(-2000))
end

-- Its next line on stdout without the line end, or nil when it ended or `seconds` have passed.
function proc:read_line(seconds)
  local deadline = posix.now() + seconds
  local fds, chunk = ffi.new("bench_pollfd[1]", { { self.stdout, POLLIN, 0 } }), ffi.new("char[4096]")
  while true do
    local line, rest = self.pending:match("^([^\n]*)\n(.*)$")
    if line then
      self.pending = rest
      return line
    end
    local left_ms = math.ceil((deadline - posix.now()) * 1000)
    if left_ms <= 0 then return nil end
    if C.poll(fds, 1, left_ms) > 0 then
      local got = tonumber(C.read(self.stdout, chunk, 4096))
      if got <= 0 then return nil end
      self.pending = self.pending .. ffi.string(chunk, got)
    end
  end
end

function proc:send(text)
  return C.write(self.stdin, text, #text) == #text
end

function proc:close_stdin()
  if self.stdin then C.close(self.stdin) end
  self.stdin = nil
end

function proc:signal(number)
  if self:is_running() then C.kill(self.pid, number) end
end

-- Waits until it has ended; false when it has not within `seconds`.
function proc:wait(seconds)
  return posix.wait_for(seconds, function() return not self:is_running() end) or false
end

local function forget(self)
  for i, other in ipairs(running) do
    if other == self then table.remove(running, i) break end
  end
  self:close_stdin()
  if self.stdout then C.close(self.stdout) end
  C.close(self.log)
end

-- Ends it, if need be with SIGKILL, and frees what belongs to it.
function proc:stop()
  self:signal(posix.SIGTERM)
  if not self:wait(STOP_GRACE_S) then
    self:signal(posix.SIGKILL)
    self:wait(STOP_GRACE_S)
  end
  forget(self)
end

-- Last started, first ended: clients go before their servers.
function proc.stop_all()
  while #running > 0 do running[#running]:stop() end
end

return proc
