-- luajit bench/chunk.lua, from the root of the repository: what it takes to make one more Lua state: with the library alone, and
-- with a script of 100 modules, from source and from the sets of core/chunk.h. Milliseconds, the median of 31; bytes of one state.

package.path = "lua/?.lua;lua/?/init.lua;" .. package.path

local ffi = require "ffi"

local C = require "rille.core"
local chunk = require "rille.chunk"
require "rille.vm"

local TIMES, MODULES = 31, 100

local err_box, message_box = ffi.new("int[1]"), ffi.new("char[4096]")

-- A module of about 60 lines.
local function module_text(number)
  local lines = { "local M = {}" }
  for i = 1, 10 do
    lines[#lines + 1] = ([[
function M.f%d(a, b)
  local t = { name = "m%d", a = a, b = b, list = { 1, 2, 3 } }
  for k, v in pairs(t) do if k == "b" and v then t.a = (t.a or 0) + v * %d end end
  if t.a and t.a > 100 then return t.name .. ":" .. tostring(t.a) end
  return t
end]]):format(i, number, i)
  end
  lines[#lines + 1] = "return M"
  return table.concat(lines, "\n") .. "\n"
end

local function write_modules()
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder) == 0)
  for i = 1, MODULES do
    local file = assert(io.open(("%s/m%d.lua"):format(folder, i), "w"))
    file:write(module_text(i))
    file:close()
  end
  return folder
end

local PATHS = ("package.path, package.cpath = %q, %q\n"):format(package.path, package.cpath)
local FROM_SOURCE = "table.remove(package.loaders, 2)\ntable.insert(package.loaders, 2, function(name)\n" ..
  "local path = package.searchpath(name, package.path) return path and assert(loadfile(path)) end)\n"
local END = "require 'ffi'\nreturn function() end"

-- Make a state TIMES times: the median of milliseconds, and the bytes it has.
local function measure(code)
  local times, bytes = {}, 0
  for i = 1, TIMES do
    local loop = C.rille_loop_new(1, err_box)
    local started = C.rille_now()
    local g = C.rille_generation_new(1, 1, "bench@1", err_box)
    local state = C.rille_state_new(loop, g, 0, code, "", 0, message_box, 4096)
    C.rille_generation_release(g)
    times[i] = (C.rille_now() - started) * 1000
    if state == nil then error(ffi.string(message_box)) end
    local stats = ffi.new("rille_loop_stats[1]")
    C.rille_loop_stats_read(loop, stats)
    bytes = stats[0].lua_bytes
    C.rille_loop_free(loop)
  end
  table.sort(times)
  return times[(TIMES + 1) / 2], bytes
end

local function report(what, code)
  local ms, bytes = measure(code)
  print(("%-44s %8.2f ms %8.0f KiB"):format(what, ms, bytes / 1024))
end

local folder = write_modules()
local set = assert(chunk.new("bench"))
local load_all = ("package.path = %q .. package.path\nfor i = 1, %d do require('m' .. i) end\n"):format(folder .. "/?.lua;", MODULES)
local install = ("require 'rille.chunk'.install(%d)\n"):format(set.id)

report("a state with nothing", END)
report("its core.so and cdef", PATHS .. "require 'rille.core'\n" .. END)
report("rille.boot from source", PATHS .. FROM_SOURCE .. "require 'rille.boot'\n" .. END)
report("rille.boot from its set", PATHS .. "require 'rille.boot'\n" .. END)
report(("the same and %d modules from source"):format(MODULES), PATHS .. "require 'rille.boot'\n" .. FROM_SOURCE .. load_all .. END)
report(("the same and %d modules from a set"):format(MODULES), PATHS .. "require 'rille.boot'\n" .. install .. load_all .. END)

local library = C.rille_chunks_library()
print(("the library's set: %.0f files, %.0f KiB of bytecode"):format(C.rille_chunks_count(library), C.rille_chunks_bytes(library) / 1024))
local files, _, bytes = set:count()
print(("the script's set: %.0f files, %.0f KiB of bytecode"):format(files, bytes / 1024))
os.execute("rm -r " .. folder)
