-- Tasks: spawn, join, cancel, with_timeout, yield. Each case runs in a loop of its own, in a process of its own.

local inside = require "spec.support.inside"

describe("a task", function()
  after_each(inside.cleanup)

  it("gives its results to join, nils included, each time", function()
    inside.check [[
      local t = rille.spawn(function(a, b, c) return c, nil, a, b, nil end, 1, nil, 3)
      for _ = 1, 2 do
        local n = select("#", t:join())
        local c, none, a, b = t:join()
        equal(n, 5) equal(c, 3) equal(none, nil) equal(a, 1) equal(b, nil)
      end
      equal(t:is_done(), true)
      equal(select("#", rille.spawn(function() end):join()), 0)
    ]]
  end)

  it("starts when its maker parks or returns, in the order of the spawns", function()
    local r = inside.check [[
      for i = 1, 3 do rille.spawn(print, "task", i) end
      print "maker"
      rille.yield()
      print "maker again"
    ]]
    assert.equal("maker\ntask\t1\ntask\t2\ntask\t3\nmaker again\n", r.out)
  end)

  it("can be joined by many, before and after its end", function()
    inside.check [[
      local t = rille.spawn(function() rille.sleep(0.01) return "x" end)
      local joiners = {}
      for i = 1, 5 do joiners[i] = rille.spawn(function() return t:join() end) end
      for i = 1, 5 do equal(joiners[i]:join(), "x") end
      equal(t:join(), "x")
    ]]
  end)

  it("gives its error to join and logs it with a traceback, once", function()
    local r = inside.check([[
      local function deep() error("boom") end
      local t = rille.spawn(function() deep() end)
      local ok, err = t:join()
      equal(ok, nil)
      print(err)
    ]], { errors = true })
    assert.truthy(r.out:find("piece%d+%.lua:2: boom\n$"))
    local _, times = r.err:gsub("level=error", "")
    assert.equal(1, times)
    assert.truthy(r.err:find("task failed: [^\n]*:2: boom", 1))
    assert.truthy(r.err:find("in function 'deep'", 1, true))
  end)

  it("gives an error that is no string to join as it is", function()
    inside.check([[
      local what = {}
      local ok, err = rille.spawn(error, what):join()
      equal(ok, nil) equal(err, what)
      ok, err = rille.spawn(function() error() end):join()
      equal(ok, nil) equal(err, nil)
    ]], { errors = true })
  end)

  it("may fail with a value that cannot be printed, and by a stack overflow", function()
    local r = inside.check([[
      local what = setmetatable({}, { __tostring = function() error "not even this" end })
      local ok, err = rille.spawn(error, what):join()
      equal(ok, nil) equal(err, what)
      ok, err = pcall(rille.with_timeout, 1, error, what)
      equal(ok, false) equal(err, what)
      local function deeper() return 1 + deeper() end
      ok, err = rille.spawn(deeper):join()
      assert(err:find "stack overflow", err)
      rille.sleep(0)
    ]], { errors = true })
    assert.truthy(r.err:find("stack overflow", 1, true))
  end)

  it("that fails does no harm to the others", function()
    inside.check([[
      local bad = rille.spawn(function() rille.sleep(0.001) error "x" end)
      local good = rille.spawn(function() rille.sleep(0.01) return true end)
      bad:join()
      equal(good:join(), true)
    ]], { errors = true })
  end)

  it("cannot join itself", function()
    inside.check [[
      local t
      t = rille.spawn(function() return select(2, pcall(t.join, t)) end)
      equal((t:join()):match("a task cannot join itself"), "a task cannot join itself")
    ]]
  end)

  it("is refused with a reason at the caller's line", function()
    inside.check [[
      local err = raises("bad argument #1 to 'spawn' (function expected, got nil)", function()
        rille.spawn(nil)
      end)
      equal(err:match(":(%d+):"), "3")
    ]]
    local r = inside.run([[
      local ok, err = pcall(function() rille.spawn(print) end) print(ok, err)
      for _, name in ipairs { "sleep", "yield", "with_timeout", "after", "every", "wait" } do
        ok, err = pcall(function() rille[name](1, print) end) print(ok, err)
      end
      ok, err = pcall(function() rille.semaphore(0):acquire() end) print(ok, err)
      ok, err = pcall(function() rille.semaphore(0):acquire(1) end) print(ok, err)
      ok, err = pcall(function() rille.channel():receive(1) end) print(ok, err)
      ok, err = pcall(function() rille.channel():send(1) end) print(ok, err)
    ]], { how = "plain" })
    assert.equal(0, r.status)
    local lines = 0
    for line in r.out:gmatch("[^\n]+") do
      lines = lines + 1
      assert.truthy(line:find("^false\t[^\n]*piece%d+%.lua:%d+: "), line)
      assert.truthy(line:find("rille", 1, true), line)
    end
    assert.equal(11, lines)
  end)

  it("leaves nothing: 100,000 of them, joined", function()
    inside.check [[
      local function work(i) return i end
      local function round(n)
        for i = 1, n do equal(rille.spawn(work, i):join(), i) end
        collectgarbage() collectgarbage()
        return collectgarbage "count"
      end
      round(2000)
      local before = round(2000)
      local grown = round(100000) - before
      if grown > 100 then error("grew by " .. grown .. " KiB") end
    ]]
  end)

  it("leaves nothing: 1,000 at a time", function()
    inside.check [[
      local function round(n)
        for _ = 1, n do
          local list = {}
          for i = 1, 1000 do list[i] = rille.spawn(function() rille.sleep(0) return i end) end
          for i = 1, 1000 do equal(list[i]:join(), i) end
        end
        collectgarbage() collectgarbage()
        return collectgarbage "count"
      end
      round(2)
      local before = round(2)
      local grown = round(10) - before
      if grown > 200 then error("grew by " .. grown .. " KiB") end
      equal(rille.loop.stats().watches, 0)
    ]]
  end)
end)

describe("rille.yield", function()
  after_each(inside.cleanup)

  it("gives every other task one turn", function()
    local r = inside.check [[
      local out = {}
      local function work(name)
        for i = 1, 3 do
          out[#out + 1] = name .. i
          rille.yield()
        end
      end
      local a, b = rille.spawn(work, "a"), rille.spawn(work, "b")
      a:join() b:join()
      print(table.concat(out, " "))
    ]]
    assert.equal("a1 b1 a2 b2 a3 b3\n", r.out)
  end)

  it("lets timers and connections have their turn", function()
    inside.check [[
      local fired
      rille.after(0.005, function() fired = true end)
      local a, b = rille.pair()
      local t = rille.spawn(function() return a:read():str() end)
      rille.yield()
      b:write("x")
      local limit = clock() + 5 * SLOW
      while not (fired and t:is_done()) do
        rille.yield()
        if clock() > limit then error "they never had it" end
      end
      equal(t:join(), "x")
      a:close() b:close()
    ]]
  end)
end)

-- Each parks for ever; what they leave behind is looked at after the cancel.
local PARKING = {
  sleep = { "rille.sleep(60)" },
  join = { "other:join()", before = "local other = rille.spawn(function() return done:receive() end)",
    after = "done:send('x') equal(other:join(), 'x')" },
  ["semaphore:acquire()"] = { "s:acquire()", before = "local s = rille.semaphore(0)",
    after = "s:release() local free, waiting = s:count() equal(free, 1) equal(waiting, 0)" },
  ["semaphore:acquire(t)"] = { "s:acquire(60)", before = "local s = rille.semaphore(0)",
    after = "s:release() local free, waiting = s:count() equal(free, 1) equal(waiting, 0)" },
  ["channel:send(v)"] = { "c:send(1)", before = "local c = rille.channel()",
    after = "equal(select(2, c:receive(0)), 'timeout')" },
  ["channel:send(v, t)"] = { "c:send(2, 60)", before = "local c = rille.channel(1) c:send(1)",
    after = "equal(c:receive(0), 1) equal(select(2, c:receive(0)), 'timeout')" },
  ["channel:receive()"] = { "c:receive()", before = "local c = rille.channel()",
    after = "equal(select(2, c:send(1, 0)), 'timeout')" },
  ["channel:receive(t)"] = { "c:receive(60)", before = "local c = rille.channel()",
    after = "equal(select(2, c:send(1, 0)), 'timeout')" },
  ["conn:read()"] = { "a:read()", before = "local a, b = rille.pair()",
    after = "b:send('x') equal(a:read():str(), 'x') a:close() b:close()" },
  ["conn:next(n)"] = { "a:next(3)", before = "local a, b = rille.pair() b:send('12')",
    after = "b:send('3') equal(a:next(3):str(), '123') a:close() b:close()" },
  ["conn:peek(n)"] = { "a:peek(3)", before = "local a, b = rille.pair() b:send('12')",
    after = "b:send('3') equal(a:peek(3):str(), '123') a:close() b:close()" },
  ["conn:read_line()"] = { "a:read_line()", before = "local a, b = rille.pair() b:send('12')",
    after = "b:send('3\\n') equal(a:read_line():str(), '123') a:close() b:close()" },
  ["conn:write(x)"] = { "a:write(('x'):rep(4e6))", before = "local a, b = rille.pair() a.high_water = 1000",
    after = "for i = 1, 4000 do equal(b:next(1000):len(), 1000) b:release() end a:close() b:close()" },
  ["conn:flush()"] = { "a:write(('x'):rep(4e6)) a:flush()", before = "local a, b = rille.pair() a.high_water = 1e7",
    after = "for i = 1, 4000 do equal(b:next(1000):len(), 1000) b:release() end a:close() b:close()" },
  ["wait"] = { "rille.wait(a, 'r')", before = "local a, b = sockets()", after = "close(a) close(b)" },
  ["wait with a time-out"] = { "rille.wait(a, 'r', 60)", before = "local a, b = sockets()", after = "close(a) close(b)" },
  with_timeout = { "rille.with_timeout(60, rille.sleep, 60)" },
  ["with_timeout in with_timeout"] = { "rille.with_timeout(60, rille.with_timeout, 60, rille.sleep, 60)" },
  ["a coroutine of the script"] = { "coroutine.wrap(function() rille.sleep(60) end)()" },
}

local SOCKETS = [[
  local ffi = require "ffi"
  ffi.cdef "int piece_pair(int, int, int, int *) __asm__(\"socketpair\"); int piece_close(int) __asm__(\"close\");"
  local close = ffi.C.piece_close
  local function sockets()
    local fds = ffi.new("int[2]")
    ffi.C.piece_pair(1, 1, 0, fds)
    return fds[0], fds[1]
  end
]]

local function case(name)
  local one = PARKING[name]
  return SOCKETS .. "local done = rille.channel() " .. (one.before or "") .. "\n", one[1], "\n" .. (one.after or "") .. "\n"
end

local names = {}
for name in pairs(PARKING) do names[#names + 1] = name end
table.sort(names)

describe("cancel", function()
  after_each(inside.cleanup)

  for _, name in ipairs(names) do
    it("ends a task that is parked in " .. name, function()
      local before, park, after = case(name)
      inside.check(before .. [[
        local t = rille.spawn(function()
          ]] .. park .. [[
          error "went on"
        end)
        turns(3)
        equal(t:is_done(), false)
        equal(t:cancel(), true)
        local ok, err = t:join()
        equal(ok, nil) equal(err, "cancelled") equal(t:is_done(), true) equal(t:cancel(), false)
      ]] .. after .. "equal(rille.loop.stats().watches, 0)")
    end)

    it("raises rille.cancelled in " .. name .. ", and in each later parking call", function()
      local before, park, after = case(name)
      inside.check(before .. [[
        local seen = {}
        local t = rille.spawn(function()
          local ok, err = pcall(function() ]] .. park .. [[ end)
          equal(ok, false) equal(err, rille.cancelled) equal(tostring(err), "cancelled")
          for i, again in ipairs { function() rille.sleep(0) end, rille.yield, function() rille.sleep(1) end,
              function() rille.semaphore(0):acquire(1) end, function() rille.channel():receive() end,
              function() ]] .. park .. [[ end } do
            ok, err = pcall(again)
            equal(ok, false) equal(err, rille.cancelled)
            seen[i] = true
          end
          return "cleaned up"
        end)
        turns(3)
        t:cancel()
        equal(t:join(), "cleaned up")
        equal(#seen, 6)
      ]] .. after .. "equal(rille.loop.stats().watches, 0)")
    end)
  end

  it("keeps a task that has not started from starting", function()
    inside.check [[
      local ran
      local t = rille.spawn(function() ran = true end)
      equal(t:cancel(), true)
      equal(t:is_done(), true)
      local ok, err = t:join()
      equal(ok, nil) equal(err, "cancelled")
      turns(3)
      equal(ran, nil)
    ]]
  end)

  it("of itself strikes at the next parking call", function()
    inside.check [[
      local t
      local steps = {}
      t = rille.spawn(function()
        t:cancel()
        steps[1] = true
        rille.sleep(0)
        steps[2] = true
      end)
      equal(select(2, t:join()), "cancelled")
      equal(#steps, 1)
    ]]
  end)

  it("does not take away what the parked call got in the same turn", function()
    inside.check [[
      local s = rille.semaphore(0)
      local t = rille.spawn(function()
        local got = s:acquire()
        local ok, err = pcall(rille.sleep, 0)
        return got, ok, err
      end)
      turns(2)
      s:release()
      t:cancel()
      local got, ok, err = t:join()
      equal(got, true) equal(ok, false) equal(err, rille.cancelled)
    ]]
  end)

  it("is not logged, but an error of the cleanup is", function()
    local r = inside.check([[
      local quiet = rille.spawn(rille.sleep, 60)
      local loud = rille.spawn(function()
        pcall(rille.sleep, 60)
        error "while cleaning up"
      end)
      turns(2)
      quiet:cancel() loud:cancel()
      quiet:join()
      equal((select(2, loud:join())):match("while cleaning up"), "while cleaning up")
    ]], { errors = true })
    local _, times = r.err:gsub("level=error", "")
    assert.equal(1, times)
  end)

  it("ends nobody else's wait: what was due in the same turn is forgotten", function()
    inside.check [[
      local victim, slept
      local canceller = rille.spawn(function()
        rille.sleep(0.02)
        victim:cancel()
        local from = clock()
        rille.sleep(0.1)
        slept = clock() - from
      end)
      victim = rille.spawn(function() rille.sleep(0.02) end)
      rille.spawn(function()
        rille.sleep(0.005)
        local till = clock() + 0.03
        while clock() < till do end
      end)
      canceller:join()
      if slept < 0.09 then error("slept only " .. slept) end
    ]]
  end)

  it("of a task that waited with a time-out stops nobody else's timer", function()
    inside.check [[
      local s = rille.semaphore(0)
      local taker = rille.spawn(function() return s:acquire(0.02) end)
      local sleeper
      rille.spawn(function()
        rille.sleep(0.019)
        local till = clock() + 0.02
        while clock() < till do end
        s:release()
      end)
      rille.spawn(function()
        rille.sleep(0.02)
        sleeper = rille.spawn(function() rille.sleep(0.01) return "awake" end)
      end)
      taker:join()
      local limit = clock() + 5 * SLOW
      while not (sleeper and sleeper:is_done()) do
        rille.sleep(0.002)
        if clock() > limit then error "it sleeps for ever" end
      end
    ]]
  end)
end)

describe("with_timeout", function()
  after_each(inside.cleanup)

  it("gives the results of a function that ends in time", function()
    inside.check [[
      local n = select("#", rille.with_timeout(5, function(...) return ... end, nil, 2, nil))
      equal(n, 3)
      equal(rille.with_timeout(5, function(a) rille.sleep(0.001) return a end, "x"), "x")
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  for _, name in ipairs(names) do
    it("gives nil, \"timeout\" when the time ends in " .. name, function()
      local before, park, after = case(name)
      inside.check(before .. [[
        local from = clock()
        local n = select("#", rille.with_timeout(0.01, function() ]] .. park .. [[ error "went on" end))
        equal(n, 2)
        if clock() - from < 0.01 then error "early" end
        rille.sleep(0)
      ]] .. after .. "equal(rille.loop.stats().watches, 0)")
    end)
  end

  it("raises rille.timeout inside, again in each later parking call, and no longer outside", function()
    inside.check [[
      local a, b = rille.with_timeout(0.005, function()
        for _ = 1, 3 do
          local ok, err = pcall(rille.sleep, 1)
          equal(ok, false) equal(err, rille.timeout) equal(tostring(err), "timeout")
        end
        return "late", "but here"
      end)
      equal(a, "late") equal(b, "but here")
      rille.sleep(0.001)
    ]]
  end)

  it("cannot stop what does not park", function()
    inside.check [[
      equal(rille.with_timeout(0.001, function()
        local till = clock() + 0.01
        while clock() < till do end
        return "done"
      end), "done")
      rille.sleep(0.002)
    ]]
  end)

  it("nested: the inner one expires", function()
    inside.check [[
      local inner, err
      equal(rille.with_timeout(5, function()
        inner, err = rille.with_timeout(0.005, rille.sleep, 1)
        rille.sleep(0.001)
        return "outer"
      end), "outer")
      equal(inner, nil) equal(err, "timeout")
    ]]
  end)

  it("nested: the outer one expires inside the inner", function()
    inside.check [[
      local went_on
      local outer, err = rille.with_timeout(0.005, function()
        rille.with_timeout(5, rille.sleep, 1)
        went_on = true
      end)
      equal(outer, nil) equal(err, "timeout") equal(went_on, nil)
      outer, err = rille.with_timeout(0.005, function()
        pcall(rille.with_timeout, 5, rille.sleep, 1)
        rille.with_timeout(5, function() rille.sleep(1) end) -- raises again
        went_on = true
      end)
      equal(outer, nil) equal(err, "timeout") equal(went_on, nil)
      rille.sleep(0)
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("nested: both expire in one turn", function()
    inside.check [[
      local outer, err = rille.with_timeout(0.005, function()
        local inner, why = rille.with_timeout(0.005, function()
          local till = clock() + 0.02
          while clock() < till do end
          rille.sleep(1)
        end)
        equal(inner, nil) equal(why, "timeout")
        rille.sleep(1)
      end)
      equal(outer, nil) equal(err, "timeout")
      rille.sleep(0)
    ]]
  end)

  it("hands an error on with its value", function()
    inside.check [[
      local what = {}
      local ok, err = pcall(rille.with_timeout, 5, function() rille.sleep(0) error(what) end)
      equal(ok, false) equal(err, what)
      ok, err = pcall(rille.with_timeout, 5, rille.with_timeout, 5, error, "plain", 0)
      equal(err, "plain")
      rille.sleep(0)
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("keeps the traceback of where an error was raised", function()
    local r = inside.check([[
      local function where_it_happens() rille.sleep(0) error "deep inside" end
      rille.spawn(function()
        rille.with_timeout(5, function() rille.with_timeout(5, function() where_it_happens() end) end)
      end):join()
    ]], { errors = true })
    assert.truthy(r.err:find("task failed: [^\n]*:2: deep inside"))
    assert.truthy(r.err:find("where_it_happens", 1, true), r.err)
  end)

  it("is no shelter from cancel", function()
    inside.check [[
      local t = rille.spawn(function()
        local a, b = rille.with_timeout(5, function() pcall(rille.sleep, 5) return "kept" end)
        equal(a, "kept")
        rille.sleep(0)
        error "went on"
      end)
      turns(2)
      t:cancel()
      equal(select(2, t:join()), "cancelled")
    ]]
  end)

  it("raises for a time that is none, at the caller's line", function()
    inside.check [[
      for _, s in ipairs { -1, 0/0, "x", false } do
        local err = raises("seconds", function()
          rille.with_timeout(s, print)
        end)
        equal(err:match(":(%d+):"), "4")
      end
      raises("seconds", function() rille.with_timeout(nil, print) end)
      raises("bad argument #2 to 'with_timeout' (function expected, got nil)", function() rille.with_timeout(1) end)
      equal(select(2, rille.with_timeout(0, rille.sleep, 1)), "timeout")
    ]]
  end)
end)
