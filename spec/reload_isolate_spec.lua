-- reload.isolate: a new version is tried in a process of its own first.

local control = require "spec.support.control"
local server = require "spec.support.server"

-- A sanitizer turns a bad access into a report of its own, and needs more time for everything.
local SLOW = os.getenv "RILLE_CORE" or os.getenv "RILLE_LUAJIT"
local SIGNAL = SLOW and 5 or 11
local CRASH = SLOW and "local ffi = require 'ffi' ffi.cdef 'int raise(int);' ffi.C.raise(5)" or "require('ffi').cast('int *', 8)[0] = 1"
local STAGE_TIMEOUT = SLOW and 10 or 1

local ISOLATED = { watch = false, isolate = true }

local function script(n, body)
  return ([[
local rille = require "rille"
local options = ...
local M = {}
function M.on_request(conn)
  conn:read_line()
  conn:send("%d " .. tostring(options.word) .. "\n")
end
%s
return M
]]):format(n, body or "")
end

local function write(n, body)
  return server.write("gate.lua", script(n, body))
end

local function start(opts)
  local path = write(1)
  opts = opts or {}
  opts.conf = opts.conf or {}
  opts.conf.reload = opts.conf.reload or ISOLATED
  opts.options = { word = "word" }
  opts.allow_errors = true
  return control.start(path, opts)
end

local function reload(s)
  return control.rille { "reload", "--wait", "--control", s.socket }
end

local function asked(s)
  local c = s:connect()
  c:send("x\n")
  local line = c:receive_line(10)
  c:close()
  return line
end

local function no_child_is_left(s)
  local status = control.status(s)
  assert.equal(0, status.children.running)
  return status.children.started
end

describe("reload.isolate", function()
  after_each(server.cleanup)

  it("lets a good version pass, with its options, paths, dicts and pools", function()
    os.execute("mkdir -p " .. server.folder() .. "/lib")
    server.write("lib/greeting_of_spec.lua", "return 'hello'\n")
    local s = start { conf = { loops = 2, path = server.folder() .. "/lib/?.lua", dicts = { shared_of_spec = { size = "1m" } },
      pools = { own = { max = 2 } }, reload = ISOLATED } }
    assert.equal("1 word", asked(s))
    write(2, [[
assert(require "greeting_of_spec" == "hello" and options.word == "word")
function M.on_stage()
  assert(rille.dict("shared_of_spec"):capacity() > 2 ^ 19)
  assert(rille.pool("own"):call("string", "rep", "x", 2) == "xx")
  io.write("noise on stdout")
end
function M.selftest()
  local a, b = rille.pair()
  a:send("hello\n")
  assert(b:read_line():str() == "hello")
end]])
    local code, _, err = reload(s)
    assert.equal(0, code, err .. s:tail())
    assert.equal("2 word", asked(s))
    assert.equal(1, no_child_is_left(s))
    s:stop()
  end)

  it("refuses a version that crashes, and serves on", function()
    local s = start()
    for _, where in ipairs { "%s", "function M.on_stage() %s end", "function M.selftest() %s end" } do
      write(2, where:format(CRASH))
      local code, _, err = reload(s)
      assert.equal(1, code)
      assert.matches("gate@%d+: tried in a process of its own: ended by signal " .. SIGNAL, err)
      assert.equal("1 word", asked(s))
    end
    assert.equal(3, no_child_is_left(s))
    write(3)
    assert.equal(0, (reload(s)))
    assert.equal("3 word", asked(s))
    s:stop()
  end)

  it("refuses a version that ends the process, however politely", function()
    local s = start()
    for _, body in ipairs { "os.exit(0)", "os.exit(7)", "function M.selftest() io.stdout:write('passed') os.exit(0, true) end" } do
      write(2, body)
      local code, _, err = reload(s)
      assert.equal(1, code)
      assert.matches("tried in a process of its own: exit status [07]", err)
    end
    assert.equal("1 word", asked(s))
    s:stop()
  end)

  it("says what the version wrote when it does not pass", function()
    local s = start()
    for text, body in pairs {
      ["gate.lua:8: on purpose"] = "error('on purpose')",
      ["gate.lua:8: '=' expected"] = "this is no Lua",
      ["selftest failed: not ready"] = "function M.selftest() return nil, 'not ready' end",
      ["module 'nowhere' not found"] = "require 'nowhere'",
    } do
      write(2, body)
      local code, _, err = reload(s)
      assert.equal(1, code)
      assert.truthy(err:find("tried in a process of its own: ", 1, true), err)
      assert.truthy(err:find(text, 1, true), err)
    end
    assert.equal("1 word", asked(s))
    s:stop()
  end)

  it("ends a version that does not come back at reload.stage_timeout", function()
    local s = start { conf = { reload = { watch = false, isolate = true, stage_timeout = STAGE_TIMEOUT } } }
    for _, body in ipairs { "while true do end", "function M.on_stage() rille.sleep(60) end" } do
      write(2, body)
      local code, _, err = reload(s)
      assert.equal(1, code)
      assert.matches(STAGE_TIMEOUT .. " s", err)
    end
    assert.equal(2, no_child_is_left(s))
    assert.equal("1 word", asked(s))
    write(3)
    assert.equal(0, (reload(s)))
    assert.equal("3 word", asked(s))
    s:stop()
  end)

  it("works in a program with several loops", function()
    local path = write(1)
    local program = server.write("program.lua", ([[
package.path, package.cpath = %q .. "/lua/?.lua;" .. %q .. "/lua/?/init.lua;" .. package.path, %q .. "/lua/?.so;" .. package.cpath
assert(require("rille").run { loops = 2, control = { path = %q }, reload = { watch = false, isolate = true },
  servers = { { listen = "tcp://127.0.0.1:0", script = %q, options = { word = "word" } } } })
]]):format(server.root, server.root, server.root, server.folder() .. "/program.sock", path))
    local s = server.start("", { command = { os.getenv "LUAJIT" or "luajit", program }, allow_errors = true })
    s.socket = server.folder() .. "/program.sock"
    write(2, CRASH)
    local code, _, err = reload(s)
    assert.equal(1, code)
    assert.matches("ended by signal " .. SIGNAL, err)
    write(3)
    code, _, err = reload(s)
    assert.equal(0, code, err)
    assert.equal("3 word", asked(s))
    s:stop()
  end)
end)
