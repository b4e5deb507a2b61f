-- binding: keys of a script's own for connections, such as "device:42", found from any loop of the process. core/binding.c has the table.

local ffi = require "ffi"

local C = require "rille.core"
local conn = require "rille.conn"
local errors = require "rille.errors"
local gone = require("rille.conn_read").gone
local misuse = require "rille.misuse"
local post = require "rille.post"
local state = require "rille.state"

local text = errors.text
local box = ffi.new "size_t[1]"

local M = {}

local function check_key(key, name)
  if type(key) ~= "string" then misuse("bad argument #1 to '%s' (a string expected, got %s)", name, type(key)) end
  if #key < 1 or #key > C.RILLE_BINDING_KEY_MAX then
    misuse("bad argument #1 to '%s' (a key of 1 to %d bytes expected, got %d)", name, C.RILLE_BINDING_KEY_MAX, #key)
  end
end

local function check_conn(x, at, name)
  if not conn.is(x) then
    misuse("bad argument #%d to '%s' (a connection of this loop expected, got %s)", at, name, type(x))
  end
  return x._p
end

-- rille.bind(key, conn): the key is this connection's from now on, whoever had it before, until it ends. True, or nil, err: "closed",
-- "full".
function M.bind(key, x)
  state.need_loop("bind")
  check_key(key, "bind")
  local p = check_conn(x, 2, "bind")
  if not p then return gone(x) end
  local code = C.rille_binding_set(p, key, #key)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- rille.unbind(key, conn): false when the key is not this connection's (any more).
function M.unbind(key, x)
  state.need_loop("unbind")
  check_key(key, "unbind")
  local p = check_conn(x, 2, "unbind")
  return p and C.rille_binding_clear(p, key, #key) == 1 or false
end

-- rille.lookup(key): as rille.connection(id), of any loop; or nil, "not found".
function M.lookup(key)
  state.need_loop("lookup")
  check_key(key, "lookup")
  local id = C.rille_binding_find(key, #key)
  if id == 0 then return nil, "not found" end
  return post.connection(id)
end

-- rille.bound(conn[, n]): the n-th (first) of the keys that are this connection's, in the order of binding; nil when there are not so many.
function M.bound(x, n)
  state.need_loop("bound")
  local p = check_conn(x, 1, "bound")
  if n == nil then n = 1 end
  if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then
    misuse("bad argument #2 to 'bound' (a whole number from 1 expected, got %s)", tostring(n))
  end
  local key = p and n <= C.RILLE_BINDINGS_OF_CONN and C.rille_binding_key(p, n, box)
  if not key or key == nil then return nil end
  return ffi.string(key, box[0])
end

return M
