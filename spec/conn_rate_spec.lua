-- Bytes a second of a connection: limits.read_rate, limits.write_rate and conn:set_rate. A quarter of a second's bytes may go at once,
-- so a span is never shorter than the rest takes; it may be longer on a busy machine.

local server = require "spec.support.server"
local net = server.net

local LATE = 1.5 * net.slow

-- fn() takes as long as so many bytes do at this rate.
local function takes(bytes, rate, fn)
  local started = net.now()
  fn()
  local took, least = net.now() - started, bytes / rate - 0.25
  assert.is_true(took >= least - 0.05, ("took %.3f s, expected at least %.3f"):format(took, least))
  assert.is_true(took <= bytes / rate + LATE, ("took %.3f s, expected %.3f"):format(took, bytes / rate))
end

local SINK = [[
  return {
    on_connect = function(conn)
      conn.ctx = 0
    end,
    on_request = function(conn)
      conn.ctx = conn.ctx + conn:len()
      conn:skip(conn:len())
      if conn.ctx >= 100000 then conn:write("done\n") conn.ctx = conn.ctx - 100000 end
    end,
  }
]]

describe("conn: the read rate", function()
  after_each(server.cleanup)

  it("bounds what a peer can send", function()
    local s = server.start(SINK, { limits = { read_rate = 100000 } })
    local c = s:connect()
    takes(100000, 100000, function()
      c:send(("x"):rep(100000))
      assert.equal("done", c:receive_line(10))
    end)
  end)

  it("costs little while it waits", function()
    local s = server.start(SINK, { limits = { read_rate = 100000 } })
    local c = s:connect()
    local before, turns = s:cpu(), s:state().turns
    c:send(("x"):rep(100000))
    assert.equal("done", c:receive_line(10))
    turns = s:state().turns - turns
    assert.is_true(turns < 400, turns .. " turns")
    if not net.is_sanitized then assert.is_true(s:cpu() - before < 0.5) end
  end)

  it("does not make a connection idle, nor a read late", function()
    local s = server.start([[
      return {
        on_connect = function(conn)
          conn:set_rate { read = 50000 }
          conn:set_timeouts { read = 0.1, idle = 0.15 }
        end,
        on_request = function(conn)
          local slice, err = conn:next(40000)
          conn:write((slice and slice:len() or err) .. "\n")
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    local c = s:connect()
    c:send(("x"):rep(40000))
    assert.equal("40000", c:receive_line(10))
    assert.equal(0, #s:said())
    -- and it is late when the peer is
    c:send("x")
    assert.equal("timeout", c:receive_line(10))
    assert.equal("close timeout", s:wait_said(1)[1])
  end)

  it("is over with the peer, whose last bytes are all read", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          local n = 0
          while true do
            local slice, err = conn:read()
            if not slice then return say("%d %s", n, err) end
            n = n + slice:len()
            conn:release()
          end
        end,
      }
    ]], { limits = { read_rate = 20000 } })
    local c = s:connect()
    c:send(("x"):rep(12345))
    c:shutdown_write()
    assert.equal("12345 closed", s:wait_said(1, 10)[1])
    c = s:connect()
    c:send(("x"):rep(12345))
    s:wait_state(function(state) return state.connections == 2 or state.connections == 1 and state.accepted == 2 end)
    c:close()
    assert.equal("12345 closed", s:wait_said(2, 10)[2])
  end)

  it("holds for requests over HTTP too", function()
    local s = server.start([[
      return function(req, res)
        res:write(tostring(#assert(req:body()):str()))
      end
    ]], { listen = "http://127.0.0.1:0", limits = { read_rate = 50000 }, timeouts = { header = 1, body = 0.2 } })
    local c = s:connect()
    takes(50000, 50000, function()
      c:send("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 50000\r\n\r\n" .. ("x"):rep(50000))
      assert.matches("^HTTP/1.1 200 .*\r\n5000\r?\n?", (c:receive_all(10)))
    end)
  end)
end)

describe("conn: the write rate", function()
  after_each(server.cleanup)

  local SOURCE = [[
    return {
      on_request = function(conn)
        local line = conn:read_line():str()
        conn.high_water = 1e8
        if line == "rate" then return conn:set_rate { write = 50000 } end
        if line == "none" then return conn:set_rate { read = 0, write = 0 } end
        conn:write(("x"):rep(tonumber(line)))
        if line == "60001" then conn:close() end
      end,
      on_close = function(_, err) say("close %s", tostring(err)) end,
    }
  ]]

  it("bounds what is sent", function()
    local s = server.start(SOURCE, { limits = { write_rate = 100000 } })
    local c = s:connect()
    takes(100000, 100000, function()
      c:send("100000\n")
      assert.equal(("x"):rep(100000), c:receive(100000, 10))
    end)
  end)

  it("is set and taken away at any time", function()
    local s = server.start(SOURCE)
    local c = s:connect()
    c:send("3000000\n")
    c:receive(3000000, 10)
    takes(50000, 50000, function()
      c:send("rate\n50000\n")
      c:receive(50000, 10)
    end)
    local started = net.now()
    c:send("5000000\n")
    c:receive(1, 10)
    c:send("none\n")
    c:receive(4999999, 20)
    assert.is_true(net.now() - started < 20 * net.slow)
  end)

  it("lets a close drain, however long that takes, and counts neither as idle nor as slow", function()
    local short = 0.1 * net.slow -- beside what it takes
    local s = server.start(SOURCE, { timeouts = { linger = short, write = short, idle = short } })
    local c = s:connect()
    takes(60001, 50000, function()
      c:send("rate\n60001\n")
      local text, how = c:receive_all(10)
      assert.equal(60001, #text)
      assert.equal("closed", how)
    end)
    assert.equal("close nil", s:wait_said(1)[1])
  end)

  it("holds what topics send, too", function()
    local s = server.start([[
      local t = rille.topic("t")
      return {
        on_connect = function(conn)
          conn:set_rate { write = 50000 }
          t:subscribe(conn)
        end,
        on_request = function(conn)
          conn:skip(conn:len())
          for _ = 1, 50 do t:publish(("x"):rep(1000)) end
        end,
      }
    ]])
    local c = s:connect()
    takes(50000, 50000, function()
      c:send("x")
      c:receive(50000, 10)
    end)
  end)

  it("works byte by byte, and for huge rates", function()
    local s = server.start([[
      return function(conn)
        local rate, n = conn:read_line():str():match("(%d+) (%d+)")
        conn:set_rate { write = tonumber(rate), read = tonumber(rate) }
        conn:write(("x"):rep(tonumber(n)))
      end
    ]])
    local c = s:connect()
    takes(20, 20, function()
      c:send("20 20\n")
      c:receive(20, 10)
    end)
    c:close()
    c = s:connect()
    c:send("1073741824 20000000\n")
    c:receive(20000000, 20)
  end)

  it("raises for what is no rate", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        for _, t in ipairs { { read = -1 }, { write = "x" }, { speed = 1 }, { read = 2 ^ 40 }, { read = 0.5 } } do
          conn:write(select(2, pcall(conn.set_rate, conn, t)) .. "\n")
        end
        conn:close()
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.matches("set_rate: read takes bytes a second", c:receive_line())
    assert.matches("set_rate: write takes bytes a second", c:receive_line())
    assert.matches("set_rate has no 'speed': it takes read, write", c:receive_line())
    assert.matches("set_rate: read takes bytes a second", c:receive_line())
    assert.matches("set_rate: read takes bytes a second", c:receive_line())
  end)
end)
