-- owed: retained messages that sessions are still to be given. A filter may match more of them than a client's window and output have room
-- for, so they go one after the other as there is: at once, with an acknowledgement, or from a task that looks after all who wait.
--
-- session.owed is a stack of { what =, names =, at = }: a filter, what it matches, and the name that is next. Each is there under its
-- filter besides.

local log = require "rille.log"
local task = require "rille.task"
local timer = require "rille.timer"

local M = {}

local PAUSE_MIN, PAUSE_MAX = 0.002, 0.1

-- A session has subscribed to a filter: all that this matches, from the beginning.
function M.add(session, what)
  local owed = session.owed
  local one = owed[what]
  if not one then
    one = { what = what }
    owed[what], owed[#owed + 1] = one, one
  end
  one.names, one.at = false, 1
end

-- It does not want it any more.
function M.drop(session, what)
  local owed = session.owed
  local one = owed[what]
  if not one then return end
  owed[what] = nil
  for i = #owed, 1, -1 do
    if owed[i] == one then return table.remove(owed, i) end
  end
end

-- Call give(broker, session, message, qos) as long as there is room. True, or false: there is not for all. How many it was.
local function settle(self, session, give)
  local owed, count = session.owed, 0
  while owed[1] do
    local one = owed[#owed]
    local granted = session.subscriptions[one.what]
    if not one.names then one.names = self.retained:names(one.what) end
    local names = one.names
    while granted and one.at <= #names do
      if not session:has_room(granted, self.options.inflight) then return false, count end
      local topic = names[one.at]
      one.at, count = one.at + 1, count + 1
      local payload, qos = self.retained:get(topic) -- as it is now
      if payload then give(self, session, { topic = topic, payload = payload, retained = true }, qos < granted and qos or granted) end
    end
    owed[#owed], owed[one.what] = nil, nil
  end
  return true, count
end

-- Those who wait, one after the other; whether anybody got something. Others of the loop have their turn in between.
local function settle_all(self, give)
  local list, has_given = {}, false
  for session in pairs(self.owing) do list[#list + 1] = session end
  for _, session in ipairs(list) do
    if self.owing[session] then
      local is_done, count = settle(self, session, give)
      if is_done then self.owing[session] = nil end
      if count > 0 then
        has_given = true
        task.yield()
        if self:is_away() then break end
      end
    end
  end
  return has_given
end

local function go(self)
  local pause = PAUSE_MIN
  while next(self.owing) do
    timer.sleep(pause)
    if self:is_away() then break end
    local ok, has_given = pcall(settle_all, self, self.give)
    if not ok then log.error("mqtt: retained messages: %s", tostring(has_given)) end
    pause = ok and has_given and PAUSE_MIN or math.min(pause * 2, PAUSE_MAX)
  end
  self.is_settling = false
end

-- From a task, in a while.
function M.later(self, session)
  self.owing[session] = true
  if self.is_settling then return end
  self.is_settling = true
  task.start_later(go, self)
end

-- What there is room for now, and the rest when there is.
function M.settle(self, session)
  if not settle(self, session, self.give) then return M.later(self, session) end
  self.owing[session] = nil
end

-- ---- to another generation -------------------------------------------------------------------------------------

-- As plain data. number_of(names): a list is written once, however many sessions go through it.
function M.pack(session, number_of)
  local out = {}
  for i, one in ipairs(session.owed) do out[i] = { one.what, one.names and number_of(one.names), one.at } end
  return out
end

function M.unpack(session, packed, lists)
  for i, one in ipairs(packed) do
    local entry = { what = one[1], names = one[2] and lists[one[2]], at = one[3] }
    session.owed[i], session.owed[one[1]] = entry, entry
  end
end

return M
