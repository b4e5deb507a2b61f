-- state: what this Lua state is part of: its loop, its generation, its script. Filled in at boot (or for the time of
-- rille.run in somebody's program), read by every module that needs a loop. Plain fields, so that the JIT sees them.

local state = {
  loop = nil,         -- rille_loop *, nil while no loop runs here
  handle = nil,       -- rille_state *
  inbox = nil,        -- rille_inbox *
  clock = nil,        -- const rille_clock *
  place = nil,        -- rille_place *, what the loop is doing
  label = "host@1",   -- script@generation
  generation = 1,
  loop_id = 0,
  loop_count = 1,
  script = nil,       -- the table the script returned, for keys given as strings
  services = {},      -- by id: { on_request =, on_connect =, ... }
  is_staged = false,  -- it is being built for a loop that serves, and is not there yet
  is_retiring = false, -- another generation serves
  is_dev = false,     -- errors may be shown to clients
  default_service = nil, -- rille_service * of connections the script makes itself
}

-- The loop, for a function that needs one; raises at the line that called that function.
function state.need_loop(name)
  local loop = state.loop
  if loop then return loop end
  error(("rille.%s needs a running loop: call it from a handler, or run the file with `rille exec`"):format(name), 3)
end

return state
