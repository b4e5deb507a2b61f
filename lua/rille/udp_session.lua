-- udp_session: a session of datagrams as scripts see it, in the manner of a connection: a table while a script holds it, all else is in
-- core/udp_session.c. docs/udp.md describes every method.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local generation = require "rille.generation"
local luggage = require "rille.luggage"
local misuse = require "rille.misuse"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local check_timeouts = require "rille.timeouts"
local udp = require "rille.udp"

local bytes_of, slice_of, result = udp.bytes_of, udp.slice_of, udp.result
local text = errors.text
local PARK = C.RILLE_PARK
local OPEN, REQUEST, READ = C.RILLE_SESSION_OPEN, C.RILLE_SESSION_REQUEST, C.RILLE_SESSION_READ
local MIGRATE, LET_GO = C.RILLE_SESSION_MIGRATE, C.RILLE_SESSION_LET_GO

local M = {}

local Session = {}
local err_box = ffi.new("int[1]")
local text_box = ffi.new("char[?]", 512)
local double_box = ffi.new("double[1]")

local objects = setmetatable({}, { __mode = "v" }) -- by slot; a table lives while a script holds it
-- By slot; those with something a script put there. Only written: that is what keeps them alive.
local pinned = {} -- luacheck: ignore 241
local readers = {} -- by slot; the fiber that is parked in receive

local metatable = {
  __index = Session,
  -- Whatever a script keeps in a session (ctx, most of all) makes the table live as long as the session does.
  __newindex = function(self, key, value)
    if self._slot then pinned[self._slot] = self end
    rawset(self, key, value)
  end,
  __tostring = function(self) return ("session %d %s"):format(self.id, self:peer() or "?") end,
}

-- What a session brought along from the generation before, when its first event here makes a table for it.
local function unpack_ctx(self, p)
  local bytes = C.rille_session_luggage(p, double_box)
  if bytes == nil then return end
  local ctx = generation.unpack_ctx(bytes, double_box[0], C.rille_session_holding(p))
  C.rille_session_unpacked(p)
  if ctx ~= nil then self.ctx = ctx end
end

local function at(slot)
  local self = objects[slot]
  if self then return self end
  local p = C.rille_session_of(state.handle, slot)
  if p == nil then return nil end
  local service = state.services[C.rille_session_service(p)]
  self = setmetatable({
    _p = p, _slot = slot, id = C.rille_session_id(p), _service = service, _on_request = service.on_request,
  }, metatable)
  C.rille_session_know(p)
  objects[slot] = self
  unpack_ctx(self, p)
  return self
end

-- ---- events ----------------------------------------------------------------------------------------------------

local function serve(self)
  local p = self._p
  local d = C.rille_session_begin(p)
  if d == nil then return end
  self._on_request(self, slice_of(d))
  if C.rille_session_done(p) == 1 then return serve(self) end
end

script.on_error(serve, "on_request", function(self)
  if not rawget(self, "_leaves") then C.rille_session_close(self._p, C.RILLE_ERR_ERROR) end
  C.rille_session_done(self._p)
end)

local function open(self)
  self._service.on_connect(self)
  C.rille_session_opened(self._p)
end

script.on_error(open, "on_connect", function(self)
  C.rille_session_close(self._p, C.RILLE_ERR_ERROR)
  C.rille_session_opened(self._p)
end)

local function run_closers(self, err)
  local closers = rawget(self, "_closers")
  while closers and #closers > 0 do table.remove(closers)(self, err) end
end

-- The session is over, or another generation's; the table stays what it is for those who hold it.
local function forget(self, err)
  local slot = self._slot
  rawset(self, "_error", err or "closed")
  self._p, self._slot = false, false
  objects[slot], pinned[slot], readers[slot] = nil, nil, nil
end

-- on_close functions, last added first, then the script's hook. One that raises does not keep the others from running.
local function close(self)
  local code = C.rille_session_reason(self._p)
  local err = code ~= 0 and text[-code] or nil
  run_closers(self, err)
  local on_close = self._service.on_close
  if on_close and not rawget(self, "_told") then
    self._told = true
    on_close(self, err)
    run_closers(self, err) -- which it may have added
  end
  local p = self._p
  forget(self, err)
  C.rille_session_free(p)
end

script.on_error(close, "on_close", function(self) task.start_later(close, self) end)

local function resume_reader(slot)
  local fiber = readers[slot]
  readers[slot] = nil
  if fiber and not fiber.queued then return task.resume(fiber, true) end
end

local function is_bound(self)
  local closers = rawget(self, "_closers")
  return closers ~= nil and #closers > 0
end

-- Hand a session on to the generation that took this one's place.
local function migrate(slot)
  local p = C.rille_session_of(state.handle, slot)
  if p == nil then return end
  local self = objects[slot]
  if self and is_bound(self) then return C.rille_session_bind(p) end
  if not self and state.script.on_migrate then self = at(slot) end -- with what it has brought along
  local bytes, home, held = "", nil, nil
  if self then bytes, home, held = generation.pack_ctx(rawget(self, "ctx"), C.rille_session_returns(p) == 1) end
  local went = C.rille_session_hand_on(p, bytes, #bytes, home, home and #home or 0, held and held.holding)
  if went == 0 or not self then return end
  luggage.left(held)
  forget(self)
end

-- It stays, then.
script.on_error(migrate, "a migration", function(slot)
  local p = C.rille_session_of(state.handle, slot)
  if p ~= nil then C.rille_session_bind(p) end
end)

-- The patience with this generation is over: what holds a session is to let go. One that has functions of it ends.
local function let_go(slot)
  local self = at(slot)
  if not self then return end
  if is_bound(self) then C.rille_session_close(self._p, C.RILLE_ERR_SHUTDOWN) end
  rawset(self, "_leaves", true)
  if not task.cancel_for(self, readers[slot]) and not is_bound(self) then return migrate(slot) end
end

-- The SESSION event.
function M.event(slot, what)
  if what == READ then return resume_reader(slot) end
  if what == MIGRATE then return task.call(migrate, slot) end
  if what == LET_GO then return task.call(let_go, slot) end
  local self = at(slot)
  if not self then return end
  if what == REQUEST then return task.call(serve, self) end
  if what == OPEN then return task.call(open, self) end
  return task.call(close, self)
end

-- ---- methods ---------------------------------------------------------------------------------------------------

local function gone(self)
  return nil, rawget(self, "_error") or "closed"
end

-- x, a string or a slice, is one datagram to the peer. True, or nil, err.
function Session:send(x)
  local bytes, size, block = bytes_of(x, "send")
  local p = self._p
  if not p then return gone(self) end
  return result(C.rille_session_send(p, bytes, size, block))
end
Session.write = Session.send

local function cancel(self)
  local slot = self._slot
  if not slot then return end
  readers[slot] = nil
  C.rille_session_unwant(self._p, 1)
end

-- The next datagram, valid until the next receive and the handler's return; parks until there is one, at most timeout seconds (nil: for
-- ever, 0: not at all). Or nil, err: "timeout", "closed", "busy" (another task is parked here).
function Session:receive(timeout)
  if timeout ~= nil then timer.seconds(timeout, "receive") end
  local deadline = timeout and C.rille_now() + timeout
  while true do
    local p = self._p
    if not p then return gone(self) end
    local d = C.rille_session_receive(p, err_box)
    if d ~= nil then return slice_of(d) end
    local err = err_box[0]
    if err ~= PARK then return nil, text[-err] end
    local left = deadline and math.max(deadline - C.rille_now(), 0)
    if left == 0 then
      C.rille_session_unwant(p, 1)
      return nil, "timeout"
    end
    readers[self._slot] = task.current()
    if not timer.park(left, cancel, self) then return nil, "timeout" end
    if self._p then C.rille_session_unwant(self._p, 0) end
  end
end

-- It ends when its handlers have returned; the peer is not told, and what it sends then begins another one.
function Session:close()
  local p = self._p
  if p then C.rille_session_close(p, 0) end
  return true
end

function Session:on_close(fn)
  if type(fn) ~= "function" then misuse("bad argument #1 to 'on_close' (function expected, got %s)", type(fn)) end
  if not self._p then
    fn(self, rawget(self, "_error") ~= "closed" and rawget(self, "_error") or nil)
    return true
  end
  local closers = rawget(self, "_closers")
  if not closers then
    closers = {}
    self._closers = closers -- pins
  end
  closers[#closers + 1] = fn
  return true
end

-- "127.0.0.1:5000"; known until on_close has returned.
function Session:peer()
  local p = self._p
  if not p then return nil, "closed" end
  return ffi.string(text_box, C.rille_session_peer(p, text_box, 512))
end

function Session:is_active()
  local p = self._p
  return p and C.rille_session_is_active(p) == 1 or false
end

local SETTINGS = { idle = C.RILLE_SESSION_IDLE, lifetime = C.RILLE_SESSION_LIFETIME }

-- seconds, 0 for none; what is not named stays
function Session:set_timeouts(t)
  check_timeouts(t, SETTINGS, " of a session", "idle, lifetime")
  local p = self._p
  if not p then return gone(self) end
  for key, seconds in pairs(t) do C.rille_session_set(p, SETTINGS[key], seconds * 1000) end
  return true
end

-- The loop is gone, and every session with it.
function M.reset()
  for _, self in pairs(objects) do
    rawset(self, "_error", "closed")
    self._p, self._slot = false, false
  end
  objects, pinned, readers = setmetatable({}, { __mode = "v" }), {}, {} -- luacheck: ignore 331
end

return M
