-- What the dict bench runs in a server: each loop works on the same keys at the same time, and logs how far it came.
local ffi = require "ffi"
local rille = require "rille"

local options = ...

local KEYS, VALUE_BYTES, BURST = 10000, 32, 10000

ffi.cdef [[
void table_set(const char *key, size_t key_size, const char *bytes, size_t size);
double table_get(const char *key, size_t key_size, char *to, size_t room);
double table_incr(const char *key, size_t key_size, double by);
typedef struct { long sec; long nsec; } dict_work_timespec;
int clock_gettime(int clock, dict_work_timespec *now);
]]

local now = require("rille.core").rille_now
local meetings = rille.dict("bench meetings", { size = "64k" })

local keys, values = {}, {}
for i = 1, KEYS do
  keys[i] = ("some key:%d"):format(i)
  values[i] = ("%d "):format(i):rep(VALUE_BYTES):sub(1, VALUE_BYTES)
end

-- Each store: work[case](from, to), over keys from .. to.
local stores = {}

function stores.dict()
  local d, counters = rille.dict("bench", { size = "16m" }), rille.dict("bench counters", { size = "16m" })
  return {
    set = function(from, to) for i = from, to do d:set(keys[i], values[i]) end end,
    get = function(from, to) for i = from, to do if not d:get(keys[i]) then error(keys[i]) end end end,
    incr = function(from, to) for i = from, to do counters:incr(keys[i], 1, 0) end end,
  }
end

stores["Lua table"] = function()
  local t = {}
  return {
    set = function(from, to) for i = from, to do t[keys[i]] = values[i] end end,
    get = function(from, to) for i = from, to do if not t[keys[i]] then error(keys[i]) end end end,
    incr = function(from, to) for i = from, to do t[keys[i]] = (t[keys[i]] or 0) + 1 end end,
    clear = function() t = {} end,
  }
end

stores["C, mutex"] = function()
  local c, room = ffi.load(options.table), 1024
  local to_bytes = ffi.new("char[?]", room)
  return {
    set = function(from, to) for i = from, to do c.table_set(keys[i], #keys[i], values[i], #values[i]) end end,
    get = function(from, to)
      for i = from, to do
        local size = c.table_get(keys[i], #keys[i], to_bytes, room)
        if size < 0 or #ffi.string(to_bytes, size) ~= VALUE_BYTES then error(keys[i]) end
      end
    end,
    incr = function(from, to) for i = from, to do c.table_incr(keys[i], #keys[i], 1) end end,
  }
end

-- Returns when every loop has called it with this name.
local function meet(name)
  meetings:incr(name, 1, 0)
  while meetings:get(name) < rille.loop.count do rille.yield() end
end

local CLOCK_THREAD_CPUTIME_ID = 3
local time_box = ffi.new("dict_work_timespec")

local function cpu_now()
  ffi.C.clock_gettime(CLOCK_THREAD_CPUTIME_ID, time_box)
  return tonumber(time_box.sec) + tonumber(time_box.nsec) / 1e9
end

-- Operations a second, and a second on a CPU.
local function run(work, seconds)
  local from, cpu_from, count = now(), cpu_now(), 0
  repeat
    work(1, BURST)
    count = count + BURST
  until now() - from >= seconds
  return count / (now() - from), count / (cpu_now() - cpu_from)
end

local function measure()
  rille.log.set_rate(0)
  local seconds, windows = tonumber(options.seconds), tonumber(options.windows)
  for _, name in ipairs { "dict", "Lua table", "C, mutex" } do
    local store = stores[name]()
    for _, case in ipairs { "set", "get", "incr" } do
      if case == "incr" and store.clear then store.clear() end
      meet(name .. case)
      run(store[case], seconds / 10)
      for i = 1, windows do
        meet(name .. case .. i)
        rille.log.info("bench %s: %s %.0f %.0f", name, case, run(store[case], seconds))
      end
    end
  end
  meet("the end")
  rille.log.info("bench done")
end

return {
  on_start = function() rille.spawn(measure) end,
  on_request = function(conn) conn:close() end,
}
