-- server: what a client knows of one Redis server: the connections that all commands share, and a pool of those that somebody has
-- for himself.

local connection = require "rille.redis.connection"
local lane = require "rille.redis.lane"
local semaphore = require "rille.semaphore"
local wire = require "rille.redis.wire"

local Server = {}
Server.__index = Server

local M = {}

function M.new(address, options)
  local self = setmetatable({ address = address, options = options, lanes = {}, next = 0, idle = {}, is_closed = false }, Server)
  for i = 1, options.connections do self.lanes[i] = lane.new(address, options) end
  self.room = semaphore(options.max_exclusive)
  return self
end

-- `count` encoded commands on a connection that others use too. A list of values; nil, err, message.
function Server:exchange(bytes, count, timeout)
  if self.is_closed then return nil, "closed" end
  self.next = self.next % #self.lanes + 1
  local shared, err, message = self.lanes[self.next]:get()
  if not shared then return nil, err, message end
  return shared:exchange(bytes, count, timeout)
end

-- ---- exclusive connections -------------------------------------------------------------------------------------

local function take(self)
  while #self.idle > 0 do
    local one = table.remove(self.idle)
    if one.is_open then return one end
  end
  local conn, err, message = wire.open(self.address, self.options)
  if not conn then return nil, err, message end
  return connection.new(conn, self.options)
end

local function give_back(self, one, is_clean)
  if not one then return end
  if is_clean and one.is_open and not self.is_closed then
    self.idle[#self.idle + 1] = one
  else
    one:abort()
  end
end

local function finish(self, one, ok, is_clean, ...)
  give_back(self, one, ok and is_clean)
  self.room:release()
  if not ok then error(is_clean, 0) end
  return ...
end

-- fn(connection) with one that nobody else uses. It returns whether the connection may be used again, and what is returned here.
function Server:alone(fn, ...)
  if self.is_closed then return nil, "closed" end
  if not self.room:acquire(self.options.connect_timeout) then return nil, "full" end
  local ok, one, err, message = pcall(take, self)
  if not ok or not one then
    self.room:release()
    if not ok then error(one, 0) end
    return nil, err, message
  end
  return finish(self, one, pcall(fn, one, ...))
end

local function exchange(one, bytes, count, timeout)
  local replies, err = one:exchange(bytes, count, timeout)
  return replies ~= nil, replies, err
end

-- What exchange does, on a connection that nobody else uses.
function Server:exchange_alone(bytes, count, timeout)
  return self:alone(exchange, bytes, count, timeout)
end

-- A connection of the caller's own, which counts until its end. on_value, on_end: as of connection.new.
function Server:dedicate(on_value, on_end)
  if self.is_closed then return nil, "closed" end
  if not self.room:acquire(0) then return nil, "full" end
  local ok, conn, err, message = pcall(wire.open, self.address, self.options)
  if not ok or not conn then
    self.room:release()
    if not ok then error(conn, 0) end
    return nil, err, message
  end
  return connection.new(conn, self.options, on_value, function(why)
    self.room:release()
    on_end(why)
  end)
end

-- End connections that nobody waits on; the next command opens one again.
function Server:rest()
  for _, one in ipairs(self.lanes) do one:rest() end
  for _, one in ipairs(self.idle) do one:close() end
  self.idle = {}
end

function Server:close()
  self.is_closed = true
  for _, one in ipairs(self.lanes) do one:close() end
  for _, one in ipairs(self.idle) do one:close() end
  self.idle = {}
end

-- Connections and commands that wait for replies.
function Server:count(into)
  for _, one in ipairs(self.lanes) do
    if one.current and one.current.is_open then
      into.connections, into.pending = into.connections + 1, into.pending + one.current.pending
    end
  end
  for _, one in ipairs(self.idle) do
    if one.is_open then into.idle = into.idle + 1 end
  end
  into.exclusive = into.exclusive + self.options.max_exclusive - (self.room:count())
end

return M
