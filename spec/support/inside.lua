-- inside: pieces of Lua that run in a process of their own, most of them as the task of a loop. run() returns what one printed,
-- what it logged, its exit status and what it left; check() also asserts that it worked and left nothing.

local server = require "spec.support.server"
local net = require "spec.support.net"

local M = { slow = net.slow, root = server.root }

local LUAJIT = os.getenv("RILLE_LUAJIT") or "luajit"

-- What the process runs: a file, how (task: in a loop; plain: as it is), where to write what is left.
local MAIN = [[
local root, file, how, report = unpack(arg)
package.path = root .. "/lua/?.lua;" .. root .. "/lua/?/init.lua;" .. root .. "/?.lua;" .. package.path
local ffi = require "ffi"
ffi.cdef 'int inside_fcntl(int fd, int command, ...) __asm__("fcntl");'
local rille = require "rille"
local LinkBuffer = require "rille.linkbuffer"
rille.log.set_rate(0)
rille.log.configure {} -- it keeps a descriptor from here on

local function descriptors()
  local count = 0
  for fd = 0, 255 do
    if ffi.C.inside_fcntl(fd, 1) >= 0 then count = count + 1 end
  end
  return count
end

local chunk = assert(loadfile(file))
local before = descriptors()
local status
if how == "task" then
  local server, config = require "rille.server", require "rille.config"
  local conf = config.defaults()
  conf.drain_timeout = 1
  local message
  status, message = server.run_task(conf, "spec@1", chunk)
  if not status then
    io.stderr:write(message, "\n")
    status = 3
  end
else
  status = chunk()
end
io.stdout:flush()
chunk = nil
collectgarbage()
collectgarbage()
local s = LinkBuffer.stats()
local out = assert(io.open(report, "w"))
out:write(("%d blocks, %d retained slices, %d leaked slices, %d buffers, %d descriptors"):format(s.blocks_in_use,
  s.slices_retained, s.slices_leaked, s.buffers_in_use, descriptors() - before - 1))
out:close()
os.exit(type(status) == "number" and status or 0, true)
]]

-- In front of each piece, on its first line.
local PRELUDE = [[local rille = require "rille" ]]
  .. [[local SLOW = tonumber(os.getenv "INSIDE_SLOW") ]]
  .. [[local clock = require("rille.core").rille_now ]]
  .. [[local function equal(got, want) if got ~= want then ]]
  .. [[error(("got %s, expected %s"):format(tostring(got), tostring(want)), 2) end end ]]
  .. [[local function raises(text, fn, ...) local ok, err = pcall(fn, ...) ]]
  .. [[if ok then error("it did not raise: " .. text, 2) end ]]
  .. [[if not tostring(err):find(text, 1, true) then error(("raised %q, expected %q"):format(tostring(err), text), 2) end ]]
  .. [[return err end ]]
  .. [[local function turns(n) for _ = 1, n do rille.yield() end end ]]
  .. "\n"

local CLEAN = "0 blocks, 0 retained slices, 0 leaked slices, 0 buffers, 0 descriptors"

local count = 0

-- Start a piece of Lua. options: how ("task" or "plain"), name (of its file), env (a table). A process (see server.lua) with :out(),
-- :err() and :left().
function M.start(code, options)
  options = options or {}
  count = count + 1
  local file = server.write((options.name or "piece" .. count) .. ".lua", PRELUDE .. code)
  local main = server.write("main.lua", MAIN)
  local report, err = file .. ".left", file .. ".err"
  local command = { "env", "INSIDE_SLOW=" .. M.slow }
  for key, value in pairs(options.env or {}) do command[#command + 1] = key .. "=" .. value end
  -- the shell becomes luajit, so the process is the one that runs the piece
  for _, word in ipairs { "sh", "-c", 'err=$1; shift; exec "$@" 2>>"$err"', "sh", err,
                          LUAJIT, main, M.root, file, options.how or "task", report } do
    command[#command + 1] = word
  end
  local process = server.spawn(nil, { command = command })
  process:forget()
  process.file = file
  function process.out() return server.read(process.output) end
  function process.err() return server.read(err) end
  function process.left() return server.read(report) end
  return process
end

-- Wait for the end of a process of start(), at most so many seconds (15): { status =, out =, err =, left = }.
function M.finish(process, seconds)
  if not process:wait_exit(seconds or 15) then
    process:kill()
    error(("it does not end:\n%s%s"):format(process:out(), process:err()), 0)
  end
  return { status = process.status, out = process:out(), err = process:err(), left = process:left(), file = process.file }
end

function M.run(code, options)
  return M.finish(M.start(code, options), options and options.seconds)
end

-- What a result of run() or finish() has to be: it worked, left nothing, and logged no error (but options.errors = true).
function M.verify(result, options)
  local text = ("%s%s"):format(result.out, result.err)
  if result.status ~= (options and options.status or 0) then
    error(("exit status %s:\n%s"):format(tostring(result.status), text), 0)
  end
  if result.left ~= CLEAN then error(("it left %s:\n%s"):format(result.left, text), 0) end
  if not (options and options.errors) and result.err:find("level=error", 1, true) then
    error("it logged an error:\n" .. text, 0)
  end
  if result.err:find("dispatcher failed", 1, true) then error("the dispatcher failed:\n" .. text, 0) end
  return result
end

-- Run a piece that has to end well; its result. options as for run, and errors, status.
function M.check(code, options)
  return M.verify(M.run(code, options), options)
end

-- Any command, in folder: { status =, out = } with stdout and stderr together.
function M.command(words, seconds)
  local process = server.spawn(nil, { command = words })
  process:forget()
  if not process:wait_exit(seconds or 15) then
    process:kill()
    error("it does not end:\n" .. process:log(), 0)
  end
  return { status = process.status, out = process:log() }
end

M.write, M.folder, M.cleanup = server.write, server.folder, server.cleanup

return M
