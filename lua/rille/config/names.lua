-- names: what servers of a configuration are called.

local names = {}

-- As it says itself, else after its script.
function names.of(server)
  if server.name then return server.name end
  if type(server.script) ~= "string" then return "app" end
  return server.script:match("([^/]+)%.lua$") or server.script
end

-- A key for each of a list of servers that no other of them has: its name, with its position where two are called the same.
function names.keys(servers)
  local keys, count = {}, {}
  for i, server in ipairs(servers) do
    keys[i] = names.of(server)
    count[keys[i]] = (count[keys[i]] or 0) + 1
  end
  for i, key in ipairs(keys) do
    if count[key] > 1 then keys[i] = ("%s#%d"):format(key, i) end
  end
  return keys
end

return names
