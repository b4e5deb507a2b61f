-- Versions that do not come up: the one before serves on, and nothing of them is left.

local reload = require "spec.support.reload"
local server = reload.server
local net = server.net
local ask = reload.ask
local lines = reload.lines

describe("a version that does not come up", function()
  after_each(server.cleanup)

  local REFUSED = {
    { "a syntax error", "local x = = 1\nreturn x\n", "script.lua:1: " },
    { "a top level that raises", "error('top')\nreturn {}\n", "top" },
    { "a script without on_request", "\nreturn {}\n", "without on_request" },
    { "a module that is missing", "require 'no.such.module'\nreturn {}\n", "no.such.module" },
    { "on_stage that raises", lines("bad", "function M.on_stage() error('stage') end"), "on_stage failed: .*script.lua:%d+: stage" },
    { "on_stage that returns false", lines("bad", "function M.on_stage() return false end"), "on_stage returned false" },
    { "selftest that raises", lines("bad", "function M.selftest() error('self') end"), "selftest failed: .*script.lua:%d+: self" },
    { "selftest that fails", lines("bad", "function M.selftest() return nil, 'no luck' end"), "selftest failed: no luck" },
    { "on_start that raises", lines("bad", "function M.on_start() error('start') end"), "on_start failed: .*script.lua:%d+: start" },
    { "on_start that returns false", lines("bad", "function M.on_start() return false end"), "on_start returned false" },
    { "on_reload that raises", lines("bad", "function M.on_reload() error('take') end"), "on_reload failed: .*script.lua:%d+: take" },
    { "an address that cannot be had", lines("bad", "rille.listen('tcp://192.0.2.1:1', { on_request = print })"), "192.0.2.1" },
  }
  for _, case in ipairs(REFUSED) do
    it("is refused for " .. case[1] .. ", and the old one serves on", function()
      local s = reload.start(lines("v1"), { allow_errors = true, conf = { loops = 2 } })
      local c = s:connect()
      assert.equal("v1 a", ask(c, "a"))
      for _ = 1, 3 do
        local report = reload.now(s, case[2])
        assert.is_false(report.ok)
        assert.matches(case[3], report.message)
        assert.equal("v1 b", ask(c, "b"))
        assert.equal("v1 c", ask(s:connect(), "c"))
      end
      local status, _, err = reload.command(s)
      assert.equal(1, status)
      assert.matches(case[3], err)
      reload.to(s, lines("v2"))
      assert.equal("v2 d", ask(c, "d"))
      reload.wait_retired(s)
      s:stop()
    end)
  end

  it("is refused when staging hangs, and four such threads are the last", function()
    local limit = net.has_sanitized_servers and 2 or 0.5 -- enough to come to the loop that hangs
    local s = reload.start(lines("v1"), { allow_errors = true, allow_failures = true, reload = { stage_timeout = limit } })
    local c = s:connect()
    local go = server.folder() .. "/go"
    local hangs = ([[
      require("ffi").cdef "int access(const char *, int);"
      while require("ffi").C.access(%q, 0) ~= 0 do end
    ]]):format(go)
    for _ = 1, 4 do
      local report = reload.now(s, lines("bad", hangs))
      assert.is_false(report.ok)
      assert.matches("stage_timeout", report.message)
      assert.equal("v1 a", ask(c, "a"))
    end
    reload.put(lines("v2"))
    local status, _, err = reload.command(s)
    assert.equal(1, status)
    assert.matches("4 .*restart", err)
    assert.equal("v1 a", ask(c, "a"))
    if net.is_sanitized then server.write("go", "") end -- what a thread has that never comes back is lost, which is a leak to it
    s:signal("TERM")
    s:wait_exit(20)
    s:forget()
  end)

  it("is refused when a hook is parked for too long, which costs no thread", function()
    local s = reload.start(lines("v1"), { allow_errors = true, reload = { stage_timeout = 1.5 * net.slow } })
    for _ = 1, 3 do
      for _, hook in ipairs { "on_stage", "selftest" } do
        local report = reload.now(s, lines("bad", ("function M.%s() rille.sleep(60) end"):format(hook)))
        assert.is_false(report.ok)
        assert.matches(hook .. " did not return in time", report.message)
      end
    end
    reload.to(s, lines("v2"))
    assert.equal("v2 a", ask(s:connect(), "a"))
    s:stop()
  end)
end)
