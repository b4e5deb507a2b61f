-- answers: what a client of a proxy waits for, in its order. An entry stands for commands that went to one backend together, or for
-- one that is answered otherwise; it is in the client's list, and in the backend's until its last reply. Replies for the first one of a
-- client go to it as they are; those of others are held. Entries are used again: a command costs no table.

local C = require "rille.core"
local Slice = require "rille.slice"
local task = require "rille.task"

local conn_write, conn_write_slice, is_above = C.rille_conn_write, C.rille_conn_write_slice, C.rille_conn_is_above
local conn_owe = C.rille_conn_owe
local is_slice, new_slice = Slice.is, Slice.new_from

local POOL_MAX = 10000
local COPY_MAX = 4096 -- bytes; a slice would keep its whole block

local answers = {}

local pool, pooled = {}, 0

-- While a client waits for answers, a stop waits for them too.
local function owe(client, owes)
  local p = client.conn._p
  if p then return conn_owe(p, owes) end
end

local function begin(client, entry)
  client.head = entry
  return owe(client, 1)
end

-- An entry at the end of a client's list, for `count` commands under way, of which `left` replies are to come. client: false for parts
-- of a command that is put together.
function answers.add(client, count, left)
  local entry
  if pooled > 0 then
    entry = pool[pooled]
    pooled = pooled - 1
  else
    entry = { client = false, count = 0, left = 0, next = false, after = false, held = false, parent = false, index = 0, at = 0 }
  end
  entry.count, entry.left = count, left
  if client then
    entry.client = client
    client.pending = client.pending + count
    if client.tail then client.tail.next = entry else begin(client, entry) end
    client.tail = entry
  end
  return entry
end

local function recycle(entry)
  entry.client, entry.next, entry.after, entry.held, entry.parent = false, false, false, false, false
  if pooled < POOL_MAX then
    pooled = pooled + 1
    pool[pooled] = entry
  end
end

-- What the connection did not take at once is its own task's affair; who takes nothing for too long is given up.
local function slowed(client, code)
  client.is_slow = true
  if code == C.RILLE_PARK and is_above(client.conn._p, -client.max_output) == 1 then client.conn:abort() end
end

local function write_text(client, text)
  local p = client.conn._p
  if not p then return end
  local code = conn_write(p, text, #text)
  if code ~= 0 then slowed(client, code) end
end

local function write_slice(client, s)
  local p = client.conn._p
  if not p then return end
  local code = conn_write_slice(p, s)
  if code ~= 0 then slowed(client, code) end
end

-- Pieces that were held go out; slices end here.
local function write_held(client, held)
  for i = 1, #held do
    local one = held[i]
    client.held = client.held - #one
    if is_slice(one) then
      write_slice(client, one)
      one:release()
    else
      write_text(client, one)
    end
  end
end

local function wake_waiters(client)
  local list = client.waiters
  for i = #list, 1, -1 do
    if client.pending <= list[i].count then task.wake(table.remove(list, i).fiber, true) end
  end
  if #list == 0 then client.waiters = false end
end

-- The first entry is through: so may be those behind it.
local function advance(client, entry)
  local following = entry.next
  client.pending = client.pending - entry.count
  client.head = following
  if not following then
    client.tail = false
    owe(client, 0)
  end
  recycle(entry)
  if client.waiters then wake_waiters(client) end
  if not following then return end
  if following.held then
    write_held(client, following.held)
    following.held = false
  end
  if following.left == 0 then return advance(client, following) end
end

-- An entry has nothing more to come, and is in no backend's list.
function answers.finish(entry)
  local client = entry.client
  if not client then return recycle(entry) end
  if client.head == entry then return advance(client, entry) end
end
local finish = answers.finish

local function hold(client, entry, x)
  local held = entry.held
  if not held then
    held = {}
    entry.held = held
  end
  held[#held + 1] = x
  client.held = client.held + #x
  if client.held > client.max_output and client.conn._p then client.conn:abort() end
end

-- Replies of an entry, in a box with a slice that its backend's connection lends.
function answers.give(entry, box)
  local client = entry.client
  if client.head == entry then return write_slice(client, box) end
  local s = new_slice(box)
  return hold(client, entry, #s <= COPY_MAX and s:str() or s:retain())
end

-- The same of a string.
function answers.say(entry, text)
  local client = entry.client
  if not client then return end
  if client.head == entry then return write_text(client, text) end
  return hold(client, entry, text)
end

-- A whole answer that the proxy gives by itself.
function answers.answer(client, text)
  if not client.head then return write_text(client, text) end
  hold(client, answers.add(client, 1, 0), text)
end

-- Park until at most so many commands are under way.
local function forget(waiter)
  local list = waiter.client.waiters or {}
  for i = 1, #list do
    if list[i] == waiter then return table.remove(list, i) end
  end
end

function answers.await(client, count)
  if client.pending <= count then return end
  local waiter = { fiber = task.current(), count = count, client = client }
  client.waiters = client.waiters or {}
  table.insert(client.waiters, waiter)
  task.park(forget, waiter)
end

-- The client is gone: replies to come are for nobody.
function answers.drop(client)
  local entry = client.head
  client.head, client.tail, client.pending = false, false, 0
  while entry do
    local following = entry.next
    for _, one in ipairs(entry.held or {}) do
      if is_slice(one) then one:release() end
    end
    entry.client, entry.next, entry.held = false, false, false
    if entry.left == 0 then finish(entry) end
    entry = following
  end
  if client.waiters then wake_waiters(client) end
end

return answers
