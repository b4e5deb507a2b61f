-- udp: datagrams as scripts see them. A datagram is a slice with reply(); its peer is a value that may be kept. Here are also the sockets
-- that a script makes itself, rille.udp. core/udp*.c and core/datagram.c do the work; docs/udp.md describes every method.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local resolve = require "rille.resolve"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local type, tonumber = type, tonumber
local istype, to_string = ffi.istype, ffi.string
local slice_t = Slice.type
local peer_t = ffi.typeof("rille_udp_peer")
local text = errors.text
local PARK = C.RILLE_PARK
local AF_UNIX = 1

local M = {}

local err_box = ffi.new("int[1]")
local text_box = ffi.new("char[?]", 512)
local stats_box = ffi.new("rille_udp_stats[1]")

local function result(code)
  if code ~= 0 then return nil, text[-code] end
  return true
end
M.result = result

-- What x holds: bytes, size, block (nil: to be copied).
local function bytes_of(x, name)
  if type(x) == "string" then return x, #x, nil end
  if not istype(slice_t, x) then misuse("bad argument to '%s' (a string or a slice expected, got %s)", name, type(x)) end
  if x.cell_.epoch ~= x.epoch_ then misuse("slice expired") end
  return x.base_, x.size_, x.block_
end
M.bytes_of = bytes_of

-- ---- peers -----------------------------------------------------------------------------------------------------

local Peer = {}

-- "127.0.0.1:5000", "[::1]:5000"
function Peer:address()
  return to_string(text_box, C.rille_udp_peer_format(self, text_box, 512))
end

-- One datagram to it, from the socket it came by. True, or nil, err; "closed" when that is.
function Peer:send(x)
  local bytes, size, block = bytes_of(x, "send")
  local loop = state.loop
  local p = loop and C.rille_udp_of(loop, self.socket_, self.epoch_)
  if not p or p == nil then return nil, "closed" end
  return result(C.rille_udp_send_peer(p, self, bytes, size, block))
end

local function is_equal(a, b)
  if not istype(peer_t, a) or not istype(peer_t, b) then return false end
  if a.port_ ~= b.port_ or a.family_ ~= b.family_ or a.scope_ ~= b.scope_ then return false end
  return a.ip0_ == b.ip0_ and a.ip1_ == b.ip1_ and a.ip2_ == b.ip2_ and a.ip3_ == b.ip3_
end

local registry = debug.getregistry()
if not registry["rille.udp"] then -- a metatype is made once in a state: see core.lua
  registry["rille.udp"] = true
  ffi.metatype(peer_t, { __index = Peer, __tostring = Peer.address, __eq = is_equal })
end

-- A peer on a Unix socket: its URL, "unixgram:" for a socket without a name, which nothing can be sent to.
local UnixPeer = {}
UnixPeer.__index = UnixPeer

function UnixPeer:address()
  return self.url
end

function UnixPeer:send(x)
  local bytes, size, block = bytes_of(x, "send")
  if self.url == "unixgram:" then return nil, "not supported" end
  local p = state.loop and C.rille_udp_of(state.loop, self.socket, self.epoch)
  if not p or p == nil then return nil, "closed" end
  return result(C.rille_udp_send_url(p, self.url, bytes, size, block))
end

UnixPeer.__tostring = UnixPeer.address
UnixPeer.__eq = function(a, b) return a.url == b.url end

local function unix_peer(d)
  local url = to_string(text_box, C.rille_datagram_url(d, text_box, 512))
  return setmetatable({ url = url, socket = d.peer_.socket_, epoch = d.peer_.epoch_ }, UnixPeer)
end

-- Field by field, as slices are made: a peer that does not leave the trace costs no garbage.
local function peer_of(d)
  local p = d.peer_
  if p.family_ == AF_UNIX then return unix_peer(d) end
  return peer_t(p.ip0_, p.ip1_, p.ip2_, p.ip3_, p.local0_, p.local1_, p.local2_, p.local3_, p.scope_, p.socket_, p.epoch_,
    p.port_, p.family_, p.local_size_)
end

local function slice_of(d)
  local s = d.slice_
  return slice_t(s.base_, s.cell_, s.block_, s.size_, s.epoch_)
end
M.slice_of = slice_of

-- ---- handlers --------------------------------------------------------------------------------------------------

-- Of a datagram whose handler runs, or a slice of it: x goes to where it came from. True, or nil, err.
function Slice.methods:reply(x)
  local bytes, size, block = bytes_of(x, "reply")
  if self.base_ == nil then misuse("reply: this slice is not of a datagram") end
  local code = C.rille_datagram_reply(self.cell_, self.epoch_, bytes, size, block)
  if code == 0 then return true end
  if code == C.RILLE_ERR_EXPIRED then misuse("slice expired: its handler has returned; the peer can still be sent to") end
  if code == C.RILLE_ERR_INVALID and C.rille_slice_is_datagram(self.cell_, self.epoch_) == 0 then
    misuse("reply: this slice is not of a datagram (a retained one is not any more: use the peer)")
  end
  return nil, text[-code]
end

-- The DATAGRAM event.
function M.serve(slot)
  local d = C.rille_datagram_at(state.loop, slot)
  if d == nil then return end
  state.services[d.service_].on_datagram(slice_of(d), peer_of(d))
  C.rille_datagram_done(state.loop, slot, 0)
end

script.on_error(M.serve, "on_request", function(slot, err)
  C.rille_datagram_done(state.loop, slot, err == task.cancelled and 0 or 1)
end)

-- ---- what sockets and listeners share --------------------------------------------------------------------------

local STATS = {
  "received", "bytes_in", "sent", "bytes_out", "too_large", "dropped", "refused", "unsent", "send_errors", "overflow",
  "sessions", "in_handlers",
}

-- A new table of numbers.
function M.stats(p)
  C.rille_udp_stats_read(p, stats_box)
  local out = {}
  for _, name in ipairs(STATS) do out[name] = tonumber(stats_box[0][name]) end
  return out
end

-- What a table `multicast` says. A sentence when that cannot be done.
function M.join_all(p, multicast)
  if C.rille_udp_is_first(p) == 0 then return end
  local function try(code, what, ...)
    if code ~= 0 then return ("multicast: cannot %s: %s"):format(what:format(...), text[-code]) end
  end
  local interface = multicast.interface or ""
  local problem = multicast.interface
    and try(C.rille_udp_set_interface(p, interface), "send through interface %q", interface)
  problem = problem or multicast.ttl and try(C.rille_udp_set(p, C.RILLE_UDP_TTL, multicast.ttl), "set the ttl")
  if not problem and multicast.loop ~= nil then
    problem = try(C.rille_udp_set(p, C.RILLE_UDP_LOOP, multicast.loop and 1 or 0), "set loop")
  end
  for _, group in ipairs(multicast.groups or {}) do
    problem = problem or try(C.rille_udp_join(p, group, interface, 0), "join %q", group)
  end
  return problem or nil
end

-- ---- rille.udp -------------------------------------------------------------------------------------------------

local Socket = {}
Socket.__index = Socket

local receivers = {} -- by slot: the sockets whose task is parked receiving
local pending = {} -- those that a script made while it was staged: they open when it is on its loop

-- Its pointer, until it is closed or its run is over, which frees it.
local function held(self)
  return self._run == state.services and self._p
end

local OPTIONS = {
  receive_buffer = true, send_buffer = true, device = true, ipv6_only = true, mode = true, broadcast = true, multicast = true,
  limits = true,
}

local function check_options(opts)
  if opts == nil then opts = {} end
  if type(opts) ~= "table" then misuse("bad argument #2 to 'udp' (a table expected, got %s)", type(opts)) end
  for key in pairs(opts) do
    if not OPTIONS[key] then misuse("rille.udp has no option '%s': docs/udp.md lists them", tostring(key)) end
  end
  local settings, message = require("rille.config").server(opts, "rille.udp")
  if not settings then misuse(message) end
  return settings
end

local function open(self, url, settings)
  local err, message
  if url then
    url, err, message = resolve.numeric(url)
    if not url then return nil, err, message end
  end
  local options = require("rille.listener").options(settings)
  local p = C.rille_udp_open(state.handle, url or "", options, err_box, text_box, 512)
  if p == nil then return nil, text[-err_box[0]], to_string(text_box) end
  self._p, self._run, self._slot = p, state.services, C.rille_udp_slot(p)
  local slot, epoch, run = self._slot, C.rille_udp_epoch(p), state.services
  self._guard = ffi.gc(ffi.new("char[1]"), function()
    if state.loop and state.services == run then C.rille_udp_abandon(state.loop, slot, epoch) end
  end)
  if settings.multicast then
    message = M.join_all(p, settings.multicast)
    if message then
      self:close()
      return nil, "invalid argument", message
    end
  end
  return self
end

-- rille.udp([url][, opts]): a socket, bound to url. Without one it is bound to what the kernel picks when it is first connected or sent
-- from. The socket, or nil, err, message.
function M.open(url, opts)
  state.need_loop("udp")
  if type(url) == "table" and opts == nil then url, opts = nil, url end
  if url ~= nil and type(url) ~= "string" then misuse("bad argument #1 to 'udp' (an address expected, got %s)", type(url)) end
  local settings = check_options(opts)
  if settings.multicast and not url then misuse("rille.udp: multicast needs an address to bind to, such as udp4://:0") end
  local self = setmetatable({ _calls = state.is_staged and {} or nil }, Socket)
  if self._calls then
    pending[#pending + 1] = { self = self, url = url, settings = settings }
    return self
  end
  return open(self, url, settings)
end

local function open_late(one)
  local self, calls = one.self, one.self._calls
  if not calls then return true end -- closed meanwhile
  self._calls = nil
  local ok, err, message = open(self, one.url, one.settings)
  for _, call in ipairs(calls) do
    if ok then ok, err, message = Socket[call[1]](self, call[2], call[3]) end
  end
  if ok then return true end
  return nil, message or ("rille.udp: %s"):format(err)
end

-- The state has come to its loop. True, or nil, message.
function M.open_staged()
  local list = pending
  pending = {}
  for _, one in ipairs(list) do
    local ok, message = open_late(one)
    if not ok then return nil, message end
  end
  return true
end

-- "127.0.0.1:53" is one of UDP here.
local function whole(url, name)
  if type(url) ~= "string" then misuse("bad argument to '%s' (an address expected, got %s)", name, type(url)) end
  if url:find("://", 1, true) or url:find("^unixgram:") then return url end
  return "udp://" .. url
end

-- A call on a socket that is not open yet; true.
local function put_off(self, ...)
  self._calls[#self._calls + 1] = { ... }
  return true
end

-- From now on datagrams go to, and are received from, this address alone. True, or nil, err, message.
function Socket:connect(url)
  local p = held(self)
  url = whole(url, "connect")
  if self._calls then return put_off(self, "connect", url) end
  if not p then return nil, "closed" end
  local err, message
  url, err, message = resolve.numeric(url)
  if not url then return nil, err, message end
  p = held(self) -- it may have been closed meanwhile
  if not p then return nil, "closed" end
  text_box[0] = 0
  local code = C.rille_udp_connect(p, url, text_box, 512)
  if code == 0 then return true end
  return nil, text[-code], text_box[0] ~= 0 and to_string(text_box) or nil
end

-- One datagram to the address it is connected to. True, or nil, err.
function Socket:send(x)
  local bytes, size, block = bytes_of(x, "send")
  local p = held(self)
  if not p then return nil, "closed" end
  return result(C.rille_udp_send(p, bytes, size, block))
end

-- One datagram to a URL, an address as peers have it, or a peer.
function Socket:send_to(x, to)
  local bytes, size, block = bytes_of(x, "send_to")
  local p = held(self)
  if istype(peer_t, to) then
    if not p then return nil, "closed" end
    return result(C.rille_udp_send_peer(p, to, bytes, size, block))
  end
  local url = whole(getmetatable(to) == UnixPeer and to.url or to, "send_to")
  if not p then return nil, "closed" end
  if C.rille_address_needs_lookup(url) == 1 then
    local err, message
    url, err, message = resolve.numeric(url)
    if not url then return nil, err, message end
    p = held(self) -- it may have been closed meanwhile
    if not p then return nil, "closed" end
    bytes, size, block = bytes_of(x, "send_to")
  end
  return result(C.rille_udp_send_url(p, url, bytes, size, block))
end

-- The UDP event: whoever is parked asks again.
function M.event(slot)
  local self = receivers[slot]
  local fiber = self and self._receiver
  if not fiber or fiber.queued then return end
  receivers[slot], self._receiver = nil, nil
  return task.resume(fiber, true)
end

local function cancel(self)
  receivers[self._slot], self._receiver = nil, nil
  if held(self) then C.rille_udp_unwant(self._p) end
end

-- What is left until a deadline; nil: for ever.
local function left_until(deadline)
  if not deadline then return nil end
  local left = deadline - C.rille_now()
  return left > 0 and left or 0
end

-- The next datagram as a slice, valid until the next receive, and its peer; parks until there is one, at most timeout seconds (nil: for
-- ever, 0: not at all). Or nil, err: "timeout", "closed", "busy" (another task is parked here), and "refused" or "unreachable" when the
-- network says so of what was sent.
function Socket:receive(timeout)
  if timeout ~= nil then timer.seconds(timeout, "receive") end
  if self._receiver then return nil, "busy" end
  local deadline = timeout and C.rille_now() + timeout
  while true do
    local p = held(self)
    if not p then return nil, "closed" end
    local d = C.rille_udp_receive(p, err_box)
    if d ~= nil then return slice_of(d), peer_of(d) end
    local err = err_box[0]
    if err ~= PARK then return nil, text[-err] end
    local left = left_until(deadline)
    if left == 0 then
      C.rille_udp_unwant(p)
      return nil, "timeout"
    end
    self._receiver, receivers[self._slot] = task.current(), self
    if not timer.park(left, cancel, self) then return nil, "timeout" end
  end
end

local function name(value, what)
  if value ~= nil and type(value) ~= "string" then misuse("bad argument to '%s' (a string expected, got %s)", what, type(value)) end
  return value or ""
end

-- Receive what is sent to a group of multicast, through an interface (nil: the system's choice). True, or nil, err.
function Socket:join(group, interface)
  if type(group) ~= "string" then misuse("bad argument #1 to 'join' (an address expected, got %s)", type(group)) end
  interface = name(interface, "join")
  if self._calls then return put_off(self, "join", group, interface) end
  local p = held(self)
  if not p then return nil, "closed" end
  return result(C.rille_udp_join(p, group, interface, 0))
end

function Socket:leave(group, interface)
  if type(group) ~= "string" then misuse("bad argument #1 to 'leave' (an address expected, got %s)", type(group)) end
  interface = name(interface, "leave")
  local p = held(self)
  if not p then return nil, "closed" end
  return result(C.rille_udp_join(p, group, interface, 1))
end

-- The URL it is bound to; nil, "closed", or nil, "not found" for one that has none yet.
function Socket:address()
  local p = held(self)
  if not p then return nil, "closed" end
  local size = C.rille_udp_address(p, text_box, 512)
  if size == 0 then return nil, "not found" end
  return to_string(text_box, size)
end

function Socket:stats()
  local p = held(self)
  if not p then return nil, "closed" end
  return M.stats(p)
end

-- Slices of it expire; who is parked gets "closed".
function Socket:close()
  local p = held(self)
  self._p, self._calls = nil, nil
  if not p then return true end
  C.rille_udp_close(p)
  local fiber = self._receiver
  receivers[self._slot], self._receiver = nil, nil
  if fiber then task.wake(fiber, true) end
  return true
end

function Socket:__tostring()
  return "udp " .. (self:address() or "?")
end

-- The loop is gone, and every socket with it.
function M.reset()
  receivers = {}
end

return M
