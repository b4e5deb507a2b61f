-- systemd: a service manager as far as a server can tell: a socket that takes notifications, and sockets to pass on.

local ffi = require "ffi"
local net = require "spec.support.net"
local server = require "spec.support.server"

local C = net.C

local SOCK_STREAM, SOCK_DGRAM, FLAGS = 1, 2, 0x80000 + 0x800 -- CLOEXEC, NONBLOCK

local M = { SOCK_STREAM = SOCK_STREAM, SOCK_DGRAM = SOCK_DGRAM }
local open = {}
local names = 0

local function keep(fd)
  assert(fd >= 0, "socket")
  open[#open + 1] = fd
  return fd
end

-- ---- notifications ---------------------------------------------------------------------------------------------

local Manager = {}
Manager.__index = Manager

-- A manager that listens at a path, or an abstract name. env(): what a server is to be started with.
function M.manager(is_abstract)
  names = names + 1
  local name = ("%s/notify%d"):format(server.folder(), names)
  local url = is_abstract and "unix:@" .. name or "unix://" .. name
  local family, address, size = net.parse(url)
  local fd = keep(C.net_socket(family, SOCK_DGRAM + FLAGS, 0))
  assert(C.net_bind(fd, address, size) == 0, "bind")
  return setmetatable({ fd = fd, address = is_abstract and "@" .. name or name, got = {} }, Manager)
end

local room = ffi.new("char[4096]")

-- The next message as a table of its lines, or nil when none comes in so many seconds.
function Manager:receive(seconds)
  if not net.wait(self.fd, net.POLLIN, net.deadline(seconds or 5)) then return nil end
  local text = ffi.string(room, tonumber(C.net_recv(self.fd, room, 4096, 0)))
  local message = { text = text }
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    local key, value = line:match("^([A-Z_]+)=(.*)$")
    if not key then error("not a line of a notification: " .. line, 0) end
    message[key] = value
  end
  self.got[#self.got + 1] = text
  return message
end

-- The next message that has this key; fails the spec when there is none in time.
function Manager:wait_for(key, seconds)
  local deadline = net.deadline(seconds or 5)
  while true do
    local message = self:receive((deadline - net.now()) / net.slow)
    if not message then error(("no %s came; there were: %s"):format(key, table.concat(self.got, " | ")), 0) end
    if message[key] then return message end
  end
end

-- How many messages with this key come in so many seconds.
function Manager:count(key, seconds)
  local count, deadline = 0, net.now() + seconds
  while net.now() < deadline do
    local message = net.wait(self.fd, net.POLLIN, deadline) and self:receive(0)
    if message and message[key] then count = count + 1 end
  end
  return count
end

-- Throw away what has come.
function Manager:drain()
  while net.wait(self.fd, net.POLLIN, net.now()) do self:receive(0) end
end

-- ---- sockets to pass -------------------------------------------------------------------------------------------

-- A socket bound to a URL, which listens unless it is told not to: descriptor, URL with the port that was picked.
function M.socket(url, kind, is_silent)
  local family, address, size = net.parse(url)
  local fd = keep(C.net_socket(family, (kind or SOCK_STREAM) + FLAGS, 0))
  assert(C.net_bind(fd, address, size) == 0, "bind")
  if (kind or SOCK_STREAM) == SOCK_STREAM and not is_silent then assert(C.net_listen(fd, 100) == 0, "listen") end
  if family ~= net.AF_INET then return fd, url end
  local in4, length = ffi.new("struct net_in"), ffi.new("unsigned[1]", 16)
  C.net_getsockname(fd, in4, length)
  return fd, ("tcp://127.0.0.1:%d"):format(math.floor(in4.port / 256) + in4.port % 256 * 256)
end

-- The words that start a command as a manager does. env: a list of "NAME=value"; listen: how many descriptors it is passed,
-- fdnames: "a:b".
function M.wrap(env, listen, fdnames)
  local words = { "env", unpack(env or {}) }
  if not listen then return words end
  words[#words + 1] = "LISTEN_FDS=" .. listen
  if fdnames then words[#words + 1] = "LISTEN_FDNAMES=" .. fdnames end
  for _, word in ipairs { "sh", "-c", 'export LISTEN_PID=$$; exec "$@"', "sh" } do words[#words + 1] = word end
  return words
end

function M.cleanup()
  server.cleanup()
  for _, fd in ipairs(open) do C.net_close(fd) end
  open = {}
end

return M
