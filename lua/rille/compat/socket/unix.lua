-- unix: stream sockets in the file system, as `require "socket.unix"` gives them: a function, and a table with `stream` and `tcp`.

local tcp = require "rille.compat.socket.tcp"

local function stream()
  return tcp.new("unix")
end

return setmetatable({ stream = stream, tcp = stream }, { __call = stream })
