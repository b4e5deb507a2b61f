-- conn:pump over real sockets: the first connection is pumped to the second one; what comes back goes the other way.

local server = require "spec.support.server"
local net = server.net

-- options: of pump, as Lua source. after: what runs then, with there, back, a third result, conn and other.
local function proxy(options, after, extra)
  return ([[
    local waiting
    local function run(conn, other)
      local there, back, third = conn:pump(other, %s)
      if there then say("%%d %%d %%s", there, back, tostring(third))
      else say("%%s %%d %%d", back, third.there, third.back) end
      %s
    end
    return {
      %s
      on_connect = function(conn)
        if not waiting then waiting = conn return end
        local first = waiting
        waiting = nil
        run(first, conn)
      end,
      on_request = function() end,
    }
  ]]):format(options or "nil", after or "conn:close() other:close()", extra or "")
end

local function start(options, after, opts, extra)
  local s = server.start(proxy(options, after, extra), opts)
  local a = s:connect()
  s:wait_state(function(state) return state.connections == 1 end)
  local b = s:connect()
  s:wait_state(function(state) return state.accepted == 2 end)
  return s, a, b
end

-- Send it all to one end while the other is read, as far as the buffers between go.
local function pass(from, to, bytes)
  local sent, got, have = 0, {}, 0
  local deadline = net.deadline(20)
  while have < #bytes do
    if sent < #bytes then sent = sent + assert(from:try_send(bytes, sent)) end
    local part = to:receive_some(sent < #bytes and 0.001 or 5)
    if part then
      assert.is_true(part ~= "", "the other end has closed")
      got[#got + 1], have = part, have + #part
    end
    assert.is_true(net.now() < deadline, ("%d of %d bytes in time"):format(have, #bytes))
  end
  assert.is_true(table.concat(got) == bytes)
end

local LARGE = net.noise(6000000, 1)

-- The ways that bytes go.
local WAYS = {
  ["in the kernel"] = { extra = "" },
  ["by copying, as limits.pipes says"] = { conf = { limits = { pipes = 0 } } },
  ["of a traced connection"] = { extra = "on_prepare = function(conn) conn:trace(true) end," },
  ["of a shaped connection"] = { limits = { read_rate = 40000000, write_rate = 40000000 } },
  ["over a unix socket"] = { listen = "unix:@rille-pump-spec-" .. tonumber(net.C.net_getpid()) },
}

for name, opts in pairs(WAYS) do
  describe("conn:pump " .. name, function()
    after_each(server.cleanup)

    it("moves bytes both ways, and each end of them", function()
      local s, a, b = start(nil, nil, opts, opts.extra)
      pass(a, b, LARGE)
      pass(b, a, LARGE)
      a:send("last words"):shutdown_write()
      local all, how = b:receive_all()
      assert.equal("last words", all)
      assert.equal("closed", how)
      b:send("and an answer"):shutdown_write()
      assert.equal("and an answer", (a:receive_all()))
      assert.equal(("%d %d nil"):format(#LARGE + 10, #LARGE + 13), s:wait_said(1)[1])
      s:wait_state(function(state) return state.connections == 0 end)
      local state = s:state()
      assert.is_true(state.bytes_in >= 2 * #LARGE and state.bytes_out >= 2 * #LARGE)
    end)

    it("waits for a reader that is slow, and loses nothing", function()
      local s, a, b = start(nil, nil, opts, opts.extra)
      local sent = 0
      net.poll_until(function() -- as much as there is room for
        local more = a:try_send(LARGE, sent)
        sent = sent + more
        return sent == #LARGE or (more == 0 and s:state().turns > 20)
      end)
      local got, have = {}, 0
      while have < #LARGE do
        if sent < #LARGE then sent = sent + a:try_send(LARGE, sent) end
        local part = b:receive_some(sent < #LARGE and 0.001 or 5)
        if part then got[#got + 1], have = part, have + #part end
      end
      assert.is_true(table.concat(got) == LARGE)
    end)

    it("takes exactly so many bytes, and leaves the rest", function()
      local s, a, b = start("{ bytes = 100000 }", [[
        say("rest %s", conn:read_string(9))
        other:write("trailer") conn:close() other:close()
      ]], opts, opts.extra)
      a:send(LARGE:sub(1, 100000) .. "the rest.")
      assert.is_true(b:receive_all() == LARGE:sub(1, 100000) .. "trailer")
      assert.same({ "100000 0 nil", "rest the rest." }, { unpack(s:wait_said(2), 1, 2) })
    end)

    it("says when there were fewer", function()
      local s, a = start("{ bytes = 100 }", nil, opts, opts.extra)
      a:send("not so many"):shutdown_write()
      assert.equal("closed 11 0", s:wait_said(1)[1])
    end)

    it("sends first what was read already", function()
      local s, a, b = start(nil, nil, opts, (opts.extra or "") .. [[
        on_start = function()
          local old = run
          run = function(conn, other)
            local head = conn:peek(5)
            say("%s", conn:read_line():str())
            old(conn, other)
            say("%s", head:str())
          end
        end,
      ]])
      a:send("first\n" .. LARGE:sub(1, 9000))
      assert.equal("first", s:wait_said(1)[1])
      assert.is_true(b:receive(9000) == LARGE:sub(1, 9000))
      a:shutdown_write() b:shutdown_write()
      assert.same({ "9000 0 nil", "first" }, { unpack(s:wait_said(3), 2, 3) })
    end)

    it("ends after a silence, and both connections go on", function()
      local s, a, b = start("{ until_idle = 0.1 }", [[
        conn:send("a?\n") other:send("b?\n")
        say("%s %s", conn:read_line():str(), other:read_line():str())
        conn:close() other:close()
      ]], opts, opts.extra)
      pass(a, b, LARGE:sub(1, 300000))
      assert.equal("300000 0 idle", s:wait_said(1)[1])
      assert.equal("a?", a:receive_line())
      assert.equal("b?", b:receive_line())
      a:send("one\n") b:send("two\n")
      assert.equal("one two", s:wait_said(2)[2])
    end)

    it("goes on after a silence when one end has come and was passed on", function()
      local s, a, b = start("{ until_idle = 0.1 }", [[
        local idle, more, answer = third, conn:pump(other)
        say("%s %s %s", idle, tostring(more), tostring(answer))
        say("%s %s", tostring(conn:pump(other)), tostring(select(2, conn:pump(other, { both = false }))))
        conn:close() other:close()
      ]], opts, opts.extra)
      a:send "question"
      a:shutdown_write()
      assert.equal("question", b:receive(8))
      assert.equal("8 0 idle", s:wait_said(1)[1])
      assert.equal("", b:receive_all())
      b:send "answer"
      b:shutdown_write()
      assert.equal("answer", a:receive(6))
      assert.same({ "idle 0 6", "0 closed" }, { unpack(s:wait_said(3), 2, 3) })
    end)

    it("gives what is in its hands to the connection when it is cancelled", function()
      local s, a, b = start(nil, nil, opts, (opts.extra or "") .. [[
        on_start = function()
          local rille = require "rille"
          local pump = run
          run = function(conn, other)
            local task = rille.spawn(function() conn:pump(other) end)
            rille.sleep(0.3)
            task:cancel()
            task:join()
            local there, back = conn:pumped()
            conn:pause()
            say("pumped %d %d", there, back)
            other:send("END")
            conn:abort() other:close()
          end
        end,
      ]])
      local sent = 0
      net.poll_until(function()
        sent = sent + (a:try_send(LARGE, sent) or 0)
        return #s:said() > 0
      end)
      local there = tonumber(s:said()[1]:match "pumped (%d+) 0")
      local all = b:receive_all(10)
      assert.equal(there + 3, #all)
      assert.is_true(all == LARGE:sub(1, there) .. "END")
    end)
  end)
end

describe("conn:pump", function()
  after_each(server.cleanup)

  it("says which end was reset, after the bytes that came before", function()
    local s, a, b = start()
    a:send("before")
    assert.equal("before", b:receive(6))
    a:reset()
    assert.equal("reset 6 0", s:wait_said(1)[1])
    assert.equal("closed", select(2, b:receive_all()))
  end)

  it("ends when the other end is reset", function()
    local s, a, b = start()
    pass(a, b, "some")
    b:reset()
    net.poll_until(function() a:try_send("more") return #s:said() > 0 end)
    assert.truthy(s:said()[1]:match "^reset ")
  end)

  it("still hands on the answer of an end that does not read any more", function()
    local s, a, b = start()
    pass(a, b, "request")
    b:send("answer") b:close()
    assert.equal("answer", a:receive(6))
    a:close()
    s:wait_said(1)
  end)

  it("does not spin for a peer that was reset while the other does not read", function()
    local s, a, b = start()
    local sent = 0
    net.poll_until(function()
      local more = a:try_send(LARGE .. LARGE, sent)
      sent = sent + (more or 0)
      return more == 0
    end, 2)
    a:reset()
    local turns = s:state().turns
    net.nap(200)
    assert.is_true(s:state().turns - turns < 100)
    b:receive_all(20)
    assert.truthy(s:wait_said(1)[1]:match "^reset ")
  end)

  it("leaves the connection's own time-outs as they are", function()
    local s = start(nil, nil, { timeouts = { idle = 0.2 } })
    assert.equal("closed 0 0", s:wait_said(1)[1])
  end)

  it("does not let bytes that move be idle, and minds a peer that takes nothing", function()
    local s, a, b = start(nil, nil, { timeouts = { idle = 0.5, write = 0.5, read = 0.1 } })
    for _ = 1, 8 do
      pass(a, b, "tick")
      net.nap(100)
    end
    local sent = 0
    net.poll_until(function()
      sent = sent + (a:try_send(LARGE, sent) or 0)
      return #s:said() > 0
    end)
    assert.truthy(s:said()[1]:match "^closed ")
  end)

  it("goes one way only, while another task reads the other", function()
    local s, a, b = start("{ both = false }", nil, nil, [[
      on_start = function()
        local rille = require "rille"
        local old = run
        run = function(conn, other)
          rille.spawn(function() say("read %s", other:read_line():str()) end)
          return old(conn, other)
        end
      end,
    ]])
    b:send("hello\n")
    assert.equal("read hello", s:wait_said(1)[1])
    pass(a, b, LARGE)
    a:shutdown_write()
    assert.equal(#LARGE .. " 0 nil", s:wait_said(2)[2])
  end)

  it("is refused for what is pumped or read already, and ends when another task closes a side", function()
    local s, a = start(nil, nil, nil, [[
      on_start = function()
        local rille = require "rille"
        local old = run
        run = function(conn, other)
          rille.spawn(function()
            local _, err = other:pump(conn)
            local _, why = conn:read(1)
            local _, how = conn:detach()
            say("%s %s %s", err, why, how)
            other:close()
          end)
          return old(conn, other)
        end
      end,
    ]])
    assert.same({ "busy busy busy", "closed 0 0" }, { unpack(s:wait_said(2), 1, 2) })
    a:receive_all()
  end)

  it("holds up a stop until its end, or as long as that lasts", function()
    local s, a, b = start(nil, nil, { conf = { drain_timeout = 0.3 } })
    pass(a, b, "going on")
    s:signal "TERM"
    pass(b, a, "still")
    s:stop()
  end)

  it("raises for what is no connection or option", function()
    local s = server.start([[
      return { on_connect = function(conn)
        local function try(...) return select(2, pcall(conn.pump, conn, ...)) end
        say("%s", try(1)) say("%s", try(conn)) say("%s", try(require("rille").pair(), { byte = 1 }))
        say("%s", try(require("rille").pair(), { bytes = -1 })) say("%s", tostring(conn:pumped()))
      end, on_request = function() end }
    ]])
    s:connect()
    local said = s:wait_said(5)
    assert.truthy(said[1]:match "a connection expected, got number")
    assert.truthy(said[2]:match "another connection")
    assert.truthy(said[3]:match "no option 'byte'")
    assert.truthy(said[4]:match "bytes: ")
    assert.equal("nil", said[5])
  end)
end)
