-- What a script is asked before it serves, rille.reload.probe: each case runs in a loop of its own, in a process of its own.

local inside = require "spec.support.inside"

local PROBE = "local probe = require 'rille.reload.probe' "

local function check(code, options)
  return inside.check(PROBE .. code, options)
end

describe("the probe of a script", function()
  after_each(inside.cleanup)

  it("runs on_stage, then selftest, in the task that calls it, where they may park", function()
    local r = check [[
      local said = {}
      equal(probe.run {
        on_stage = function(...) equal(select("#", ...), 0) rille.sleep(0.01) said[#said + 1] = "stage" end,
        selftest = function(...)
          equal(select("#", ...), 0)
          local a, b = rille.pair()
          a:write("hello\n")
          said[#said + 1] = b:read_line():str()
          a:close() b:close()
        end,
        on_start = function() error("not this one") end,
      }, true)
      print(table.concat(said, " "))
    ]]
    assert.equal("stage hello\n", r.out)
  end)

  it("is passed by a script that has neither, and by whatever is not a refusal", function()
    check [[
      equal(probe.run {}, true)
      for _, value in ipairs { true, 0, "text", {} } do
        equal(probe.run({ on_stage = function() return value end, selftest = function() return value, "more" end }, 5), true)
      end
      equal(probe.run { selftest = function() return nil end }, true)
      equal(probe.run { selftest = function() end }, true)
    ]]
  end)

  it("is not passed with false, or nil and a message", function()
    check [[
      local function why(hooks)
        local ok, message = probe.run(hooks, 5)
        equal(ok, nil)
        return message
      end
      equal(why { selftest = function() return false end }, "selftest returned false")
      equal(why { selftest = function() return false, "closed" end }, "selftest failed: closed")
      equal(why { selftest = function() return nil, "timeout" end }, "selftest failed: timeout")
      local called
      equal(why { on_stage = function() return false end, selftest = function() called = true end }, "on_stage returned false")
      equal(called, nil)
      local bad = setmetatable({}, { __tostring = function() error("no text") end })
      equal(why { on_stage = function() return nil, bad end }, "on_stage failed: (error value: table that cannot be shown)")
    ]]
  end)

  it("is not passed with an error, whose traceback ends at the hook", function()
    local r = check [[
      local function deep() local x x.y = 1 end
      print(select(2, probe.run { selftest = function() rille.sleep(0) deep() return 1 end }))
      print(select(2, probe.run({ on_stage = function() error(rille.timeout) end }, 5)))
    ]]
    assert.matches("^selftest failed: [^\n]*piece%d+.lua:2: attempt to index local 'x' %(a nil value%)\nstack traceback:\n"
      .. "[^\n]*lua:2: in function 'deep'\n[^\n]*lua:3: in function <[^\n]*lua:3>\non_stage failed: timeout\n", r.out)
    assert.not_matches("probe.lua", r.out)
    assert.not_matches("task.lua", r.out)
  end)

  it("gives both hooks so many seconds, and says where one was parked", function()
    local r = check [[
      local never = rille.semaphore(0)
      local started = clock()
      print(select(2, probe.run({
        on_stage = function() rille.sleep(0.02) end,
        selftest = function() never:acquire() end,
      }, 0.05)))
      if clock() - started > 5 * SLOW then error("late") end
      rille.sleep(0.1) -- the time is over for them alone
      equal(probe.run({ selftest = function() rille.sleep(0.01) end }, 5), true)
    ]]
    assert.matches("^selftest did not return in time: timeout\nstack traceback:\n.*piece%d+.lua:6: in function", r.out)
  end)

  it("tells an error after its time from the time itself", function()
    check [[
      local ok, message = probe.run({ selftest = function() pcall(rille.sleep, 10) error("afterwards", 0) end }, 0.02)
      equal(ok, nil)
      equal(message:match("^[^\n]*"), "selftest failed: afterwards")
    ]]
  end)

  it("lets what ends its caller pass through", function()
    check [[
      local function hang() rille.sleep(10) end
      local ok, err = rille.with_timeout(0.02, probe.run, { selftest = hang }, 5)
      equal(ok, nil) equal(err, "timeout")
      ok, err = rille.with_timeout(0.02, probe.run, { on_stage = hang })
      equal(ok, nil) equal(err, "timeout")
      local went_on
      local t = rille.spawn(function() probe.run({ selftest = hang }, 5) went_on = true end)
      turns(2)
      t:cancel()
      turns(2)
      equal(went_on, nil)
      equal(t:is_done(), true)
    ]]
  end)
end)
