-- What a script asks and tells the kernel about a connection's socket, and the marks between which writers park.

local server = require "spec.support.server"

describe("conn: the socket", function()
  after_each(server.cleanup)

  it("tells what the kernel knows of a TCP connection", function()
    local s = server.start([[
      return function(conn)
        conn:send(("x"):rep(conn:read_line():tonumber()))
        conn:read_line()
        local info = conn:tcp_info()
        for _, name in ipairs { "rtt", "rttvar", "min_rtt", "rto", "total_retransmits", "unacked", "snd_cwnd", "snd_mss", "rcv_mss",
          "pmtu", "delivery_rate", "bytes_sent", "bytes_acked", "bytes_received", "last_data_sent" } do
          assert(type(info[name]) == "number", name)
        end
        conn:write(("%s %d %d %s %s %s\n"):format(info.state, info.bytes_acked, info.bytes_received,
          info.rtt > 0 and info.rtt < 10, info.snd_mss > 500, info.snd_cwnd >= 1))
      end
    ]])
    local c = s:connect()
    c:send("1000\n")
    c:receive(1000)
    c:send("go\n")
    assert.equal("established 1000 8 true true true", c:receive_line())
  end)

  it("has no TCP to tell of with other sockets", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        local a = rille.pair()
        for _, one in ipairs { conn, a } do
          conn:write(("%s %s\n"):format(one:tcp_info()))
          conn:write(("%s %s\n"):format(one:option("nodelay", true)))
          conn:write(("%s\n"):format(one:option("send_buffer") > 0))
        end
        a:close()
        rille.sleep(0.01)
        conn:write(("%s %s %s\n"):format((select(2, a:dup())), (select(2, a:option("nodelay"))), (select(2, a:tcp_info()))))
      end
    ]], { listen = "unix://" .. server.folder() .. "/sock" })
    local c = s:connect()
    c:send("x\n")
    for _ = 1, 2 do
      assert.equal("nil not supported", c:receive_line())
      assert.equal("nil not supported", c:receive_line())
      assert.equal("true", c:receive_line())
    end
    assert.equal("closed closed closed", c:receive_line())
  end)

  it("reads and sets options", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        local function say(...) conn:write(("%s %s\n"):format(tostring((...)), tostring((select(2, ...))))) end
        for _, one in ipairs { { "nodelay", false }, { "keepalive", true }, { "keepalive_idle", 30 }, { "keepalive_interval", 7 },
          { "keepalive_count", 3 }, { "quickack", true }, { "user_timeout", 1.1 }, { "tos", 16 }, { "reset_on_close", false } } do
          local ok, err = conn:option(one[1], one[2])
          local got = conn:option(one[1])
          say(one[1], ok and got == one[2] or tostring(err or got))
        end
        conn:option("send_buffer", 20000)
        say("send_buffer", conn:option("send_buffer") >= 20000)
        say(conn:option("keepalive_count", 1000))
        say(conn:option("tos", 1.5))
        say(pcall(conn.option, conn, "colour"))
        say(pcall(conn.option, conn, "nodelay", 1))
        conn:option("reset_on_close", true)
        conn:close()
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    for _, name in ipairs { "nodelay", "keepalive", "keepalive_idle", "keepalive_interval", "keepalive_count", "quickack",
      "user_timeout", "tos", "reset_on_close", "send_buffer" } do
      assert.equal(name .. " true", c:receive_line())
    end
    assert.equal("nil invalid argument", c:receive_line())
    assert.equal("nil invalid argument", c:receive_line())
    assert.matches("^false .*script.lua:%d+: bad argument #1 to 'option' %(there is no 'colour'; there are keepalive, ", c:receive_line())
    assert.matches("^false .*script.lua:%d+: bad argument #2 to 'option' %(nodelay: a boolean expected, got number%)", c:receive_line())
    assert.equal("reset", select(2, c:receive_all()))
  end)

  it("has the write timeout as its TCP_USER_TIMEOUT, from the listening socket on", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        conn:write(conn:option("user_timeout") .. "\n")
        conn:set_timeouts { write = 3.25 }
        conn:write(conn:option("user_timeout") .. "\n")
        conn:set_timeouts { write = 0.1 }
        conn:write(conn:option("user_timeout") .. "\n")
        conn:set_timeouts { write = 0 }
        conn:write(conn:option("user_timeout") .. "\n")
      end
    ]], { timeouts = { write = 21 } })
    local c = s:connect()
    c:send("x\n")
    assert.equal("21", c:receive_line())
    assert.equal("3.25", c:receive_line())
    assert.equal("1", c:receive_line())
    assert.equal("0", c:receive_line())
  end)

  it("ends a connection whose peer takes nothing of what the kernel has", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(conn:len())
          conn:option("send_buffer", 4000000)
          conn:send(("x"):rep(1000000))
          say("sent")
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { timeouts = { write = 0.3 } })
    local c = s:connect { receive_buffer = 4096 }
    c:send("x")
    local said = s:wait_said(1, 20)
    if said[1] == "sent" then assert.equal("close timeout", s:wait_said(2, 30)[2]) end
  end)

  it("gives another descriptor of its socket, which outlives it", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        local fd = conn:dup()
        conn:send "conn\n"
        conn:close()
        rille.spawn(function()
          rille.sleep(0.05)
          local again = rille.adopt(fd)
          again:send "dup\n"
          again:close()
        end)
      end
    ]])
    local descriptors = s:descriptors()
    local c = s:connect()
    c:send("x\n")
    assert.equal("conn\ndup\n", (c:receive_all()))
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal(descriptors, s:descriptors())
  end)
end)

describe("conn: low_water", function()
  after_each(server.cleanup)

  -- What is still unsent when the parked writer goes on; a little of it goes on its way meanwhile.
  local SCRIPT = [[
    return function(conn)
      local high, low = conn:read_line():str():match("(%S+) (%S+)")
      conn:option("send_buffer", 32768)
      conn.high_water = tonumber(high)
      if low ~= "none" then conn.low_water = tonumber(low) end
      local sent = rille.loop.stats().bytes_out
      conn:write(("x"):rep(4000000))
      conn:write(("\n%d\n"):format(4000000 - (rille.loop.stats().bytes_out - sent)))
    end
  ]]

  local function left_over(s, line)
    local c = s:connect { receive_buffer = 65536 }
    c:send(line .. "\n")
    c:receive_line(20)
    local left = tonumber(c:receive_line(20))
    c:close()
    return left
  end

  it("is where a parked writer goes on, half of high_water if nobody says", function()
    local s = server.start(SCRIPT)
    local function between(least, most, line)
      local left = left_over(s, line)
      assert.is_true(left >= least and left <= most, ("%s: %d left"):format(line, left))
    end
    between(1000000, 2000000, "3999999 none")
    between(2500000, 3000000, "3999999 3000000")
    between(0, 10000, "3999999 10000")
    between(0, 0, "3999999 0")
    between(1000000, 2000000, "2000000 3000000") -- never above high_water
  end)

  it("comes from the configuration", function()
    local s = server.start([[
      return function(conn)
        conn:skip(conn:len())
        conn:option("send_buffer", 32768)
        local sent = rille.loop.stats().bytes_out
        conn:write(("x"):rep(2000000))
        conn:write(("\n%d\n"):format(2000000 - (rille.loop.stats().bytes_out - sent)))
      end
    ]], { limits = { high_water = 1000000, low_water = 4 } })
    local c = s:connect { receive_buffer = 4096 }
    c:send("x")
    c:receive_line(20)
    assert.is_true(tonumber(c:receive_line(20)) <= 4)
  end)

  it("raises for what is no size, and is refused above high_water in a configuration", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        conn.low_water = nil
        conn:write(tostring(select(2, pcall(function() conn.low_water = "x" end))) .. "\n")
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.matches("conn.low_water takes bytes, 0 or more, or nil, not x", c:receive_line())
    local bad = server.spawn("return function() end\n", { limits = { high_water = 1000, low_water = 2000 } })
    assert.equal(1, bad:wait_exit())
    assert.matches("conf%d+.lua:%d+: servers%[1%].limits.low_water: got 2000; expected at most high_water, 1000", bad:log())
    bad:forget()
  end)
end)

