-- groups: the numbers by which the loops of a team know the addresses that they share. A server keeps that of an address as long as it has
-- it, or hands it on with the address; no other ever gets it. One book for a process.

local scheme = require "rille.config.scheme"

local groups = {}

local Book = {}
Book.__index = Book

-- Those of the first generation of each of a list of servers: a list of lists.
function groups.first(servers)
  local lists, last = {}, 0
  for i, one in ipairs(servers) do
    lists[i] = {}
    for k in ipairs(one.listen) do
      last = last + 1
      lists[i][k] = last
    end
  end
  return lists
end

function groups.book()
  return setmetatable({ last = 0, servers = {} }, Book)
end

-- The number of its k-th place at an address, which may be written several times: ":0", ":0".
local function places(self, server)
  self.servers[server] = self.servers[server] or {}
  return self.servers[server]
end

local function put(of, url, number)
  local key = scheme.canonical(url)
  of[key] = of[key] or {}
  table.insert(of[key], number)
end

-- What the first generation of a server got.
function Book:adopt(server, listen, numbers)
  for i, url in ipairs(listen) do
    put(places(self, server), url, numbers[i])
    self.last = math.max(self.last, numbers[i])
  end
end

-- The numbers of a list of addresses of a server; those it has not get new ones.
function Book:of(server, listen)
  local of, used, list = places(self, server), {}, {}
  for i, url in ipairs(listen) do
    local key = scheme.canonical(url)
    used[key] = (used[key] or 0) + 1
    if not (of[key] and of[key][used[key]]) then
      self.last = self.last + 1
      put(of, url, self.last)
    end
    list[i] = of[key][used[key]]
  end
  return list
end

-- A server has these addresses and no other.
function Book:settle(server, listen)
  local kept, before = {}, places(self, server)
  for _, url in ipairs(listen) do
    local key = scheme.canonical(url)
    local number = before[key] and table.remove(before[key], 1)
    if number then put(kept, url, number) end
  end
  self.servers[server] = kept
end

-- An address goes from one server to another.
function Book:move(url, from, to)
  local of = places(self, from)[scheme.canonical(url)]
  local number = of and table.remove(of)
  if number then put(places(self, to), url, number) end
end

-- A server is gone.
function Book:forget(server)
  self.servers[server] = nil
end

return groups
