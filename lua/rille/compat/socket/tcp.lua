-- tcp: socket.tcp() and its kin. An object is what LuaSocket calls a master, then a client (over a connection of Rille) or a server (over
-- a listener); also those of Unix sockets, see unix.lua.

local address = require "rille.compat.socket.address"
local dial = require "rille.dial"
local listener = require "rille.compat.socket.listener"
local misuse = require "rille.misuse"
local options = require "rille.compat.socket.options"
local stream = require "rille.compat.socket.stream"
local task = require "rille.task"
local text_of = require "rille.compat.socket.texts"
local timeouts = require "rille.compat.socket.timeouts"
local timer = require "rille.timer"

local Tcp = {}
for _, part in ipairs { stream.methods, options.methods } do
  for name, method in pairs(part) do Tcp[name] = method end
end

local NO_NAME = "host or service not provided, or not known"
local POLL_TIME = 60 -- seconds for a connect that nobody waits for

local M = { methods = Tcp }

local metatable = {
  __index = Tcp,
  __tostring = function(self) return ("%s{%s}"):format(self._scheme, self._kind) end,
}

function M.new(scheme)
  return setmetatable({ _scheme = scheme, _kind = "master" }, metatable)
end

local function expect(self, kind, what)
  if self._kind == kind or self._is_closed then return end
  misuse("calling '%s' on bad self (%s{%s} expected, got %s)", what, self._scheme, kind, tostring(self))
end

-- The URL of what bind and connect are given; nil, err.
local function url_of(self, host, port)
  if self._scheme == "unix" then return "unix://" .. tostring(host) end
  local url = address.url(self._scheme, host, port)
  if not url then return nil, NO_NAME end
  return url
end

-- A dial's or a listener's error. That a path is not there is another text than that of a name.
local function failed(self, err)
  if self._scheme == "unix" and err == "not found" then return nil, "No such file or directory" end
  return nil, text_of(err)
end

local function become_client(self, conn)
  self._kind = "client"
  stream.take(self, conn)
  options.settle(self)
end

-- ---- connecting ------------------------------------------------------------------------------------------------

local function options_of(self, seconds)
  local own = { timeout = seconds or 0 }
  if not self._bound or self._scheme == "unix" then return own end
  local host, port = address.parts(self._bound)
  own.bind = (host:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(host, port)
  return own
end

-- The place that bind took is given up for the connection that comes from there.
local function leave_place(self)
  local place = self._listener
  if not place then return end
  self._listener = nil
  place:close()
  timer.sleep(0) -- the kernel has it back
end

-- settimeout(0): a task connects, and whoever asks again, or selects, sees how far it is.
local function connect_aside(self, url)
  self._attempt = task.spawn(function()
    local conn, err = dial.dial(url, options_of(self, POLL_TIME))
    if conn and self._is_closed then conn:abort() end
    self._outcome = { conn = conn, err = err }
    local waiting = self._waiting or {}
    self._waiting = nil
    for fiber in pairs(waiting) do task.wake(fiber) end
  end)
end

-- What became of it: 1, or nil, err; nil, "timeout" when it is under way.
local function outcome(self)
  local done = self._outcome
  if not done then return nil, "timeout" end
  self._attempt, self._outcome = nil, nil
  if not done.conn then return failed(self, done.err) end
  become_client(self, done.conn)
  return 1
end

-- Where a connect that was begun is over, the socket is a client even before connect is called again, which is told so once.
local function settle(self)
  if self._outcome and self._outcome.conn then
    outcome(self)
    self._is_news = true
  end
end

function Tcp:connect(host, port)
  timeouts.need_task("connect")
  if self._is_closed then return nil, "closed" end
  settle(self)
  if self._is_news then
    self._is_news = nil
    return 1
  end
  if self._kind == "client" then return nil, "already connected" end
  expect(self, "master", "connect")
  local url, err = url_of(self, host, port)
  if not url then return nil, err end
  self._host = self._scheme ~= "unix" and tostring(host) or nil
  local seconds = timeouts.left(self, timeouts.begin(self))
  leave_place(self)
  if seconds == 0 or self._attempt then
    if not self._attempt then connect_aside(self, url) end
    if not self._outcome then timer.sleep(0) end -- it begins, and what needs no time is over
    return outcome(self)
  end
  local conn
  conn, err = dial.dial(url, options_of(self, seconds))
  if not conn then return failed(self, err) end
  if self._is_closed then
    conn:abort()
    return nil, "closed"
  end
  become_client(self, conn)
  return 1
end
Tcp.setpeername = Tcp.connect

-- ---- serving ---------------------------------------------------------------------------------------------------

-- The place is taken at once, and who comes waits until there is an accept.
local function open_listener(self, url, backlog)
  local place, err = listener.open(url, backlog)
  if not place then return failed(self, err) end
  self._listener, self._bound = place, url
  return 1
end

function Tcp:bind(host, port)
  timeouts.need_task("bind")
  if self._is_closed then return nil, "closed" end
  expect(self, "master", "bind")
  if self._listener then return nil, "Invalid argument" end
  local url, err = url_of(self, host, port)
  if not url then return nil, err end
  return open_listener(self, url)
end
Tcp.setsockname = Tcp.bind

-- backlog: how many wait for accept here; further ones wait in the kernel.
function Tcp:listen(backlog)
  timeouts.need_task("listen")
  if self._is_closed then return nil, "closed" end
  expect(self, "master", "listen")
  if not self._listener then
    if self._scheme == "unix" then return nil, "Invalid argument" end
    local ok, err = open_listener(self, url_of(self, "*", 0))
    if not ok then return nil, err end
  end
  self._listener:set_backlog(backlog)
  self._kind = "server"
  return 1
end

-- The next client; parks until there is one.
function Tcp:accept()
  timeouts.need_task("accept")
  expect(self, "server", "accept")
  if self._is_closed then return nil, "closed" end
  local conn, err = self._listener:accept(self)
  if not conn then return nil, text_of(err) end
  local client = M.new(self._scheme)
  become_client(client, conn)
  return client
end

-- ---- the end, and the rest -------------------------------------------------------------------------------------

function Tcp:close()
  if self._listener then self._listener:close() end
  settle(self)
  if self._attempt then self._attempt:cancel() end
  if self._conn then self._conn:close() end
  self._is_closed, self._attempt = true, nil
  return 1
end

-- how: "both" (default), "send", "receive".
function Tcp:shutdown(how)
  how = how or "both"
  if how ~= "both" and how ~= "send" and how ~= "receive" then
    misuse("bad argument #1 to 'shutdown' (invalid option '%s')", tostring(how))
  end
  if not self._conn then return nil, "Transport endpoint is not connected" end
  if how ~= "send" then self._is_deaf = true end
  if how ~= "receive" then
    self._conn:shutdown "write"
    self._is_shut = true
  end
  return 1
end

-- host, port (a string, as LuaSocket has it here), family of this end.
function Tcp:getsockname()
  settle(self)
  if self._is_closed then return nil, "closed" end
  local url = self._conn and self._conn:local_address() or self._listener and self._listener:address()
  if not url then return nil, "Bad file descriptor" end
  return address.own_parts(url)
end

-- host, port (a number), family of the other one.
function Tcp:getpeername()
  settle(self)
  if self._is_closed then return nil, "closed" end
  local peer = self._conn and self._conn:peer()
  if not peer then return nil, "Transport endpoint is not connected" end
  return address.parts(peer)
end

function Tcp:getfamily()
  return self._scheme == "tcp6" and "inet6" or self._scheme == "unix" and "unix" or "inet"
end

function Tcp:send(data, i, j)
  settle(self)
  if self._conn and not self._is_closed then return stream.methods.send(self, data, i, j) end
  expect(self, "client", "send")
  return nil, "closed", 0
end

function Tcp:receive(pattern, prefix)
  settle(self)
  if self._conn and not self._is_closed then return stream.methods.receive(self, pattern, prefix) end
  expect(self, "client", "receive")
  return nil, "closed", prefix or ""
end

-- ---- for select.lua --------------------------------------------------------------------------------------------

local function watch_attempt(self)
  self._waiting = self._waiting or {}
  self._waiting[task.current()] = true
  return false
end

local function leave_attempt(self, fiber)
  if self._waiting then self._waiting[fiber] = nil end
end

function Tcp:_look(is_to_send)
  settle(self)
  if self._is_closed then return true end
  if self._conn and is_to_send then return stream.look_to_send(self) end
  if self._conn then return stream.look(self) end
  if self._kind == "server" then
    if is_to_send then return false end -- which it never can
    if self._listener:is_ready() then return true end
    self._listener:watch()
    return false
  end
  if self._attempt and not self._outcome then return watch_attempt(self) end
  return true
end

function Tcp:_leave(fiber, is_to_send)
  if self._listener then self._listener:leave(fiber) end
  leave_attempt(self, fiber)
  if is_to_send then stream.leave_to_send(self, fiber) else stream.leave(self) end
end

return M
