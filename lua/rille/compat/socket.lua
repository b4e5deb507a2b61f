-- socket: LuaSocket's shape over Rille's loop, so that clients written for LuaSocket park instead of blocking. The objects are in the
-- folder socket/. docs/compat.md says what is as in LuaSocket, and what is not.

local C = require "rille.core"
local flow = require "rille.compat.socket.flow"
local tcp = require "rille.compat.socket.tcp"
local timer = require "rille.timer"
local timeouts = require "rille.compat.socket.timeouts"
local try = require "rille.compat.socket.try"
local udp = require "rille.compat.socket.udp"

local socket = {
  _VERSION = "LuaSocket 3.1.0 (rille.compat)",
  _DATAGRAMSIZE = udp.SIZE,
  _SETSIZE = math.huge, -- select takes any number
  BLOCKSIZE = flow.BLOCKSIZE,

  dns = require "rille.compat.socket.dns",
  select = require "rille.compat.socket.select",

  choose = flow.choose,
  source = flow.source, sourcet = flow.sourcet,
  sink = flow.sink, sinkt = flow.sinkt,

  newtry = try.newtry,
  protect = try.protect,
  skip = try.skip,
  try = try.try,
}

function socket.tcp() return tcp.new("tcp") end
function socket.tcp4() return tcp.new("tcp4") end
function socket.tcp6() return tcp.new("tcp6") end
function socket.udp() return udp.new("udp") end
function socket.udp4() return udp.new("udp4") end
function socket.udp6() return udp.new("udp6") end

-- Seconds since 1970.
function socket.gettime()
  return C.rille_time()
end

function socket.sleep(seconds)
  timeouts.need_task("sleep")
  seconds = tonumber(seconds) or 0
  timer.sleep(seconds > 0 and seconds or 0)
end

local SCHEMES = { inet = "tcp4", inet6 = "tcp6" }

-- A client; or nil, err.
function socket.connect(host, port, local_host, local_port, family)
  local client = tcp.new(SCHEMES[family] or "tcp")
  if local_host then
    local ok, err = client:bind(local_host, local_port or 0)
    if not ok then return nil, err end
  end
  local ok, err = client:connect(host, port)
  if ok then return client end
  client:close()
  return nil, err
end

function socket.connect4(host, port, local_host, local_port)
  return socket.connect(host, port, local_host, local_port, "inet")
end

function socket.connect6(host, port, local_host, local_port)
  return socket.connect(host, port, local_host, local_port, "inet6")
end

-- A server; or nil, err.
function socket.bind(host, port, backlog)
  local server = tcp.new("tcp")
  local ok, err = server:bind(host, port)
  if not ok then return nil, err end
  server:listen(backlog)
  return server
end

return socket
