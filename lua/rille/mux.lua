-- mux: many calls at a time over one connection. A call takes an id, writes its request behind those of others and parks until the
-- answer with that id is there. Here is what scripts see, and how requests are written; mux_queue.lua has the calls, mux_link.lua the
-- connection and its answers. docs/mux.md has the user's view.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local check = require "rille.mux_options"
local errors = require "rille.errors"
local link = require "rille.mux_link"
local misuse = require "rille.misuse"
local queue = require "rille.mux_queue"
local task = require "rille.task"

local xpcall = xpcall
local current = task.current
local text = errors.text

local SIZE_FIRST = 64 -- of the table of calls
local STILL = "cannot park here: encode of a mux writes one request, and others wait for their turn"

local err_box = ffi.new("int[1]")
local body, wrapped -- the request that is being encoded, its frame by a codec in Lua; nobody parks meanwhile
local all = setmetatable({}, { __mode = "k" }) -- every mux

local Mux = {}
Mux.__index = Mux

local M = {}

-- ---- requests --------------------------------------------------------------------------------------------------

-- Calls find their places by id modulo size; in another size they have others.
local function grow(self)
  local calls, size = self.calls, self.size
  local larger = {}
  for i = 1, size * 2 do larger[i] = false end
  for i = 1, size do
    local entry = calls[i]
    if entry then larger[entry.id % (size * 2) + 1] = entry end
  end
  self.calls, self.size = larger, size * 2
end

local function pass_over(self, id)
  while self.calls[id % self.size + 1] do id = id % self.id_max + 1 end
  return id
end

-- Ids count up, so that one is used again after all others, and never while a call has it.
local function next_id(self)
  if self.in_flight * 2 >= self.size then grow(self) end
  local id_max = self.id_max
  local id = self.last_id % id_max + 1
  if self.calls[id % self.size + 1] then id = pass_over(self, id) end
  self.last_id = id
  if id > self.highest then
    self.highest = id
  elseif self.highest < id_max then
    self.highest = id_max
  end
  return id
end

local function empty(buffer)
  buffer:malloc_ack(0)
  buffer:skip(buffer:len())
  buffer:release()
end

local function has_buffers(codec)
  local err
  if not body then body, err = LinkBuffer.new() end
  if codec.put then return body ~= nil, err end
  if not wrapped then wrapped, err = LinkBuffer.new() end
  return body ~= nil and wrapped ~= nil, err
end

-- What scripts do to a request; codecs of C work on the output itself.
local function compose(self, id, request)
  local _, err = self.encode(body, id, request)
  if err ~= nil then return nil, err end
  local codec = self.codec
  local ok
  ok, err = body:flush()
  if not ok or codec.put or not codec.encode then return ok, err end
  ok, err = codec.encode(wrapped, body)
  if not ok then return nil, err end
  return wrapped:flush()
end

-- The request behind the output: true, or nil, err.
local function put(self)
  local p = self.conn and self.conn._p
  if not p then return nil, self.conn and self.conn._error or "closed" end
  local out = C.rille_conn_output(p, err_box)
  if out == nil then return nil, text[-err_box[0]] end
  local codec = self.codec
  self.request_size = body:len()
  if codec.put and not codec.print then return codec:put(out, body) end
  return out:write(codec.put and body or codec.encode and wrapped or body)
end

-- The request of an entry goes out with this turn: true, or nil, err. encode is called with the entry's own fiber, which cannot park.
local function write(self, entry, id, request)
  local ok, err = has_buffers(self.codec)
  if not ok then return nil, err end
  local fiber = entry.fiber
  local before = fiber.doom
  fiber.doom = STILL
  local result
  ok, result, err = xpcall(compose, task.remember_fault, self, id, request)
  fiber.doom = before
  if ok and result then result, err = put(self) end
  empty(body)
  if not self.codec.put then empty(wrapped) end
  if not ok then
    queue.give(self, entry)
    queue.admit(self)
    error(result, 0)
  end
  if not result then return nil, err end
  self.sent = self.sent + 1
  return true
end

-- ---- calls -----------------------------------------------------------------------------------------------------

-- m:call(request[, timeout]): the frame that answers; or nil, err, and true when nothing of the request was sent
function Mux:call(request, timeout)
  if current() == self.reader then misuse("call: on_unmatched runs in the task that reads the answers; use rille.spawn") end
  local entry, err = queue.enter(self, timeout)
  if not entry then return nil, err, true end
  local id = next_id(self)
  local ok
  ok, err = write(self, entry, id, request)
  if ok then return queue.await(self, entry, id) end
  queue.give(self, entry)
  queue.admit(self)
  return nil, err, true
end

-- m:post(request[, timeout]): true when it is written, or nil, err. Its id is 0, and nobody waits for an answer.
function Mux:post(request, timeout)
  local entry, err = queue.enter(self, timeout)
  if not entry then return nil, err end
  local ok
  ok, err = write(self, entry, 0, request)
  queue.give(self, entry)
  queue.admit(self)
  if not ok then return nil, err end
  return true
end

-- The end: every call that is under way returns nil, "closed". What is written is still sent.
function Mux:close()
  if self.err == "closed" and not self.conn then return true end
  local c = self.conn
  self.err, self.conn, self.reader = "closed", false, false
  if self.token then
    task.stop_timer(self.token)
    self.token = false
  end
  queue.fail_sent(self, "closed")
  queue.fail_waiting(self, "closed")
  if c then c:close() end
  return true
end

-- Calls that are under way, and whether one more would be taken. For upstream/target.lua
function Mux:load()
  return self.in_flight + self.waiting_count
end
function Mux:has_place()
  return self.in_flight + self.waiting_count < self.max_in_flight + self.queue
end

-- End the connection if no call needs it; the next one makes another.
function Mux:drop()
  local c = self.conn
  if not c or not self.dial or self.in_flight + self.waiting_count > 0 then return end
  self.conn, self.reader = false, false
  c:close()
end

-- A new table.
function Mux:stats()
  return {
    connected = self.conn and self.conn:is_active() or false, in_flight = self.in_flight, waiting = self.waiting_count,
    sent = self.sent, answered = self.answered, timeouts = self.timeouts, lost = self.lost, late = self.late,
    unmatched = self.unmatched,
  }
end

-- rille.mux(conn or dial[, options])
function M.new(to, options)
  local self = setmetatable(check.of(to, options), Mux)
  self.size, self.calls = SIZE_FIRST, {}
  for i = 1, SIZE_FIRST do self.calls[i] = false end
  self.due, self.waiting = queue.new_list(), queue.new_list()
  self.free, self.free_count = {}, 0
  self.clock, self.token = queue.new_clock(self), false
  self.conn, self.err, self.reader, self.is_dialing, self.is_draining = false, false, false, false, false
  self.last_id, self.highest, self.in_flight, self.waiting_count = 0, 0, 0, 0
  self.admitted, self.request_size = 0, 0 -- calls that may write and have not, bytes of the last request
  self.sent, self.answered, self.timeouts, self.lost, self.late, self.unmatched = 0, 0, 0, 0, 0, 0
  if not self.dial then link.attach(self, to) end
  all[self] = true
  return self
end

-- The loop is gone. A mux that dials may serve in the next run of the same program.
function M.reset()
  for self in pairs(all) do
    if not self.dial then self.err = self.err or "closed" end
    self.conn, self.reader, self.token, self.is_dialing, self.is_draining = false, false, false, false, false
  end
  if body then body:close() end
  if wrapped then wrapped:close() end
  body, wrapped = nil, nil
end

return M
