-- udp: socket.udp(), over the sockets of rille.udp. It is opened when it is bound, connected or first used.

local address = require "rille.compat.socket.address"
local misuse = require "rille.misuse"
local task = require "rille.task"
local text_of = require "rille.compat.socket.texts"
local timeouts = require "rille.compat.socket.timeouts"
local udp = require "rille.udp"

local Udp = {}
for name, method in pairs(timeouts.methods) do Udp[name] = method end

local NO_NAME = "host or service not provided, or not known"
local SIZE = 8192 -- what receive takes of a datagram when nobody says more

local M = { methods = Udp, SIZE = SIZE }

local metatable = {
  __index = Udp,
  __tostring = function(self) return self._peer and "udp{connected}" or "udp{unconnected}" end,
}

function M.new(scheme)
  return setmetatable({ _scheme = scheme, _options = {} }, metatable)
end

-- The socket below, opened if need be; or nil, err.
local function open(self, url)
  if self._is_closed then return nil, "closed" end
  if self._socket then return self._socket end
  local err
  self._socket, err = udp.open(url, { broadcast = self._options.broadcast })
  if not self._socket then return nil, text_of(err) end
  return self._socket
end

local function done(ok, err)
  if ok then return 1 end
  return nil, text_of(err)
end

function Udp:setsockname(host, port)
  timeouts.need_task("setsockname")
  local url = address.url(self._scheme, host, port)
  if not url then return nil, NO_NAME end
  if self._socket then return nil, "Invalid argument" end
  return done(open(self, url))
end

function Udp:setpeername(host, port)
  timeouts.need_task("setpeername")
  if host == "*" then return nil, "not supported" end
  local url = address.url(self._scheme, host, port)
  if not url then return nil, NO_NAME end
  local socket, err = open(self)
  if not socket then return nil, err end
  local ok
  ok, err = socket:connect(url)
  if ok then self._peer = url end
  return done(ok, err)
end

local function bytes_of(data, name)
  if type(data) == "number" then data = tostring(data) end
  if type(data) ~= "string" then misuse("bad argument #1 to '%s' (string expected, got %s)", name, type(data)) end
  return data
end

-- How many bytes went out: all of them.
local function sent(data, ok, err)
  if ok then return #data end
  return nil, text_of(err)
end

function Udp:send(data)
  timeouts.need_task("send")
  data = bytes_of(data, "send")
  if self._is_closed then return nil, "closed" end
  if not self._peer then misuse("calling 'send' on bad self (udp{connected} expected)") end
  return sent(data, self._socket:send(data))
end

function Udp:sendto(data, host, port)
  timeouts.need_task("sendto")
  data = bytes_of(data, "sendto")
  if self._peer then misuse("calling 'sendto' on bad self (udp{unconnected} expected)") end
  local url = address.url(self._scheme, host, port)
  if not url then return nil, NO_NAME end
  local socket, err = open(self)
  if not socket then return nil, err end
  return sent(data, socket:send_to(data, url))
end

-- The next datagram as a string, and the address it came from; parks at most so many seconds. Or nil, err.
local function next_datagram(self, seconds)
  local kept = self._kept
  if kept then
    self._kept = nil
    return kept.data, kept.from
  end
  local socket, err = open(self)
  if not socket then return nil, err end
  local dgram, peer = socket:receive(seconds)
  if not dgram then return nil, text_of(peer) end
  return dgram:str(), peer:address()
end

local function receive(self, size)
  timeouts.need_task("receive")
  local data, from = next_datagram(self, timeouts.left(self, timeouts.begin(self)))
  if not data then return nil, from end
  return data:sub(1, tonumber(size) or SIZE), from
end

-- What is beyond size bytes is lost.
function Udp:receive(size)
  local data, err = receive(self, size)
  if not data then return nil, err end
  return data
end

-- The same, and the sender's host and port.
function Udp:receivefrom(size)
  local data, from = receive(self, size)
  if not data then return nil, from end
  local host, port = address.parts(from)
  return data, host, port
end

function Udp:getsockname()
  local url = self._socket and self._socket:address()
  if not url then return nil, self._is_closed and "closed" or "Bad file descriptor" end
  return address.own_parts(url)
end

function Udp:getpeername()
  if not self._peer then return nil, "Transport endpoint is not connected" end
  return address.parts(self._peer)
end

-- broadcast alone, before it is opened; other options change nothing.
function Udp:setoption(name, value)
  self._options[name] = value == nil or value
  return 1
end

function Udp:getoption(name)
  return self._options[name] or false
end

function Udp:getfamily()
  return self._scheme == "udp6" and "inet6" or "inet"
end

function Udp.getfd()
  return -1
end

function Udp:dirty()
  return self._kept ~= nil
end

function Udp:close()
  if self._socket then self._socket:close() end
  self._is_closed, self._kept = true, nil
  return 1
end

-- ---- for select.lua --------------------------------------------------------------------------------------------

-- A task of its own receives the datagram that the one which selects is woken for; the next receive takes it.
local function wait_aside(self, fiber)
  local entry = {}
  entry.task = task.spawn(function()
    local data, from = next_datagram(self)
    if data then self._kept = { data = data, from = from } else self._failed = true end
    if self._waiter ~= entry then return end -- nobody waits any more
    self._waiter = nil
    task.wake(fiber)
  end)
  self._waiter = entry
end

function Udp:_look(is_to_send)
  if is_to_send or self._kept or self._is_closed or self._failed then
    self._failed = nil
    return true
  end
  if self._waiter then return nil end
  local data, from = next_datagram(self, 0)
  if data then
    self._kept = { data = data, from = from }
    return true
  end
  if from ~= "timeout" then return true end
  wait_aside(self, task.current())
  return false
end

function Udp:_leave(_, is_to_send)
  local waiter = self._waiter
  if not is_to_send and waiter then
    self._waiter = nil
    waiter.task:cancel()
  end
end

return M
