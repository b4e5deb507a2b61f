-- generation: what a Lua state does when another generation of its script takes over from it, or it from another: the hooks on_retire and
-- on_reload, the connections it hands on, the timers that rest meanwhile.

local ffi = require "ffi"

local C = require "rille.core"
local bridge = require "rille.bridge"
local conn = require "rille.conn"
local channel = require "rille.channel"
local leak_report = require "rille.leak_report"
local log = require "rille.log"
local luggage = require "rille.luggage"
local script = require "rille.script"
local state = require "rille.state"
local store = require "rille.store"
local task = require "rille.task"
local timer = require "rille.timer"
local upstream = require "rille.upstream"

local generation = {}

local size_box = ffi.new("size_t[1]")
local double_box = ffi.new("double[1]")

-- ---- being told ------------------------------------------------------------------------------------------------

local signal = nil -- the channel that is closed when another generation serves

-- Whether another generation serves: a task that holds a connection for its lifetime is to come to an end.
function generation.retiring()
  state.need_loop("retiring")
  return state.is_retiring
end

-- A channel that nothing is sent on: it is closed when another generation serves.
function generation.retire_channel()
  state.need_loop("retire_channel")
  if not signal then
    signal = channel(1)
    if state.is_retiring then signal:close() end
  end
  return signal
end

-- ---- hooks -----------------------------------------------------------------------------------------------------

local STILL = "cannot park here: %s runs between two turns of the loop; spawn a task for what takes time"

-- What on_retire of this script returned, for the one that follows.
local function on_retire()
  local hook = state.script and state.script.on_retire
  if not hook then return end
  local ok, data = task.call_still(STILL:format("on_retire"), hook)
  if not ok then
    script.report("on_retire", nil, data)
    return
  end
  local bytes, dropped = luggage.pack(data, "on_retire()")
  for _, what in ipairs(dropped) do log.warn("%s: not handed over: %s", state.label, what) end
  C.rille_state_bequeath(state.handle, bytes, #bytes)
end

local function inheritance()
  local bytes = C.rille_state_inheritance(state.handle, size_box)
  if bytes == nil then return nil end
  return luggage.unpack(ffi.string(bytes, size_box[0]))
end

local function on_reload(is_rollback)
  local hook = state.script and state.script.on_reload
  if not hook then return true end
  local info = { label = state.label, generation = state.generation, loop = state.loop_id, rollback = is_rollback }
  local ok, trace = task.call_still(STILL:format("on_reload"), hook, inheritance(), info)
  if ok then return true end
  script.report("on_reload", nil, trace)
  return nil, ("%s: on_reload failed: %s"):format(state.label, trace)
end

local LEFT_MAX = 20 -- lines of a report

-- What the script has begun and not ended, by the line that made it, as text.
local function what_is_left()
  local lines = {}
  for i, one in ipairs(leak_report.list()) do
    if i > LEFT_MAX then
      lines[#lines + 1] = "..."
      break
    end
    lines[#lines + 1] = ("%d x %s %s"):format(one.count, one.kind, one.place)
  end
  return table.concat(lines, ", ")
end

-- ---- changes ---------------------------------------------------------------------------------------------------

local changes = {
  [C.RILLE_CHANGE_RETIRE] = on_retire,
  [C.RILLE_CHANGE_RELOAD] = function()
    local ok, message = on_reload(false)
    if ok then return end
    C.rille_state_explain(state.handle, message, #message)
    C.rille_state_refuse_start(state.handle)
  end,
  [C.RILLE_CHANGE_RETURN] = function() on_reload(true) end,
  [C.RILLE_CHANGE_ASIDE] = function()
    state.is_retiring = true
    timer.hold()
    upstream.aside()
    store.aside()
    bridge.aside()
    if signal then signal:close() end
  end,
  [C.RILLE_CHANGE_BACK] = function()
    state.is_retiring = false
    signal = nil
    timer.release()
  end,
  [C.RILLE_CHANGE_LEFT] = function()
    local text = what_is_left()
    C.rille_state_leave_behind(state.handle, text, #text)
  end,
}

-- Forget the loop and what was there of it.
local function leave()
  for _, name in ipairs {
    "stream", "io", "resolve", "dial", "upstream", "store", "bridge", "process", "task", "timer", "concurrency", "mux", "conn", "udp",
    "udp_session",
  } do
    require("rille." .. name).reset()
  end
  local pool = require "rille.pool"
  if state.is_staged then pool.settle() else pool.reset() end
  state.loop = nil
end
changes[C.RILLE_CHANGE_GONE] = leave

-- The CHANGE event.
function generation.change(kind)
  changes[kind]()
end

script.on_error(generation.change, "a change of generations", function() end)

-- ---- connections -----------------------------------------------------------------------------------------------

-- The key of what handles a connection, "" for its server's on_request; nil when it is a function, which no other state has.
local function key_of(self)
  local closers = rawget(self, "_closers")
  if closers and #closers > 0 then return nil end
  local key = rawget(self, "_key")
  if key then return key end
  if key == false then return nil end
  return ""
end

local named = {} -- what was dropped, once each

local function note_dropped(dropped)
  for _, what in ipairs(dropped) do
    if not named[what] then
      named[what] = true
      log.warn("%s: %s does not go to the next generation; return plain data from on_migrate(ctx)", state.label, what)
    end
  end
end

local function call_migrate(ctx)
  return state.script.on_migrate(ctx)
end

-- What goes over of the ctx of a connection, or of a session: bytes, home (the bytes for the way back; nil: the same ones), held: what
-- luggage.left wants when it has gone. returns: it goes back to where there is a ctx, so this one is only to be let go of.
function generation.pack_ctx(ctx, returns)
  local hook = not returns and type(state.script) == "table" and state.script.on_migrate
  if ctx == nil then return "" end
  local held, home = {}, nil
  if hook then
    home = luggage.pack(ctx, "ctx", held) -- before, as the hook may take it apart
    local ok, data = task.call_still(STILL:format("on_migrate"), call_migrate, ctx)
    if ok then ctx = data else script.report("on_migrate", nil, data) end
  end
  held.is_last = true
  local bytes, dropped = luggage.pack(ctx, "ctx", held)
  if not returns then note_dropped(dropped) end
  return bytes, home, held
end

-- What a connection or a session brought along; holding: of its luggage, or NULL. Nil: nothing, or that is not to be had.
function generation.unpack_ctx(bytes, size, holding)
  local ok, ctx = pcall(luggage.unpack, ffi.string(bytes, size), holding)
  if ok then return ctx end
  log.error("%s: a ctx of the generation before is lost: %s", state.label, tostring(ctx))
end

-- What holds a connection is to let go: its handler raises where it is parked, and the next message is another generation's.
local function let_go(self, p)
  rawset(self, "_leaves", true)
  if not task.cancel_for(self) then C.rille_conn_hand_on(p, "", 0, nil, 0, "", nil) end
end

-- The MIGRATE event: hand a connection on.
local function migrate(slot, is_forced)
  local p = C.rille_conn_of(state.handle, slot)
  if p == nil then return end
  local self = conn.seen(slot)
  if not self and is_forced == 0 and state.script.on_migrate then self = conn.at(slot) end -- with what it has brought along
  if not self then
    C.rille_conn_hand_on(p, "", 0, nil, 0, "", nil)
    return
  end
  local key = key_of(self)
  if is_forced == 1 then
    if key then return let_go(self, p) end
    return C.rille_conn_close(p)
  end
  if not key then return C.rille_conn_bind(p) end
  local bytes, home, held = generation.pack_ctx(rawget(self, "ctx"), C.rille_conn_returns(p) == 1)
  if C.rille_conn_hand_on(p, bytes, #bytes, home, home and #home or 0, key, held and held.holding) == 0 then return end
  luggage.left(held)
  conn.forget(self, "closed")
end

function generation.migrate(slot, is_forced)
  return task.call(migrate, slot, is_forced)
end

script.on_error(migrate, "a migration", function() end)

-- What a connection brought along, when its first message makes a table for it.
conn.unpack = function(self, p)
  local bytes = C.rille_conn_luggage(p, double_box)
  if bytes == nil then return end
  local ctx = generation.unpack_ctx(bytes, double_box[0], C.rille_conn_holding(p))
  if ctx ~= nil then self.ctx = ctx end
  local key = ffi.string(C.rille_conn_luggage_key(p))
  C.rille_conn_unpacked(p)
  if key == "" then return end
  local fn = type(state.script) == "table" and state.script[key]
  if type(fn) ~= "function" then
    log.error("%s: the script's table has no function '%s' any more: conn %d is closed", state.label, key, self.id)
    return C.rille_conn_close(p)
  end
  self._on_request = fn
  rawset(self, "_key", key)
  self._serve = require("rille.dispatch").serve
end

return generation
