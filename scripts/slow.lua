-- slow: "sleep SECONDS" answers when the time is over, "limit SECONDS" does the same but gives up after options.limit (0.2)
-- seconds. Meanwhile every other connection is served. A client that says nothing for options.idle (5) seconds is told so, and let
-- go.
--
--   rille run scripts/slow.lua --listen tcp://127.0.0.1:7000 -- limit=0.5
--   printf 'sleep 1\n' | nc -q3 127.0.0.1 7000

local rille = require "rille"

local options = ...
local limit, idle = options.limit or 0.2, options.idle or 5

local function work(seconds)
  rille.sleep(seconds)
  return ("slept %g\n"):format(seconds)
end

local commands = {
  sleep = work,
  limit = function(seconds)
    local answer, err = rille.with_timeout(limit, work, seconds)
    return answer or ("gave up: %s\n"):format(err)
  end,
}

local function answer(conn)
  local line, err = conn:read_line(100)
  if not line then
    if err == "timeout" then conn:write("too slow\n") end
    conn:close()
    return false
  end
  local name, seconds = line:str():match("^(%a+) ([%d.]+)$")
  local command, n = commands[name], tonumber(seconds)
  conn:write(command and n and command(n) or "say: sleep SECONDS, or limit SECONDS\n")
  conn:release() -- the line; this handler does not return for a long time
  return true
end

return {
  -- The whole conversation in one task: a read time-out runs only while something reads.
  on_connect = function(conn)
    conn:set_timeouts { read = idle }
    repeat until not answer(conn)
  end,

  on_request = function() end, -- nothing is left for it
}
