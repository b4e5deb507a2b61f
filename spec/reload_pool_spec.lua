-- Worker pools while scripts are reloaded: which generation's modules a job finds, and what workers keep of generations that are over.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local server = require "spec.support.server"
local net = server.net

-- A script whose jobs say what generation they are of. "ask" asks once; "hold" asks, waits for a line, and asks again; "wait NAME" has a
-- job that does not come back before that file is there; "post NAME" posts one that fails then.
local SCRIPT = [[

local state = require "rille.state"
local pool = rille.pool("shared", { max = 2 })
local function ask() return tostring(pool:call("numbers_of_spec", "get")) .. " in " .. state.generation end
local commands = {}
function commands.ask(conn) conn:send(ask() .. "\n") end
function commands.hold(conn)
  conn:send(ask() .. "\n")
  conn:release()
  conn:read_line()
  conn:send(ask() .. "\n")
end
function commands.wait(conn, name) conn:send("waits\n") conn:send(tostring(pool:call("numbers_of_spec", "wait", name)) .. "\n") end
function commands.post(conn, name) conn:send(tostring(pool:post("numbers_of_spec", "fail", name)) .. "\n") end
return {
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local name, word = line:str():match("^(%a+) ?(.*)$")
    commands[name](conn, word)
  end,
}
]]

local function module_of(n)
  return ([[
local ffi = require "ffi"
ffi.cdef "int spec_usleep(unsigned us) __asm__(\"usleep\");"
local M, folder = {}, %q
local function is_there(name) local f = io.open(folder .. "/" .. name) if f then f:close() end return f ~= nil end
function M.get() return %d end
function M.wait(name)
  assert(io.open(folder .. "/in-" .. name, "w")):close()
  while not is_there(name) do ffi.C.spec_usleep(1000) end
  return %d
end
function M.fail(name) M.wait(name) error("of %d") end
return M
]]):format(server.folder(), n, n, n)
end

local function write_module(n)
  server.write("numbers_of_spec.lua", module_of(n))
end

local function start(opts)
  write_module(1)
  opts = opts or {}
  opts.name = "gate"
  opts.conf = opts.conf or {}
  opts.conf.reload = opts.conf.reload or { watch = false }
  return control.start(SCRIPT, opts)
end

local function reload(s)
  local code, out, err = control.rille { "reload", "--wait", "--control", s.socket }
  assert.equal(0, code, err .. s:tail())
  return out
end

-- The same without a process for the command.
local function reload_at_once(s)
  local code = "print(require('rille.reload').answer { wait = true })"
  local answer = json.decode(control.ask(s, ("eval loop=0 timeout=20000 size=%d\n%s"):format(#code, code)))
  assert.matches('"ok":true', answer.text)
end

local function wait_file(name)
  assert(net.poll_until(function()
    local f = io.open(server.folder() .. "/" .. name)
    if f then f:close() end
    return f ~= nil
  end, 10), name .. " never came")
end

local function pool_of(status)
  for _, one in ipairs(status.pools) do
    if one.name == "shared" then return one end
  end
end

local function say(c, text)
  c:send(text .. "\n")
  return c:receive_line(10)
end

describe("worker pools and reloads", function()
  after_each(server.cleanup)

  it("give each generation its own modules, also a call that is made after the reload", function()
    local s = start { conf = { loops = 2 } }
    local old = s:connect()
    assert.equal("1 in 1", say(old, "hold"))
    write_module(2)
    reload(s)
    assert.equal("2 in 2", say(s:connect(), "ask"))
    assert.equal("1 in 1", say(old, "go on"))
    assert.equal("2 in 2", say(old, "ask")) -- it went over between two messages
    s:wait_log "gate@1: retired"
    s:stop()
  end)

  it("close the Lua states of a generation that is over, and keep none however many there were", function()
    local s = start()
    for n = 1, 30 do
      local c = s:connect()
      assert.equal(("%d in %d"):format(n, n), say(c, "ask"))
      c:close()
      write_module(n + 1)
      reload(s)
    end
    assert.equal("31 in 31", say(s:connect(), "ask"))
    s:wait_log "gate@30: retired"
    local status = control.wait_status(s, function(status) return pool_of(status).states <= 2 end)
    assert.is_true(pool_of(status).states >= 1)
    s:stop()
  end)

  it("go on beyond 256 generations", function()
    local s = start()
    for n = 1, 300 do
      local c = s:connect()
      assert.equal(("1 in %d"):format(n), say(c, "ask"))
      c:close()
      reload_at_once(s)
    end
    s:stop()
  end)

  it("throw away what a job of a generation returns that was cut off, and count it as abandoned", function()
    local s = start { conf = { reload = { watch = false, drain = { policy = "migrate", deadline = "100ms" } } } }
    local c = s:connect()
    assert.equal("waits", say(c, "wait gate"))
    wait_file "in-gate"
    write_module(2)
    reload(s)
    s:wait_log "gate@1: retired"
    local status = control.status(s)
    assert.equal(1, pool_of(status).abandoned)
    assert.equal(1, pool_of(status).lost)
    assert.equal("2 in 2", say(s:connect(), "ask"))
    assert.equal(2, pool_of(control.status(s)).states)
    server.write("gate", "")
    control.wait_status(s, function(one) return pool_of(one).lost == 0 and pool_of(one).states == 1 end)
    assert.equal(1, pool_of(control.status(s)).done)
    s:stop()
  end)

  it("run what was posted to its end, and log its error when the generation is over", function()
    local s = start { allow_errors = true }
    local c = s:connect()
    assert.equal("true", say(c, "post first"))
    assert.equal("true", say(c, "post second"))
    assert.equal("true", say(c, "post third")) -- waits in the queue
    wait_file "in-first"
    wait_file "in-second"
    c:close()
    write_module(2)
    reload(s)
    s:wait_log "gate@1: retired"
    server.write("first", "")
    wait_file "in-third"
    server.write("third", "")
    s:wait_log "pool shared: numbers_of_spec.fail failed: [^\n]*of 1"
    server.write("second", "")
    control.wait_status(s, function(one) return pool_of(one).failed == 3 and pool_of(one).states == 0 end)
    assert.equal(3, s:count_log "pool shared: numbers_of_spec.fail failed: [^\n]*of 1")
    assert.equal(0, pool_of(control.status(s)).abandoned)
    s:stop()
  end)
end)
