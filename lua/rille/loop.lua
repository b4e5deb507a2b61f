-- loop: rille.loop, what a script may know of the loop it runs on.

local ffi = require "ffi"

local C = require "rille.core"
local state = require "rille.state"

local loop = {}

local box = ffi.new("rille_loop_stats[1]")
local NAMES = {
  "turns", "connections", "accepted", "moved_in", "moved_out", "messages", "bytes_in", "bytes_out", "watches", "timers",
  "lua_bytes", "lua_allocated", "failures", "replaced", "datagrams_dropped", "errors", "stalls", "mail",
  "turn_seconds", "longest_turn", "longest_work",
}

-- A new table of numbers: turns, connections, accepted, moved_in and moved_out (by conn:move), messages (calls of on_request), bytes_in,
-- bytes_out, watches (descriptors and timers that tasks wait for), timers (of connections), lua_bytes, lua_allocated, failures (of the
-- dispatcher; none is expected), replaced (Lua states), datagrams_dropped (here; not by the kernel), errors (that scripts raised), stalls
-- (turns longer than stall_after), mail (messages of other threads that wait), turn_seconds (all turns together), longest_turn (seconds),
-- longest_work (the same without waits for a processor, if debug.turns is on).
function loop.stats()
  C.rille_loop_stats_read(state.need_loop("loop.stats"), box)
  local out = { id = state.loop_id }
  for _, name in ipairs(NAMES) do out[name] = box[0][name] end
  return out
end

return setmetatable(loop, {
  __index = function(_, key)
    if key == "id" then return state.loop_id end
    if key == "count" then return state.loop_count end
    if key == "process" then return math.max(C.rille_process_number(), 1) end
    if key == "processes" then return C.rille_process_count() end
  end,
})
