-- Writing to a connection: order, atomicity, high water, slow and dead readers, and transfers large enough to meet every limit.

local server = require "spec.support.server"
local net = server.net

local MIB = 1024 * 1024

describe("conn: writing", function()
  after_each(server.cleanup)

  it("sends strings, slices and buffers in the order they were written", function()
    local s = server.start([[
      local LinkBuffer = require "rille.linkbuffer"
      return function(conn)
        local slice = conn:next(5)
        local big = conn:take(10000)
        local own = LinkBuffer.new()
        own:write("own")
        own:flush()
        conn:write("a string;")
        conn:write(slice)
        conn:write(big)
        conn:write(own)
        conn:write_u8(255)
        conn:write_u16(0x0102)
        conn:write_u32(0x01020304, "le")
        conn:write_varint(300)
        conn:pack(">I2z", 7, "zero")
        conn:write_byte(10)
        conn:write("")
        conn:write(("x"):rep(10000))
        own:close()
        big:close()
      end
    ]])
    local c = s:connect()
    c:send("slice" .. ("b"):rep(10000))
    local expected = "a string;slice" .. ("b"):rep(10000) .. "own\255\1\2\4\3\2\1\172\2\0\7zero\0\n" .. ("x"):rep(10000)
    assert.equal(expected, c:receive(#expected))
  end)

  it("fills room of the output in place", function()
    local s = server.start([[
      local ffi = require "ffi"
      return function(conn)
        conn:skip(conn:len())
        local room = conn:malloc(100)
        ffi.fill(room, 100, 65)
        conn:malloc_ack(50)
        conn:write("end\n")
      end
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal(("A"):rep(50) .. "end", c:receive_line())
  end)

  it("sends when the handler parks, and at flush", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        conn:write("before the sleep\n")
        rille.sleep(0.02)
        conn:write("flushed\n")
        conn:write(tostring(conn:flush()) .. "\n")
        conn:send("sent\n")
        conn:read_line()
      end
    ]])
    local c = s:connect()
    c:send("x")
    for _, line in ipairs { "before the sleep", "flushed", "true", "sent" } do assert.equal(line, c:receive_line()) end
    c:send("\n")
  end)

  it("keeps each write of many tasks in one piece", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        local tasks = {}
        for i = 1, 8 do
          tasks[i] = rille.spawn(function()
            for _ = 1, 5 do
              conn:write(string.char(64 + i):rep(100000))
              if i % 2 == 0 then rille.yield() end
            end
          end)
        end
        for i = 1, 8 do tasks[i]:join() end
        conn:close()
      end
    ]], { limits = { high_water = 150000 } })
    local c = s:connect { receive_buffer = 8192 }
    c:send("x")
    local text = c:receive_all(10)
    assert.equal(8 * 5 * 100000, #text)
    for at = 1, #text, 100000 do
      assert.is_true(text:sub(at, at + 99999) == text:sub(at, at):rep(100000), "mixed at " .. at)
    end
  end)

  it("parks above high_water, so that a client that never reads costs no memory", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        local piece, n = ("x"):rep(65536), 0
        while conn:write(piece) do n = n + 1 end
        say("gave up after %d", n)
      end
    ]], { limits = { high_water = 500000 }, server = { send_buffer = 65536 } })
    local c = s:connect { receive_buffer = 8192 }
    c:send("x")
    local state = s:wait_state(function(state) return state.bytes_out > 0 and state.block_bytes > 400000 end)
    local before = state.bytes_out
    net.nap(50)
    state = s:state()
    assert.equal(before, state.bytes_out)
    assert.is_true(state.block_bytes < 1 * MIB)
    assert.same({}, s:said())
    c:close()
    s:wait_log("said gave up after")
  end)

  it("lets a script set its own high water", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        conn.high_water = 10 * 1024 * 1024
        for _ = 1, 64 do conn:write(("x"):rep(65536)) end
        say("written")
        conn:close()
      end
    ]], { server = { send_buffer = 65536 } })
    local c = s:connect { receive_buffer = 8192 }
    c:send("x")
    s:wait_log("said written") -- nobody has read yet
    assert.equal(64 * 65536, #c:receive_all())
  end)

  it("wakes a parked writer when its peer is gone", function()
    local s = server.start([[
      local function give(conn)
        local ok, err
        repeat ok, err = conn:write(("x"):rep(100000)) until not ok
        say("write %s", err)
        say("after %s", select(2, conn:write("x")))
        say("flush %s", select(2, conn:flush()))
      end
      return {
        on_request = function(conn)
          conn:skip(1)
          give(conn)
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    for _, how in ipairs { "close", "reset" } do
      local c = s:connect { receive_buffer = 8192 }
      c:send("x")
      c:receive(10)
      s:wait_state(function(state) return state.block_bytes > 900000 end)
      c[how](c)
      local n = how == "close" and 0 or 4
      local said = s:wait_said(n + 4)
      for i = 1, 3 do assert.matches("^%a+ [cr][le]os?ed$", (said[n + i]:gsub("reset", "closed"))) end
      assert.equal("close reset", said[n + 4])
    end
  end)

  it("gives nil, err after the end, whatever is called", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        conn:close()
        local function show(name, ...) say("%s %s %s", name, tostring((...)), tostring((select(2, ...)))) end
        show("write", conn:write("x"))
        show("send", conn:send("x"))
        show("write_u8", conn:write_u8(1))
        show("shutdown", conn:shutdown("write"))
        show("malloc", conn:malloc(10))
        rille.sleep(0.01)
        show("write", conn:write("x"))
        show("read", conn:read(1))
        show("next", conn:next(1))
        show("close", conn:close())
        show("detach", conn:detach())
        show("active", conn:is_active())
        show("timeouts", conn:set_timeouts { idle = 1 })
      end
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal("", (c:receive_all()))
    assert.same({
      "write nil closed", "send nil closed", "write_u8 nil closed", "shutdown nil closed", "malloc nil closed",
      "write nil closed", "read nil closed", "next nil closed", "close true nil", "detach nil closed",
      "active false nil",
    }, (function()
      local list = s:wait_said(12)
      list[12] = nil -- set_timeouts may still work
      return list
    end)())
  end)

  it("ends its own side with shutdown and goes on reading", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(1)
          conn:write("last words")
          conn:shutdown("write")
          say("write %s", select(2, conn:write("more")))
          say("read %s", conn:read_line())
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal("last words", (c:receive_all()))
    c:send("still here\n")
    s:wait_log("said read still here")
    c:close()
    assert.same({ "write closed", "read still here", "close nil" }, s:wait_said(3))
  end)

  it("drains the output before a shutdown", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        conn.high_water = 1e8
        conn:write(("x"):rep(4000000))
        conn:shutdown("write")
      end
    ]])
    local c = s:connect { receive_buffer = 8192 }
    c:send("x")
    assert.equal(4000000, #c:receive_all())
  end)
end)

describe("conn: large transfers", function()
  after_each(server.cleanup)

  it("echo 64 MiB intact over TCP and Unix sockets", function()
    local size = net.is_sanitized and 8 * MIB or 64 * MIB
    local path = server.folder() .. "/sock"
    local s = server.start("scripts/echo.lua", { listen = { "tcp://127.0.0.1:0", "unix://" .. path } })
    local bytes = net.noise(size)
    for _, url in ipairs(s.urls) do
      local c = s:connect(nil, url)
      assert.is_true(c:exchange(bytes, size, 30) == bytes, url)
      c:close()
    end
    local state = s:wait_state(function(state) return state.connections == 0 end)
    assert.equal(0, state.blocks)
    assert.is_true(state.cached_bytes < 32 * MIB)
  end)

  it("echo sizes from 1 byte to 16 MiB, one after the other", function()
    local s = server.start("scripts/echo.lua")
    local c = s:connect()
    local bytes = net.noise(16 * MIB, 7)
    local size = net.is_sanitized and 4 * MIB or 16 * MIB
    while size >= 1 do
      local part = bytes:sub(1, size)
      assert.is_true(c:exchange(part, size, 20) == part, size)
      size = math.floor(size / 2)
    end
  end)

  it("send a stream much larger than any buffer to a slow reader, flush by flush", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        for i = 1, 32 do
          local ok, err = conn:send(string.char(64 + i):rep(500000))
          if not ok then return say("failed %s", err) end
        end
        conn:close()
      end
    ]])
    local c = s:connect { receive_buffer = 16384 }
    c:send("x")
    local text = c:receive_all(20)
    assert.equal(32 * 500000, #text)
    for i = 1, 32 do
      assert.is_true(text:sub((i - 1) * 500000 + 1, i * 500000) == string.char(64 + i):rep(500000), "part " .. i)
    end
  end)
end)
