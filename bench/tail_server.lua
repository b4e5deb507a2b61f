-- The server of bench/tail.lua: a byte a request. "." is answered at once, "!" after 10 ms of computing on a worker. The time of one
-- runs from the turn that read it to its answer's being with the kernel. "?" is answered with the 50th, 99th and 99.9th percentile of those
-- of "." since the last one, in microseconds, and their number, as a line.
local rille = require "rille"

local clock = require("rille.core").rille_now
local pool = rille.pool("tail", { max = 1 })
local times, count = {}, 0

local function report()
  local sorted = {}
  for i = 1, count do sorted[i] = times[i] end
  table.sort(sorted)
  local function at(q) return count > 0 and sorted[math.max(1, math.ceil(q * count))] * 1e6 or 0 end
  local line = ("%.1f %.1f %.1f %d\n"):format(at(0.5), at(0.99), at(0.999), count)
  count = 0
  return line
end

return function(conn)
  local what = conn:read_byte()
  if what == 46 then
    local arrived = rille.now()
    conn:send "."
    count = count + 1
    times[count] = clock() - arrived
  elseif what == 33 then
    conn:write(pool:call("bench.tail_work", "compute", 0.01))
  else
    conn:write(report())
  end
end
