-- rille.upstream with mux: one connection for each target, which all callers share.

local mux = require "spec.support.mux"
local server = require "spec.support.server"

local HEAD = [[local ups = {} local function upstream(options) options.mux = options.mux or {} ]]
  .. [[local up = rille.upstream(options) ups[#ups + 1] = up return up end ]]
  .. [[local function named(name) return frames(function(c, frame) c:write_frame(frame:sub(1, 4):str() .. name) end) end ]]
  .. [[local function ask(up, text, opts) local frame, err, message = up:call(text, opts) ]]
  .. [[if not frame then return nil, err, message end return body(frame) end ]]
  .. [[local function connections() return rille.loop.stats().connections end ]]

local function check(code, options)
  return mux.check(HEAD .. code .. [=[
    for _, up in ipairs(ups) do up:close() end
    for _, l in ipairs(listeners) do l:close() end
    wait_until(function() return connections() == 0 end)
  ]=], options)
end

describe("rille.upstream with mux", function()
  after_each(server.cleanup)

  it("shares one connection for each target, and spreads calls over them", function()
    check [=[
      local up = upstream { targets = { named "a", named "b" } }
      local seen = {}
      many(100, function(i)
        local name = assert(ask(up, "x" .. i))
        seen[name] = (seen[name] or 0) + 1
      end)()
      equal(seen.a, 50) equal(seen.b, 50)
      equal(connections(), 4)
      local s = up:stats()
      equal(s.in_use, 2) equal(s.requests, 100) equal(s.targets[1].requests, 50) equal(s.targets[1].in_flight, 0)
    ]=]
  end)

  it("gives a call to the target that has the fewest under way", function()
    check [=[
      local held = {}
      local slow = frames(function(c, frame) held[#held + 1] = frame:str() held.conn = c end)
      local up = upstream { targets = { slow, named "b" }, balance = "least_connections" }
      local stuck = rille.spawn(function() return ask(up, "x") end)
      wait_until(function() return #held == 1 end)
      for _ = 1, 10 do equal(ask(up, "y"), "b") end
      held.conn:write_frame(held[1])
      equal(stuck:join(), "x")
    ]=]
  end)

  it("tries another target when one cannot be reached, and leaves it out then", function()
    check [=[
      local l = assert(rille.listen("tcp://127.0.0.1:0", function() end))
      local gone = l:address()
      l:close() rille.sleep(0.01)
      local up = upstream { targets = { gone, named "b" }, health = { passive = { failures = 1, cooldown = 60 } } }
      for _ = 1, 10 do equal(ask(up, "x"), "b") end
      local t = up:targets()[1]
      equal(t.state, "down") equal(t.failures, 1) assert(t.last_error:find "refused") equal(up:stats().retries, 1)
      up:remove(up:targets()[2].url)
      local _, err, message = ask(up, "x")
      equal(err, "unavailable")
      assert(message:find "refused")
    ]=]
  end)

  it("repeats what was sent only where that is asked for", function()
    check [=[
      local hangs_up = frames(function(c) c:close() end)
      local up = upstream { targets = { hangs_up, named "b" } }
      local results = {}
      for i = 1, 2 do results[i] = select(2, ask(up, "x")) or "answered" end
      table.sort(results)
      equal(results[1], "answered") equal(results[2], "closed")
      local again = upstream { targets = { hangs_up, named "b" }, retry = { on = { "closed" } } }
      for _ = 1, 2 do equal(ask(again, "x"), "b") end
    ]=]
  end)

  it("tries a target that was down with one call", function()
    check [=[
      local is_well, calls = false, 0
      local url = frames(function(c, frame)
        calls = calls + 1
        if is_well then return c:write_frame(frame) end
        c:close()
      end)
      local up = upstream { targets = { url }, health = { passive = { failures = 1, cooldown = 0.05 } } }
      equal(select(2, ask(up, "x")), "closed")
      equal(select(2, ask(up, "x")), "unavailable")
      is_well, calls = true, 0
      wait_until(function() return ask(up, "x") == "x" end)
      equal(calls, 1)
      equal(up:targets()[1].state, "up")
      for _ = 1, 5 do equal(ask(up, "x"), "x") end
    ]=]
  end)

  it("keeps to deadlines and keys", function()
    check [=[
      local silent = frames(function() end)
      local up = upstream { targets = { silent } }
      local began = clock()
      equal(select(2, ask(up, "x", { timeout = 0.05 })), "timeout")
      assert(clock() - began < 2 * SLOW)
      local by_key = upstream { targets = { named "a", named "b", named "c" }, balance = "consistent_hash" }
      for i = 1, 20 do
        local name = assert(ask(by_key, "x", { key = i }))
        for _ = 1, 3 do equal(ask(by_key, "x", { key = i }), name) end
      end
    ]=]
  end)

  it("lets a target that is removed finish its calls", function()
    check [=[
      local held
      local url = frames(function(c, frame) held = { c, frame:str() } end)
      local up = upstream { targets = { url } }
      local call = rille.spawn(function() return ask(up, "x") end)
      wait_until(function() return held end)
      up:remove(url)
      equal(up:targets()[1].state, "draining")
      held[1]:write_frame(held[2])
      equal(call:join(), "x")
      wait_until(function() return #up:targets() == 0 end)
    ]=]
  end)

  it("keeps no connection that comes when nobody calls any more", function()
    check [=[
      local d = require("spec.support.dns").serve(function(name, kind)
        return { delay = 0.2, kind == "A" and { name, "A", 60, "127.0.0.1" } or nil }
      end)
      local silent = frames(function() end)
      local up = upstream { targets = { "tcp4://late.test:" .. silent:match ":(%d+)$" }, retry = { attempts = 1 },
        dial = { dns = { servers = { d.address }, search = {}, hosts = "" } } }
      local _, err, message = ask(up, "x", { timeout = 0.02 })
      equal(err, "timeout") equal(message, nil)
      up:close()
      equal(#up:targets(), 1) -- on its way
      wait_until(function() return #up:targets() == 0 end)
      d.close()
    ]=]
  end)

  it("tries nothing again that could not be written, or had no room", function()
    check [=[
      local silent = frames(function() end)
      local up = upstream { targets = { silent }, mux = { codec = rille.codec.length_field { max = 1000 }, max_in_flight = 1, queue = 1 } }
      equal(select(2, ask(up, ("x"):rep(2000))), "too large")
      local stuck = rille.spawn(up.call, up, "x", { timeout = 60 })
      wait_until(function() return up:targets()[1].in_flight == 1 end)
      equal(select(2, ask(up, "y", { timeout = 0.02 })), "timeout")
      equal(up:stats().retries, 0)
      stuck:cancel()
    ]=]
  end)

  it("says what is wrong", function()
    check [=[
      local up, plain = upstream { targets = {} }, rille.upstream { targets = {} }
      raises("shared (mux), use upstream:call", up.with, up, function() end)
      raises("shared (mux), use upstream:call", up.get, up)
      raises("give it the option mux", plain.call, plain, "x")
      raises("rille.mux has no option 'size'", rille.upstream, { targets = { "tcp://127.0.0.1:1" }, mux = { size = 1 } })
      raises("mux is a table of options of rille.mux, got 1", rille.upstream, { targets = {}, mux = 1 })
      equal(select(2, ask(up, "x")), "unavailable")
      plain:close()
    ]=]
  end)
end)
