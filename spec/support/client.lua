-- client: a TCP or Unix socket as a peer of the server under test. Every wait has a deadline (5 s) and fails the spec with what
-- was waited for and what was there instead.

local ffi = require "ffi"
local net = require "spec.support.net"

local C = net.C

local SOL_SOCKET, SO_RCVBUF, SO_SNDBUF, SO_LINGER, SO_ERROR = 1, 8, 7, 13, 4
local SOCK_STREAM, SOCK_FLAGS = 1, 0x80000 + 0x800 -- CLOEXEC, NONBLOCK
local MSG_NOSIGNAL = 0x4000
local ROOM = 256 * 1024

local Client = {}
Client.__index = Client

local M = { Client = Client }
local open = {} -- those to close when a spec is over
local room = ffi.new("uint8_t[?]", ROOM)

local function fail(self, format, ...)
  error(("client of %s: %s"):format(self.url, format:format(...)), 0)
end

-- A few bytes of what is there, for a message.
local function excerpt(text)
  if #text <= 80 then return ("%q"):format(text) end
  return ("%d bytes that end in %q"):format(#text, text:sub(-60))
end

-- A descriptor and what connecting it came to: 0, an errno, -1 when no answer came in time; without a descriptor, an errno.
local function connecting(url, options)
  options = options or {}
  local family, address, size = net.parse(url)
  local fd = C.net_socket(family, SOCK_STREAM + SOCK_FLAGS, 0)
  if fd < 0 then return nil, ffi.errno() end
  if options.receive_buffer then net.set_option(fd, SOL_SOCKET, SO_RCVBUF, options.receive_buffer) end
  if options.send_buffer then net.set_option(fd, SOL_SOCKET, SO_SNDBUF, options.send_buffer) end
  if options.source then
    local _, from, from_size = net.parse(options.source)
    assert(C.net_bind(fd, from, from_size) == 0, "cannot come from " .. options.source)
  end
  local deadline = net.deadline(options.timeout)
  local errno = 0
  if C.net_connect(fd, address, size) ~= 0 then
    errno = ffi.errno()
    if errno == net.EAGAIN then -- the backlog of a Unix socket is full
      while errno == net.EAGAIN and net.now() < deadline do
        net.nap(1)
        errno = C.net_connect(fd, address, size) == 0 and 0 or ffi.errno()
      end
    elseif errno == net.EINPROGRESS then
      errno = -1
      if net.wait(fd, net.POLLOUT, deadline) then
        local box, length = ffi.new("int[1]"), ffi.new("unsigned[1]", 4)
        C.net_getsockopt(fd, SOL_SOCKET, SO_ERROR, box, length)
        errno = box[0]
      end
    end
  end
  return fd, errno
end

-- A client over a descriptor that is connected and non-blocking.
function M.over(fd, url)
  local self = setmetatable({ fd = fd, url = url, buffer = "", ended = nil, timeout = 5 }, Client)
  open[self] = true
  return self
end

-- The descriptor is given back; what it came to, in words.
local function given_up(fd, errno)
  if fd then C.net_close(fd) end
  return errno == -1 and "no answer in time" or net.errno_name(errno)
end

-- Connect to a URL. options: receive_buffer, send_buffer (bytes), timeout (seconds), source (a URL of this host to come from, with
-- port 0). nil, the errno's name when it is refused, or reset before this looked at it.
function M.try_connect(url, options)
  local fd, errno = connecting(url, options)
  if errno ~= 0 then return nil, given_up(fd, errno) end
  return M.over(fd, url)
end

-- The same, and raises when nobody answers. A server that aborts what it accepts may do so before this looks: that is a
-- connection (a port without a server refuses), whose stream ends in "reset".
function M.connect(url, options)
  local fd, errno = connecting(url, options)
  local reset = fd and errno == net.ECONNRESET
  if errno ~= 0 and not reset then error(("cannot connect to %s: %s"):format(url, given_up(fd, errno)), 0) end
  local self = M.over(fd, url)
  if reset then self.ended = "reset" end
  return self
end

-- ---- sending ---------------------------------------------------------------------------------------------------

-- As much as the kernel takes now: how many bytes, or nil, errno name.
function Client:try_send(bytes, from)
  from = from or 0
  local sent = tonumber(C.net_send(self.fd, ffi.cast("const char *", bytes) + from, #bytes - from, MSG_NOSIGNAL))
  if sent >= 0 then return sent end
  local errno = ffi.errno()
  if errno == net.EAGAIN or errno == net.EINTR then return 0 end
  return nil, net.errno_name(errno)
end

function Client:send(bytes, seconds)
  local deadline = net.deadline(seconds or self.timeout)
  local at = 0
  while at < #bytes do
    local sent, why = self:try_send(bytes, at)
    if not sent then fail(self, "send: %s after %d of %d bytes", why, at, #bytes) end
    at = at + sent
    if sent == 0 and not net.wait(self.fd, net.POLLOUT, deadline) then
      fail(self, "send: the server took %d of %d bytes in time", at, #bytes)
    end
  end
  return self
end

-- One byte in each packet; the server sees most of them alone.
function Client:send_slowly(bytes)
  for i = 1, #bytes do
    self:send(bytes:sub(i, i))
    if i % 2 == 0 then C.net_poll(nil, 0, 1) end
  end
  return self
end

-- ---- receiving -------------------------------------------------------------------------------------------------

-- One recv: the bytes, "" at the end (self.ended says "closed" or "reset"), nil when nothing is there.
local function pull(self)
  if self.ended then return "" end
  local got = tonumber(C.net_recv(self.fd, room, ROOM, 0))
  if got > 0 then return ffi.string(room, got) end
  if got == 0 then
    self.ended = "closed"
    return ""
  end
  local errno = ffi.errno()
  if errno == net.EAGAIN or errno == net.EINTR then return nil end
  self.ended = errno == net.ECONNRESET and "reset" or net.errno_name(errno)
  return ""
end

-- Wait for more: false at the end of the stream, nil at the deadline.
local function fill(self, deadline)
  while true do
    local bytes = pull(self)
    if bytes == "" then return false end
    if bytes then
      self.buffer = self.buffer .. bytes
      return true
    end
    if not net.wait(self.fd, net.POLLIN, deadline) then return nil end
  end
end

-- Exactly n bytes.
function Client:receive(n, seconds)
  local deadline = net.deadline(seconds or self.timeout)
  local parts, have = { self.buffer }, #self.buffer
  while have < n do
    local bytes = pull(self)
    if bytes == "" then
      fail(self, "receive(%d): %s after %s", n, self.ended, excerpt(table.concat(parts)))
    elseif bytes then
      parts[#parts + 1] = bytes
      have = have + #bytes
    elseif not net.wait(self.fd, net.POLLIN, deadline) then
      fail(self, "receive(%d): nothing more in time after %s", n, excerpt(table.concat(parts)))
    end
  end
  local all = table.concat(parts)
  self.buffer = all:sub(n + 1)
  return all:sub(1, n)
end

-- A line without its newline.
function Client:receive_line(seconds)
  local deadline = net.deadline(seconds or self.timeout)
  local from = 1
  while true do
    local at = self.buffer:find("\n", from, true)
    if at then
      local line = self.buffer:sub(1, at - 1)
      self.buffer = self.buffer:sub(at + 1)
      return line
    end
    from = #self.buffer + 1
    local more = fill(self, deadline)
    if more == false then fail(self, "receive_line: %s after %s", self.ended, excerpt(self.buffer)) end
    if more == nil then fail(self, "receive_line: nothing more in time after %s", excerpt(self.buffer)) end
  end
end

-- Everything until the stream ends, and how it does: "closed" or "reset".
function Client:receive_all(seconds)
  local deadline = net.deadline(seconds or self.timeout)
  local parts = { self.buffer }
  self.buffer = ""
  while true do
    local bytes = pull(self)
    if bytes == "" then return table.concat(parts), self.ended end
    if bytes then
      parts[#parts + 1] = bytes
    elseif not net.wait(self.fd, net.POLLIN, deadline) then
      fail(self, "receive_all: the server does not end it; so far %s", excerpt(table.concat(parts)))
    end
  end
end

-- Whatever is there or comes within the time: bytes, "" at the end, nil when nothing came.
function Client:receive_some(seconds)
  if self.buffer == "" then fill(self, net.deadline(seconds or self.timeout)) end
  local bytes = self.buffer
  self.buffer = ""
  if bytes == "" and not self.ended then return nil end
  return bytes
end

-- Fails when a byte or the end comes within so many seconds, which are really spent.
function Client:receives_nothing(seconds)
  if self.buffer == "" then fill(self, net.now() + seconds) end
  if self.buffer ~= "" then fail(self, "expected silence, got %s", excerpt(self.buffer)) end
  if self.ended then fail(self, "expected silence, the stream ended: %s", self.ended) end
end

-- Send bytes and read n (#bytes) at the same time, however small the buffers between are. Returns what came.
function Client:exchange(bytes, n, seconds)
  local deadline = net.deadline(seconds or self.timeout)
  local parts, have, at = { self.buffer }, #self.buffer, 0
  n = n or #bytes
  while have < n do
    local moved = false
    if at < #bytes then
      local sent, why = self:try_send(bytes, at)
      if not sent then fail(self, "exchange: %s after %d sent, %d received", why, at, have) end
      at = at + sent
      moved = sent > 0
    end
    local more = pull(self)
    if more == "" then fail(self, "exchange: %s after %d sent, %d received", self.ended, at, have) end
    if more then
      parts[#parts + 1] = more
      have = have + #more
      moved = true
    end
    if not moved and not net.wait(self.fd, net.POLLIN + (at < #bytes and net.POLLOUT or 0), deadline) then
      fail(self, "exchange: no progress in time after %d sent, %d received", at, have)
    end
  end
  local all = table.concat(parts)
  self.buffer = all:sub(n + 1)
  return all:sub(1, n)
end

-- The same with many clients at once: each sends the bytes of its own number. A list of what came back to each.
function M.exchange_all(clients, sent, seconds)
  local deadline = net.deadline(seconds or 20)
  local parts, have, at, open_count = {}, {}, {}, #clients
  for i in ipairs(clients) do parts[i], have[i], at[i] = {}, 0, 0 end
  while open_count > 0 do
    local moved = false
    open_count = 0
    for i, one in ipairs(clients) do
      if at[i] < #sent[i] then
        local count, why = one:try_send(sent[i], at[i])
        if not count then fail(one, "exchange_all: %s after %d sent, %d received", why, at[i], have[i]) end
        at[i] = at[i] + count
        moved = moved or count > 0
      end
      local more = have[i] < #sent[i] and pull(one)
      if more == "" then fail(one, "exchange_all: %s after %d sent, %d received", one.ended, at[i], have[i]) end
      if more then
        parts[i][#parts[i] + 1] = more
        have[i] = have[i] + #more
        moved = true
      end
      if have[i] < #sent[i] then open_count = open_count + 1 end
      if net.now() > deadline then fail(one, "exchange_all: not done in time, %d sent, %d received", at[i], have[i]) end
    end
    if not moved then net.nap(1) end
  end
  for i in ipairs(clients) do parts[i] = table.concat(parts[i]) end
  return parts
end

-- ---- the end ---------------------------------------------------------------------------------------------------

function Client:shutdown_write()
  C.net_shutdown(self.fd, 1)
  return self
end

function Client:close()
  if self.fd then C.net_close(self.fd) end
  self.fd = nil
  open[self] = nil
end

-- Close with RST, as a peer that crashed.
function Client:reset()
  local linger = ffi.new("struct net_linger", 1, 0)
  C.net_setsockopt(self.fd, SOL_SOCKET, SO_LINGER, linger, ffi.sizeof(linger))
  self:close()
end

-- The port this end has.
function Client:port()
  local address, size = ffi.new("struct net_in6"), ffi.new("unsigned[1]", 28)
  C.net_getsockname(self.fd, address, size)
  return math.floor(address.port / 256) + address.port % 256 * 256
end

function M.close_all()
  for client in pairs(open) do client:close() end
end

return M
