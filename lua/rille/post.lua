-- post: calls and bytes from one loop to another. What crosses is plain data, encoded here and decoded there.

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local luggage = require "rille.luggage"
local misuse = require "rille.misuse"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"

local text = errors.text

local post = {}

local size_box = ffi.new("double[1]")

local function result(code)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- ---- calls -----------------------------------------------------------------------------------------------------

-- Call function fn of a module with the other arguments in a task on loop number `loop`, in the state of this very server
-- there. True: it is on its way.
-- nil, err: "not found" (no such loop), "full" (its mailbox), "too large", "invalid argument" with a message (what cannot be sent).
function post.call(loop, module, fn, ...)
  local handle = state.need_loop("post") and state.handle
  if type(loop) ~= "number" or loop % 1 ~= 0 then
    misuse("bad argument #1 to 'post' (the number of a loop expected, got %s)", tostring(loop))
  end
  if type(module) ~= "string" then misuse("bad argument #2 to 'post' (a module's name expected, got %s)", type(module)) end
  if type(fn) ~= "string" then misuse("bad argument #3 to 'post' (a function's name expected, got %s)", type(fn)) end
  if loop < 1 or loop > state.loop_count then return nil, "not found" end
  local ok, bytes = pcall(buffer.encode, { module, fn, n = select("#", ...), ... })
  if not ok then return nil, "invalid argument", bytes end
  return result(C.rille_post_call(handle, loop, bytes, #bytes))
end

local function run(call)
  local module, fn = require(call[1]), call[2]
  local target = type(module) == "table" and module[fn]
  if type(target) ~= "function" then
    error(("rille.post: module %s has no function '%s'"):format(call[1], fn), 0)
  end
  target(unpack(call, 3, call.n + 2))
end

script.on_error(run, "a posted call", function() end)

-- The POST event.
function post.receive()
  local bytes = C.rille_post_take(state.handle, size_box)
  if bytes == nil then return end
  return task.call(run, buffer.decode(ffi.string(bytes, size_box[0])))
end

-- ---- connections -----------------------------------------------------------------------------------------------

local Remote = {}
Remote.__index = Remote

-- A connection by its id, from any loop: an object with send(x) and close(). It may be over already.
function post.connection(id)
  state.need_loop("connection")
  if type(id) ~= "number" then misuse("bad argument #1 to 'connection' (the id of a connection expected, got %s)", type(id)) end
  return setmetatable({ id = id }, Remote)
end

-- x: a string or a slice. True: written, or on its way to the connection's loop, where it is sent if that is still there. nil, err:
-- "closed" (one of this loop), "not found" (of no loop), "full", "busy" (it speaks HTTP).
function Remote:send(x)
  local loop = state.need_loop("connection")
  if type(x) == "string" then return result(C.rille_post_bytes(loop, self.id, x, #x)) end
  if not Slice.is(x) then misuse("bad argument #1 to 'send' (a string or a slice expected, got %s)", type(x)) end
  local bytes, size = x:ptr()
  return result(C.rille_post_bytes(loop, self.id, ffi.cast("const char *", bytes), size))
end

-- Close it when its output is sent. True, or nil, err.
function Remote:close()
  return result(C.rille_post_close(state.need_loop("connection"), self.id))
end

function Remote:__tostring()
  return ("connection %d"):format(self.id)
end

luggage.handle("connection", Remote, function(self) return self.id end, post.connection)

return post
