-- chat: what one says, everybody in the room hears, on whichever loop they are. The room is a topic.
--
--   rille run scripts/chat.lua --listen tcp://127.0.0.1:7000 --loops 4 -- room=moon
--   nc 127.0.0.1 7000

local rille = require "rille"
local options = ...
local room = rille.topic(options.room or "chat", { slow = "disconnect" })

local function say(format, ...) room:publish(format:format(...)) end

return {
  on_connect = function(conn)
    conn:send("your name? ")
    local name = conn:read_line(20)
    if not name then return conn:close() end
    conn.ctx = name:str()
    room:subscribe(conn)
    say("* %s is here, %d in the room\n", conn.ctx, room:count())
  end,
  on_request = function(conn)
    local line = conn:read_line(1000)
    if not line then return conn:close() end
    say("%s: %s\n", conn.ctx, line)
  end,
  on_close = function(conn)
    if conn.ctx then say("* %s has left\n", conn.ctx) end
  end,
}
