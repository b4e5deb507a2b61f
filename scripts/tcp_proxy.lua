-- tcp_proxy: every connection goes on to one address. Its bytes stay in the kernel.
--
--   rille run scripts/tcp_proxy.lua --listen tcp://127.0.0.1:7000 -- to=tcp://127.0.0.1:8080

local rille = require "rille"
local options = ...
local to = options.to or "tcp://127.0.0.1:8080"

return {
  on_connect = function(conn)
    local back, err, message = rille.dial(to)
    if not back then
      rille.log.warn("%s: %s", conn:peer(), message or err)
      return conn:abort()
    end
    conn:pump(back)
    back:close()
    conn:close()
  end,
  on_request = function(conn) conn:close() end,
}
