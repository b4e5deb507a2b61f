-- pubsub: messages of channels as an iterator, over a connection of its own that comes back when it is lost. Messages that are
-- not taken wait in a queue; when that is full the connection is not read, and the server's limits for slow subscribers hold.

local channel = require "rille.channel"
local task = require "rille.task"
local timer = require "rille.timer"
local wire = require "rille.redis.wire"

local FIRST_PAUSE, LAST_PAUSE = 0.05, 5

local Subscription = {}
Subscription.__index = Subscription

local M = {}

local function to_string(x)
  return type(x) == "string" and x or x ~= nil and tostring(x) or nil
end

-- What comes on the connection: { kind, ... } as a list or as a push.
local function receive(self, value)
  local message = wire.error_of(value)
  if message then
    self.err, self.message = "error", message
    return self:close()
  end
  if type(value) ~= "table" then return end
  local kind = to_string(value[1])
  if kind == "message" or kind == "smessage" then
    self.queue:send { to_string(value[2]), to_string(value[3]) }
  elseif kind == "pmessage" then
    self.queue:send { to_string(value[3]), to_string(value[4]), to_string(value[2]) }
  end
end

-- Subscribe on a new connection: true; nil, err, message.
local function connect(self)
  local node, err, message = self.find()
  if not node then return nil, err, message end
  local one
  one, err, message = node:dedicate(function(value) return receive(self, value) end, function(why) self:lost(why) end)
  if not one then return nil, err, message end
  self.one = one
  local ok
  ok, err = one.conn:write(wire.encode(self.words))
  if not ok then return nil, err end
  if self.is_closed then one:close() end
  return true
end

local function reconnect(self)
  local pause = FIRST_PAUSE
  while not self.is_closed do
    timer.sleep(pause * (0.75 + math.random() / 2))
    if self.is_closed or (not self.one and connect(self)) then return end
    pause = math.min(LAST_PAUSE, pause * 2)
  end
end

function Subscription:lost(why)
  self.one = nil
  if self.is_closed then return end
  self.losses, self.last_error = self.losses + 1, why
  if self.reconnects then return end
  self.reconnects = true
  task.spawn(function()
    local ok, err = pcall(reconnect, self)
    self.reconnects = false
    if not ok then error(err, 0) end
  end)
end

-- The next message: channel, payload, pattern. nil, err, message: it is over.
function Subscription:next(timeout)
  local one, err = self.queue:receive(timeout)
  if one then return one[1], one[2], one[3] end
  if err == "timeout" then return nil, err end
  return nil, self.err or "closed", self.message
end

Subscription.__call = function(self) return self:next() end

-- No further message; an iteration ends.
function Subscription:close()
  if self.is_closed then return end
  self.is_closed = true
  self.group[self] = nil
  if self.one then self.one:close() end
  self.queue:close()
end

-- find(): the server to ask. group: the set of subscriptions that it is in until it is closed.
function M.open(find, options, words, group)
  local self = setmetatable({ find = find, words = words, group = group, queue = channel(options.max_queue), one = nil,
    is_closed = false, reconnects = false, losses = 0, err = nil, message = nil }, Subscription)
  group[self] = true
  local ok, err, message = connect(self)
  if ok then return self end
  self:close()
  return nil, err, message
end

return M
