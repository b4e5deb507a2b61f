-- conn: a connection as scripts see it. One table for each connection that a script has seen and still holds; the C side
-- owns everything else. docs/script.md describes every method.
-- Reading and writing are in conn_read.lua and conn_write.lua, what a socket can be told in conn_option.lua, the way to another loop in
-- conn_move.lua, TLS in conn_tls.lua, what goes on without Lua in conn_pump.lua, the header of a proxy in conn_proxy.lua.

local C = require "rille.core"
local ffi = require "ffi"

local codecs = require "rille.codec"
local conn_move = require "rille.conn_move"
local conn_option = require "rille.conn_option"
local conn_proxy = require "rille.conn_proxy"
local conn_pump = require "rille.conn_pump"
local conn_read = require "rille.conn_read"
local conn_tls = require "rille.conn_tls"
local conn_write = require "rille.conn_write"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local check_timeouts = require "rille.timeouts"
local state = require "rille.state"

local type, rawset = type, rawset
local gone, result = conn_read.gone, conn_write.result
local text = errors.text

local Conn = {}
for _, part in ipairs { conn_read, conn_write, conn_option, conn_move, conn_tls, conn_pump, conn_proxy } do
  for name, method in pairs(part.methods) do Conn[name] = method end
end

local name_box = ffi.new("char[?]", 512)

local objects = setmetatable({}, { __mode = "v" }) -- by slot; a table lives while a script holds it
-- By slot; those with something a script put there. Only written: that is what keeps them alive.
local pinned = {} -- luacheck: ignore 241

local holders = {} -- by slot: who counts the connection

local LOW_WATER_HALF = 2 ^ 32 - 1
local CONCURRENCY_MAX = 1024

local M = { Conn = Conn }

-- ---- tables ----------------------------------------------------------------------------------------------------

local function pin(self)
  local slot = self._slot
  if slot then pinned[slot] = self end
end

local function set_high_water(self, bytes)
  if type(bytes) ~= "number" or not (bytes >= 0) then
    misuse("conn.high_water takes bytes, 0 or more, not %s", tostring(bytes))
  end
  if self._p then C.rille_conn_set(self._p, C.RILLE_SET_HIGH_WATER, bytes) end
end

-- nil: half of high_water
local function set_low_water(self, bytes)
  if bytes == nil then bytes = LOW_WATER_HALF end
  if type(bytes) ~= "number" or not (bytes >= 0) then
    misuse("conn.low_water takes bytes, 0 or more, or nil, not %s", tostring(bytes))
  end
  if self._p then C.rille_conn_set(self._p, C.RILLE_SET_LOW_WATER, bytes) end
end

local metatable = {
  __index = Conn,
  -- Whatever a script keeps in a connection (ctx, most of all) makes the table live as long as the connection does.
  __newindex = function(self, key, value)
    if key == "high_water" then return set_high_water(self, value) end
    if key == "low_water" then return set_low_water(self, value) end
    pin(self)
    rawset(self, key, value)
  end,
  __tostring = function(self) return ("conn %d %s"):format(self.id, self:peer() or "?") end,
}

-- Of connections whose frames are handled by several tasks, in order; concurrency.lua fills in `__index`.
M.ordered = { __newindex = metatable.__newindex, __tostring = metatable.__tostring }
M.concurrent = nil -- set by concurrency.lua, too

-- Whether x is the table of a connection.
function M.is(x)
  local of = type(x) == "table" and getmetatable(x)
  return of ~= nil and (of == metatable or of == M.ordered)
end
M.unpack = nil -- (self, p): what it brought from the generation before; set by generation.lua

local function wrap(p, service)
  local slot = C.rille_conn_slot(p)
  local self = setmetatable({
    _p = p, _slot = slot, id = C.rille_conn_id(p),
    _serve = service.serve, _on_request = service.on_request or false,
    _codec = service.codec or false, _serial = 0, _upgraded = false, -- of requests over HTTP, see http/serve.lua
  }, service.metatable or metatable)
  objects[slot] = self
  if C.rille_conn_know(p) == 1 then M.unpack(self, p) end
  return self
end

-- The table of the connection in a slot; nil when there is none (any more).
function M.at(slot)
  local self = objects[slot]
  if self then return self end
  local p = C.rille_conn_of(state.handle, slot)
  if p == nil then return nil end
  return wrap(p, state.services[C.rille_conn_service(p)])
end

-- The table of the connection in a slot, if a script has seen it.
function M.seen(slot)
  return objects[slot]
end

-- A connection made by the script itself, from a pointer of rille_conn_adopt or rille_conn_pair. Without on_request nobody but the script
-- can close it, so losing its table does.
-- holder: its left() is called when the connection is over.
function M.own(p, holder)
  local self = wrap(p, state.services[C.rille_conn_service(p)])
  if holder then holders[self._slot] = holder end
  local id, run = self.id, state.services -- a table of each run's own; the next run's loop may stand at the same address
  rawset(self, "_guard", ffi.gc(ffi.new("char[1]"), function()
    if state.loop and state.services == run then C.rille_conn_abandon(state.loop, id) end
  end))
  return self
end

-- From now on holder:left(self) is called when the connection is over, instead of another one's.
function M.hold(self, holder)
  holders[self._slot] = holder
end

-- Give it to a pool, which keeps the table: fn(self) is called when bytes come; seconds (0: for ever) without any close it. False when it
-- is of no further use.
function M.rest(self, fn, seconds)
  local p = self._p
  if not p or C.rille_conn_rest(p, seconds * 1000) == 0 then return false end
  self._on_request, self._codec = fn, false
  rawset(self, "_key", false) -- no other generation has it
  rawset(self, "_closers", nil)
  return true
end

-- Take it back: whether it can be used.
function M.rouse(self)
  local p = self._p
  return p and C.rille_conn_rouse(p) == 1 or false
end

-- The connection is over; the table stays what it is for those who hold it.
function M.forget(self, err)
  local slot = self._slot
  self._p, self._slot = false, false
  rawset(self, "_error", err or "closed")
  rawset(self, "_guard", nil)
  objects[slot], pinned[slot] = nil, nil
  local holder = holders[slot]
  if holder then
    holders[slot] = nil
    holder:left(self)
  end
  conn_read.forget(slot)
  conn_write.forget(slot)
  conn_tls.forget(slot)
end

-- The loop is gone, and every connection with it.
function M.reset()
  for _, self in pairs(objects) do
    self._p, self._slot = false, false
    rawset(self, "_error", "closed")
    rawset(self, "_guard", nil)
  end
  objects, pinned = setmetatable({}, { __mode = "v" }), {} -- luacheck: ignore 331
  holders = {}
  conn_read.reset()
  conn_write.reset()
  conn_tls.reset()
end

-- ---- the end ---------------------------------------------------------------------------------------------------

function Conn:close()
  local p = self._p
  if p then C.rille_conn_close(p) end
  return true
end

function Conn:abort()
  local p = self._p
  if p then C.rille_conn_abort(p) end
  return true
end

function Conn:shutdown(how)
  if how ~= "write" then misuse("bad argument #1 to 'shutdown' (\"write\" expected, got %s)", tostring(how)) end
  local p = self._p
  if not p then return gone(self) end
  return result(C.rille_conn_shutdown(p))
end

function Conn:detach()
  local ok, err = self:flush()
  if not ok then return nil, err end
  local fd = C.rille_conn_detach(self._p)
  if fd < 0 then return nil, text[-fd] end
  return fd
end

function Conn:on_close(fn)
  if type(fn) ~= "function" then misuse("bad argument #1 to 'on_close' (function expected, got %s)", type(fn)) end
  if not self._p then
    fn(self, rawget(self, "_end"))
    return true
  end
  local closers = self._closers
  if not closers then
    closers = {}
    self._closers = closers -- pins
  end
  closers[#closers + 1] = fn
  return true
end

-- ---- the rest --------------------------------------------------------------------------------------------------

-- The service for connections of another one that go on over HTTP; nil for those that nobody has listened for.
local function twin_of(service)
  if not service.http_service then service.http_service = service.twin and service.twin() end
  return service.http_service
end

-- fn(req, res) from here on; what is not consumed of the input is the beginning of the first request.
local function speak_http(self, fn)
  local p = self._p
  local service = twin_of(state.services[C.rille_conn_service(p)])
  if not service then return nil, C.rille_conn_is_http(p) == 1 and "busy" or "not supported" end
  local code = C.rille_http_adopt(p, service)
  if code ~= 0 then return nil, text[-code] end
  setmetatable(self, metatable) -- no frames, so none in order
  self._on_request, self._codec, self._serve = fn, false, require "rille.http.serve"
  rawset(self, "_key", false)
  pin(self)
  C.rille_conn_serve(p, 1)
  return true
end

-- fn: a function, or a key of the script's table. codec: "http", with fn(req, res), or { decode = function(conn) -> frame or
-- nil[, err] }. options, of frames: concurrency, ordered.
function Conn:on_request(fn, codec, options)
  local key
  if type(fn) == "string" then
    key = fn
    fn = type(state.script) == "table" and state.script[key]
    if type(fn) ~= "function" then misuse("the script's table has no function '%s'", key) end
  elseif type(fn) ~= "function" then
    misuse("bad argument #1 to 'on_request' (a function or a key of the script's table expected, got %s)", type(fn))
  end
  local p = self._p
  if not p then return gone(self) end
  if codec == "http" then return speak_http(self, fn) end
  if codec and C.rille_conn_is_http(p) == 1 then misuse("on_request: a codec cuts bytes, and this connection speaks HTTP") end
  if codec then
    local is_ordered
    fn, is_ordered = M.framed(fn, codec, options or {})
    if is_ordered then setmetatable(self, M.ordered) end
  end
  local code = C.rille_conn_set_codec(p, codec and codecs.is_framing(codec) and codec._p or nil)
  if code == C.RILLE_ERR_TOO_LARGE then
    misuse("on_request: a frame may have %d bytes, more than limits.max_input; lower the codec's max", codec:largest())
  elseif code ~= 0 then
    return nil, text[-code]
  end
  self._on_request, self._codec = fn, codec or false
  rawset(self, "_key", not codec and key or false) -- a function has no name in another state
  pin(self)
  C.rille_conn_serve(p, 1)
  return true
end

-- A bad frame ends the connection; on_close gets the error if it is one of the closed list.
local function refuse(self, err)
  M.log_bad_frame(self, err)
  if self._p and errors.code[err] then C.rille_conn_fault(self._p, errors.code[err]) end
end
M.refuse_frame = refuse

-- A handler of whole frames from a codec: decode(conn) returns a frame, nil when it needs more bytes (it must
-- not have consumed any then), or nil and an error, which closes the connection. With options.concurrency above 1 frames are handled
-- by so many tasks; a second result is true when what these write has to be put in order: the connection needs M.ordered.
function M.framed(fn, codec, options)
  local decode = type(codec) == "table" and codec.decode
  if type(decode) ~= "function" then misuse("a codec is a table with a function 'decode' (got %s)", type(codec)) end
  local limit = options.concurrency or 1
  if type(limit) ~= "number" or limit % 1 ~= 0 or limit < 1 or limit > CONCURRENCY_MAX then
    misuse("concurrency: a whole number from 1 to %d expected, got %s", CONCURRENCY_MAX, tostring(limit))
  end
  if limit > 1 then
    local is_ordered = options.ordered ~= false
    return M.concurrent(fn, decode, limit, is_ordered), is_ordered
  end
  return function(conn)
    local frame, err = decode(conn)
    if frame ~= nil then return fn(conn, frame) end
    if err then
      refuse(conn, err)
      conn:close()
    end
  end
end

local function address(fill, self)
  local p = self._p
  if not p then return nil, "closed" end
  local size = tonumber(fill(p, name_box, 512))
  if size == 0 then return nil, "closed" end
  return ffi.string(name_box, size)
end

-- "127.0.0.1:5000"; known until on_close has returned.
function Conn:peer()
  return address(C.rille_conn_peer, self)
end

-- "tcp://127.0.0.1:7000"
function Conn:local_address()
  return address(C.rille_conn_local, self)
end

function Conn:is_active()
  local p = self._p
  return p and C.rille_conn_is_active(p) == 1 or false
end

local timeout_settings = {
  read = C.RILLE_SET_READ, write = C.RILLE_SET_WRITE, idle = C.RILLE_SET_IDLE, lifetime = C.RILLE_SET_LIFETIME,
  linger = C.RILLE_SET_LINGER,
}
M.timeout_settings = timeout_settings

function Conn:set_timeouts(t)
  check_timeouts(t, timeout_settings, "", "read, write, idle, lifetime, linger")
  local p = self._p
  if not p then return gone(self) end
  for name, seconds in pairs(t) do C.rille_conn_set(p, timeout_settings[name], seconds * 1000) end
  return true
end

function Conn:pause()
  if self._p then C.rille_conn_pause(self._p, 1) end
  return true
end

function Conn:resume()
  if self._p then C.rille_conn_pause(self._p, 0) end
  return true
end

function Conn:set_nodelay(on)
  if not self._p then return gone(self) end
  return result(C.rille_conn_set(self._p, C.RILLE_SET_NODELAY, on == false and 0 or 1))
end

-- set_keepalive(false), or (idle seconds[, seconds between probes[, probes]])
function Conn:set_keepalive(idle, interval, count)
  if not self._p then return gone(self) end
  if idle == false then idle = 0 end
  if type(idle) ~= "number" then
    misuse("bad argument #1 to 'set_keepalive' (seconds or false expected, got %s)", type(idle))
  end
  return result(C.rille_conn_keepalive(self._p, idle, interval or 0, count or 0))
end

-- trace(true): every read and write of this connection goes to the log, as hex.
function Conn:trace(on)
  if self._p then C.rille_conn_trace(self._p, on == false and 0 or 1) end
  return true
end

return M
