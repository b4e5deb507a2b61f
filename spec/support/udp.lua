-- udp: datagram clients for specs, over UDP and Unix sockets. Every wait has a deadline; close_all() belongs into after_each.

local ffi = require "ffi"
local net = require "spec.support.net"

ffi.cdef [[
long net_sendto(int fd, const void *from, size_t size, int flags, const void *address, unsigned length) __asm__("sendto");
]]

local C = net.C
local SOCK_DGRAM, SOCK_FLAGS = 2, 0x80000 + 0x800 -- CLOEXEC, NONBLOCK
local SOL_SOCKET, SO_SNDBUF, SO_RCVBUF = 1, 7, 8
local IPPROTO_UDP, UDP_SEGMENT = 17, 103
local ROOM = 256 * 1024

local Client = {}
Client.__index = Client

local M = {}
local open = {}
local room = ffi.new("uint8_t[?]", ROOM)

local function parse(url)
  return net.parse((url:gsub("^udp", "tcp"):gsub("^unixgram", "unix")))
end

local function fail(self, format, ...)
  error(("datagram client of %s: %s"):format(self.url, format:format(...)), 0)
end

-- A socket that is connected to url. options: bind (a URL; a Unix socket without it gets a name of the kernel's), receive_buffer.
function M.connect(url, options)
  options = options or {}
  local family, address, size = parse(url)
  local fd = C.net_socket(family, SOCK_DGRAM + SOCK_FLAGS, 0)
  if fd < 0 then error("no socket: " .. net.errno_name(ffi.errno()), 0) end
  local self = setmetatable({ fd = fd, url = url, timeout = 5 }, Client)
  open[self] = true
  net.set_option(fd, SOL_SOCKET, SO_SNDBUF, 1024 * 1024)
  net.set_option(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer or 4 * 1024 * 1024)
  if options.bind then
    local _, own, own_size = parse(options.bind)
    if C.net_bind(fd, own, own_size) ~= 0 then fail(self, "bind: %s", net.errno_name(ffi.errno())) end
  elseif family == net.AF_UNIX and not options.has_no_name then
    C.net_bind(fd, address, 2)
  end
  if not options.is_unconnected and C.net_connect(fd, address, size) ~= 0 then
    fail(self, "connect: %s", net.errno_name(ffi.errno()))
  end
  return self
end

-- True, or the errno's name.
function Client:try_send(bytes)
  if C.net_send(self.fd, bytes, #bytes, 0x4000) >= 0 then return true end
  return net.errno_name(ffi.errno())
end

function Client:send(bytes)
  local deadline = net.deadline(self.timeout)
  while true do
    local sent = self:try_send(bytes)
    if sent == true then return self end
    if sent ~= "EAGAIN" then fail(self, "send: %s", sent) end
    if net.now() > deadline then fail(self, "send: the server takes nothing") end
    net.nap(1)
  end
end

-- Without a connection, to another URL.
function Client:send_to(bytes, url)
  local _, address, size = parse(url)
  if C.net_sendto(self.fd, bytes, #bytes, 0, address, size) < 0 then fail(self, "sendto: %s", net.errno_name(ffi.errno())) end
  return self
end

-- From now on what is sent goes out as datagrams of so many bytes (UDP_SEGMENT). Whether the kernel has that.
function Client:segment(size)
  return net.set_option(self.fd, IPPROTO_UDP, UDP_SEGMENT, size)
end

-- The next datagram, or nil after so many seconds (5).
function Client:try_receive(seconds)
  local deadline = net.deadline(seconds or self.timeout)
  while true do
    local got = tonumber(C.net_recv(self.fd, room, ROOM, 0))
    if got >= 0 then return ffi.string(room, got) end
    local errno = ffi.errno()
    if errno ~= net.EAGAIN and errno ~= net.EINTR then fail(self, "receive: %s", net.errno_name(errno)) end
    if not net.wait(self.fd, net.POLLIN, deadline) then return nil end
  end
end

function Client:receive(seconds)
  return self:try_receive(seconds) or fail(self, "receive: nothing came in time")
end

-- Send and receive, again and again until an answer comes: over a busy loopback a datagram may get lost.
function Client:ask(bytes, seconds)
  local deadline = net.deadline(seconds or self.timeout)
  repeat
    self:send(bytes)
    local answer = self:try_receive(1)
    if answer then return answer end
  until net.now() > deadline
  fail(self, "ask: no answer in time")
end

-- ask() by many clients at once: each has one of its datagrams under way at a time, in order, and has to get the very same back. What
-- was sent twice may be answered twice.
function M.ask_all(clients, datagrams, seconds)
  local deadline = net.deadline(seconds or 20)
  local at, resend_at, resent, open_count = {}, {}, {}, #clients
  for i in ipairs(clients) do at[i], resend_at[i], resent[i] = 1, 0, {} end
  while open_count > 0 do
    local now, moved = net.now(), false
    open_count = 0
    for i, one in ipairs(clients) do
      local bytes = datagrams[i][at[i]]
      if bytes then
        open_count = open_count + 1
        if now >= resend_at[i] then
          resent[i][bytes] = resend_at[i] > 0
          one:send(bytes)
          resend_at[i] = now + net.slow
        end
        local answer = one:try_receive(0)
        if answer == bytes then
          at[i], resend_at[i], moved = at[i] + 1, 0, true
        elseif answer and not resent[i][answer] then
          fail(one, "ask_all: %d bytes that were not sent, in the place of datagram %d", #answer, at[i])
        end
      end
      if now > deadline then fail(one, "ask_all: not done in time, at datagram %d", at[i]) end
    end
    if not moved then net.nap(1) end
  end
end

-- Fails when a datagram comes within so many seconds, which are really spent.
function Client:receives_nothing(seconds)
  local deadline = net.now() + seconds
  if net.wait(self.fd, net.POLLIN, deadline) then fail(self, "expected silence") end
end

function Client:port()
  local address, size = ffi.new("struct net_in6"), ffi.new("unsigned[1]", 28)
  C.net_getsockname(self.fd, address, size)
  return math.floor(address.port / 256) + address.port % 256 * 256
end

function Client:close()
  if self.fd then C.net_close(self.fd) end
  self.fd = nil
  open[self] = nil
end

function M.close_all()
  for client in pairs(open) do client:close() end
end

return M
