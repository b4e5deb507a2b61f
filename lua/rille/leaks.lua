-- leaks: who made what is still there. At level "off", the default, nothing is recorded, and each place that makes something has one
-- branch for it, `if leaks.on`. At "all" everything is recorded with a traceback, at "sample" one in N without. docs/leaks.md has
-- the user's view, leak_report.lua puts the list together.
--
-- A record is kept by the object it is about, weakly: what the collector takes has no record any more.

local bit = require "bit"

local C = require "rille.core"
local misuse = require "rille.misuse"
local place = require "rille.place"
local registry = debug.getregistry()
if registry["rille.leaks"] then return registry["rille.leaks"] end -- slice.lua, which is made once in a state, holds this table

local state = require "rille.state"

local floor = math.floor

local leaks = { on = false }

local LEVELS = { off = 0, sample = 1, all = 2 }
local NAMES = { [0] = "off", "sample", "all" }
local SAMPLE_MAX = 1e6
local PLACES_MAX = 1000 -- of slices that the collector freed
local TRACE_LINES = 12
local ELSEWHERE = "elsewhere"

local level, sample = "off", 100
local left, seed = 1, 1 -- until the next one is recorded

local records, subscriptions, subscription_count, look_at, lost, lost_count

local function forget_all()
  local weak = { __mode = "k" }
  records = {
    slice = setmetatable({}, weak), buffer = setmetatable({}, weak),
    task = setmetatable({}, weak), timer = setmetatable({}, weak),
  }
  subscriptions, subscription_count, look_at = {}, 0, 64 -- by connection: by topic
  lost, lost_count = {}, 0                               -- by place: slices that the collector freed
end
forget_all()

local function now()
  local clock = state.clock
  return clock and clock.now or C.rille_now()
end
leaks.now = now

-- ---- recording -------------------------------------------------------------------------------------------------

-- How many are passed over until the next: at random, as a script that makes things in turn would show the same one each time. Not with
-- math.random, whose numbers are the script's.
local function next_interval()
  seed = seed * 16807 % 2147483647
  return 1 + seed % (2 * sample - 1)
end

local function short_trace()
  local lines = {}
  for line in debug.traceback("", 4):gmatch("[^\n]+") do
    if #lines == TRACE_LINES then break end
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n", 2)
end

-- Below a tail call no line is known, but whose work it is.
local function place_of_work()
  local task = package.loaded["rille.task"]
  local fiber = task and task.current()
  return fiber and place.of_fiber(fiber) or ELSEWHERE
end

-- otherwise: its place when no line of a script stands above; without it that of the work which is being done.
local function new_record(otherwise)
  local is_all = level == "all"
  if not is_all then
    left = left - 1
    if left > 0 then return nil end
    left = next_interval()
  end
  return {
    place = place.of_caller(3) or otherwise or place_of_work(), made = now(), weight = is_all and 1 or sample,
    traceback = is_all and short_trace() or nil,
  }
end

-- An object of a kind was made; its record, if there is one. Only while leaks.on.
function leaks.made(kind, object, otherwise)
  local of_kind = records[kind]
  local record = of_kind[object]
  if not record then
    record = new_record(otherwise)
    of_kind[object] = record
  end
  return record
end

-- It is there no longer.
function leaks.gone(kind, object)
  records[kind][object] = nil
end

-- The collector had to free a slice that this record is about.
function leaks.collected(record)
  if not leaks.on then return end
  local where = (lost[record.place] or lost_count < PLACES_MAX) and record.place or ELSEWHERE
  local time = C.rille_now() -- not the loop's clock: the state may be on its end
  local one = lost[where]
  if not one then
    one = { place = where, count = 0, seen = 0, first = time }
    lost[where] = one
    lost_count = lost_count + 1
  end
  one.seen, one.count, one.last = one.seen + 1, one.count + record.weight, time
  one.traceback, one.is_estimate = record.traceback, one.is_estimate or record.weight > 1
  local is_power_of_two = bit.band(one.seen, one.seen - 1) == 0
  if not is_power_of_two then return end
  local log = package.loaded["rille.log"] -- a finalizer loads nothing
  if log then
    log.record("warn", where, nil, "%s: a retained slice was not released, the collector freed it; retained at %s; %s%d so far",
      state.label, where, one.is_estimate and "about " or "", one.count)
  end
end

-- ---- subscriptions ---------------------------------------------------------------------------------------------
-- Those belong to connections, whose tables may come and go: so they are kept by the connection's number, until it is looked at.

local SLOTS = 2 ^ 20

local function is_open(id)
  local p = state.loop and C.rille_conn_at(state.loop, id % SLOTS)
  return p ~= nil and p and C.rille_conn_id(p) == id
end

local function drop_closed()
  for id in pairs(subscriptions) do
    if not is_open(id) then
      subscriptions[id] = nil
      subscription_count = subscription_count - 1
    end
  end
  look_at = 2 * subscription_count + 64
end

function leaks.subscribed(id, topic)
  local of_conn = subscriptions[id]
  if of_conn and of_conn[topic] then return end
  local record = new_record()
  if not record then return end
  if not of_conn then
    if subscription_count >= look_at then drop_closed() end
    of_conn = {}
    subscriptions[id] = of_conn
    subscription_count = subscription_count + 1
  end
  of_conn[topic] = record
end

function leaks.unsubscribed(id, topic)
  local of_conn = subscriptions[id]
  if of_conn then of_conn[topic] = nil end
end

-- ---- levels ----------------------------------------------------------------------------------------------------

local function apply(new_level, new_sample)
  if level == "off" or new_level == "off" then forget_all() end
  level, sample = new_level, new_sample
  seed = 1 + floor(C.rille_now() * 1e6) % 2147483646
  left = next_interval()
  leaks.on = level ~= "off"
end

-- The level of this Lua state, and one in how many is recorded at "sample". With arguments they are set, in this state and for those of
-- the process that begin later: new_level "off" (which forgets what is recorded), "sample" or "all"; every: 1 to 1000000 (as it was).
function leaks.level(new_level, every)
  if new_level == nil then return level, sample end
  if not LEVELS[new_level] then
    misuse('bad argument #1 to \'level\' ("off", "sample" or "all" expected, got %s)', tostring(new_level))
  end
  every = every or sample
  if type(every) ~= "number" or not (every >= 1 and every <= SAMPLE_MAX) or every % 1 ~= 0 then
    misuse("bad argument #2 to 'level' (a whole number from 1 to %d expected, got %s)", SAMPLE_MAX, tostring(every))
  end
  apply(new_level, every)
  C.rille_leaks_set(LEVELS[new_level], every)
  return level, sample
end

-- What the configuration says, for every Lua state of the process; conf: its `debug`.
function leaks.configure(conf)
  C.rille_leaks_set(LEVELS[conf.leaks], conf.sample)
end

-- A Lua state begins: it takes the level of the process.
function leaks.begin()
  state = require "rille.state"
  apply(NAMES[C.rille_leaks_level()], C.rille_leaks_sample())
end

-- The end of a run in somebody's program.
function leaks.reset()
  apply("off", sample)
end

-- ---- what is there ---------------------------------------------------------------------------------------------

-- For leak_report.lua: records by kind and object, of subscriptions by connection and topic, of freed slices by place.
function leaks.all()
  drop_closed()
  return records, subscriptions, lost
end

-- What is still there, a list of places with the largest count first; see leak_report.lua.
function leaks.report(since)
  return require("rille.leak_report").list(since)
end

-- The same as lines of text, for `rille leaks`.
function leaks.tell(say, older)
  return require("rille.leak_report").tell(say, older)
end

registry["rille.leaks"] = leaks
return leaks
