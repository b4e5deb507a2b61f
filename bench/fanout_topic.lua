-- Whoever connects is subscribed; a byte from anybody goes out as 1 KiB to all: what bench/fanout.lua measures.
--
--   rille run bench/fanout_topic.lua --listen tcp://127.0.0.1:7000 --loops 2

local rille = require "rille"
local topic = rille.topic "fanout"
local message = ("x"):rep(1024)

return {
  on_connect = function(conn)
    topic:subscribe(conn)
    conn:write("+")
  end,
  on_request = function(conn)
    conn:skip(conn:len())
    topic:publish(message)
  end,
}
