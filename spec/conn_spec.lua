-- A connection's life as its peer and the script's hooks see it. Reading, writing, closing, errors and time have files of their own.

local server = require "spec.support.server"
local net = server.net

-- Says each hook's call.
local HOOKS = [[
local function show(err) return tostring(err) end
local hooks = {
  on_prepare = function() say("prepare") end,
  on_connect = function() say("connect") end,
  on_request = function(conn) say("request %s", conn:next(conn:len())) end,
  on_disconnect = function() say("disconnect") end,
  on_close = function(_, err) say("close %s", show(err)) end,
}
]]

describe("conn: hooks", function()
  after_each(server.cleanup)

  it("calls them in order, each once", function()
    local s = server.start(HOOKS .. "return hooks\n")
    local c = s:connect()
    c:send("x")
    s:wait_log("said request x")
    c:close()
    assert.same({ "prepare", "connect", "request x", "disconnect", "close nil" }, s:wait_said(5))
    s:stop()
    assert.equal(5, #s:said())
  end)

  it("refuses a connection when on_prepare returns false", function()
    local s = server.start(HOOKS .. [[
      hooks.on_prepare = function(conn) say("prepare %s", conn:peer()); return false end
      return hooks
    ]])
    local c = s:connect()
    local text, how = c:receive_all()
    assert.same({ "", "closed" }, { text, how })
    assert.same({ "prepare 127.0.0.1:" .. c:port(), "close nil" }, s:wait_said(2))
    local d = s:connect()
    d:send(("x"):rep(5000)) -- it is not read by anybody
    d:receive_all()
    d:close()
    s:wait_said(4)
    s:stop()
    assert.equal(4, #s:said())
  end)

  it("accepts with every other result of on_prepare, and loses no byte sent meanwhile", function()
    local s = server.start(HOOKS .. [[
      hooks.on_prepare = function() rille.sleep(0.05); return nil end
      hooks.on_request = function(conn) conn:write(conn:next(conn:len())) end
      return hooks
    ]])
    local c = s:connect()
    c:send("early")
    assert.equal("early", c:receive(5))
  end)

  it("lets on_connect write, read and park before on_request starts", function()
    local s = server.start(HOOKS .. [[
      hooks.on_connect = function(conn)
        conn:send("who?\n")
        conn.ctx = conn:read_line():str()
        rille.sleep(0.05)
        say("connected %s", conn.ctx)
      end
      hooks.on_request = function(conn)
        say("request")
        conn:write(conn.ctx .. ":" .. conn:next(conn:len()))
      end
      return hooks
    ]])
    local c = s:connect()
    assert.equal("who?", c:receive_line())
    c:send("anna\nrest")
    assert.equal("anna:rest", c:receive(9))
    assert.same({ "prepare", "connected anna", "request" }, s:said())
  end)

  it("takes a thousand exchanges inside on_connect", function()
    local s = server.start(HOOKS .. [[
      hooks.on_connect = function(conn)
        local n = 0
        while conn:next(4) do
          n = n + 1
          conn:send("pong")
        end
        say("%d rounds", n)
      end
      return hooks
    ]])
    local c = s:connect()
    for _ = 1, 1000 do
      c:send("ping")
      assert.equal("pong", c:receive(4))
    end
    c:close()
    assert.same({ "prepare", "1000 rounds", "close nil" }, (function()
      s:wait_log("said close")
      local list = {}
      for _, text in ipairs(s:said()) do
        if text ~= "disconnect" then list[#list + 1] = text end
      end
      return list
    end)())
    assert.equal(1, s:count_log("said disconnect"))
  end)

  it("closes last when the peer goes during a slow on_connect", function()
    local s = server.start(HOOKS .. [[
      hooks.on_connect = function(conn)
        rille.sleep(0.05)
        conn.ctx = "set"
        say("connect")
      end
      hooks.on_close = function(conn, err) say("close %s %s", show(err), conn.ctx) end
      return hooks
    ]])
    s:connect():close()
    s:wait_log("said close")
    local list = s:said()
    assert.equal("prepare", list[1])
    assert.equal("close nil set", list[#list])
    assert.equal(4, #list)
    assert.equal(1, s:count_log("said disconnect"))
  end)

  it("may close in on_connect", function()
    local s = server.start(HOOKS .. [[
      hooks.on_connect = function(conn) conn:write("go away"); conn:close() end
      return hooks
    ]])
    for _ = 1, 10 do assert.equal("go away", (s:connect():receive_all())) end
    s:wait_said(20)
    s:stop()
    assert.equal(10, s:count_log("said close nil"))
    assert.equal(0, s:count_log("said request"))
  end)

  it("hands every byte to on_request before on_disconnect, 100 times", function()
    local s = server.start(HOOKS .. [[
      hooks.on_prepare, hooks.on_connect = nil, nil
      hooks.on_request = function(conn)
        local bytes = conn:next(math.min(conn:len(), 2000))
        conn.ctx = (conn.ctx or 0) + bytes:len()
        rille.yield() -- time for the end to be noticed
      end
      hooks.on_disconnect = function(conn) say("got %d", conn.ctx or 0) end
      hooks.on_close = function(_, err) say("close %s", show(err)) end
      return hooks
    ]])
    for _, how in ipairs { "close", "reset" } do
      local expected = {}
      for i = 1, 100 do
        local size = i * 97 % 9973 + 1
        expected[#expected + 1] = ("got %d"):format(size)
        local c = s:connect()
        c:send(("x"):rep(size))
        c[how](c)
      end
      local list = {}
      for _, text in ipairs(s:wait_said(how == "close" and 200 or 400)) do
        if text:find("^got") then list[#list + 1] = text end
      end
      if how == "reset" then for _ = 1, 100 do table.remove(list, 1) end end
      table.sort(expected)
      table.sort(list)
      assert.same(expected, list)
    end
    s:stop()
    assert.equal(100, s:count_log("said close nil"))
    assert.equal(100, s:count_log("said close reset"))
  end)

  it("runs on_disconnect while a handler is busy elsewhere", function()
    local s = server.start(HOOKS .. [[
      local gone = rille.channel(1)
      hooks.on_request = function(conn)
        conn:next(conn:len())
        say("busy")
        say("told %s, active %s", gone:receive(5), conn:is_active())
      end
      hooks.on_disconnect = function() gone:send("it left") end
      return hooks
    ]])
    local c = s:connect()
    c:send("x")
    s:wait_log("said busy")
    c:close()
    assert.same({ "prepare", "connect", "busy", "told it left, active false", "close nil" }, s:wait_said(5))
  end)
end)

describe("conn: on_request", function()
  after_each(server.cleanup)

  it("gets any bytes, one at a time if they come so", function()
    local s = server.start("scripts/echo.lua")
    local c = s:connect()
    for i = 1, 20 do
      local byte = string.char(i * 11 % 256)
      c:send(byte)
      assert.equal(byte, c:receive(1))
    end
    local all = {}
    for i = 0, 255 do all[#all + 1] = string.char(i) end
    c:send(table.concat(all))
    assert.equal(table.concat(all), c:receive(256))
  end)

  it("is called again at once while it consumes something", function()
    local s = server.start([[
      local calls = 0
      return function(conn)
        calls = calls + 1
        conn:skip(1)
        if conn:len() == 0 then conn:write(calls .. "\n") end
      end
    ]])
    local c = s:connect()
    c:send("abcdefgh")
    assert.equal("8", c:receive_line())
    c:send(("x"):rep(5000))
    assert.equal("5008", c:receive_line(10))
  end)

  it("counts what was consumed and released as consumed", function()
    local s = server.start([[
      return function(conn)
        local one = conn:read_string(1)
        conn:release()
        conn:write(one)
      end
    ]])
    local c = s:connect()
    c:send("abc")
    assert.equal("abc", c:receive(3))
  end)

  it("is not called again before more arrives when it consumed nothing", function()
    local s = server.start([[
      return function(conn)
        if conn:len() >= 10 then conn:write(conn:next(10)) end
      end
    ]])
    local c = s:connect()
    c:send("12345")
    s:wait_state(function(state) return state.messages == 1 end)
    local before = s:state()
    net.nap(50) -- time in which nothing is to happen
    local after = s:state()
    assert.equal(1, after.messages)
    assert.is_true(after.turns - before.turns < 10)
    c:send("67890abc")
    assert.equal("1234567890", c:receive(10))
    c:send("defghij")
    assert.equal("abcdefghij", c:receive(10))
  end)

  it("does not spin on input that nobody takes", function()
    local s = server.start([[
      return { on_request = function() end, on_close = function(_, err) say("close %s", tostring(err)) end }
    ]])
    local c = s:connect()
    c:send("nobody wants this")
    s:wait_state(function(state) return state.messages == 1 end)
    local cpu, turns = s:cpu(), s:state().turns
    net.nap(200)
    assert.is_true(s:cpu() - cpu <= 0.03 * net.slow)
    assert.is_true(s:state().turns - turns < 20)
    c:close()
    s:wait_log("said close closed")
  end)

  it("may be changed in mid-stream, for a function or a key of the script", function()
    local s = server.start([[
      local script = {}
      function script.on_request(conn)
        local line = conn:read_line()
        if line == "upper" then conn:on_request("upper") end
        if line == "count" then conn:on_request(function(c) c:write(c:next(c:len()):len() .. "\n") end) end
        conn:write("ok\n")
      end
      function script.upper(conn)
        local line = conn:read_line()
        if line == "back" then return conn:on_request("on_request") end
        conn:write(line:str():upper() .. "\n")
      end
      return script
    ]])
    local c = s:connect()
    c:send("upper\nabc\nback\nx\ncount\n")
    assert.equal("ok", c:receive_line())
    assert.equal("ABC", c:receive_line())
    assert.equal("ok", c:receive_line())
    assert.equal("ok", c:receive_line())
    c:send("12345")
    assert.equal("5", c:receive_line())
  end)
end)

describe("conn: a codec", function()
  after_each(server.cleanup)

  -- Frames of one length byte and as many bytes; a length of 0 is an error.
  local CODEC = [[
local codec = {}
function codec.decode(conn)
  if conn:len() < 1 then return nil end
  local size = conn:peek(1):u8(0)
  if size == 0 then return nil, "empty frame" end
  if conn:len() < 1 + size then return nil end
  conn:skip(1)
  return conn:next(size)
end
]]

  it("hands whole frames to on_request", function()
    server.write("framing.lua", CODEC .. "return codec")
    local s = server.start([[
      return {
        on_request = function(conn, frame) conn:write("<" .. frame .. ">") end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { server = { codec = "framing" } })
    local c = s:connect()
    c:send_slowly("\3abc\1x")
    assert.equal("<abc><x>", c:receive(8))
    c:send("\2de\5part")
    assert.equal("<de>", c:receive(4))
    c:send("s\3end")
    assert.equal("<parts><end>", c:receive(12))
    c:send("\1y\0")
    assert.same({ "<y>", "closed" }, { c:receive_all() })
    s:wait_log("bad frame: empty frame")
    c = s:connect()
    c:send("\5par")
    c:close()
    assert.same({ "close nil", "close closed" }, s:wait_said(2))
  end)

  it("may be given in mid-stream", function()
    local s = server.start(CODEC .. [[
      return function(conn)
        local line = conn:read_line()
        conn:write("hello " .. line .. "\n")
        conn:on_request(function(c, frame) c:write("<" .. frame .. ">") end, codec)
      end
    ]])
    local c = s:connect()
    c:send("anna\n\3abc\2x")
    assert.equal("hello anna", c:receive_line())
    assert.equal("<abc>", c:receive(5))
    c:send("y")
    assert.equal("<xy>", c:receive(4))
  end)
end)

describe("conn: what a script holds", function()
  after_each(server.cleanup)

  it("is the same table as long as it is held, and ctx lives as long as the connection", function()
    local s = server.start([[
      local held
      return {
        on_connect = function(conn)
          held = conn
          conn.ctx = { n = 1 }
        end,
        on_request = function(conn)
          local text = conn:read_string(conn:len())
          local same = conn == held
          if text == "drop" then held = nil end
          conn.ctx.n = conn.ctx.n + 1
          collectgarbage()
          conn:write(("%s %d %s\n"):format(same, conn.ctx.n, conn.id))
        end,
      }
    ]])
    local c = s:connect()
    c:send("x")
    local id = c:receive_line():match("^true 2 (%d+)$")
    assert.is_truthy(id)
    c:send("drop")
    assert.equal("true 3 " .. id, c:receive_line())
    c:send("x")
    assert.equal("false 4 " .. id, c:receive_line())
  end)

  it("never becomes another connection", function()
    local s = server.start([[
      local old
      return {
        on_request = function(conn)
          conn:read_string(conn:len())
          old = old or conn
          local ok, err = old:write("to the old one")
          conn:write(("%s %s %s %s\n"):format(old == conn, old.id == conn.id, ok, err))
          local text, why = old:read(10)
          if old ~= conn then conn:write(("%s %s\n"):format(text, why)) else old:close() end
        end,
        on_close = function() say("close") end,
      }
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal("to the old onetrue true true nil", c:receive_line())
    c:close()
    s:wait_log("said close")
    for _ = 1, 3 do
      local d = s:connect()
      d:send("x")
      assert.equal("false false nil closed", d:receive_line())
      assert.equal("nil closed", d:receive_line())
      d:close()
    end
  end)

  it("costs an idle connection neither a table nor a block", function()
    local s = server.start([[
      return function(conn) conn:write(conn:next(conn:len())) end
    ]])
    net.raise_descriptor_limit()
    local clients = {}
    for i = 1, 500 do
      clients[i] = s:connect()
      clients[i]:send("hello")
    end
    for i = 1, 500 do assert.equal("hello", clients[i]:receive(5)) end
    local state = s:wait_state(function(state) return state.connections == 500 and state.blocks == 0 and state.buffers == 0 end)
    assert.equal(0, state.block_bytes)
  end)

  it("knows its addresses", function()
    local path = server.folder() .. "/sock"
    local listen = { "tcp://127.0.0.1:0", "unix://" .. path, "unix:@rille-spec-" .. net.C.net_getpid() }
    local has_ip6 = server.client.try_connect("tcp://[::1]:1") ~= nil
      or select(2, server.client.try_connect("tcp://[::1]:1")) == "ECONNREFUSED"
    if has_ip6 then listen[4] = "tcp://[::1]:0" end
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:read_string(conn:len())
          conn:write(("%s %s\n"):format(conn:peer(), conn:local_address()))
        end,
        on_close = function(conn) say("close %s", conn:peer()) end,
      }
    ]], { listen = listen })
    for i, url in ipairs(s.urls) do
      local c = s:connect(nil, url)
      c:send("x")
      local peer = c.url:find("unix") and "unix:" or (c.url:find("[", 1, true) and "[::1]:" or "127.0.0.1:") .. c:port()
      assert.equal(peer .. " " .. url, c:receive_line())
      c:close()
      assert.equal("close " .. peer, s:wait_said(i)[i])
    end
    assert.equal(#listen, #s.urls)
  end)

  it("writes a trace of the bytes to the log", function()
    local s = server.start([[
      return {
        on_connect = function(conn) conn:trace(true) end,
        on_request = function(conn)
          local line = conn:read_line():str()
          if line == "off" then conn:trace(false) end
          conn:write("<" .. line .. ">")
        end,
      }
    ]])
    local c = s:connect()
    c:send("ab\n")
    assert.equal("<ab>", c:receive(4))
    local record = s:wait_log('[^\n]*msg="received 3 bytes"[^\n]*')
    assert.matches("hex=61620a", record)
    assert.matches("conn=%d+", record)
    assert.matches("hex=3c61623e", s:wait_log('[^\n]*msg="sent 4 bytes"[^\n]*'))
    c:send("off\n")
    assert.equal("<off>", c:receive(5))
    c:send("secret\n")
    assert.equal("<secret>", c:receive(8))
    assert.is_nil(s:log():find("736563726574", 1, true))
  end)

  it("sets socket options where there are any", function()
    local path = server.folder() .. "/sock"
    local s = server.start([[
      return function(conn)
        conn:read_string(conn:len())
        local a, b = conn:set_nodelay(true)
        local c, d = conn:set_nodelay(false)
        local e, f = conn:set_keepalive(10, 5, 3)
        local g, h = conn:set_keepalive(false)
        conn:write(("%s %s %s %s %s %s %s %s\n"):format(a, b, c, d, e, f, g, h))
      end
    ]], { listen = { "tcp://127.0.0.1:0", "unix://" .. path } })
    local c = s:connect()
    c:send("x")
    assert.equal("true nil true nil true nil true nil", c:receive_line())
    c = s:connect(nil, s.urls[2])
    c:send("x")
    assert.equal(("nil not supported "):rep(4):sub(1, -2), c:receive_line())
  end)
end)
