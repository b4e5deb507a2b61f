-- What a script is asked before the first of its generations serves: its on_stage and selftest, as before every other.

local reload = require "spec.support.reload"
local server = reload.server
local net = server.net
local ask = reload.ask
local lines = reload.lines
local commands = reload.commands

describe("the first generation", function()
  after_each(server.cleanup)

  local REFUSED = {
    { "on_stage that raises", "function M.on_stage() error('stage') end",
      "script@1: not starting: on_stage failed: .*script.lua:%d+: stage" },
    { "on_stage that returns false", "function M.on_stage() return false end", "script@1: not starting: on_stage returned false" },
    { "on_stage that is parked for too long", "function M.on_stage() rille.sleep(60) end",
      "script@1: not starting: on_stage did not return in time" },
    { "selftest that raises", "function M.selftest() error('self') end", "script@1: selftest failed: .*script.lua:%d+: self" },
    { "selftest that fails", "function M.selftest() return nil, 'no luck' end", "script@1: selftest failed: no luck" },
    { "selftest that is parked for too long", "function M.selftest() rille.sleep(60) end", "script@1: selftest did not return in time" },
  }
  for _, case in ipairs(REFUSED) do
    it("does not start after " .. case[1], function()
      local s = server.spawn(lines("v1", case[2]), { allow_errors = true,
        conf = { loops = 2, reload = { stage_timeout = 0.5 * net.slow } } })
      assert.equal(1, s:wait_exit(20))
      assert.matches(case[3], s:log())
      assert.not_matches("listening on", s:log())
      s:forget()
    end)
  end

  it("runs on_stage in each state before on_start, and selftest once, beside what serves", function()
    local text = [[
      local staged, tried, answer = 0, 0, nil
      function M.on_stage()
        rille.sleep(0.01)
        staged = staged + 1
        rille.log.info("said staged")
      end
      function M.selftest()
        tried = tried + 1
        local a, b = rille.pair()
        a:send("test\n")
        M.on_request(b)
        b:flush()
        answer = a:read_line():str()
        assert(answer == "v1 nil", answer)
        rille.log.info("said tested")
      end
      function M.on_start() rille.log.info("said start %d", staged) end
      function commands.get() return staged .. " " .. tried .. " " .. tostring(answer) end
    ]]
    local s = reload.start(commands("v1", text), { conf = { loops = 2 } })
    local said = s:said()
    assert.equal(6, #said)
    assert.same({ "staged", "tested" }, { said[1], said[2] })
    table.sort(said)
    assert.same({ "staged", "staged", "staged", "start 1", "start 1", "tested" }, said)
    assert.equal("v1 1 0 nil", ask(s:connect(), "get"))
    s:stop()
  end)

  it("runs on_stage again in a state that takes the place of one that failed", function()
    local text = [[
      local staged, t = 0, {}
      function M.on_stage() staged = staged + 1 end
      function commands.get() return staged end
      function commands.eat() while true do t[#t + 1] = ("x"):rep(1000) .. #t end end
    ]]
    local s = reload.start(commands("v1", text), { allow_errors = true, allow_failures = true, limits = { memory = 8 * 2 ^ 20 } })
    assert.equal("v1 1", ask(s:connect(), "get"))
    local c = s:connect()
    c:send("eat\n")
    c:receive_all()
    s:wait_log("a new Lua state serves")
    assert.equal("v1 1", ask(s:connect(), "get"))
    s:stop()
  end)
end)
