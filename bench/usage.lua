-- What a process has used, as /proc tells it.
local posix = require "bench.posix"

local usage = {}

local TICK_US = 10000 -- USER_HZ is 100 in every Linux ABI that LuaJIT runs on

local function slurp(path)
  local file = io.open(path)
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

-- By thread id: nanoseconds on a CPU, and nanoseconds ready to run while something else had the CPU.
function usage.threads(pid)
  local threads = {}
  for _, tid in ipairs(posix.list("/proc/" .. pid .. "/task") or {}) do
    local text = slurp("/proc/" .. pid .. "/task/" .. tid .. "/schedstat")
    local ran, waited = (text or ""):match("^(%d+) (%d+)")
    if ran then threads[tid] = { ran = tonumber(ran), waited = tonumber(waited) } end
  end
  if not next(threads) then
    error(("no /proc/%d/task/*/schedstat: the process is gone, or the kernel keeps none"):format(pid), 0)
  end
  return threads
end

-- Both, summed, between two readings of threads(). A thread that ended in between takes its time with it.
function usage.threads_delta(before, after)
  local ran, waited, none = 0, 0, { ran = 0, waited = 0 }
  for tid, thread in pairs(after) do
    local start = before[tid] or none
    ran = ran + thread.ran - start.ran
    waited = waited + thread.waited - start.waited
  end
  return ran, waited
end

-- User and system microseconds, in steps of a tick (10 ms).
function usage.user_system(pid)
  local text = slurp("/proc/" .. pid .. "/stat") or error("no process " .. pid)
  local fields, n = text:match(".*%) (.*)$"), 0 -- the first is field 3; the name may hold spaces
  local user, system
  for field in fields:gmatch("%S+") do
    n = n + 1
    if n == 12 then user = tonumber(field) * TICK_US end
    if n == 13 then system = tonumber(field) * TICK_US end
  end
  return user, system
end

-- Bytes: vm_rss is what /proc/PID/status says, the others are exact sums over the mappings.
function usage.memory(pid)
  local status = slurp("/proc/" .. pid .. "/status") or error("no process " .. pid)
  local rollup = slurp("/proc/" .. pid .. "/smaps_rollup") or ""
  local function bytes(text, key) return 1024 * (tonumber(text:match("\n" .. key .. ":%s*(%d+) kB")) or 0) end
  return {
    vm_rss = bytes(status, "VmRSS"),
    rss = bytes(rollup, "Rss"),
    pss = bytes(rollup, "Pss"),
    private = bytes(rollup, "Private_Clean") + bytes(rollup, "Private_Dirty"),
    anonymous = bytes(rollup, "Anonymous"),
  }
end

-- Of all processors since the start, in ticks: all of it, and what a virtual machine's host gave to others although something here was
-- ready to run.
function usage.processors()
  local all, stolen, n = 0, 0, 0
  for ticks in (slurp("/proc/stat") or ""):match("^cpu +([%d ]*)"):gmatch("%d+") do
    n = n + 1
    if n <= 8 then all = all + tonumber(ticks) end -- the others are counted in these
    if n == 8 then stolen = tonumber(ticks) end
  end
  return all, stolen
end

function usage.descriptors(pid)
  return #(posix.list("/proc/" .. pid .. "/fd") or {})
end

local function has_bit(mask, signal)
  local low = tonumber((mask or "0"):sub(-8), 16)
  return math.floor(low / 2 ^ (signal - 1)) % 2 == 1
end

-- Does the process take this signal, by a handler or by blocking it for a thread that waits? Else SIGQUIT would end it.
function usage.is_caught(pid, signal)
  local status = slurp("/proc/" .. pid .. "/status") or ""
  return has_bit(status:match("SigCgt:%s*(%x+)"), signal) or has_bit(status:match("SigBlk:%s*(%x+)"), signal)
end

function usage.machine()
  local cpu = (slurp("/proc/cpuinfo") or ""):match("model name%s*:%s*([^\n]+)")
  local kernel = (slurp("/proc/sys/kernel/osrelease") or "unknown"):gsub("%s+$", "")
  return { cpu = cpu or "unknown", kernel = kernel }
end

return usage
