-- compat: modules of other worlds that park instead of blocking. docs/compat.md describes them.

local M = {}

-- From here on `require "socket"` and `require "ssl"` give these, to everything that this Lua state loads. What was loaded before keeps
-- what it has.
function M.install()
  local socket = require "rille.compat.socket"
  package.loaded["socket"], package.loaded["socket.core"] = socket, socket
  package.loaded["socket.unix"] = require "rille.compat.socket.unix"
  package.loaded["ssl"] = require "rille.compat.ssl"
  return socket
end

return M
