-- The ends a connection can have, what on_close is told, and connections that scripts make or give away.

local server = require "spec.support.server"
local net = server.net

describe("conn: closing", function()
  after_each(server.cleanup)

  it("drains the output first, to a slow reader too", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(1)
          conn.high_water = 1e8
          conn:write(("x"):rep(8000000))
          conn:write("end")
          conn:close()
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { timeouts = { linger = 10 } })
    local c = s:connect { receive_buffer = 16384 }
    c:send("x")
    local text, how = c:receive_all(10)
    assert.equal(8000003, #text)
    assert.equal("xend", text:sub(-4))
    assert.equal("closed", how)
    assert.same({ "close nil" }, s:wait_said(1))
  end)

  it("does not let unread input turn the last answer into a reset", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line()
        conn:write("too much: " .. line .. "\n")
        conn:close()
      end
    ]])
    for _ = 1, 20 do
      local c = s:connect()
      c:send("hello\n" .. ("x"):rep(100000))
      local text, how = c:receive_all()
      assert.same({ "too much: hello\n", "closed" }, { text, how })
      c:close()
    end
  end)

  it("gives up the rest after the linger timeout", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(1)
          conn.high_water = 1e8
          conn:write(("x"):rep(20000000))
          conn:close()
          say("closing")
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { timeouts = { linger = 0.1 } })
    local c = s:connect { receive_buffer = 8192 }
    c:send("x")
    s:wait_log("said closing")
    local started = net.now()
    assert.same({ "closing", "close timeout" }, s:wait_said(2))
    assert.is_true(net.now() - started < 1.5 * net.slow)
    assert.is_true(#c:receive_all() < 20000000)
  end)

  it("aborts with a reset", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(1)
          conn:write("never seen")
          conn:abort()
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    local c = s:connect()
    c:send("x")
    local text, how = c:receive_all()
    assert.same({ "", "reset" }, { text, how })
    assert.same({ "close nil" }, s:wait_said(1))
  end)

  it("calls on_close functions, last added first, and at once when it is over", function()
    local s = server.start([[
      local held
      return {
        on_connect = function(conn)
          for i = 1, 3 do
            conn:on_close(function(same, err) say("closer %d %s %s", i, tostring(err), tostring(same == conn)) end)
          end
        end,
        on_request = function(conn)
          conn:skip(1)
          conn:on_close(function() error("closer 4") end)
          conn:on_close(function(_, err) say("closer 5 %s", tostring(err)) end)
          held = conn
        end,
        on_close = function(conn, err)
          say("hook %s", tostring(err))
          rille.after(0, function()
            held:on_close(function(same, e) say("late %s %s", tostring(e), tostring(same == held)) end)
          end)
        end,
      }
    ]], { allow_errors = true })
    local c = s:connect()
    c:send("x")
    s:wait_state(function(state) return state.messages == 1 end)
    c:close()
    assert.same({ "closer 5 nil", "closer 3 nil true", "closer 2 nil true", "closer 1 nil true", "hook nil", "late nil true" },
      s:wait_said(6))
    assert.equal(1, s:count_log("closer 4"))
  end)

  it("tells on_close why, exactly once, whoever ends it", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          local word = conn:read_line():str()
          if word == "close" then conn:close(); conn:close(); conn:abort() end
          if word == "abort" then conn:abort(); conn:abort(); conn:close() end
          if word == "error" then error("raised") end
          if word == "close and error" then conn:close(); error("raised") end
          if word == "abort and error" then conn:abort(); error("raised") end
          if word == "partial" then conn:next(100) end
          if word == "partial close" and not conn:next(100) then conn:close() end
          if word == "idle" then conn:set_timeouts { idle = 0.01 } end
        end,
        on_close = function(conn, err) say("%s %s", tostring(err), tostring(conn:is_active())) end,
      }
    ]], { allow_errors = true })
    local n = 0
    local function ends(word, expected, how)
      local c = s:connect()
      c:send(word .. "\n")
      if how then
        s:wait_state(function(state) return state.connections == 1 end)
        c[how](c)
      end
      n = n + 1
      assert.equal(expected .. " false", s:wait_said(n)[n], word)
      c:close()
    end
    ends("close", "nil")
    ends("abort", "nil")
    ends("error", "error")
    ends("close and error", "error")
    ends("abort and error", "error")
    ends("idle", "timeout")
    ends("x", "nil", "close")
    ends("partial", "nil", "close")
    ends("x", "reset", "reset")
    ends("partial close\nhalf a message", "closed", "close")
    local c = s:connect()
    c:send("stay\n")
    s:wait_state(function(state) return state.connections == 1 end)
    s:stop()
    assert.equal("shutdown false", s:said()[n + 1])
    assert.equal(n + 1, #s:said())
    assert.equal("closed", select(2, c:receive_all()))
  end)

  it("answers a peer that has ended its side", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          local line = conn:read_line()
          rille.sleep(0.05)
          conn:write(("answer to %s\n"):format(line))
        end,
        on_disconnect = function() say("disconnect") end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    local c = s:connect()
    c:send("one\ntwo\nthree\n")
    c:shutdown_write()
    assert.equal("answer to one\nanswer to two\nanswer to three\n", (c:receive_all()))
    assert.same({ "disconnect", "close nil" }, s:wait_said(2))
  end)

  it("drains a large answer to a peer that has ended its side", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        conn.high_water = 1e8
        conn:write(("x"):rep(5000000))
      end
    ]])
    local c = s:connect { receive_buffer = 16384 }
    c:send("x")
    c:shutdown_write()
    assert.equal(5000000, #c:receive_all(10))
  end)

  it("ends at once, without waiting for a peer that is silent", function()
    local s = server.start([[
      return function(conn) conn:skip(1); conn:close() end
    ]])
    for _ = 1, 10 do
      local c = s:connect()
      c:send("x")
      c:receive_all()
      s:wait_state(function(state) return state.connections == 0 end)
    end
  end)
end)

describe("conn: given away and made by a script", function()
  after_each(server.cleanup)

  it("detaches its descriptor, which lives on", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:read_line()
          conn:write("flushed first\n")
          local fd, err = conn:detach()
          say("fd %s %s", type(fd), tostring(err))
          say("after %s", select(2, conn:write("x")))
          rille.spawn(function()
            rille.sleep(0.02)
            local again = rille.adopt(fd)
            again:send("adopted\n")
            while true do
              local line = again:read_line()
              if not line then break end
              again:send("<" .. line .. ">\n")
              again:release()
            end
            again:close()
          end)
        end,
        on_disconnect = function() say("disconnect") end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    local c = s:connect()
    c:send("go\n")
    assert.equal("flushed first", c:receive_line())
    assert.equal("adopted", c:receive_line())
    c:send("hello\n")
    assert.equal("<hello>", c:receive_line())
    assert.same({ "fd number nil", "after closed", "close nil" }, s:wait_said(3))
    local descriptors = s:descriptors()
    c:shutdown_write()
    c:receive_all()
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal(descriptors - 1, s:descriptors())
  end)

  it("makes pairs", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        local a, b = rille.pair()
        rille.spawn(function()
          while true do
            local line = b:read_line()
            if not line then break end
            b:send(line:str():upper() .. "\n")
            b:release()
          end
          conn:write("b ends\n")
          b:close()
        end)
        for _, word in ipairs { "one", "two" } do
          a:send(word .. "\n")
          conn:write(a:read_line())
          a:release()
        end
        a:close()
        conn:write(tostring(select(2, a:read(1))) .. "\n")
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.equal("ONETWOclosed", c:receive_line())
    assert.equal("b ends", c:receive_line())
    s:wait_state(function(state) return state.connections == 1 end)
  end)

  it("echoes ten thousand messages through a pair", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        local a, b = rille.pair()
        b:on_request(function(x) x:write(x:next(x:len())) end)
        local total = 0
        rille.spawn(function()
          for i = 1, 10000 do a:write(("x"):rep(256)) end
        end)
        while total < 2560000 do
          total = total + a:read():len()
          a:release()
        end
        conn:write(total .. "\n")
        a:close()
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.equal("2560000", c:receive_line(10))
  end)

  it("closes a pair that nobody holds any more", function()
    local s = server.start([[
      local rille = require "rille"
      return function(conn)
        conn:read_line()
        local b
        do
          local a
          a, b = rille.pair()
        end
        rille.spawn(function()
          local _, err = b:read(1)
          conn:write("other end " .. tostring(err) .. "\n")
          b:close()
        end)
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    -- no input wakes the loop: the collector's own idle work has to
    assert.equal("other end closed", c:receive_line(10))
    s:wait_state(function(state) return state.connections == 1 end)
  end)

  it("adopts pipes and sockets", function()
    local s = server.start([[
      local ffi = require "ffi"
      ffi.cdef "int pipe(int fds[2]); int socketpair(int, int, int, int fds[2]); int dup(int); int close(int);"
      return function(conn)
        conn:read_line()
        local fds = ffi.new("int[2]")
        ffi.C.pipe(fds)
        local from, to = rille.adopt(fds[0]), rille.adopt(fds[1])
        to:send(("p"):rep(200000):sub(1, 1000))
        rille.spawn(function()
          to:write(("p"):rep(500000))
          to:close()
        end)
        local total = 0
        while true do
          local slice = from:read()
          if not slice then break end
          total = total + slice:len()
          from:release()
        end
        from:close()
        conn:write("pipe " .. total .. "\n")

        ffi.C.socketpair(1, 1, 0, fds)
        local a, b = rille.adopt(fds[0]), rille.adopt(fds[1])
        a:send("over the pair\n")
        conn:write(b:read_line() .. "\n")
        a:close()
        b:close()
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.equal("pipe 501000", c:receive_line())
    assert.equal("over the pair", c:receive_line())
    s:wait_state(function(state) return state.connections == 1 end)
  end)

  it("leaves a descriptor it cannot adopt to the caller", function()
    local s = server.start([[
      local ffi = require "ffi"
      ffi.cdef "int open(const char *, int); int close(int); int socket(int, int, int); int fcntl(int, int, ...);"
      return function(conn)
        conn:read_line()
        local file = ffi.C.open("/etc/hostname", 0)
        local c, err = rille.adopt(file)
        conn:write(("%s %s, open %s\n"):format(c, err, ffi.C.fcntl(file, 1) >= 0))
        ffi.C.close(file)
        local lone = ffi.C.socket(2, 1, 0)
        c, err = rille.adopt(lone)
        conn:write(("%s %s, open %s\n"):format(c, err, ffi.C.fcntl(lone, 1) >= 0))
        ffi.C.close(lone)
        c, err = rille.adopt(9999)
        conn:write(("%s %s\n"):format(c, err))
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.equal("nil not supported, open true", c:receive_line())
    assert.equal("nil invalid argument, open true", c:receive_line())
    assert.equal("nil invalid argument", c:receive_line())
    assert.equal(1, s:state().connections)
  end)
end)
