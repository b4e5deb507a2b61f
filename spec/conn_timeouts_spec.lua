-- What time does to a connection. Spans are 50 to 150 ms; a time-out may be late on a busy machine, never early.

local server = require "spec.support.server"
local net = server.net

local LATE = 0.25 * net.slow

-- fn() has to take at least `least` seconds and not much longer.
local function takes(least, fn)
  local started = net.now()
  fn()
  local took = net.now() - started
  assert.is_true(took >= least - 0.002, ("took %.3f s, expected at least %.3f"):format(took, least))
  assert.is_true(took <= least + LATE, ("took %.3f s, expected %.3f"):format(took, least))
end

describe("conn: the read timeout", function()
  after_each(server.cleanup)

  it("gives nil, `timeout` and what is there; the connection goes on", function()
    local s = server.start([[
      return function(conn)
        conn:set_timeouts { read = 0.1 }
        local line, err, partial = conn:read_line()
        conn:write(("%s %s %s\n"):format(line, err, partial))
        local n
        n, err, partial = conn:next(10)
        conn:write(("%s %s %s\n"):format(n, err, partial))
        conn:set_timeouts { read = 0 }
        conn:write(conn:read_line() .. "\n")
      end
    ]])
    local c = s:connect()
    takes(0.2, function()
      c:send("par")
      assert.equal("nil timeout par", c:receive_line())
      assert.equal("nil timeout par", c:receive_line())
    end)
    net.nap(120) -- longer than the time-out there was
    c:send("tial\n")
    assert.equal("partial", c:receive_line())
  end)

  it("begins anew with each call, and ends with it", function()
    local s = server.start([[
      return {
        on_connect = function(conn) conn:set_timeouts { read = 0.15 } end,
        on_request = function(conn)
          local line, err = conn:read_line()
          conn:write((line or err) .. "\n")
          if not line then conn:close() end
        end,
      }
    ]])
    local c = s:connect()
    for _ = 1, 4 do
      c:send("l")
      net.nap(60)
      c:send("ine\n")
      assert.equal("line", c:receive_line())
      net.nap(60) -- no read waits now
    end
    c:send("x")
    assert.equal("timeout", c:receive_line())
  end)

  it("comes from the configuration, too", function()
    local s = server.start([[
      return function(conn)
        local line, err = conn:read_line()
        conn:write(tostring(err) .. "\n")
        conn:read_string(conn:len())
      end
    ]], { timeouts = { read = 0.1 } })
    local c = s:connect()
    takes(0.1, function()
      c:send("x")
      assert.equal("timeout", c:receive_line())
    end)
  end)

  it("is met by a hundred connections at once", function()
    local s = server.start([[
      return function(conn)
        local line, err = conn:read_line()
        conn:write(tostring(err) .. "\n")
        conn:close()
      end
    ]], { timeouts = { read = 0.1 } })
    local clients = {}
    for i = 1, 100 do
      clients[i] = s:connect()
      clients[i]:send("x")
    end
    for i = 1, 100 do assert.equal("timeout", clients[i]:receive_line()) end
    s:wait_state(function(state) return state.connections == 0 end)
  end)
end)

describe("conn: idle, lifetime and write timeouts", function()
  after_each(server.cleanup)

  local SAYS_WHY = "on_close = function(_, err) say('close %s', tostring(err)) end, "

  it("closes a connection without a byte in either direction", function()
    local s = server.start(([[
      return { %s
        on_request = function(conn) conn:write(conn:next(conn:len())) end,
      }
    ]]):format(SAYS_WHY), { timeouts = { idle = 0.15 } })
    local c = s:connect()
    for _ = 1, 5 do -- 0.3 s of traffic
      c:send("x")
      c:receive(1)
      net.nap(60)
    end
    takes(0.15, function()
      c:send("x")
      assert.same({ "x", "closed" }, { c:receive_all() })
    end)
    assert.same({ "close timeout" }, s:wait_said(1))
  end)

  it("does not take a handler that works for idle, but one that waits for input", function()
    local s = server.start(([[
      return { %s
        on_request = function(conn)
          local line = conn:read_line()
          if line == "work" then
            rille.sleep(0.3)
            conn:write("done\n")
          end
          local next_line, err = conn:read_line()
          say("read %%s", tostring(err))
        end,
      }
    ]]):format(SAYS_WHY), { timeouts = { idle = 0.1 } })
    local c = s:connect()
    takes(0.4, function()
      c:send("work\n")
      assert.equal("done", c:receive_line())
      c:receive_all()
    end)
    assert.same({ "read closed", "close timeout" }, s:wait_said(2))
  end)

  it("ends a connection whose life is over, busy or not", function()
    local s = server.start(([[
      return { %s
        on_request = function(conn)
          conn:write(conn:next(conn:len()))
        end,
      }
    ]]):format(SAYS_WHY), { timeouts = { lifetime = 0.2 } })
    takes(0.2, function()
      local c = s:connect()
      pcall(function()
        for _ = 1, 200 do
          c:send("x")
          c:receive(1)
          net.nap(5)
        end
      end)
      assert.is_truthy(c.ended)
    end)
    assert.same({ "close timeout" }, s:wait_said(1))
  end)

  it("closes one whose peer takes nothing, and tells the parked writer", function()
    local s = server.start(([[
      return { %s
        on_request = function(conn)
          conn:skip(1)
          local ok, err
          repeat ok, err = conn:write(("x"):rep(100000)) until not ok
          say("write %%s", err)
        end,
      }
    ]]):format(SAYS_WHY), { timeouts = { write = 0.15 } })
    local c = s:connect { receive_buffer = 8192 }
    takes(0.15, function()
      c:send("x")
      assert.same({ "write timeout", "close timeout" }, s:wait_said(2))
    end)
  end)

  it("leaves a slow but steady reader alone", function()
    local s = server.start(([[
      return { %s
        on_request = function(conn)
          conn:skip(1)
          conn:send(("x"):rep(1000000))
          conn:write("end")
          conn:close()
        end,
      }
    ]]):format(SAYS_WHY), { timeouts = { write = 0.3 }, server = { send_buffer = 32768 } })
    local c = s:connect { receive_buffer = 8192 }
    c:send("x")
    local have, stop = 0, net.now() + 0.6
    while net.now() < stop do
      net.nap(10)
      have = have + #c:receive(8000)
    end
    assert.equal(1000003 - have, #c:receive_all())
    assert.same({ "close nil" }, s:wait_said(1))
  end)

  it("calls on_idle instead, once for each direction and span", function()
    local s = server.start([[
      return {
        on_request = function(conn) conn:next(conn:len()) end,
        on_idle = function(conn, what)
          if what == "write" then return conn:write("ping\n") end
          say("idle %s", what)
          conn:close()
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { timeouts = { idle = 0.1 } })
    local c = s:connect()
    local pings, stop = 0, net.now() + 0.45
    while net.now() < stop do -- never silent for long itself
      c:send("pong\n")
      if c:receive_some(0.04 / net.slow) then pings = pings + 1 end
    end
    assert.is_true(pings >= 2 and pings <= 4, pings)
    assert.same({}, s:said())
    c:receive_all() -- silent now: on_idle(conn, "read")
    assert.same({ "idle read", "close nil" }, s:wait_said(2))
  end)

  it("waits for a slow on_idle before it calls it again", function()
    local s = server.start([[
      local running, most, calls = 0, 0, 0
      return {
        on_request = function(conn)
          conn:next(conn:len())
          conn:write(("%d at a time, called %s\n"):format(most, calls > 2 and "often" or calls))
        end,
        on_idle = function()
          calls = calls + 1
          running = running + 1
          if running > most then most = running end
          rille.sleep(0.06)
          running = running - 1
        end,
      }
    ]], { timeouts = { idle = 0.02 } })
    local c = s:connect()
    net.nap(350)
    c:send("x")
    assert.equal("1 at a time, called often", c:receive_line())
  end)

  it("counts from now when it is changed", function()
    local s = server.start(([[
      return { %s
        on_request = function(conn)
          conn:skip(1)
          conn:set_timeouts { idle = 0.1 }
          conn:set_timeouts { lifetime = 50 }
        end,
      }
    ]]):format(SAYS_WHY), { timeouts = { idle = 60 } })
    local c = s:connect()
    net.nap(150)
    takes(0.1, function()
      c:send("x")
      c:receive_all()
    end)
    assert.same({ "close timeout" }, s:wait_said(1))
  end)

  it("takes the longest spans and the shortest", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        conn:set_timeouts { read = 3600000, write = 3600000, idle = 3600000, lifetime = 3600000, linger = 3600000 }
        conn:write("ok\n")
        conn:set_timeouts { read = 1e-6 }
        conn:write(tostring(select(2, conn:read(1))) .. "\n")
      end
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal("ok", c:receive_line())
    assert.equal("timeout", c:receive_line())
  end)
end)
