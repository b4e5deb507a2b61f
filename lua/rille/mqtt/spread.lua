-- spread: messages on their way from the loop of their publisher to all loops. What is published within a turn goes out together, one call
-- of rille.post for each other loop, in the order in which it came. A publisher is answered when every loop has taken its message.

local log = require "rille.log"
local output = require "rille.mqtt.output"
local post = require "rille.post"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local Spread = {}
Spread.__index = Spread

local M = {}

local ITEMS_MAX, BYTES_MAX = 32, 2 ^ 20 -- of one call; each may be for many subscribers, and others wait meanwhile
local CHUNKS_MAX = 4                      -- that wait for a loop's mailbox; then publishers wait
local PAUSE = 0.001
local MODULE = "rille.mqtt.broker"

-- keep(items): before any loop has them. deliver(items): to the sessions of this loop.
function M.new(name, keep, deliver)
  return setmetatable({ name = name, keep = keep, deliver = deliver, chunks = {}, first = 1, last = 0, is_going = false, is_left = false },
    Spread)
end

local function new_chunk(self)
  local loops = { state.loop_id } -- the last that gets it: the others work meanwhile
  for loop = 1, state.loop_count do
    if loop ~= state.loop_id then loops[#loops + 1] = loop end
  end
  self.last = self.last + 1
  local chunk = { items = {}, bytes = 0, loops = loops, answers = {} }
  self.chunks[self.last] = chunk
  return chunk
end

-- Whether publishers have to wait.
function Spread:is_full()
  return self.last - self.first + 1 > CHUNKS_MAX
end

-- items: topic, payload, flags (QoS, and 4 when it is retained), one after the other. True: every loop has it. False: a mailbox is full.
local function send(self, chunk)
  local loops, items = chunk.loops, chunk.items
  if not chunk.is_kept then
    chunk.is_kept = true
    self.keep(items)
  end
  for i = #loops, 1, -1 do
    local loop = loops[i]
    local ok, err, why
    if loop == state.loop_id then
      table.remove(loops, i)
      self.deliver(items)
    else
      ok, err, why = post.call(loop, MODULE, "receive", self.name, items)
      if ok or err ~= "full" then table.remove(loops, i) end
      if not ok and err ~= "full" then log.error("mqtt: loop %d does not get %d messages: %s", loop, #items / 3, why or err) end
    end
  end
  return #loops == 0
end

-- The oldest chunk. True: every loop has it.
function Spread:flush_one()
  local chunk = self.chunks[self.first]
  if not send(self, chunk) then return false end
  self.chunks[self.first] = nil
  self.first = self.first + 1
  if self.first > self.last then self.first, self.last = 1, 0 end
  local answers = chunk.answers
  for i = 1, #answers, 2 do output.send(answers[i], answers[i + 1]) end
  return true
end

-- The same; nil: something has raised, which it does once for a chunk. It is of one message; the others are to go on.
local function try_one(self)
  local ok, is_sent = pcall(self.flush_one, self)
  if ok then return is_sent end
  log.error("mqtt: %s", tostring(is_sent))
end

local function go(self)
  while not state.is_retiring do
    if self.is_left then
      self.is_left = false -- handed over in this turn: the next one knows whether that was taken
      task.yield()
    else
      if self.first > self.last then break end
      if try_one(self) then
        if self.first <= self.last then task.yield() end
      else
        timer.sleep(PAUSE)
      end
    end
  end
  self.is_going = false
end

local function start(self)
  if self.is_going then return end
  self.is_going = true
  task.start_later(go, self)
end

-- A message for everybody. answer: the packet for the connection `id` when they have it.
function Spread:add(topic, payload, flags, id, answer)
  local chunk = self.chunks[self.last]
  if not chunk or #chunk.items >= ITEMS_MAX * 3 or chunk.bytes >= BYTES_MAX or chunk.is_kept then
    chunk = new_chunk(self)
  end
  local items, answers = chunk.items, chunk.answers
  local n = #items
  items[n + 1], items[n + 2], items[n + 3] = topic, payload, flags
  chunk.bytes = chunk.bytes + #topic + #payload
  if answer then
    answers[#answers + 1] = id
    answers[#answers + 1] = answer
  end
  return start(self)
end

-- A packet for the connection `id` behind the answers to what it has published before: [MQTT-4.6.0-2].
function Spread:answer(id, bytes)
  local chunk = self.chunks[self.last]
  if not chunk then return output.send(id, bytes) end
  local answers = chunk.answers
  answers[#answers + 1] = id
  answers[#answers + 1] = bytes
end

-- What can go now, goes. Whether that is all.
function Spread:flush()
  while self.first <= self.last do
    if try_one(self) == false then return false end
  end
  return true
end

-- Before another generation serves: what cannot go now, as plain data for take().
function Spread:leave()
  self:flush()
  local left = {}
  for i = self.first, self.last do left[#left + 1] = self.chunks[i] end
  self.is_left = #left > 0
  return left
end

-- What another generation had left, instead of what there was.
function Spread:take(left)
  self.chunks, self.first, self.last, self.is_left = {}, 1, 0, false
  for _, chunk in ipairs(left) do
    self.last = self.last + 1
    self.chunks[self.last] = chunk
  end
  if self.last > 0 then start(self) end
end

return M
