-- rille.channel: each case runs in a loop of its own, in a process of its own.

local inside = require "spec.support.inside"

describe("a channel without room", function()
  after_each(inside.cleanup)

  it("hands a value from a sender to a receiver, whoever comes first", function()
    inside.check [[
      local c = rille.channel()
      local t = rille.spawn(function() return c:send("a") end)
      turns(2)
      equal(t:is_done(), false) equal(c:len(), 0)
      equal(c:receive(), "a")
      equal(t:join(), true)

      t = rille.spawn(function() return c:receive() end)
      turns(2)
      equal(t:is_done(), false)
      equal(c:send("b"), true)
      equal(t:join(), "b")
    ]]
  end)

  it("serves senders and receivers in the order they came", function()
    local r = inside.check [[
      local c = rille.channel(0)
      for i = 1, 4 do rille.spawn(c.send, c, i) end
      turns(2)
      local got = {}
      for i = 1, 4 do got[i] = c:receive() end
      local tasks = {}
      for i = 1, 4 do tasks[i] = rille.spawn(function() local v = c:receive() got[#got + 1] = i .. v end) end
      turns(2)
      for _, v in ipairs { "a", "b", "c", "d" } do c:send(v) end
      for i = 1, 4 do tasks[i]:join() end
      print(table.concat(got, " "))
    ]]
    assert.equal("1 2 3 4 1a 2b 3c 4d\n", r.out)
  end)
end)

describe("a channel with room", function()
  after_each(inside.cleanup)

  it("takes so many values without parking", function()
    local r = inside.check [[
      local c = rille.channel(2)
      equal(c:send(1), true) equal(c:send(2), true)
      equal(c:len(), 2)
      local t = rille.spawn(function() return c:send(3) end)
      turns(2)
      equal(t:is_done(), false)
      local first = c:receive()
      equal(c:len(), 2)
      equal(t:join(), true)
      print(first, c:receive(), c:receive(), c:len())
    ]]
    assert.equal("1\t2\t3\t0\n", r.out)
  end)

  it("keeps the order through a long queue of senders", function()
    inside.check [[
      local c = rille.channel(3)
      for i = 1, 100 do rille.spawn(c.send, c, i) end
      turns(2)
      for i = 1, 100 do equal(c:receive(), i) end
    ]]
  end)

  it("carries false, but not nil", function()
    inside.check [[
      local c = rille.channel(1)
      c:send(false)
      equal(c:receive(), false)
      rille.spawn(function() c:send(false) c:send(false) end)
      equal(c:receive(), false) equal(c:receive(), false)
      local err = raises("cannot send nil", function()
        c:send(nil)
      end)
      equal(err:match(":(%d+):"), "8")
      equal(c:len(), 0)
    ]]
  end)

  it("does not grow with what went through", function()
    inside.check [[
      local c = rille.channel(8)
      local function round(n)
        local t = rille.spawn(function() for i = 1, n do c:send(i) end end)
        for i = 1, n do equal(c:receive(), i) end
        t:join()
        collectgarbage() collectgarbage()
        return collectgarbage "count"
      end
      round(1000)
      local before = round(1000)
      local grown = round(50000) - before
      if grown > 100 then error("grew by " .. grown .. " KiB") end
    ]]
  end)
end)

describe("a channel's time-out", function()
  after_each(inside.cleanup)

  it("ends a send or a receive with nil, \"timeout\", and takes the value back", function()
    inside.check [[
      for room = 0, 1 do
        local c = rille.channel(room)
        if room == 1 then c:send("in") end
        local from = clock()
        local ok, err = c:send("late", 0.01)
        if clock() - from < 0.01 then error "early" end
        equal(ok, nil) equal(err, "timeout")
        equal(select(2, c:send("late", 0)), "timeout")
        if room == 1 then equal(c:receive(0), "in") end
        local value
        value, err = c:receive(0.01)
        equal(value, nil) equal(err, "timeout")
        equal(select(2, c:receive(0)), "timeout")
      end
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("loses and doubles nothing when it meets a send", function()
    inside.check [[
      local c = rille.channel(0)
      local sent, got, tasks = 0, 0, {}
      for i = 1, 100 do
        tasks[#tasks + 1] = rille.spawn(function() if c:send(i, i % 4 / 1000) then sent = sent + 1 end end)
        tasks[#tasks + 1] = rille.spawn(function()
          rille.sleep(i % 3 / 1000)
          if c:receive(i % 2 / 1000) then got = got + 1 end
        end)
      end
      turns(2)
      for i = 1, #tasks, 7 do tasks[i]:cancel() end
      for _, t in ipairs(tasks) do t:join() end
      equal(got <= sent, true)
      equal(sent - got <= 30, true) -- only a cancelled receiver may have got one and not counted it
      equal(select(2, c:receive(0)), "timeout")
      equal(select(2, c:send(1, 0)), "timeout")
    ]]
  end)
end)

describe("close", function()
  after_each(inside.cleanup)

  it("leaves what is inside to receive, then gives \"closed\"", function()
    inside.check [[
      local c = rille.channel(3)
      c:send(1) c:send(2)
      c:close() c:close()
      local ok, err = c:send(3)
      equal(ok, nil) equal(err, "closed")
      equal(c:receive(), 1) equal(c:receive(1), 2)
      local v
      v, err = c:receive()
      equal(v, nil) equal(err, "closed")
      equal(select(2, c:receive(0)), "closed")
      equal(c:len(), 0)
    ]]
  end)

  it("wakes every sender and receiver that waits", function()
    inside.check [[
      local c, d = rille.channel(0), rille.channel(1)
      d:send("in")
      local tasks = {}
      for i = 1, 3 do
        tasks[#tasks + 1] = rille.spawn(c.receive, c)
        tasks[#tasks + 1] = rille.spawn(c.receive, c, 60)
        tasks[#tasks + 1] = rille.spawn(d.send, d, i)
        tasks[#tasks + 1] = rille.spawn(d.send, d, i, 60)
      end
      turns(2)
      c:close() d:close()
      for _, t in ipairs(tasks) do
        local ok, err = t:join()
        equal(ok, nil) equal(err, "closed")
      end
      equal(d:receive(), "in")
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("ends a loop over the values", function()
    local r = inside.check [[
      local c = rille.channel(2)
      rille.spawn(function() for i = 1, 5 do c:send(i) end c:close() end)
      for v in function() return c:receive() end do io.write(v, " ") end
    ]]
    assert.equal("1 2 3 4 5 ", r.out)
  end)

  it("may be called from where nothing can park", function()
    inside.check [[
      local c = rille.channel()
      local t = rille.spawn(function() return c:receive() end)
      turns(2)
      ;("x"):gsub("x", function() c:close() end)
      equal(select(2, t:join()), "closed")
    ]]
  end)
end)

describe("rille.channel", function()
  after_each(inside.cleanup)

  it("raises for what is no room, at the caller's line", function()
    inside.check [[
      for _, n in ipairs { -1, 0.5, "x", {} } do
        local err = raises("bad argument #1 to 'channel' (a whole number, 0 or more, expected, got", function()
          rille.channel(n)
        end)
        equal(err:match(":(%d+):"), "4")
      end
    ]]
  end)
end)
