-- What a worker does for bench/tail_server.lua: seconds of computing, measured by the processor time of its own thread.
local ffi = require "ffi"

ffi.cdef [[
typedef struct { long sec, nsec; } tail_time;
int tail_clock(int clock, tail_time *to) __asm__("clock_gettime");
]]

local CLOCK_THREAD_CPUTIME_ID = 3
local box = ffi.new("tail_time")

local function used()
  ffi.C.tail_clock(CLOCK_THREAD_CPUTIME_ID, box)
  return tonumber(box.sec) + tonumber(box.nsec) / 1e9
end

local tail_work = {}

function tail_work.compute(seconds)
  local stop, x = used() + seconds, 1
  repeat
    for i = 1, 10000 do x = (x * 16807 + i) % 2147483647 end
  until used() >= stop
  return x > 0 and "!" or "?"
end

return tail_work
