-- Parking from coroutines that a script made itself, and where it cannot work. Each case runs in a process of its own.

local inside = require "spec.support.inside"

describe("a coroutine of the script", function()
  after_each(inside.cleanup)

  it("may park: as an iterator", function()
    local r = inside.check [[
      local a, b = rille.pair()
      local function lines(conn)
        return coroutine.wrap(function()
          while true do
            local line = conn:read_line()
            if not line then return end
            coroutine.yield(line:str())
          end
        end)
      end
      rille.spawn(function()
        for _, text in ipairs { "one\n", "two\nth", "ree\n" } do b:send(text) rille.sleep(0.001) end
        b:close()
      end)
      for line in lines(a) do io.write(line, ";") end
      a:close()
    ]]
    assert.equal("one;two;three;", r.out)
  end)

  it("may park between values that go both ways", function()
    inside.check [[
      local co = coroutine.create(function(a, b)
        rille.sleep(0.001)
        local c = coroutine.yield(a + b, "x")
        rille.yield()
        local d, e = coroutine.yield(c * 2)
        rille.sleep(0)
        return d, nil, e
      end)
      local ok, v, w = coroutine.resume(co, 1, 2)
      equal(ok, true) equal(v, 3) equal(w, "x")
      ok, v = coroutine.resume(co, 21)
      equal(ok, true) equal(v, 42)
      local n = select("#", coroutine.resume(co, "d", "e"))
      equal(n, 4)
      equal(coroutine.status(co), "dead")
      ok, v = coroutine.resume(co)
      equal(ok, false) equal(v, "cannot resume dead coroutine")
    ]]
  end)

  it("gets the results of what it parked in", function()
    inside.check [[
      local c = rille.channel()
      rille.after(0.001, function() c:send("value") end)
      equal(coroutine.wrap(function() return c:receive() end)(), "value")
      local a, b = coroutine.wrap(function() return rille.with_timeout(0.001, rille.sleep, 1) end)()
      equal(a, nil) equal(b, "timeout")
    ]]
  end)

  it("lets other tasks run while it is parked", function()
    local r = inside.check [[
      local out = {}
      local function work(name)
        return coroutine.wrap(function()
          for i = 1, 3 do out[#out + 1] = name .. i rille.yield() end
        end)
      end
      local a, b = rille.spawn(work "a"), rille.spawn(work "b")
      a:join() b:join()
      print(table.concat(out, " "))
    ]]
    assert.equal("a1 b1 a2 b2 a3 b3\n", r.out)
  end)

  it("is nobody else's to resume while it is parked", function()
    inside.check [[
      local co = coroutine.create(function() rille.sleep(0.01) return "done" end)
      local t = rille.spawn(function() return coroutine.resume(co) end)
      turns(2)
      equal(coroutine.status(co), "normal")
      local ok, err = coroutine.resume(co)
      equal(ok, false) equal(err, "cannot resume a coroutine that is parked")
      local value
      ok, value = t:join()
      equal(ok, true) equal(value, "done")
      equal(coroutine.status(co), "dead")
    ]]
  end)

  it("may go from task to task while it is not parked", function()
    inside.check [[
      local numbers = coroutine.wrap(function()
        for i = 1, 6 do rille.sleep(0) coroutine.yield(i) end
      end)
      for i = 1, 6 do equal(rille.spawn(numbers):join(), i) end
    ]]
  end)

  it("tells its status and itself as ever", function()
    inside.check [[
      local outer = coroutine.running()
      local co
      co = coroutine.create(function()
        equal(coroutine.running(), co)
        equal(coroutine.status(co), "running")
        equal(coroutine.status(outer), "normal")
        rille.sleep(0)
        equal(coroutine.running(), co)
        equal(coroutine.status(co), "running")
        coroutine.yield()
      end)
      equal(coroutine.status(co), "suspended")
      assert(coroutine.resume(co))
      equal(coroutine.status(co), "suspended")
      assert(coroutine.resume(co))
      equal(coroutine.status(co), "dead")
      equal(coroutine.running(), outer)
    ]]
  end)

  it("may be nested deeply", function()
    inside.check [[
      local function nest(depth)
        if depth == 0 then rille.sleep(0.001) return "bottom" end
        return coroutine.wrap(function() return nest(depth - 1) end)()
      end
      equal(nest(100), "bottom")
      equal(nest(100), "bottom")
    ]]
  end)

  it("hands errors out, with their place and value", function()
    inside.check [[
      local co = coroutine.create(function() rille.sleep(0) error "inside" end)
      local ok, err = coroutine.resume(co)
      equal(ok, false) equal(err:match(":(%d+): inside"), "2")
      local what = {}
      ok, err = pcall(coroutine.wrap(function() rille.sleep(0) error(what) end))
      equal(ok, false) equal(err, what)
      raises("inside", coroutine.wrap(function() rille.sleep(0) error "inside" end))
      raises("cannot resume dead coroutine", function()
        local f = coroutine.wrap(function() end)
        f() f()
      end)
      rille.sleep(0)
    ]]
  end)

  it("is cancelled with its task, and cleans up", function()
    inside.check [[
      local cleaned = {}
      local t = rille.spawn(function()
        coroutine.wrap(function()
          coroutine.wrap(function()
            local ok, err = pcall(rille.sleep, 60)
            cleaned[1] = err
            error(err, 0)
          end)()
        end)()
      end)
      turns(2)
      t:cancel()
      equal(select(2, t:join()), "cancelled")
      equal(cleaned[1], rille.cancelled)
    ]]
  end)

  it("that yields from inside with_timeout takes its time-out with it", function()
    inside.check [[
      local function numbers(s)
        return coroutine.wrap(function()
          local results = { rille.with_timeout(s, function()
            coroutine.yield(1)
            rille.sleep(5)
          end) }
          coroutine.yield(results[2])
          rille.sleep(0)
          return "end"
        end)
      end
      local f = numbers(0.005)
      equal(f(), 1)
      rille.sleep(0.02) -- nobody's business
      equal(rille.with_timeout(5, f), "timeout")
      equal(f(), "end")
      -- resumed by another task
      f = numbers(0.005)
      equal(f(), 1)
      local t = rille.spawn(function() return f(), f() end)
      rille.sleep(0.01)
      local a, b = t:join()
      equal(a, "timeout") equal(b, "end")
      -- a time-out around the resume
      f = numbers(5)
      equal(f(), 1)
      equal(select(2, rille.with_timeout(0.005, f)), "timeout")
      -- nested in each other
      f = numbers(0.005)
      local g = coroutine.wrap(function()
        return rille.with_timeout(5, function() coroutine.yield(f()) coroutine.yield "between" return f(), f() end)
      end)
      equal(g(), 1)
      equal(g(), "between")
      rille.sleep(0.01)
      a, b = g()
      equal(a, "timeout") equal(b, "end")
      -- left behind
      for _ = 1, 10 do equal(numbers(0.001)(), 1) end
      rille.sleep(0.01)
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("may be left behind, suspended", function()
    inside.check [[
      for i = 1, 1000 do
        local co = coroutine.wrap(function() rille.yield() coroutine.yield(i) end)
        equal(co(), i)
      end
    ]]
  end)

  it("passes wrong arguments on to Lua's own errors", function()
    inside.check [[
      raises("bad argument #1", function() coroutine.resume(nil) end)
      raises("bad argument #1", function() coroutine.wrap(nil) end)
      raises("bad argument #1", function() coroutine.status(1) end)
    ]]
  end)
end)

describe("parking crosses", function()
  after_each(inside.cleanup)

  it("pcall, xpcall, metamethods, iterators and loaded chunks", function()
    inside.check [[
      local t = setmetatable({}, {
        __index = function(_, k) rille.sleep(0) return k end,
        __call = function(_, v) rille.sleep(0) return v end,
        __add = function() rille.sleep(0) return "sum" end,
        __eq = function() rille.sleep(0) return true end,
        __lt = function() rille.sleep(0) return true end,
        __concat = function() rille.sleep(0) return "both" end,
      })
      equal(t.x, "x") equal(t(1), 1) equal(t + 1, "sum") equal(t .. "x", "both") equal(t < t, true)
      equal(select(2, pcall(function() rille.sleep(0) return "p" end)), "p")
      equal(select(2, xpcall(function() rille.sleep(0) return "x" end, debug.traceback)), "x")
      for v in function(_, last) rille.sleep(0) if not last then return 1 end end do equal(v, 1) end
      equal(load("rille = ... rille.sleep(0) return 'loaded'")(rille), "loaded")
    ]]
  end)
end)

describe("across a C function", function()
  after_each(inside.cleanup)

  local CASES = {
    ["a comparison of table.sort"] = "table.sort({ 3, 2, 1 }, function(a, b)\n rille.sleep(0)\n return a < b end)",
    ["a callback of string.gsub"] = "('x'):gsub('x', function()\n rille.yield()\n end)",
    ["a reader of load"] = "assert(load(function()\n rille.sleep(0)\n end))",
    ["a nested coroutine in table.sort"] =
      "table.sort({ 2, 1 }, coroutine.wrap(function()\n rille.channel():receive(1)\n return true end))",
  }
  for name, code in pairs(CASES) do
    it("such as " .. name .. " it raises, at the caller's line, and says what to do", function()
      inside.check("local ok, err = pcall(function() " .. code .. [[ end)
        equal(ok, false)
        equal(err:match("piece%d+%.lua:(%d+): cannot park here"), "3")
        assert(err:find("table.sort, string.gsub, require", 1, true), err)
        assert(err:find("move the call out of that callback", 1, true), err)
        rille.sleep(0) -- and the task goes on
        equal(rille.loop.stats().watches, 0)
      ]])
    end)
  end

  it("such as a read of a connection it raises too, and the connection goes on", function()
    inside.check [[
      local a, b = rille.pair()
      raises("cannot park here", function() table.sort({ 1, 2 }, function() return a:read() end) end)
      raises("cannot park here", function() table.sort({ 1, 2 }, function() a:write(("x"):rep(4e6)) end) end)
      b:send("x")
      equal(a:read():str(), "x")
      a:abort() b:close()
    ]]
  end)

  it("such as require it raises, at the line of the module", function()
    inside.write("parks_at_load.lua", "local rille = require 'rille'\n\nrille.sleep(1)\nreturn {}\n")
    inside.check(([[
      package.path = %q .. "/?.lua;" .. package.path
      local ok, err = pcall(require, "parks_at_load")
      equal(ok, false)
      assert(err:find("parks_at_load.lua:3: cannot park here", 1, true), err)
    ]]):format(inside.folder()))
  end)

  it("such as an xpcall's message handler it raises", function()
    inside.check [[
      local seen
      xpcall(error, function() seen = select(2, pcall(rille.sleep, 0)) end)
      assert(tostring(seen):find("cannot park here", 1, true), seen)
    ]]
  end)
end)

describe("coroutine.yield", function()
  after_each(inside.cleanup)

  it("outside a coroutine of the script's own raises and names rille.yield", function()
    inside.check [[
      local err = raises("coroutine.yield outside a coroutine of the script's own: use rille.yield()", function()
        coroutine.yield(1)
      end)
      equal(err:match(":(%d+):"), "3")
      local ok
      ok, err = rille.spawn(function() return pcall(coroutine.yield) end):join()
      equal(ok, false)
    ]]
  end)

  it("kept from before rille.run ends the task with that error", function()
    local r = inside.run([[
      local kept_yield, kept_wrap = coroutine.yield, coroutine.wrap
      local results = {}
      local ok, why = rille.run { servers = { { listen = "unix:@rille-coroutine-" .. tostring(clock()), script = {
        on_request = print,
        on_start = function()
          rille.spawn(function()
            local err
            ok, err = rille.spawn(function() kept_yield(1) end):join()
            results[1] = err
            ok, err = pcall(kept_wrap(function() rille.sleep(0) end))
            results[2] = err
            results[3] = kept_wrap(function() kept_yield "lua's own" end)()
            rille.shutdown()
          end)
        end,
      } } } }
      assert(ok, why)
      for i = 1, 3 do print(results[i]) end
      assert(coroutine.yield == kept_yield and coroutine.wrap == kept_wrap)
    ]], { how = "plain" })
    assert.equal(0, r.status, r.err)
    assert.truthy(r.out:find("coroutine.yield outside", 1, true), r.out)
    assert.truthy(r.out:find("piece%d+%.lua:%d+: cannot park here: this coroutine was resumed by"), r.out)
    assert.truthy(r.out:find("lua's own", 1, true), r.out)
  end)
end)
