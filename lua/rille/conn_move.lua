-- conn_move: conn:move, and what becomes of a connection that comes from another loop.

local C = require "rille.core"
local ffi = require "ffi"
local buffer = require "string.buffer"

local errors = require "rille.errors"
local gone = require("rille.conn_read").gone
local misuse = require "rille.misuse"
local state = require "rille.state"
local task = require "rille.task"

local text = errors.text

local Conn = {}
local M = { methods = Conn }

local size_box, id_box = ffi.new("double[1]"), ffi.new("double[1]")

-- Something of it is a function of this Lua state, which no other loop has.
local function is_bound(self)
  local closers = rawget(self, "_closers")
  if closers and #closers > 0 then return true end
  return self._on_request ~= (state.services[C.rille_conn_service(self._p)].on_request or false)
end

-- Hand it over to loop number `loop`. True: it is on its way, and this table is of one that is closed. Or nil, err: nothing has
-- changed.
function Conn:move(loop)
  if type(loop) ~= "number" or loop % 1 ~= 0 then
    misuse("bad argument #1 to 'move' (the number of a loop expected, got %s)", tostring(loop))
  end
  local p = self._p
  if not p then return gone(self) end
  if loop < 1 or loop > state.loop_count then return nil, "not found" end
  if loop == state.loop_id then return true end
  if is_bound(self) then return nil, "busy" end
  local ctx = rawget(self, "ctx")
  local bytes = ""
  if ctx ~= nil then
    local ok, encoded = pcall(buffer.encode, ctx)
    if not ok then return nil, "invalid argument", "ctx: " .. encoded end
    bytes = encoded
  end
  local fiber = task.current()
  local frame = fiber and fiber.frame
  local is_own = fiber and (fiber.a == self or frame and frame.conn == self) -- it is a handler that calls this
  local code = C.rille_conn_move(p, loop, is_own and 1 or 0, bytes, #bytes)
  if code ~= 0 then return nil, text[-code] end
  self._told = true -- its on_close is called where it ends
  return true
end

-- What came with the connection of the MOVE event: its ctx, its id before.
function M.take()
  local bytes = C.rille_conn_take_moved(state.handle, size_box, id_box)
  if bytes == nil then return end
  if size_box[0] == 0 then return nil, id_box[0] end
  return buffer.decode(ffi.string(bytes, size_box[0])), id_box[0]
end

return M
