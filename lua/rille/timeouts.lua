-- timeouts: what set_timeouts of connections and sessions is given. Raises at the script's line unless t has seconds, 0 or more, for keys
-- of settings. owner: of what, in a message; names: what it takes.

local misuse = require "rille.misuse"

return function(t, settings, owner, names)
  if type(t) ~= "table" then misuse("bad argument #1 to 'set_timeouts' (table expected, got %s)", type(t)) end
  for name, seconds in pairs(t) do
    if not settings[name] then
      misuse("set_timeouts%s has no '%s': it takes %s", owner, tostring(name), names)
    elseif type(seconds) ~= "number" or not (seconds >= 0) then
      misuse("set_timeouts: %s takes seconds, 0 (none) or more, not %s", name, tostring(seconds))
    end
  end
end
