-- server: bin/rille as a child process, over real sockets. start() gives one that listens; stop() ends it and looks at what it
-- left: its exit status is 0, and its last record counts no block, slice or buffer. cleanup() belongs into after_each.

local ffi = require "ffi"
local net = require "spec.support.net"
local client = require "spec.support.client"

local C = net.C

local SIGKILL, SIGTERM = 9, 15
local O_WRONLY_CREATE_APPEND = 1 + 64 + 1024
local SIGNALS = { HUP = 1, INT = 2, QUIT = 3, KILL = 9, USR1 = 10, USR2 = 12, TERM = 15, STOP = 19, CONT = 18 }
local GOODBYE = "stopped: 0 blocks, 0 retained slices, 0 leaked slices, 0 buffers left"

local M = { client = client, net = net }
local Server = {}
Server.__index = Server

local servers = {}
local folder, files = nil, 0

local cwd = ffi.new("char[4096]")
local root = ffi.string(C.net_getcwd(cwd, 4096))
M.root = root

-- A folder for this spec's files; cleanup() removes it.
function M.folder()
  if not folder then
    local template = (os.getenv("TMPDIR") or "/tmp") .. "/rille-spec-XXXXXX"
    local box = ffi.new("char[?]", #template + 1, template)
    assert(C.net_mkdtemp(box) ~= nil, "mkdtemp")
    folder = ffi.string(box)
  end
  return folder
end

function M.write(name, text)
  local path = M.folder() .. "/" .. name
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

function M.read(path)
  local file = io.open(path, "rb")
  if not file then return "" end
  local text = file:read("*a")
  file:close()
  return text
end

-- ---- processes -------------------------------------------------------------------------------------------------

-- Run a command (a list) with stdout and stderr in a file; its pid. limits: `ulimit` arguments for it. passed: descriptors that
-- it gets as 3, 4, ...
local function spawn(command, output, limits, passed)
  if limits then
    local wrapped = { "sh", "-c", "ulimit " .. limits .. '; exec "$@"', "sh" }
    for _, word in ipairs(command) do wrapped[#wrapped + 1] = word end
    command = wrapped
  end
  local argv = ffi.new("const char *[?]", #command + 1)
  for i, word in ipairs(command) do argv[i - 1] = word end
  local actions, attributes, pid = ffi.new("net_actions"), ffi.new("net_attributes"), ffi.new("int[1]")
  C.net_actions_init(actions)
  C.net_actions_open(actions, 0, "/dev/null", 0, 0)
  C.net_actions_open(actions, 1, output, O_WRONLY_CREATE_APPEND, 384)
  C.net_actions_dup2(actions, 1, 2)
  local copies = {} -- above the numbers they get, or one would close another
  for i, fd in ipairs(passed or {}) do
    copies[i] = C.net_fcntl(fd, 1030, ffi.cast("int", 100)) -- F_DUPFD_CLOEXEC
    C.net_actions_dup2(actions, copies[i], 2 + i)
  end
  C.net_attributes_init(attributes)
  local none = ffi.new("net_sigset")
  C.net_sigemptyset(none)
  C.net_attributes_mask(attributes, none)
  C.net_attributes_flags(attributes, 8) -- POSIX_SPAWN_SETSIGMASK: a spec inside a loop has signals blocked
  local rc = C.net_spawn(pid, command[1], actions, attributes, ffi.cast("char *const *", argv), C.net_environ)
  C.net_actions_destroy(actions)
  C.net_attributes_destroy(attributes)
  for _, fd in ipairs(copies) do C.net_close(fd) end
  assert(rc == 0, "cannot run " .. command[1])
  return pid[0]
end

local function text_of(value, indent)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local parts = {}
  for k, v in pairs(value) do
    parts[#parts + 1] = ("%s[%s] = %s"):format(indent, text_of(k), text_of(v, indent .. "  "))
  end
  table.sort(parts)
  return "{\n" .. table.concat(parts, ",\n") .. "\n" .. indent:sub(3) .. "}"
end

-- In front of the source of a script, on its first line: `say` writes a record that Server:said() finds.
local PRELUDE = "local rille = require 'rille'; rille.log.set_rate(0); "
  .. "local function say(...) rille.log.info('said ' .. string.format(...)) end; "

-- The script's path; one that holds a newline is source and is written to a file; over: to the one that a server may have.
local function script_path(script, name, over)
  if not script:find("\n", 1, true) then return script:sub(1, 1) == "/" and script or root .. "/" .. script end
  local file, source = name or "script", PRELUDE .. script
  local before = not over and io.open(M.folder() .. "/" .. file .. ".lua")
  if before then
    -- another server of this test has it, and would reload
    if before:read("*a") ~= source then file = file .. files end
    before:close()
  end
  return M.write(file .. ".lua", source)
end
M.script_path = script_path

-- Run the server. script: a path, or source text (more than one line). opts: listen (URL or list; tcp://127.0.0.1:0), name (of the
-- script), options, timeouts, limits (of the server), server (further keys of it), conf (further keys of the configuration), log_level,
-- log_file, ulimit, allow_errors (records of level error are expected), allow_failures (so are ends of Lua states), wrap (words in
-- front of the command), passed (descriptors), command (instead of all that).
-- The process, which may not listen yet.
function M.spawn(script, opts)
  opts = opts or {}
  files = files + 1
  local output = ("%s/output%d"):format(M.folder(), files)
  local command = opts.command
  if not command then
    local server = { script = script_path(script, opts.name), listen = opts.listen or "tcp://127.0.0.1:0",
      options = opts.options, timeouts = opts.timeouts, limits = opts.limits }
    for key, value in pairs(opts.server or {}) do server[key] = value end
    local conf = { servers = { server }, log = { level = opts.log_level or "info", file = opts.log_file } }
    for key, value in pairs(opts.conf or {}) do conf[key] = value end
    local path = M.write(("conf%d.lua"):format(files), "return " .. text_of(conf, "  ") .. "\n")
    command = { root .. "/bin/rille", "run", "--conf", path }
  end
  if opts.wrap then
    local wrapped = { unpack(opts.wrap) }
    for _, word in ipairs(command) do wrapped[#wrapped + 1] = word end
    command = wrapped
  end
  local self = setmetatable({
    pid = spawn(command, output, opts.ulimit, opts.passed), output = output, log_file = opts.log_file, allow_errors = opts.allow_errors,
    allow_failures = opts.allow_failures,
  }, Server)
  self.pidfd = C.net_pidfd_open(self.pid, 0)
  servers[#servers + 1] = self
  return self
end

-- The same, when it listens: self.url, self.urls, self.port.
function M.start(script, opts)
  local self = M.spawn(script, opts)
  local listen = opts and opts.listen
  self:wait_listening(type(listen) == "table" and #listen or 1)
  return self
end

-- The way a user starts it: bin/rille run SCRIPT --listen URL -- key=value ... options: a list of "key=value". opts: listen, further
-- words for the command line (a list), and what spawn() takes besides.
function M.run(script, options, opts)
  opts = opts or {}
  local command = { root .. "/bin/rille", "run", script_path(script, opts.name), "--listen", opts.listen or "tcp://127.0.0.1:0" }
  for _, word in ipairs(opts.words or {}) do command[#command + 1] = word end
  if options then command[#command + 1] = "--" end
  for _, word in ipairs(options or {}) do command[#command + 1] = word end
  return M.start(script, { command = command, allow_errors = opts.allow_errors, ulimit = opts.ulimit })
end

-- ---- a server --------------------------------------------------------------------------------------------------

function Server:wait_listening(count)
  local urls
  net.poll_until(function()
    urls = {}
    for url in self:log():gmatch('msg="listening on ([^"]+)"') do urls[#urls + 1] = url end
    return #urls >= count or self:has_exited()
  end, 10)
  if #urls < count then error("the server does not listen:\n" .. self:tail(), 0) end
  self.urls, self.url, self.port = urls, urls[1], tonumber(urls[1]:match(":(%d+)$"))
end

-- A client of its first address, or of another URL.
function Server:connect(options, url)
  return client.connect(url or self.url, options)
end

-- All that it has written.
function Server:log()
  local text = M.read(self.output)
  if self.log_file then text = text .. M.read(self.log_file) end
  return text
end

function Server:tail()
  local text = self:log()
  return #text > 4000 and "..." .. text:sub(-4000) or text
end

-- The first capture (or the whole) of a pattern, as soon as it is in the log; fails the spec after some seconds (5).
function Server:wait_log(pattern, seconds)
  local found = net.poll_until(function()
    return self:log():match(pattern) or (self:has_exited() and (self:log():match(pattern) or false))
  end, seconds)
  if not found then error(("the log never had %q:\n%s"):format(pattern, self:tail()), 0) end
  return found
end

function Server:count_log(pattern)
  local _, count = self:log():gsub(pattern, "")
  return count
end

-- What the script said() so far, a list of strings.
function Server:said()
  local list = {}
  for text in self:log():gmatch('msg="said ([^\n]-)" loop=') do list[#list + 1] = text end
  return list
end

-- The same, when it has so many items; fails the spec when it never has.
function Server:wait_said(count, seconds)
  local list
  net.poll_until(function()
    list = self:said()
    return #list >= count
  end, seconds)
  if #list < count then
    error(("the script said %d things instead of %d:\n%s"):format(#list, count, self:tail()), 0)
  end
  return list
end

function Server:signal(name)
  C.net_kill(self.pid, SIGNALS[name] or name)
end

local status_box = ffi.new("int[1]")

-- Whether it is over; self.status then is its exit status, or "signal N".
function Server:has_exited()
  if self.status then return true end
  if C.net_waitpid(self.pid, status_box, 1) ~= self.pid then return false end
  local status = status_box[0]
  self.status = status % 128 == 0 and math.floor(status / 256) % 256 or "signal " .. status % 128
  if self.pidfd >= 0 then C.net_close(self.pidfd) end
  return true
end

-- Wait for its end: the exit status, or nil after so many seconds (10).
function Server:wait_exit(seconds)
  local deadline = net.deadline(seconds or 10)
  while not self:has_exited() do
    if self.pidfd < 0 then
      net.nap(2)
      if net.now() > deadline then return nil end
    elseif not net.wait(self.pidfd, net.POLLIN, deadline) then
      return nil
    end
  end
  return self.status
end

function Server:kill()
  if self:has_exited() then return end
  C.net_kill(self.pid, SIGKILL)
  C.net_kill(self.pid, SIGNALS.CONT)
  self:wait_exit(10)
end

-- What its end has to look like.
function Server:check_end()
  local log = self:log()
  if self.status ~= 0 then error(("the server's exit status is %s:\n%s"):format(tostring(self.status), self:tail()), 0) end
  local last = log:match("([^\n]*)\n$") or log
  if not last:find(GOODBYE, 1, true) then error("the server left something behind:\n" .. self:tail(), 0) end
  if not self.allow_failures and log:find("dispatcher failed", 1, true) then error("the dispatcher failed:\n" .. self:tail(), 0) end
  if not self.allow_errors and log:find("level=error", 1, true) then
    error("the server logged an error:\n" .. log:match("[^\n]*level=error[^\n]*"), 0)
  end
end

-- SIGTERM, wait, check_end.
function Server:stop(seconds)
  if self.is_checked then return end
  self.is_checked = true
  if self:has_exited() then error(("the server ended by itself, status %s:\n%s"):format(self.status, self:tail()), 0) end
  C.net_kill(self.pid, SIGTERM)
  if not self:wait_exit(seconds or 10) then
    self:kill()
    error("the server does not stop:\n" .. self:tail(), 0)
  end
  self:check_end()
end

-- It is supposed to have ended otherwise; cleanup() does not look at it.
function Server:forget()
  self.is_checked = true
end

-- ---- what the system says of it --------------------------------------------------------------------------------

-- Seconds of processor time so far.
function Server:cpu()
  local rest = M.read(("/proc/%d/stat"):format(self.pid)):match("^.*%) (.*)$")
  local fields = {}
  for word in rest:gmatch("%S+") do fields[#fields + 1] = word end
  return (tonumber(fields[12]) + tonumber(fields[13])) / 100
end

-- Bytes of memory it has now.
function Server:rss()
  return tonumber(M.read(("/proc/%d/status"):format(self.pid)):match("VmRSS:%s*(%d+)")) * 1024
end

local function count_of(self, what)
  local count = 0
  local list = io.popen(("ls /proc/%d/%s"):format(self.pid, what))
  for _ in list:lines() do count = count + 1 end
  list:close()
  return count
end

-- How many descriptors it has.
function Server:descriptors()
  return count_of(self, "fd")
end

-- How many threads it has.
function Server:threads()
  return count_of(self, "task")
end

-- The records of so many loops' states that SIGQUIT asks for, a list of tables of numbers.
function Server:states(count)
  local before = #self:log()
  self:signal("QUIT")
  local records = net.poll_until(function()
    local list = {}
    for record in self:log():sub(before + 1):gmatch('msg="state" [^\n]*\n') do list[#list + 1] = record end
    return #list >= count and list
  end)
  if not records then error("no answer to SIGQUIT:\n" .. self:tail(), 0) end
  local states = {}
  for i, record in ipairs(records) do
    states[i] = {}
    for key, value in record:gmatch("([%w_]+)=(%d+)") do states[i][key] = tonumber(value) end
  end
  return states
end

-- That of one loop, the first to answer: for servers with one.
function Server:state()
  return self:states(1)[1]
end

local function text_of_state(state)
  local parts = {}
  for k, v in pairs(state) do parts[#parts + 1] = k .. "=" .. v end
  table.sort(parts)
  return table.concat(parts, " ")
end

-- Wait until the state of each of so many loops (1) fulfils something: fn(state) -> true. The states, more than one as a list; fails the
-- spec after some seconds.
function Server:wait_state(fn, seconds, count)
  count = count or 1
  local last
  local found = net.poll_until(function()
    last = self:states(count)
    for i = 1, count do
      if not fn(last[i]) then return false end
    end
    return true
  end, seconds)
  if not found then
    local texts = {}
    for i, state in ipairs(last) do texts[i] = text_of_state(state) end
    error("the state never came about: " .. table.concat(texts, "\n"), 0)
  end
  return count > 1 and last or last[1]
end

local function has_none(state) return state.connections == 0 end

-- Wait until none of so many loops has a connection.
function Server:wait_empty(count)
  return self:wait_state(has_none, nil, count)
end

-- For after_each: everything this spec opened is closed, every server stopped and checked.
function M.cleanup()
  client.close_all()
  local message
  for _, one in ipairs(servers) do
    local ok, why = pcall(one.stop, one)
    if not ok then message = message or why end
    one:kill()
  end
  servers = {}
  if folder then os.execute("rm -rf '" .. folder .. "'") end
  folder = nil
  if message then error(message, 0) end
end

return M
