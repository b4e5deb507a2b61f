-- rille.semaphore: each case runs in a loop of its own, in a process of its own.

local inside = require "spec.support.inside"

describe("a semaphore", function()
  after_each(inside.cleanup)

  it("gives its permits without parking, then parks", function()
    inside.check [[
      local s = rille.semaphore(2)
      equal(s:acquire(), true) equal(s:acquire(), true)
      local t = rille.spawn(function() return s:acquire() end)
      turns(3)
      equal(t:is_done(), false)
      local free, waiting = s:count()
      equal(free, 0) equal(waiting, 1)
      s:release()
      equal(t:join(), true)
      free, waiting = s:count()
      equal(free, 0) equal(waiting, 0)
    ]]
  end)

  it("serves those who wait in the order they came", function()
    local r = inside.check [[
      local s = rille.semaphore(0)
      local order, tasks = {}, {}
      for i = 1, 5 do
        tasks[i] = rille.spawn(function() s:acquire() order[#order + 1] = i end)
      end
      turns(2)
      for i = 1, 5 do s:release() end
      for i = 1, 5 do tasks[i]:join() end
      print(table.concat(order, " "))
    ]]
    assert.equal("1 2 3 4 5\n", r.out)
  end)

  it("lets nobody overtake one who waits", function()
    inside.check [[
      local s = rille.semaphore(0)
      local t = rille.spawn(function() s:acquire() return "first" end)
      turns(2)
      s:release()
      equal(select(2, s:acquire(0)), "timeout") -- that permit is taken
      equal(t:join(), "first")
    ]]
  end)

  it("releases many at once, to as many as wait", function()
    inside.check [[
      local s = rille.semaphore(0)
      local got, tasks = 0, {}
      for i = 1, 3 do tasks[i] = rille.spawn(function() s:acquire() got = got + 1 end) end
      turns(2)
      s:release(2)
      turns(2)
      equal(got, 2)
      s:release(4)
      tasks[3]:join()
      local free, waiting = s:count()
      equal(free, 3) equal(waiting, 0)
    ]]
  end)

  it("gives up after the time, and later permits go to others", function()
    inside.check [[
      local s = rille.semaphore(0)
      local from = clock()
      local ok, err = s:acquire(0.01)
      if clock() - from < 0.01 then error "early" end
      equal(ok, nil) equal(err, "timeout")
      equal(select(2, s:acquire(0)), "timeout")
      local free, waiting = s:count()
      equal(free, 0) equal(waiting, 0)
      local t = rille.spawn(function() return s:acquire(5) end)
      turns(2)
      s:release()
      equal(t:join(), true)
      equal(s:acquire(0), nil)
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("loses no permit when a time-out, a cancel and a release meet", function()
    inside.check [[
      local s = rille.semaphore(0)
      local held, tasks = 0, {}
      for i = 1, 200 do
        tasks[i] = rille.spawn(function()
          if s:acquire(i % 5 / 1000) then held = held + 1 end
        end)
      end
      turns(2)
      for i = 1, 200, 3 do tasks[i]:cancel() end
      local released = 0
      for _ = 1, 10 do
        rille.sleep(0.0005)
        s:release(7)
        released = released + 7
      end
      for i = 1, 200 do tasks[i]:join() end
      local free, waiting = s:count()
      equal(waiting, 0)
      equal(free + held, released)
    ]]
  end)

  it("may be released from where nothing can park", function()
    inside.check [[
      local s = rille.semaphore(0)
      local t = rille.spawn(function() return s:acquire() end)
      turns(2)
      table.sort({ 1, 2 }, function(a, b) s:release() return a < b end)
      equal(t:join(), true)
    ]]
  end)

  it("raises for what is no number of permits, at the caller's line", function()
    inside.check [[
      for _, n in ipairs { -1, 0.5, "x", {} } do
        local err = raises("bad argument #1 to 'semaphore' (a whole number, 0 or more, expected, got", function()
          rille.semaphore(n)
        end)
        equal(err:match(":(%d+):"), "4")
      end
      local s = rille.semaphore(0)
      for _, n in ipairs { 0, -1, 1.5, "x" } do
        raises("bad argument #1 to 'release'", function() s:release(n) end)
      end
      raises("seconds", function() s:acquire(-1) end)
      raises("seconds", function() s:acquire("x") end)
      local _, waiting = s:count()
      equal(waiting, 0)
    ]]
  end)
end)
