-- diff: what lies between two configurations, and which of it a server that runs can take over. defaults.lua says for each key how a new
-- value comes to it; nothing is done here.

local check = require "rille.config.check"
local defaults = require "rille.defaults"
local names = require "rille.config.names"
local pair = require "rille.config.pair"

local diff = {}

-- How a change is told; by `live` of defaults.lua.
local SAYS = {
  log = "at once", loops = "at once", process = "at once", pools = "at once", dicts = "at once", reload = "at once",
  generation = "with new Lua states", listen = "addresses are opened and closed", address = "with new addresses",
  servers = "in the servers that have it from here", start = "at the next start", stays = "stays until a restart",
}
diff.says = SAYS

local RESTART = "needs a restart"

-- ---- values ----------------------------------------------------------------------------------------------------

-- seen: pairs of tables that are being compared; options of a program may be a table in itself.
local function is_equal(a, b, seen)
  if rawequal(a, b) then return true end
  if type(a) ~= type(b) or type(a) == "cdata" then return false end
  if type(a) ~= "table" then return a == b end
  seen = seen or {}
  seen[a] = seen[a] or {}
  if seen[a][b] then return true end
  seen[a][b] = true
  for key, value in pairs(a) do
    if not is_equal(value, b[key], seen) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

-- The keys of either of two tables, in order.
local function keys_of(a, b)
  local list, seen = {}, {}
  for _, from in ipairs { a or {}, b or {} } do
    for key in pairs(from) do
      if not seen[key] then list[#list + 1], seen[key] = key, true end
    end
  end
  table.sort(list, function(x, y) return tostring(x) < tostring(y) end)
  return list
end

local function below(path, ...)
  local longer = { unpack(path) }
  for _, key in ipairs { ... } do longer[#longer + 1] = key end
  return longer
end

-- visit(path, entry, live, old, new) for each value that differs. live: what is said for the whole table, nil: each key says it.
local walk

local function walk_members(a, b, entry, path, visit)
  for _, name in ipairs(keys_of(a, b)) do
    local old, new = a[name], b[name]
    if old and new then
      walk(old, new, entry.keys, below(path, name), visit)
    else
      visit(below(path, name), entry, new and entry.live or "stays", old, new)
    end
  end
end

function walk(a, b, keys, path, visit, live)
  for _, entry in ipairs(keys) do
    local old, new, at = a[entry.name], b[entry.name], below(path, entry.name)
    local how = live
    if how == nil then how = entry.live end
    if entry.type == "table" then
      walk(old or {}, new or {}, entry.keys, at, visit, how)
    elseif entry.type == "map" then
      walk_members(old, new, entry, at, visit)
    elseif entry.type == "workers" then
      walk_members({ [entry.name] = old }, { [entry.name] = new }, entry, path, visit)
    elseif entry.name ~= "servers" and not is_equal(old, new) then
      visit(at, entry, how, old, new)
    end
  end
end

-- ---- servers ---------------------------------------------------------------------------------------------------

local server_keys
for _, entry in ipairs(defaults.top) do
  if entry.name == "servers" then server_keys = entry.keys end
end

local DEPTH_MAX = 4 -- to which options are told apart

-- visit(path) for what differs below two options.
local function differing(a, b, path, visit)
  local is_whole = type(a) ~= "table" or type(b) ~= "table" or a[1] ~= nil or b[1] ~= nil
  if is_whole or #path == DEPTH_MAX then return visit(path) end
  for _, key in ipairs(keys_of(a, b)) do
    if not is_equal(a[key], b[key]) then differing(a[key], b[key], below(path, key), visit) end
  end
end

-- What adds a name to change.what, once.
local function noter(change)
  local seen = {}
  return function(name, how)
    if not seen[name] then table.insert(change.what, name) end
    seen[name] = true
    if how == "address" then how = "generation" end -- all its addresses are new ones
    change.how[how] = true
  end
end

-- What changes of one server, the one at position number. refuse(path, old, new, why) is told what cannot. everywhere: keys outside of
-- servers whose change takes new Lua states of every server.
local function compare(key, old, new, number, everywhere, refuse)
  local change = { key = key, old = old, new = new, what = {}, how = {} }
  local note = noter(change)
  local addresses, is_respoken = pair.addresses(old, new)
  if #addresses.added + #addresses.removed > 0 then note("listen", "listen") end
  if is_respoken then note("listen", "generation") end
  if #change.what > 0 then change.listen = addresses end
  walk(old, new, server_keys, {}, function(path, entry, how, a, b)
    local at = below({ "servers", number }, unpack(path))
    if how == "listen" then return end
    if how == false then return refuse(at, a, b, RESTART) end
    if how == "address" and #addresses.kept > 0 then
      return refuse(at, a, b, ("%s: %s stays open"):format(RESTART, addresses.kept[1]))
    end
    if entry.type ~= "options" then return note(check.name_of(path), how) end
    differing(a, b, path, function(one) note(check.name_of(one), how) end)
  end)
  for _, name in ipairs(everywhere) do note(name, "generation") end
  return change
end

-- Addresses that one server gives up and another takes: { { address =, from = key, to = key } ... }.
local function moves_of(d, given_up, taken)
  local moved = {}
  for _, one in ipairs(taken) do
    for _, other in ipairs(given_up) do
      local addresses = pair.addresses({ listen = { other.address } }, { listen = { one.address } })
      if #addresses.kept == 1 and not other.is_gone then
        other.is_gone = true
        moved[#moved + 1] = { address = one.address, from = other.key, to = one.key }
        break
      end
    end
  end
  d.moved = moved
end

local function compare_servers(d, olds, news, everywhere, refuse)
  local of_new, is_kept = pair.match(olds, news), {}
  local old_keys, new_keys = names.keys(olds), names.keys(news)
  local given_up, taken = {}, {}
  local function note(list, urls, key)
    for _, url in ipairs(urls) do list[#list + 1] = { address = url, key = key } end
  end
  for k, new in ipairs(news) do
    local i = of_new[k]
    if not i then
      d.added[#d.added + 1] = new
      note(taken, new.listen, new_keys[k])
    else
      is_kept[i] = true
      local change = compare(old_keys[i], olds[i], new, k, everywhere, refuse)
      if #change.what == 0 then
        d.same[#d.same + 1] = { key = change.key, old = change.old, new = change.new }
      else
        d.changed[#d.changed + 1] = change
        note(given_up, change.listen and change.listen.removed or {}, change.key)
        note(taken, change.listen and change.listen.added or {}, change.key)
      end
    end
  end
  for i, old in ipairs(olds) do
    if not is_kept[i] then
      d.removed[#d.removed + 1] = old_keys[i]
      note(given_up, old.listen, old_keys[i])
    end
  end
  moves_of(d, given_up, taken)
end

-- ---- the face --------------------------------------------------------------------------------------------------

-- What makes the checked configuration `new` of `old`. A table of
--   added     servers of new that old has not
--   removed   keys (names.keys of old) of servers that new has not
--   changed   { key =, old =, new =, what = { "options.x", ... }, how = { generation =, listen =, reload = true },
--               listen = { added =, removed =, kept = } or nil } of each server that is another one now
--   same      { key =, old =, new = } of each other
--   moved     { address =, from = key, to = key } of addresses that go from one server to another
--   live      { key =, path =, old =, new =, how = } of what changes outside of servers; how: a word of defaults.lua, "stays" for what
--             is not in new and cannot go
--   refused   { key =, path =, old =, new =, why = } of what cannot change
-- Plain data is compared by value, functions by identity. It is called as diff(old, new).
local function between(old, new)
  local d = { added = {}, removed = {}, changed = {}, same = {}, moved = {}, live = {}, refused = {} }
  local everywhere = {}
  local function refuse(path, a, b, why)
    d.refused[#d.refused + 1] = { key = check.name_of(path), path = path, old = a, new = b, why = why }
  end
  walk(old, new, defaults.top, {}, function(path, _, how, a, b)
    if how == false then return refuse(path, a, b, RESTART) end
    local key = check.name_of(path)
    d.live[#d.live + 1] = { key = key, path = path, old = a, new = b, how = how }
    -- connections that scripts make themselves have theirs from the top
    local is_remote = type(b) == "table" and b.store -- a further dict that Lua states have to know of
    if how == "generation" or key == "timeouts.linger" or is_remote then everywhere[#everywhere + 1] = key end
  end)
  compare_servers(d, old.servers, new.servers, everywhere, refuse)
  return d
end

-- Whether nothing is to be done.
function diff.is_empty(d)
  return #d.added + #d.removed + #d.changed + #d.live + #d.refused == 0
end

-- Put a value at a path of a table, whose parts are copied on the way: others may share them.
local function with(node, path, k, value)
  local copy = {}
  for key, one in pairs(node or {}) do copy[key] = one end
  if k == #path then copy[path[k]] = value else copy[path[k]] = with(copy[path[k]], path, k + 1, value) end
  return copy
end

-- The configuration that holds when all of d is done: `new`, but for what was refused or stays. Its keys need not go together any more:
-- config.problem says.
function diff.result(new, d)
  for _, list in ipairs { d.refused, d.live } do
    for _, one in ipairs(list) do
      if one.why or one.how == "stays" then new = with(new, one.path, 1, one.old) end
    end
  end
  return new
end

-- ---- for people ------------------------------------------------------------------------------------------------

-- "a -> b" where both say something, else "".
local function arrow(old, new)
  if type(old) == "table" or type(new) == "table" then return "" end
  local function text(value) return value == nil and "none" or value == math.huge and "none" or check.shown(value) end
  return (" %s -> %s"):format(text(old), text(new))
end

local function addresses_text(listen)
  local list = {}
  for _, url in ipairs(listen.added) do list[#list + 1] = "+" .. url end
  for _, url in ipairs(listen.removed) do list[#list + 1] = "-" .. url end
  return table.concat(list, " ")
end

local function line_of(one)
  local says = one.why or SAYS[one.how]
  if one.old == nil and type(one.new) == "table" and one.how then says = "added " .. says end
  return ("%s:%s %s"):format(one.key, arrow(one.old, one.new), says)
end

-- Lines of text, without their ends. Values of options are not shown: they may be secrets.
function diff.report(d)
  local lines = {}
  local function add(...) lines[#lines + 1] = string.format(...) end
  for _, one in ipairs(d.refused) do add("%s", line_of(one)) end
  for _, one in ipairs(d.live) do add("%s", line_of(one)) end
  for _, server in ipairs(d.added) do add("server %s: added at %s", names.of(server), table.concat(server.listen, ", ")) end
  for _, key in ipairs(d.removed) do add("server %s: removed", key) end
  for _, change in ipairs(d.changed) do
    local listen = change.listen and addresses_text(change.listen) or ""
    add("server %s: %s%s", change.key, table.concat(change.what, ", "), listen ~= "" and (" (%s)"):format(listen) or "")
  end
  for _, one in ipairs(d.moved) do add("%s: goes from server %s to %s", one.address, one.from, one.to) end
  return lines
end

return setmetatable(diff, { __call = function(_, old, new) return between(old, new) end })
