-- shutdown_race: a program that runs a server again and again, each until a client says "shutdown". arg: the address, how many times.
-- Each line it writes is a run: connections that were prepared, closed, and what went wrong.

local url, rounds, root = arg[1], tonumber(arg[2]), arg[3]
package.path = root .. "/lua/?.lua;" .. root .. "/lua/?/init.lua;" .. package.path

local rille = require "rille"
local counts = rille.dict("races", { size = "4m" })

io.stdout:setvbuf("line")
for _ = 1, rounds do
  local ok, message = rille.run {
    loops = 2, drain_timeout = "50ms", log = { level = "error" },
    servers = { { listen = url, script = root .. "/spec/support/close_race_script.lua", options = { race = "shutdown" } } },
  }
  if not ok then print("wrong: " .. message) end
  local get = function(what) return counts:get("shutdown " .. what) or 0 end
  print(("%d %d %d"):format(get "prepare", get "close", get "wrong"))
end
