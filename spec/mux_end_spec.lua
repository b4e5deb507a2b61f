-- rille.mux: connections that go away in every way, dials, cancelled tasks, the end of a run, and all of it at random.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local server = require "spec.support.server"
local support = require "spec.support.mux"

local check = support.check

describe("the end of a mux", function()
  after_each(server.cleanup)

  describe("the end of the connection", function()
    for how, err in pairs { abort = "reset", close = "closed" } do
      it("by " .. how .. " ends a thousand calls at once", function()
        local code = ([[
          local count = 0
          local m = mux(frames(function(c) count = count + 1 if count == 1000 then c:HOW() end end),
            { max_in_flight = 1000, timeout = 60 })
          local ends = {}
          local started = clock()
          many(1200, function(i) ends[i] = select(2, m:call("x")) end)()
          assert(clock() - started < 5 * SLOW)
          for i = 1, 1200 do equal(ends[i], "ERR") end
          equal(m:stats().lost, 1000) equal(m:stats().connected, false)
          equal(select(2, m:call("x")), "ERR")
          equal(select(2, m:post("x")), "ERR")
        ]]):gsub("HOW", how):gsub("ERR", err)
        check(code)
      end)
    end

    it("in the middle of an answer, or by one that is too large", function()
      check [[
        local m = mux(bytes(function(c) c:write(u32(100) .. "half") c:close() end))
        equal(select(2, m:call("x")), "closed")
        m = mux(bytes(function(c) c:skip(c:len()) c:write(u32(2 ^ 32 - 1)) end))
        local started = clock()
        equal(select(2, m:call("x")), "too large")
        assert(clock() - started < 1 * SLOW)
        equal(select(2, m:call("x")), "too large")
      ]]
    end)

    it("is noticed while output waits", function()
      check [[
        local m = mux(bytes(function(c)
          c:pause()
          c:skip(c:len())
          c:shutdown "write"
        end), { timeout = 60, max_in_flight = 100, codec = { "length_field", max = "1m" } })
        local ends, started = {}, clock()
        many(100, function(i) ends[i] = select(2, m:call(("x"):rep(100000))) end)()
        assert(clock() - started < 5 * SLOW)
        for i = 1, 100 do equal(ends[i], "closed") end
      ]]
    end)

    it("comes after the answers before it", function()
      check [[
        local m = mux(frames(function(c, frame) c:write_frame(frame) c:close() end))
        equal(call(m, "last words"), "last words")
        equal(select(2, m:call("x")), "closed")
      ]]
    end)

    it("may be the caller's own doing", function()
      check [[
        local m = mux(frames(function() end))
        local join = many(10, function() equal(select(2, m:call("x")), "closed") end)
        rille.yield()
        equal(m:close(), true)
        equal(m:close(), true)
        join()
        equal(select(2, m:call("x")), "closed")
        local c = assert(rille.dial(echo()))
        m = rille.mux(c)
        equal(call(m, "x"), "x")
        c:close()
        equal(select(2, m:call("x")), "closed")
      ]]
    end)
  end)

  describe("a task that is cancelled", function()
    it("leaves nothing", function()
      check [[
        local m = mux(frames(function() end), { max_in_flight = 5 })
        local tasks = {}
        for i = 1, 10 do tasks[i] = rille.spawn(function() m:call("x") error "not reached" end) end
        rille.yield()
        equal(m:stats().in_flight, 5) equal(m:stats().waiting, 5)
        for i = 10, 1, -1 do tasks[i]:cancel() rille.yield() rille.yield() end
        equal(m:stats().in_flight, 0) equal(m:stats().waiting, 0)
        equal(select(2, rille.with_timeout(0.01, m.call, m, "x")), "timeout")
        equal(m:stats().in_flight, 0)
        local task = rille.spawn(function()
          local ok = pcall(rille.sleep, 10)
          equal(ok, false)
          m:call("x")
        end)
        rille.yield()
        task:cancel()
        equal(select(2, task:join()), "cancelled")
        equal(m:stats().in_flight, 0)
      ]]
    end)

    it("makes room for another", function()
      check [[
        local m = mux(frames(function(c, frame) if body(frame) == "go" then c:write_frame(frame) end end), { max_in_flight = 1 })
        local stuck = rille.spawn(m.call, m, "stuck")
        rille.yield()
        local waits = rille.spawn(function() return call(m, "go") end)
        rille.yield()
        stuck:cancel()
        equal(waits:join(), "go")
      ]]
    end)
  end)

  describe("a function that dials", function()
    it("is called when a connection is needed, and again when that is lost", function()
      check [[
        local dials, conns = 0, {}
        local address = frames(function(c, frame) conns[c.id] = c if body(frame) ~= "hold" then c:write_frame(frame) end end)
        local m = rille.mux(function()
          dials = dials + 1
          return rille.dial(address)
        end, { max_in_flight = 10 })
        muxes[1] = m
        rille.yield()
        equal(dials, 0)
        many(20, function(i) equal(call(m, "a" .. i), "a" .. i) end)()
        equal(dials, 1)
        local ends = {}
        local join = many(15, function(i) ends[i] = { call(m, i <= 10 and "hold" or "next") } end)
        wait_until(function() return m:stats().in_flight == 10 end)
        for _, c in pairs(conns) do c:abort() end
        join()
        for i = 1, 10 do equal(ends[i][2], "reset") end
        for i = 11, 15 do equal(ends[i][1], "next") end -- these had not been sent
        equal(dials, 2)
      ]]
    end)

    it("may fail, raise, hang or return nonsense", function()
      check([[
        local how = "fail"
        local m = rille.mux(function()
          if how == "fail" then return rille.dial "tcp://127.0.0.1:1" end
          if how == "raise" then error "no way" end
          if how == "hang" then rille.sleep(0.2) return nil, "refused" end
          return 42
        end, { timeout = 5 })
        muxes[1] = m
        many(3, function() equal(select(2, m:call("x")), "refused") end)()
        how = "raise" equal(select(2, m:call("x")), "error")
        how = "nonsense" equal(select(2, m:call("x")), "error")
        how = "hang" equal(select(2, m:call("x", 0.02)), "timeout")
        equal(select(2, m:call("x")), "refused")
        m:call("x", 0.01)
        m:close()
        rille.sleep(0.25)
      ]], { errors = true })
    end)
  end)

  it("survives peers and callers that do any of this at random", function()
    local seed = tonumber(os.getenv "SEED") or os.time()
    local code = ([[
      math.randomseed(SEED)
      local function peer(c, frame)
        local what = math.random(400)
        if frame:u32(0) == 0 then return end
        if what == 1 then return c:abort() end
        if what == 2 then return c:close() end
        if what == 3 then c:write(u32(50) .. "half") return c:close() end
        if what < 10 then return c:write_frame(u32(2 ^ 31) .. "nobody's") end
        if what < 15 then return end
        if what < 150 then rille.sleep(math.random() / 50) end
        c:write_frame(frame)
        if what > 390 then c:write_frame(frame) end
      end
      local address = frames(peer, { concurrency = 200, ordered = false })
      local m = rille.mux(function()
        if math.random(10) == 1 then rille.sleep(0.01) return nil, "refused" end
        return rille.dial(address)
      end, { max_in_flight = 50, queue = 500, timeout = 0.05, on_unmatched = function(frame) assert(body(frame) == "nobody's") end })
      muxes[1] = m
      local known = { timeout = true, closed = true, reset = true, refused = true, full = true }
      local good, bad, mixed = 0, 0, 0
      local function one(i)
        if i % 50 == 0 then return m:post("post") end
        local text = ("%d "):format(i):rep(math.random(20))
        local frame, err = m:call(text, i % 7 == 0 and math.random() / 20 or nil)
        if not frame then
          bad = bad + 1
          assert(known[err], err)
        else
          if math.random(5) == 1 then rille.sleep(0.001) end
          if body(frame) == text then good = good + 1 else mixed = mixed + 1 end
        end
      end
      local tasks = {}
      for i = 1, 5000 do
        tasks[#tasks + 1] = rille.spawn(one, i)
        if i % 100 == 0 then rille.sleep(0.004) end
        if i % 13 == 0 then tasks[math.random(#tasks)]:cancel() end
      end
      for i = 1, #tasks do tasks[i]:join() end
      equal(mixed, 0)
      assert(good > 500, good)
      assert(bad > 0)
      wait_until(function() return m:stats().in_flight == 0 end)
    ]]):gsub("SEED", seed)
    local ok, err = pcall(check, code, { seconds = 60 * net.slow })
    if not ok then error(("SEED=%d: %s"):format(seed, tostring(err)), 0) end
  end)

  it("ends with the run, whatever is under way", function()
    for _, code in ipairs {
      [[ rille.spawn(function() pcall(m.call, m, "x") end) rille.yield() ]],
      [[ rille.spawn(function() m:call("x") end) ]],
      [[ rille.spawn(function() while true do m:call("x", 0.001) end end) rille.sleep(0.01) ]],
      [[ for _ = 1, 20 do rille.spawn(function() m:call("x", 0) end) end rille.yield() rille.shutdown() ]],
    } do
      inside.check(support.HEAD .. [[ local m = mux(frames(function() end), { max_in_flight = 10 }) ]] .. code)
    end
  end)

  it("that dials serves one run of a program after the other", function()
    inside.check([[
      local listener, mux
      local function serve()
        listener = assert(rille.listen("tcp://127.0.0.1:0", function(c, frame) if frame:sub(5) ~= "hold" then c:write_frame(frame) end end,
          { codec = rille.codec.length_field {} }))
        mux = mux or rille.mux(function() return rille.dial(listener:address()) end, { timeout = 0.05 })
        assert(assert(mux:call("hello")):sub(5) == "hello")
        equal(select(2, mux:call("hold")), "timeout")
        rille.spawn(function() mux:call("hold", 60) end)
        rille.yield()
        rille.shutdown(0)
      end
      for _ = 1, 3 do
        assert(rille.run { servers = { { listen = "tcp://127.0.0.1:0", script = { on_request = print, on_start = function()
          rille.spawn(serve)
        end } } } })
      end
    ]], { how = "plain" })
  end)
end)
