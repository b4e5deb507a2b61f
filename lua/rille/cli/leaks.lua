-- leaks: `rille leaks`, what is still there in a server, by the line that made it.

local control = require "rille.cli.control"
local json = require "rille.cli.json"

local leaks = {}

leaks.help = [=[
usage: rille leaks [--json] [--loop N] [--older S] [--level LEVEL [--sample N]] [--pid N | --control PATH | --conf FILE]

List what is still there in the Lua states of a server, by the line that made it, the largest count first: tasks, handlers
that are parked, timers; and what was recorded of subscriptions, LinkBuffers, retained slices and those that the collector
had to free. With --level, change what is recorded from now on instead.

  --json           as JSON on one line, with tracebacks
  --loop N         of that loop alone
  --older S        at least so old: seconds, or "250ms", "60s", "5m", "1h"
  --level LEVEL    record nothing (off), a sample, or everything with its traceback (all)
  --sample N       one in so many at the level sample

]=] .. control.help

leaks.spec = {
  positional = 0,
  options = { json = {}, loop = { value = "N" }, older = { value = "S" }, level = { value = "LEVEL" }, sample = { value = "N" } },
}
for name, option in pairs(control.options) do leaks.spec.options[name] = option end

local TIMEOUT_MS, GRACE_MS = 5000, 2000
local UNITS = { [""] = 1, ms = 1e-3, s = 1, m = 60, h = 3600 }
local LEVELS = { off = true, sample = true, all = true }
local SAMPLE_MAX = 1000000

-- ---- asking ----------------------------------------------------------------------------------------------------

local function whole(given, name, max)
  if not given[name] then return nil end
  local n = tonumber(given[name])
  if n and n % 1 == 0 and n >= 1 and n <= max then return n end
  return nil, ("--%s: got '%s'; expected a whole number from 1 to %d"):format(name, given[name], max)
end

local function seconds(text)
  local n, unit = text:match("^(%d*%.?%d+)(%a*)$")
  if n and UNITS[unit] then return tonumber(n) * UNITS[unit] end
  return nil, ("--older: got '%s'; expected seconds, or a string such as 250ms, 60s, 5m, 1h"):format(text)
end

-- The numbers of the loops that are to be asked, and how many are stalled.
local function loops_of(status, only)
  local ids, stalled = {}, 0
  for _, loop in ipairs(status.loops) do
    if not only or loop.id == only then
      if loop.stalled then stalled = stalled + 1 else ids[#ids + 1] = loop.id end
    end
  end
  if only and #ids + stalled == 0 then return nil, ("there is no loop %d"):format(only) end
  return ids, stalled
end

-- Evaluate code in every Lua state of those loops; take(text) for what each has printed. How many loops and states did not answer.
local function evaluate(to, ids, code, take)
  local silent = 0
  for _, id in ipairs(ids) do
    local request = ("eval loop=%d timeout=%d size=%d state=*\n%s"):format(id, TIMEOUT_MS, #code, code)
    local answer = control.ask(to, request, TIMEOUT_MS + GRACE_MS)
    if not answer then silent = silent + 1 end
    for _, one in ipairs(answer and answer.states or {}) do
      if one.ok then take(one.text) else silent = silent + 1 end
    end
  end
  return silent
end

-- ---- what they say ---------------------------------------------------------------------------------------------

local function unescaped(text)
  if text == "" then return nil end
  return (text:gsub("\\(%d%d%d)", function(digits) return string.char(tonumber(digits)) end))
end

local function later(a, b)
  return a and b and math.max(a, b) or a or b
end

local function sooner(a, b)
  return a and b and math.min(a, b) or a or b
end

local function take_place(found, fields)
  local one = {
    kind = unescaped(fields[2]), count = tonumber(fields[3]), estimated = fields[4] ~= "", oldest = tonumber(fields[5]),
    youngest = tonumber(fields[6]), place = unescaped(fields[7]), generation = unescaped(fields[8]), parked = unescaped(fields[9]),
    traceback = unescaped(fields[10]),
  }
  local key = table.concat({ one.kind, one.place, one.generation }, "\n")
  local other = found.by_key[key]
  if not other then
    found.by_key[key] = one
    found.places[#found.places + 1] = one
    return
  end
  other.count, other.estimated = other.count + one.count, other.estimated or one.estimated
  other.oldest, other.youngest = later(other.oldest, one.oldest), sooner(other.youngest, one.youngest)
  other.parked, other.traceback = other.parked or one.parked, other.traceback or one.traceback
end

-- What one state has said: leak_report.lua writes it.
local function take_text(found, text)
  for line in text:gmatch("[^\n]+") do
    local fields = {}
    for field in (line .. "\t"):gmatch("([^\t]*)\t") do fields[#fields + 1] = field end
    if fields[1] == "place" then
      take_place(found, fields)
    elseif fields[1] == "more" then
      found.more = found.more + tonumber(fields[2])
    elseif fields[1] == "level" then
      found.level, found.sample = fields[2], tonumber(fields[3])
    end
  end
end

local function by_count(a, b)
  if a.count ~= b.count then return a.count > b.count end
  return a.kind .. a.place .. a.generation < b.kind .. b.place .. b.generation
end

-- ---- for people ------------------------------------------------------------------------------------------------

local function age(s)
  return s and control.span(s) or "-"
end

local function print_places(places)
  if #places == 0 then return end
  local format = "%-12s %8s %9s %9s  %-16s %s"
  print(format:format("kind", "count", "oldest", "youngest", "generation", "place"))
  for _, one in ipairs(places) do
    print(format:format(one.kind, ("%s%.0f"):format(one.estimated and "~" or "", one.count), age(one.oldest), age(one.youngest),
      one.generation, one.place))
  end
end

local function print_found(found)
  local level = found.level == "sample" and ("sample (1 in %d)"):format(found.sample) or found.level
  print(("level %s; in the process: %d retained slices, %d freed by the collector, %d buffers"):format(level, found.slices,
    found.slices_freed, found.buffers))
  print_places(found.places)
  if found.more > 0 then print(("and %d more places"):format(found.more)) end
  if found.silent > 0 then print(("%d loops or Lua states did not answer"):format(found.silent)) end
end

-- ---- the command -----------------------------------------------------------------------------------------------

local function set_level(to, ids, stalled, level, sample)
  local code = ("require('rille.leaks').level(%q, %s)"):format(level, sample or "nil")
  local silent = stalled + evaluate(to, ids, code, function() end)
  if silent > 0 then return nil, ("%d loops or Lua states did not answer; the others record at level %s"):format(silent, level) end
  print(("level %s"):format(level))
  return 0
end

local function list(to, ids, stalled, older, status, as_json)
  local blocks = status.blocks
  local found = {
    level = "off", sample = 0, places = {}, by_key = {}, more = 0, slices = blocks.slices, slices_freed = blocks.slices_leaked,
    buffers = blocks.buffers,
  }
  found.silent = stalled + evaluate(to, ids, ("require('rille.leaks').tell(print, %s)"):format(older or "nil"), function(text)
    take_text(found, text)
  end)
  found.by_key = nil
  table.sort(found.places, by_count)
  if as_json then print(json.encode(found)) else print_found(found) end
  return 0
end

-- The values on the command line; nil, message.
local function plan_of(given)
  local plan, message = { level = given.level }
  plan.loop, message = whole(given, "loop", 256)
  if message then return nil, message end
  plan.sample, message = whole(given, "sample", SAMPLE_MAX)
  if message then return nil, message end
  if given.older then
    plan.older, message = seconds(given.older)
    if message then return nil, message end
  end
  if plan.sample and plan.level ~= "sample" then return false, "--sample goes with --level sample" end
  if plan.level and not LEVELS[plan.level] then
    return nil, ("--level: got '%s'; expected off, sample or all"):format(plan.level)
  end
  return plan
end

function leaks.main(given)
  local plan, message = plan_of(given)
  if not plan then return plan, message end
  local to, problem = control.bind(given)
  if not to then return to, problem end
  local status, why = control.ask(to, "status\n")
  if not status then return nil, why end
  local ids, stalled = loops_of(status, plan.loop)
  if not ids then return nil, stalled end
  if plan.level then return set_level(to, ids, stalled, plan.level, plan.sample) end
  return list(to, ids, stalled, plan.older, status, given.json)
end

return leaks
