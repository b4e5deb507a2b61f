-- Idle memory: what a connection that never sends costs the server in user memory.
local json = require "bench.json"
local load = require "bench.load"
local posix = require "bench.posix"
local server = require "bench.server"
local stats = require "bench.stats"
local usage = require "bench.usage"

local idle = {}

local STEPS = { 0, 1000, 5000, 15000 }
local ACCEPT_MAX_S, SETTLE_MAX_S, SETTLE_STEP_S = 20, 2, 0.1
local KINDS = { "vm_rss", "rss", "pss", "private", "anonymous" }

-- Memory once two readings in a row agree.
local function settled(pid)
  local deadline, last = posix.now() + SETTLE_MAX_S, usage.memory(pid)
  while posix.now() < deadline do
    posix.sleep(SETTLE_STEP_S)
    local now = usage.memory(pid)
    if now.rss == last.rss and now.private == last.private then return now end
    last = now
  end
  return last
end

-- A fresh process of `command`. Returns points (connections and bytes of each kind) and slopes (bytes a connection).
function idle.measure(settings, name, command)
  local target = server.start(name, command, settings.server_core)
  local before = posix.wait_for(1, function() -- the connection that tried the port is gone
    local count = usage.descriptors(target.pid)
    posix.sleep(0.05)
    return count == usage.descriptors(target.pid) and count
  end) or usage.descriptors(target.pid)
  local holders, points, why = {}, {}, nil
  for i, count in ipairs(STEPS) do
    if count > 0 then
      holders[#holders + 1] = load.hold_idle(settings, target, count - STEPS[i - 1])
      local is_open = posix.wait_for(ACCEPT_MAX_S, function()
        return usage.descriptors(target.pid) >= before + count
      end)
      if not is_open then
        why = ("held only %d of %d connections"):format(usage.descriptors(target.pid) - before, count)
        break
      end
    end
    local point = settled(target.pid)
    point.connections = count
    points[#points + 1] = point
  end
  for _, holder in ipairs(holders) do holder:stop() end
  target:stop()

  local slopes, xs = {}, stats.column(points, "connections")
  for _, kind in ipairs(KINDS) do
    slopes[kind] = #points > 1 and stats.slope(xs, stats.column(points, kind)) or json.null
  end
  return { points = points, bytes_per_connection = slopes, error = why or json.null }
end

return idle
