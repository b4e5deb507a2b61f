-- rille.upstream: who gets which connection, what is kept, what is thrown away, who waits, and what is left at the end.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local HEAD = [[local core, state = require "rille.core", require "rille.state" ]]
  .. [[local function echo(name) return assert(rille.listen("tcp://127.0.0.1:0", function(c) ]]
  .. [[c:skip(c:len()) c:write(name or "x") end)) end ]]
  .. [[local function ask(c) c:send "?" return c:read_string(1) end ]]
  .. [[local function gone() local l = echo() local url = l:address() l:close() rille.sleep(0.01) return url end ]]
  .. [[local function connections() return rille.loop.stats().connections end ]]
  .. [[local function wait(what, fn) local till = clock() + 5 * SLOW repeat local v = fn() if v then return v end ]]
  .. [[rille.sleep(0.005) until clock() > till error("never: " .. what, 2) end ]]

local function check(code, options)
  return inside.check(HEAD .. code, options)
end

describe("rille.upstream", function()
  after_each(server.cleanup)

  it("keeps a connection, and uses it again", function()
    check [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() } }
      local first
      for i = 1, 5 do
        local answer, extra = up:with(function(c, target)
          first = first or c.id
          equal(c.id, first) equal(target.url, l:address()) equal(target.weight, 1)
          return ask(c), i
        end)
        equal(answer, "x") equal(extra, i)
      end
      local t = up:targets()[1]
      equal(t.idle, 1) equal(t.in_use, 0) equal(t.requests, 5) equal(t.failures, 0) equal(t.state, "up") equal(t.connecting, 0)
      up:close()
      equal(select(2, up:with(ask)), "closed")
      l:close()
      wait("the end of both sides", function() return connections() == 0 end)
    ]=]
  end)

  it("lends by get and put", function()
    check [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() } }
      local c, target = assert(up:get())
      equal(target.url, l:address()) equal(ask(c), "x")
      equal(up:targets()[1].in_use, 1)
      assert(up:put(c))
      equal(select(2, up:put(c)), "closed")
      equal(up:get(), c)
      assert(up:put(c, "short"))
      local t = up:targets()[1]
      equal(t.idle, 0) equal(t.failures, 1) equal(t.last_error, "short")
      wait("its end", function() return up:targets()[1].connecting == 0 end)
      raises("a connection of this upstream expected", up.put, up, rille.pair())
      up:with(function(lent) -- somebody else could have it before its function is done
        raises("this connection is of 'with'", up.put, up, lent)
        return true
      end)
      assert(up:put((up:get())))
      up:close() l:close()
    ]=]
  end)

  it("notices what has happened to a connection that nobody used", function()
    check [=[
      local said, ends = {}, {}
      local l = assert(rille.listen("tcp://127.0.0.1:0", {
        on_connect = function(c) said[#said + 1] = c end, on_request = function(c) c:skip(c:len()) c:write "x" end,
        on_close = function(c, err) ends[c.id] = err or "end" end,
      }))
      local up = rille.upstream { targets = { l:address() } }
      local function idle() return up:targets()[1].idle end
      -- the peer closes: nobody looks, and it is gone
      up:with(ask) equal(idle(), 1)
      said[1]:close()
      wait("the close is seen", function() return idle() == 0 end)
      equal(up:targets()[1].connecting, 0)
      -- the peer breaks it off
      up:with(ask) said[2]:abort()
      wait("the reset is seen", function() return idle() == 0 end)
      -- bytes that nobody asked for
      up:with(ask) said[3]:send "late"
      wait("the bytes are seen", function() return idle() == 0 end)
      -- half a close
      up:with(ask) said[4]:shutdown "write"
      wait("the half close is seen", function() return idle() == 0 end)
      equal(up:with(ask), "x")
      equal(#said, 5)
      up:close() l:close()
    ]=]
  end)

  it("sees an end that the poller has not told yet", function()
    check [=[
      local a = require "spec.support.net"
      local l = echo()
      local up = rille.upstream { targets = { l:address() } }
      local others = {}
      local l2 = assert(rille.listen("tcp://127.0.0.1:0", { on_connect = function(c) others[#others + 1] = c end,
        on_request = function(c) c:skip(c:len()) c:write "x" end }))
      up:set_targets { l2:address() }
      equal(up:with(ask), "x")
      local fd = assert(others[1]:dup())
      a.C.net_shutdown(fd, 2) -- in this very turn
      equal(up:with(function(c) return ask(c) end), "x")
      a.C.net_close(fd)
      equal(#others, 2)
      up:close() l:close() l2:close()
    ]=]
  end)

  it("does not keep what is not as new", function()
    check [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() } }
      local function idle() return up:targets()[1].idle end
      up:with(function(c) c:close() end) equal(idle(), 0)
      up:with(function(c) c:send "?" c:peek(1) end) equal(idle(), 0)             -- an unread byte
      equal(up:with(function(c) return nil, "odd" end), nil) equal(idle(), 0)    -- it says itself
      up:with(function(c) c:shutdown "write" end) equal(idle(), 0)
      up:with(function(c) c:pause() end) equal(idle(), 0)
      up:with(function(c) c:on_request(function() end) end) equal(idle(), 0)
      up:with(function(c) c:write(("y"):rep(5e7)) end) equal(idle(), 0)          -- unsent output
      local slice = up:with(function(c) c:send "?" return c:next(1) end)
      equal(idle(), 1)
      raises("slice expired", slice.str, slice)
      -- what one user set is not the next one's
      local closed = 0
      up:with(function(c) c:set_timeouts { read = 0.01, lifetime = 100 } c:on_close(function() closed = closed + 1 end) c.ctx = 7 end)
      up:with(function(c)
        equal(c.ctx, 7)
        rille.spawn(function() rille.sleep(0.05) c:write "?" end)
        equal(c:read_string(1), "x")
      end)
      up:close() l:close()
      wait("all over", function() return connections() == 0 end)
      equal(closed, 0)
    ]=]
  end)

  it("passes an error on with its traceback, and closes the connection", function()
    local result = inside.run(HEAD .. [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() } }
      local function deep() error("out of depth") end
      local ok, err = pcall(up.with, up, function() deep() end)
      assert(not ok and err:find("out of depth", 1, true))
      local thing = {}
      ok, err = pcall(up.with, up, function() error(thing) end)
      assert(rawequal(err, thing))
      equal(up:targets()[1].idle, 0) equal(up:targets()[1].in_use, 0) equal(up:targets()[1].failures, 0)
      up:with(function() deep() end)
    ]=], { name = "raises" })
    assert.equal(1, result.status)
    assert.truthy(result.err:find("in function 'deep'", 1, true) or result.err:find("in upvalue 'deep'", 1, true), result.err)
  end)

  it("gives no target more connections than max_per_target, and those who wait their turns", function()
    check [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() }, max_per_target = 2, queue = 3, queue_timeout = 5 * SLOW }
      local order, most, tasks = {}, 0, {}
      for i = 1, 5 do
        tasks[i] = rille.spawn(function()
          return up:with(function(c)
            order[#order + 1] = i
            local t = up:targets()[1]
            most = math.max(most, t.in_use)
            assert(t.in_use + t.idle + t.connecting <= 2)
            rille.sleep(0.02)
            return ask(c)
          end)
        end)
      end
      turns(2)
      equal(up:stats().waiting, 3)
      local _, err, message = up:with(ask)
      equal(err, "full") assert(message:find("3 callers wait", 1, true), message)
      for i = 1, 5 do equal(tasks[i]:join(), "x") equal(order[i], i) end
      equal(most, 2) equal(up:stats().waiting, 0) equal(up:stats().refused, 1)
      -- one that waits too long, one that is cancelled, one whose time is over
      up:close()
      up = rille.upstream { name = "small", targets = { l:address() }, max_per_target = 1, queue_timeout = 0.02 }
      local c = assert(up:get())
      _, err, message = up:with(ask)
      equal(err, "timeout") equal(message, "small: no connection came free in 0.02 s")
      equal(select(2, up:with(ask, { timeout = 0.005 })), "timeout")
      local task = rille.spawn(up.with, up, ask)
      turns(2) equal(up:stats().waiting, 1)
      task:cancel() equal(select(2, task:join()), "cancelled") equal(up:stats().waiting, 0)
      task = rille.spawn(up.with, up, ask)
      turns(2) up:close()
      equal(select(2, task:join()), "closed")
      up:put(c)
      l:close()
      wait("all over", function() return connections() == 0 end)
    ]=]
  end)

  it("gives the place of a lost connection to the next one", function()
    check [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() }, max_per_target = 1 }
      do local c = assert(up:get()) equal(ask(c), "x") end
      local task = rille.spawn(up.with, up, ask)
      turns(3)
      wait("the collector", function() collectgarbage() return task:is_done() end)
      equal(task:join(), "x")
      up:close() l:close()
    ]=]
  end)

  it("bounds what is kept: keepalive, keepalive_timeout, max_requests", function()
    check [=[
      local l = echo()
      local up = rille.upstream { targets = { l:address() }, keepalive = 2, keepalive_timeout = "50ms", max_requests = 3 }
      local held = {}
      for i = 1, 4 do held[i] = assert(up:get()) end
      for i = 1, 4 do up:put(held[i]) end
      equal(up:targets()[1].idle, 2)
      wait("idle ones end", function() return up:targets()[1].idle == 0 end)
      wait("they are gone", function() return connections() == 0 end)
      local ids = {}
      for i = 1, 6 do up:with(function(c) ids[i] = c.id return ask(c) end) end
      equal(ids[1], ids[3]) equal(ids[4], ids[6]) assert(ids[3] ~= ids[4])
      up:close()
      up = rille.upstream { targets = { l:address() }, keepalive = 0 }
      up:with(ask) equal(up:targets()[1].idle, 0)
      up:close() l:close()
    ]=]
  end)

  it("balances in turn, by weight, by load, by two, by key", function()
    check [=[
      local ls, urls = {}, {}
      for i = 1, 4 do ls[i] = echo(tostring(i)) urls[i] = ls[i]:address() end
      local up
      local function count(n, opts)
        local got, list = { 0, 0, 0, 0 }, {}
        for i = 1, n do
          local o = opts and opts(i)
          local x = tonumber(up:with(ask, o))
          got[x] = got[x] + 1
          list[i] = x
        end
        return table.concat(got, " "), table.concat(list)
      end
      up = rille.upstream { targets = urls }
      equal(select(2, count(8)), "12341234") up:close()
      local weights = { 5, 1, 1, 1 }
      local targets = {}
      for i = 1, 4 do targets[i] = { url = urls[i], weight = weights[i] } end
      up = rille.upstream { targets = targets, balance = "weighted" }
      local counts, list = count(80)
      equal(counts, "50 10 10 10") assert(not list:find "1111") up:close()
      up = rille.upstream { targets = urls, balance = "least_connections" }
      local a, b = up:get(), up:get()
      local seen = select(2, count(4))
      equal(seen, "3434")
      up:put(a) up:put(b) up:close()
      up = rille.upstream { targets = urls, balance = "p2c" }
      local held = {}
      for i = 1, 40 do held[i] = up:get() end
      for _, t in ipairs(up:targets()) do assert(t.in_use >= 7 and t.in_use <= 13, t.in_use) end
      for i = 1, 40 do up:put(held[i]) end
      up:close()
      -- the same key goes to the same target, most keys stay where they are when one leaves
      up = rille.upstream { targets = urls, balance = "consistent_hash" }
      raises("needs a key", up.with, up, ask)
      local home, spread = {}, { 0, 0, 0, 0 }
      for i = 1, 400 do
        home[i] = tonumber(up:with(ask, { key = "user " .. i }))
        spread[home[i]] = spread[home[i]] + 1
      end
      for i = 1, 4 do assert(spread[i] > 50 and spread[i] < 170, table.concat(spread, " ")) end
      for i = 1, 400 do equal(tonumber(up:with(ask, { key = "user " .. i })), home[i]) end
      up:remove(urls[2])
      for i = 1, 400 do
        local now = tonumber(up:with(ask, { key = "user " .. i }))
        if home[i] ~= 2 then equal(now, home[i]) else assert(now ~= 2) end
      end
      up:close()
      for i = 1, 4 do ls[i]:close() end
    ]=]
  end)

  it("lets its targets come and go", function()
    check [=[
      local a, b = echo "a", echo "b"
      local up = rille.upstream { targets = { a:address() } }
      local c = up:get()
      up:with(ask)
      equal(up:targets()[1].idle, 1)
      assert(up:add { url = b:address(), name = "second" })
      equal(select(2, up:add(b:address())), "exists")
      assert(up:remove(a:address()))
      equal(select(2, up:remove(a:address())), "not found")
      for _ = 1, 3 do equal(up:with(ask), "b") end
      local list = up:targets()
      equal(#list, 2) equal(list[1].name, "second") equal(list[2].state, "draining") equal(list[2].in_use, 1) equal(list[2].idle, 0)
      equal(ask(c), "a")
      up:put(c)
      wait("it has left", function() return #up:targets() == 1 end)
      assert(up:set_targets {})
      local _, err, message = up:with(ask)
      equal(err, "unavailable") equal(message, "upstream: there are no targets")
      assert(up:set_targets { a:address(), b:address() })
      local got = {}
      for _ = 1, 4 do got[#got + 1] = up:with(ask) end
      table.sort(got)
      equal(table.concat(got), "aabb")
      up:close() a:close() b:close()
      wait("all over", function() return connections() == 0 end)
    ]=]
  end)

  it("tries again on another target what could not be connected to", function()
    check [=[
      local l, dead = echo(), gone()
      local up = rille.upstream { targets = { dead, l:address() } }
      for _ = 1, 10 do equal(up:with(ask), "x") end
      local t = up:targets()
      equal(t[1].state, "down") equal(t[1].failures, 3) equal(t[2].failures, 0) assert(t[1].last_error:find "refused")
      equal(up:stats().retries, 3)
      up:close()
      -- not more often than attempts, or the budget, say
      up = rille.upstream { targets = { dead }, retry = { attempts = 4, budget = 0 }, health = { passive = false } }
      for i = 1, 5 do equal(select(2, up:with(ask)), "refused") end
      local stats = up:stats()
      assert(stats.retries >= 10 and stats.retries < 15, stats.retries)
      equal(up:targets()[1].failures, 5 + stats.retries) assert(stats.over_budget > 0)
      up:close()
      -- what many requests have saved is there when many fail at once
      up = rille.upstream { targets = { l:address(), dead }, retry = { budget = 0.5 }, max_per_target = 1000 }
      up:set_targets { l:address() }
      for _ = 1, 200 do up:with(ask) end
      up:set_targets { dead, l:address() }
      local tasks = {}
      for i = 1, 100 do tasks[i] = rille.spawn(up.with, up, ask) end
      for i = 1, 100 do equal(tasks[i]:join(), "x") end
      assert(up:stats().retries > 40)
      up:close() l:close()
    ]=]
  end)

  it("tries again what fn says, where it is told to", function()
    check [=[
      local first = true
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c)
        c:skip(c:len())
        if first then first = false return c:abort() end
        c:write "x"
      end))
      local function one(c)
        c:send "?"
        local byte, err = c:read_string(1)
        if not byte then return nil, err, "said" end
        return byte
      end
      local up = rille.upstream { targets = { l:address() } }
      local byte, err, more = up:with(one)
      equal(byte, nil) equal(err, "reset") equal(more, "said")
      up:close()
      first = true
      up = rille.upstream { targets = { l:address() }, retry = { on = { "connect", "reset" } } }
      equal(up:with(one), "x") equal(up:stats().retries, 1)
      up:close() l:close()
      -- a server that ends each connection at its second question: nobody has to know
      local seen = {}
      l = assert(rille.listen("tcp://127.0.0.1:0", function(c)
        c:skip(c:len())
        if seen[c.id] then return c:abort() end
        seen[c.id] = true
        c:write "x"
      end))
      up = rille.upstream { targets = { l:address() }, retry = { on = { "connect", "reused" } } }
      for _ = 1, 5 do equal(up:with(one), "x") end
      equal(up:stats().retries, 4)
      up:close()
      up = rille.upstream { targets = { l:address() } }
      equal(up:with(one), "x") equal(select(2, up:with(one)), "reset")
      up:close() l:close()
    ]=]
  end)

  it("says what is wrong with what it is told, at the caller's line", function()
    check [=[
      raises("rille.upstream has no option 'tragets'", rille.upstream, { tragets = {} })
      local line
      local _, message = pcall(function()
        line = debug.getinfo(1, "l").currentline + 1
        rille.upstream { queue = -1 }
      end)
      assert(message:find(":" .. line .. ": rille.upstream: queue is a whole number from 0 to 1e+06, got -1", 1, true), message)
      local function bad(text, conf) raises(text, rille.upstream, conf) end
      bad("balance is \"round_robin\", \"weighted\"", { balance = "best" })
      bad("keepalive_timeout is seconds from 0 to 3.6e+06, got \"soon\"", { keepalive_timeout = "soon" })
      bad("retry has no option 'n': it takes attempts, budget, on", { retry = { n = 1 } })
      bad("health: passive has no option 'x'", { health = { passive = { x = 1 } } })
      bad("targets[2]: a target is a URL", { targets = { "tcp://a:1", 7 } })
      bad("targets[2]: tcp://a:1 is there already", { targets = { "tcp://a:1", "a:1" } })
      bad("has no port", { targets = { "tcp://a" } })
      bad("address of datagrams", { targets = { "udp://a:1" } })
      bad("expected tcp://", { targets = { "http://a:1" } })
      bad("weight is a whole number from 1 to 1000, got 0", { targets = { { url = "a:1", weight = 0 } } })
      bad("check is a function, \"tcp://\"", { health = { active = "tcp://:65536" } })
      bad("has no option 'timeot'", { dial = { timeot = 1 } })
      bad("max_per_target and connect_timeout", { dial = { timeout = 1 } })
      local up = rille.upstream {}
      raises("function expected, got nil", up.with, up)
      raises("it takes key, timeout", up.with, up, ask, { keys = 1 })
      up:close()
    ]=]
  end)
end)
