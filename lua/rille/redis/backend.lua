-- backend: one connection of a proxy to one of its servers, which the commands of many clients share. Replies are matched to entries (see
-- answers.lua) in order. It is opened when a command wants it, and again, after a pause that grows, when it was lost.

local C = require "rille.core"
local ffi = require "ffi"

local Slice = require "rille.slice"
local answers = require "rille.redis.answers"
local conn_write = require "rille.conn_write"
local errors = require "rille.errors"
local log = require "rille.log"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local wire = require "rille.redis.wire"

local take_values, write_slice, conn_input = C.rille_redis_take_values, C.rille_conn_write_slice, C.rille_conn_input
local new_slice = Slice.new_from
local add, finish, give, say = answers.add, answers.finish, answers.give, answers.say

local FIRST_PAUSE, LAST_PAUSE = 0.05, 5
local SOON = 0.001 -- seconds

local scratch = ffi.new("rille_slice[1]")

local M = {}

-- name: what clients are told of it. options: those of wire.open, and replies, a codec.
function M.new(address, name, options)
  return {
    address = address, name = name, options = options, conn = false, decoder = false, head = false, tail = false, opening = false,
    pause = 0, again_at = 0, problem = false, failures = 0, is_watched = false,
  }
end

-- ---- replies ---------------------------------------------------------------------------------------------------

-- A part of a command that was split: its reply belongs to the whole.
local function collect(entry, s)
  return entry.parent:collect(entry.index, s:str())
end

local function done(self, entry)
  local following = entry.after
  self.head = following
  if not following then self.tail = false end
  return finish(entry)
end

local function refuse(self, conn, code)
  self.problem = code and errors.text[-code] or "a reply to nothing"
  log.warn("redis: %s: what it sends is no reply: %s", self.name, self.problem)
  conn:abort()
end

-- No loop: see serve of dispatch.lua.
local function receive(conn)
  local self, p = conn.ctx, conn._p
  if not p then return end
  local entry = self.head
  if not entry then
    if C.rille_conn_len(p) > 0 then refuse(self, conn) end
    return
  end
  local count = take_values(self.decoder, conn_input(p), entry.left, scratch)
  if count <= 0 then
    if count < 0 then refuse(self, conn, count) end
    return
  end
  if entry.client then
    give(entry, scratch)
  elseif entry.parent then
    collect(entry, new_slice(scratch))
  end
  local left = entry.left - count
  entry.left = left
  if left == 0 then done(self, entry) end
  if C.rille_conn_len(p) > 0 then return receive(conn) end
end

-- ---- the end ---------------------------------------------------------------------------------------------------

local function line_of(self, err)
  return ("-ERR %s: %s\r\n"):format(self.name, err)
end

-- Whoever waits for replies is told why there are none.
local function lost(self, err)
  local entry, line = self.head, line_of(self, self.problem or err or "closed")
  self.conn, self.decoder, self.head, self.tail, self.problem = false, false, false, false, false
  while entry do
    local following, left = entry.after, entry.left
    entry.left = 0
    if entry.client then
      say(entry, line:rep(left))
    elseif entry.parent then
      entry.parent:collect(entry.index, line)
    end
    finish(entry)
    entry = following
  end
end

-- ---- opening ---------------------------------------------------------------------------------------------------

local function remove(arg)
  for i = 1, #arg.list do
    if arg.list[i] == arg.fiber then return table.remove(arg.list, i) end
  end
end

local function adopt(self, conn)
  local decoder = C.rille_decoder_new(self.options.replies._p)
  if decoder == nil then return conn:abort() end
  self.decoder = ffi.gc(decoder, C.rille_decoder_free)
  self.conn, self.pause, self.again_at, self.failures = conn, 0, 0, 0
  conn.ctx = self
  conn:on_close(function(_, err) lost(self, err) end)
  conn:on_request(receive)
end

local function dial(self)
  local conn, err, message = wire.open(self.address, self.options)
  if conn then return adopt(self, conn) end
  self.failures = self.failures + 1
  self.pause = math.min(LAST_PAUSE, math.max(FIRST_PAUSE, self.pause * 2))
  self.again_at = state.clock.now + self.pause * (0.75 + math.random() / 2)
  self.refusal = line_of(self, err)
  if self.failures == 1 then log.warn("redis: %s: %s", self.name, message or err) end
end

local function run_dial(self)
  local ok, err = pcall(dial, self)
  local list = self.opening
  self.opening = false
  for i = 1, #list do task.wake(list[i], true) end
  if not ok then error(err, 0) end
end

-- Whether it is there; parks while it is being opened. Else the line that says why not.
function M.ready(self)
  if self.conn then return true end
  if not self.opening then
    if state.clock.now < self.again_at then return false, self.refusal end
    self.opening = {}
    task.spawn(run_dial, self) -- a task of its own: clients come and go
  end
  local fiber = task.current()
  self.opening[#self.opening + 1] = fiber
  task.park(remove, { list = self.opening, fiber = fiber })
  if self.conn then return true end
  return false, self.refusal or line_of(self, "closed")
end

-- ---- commands --------------------------------------------------------------------------------------------------

-- When the oldest command has waited too long, all that wait are given up. It is no timer of `every`: those rest while another generation
-- serves, and clients of this one are still here.
local function watch(self, seconds)
  self.is_watched = true
  timer.after(seconds, function()
    self.is_watched = false
    if not self.head then return end
    local left = self.head.at + self.options.timeout - state.clock.now
    if left > 0 then return watch(self, math.max(left, SOON)) end
    self.problem = "timeout"
    return self.conn:abort()
  end)
end

local function append(self, entry)
  entry.at = state.clock.now
  if not self.is_watched then watch(self, self.options.timeout) end
  local tail = self.tail
  if tail then tail.after = entry else self.head = entry end
  self.tail = entry
end

-- It takes no more at the moment: the client that has filled it waits.
local function wait(self, code)
  if self.conn then conn_write.slow(self.conn, code) end
end

local function send(self, client, count, box)
  local code = write_slice(self.conn._p, box)
  append(self, add(client, count, count))
  if code ~= 0 then return wait(self, code) end
end

-- The backend has to be opened first; meanwhile others fill the box, so this has a slice.
local function forward_late(self, client, count, s)
  local ok, line = M.ready(self)
  if not client.conn._p then return end
  if ok then return send(self, client, count, s) end
  local entry = add(client, count, 0)
  say(entry, line:rep(count))
  return finish(entry)
end

-- `count` commands of a client, in a box with a slice that its connection lends. Parks while the backend is opened, or takes nothing.
function M.forward(self, client, count, box)
  if not self.conn then return forward_late(self, client, count, new_slice(box)) end
  return send(self, client, count, box)
end

-- One command, as a string, which is part `index` of several: whole:collect(index, reply) gets what is replied. May park.
function M.send_part(self, whole, index, bytes)
  local ok, line = M.ready(self)
  if not ok then return whole:collect(index, line) end
  local entry = add(false, 1, 1)
  entry.parent, entry.index = whole, index
  local code = C.rille_conn_write(self.conn._p, bytes, #bytes)
  append(self, entry)
  if code ~= 0 then wait(self, code) end
end

function M.close(self)
  if self.conn then self.conn:close() end
end

return M
