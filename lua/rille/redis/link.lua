-- link: a connection to a server that only listens to what that one says by itself: opened again, after pauses that grow, when it was lost,
-- and asked for a sign of life, so that a server which has vanished is noticed.

local C = require "rille.core"
local connection = require "rille.redis.connection"
local state = require "rille.state"
local wire = require "rille.redis.wire"

local FIRST_PAUSE, LAST_PAUSE = 0.05, 2

local PING = wire.encode { "PING" }

local Link = {}
Link.__index = Link

local M = {}

-- options: of redis/options.lua. hooks: on_value(value), which must not park; on_up(link), on_down(err), which may not either.
function M.new(options, hooks)
  return setmetatable({
    address = options.addresses[1], options = options, hooks = hooks, one = false, is_opening = false, is_closed = false,
    pause = 0, again_at = 0, asked_at = 0, waits = false,
  }, Link)
end

local function failed(self, err, message)
  self.pause = math.min(LAST_PAUSE, math.max(FIRST_PAUSE, self.pause * 2))
  self.again_at = state.clock.now + self.pause * (0.75 + math.random() / 2)
  self.hooks.on_down(err, message)
end

local function open(self)
  self.is_opening = true
  local ok, conn, err, message = pcall(wire.open, self.address, self.options)
  self.is_opening = false
  if not ok then error(conn, 0) end
  if not conn then return failed(self, err, message) end
  self.waits, self.asked_at = false, state.clock.now
  self.one = connection.new(conn, self.options, function(value)
    self.waits = false
    return self.hooks.on_value(value)
  end, function(why)
    if not self.one then return end -- as it was wished
    self.one = false
    failed(self, why)
  end)
  if self.is_closed then return self.one:abort() end
  self.hooks.on_up(self)
end

local function ask(self)
  local now = state.clock.now
  if now - self.asked_at < self.options.timeout then return end
  if self.waits then return self.one:abort() end
  self.asked_at, self.waits = now, true
  return self.one.conn:write(PING)
end

-- To be called again and again, in a task.
function Link:tick()
  if self.is_closed or self.is_opening then return end
  if self.one then return ask(self) end
  if state.clock.now >= self.again_at then return open(self) end
end

-- It has said all that makes it useful: a next loss is met with short pauses again.
function Link:settle()
  self.pause = 0
end

function Link:say(words)
  if self.one then return self.one.conn:write(wire.encode(words)) end
end

-- From here on the generation does not end before this connection has.
function Link:hold()
  local p = self.one and self.one.conn._p
  if p then C.rille_conn_own(p, 0) end
end

function Link:abort()
  if self.one then self.one:abort() end
end

-- It is not wanted for now: the next tick opens it again.
function Link:leave()
  local one = self.one
  self.one = false
  if one then one:abort() end
end

function Link:close()
  self.is_closed = true
  self:leave()
end

return M
