-- rille.mux: calls over one connection, with peers that scramble, lose, repeat and invent answers. How it ends is in mux_end_spec.lua.

local net = require "spec.support.net"
local server = require "spec.support.server"
local support = require "spec.support.mux"

local check = support.check

describe("rille.mux", function()
  after_each(server.cleanup)

  it("gives each call its own answer", function()
    check [[
      local m = mux(echo())
      equal(call(m, "hello"), "hello")
      equal(call(m, ""), "")
      many(100, function(i) equal(call(m, "number " .. i), "number " .. i) end)()
      local s = m:stats()
      equal(s.sent, 102) equal(s.answered, 102) equal(s.connected, true)
    ]]
  end)

  it("holds ten thousand calls whose answers come in any order", function()
    check [[
      local ids = {}
      local address = frames(function(c, frame)
        ids[#ids + 1] = frame:str()
        if #ids < 10000 then return end
        for i = #ids, 2, -1 do
          local j = math.random(i)
          ids[i], ids[j] = ids[j], ids[i]
        end
        for i = 1, #ids do c:write_frame(ids[i]) end
      end)
      local m = mux(address, { max_in_flight = 10000, timeout = 60 })
      local right = 0
      local join = many(10000, function(i)
        if call(m, "call " .. i) == "call " .. i then right = right + 1 end
      end)
      join()
      equal(right, 10000)
    ]]
  end)

  it("sends the requests of a turn together", function()
    check [[
      local reads = {}
      local m = mux(bytes(function(c)
        reads[#reads + 1] = c:len()
        c:write(c:next(c:len()))
      end))
      call(m, "warm")
      reads = {}
      many(100, function() assert(m:call("x")) end)()
      equal(table.concat(reads, " "), "900")
    ]]
  end)

  it("carries large requests and answers", function()
    check [[
      local large = rille.codec.length_field { max = "900k" }
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c, frame) c:write_frame(frame) end, { codec = large }))
      local m = rille.mux(assert(rille.dial(l:address())), { codec = { "length_field", max = "900k" } })
      local text = ("0123456789"):rep(80000)
      many(5, function(i) equal(call(m, i .. text), i .. text) end)()
      local b = LinkBuffer.new()
      b:write(text) b:flush()
      equal(call(m, b), text)
      b:close()
      equal(select(2, m:call(text .. text)), "too large")
      equal(call(m, "on it goes"), "on it goes")
      m:close() l:close()
    ]]
  end)

  describe("a deadline", function()
    it("ends a call that nobody answers", function()
      check [[
        local m = mux(frames(function() end), { timeout = 0.05 })
        local started = clock()
        equal(select(2, m:call("a")), "timeout")
        assert(clock() - started >= 0.05)
        many(500, function(i) equal(select(2, m:call("b", i % 2 == 0 and 0.02 or nil)), "timeout") end)()
        equal(m:stats().timeouts, 501)
      ]]
    end)

    it("drops an answer that is late, and counts it", function()
      check [[
        local held = {}
        local pushed = 0
        local m = mux(frames(function(c, frame)
          if frame:sub(5) == "hold" then held[#held + 1] = frame:str() return end
          for i = 1, #held do c:write_frame(held[i]) end
          held = {}
          c:write_frame(frame)
        end), { timeout = 0.03, on_unmatched = function() pushed = pushed + 1 end })
        for _ = 1, 3 do equal(select(2, m:call("hold")), "timeout") end
        equal(call(m, "now", 5), "now")
        equal(m:stats().late, 3)
        equal(pushed, 0)
      ]]
    end)

    it("that went by while the loop stood still does not count before what has come is read", function()
      check [[
        local a, b = rille.pair()
        local m = rille.mux(a, { timeout = 0.05 })
        for _, timeout in ipairs { false, 0.06 } do
          local task = rille.spawn(function() return call(m, "x", timeout or nil) end)
          b:send(b:next(9))
          b:release()
          local stop = clock() + 0.2
          while clock() < stop do end
          equal(task:join(), "x")
          equal(select(2, m:call("y", timeout or nil)), "timeout")
          b:next(9)
        end
        m:close()
        b:close()
      ]]
    end)

    it("may be each call's own, or none", function()
      check [[
        local m = mux(frames(function(c, frame)
          if frame:sub(5) == "slow" then rille.sleep(0.1) end
          c:write_frame(frame)
        end, { concurrency = 10, ordered = false }), { timeout = 0.02 })
        equal(select(2, m:call("slow")), "timeout")
        equal(call(m, "slow", 10), "slow")
        equal(call(m, "slow", 0), "slow")
        equal(select(2, m:call("slow", 0.001)), "timeout")
        raises("seconds", m.call, m, "x", -1)
        raises("seconds", m.call, m, "x", "1")
      ]]
    end)

    it("holds while a call waits for its turn", function()
      check [[
        local m = mux(frames(function() end), { max_in_flight = 1, timeout = 0.05 })
        local ends = {}
        local join = many(3, function(i) ends[i] = select(2, m:call("x", i == 3 and 0.02 or nil)) end)
        join()
        for i = 1, 3 do equal(ends[i], "timeout") end
      ]]
    end)
  end)

  describe("room", function()
    it("is given in the order of coming, to as many as allowed", function()
      check [[
        local running, most, order = 0, 0, {}
        local m = mux(frames(function(c, frame)
          running = running + 1
          most = math.max(most, running)
          order[#order + 1] = body(frame)
          rille.sleep(0.001)
          running = running - 1
          c:write_frame(frame)
        end, { concurrency = 100, ordered = false }), { max_in_flight = 4 })
        many(50, function(i) equal(call(m, tostring(i)), tostring(i)) end)()
        equal(most, 4)
        for i = 1, 50 do equal(order[i], tostring(i)) end
      ]]
    end)

    it("is refused beyond the queue", function()
      check [[
        local conn
        local m = mux(frames(function(c, frame) conn = c if frame:sub(5) ~= "x" then c:write_frame(frame) end end),
          { max_in_flight = 2, queue = 3, timeout = 0.1 })
        local ends = {}
        many(8, function(i) ends[i] = select(2, m:call("x")) end)()
        local full = 0
        for i = 1, 8 do
          if ends[i] == "full" then full = full + 1 else equal(ends[i], "timeout") end
        end
        equal(full, 3)
        equal(call(m, "y", 5), "y")
      ]]
    end)

    it("is not there while the peer does not read", function()
      check [[
        local peer
        local m = mux(bytes(function(c)
          if not peer then c:pause() end
          peer = c
          c:skip(c:len())
        end), { timeout = 0.3 * SLOW, queue = 10000, max_in_flight = 1000, codec = { "length_field", max = "1m" } })
        equal(select(2, m:call("first", 0.05)), "timeout")
        local ends, big = {}, ("x"):rep(100000)
        local join = many(500, function(i) ends[i] = select(2, m:call(big)) end)
        rille.sleep(0.05)
        local s = m:stats()
        assert(s.sent < 200, s.sent) -- 50 MB, had they all been written
        assert(s.waiting > 250, s.waiting)
        join()
        for i = 1, 500 do equal(ends[i], "timeout") end
        equal(select(2, m:post(big, 0.02)), "timeout")
        peer:resume()
        wait_until(function() return m:post("y", 0.02) end)
      ]]
    end)
  end)

  describe("answers that nobody waits for", function()
    it("of wrong ids, without one, or twice are sorted out", function()
      check [[
        local pushed = {}
        local m = mux(frames(function(c, frame)
          c:write_frame(u32(77777) .. "wrong")
          c:write_frame("id")
          c:write_frame(u32(0) .. "push")
          c:write_frame(frame)
          c:write_frame(frame)
        end), { on_unmatched = function(frame) pushed[#pushed + 1] = frame:str():sub(-5) end })
        for i = 1, 3 do equal(call(m, "x" .. i), "x" .. i) end
        wait_until(function() return m:stats().late == 3 end)
        equal(m:stats().unmatched, 9)
        equal(table.concat(pushed, " ", 1, 3), "wrong id \0push")
      ]]
    end)

    it("may be answered by a post, and not by a call", function()
      check([[
        local pongs = 0
        local m
        m = mux(frames(function(c, frame)
          if frame:u32(0) == 0 then pongs = pongs + 1 return end
          c:write_frame(u32(0) .. "ping")
          c:write_frame(frame)
        end), { on_unmatched = function(frame) if body(frame) == "ping" then assert(m:post("pong")) end end })
        equal(call(m, "x"), "x")
        wait_until(function() return pongs == 1 end)
        m = mux(frames(function(c) c:write_frame(u32(0) .. "ping") end),
          { on_unmatched = function() m:call("x") end })
        equal(select(2, m:call("x")), "error")
      ]], { errors = true })
    end)

    it("end the connection when they cannot be looked at", function()
      local result = check([[
        local m = mux(echo(), { id_of = function() error "no id" end })
        equal(select(2, m:call("x")), "error")
        equal(select(2, m:call("x")), "error")
      ]], { errors = true })
      assert.truthy(result.err:find("no id", 1, true))
    end)
  end)

  it("uses an id again after all the others", function()
    check [[
      local held
      local seen = {}
      local m = mux(frames(function(c, frame)
        seen[#seen + 1] = frame:u32(0)
        if body(frame) == "hold" then held = frame:str() return end
        c:write_frame(frame)
        if body(frame) == "free" then c:write_frame(held) end
      end), { id_max = 200, max_in_flight = 100 })
      local keeper = rille.spawn(function() return call(m, "hold") end)
      rille.yield()
      for i = 1, 1000 do equal(call(m, tostring(i)), tostring(i)) end
      equal(call(m, "free"), "free")
      equal(keeper:join(), "hold")
      equal(seen[1], 1)
      for i = 2, #seen do
        local step = (seen[i] - seen[i - 1]) % 200
        assert(step == 1 or step == 2, step) -- the place of the held one is passed over
        assert(seen[i] ~= 1)
      end
    ]]
  end)

  describe("a frame", function()
    it("is the task's until its next call", function()
      check [[
        local m = mux(echo())
        local a = assert(m:call("first"))
        local part = a:sub(5)
        for _ = 1, 5 do rille.sleep(0.001) end
        equal(part:str(), "first")
        local b = assert(m:call("second"))
        raises("slice expired", a.str, a)
        raises("slice expired", part.str, part)
        b:retain()
        m:call("third")
        equal(body(b), "second")
        b:release()
        raises("slice expired", b.str, b)
        local request = assert(m:call("sent on"))
        equal(call(m, request:sub(5)), "sent on")
        raises("slice expired", request.str, request)
        request = assert(m:call("posted"))
        m:post(request)
        equal(body(request), "posted")
        local c = assert(m:call("fourth"))
        c:release()
        raises("slice expired", c.str, c)
      ]]
    end)

    it("is the task's until its end", function()
      check [[
        local m = mux(echo())
        local frame
        rille.spawn(function() frame = m:call("x") end):join()
        raises("slice expired", frame.str, frame)
        local task = rille.spawn(function() frame = m:call("x") rille.sleep(60) end)
        wait_until(function() return frame and frame:is_valid() end)
        task:cancel() task:join()
        raises("slice expired", frame.str, frame)
        local l = assert(rille.listen("tcp://127.0.0.1:0", function(c, line)
          frame = m:call(line)
          c:write_frame(frame:sub(5))
        end, { codec = rille.codec.line {}, concurrency = 2 }))
        local c = assert(rille.dial(l:address()))
        c:write "hello\n"
        equal(c:read_line():str(), "hello")
        wait_until(function() return not frame:is_valid() end)
        c:close() l:close()
        equal(LinkBuffer.stats().slices_retained, 0)
      ]]
    end)

    it("goes when its task is at the end of the run", function()
      check [[
        local m = mux(echo())
        rille.spawn(function() m:call("x") pcall(rille.sleep, 60) end)
        rille.spawn(function() m:call("x") while true do rille.yield() end end)
        rille.sleep(0.02)
      ]]
    end)

    it("may be a table of slices, from a codec in Lua", function()
      check [[
        local pairs_of = {}
        function pairs_of.decode(c)
          local at = c:index_of("\n")
          if not at then return nil end
          local line = c:next(at + 1)
          return { id = line:sub(1, 4):tonumber(), text = line:sub(6, -2) }
        end
        local m = mux(bytes(function(c) c:write(c:next(c:len())) end), { codec = pairs_of,
          id_of = function(frame) return frame.id end,
          encode = function(out, id, text) out:write(("%04d %s\n"):format(id, text)) end })
        many(20, function(i)
          local frame = assert(m:call("text " .. i))
          equal(frame.text:str(), "text " .. i)
          if i == 20 then pairs_of.last = frame end
        end)()
        equal(pairs_of.last.text:is_valid(), false)
      ]]
    end)
  end)

  describe("encode", function()
    it("may fail, raise or try to park, and the next request is whole", function()
      check [[
        local m
        m = mux(echo(), { encode = function(out, id, what)
          out:write_u32(id)
          out:write(tostring(what))
          if what == "error" then error "cannot be encoded" end
          if what == "nil" then return nil, "invalid argument" end
          if what == "park" then rille.sleep(0.01) end
          if what == "call" then m:call("inner") end
        end })
        for _ = 1, 3 do
          raises("cannot be encoded", m.call, m, "error")
          equal(select(2, m:call("nil")), "invalid argument")
          raises("cannot park here", m.call, m, "park")
          raises("cannot park here", m.call, m, "call")
          equal(call(m, "good"), "good")
        end
        equal(m:stats().in_flight, 0)
        local lines = {
          decode = function(c) local at = c:index_of("\n") return at and c:next(at + 1) end,
          encode = function(out, x)
            out:write(x)
            if x:len() > 15 then error "no such line" end
            if x:len() > 10 then return nil, "too large" end
            return out:write("\n")
          end,
        }
        local l = mux(bytes(function(c) c:write(c:next(c:len())) end), { codec = lines,
          id_of = function(frame) return frame:sub(1, 4):tonumber() end,
          encode = function(out, id, what) out:write(("%04d"):format(id)) out:write(what) end })
        for _ = 1, 3 do
          raises("no such line", l.call, l, "a line that is long")
          equal(select(2, l:call("longer line")), "too large")
          equal(assert(l:call("good")):sub(5):str(), "good\n")
        end
        local plain = mux(echo())
        local err = raises("string, slice or LinkBuffer expected", plain.call, plain, {})
        equal(call(plain, "x"), "x")
      ]]
    end)
  end)

  it("raises for what it cannot be made of", function()
    check [[
      raises("bad argument #1 to 'mux'", rille.mux, 42)
      local c = assert(rille.dial(echo()))
      raises("no option 'idof'", rille.mux, c, { idof = print })
      raises("id_of is a function", rille.mux, c, { id_of = 1 })
      raises("max_in_flight is a whole number", rille.mux, c, { max_in_flight = 0 })
      raises("more than half of the ids", rille.mux, c, { id_max = 255, max_in_flight = 200 })
      raises("have to be given", rille.mux, c, { id_max = 2 ^ 40 })
      raises("queue is a whole number", rille.mux, c, { queue = 1.5 })
      raises("seconds", rille.mux, c, { timeout = -1 })
      raises("codec", rille.mux, c, { codec = "lines" })
      raises("codec", rille.mux, c, { codec = { "length_field", length = 5 } })
      raises("a table expected", rille.mux, c, "options")
      c:close()
    ]]
  end)

  it("makes no more garbage than the slice that it returns", function()
    if net.is_sanitized then return end
    check [[
      local m = mux(bytes(function(c) c:write(c:next(c:len())) end))
      local function calls(n) many(10, function() for _ = 1, n do assert(m:call("hello")) end end)() end
      local best = math.huge
      for _ = 1, 5 do
        calls(2000)
        local before = rille.loop.stats().lua_allocated
        calls(2000)
        best = math.min(best, (rille.loop.stats().lua_allocated - before) / 20000)
      end
      assert(best < 100, best) -- bytes a call, the server's part included
    ]]
  end)
end)
