-- pool: pieces of Lua (see inside.lua) that have a worker pool `pool`, and a module "work" that its jobs find.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local M = {}

-- What jobs run. hold(name) stays until somebody opens that gate.
local WORK = [[
local ffi = require "ffi"
ffi.cdef "int spec_usleep(unsigned us) __asm__(\"usleep\"); int spec_gettid(void) __asm__(\"gettid\");"
ffi.cdef "int spec_nice(int, int) __asm__(\"getpriority\");"
local folder = package.searchpath("work", package.path):match("^(.*/)")
local M, kept = {}, nil
function M.echo(...) return ... end
function M.count(...) return select("#", ...) end
function M.nothing() end
function M.fail(value) error(value or "on purpose") end
function M.fail_with(value) error(value, 0) end
function M.fail_deep() local t = nil; return t.x end
function M.closure() return 1, function() end end
function M.open(name) assert(io.open(folder .. name, "w")):close() end
function M.is_open(name) local f = io.open(folder .. name) if f then f:close() end return f ~= nil end
function M.hold(name, ...) M.open("in-" .. name) while not M.is_open(name) do ffi.C.spec_usleep(1000) end return ... end
function M.hold_and_fail(name) M.hold(name) error "late" end
function M.thread() return ffi.C.spec_gettid() end
function M.nice() return ffi.C.spec_nice(0, 0) end
function M.address(s) local p, n = s:ptr() return tonumber(ffi.cast("uintptr_t", p)), n end
function M.front(b) return M.address(b:peek(1)), b:len() end
function M.keep(s) kept = s return s:str() end
function M.look() return pcall(function() return kept:str() end) end
function M.upper(b)
  local out = require("rille.linkbuffer").new()
  out:write(b:read_string(b:len()):upper()) out:flush()
  return out, "done"
end
function M.cut(n)
  local b = require("rille.linkbuffer").new() b:write(("y"):rep(n)) b:flush()
  return b:next(n):sub(2, -2)
end
function M.sleep() require("rille").sleep(0.1) end
function M.broken() error("not enough memory", 0) end
function M.hog() local t = {} for i = 1, 1e6 do t[i] = ("x"):rep(2 ^ 24) .. i end end
function M.hoard(size) local t = {} for i = 1, 1e6 do t[i] = ("x"):rep(size) .. i end end
function M.survive() local _, err = pcall(M.hoard, 1e5) return err:find("not enough memory", 1, true) and "no memory" end
local left = {}
function M.leave(size) left[#left + 1] = ("x"):rep(size) .. #left return true end
function M.left() return #left end
function M.globals() spec_mark = (spec_mark or 0) + 1 return spec_mark end
function M.say(text) require("rille").log.info("said %s", text) end
return M
]]

-- In front of each piece, on its first line.
local HEAD = [[package.path = FOLDER .. "/?.lua;" .. package.path ]]
  .. [[local work = require "work" local LinkBuffer = require "rille.linkbuffer" local pool = rille.pool("spec", OPTIONS) ]]
  .. [[local function await(fn) local stop = clock() + 5 * SLOW while not fn() do ]]
  .. [[if clock() > stop then error("it never came about", 2) end rille.sleep(0.002) end end ]]
  .. [[local function threads() return tonumber(io.open("/proc/self/status"):read("*a"):match("Threads:%s*(%d+)")) end ]]

local function piece(code, opts)
  server.write("work.lua", WORK)
  local head = HEAD:gsub("FOLDER", ("%q"):format(server.folder())):gsub("OPTIONS", opts or "nil")
  return head .. code
end

-- Run a piece that has to end well, with a pool of these options (source text).
function M.check(code, opts, options)
  return inside.check(piece(code, opts), options)
end

M.WORK = WORK

return M
