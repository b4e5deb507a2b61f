-- udp_sessions: a session for each peer, in straight-line code. The first datagram is a name; what follows is answered with that name and
-- a number; "bye", or a minute of silence, ends it. Sessions are switched on by the configuration:
--
--   return { servers = { { listen = "udp://127.0.0.1:7000", script = "scripts/udp_sessions.lua", session = { idle = "60s" } } } }

local rille = require "rille"

return {
  on_connect = function(conn)
    local name = conn:receive():str()
    conn:send("hello " .. name)
    for number = 1, math.huge do
      local dgram, err = conn:receive()
      if not dgram then return rille.log.info("%s is gone: %s", name, err) end
      if dgram == "bye" then return conn:close() end
      conn:send(("%s %d: %s"):format(name, number, dgram:str()))
    end
  end,
  on_request = function(conn) conn:close() end, -- on_connect takes all there is
  on_close = function(conn, err)
    if err == "timeout" then rille.log.info("%s said nothing for too long", conn:peer()) end
  end,
}
