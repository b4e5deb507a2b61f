-- leak_report: what is still there in this Lua state, by the line that made it. docs/leaks.md describes a report.
--
-- Tasks, timers and handlers are there to be counted, whether anything is recorded or not; what was not recorded is known by the place of
-- its function. Slices, LinkBuffers and subscriptions are known from records alone, each of which stands for `weight` of them.

local leaks = require "rille.leaks"
local place = require "rille.place"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local report = {}

local PAUSE_EVERY = 500 -- fibers: some milliseconds
local TEXT_MAX = 60000 -- bytes of tell(); the console cuts at 64 KiB

-- ---- groups ----------------------------------------------------------------------------------------------------

-- A report in the making: groups by kind and place, and how old they have to be.
local Tally = {}
Tally.__index = Tally

local function new_tally(since)
  return setmetatable({ groups = {}, since = since, now = leaks.now() }, Tally)
end

function Tally:group(kind, where)
  local key = kind .. "\n" .. where
  local one = self.groups[key]
  if not one then
    one = { kind = kind, place = where, count = 0, generation = state.label }
    self.groups[key] = one
  end
  return one
end

function Tally:add(kind, where, count, made)
  local one = self:group(kind, where)
  one.count = one.count + count
  if made then
    local age = math.max(0, self.now - made)
    if not one.oldest or age > one.oldest then one.oldest = age end
    if not one.youngest or age < one.youngest then one.youngest = age end
  end
  return one
end

-- Something that a record is about, which counts for `count`.
function Tally:add_record(kind, record, count)
  if self.since and record.made > self.since then return nil end
  local one = self:add(kind, record.place, count, record.made)
  if count > 1 then one.is_estimate = true end
  one.traceback = one.traceback or record.traceback
  return one
end

-- ---- what is recorded ------------------------------------------------------------------------------------------

local function add_memory(tally, records)
  for slice, record in pairs(records.slice) do
    if slice:is_valid() then tally:add_record("slice", record, record.weight) end
  end
  for _, record in pairs(records.buffer) do tally:add_record("buffer", record, record.weight) end
end

local function add_subscriptions(tally, subscriptions)
  for _, of_conn in pairs(subscriptions) do
    for _, record in pairs(of_conn) do tally:add_record("subscription", record, record.weight) end
  end
end

local function add_lost(tally, lost)
  for _, one in pairs(lost) do
    if not tally.since or one.first <= tally.since then
      local group = tally:add("freed slice", one.place, one.count, one.first)
      tally:add("freed slice", one.place, 0, one.last)
      group.is_estimate, group.traceback = one.is_estimate or nil, one.traceback
    end
  end
end

-- ---- what is counted -------------------------------------------------------------------------------------------

-- One of those that a record may be about. At "sample" most have none: they are known by their function, and put with those that have one.
function Tally:add_counted(kind, record, own_place)
  local one
  if record then
    one = self:add_record(kind, record, 1)
    if one then one.of_function = own_place end
  else
    one = self:add(kind, own_place, 1)
    one.is_plain = true
  end
  return one
end

-- Those that are known by their function alone go to where most of the others of that function were made.
function Tally:merge_plain()
  local made = {}
  for _, one in pairs(self.groups) do
    local key = one.of_function and one.kind .. "\n" .. one.of_function
    local other = key and made[key]
    if key and not (other and other.count >= one.count) then made[key] = one end
  end
  for key, one in pairs(self.groups) do
    local other = one.is_plain and made[key]
    if other and other ~= one then
      other.count = other.count + one.count
      self.groups[key] = nil
    end
  end
end

local function add_fiber(tally, records, fiber)
  local recorded = fiber.fn == timer.run and records.timer or fiber.fn == task.run_spawned and records.task
  local own_place = place.of_fiber(fiber)
  if recorded then
    local one = tally:add_counted("task", recorded[fiber.a], own_place or place.of_coroutine(fiber.co) or "elsewhere")
    if one and not one.parked then one.parked = place.of_coroutine(fiber.co) end
  else
    local parked = place.of_coroutine(fiber.co)
    if parked or own_place then tally:add("handler", parked or own_place, 1) end -- without one it is the library's own business
  end
end

-- pause: called now and then, as there may be very many.
local function add_fibers(tally, records, pause)
  for i, fiber in ipairs(task.waiting()) do
    if pause and i % PAUSE_EVERY == 0 then pause() end
    if task.is_waiting(fiber) then add_fiber(tally, records, fiber) end
  end
end

local function add_timers(tally, records)
  timer.each(function(one)
    local own_place = place.of_function(one.fn)
    local record = records.timer[one]
    if own_place or record then tally:add_counted("timer", record, own_place or record.place) end
  end)
end

-- ---- reports ---------------------------------------------------------------------------------------------------

-- A list of { kind =, place =, count =, oldest =, youngest =, generation =, is_estimate =, parked =, traceback = }, the largest
-- count first. since: only what was made at that moment of rille.now() or before; what has no known age is always there.
-- pause(), if there is one, is called between parts of the work; what is made meanwhile may be missing.
function report.list(since, pause)
  local tally = new_tally(since)
  local records, subscriptions, lost = leaks.all()
  add_memory(tally, records)
  add_subscriptions(tally, subscriptions)
  add_lost(tally, lost)
  add_fibers(tally, records, pause)
  add_timers(tally, records)
  tally:merge_plain()
  local list = {}
  for _, one in pairs(tally.groups) do
    one.of_function, one.is_plain = nil, nil
    list[#list + 1] = one
  end
  table.sort(list, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.kind .. a.place < b.kind .. b.place
  end)
  return list
end

local function escaped(text)
  return (tostring(text or ""):gsub("[%c\\]", function(c) return ("\\%03d"):format(c:byte()) end))
end

local function seconds(s)
  return s and ("%.3f"):format(s) or ""
end

-- say(line) for the level, for each place, and for how many more there are than have room. Fields are separated by tabs.
function report.tell(say, older)
  say(("level\t%s\t%d"):format(leaks.level()))
  local list, size = report.list(older and leaks.now() - older, task.current() and task.yield), 0
  for i, one in ipairs(list) do
    local line = table.concat({
      "place", escaped(one.kind), ("%.0f"):format(one.count), one.is_estimate and "about" or "", seconds(one.oldest),
      seconds(one.youngest), escaped(one.place), escaped(one.generation), escaped(one.parked), escaped(one.traceback),
    }, "\t")
    size = size + #line + 1
    if size > TEXT_MAX then
      say(("more\t%d"):format(#list - i + 1))
      return
    end
    say(line)
  end
end

return report
