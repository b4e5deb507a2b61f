-- connection: one connection to a Redis server. Commands of any number of tasks are written as they come, those of a turn with one system
-- call, and replies are matched to them in order. When it ends, what waits for replies is told so; nothing is sent twice.

local task = require "rille.task"
local timer = require "rille.timer"
local wire = require "rille.redis.wire"
local resp = require("rille.codec").resp

local resp_type = resp.type

local Connection = {}
Connection.__index = Connection

local M = {}

-- ---- replies ---------------------------------------------------------------------------------------------------

-- It is to be closed: that is done when nobody waits for a reply any more.
local function settle(self)
  for i = self.first, self.last do
    if not self.waiting[i].is_gone then return end
  end
  if self.last >= self.first then return self.conn:abort() end -- what is still to come is for nobody
  return self.conn:close()
end

-- Nobody gets the replies that are there already.
local function drop_replies(entry)
  if entry.connection.keeps_slices then wire.release(entry.replies) end
  entry.replies, entry.count = {}, 0
end

-- Whoever waited has gone: its replies are dropped when they come.
local function abandon(entry)
  entry.is_gone = true
  drop_replies(entry)
  if entry.connection.is_closing then return settle(entry.connection) end
end

local function take(self, value)
  local entry = self.waiting[self.first]
  if not entry then return self.conn:abort() end -- a reply that nobody has asked for
  if not entry.is_gone then
    if self.keeps_slices then wire.retain(value) end
    entry.count = entry.count + 1
    entry.replies[entry.count] = value
  end
  entry.left = entry.left - 1
  self.pending = self.pending - 1
  if entry.left > 0 then return end
  self.waiting[self.first] = nil
  self.first = self.first + 1
  if entry.is_parked and not entry.is_gone then task.wake(entry.fiber, true) end
  if self.is_closing then return settle(self) end
end

local function fail_all(self, err)
  self.is_open, self.err = false, err or "closed"
  local waiting, first, last = self.waiting, self.first, self.last
  self.waiting, self.first, self.last, self.pending = {}, 1, 0, 0
  for i = first, last do
    local entry = waiting[i]
    entry.err = self.err
    if entry.is_parked and not entry.is_gone then task.wake(entry.fiber, true) end
  end
  if self.on_end then self.on_end(self.err) end
end

-- ---- commands --------------------------------------------------------------------------------------------------

-- Send `count` commands that are encoded in bytes; parks until all their replies are there, at most timeout seconds (nil: for ever).
-- A list of values; or nil, err: "timeout" (the replies are dropped when they come), "full", or what ended the connection.
function Connection:exchange(bytes, count, timeout)
  if not self.is_open then return nil, self.err end
  if self.is_closing then return nil, "closed" end
  if self.pending + count > self.max_pending then return nil, "full" end
  local entry = {
    fiber = task.current(), connection = self, left = count, count = 0, replies = {}, err = nil, is_gone = false, is_parked = false,
  }
  self.last = self.last + 1
  self.waiting[self.last] = entry
  self.pending = self.pending + count
  local ok, err = self.conn:write(bytes) -- may park; the replies may be there before it returns
  if not ok then
    entry.is_gone = true
    self.conn:abort()
    return nil, err
  end
  if entry.left > 0 and not entry.err then
    entry.is_parked = true
    ok, err = timer.park(timeout, abandon, entry)
    if not ok then return nil, err end
  end
  if entry.left > 0 then
    drop_replies(entry)
    return nil, entry.err or "closed"
  end
  return entry.replies
end

-- When what is under way is answered; it takes no more.
function Connection:close()
  if not self.is_open or self.is_closing then return end
  self.is_closing = true
  return settle(self)
end

function Connection:abort()
  self.conn:abort()
end

-- A connection over one of wire.open. on_value(value): gets what comes instead of who waits; may park, which slows the server down.
-- on_end(err): it is over.
function M.new(conn, options, on_value, on_end)
  local self = setmetatable({
    conn = conn, waiting = {}, first = 1, last = 0, pending = 0, max_pending = options.max_pending, is_open = true,
    is_closing = false, err = nil,    keeps_slices = options.slices or false, on_end = on_end or false,
  }, Connection)
  local function receive(_, value)
    if on_value then return on_value(value) end
    if resp_type(value) == "push" then return end -- nobody has asked for it
    return take(self, value)
  end
  conn:on_close(function(_, err) fail_all(self, err) end)
  conn:on_request(receive, options.replies)
  return self
end

return M
