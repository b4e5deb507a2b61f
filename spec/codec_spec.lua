-- Framings over real sockets: whole frames, however they come; limits, ends, and what goes the other way.

local LinkBuffer = require "rille.linkbuffer"
local codec = require "rille.codec"
local garbage = require "spec.support.garbage"
local inside = require "spec.support.inside"
local server = require "spec.support.server"

-- Answers each frame with "<frame>" as a frame; tells of each call and end.
local ECHO = [[
local calls = 0
return {
  on_request = function(conn, frame)
    calls = calls + 1
    assert(conn:write_frame("<" .. tostring(frame) .. ">"))
    if tostring(frame) == "calls" then say("calls %d", calls) end
  end,
  on_close = function(_, err) say("close %s", tostring(err)) end,
}
]]

local function start(named, script, settings)
  settings = settings or {}
  settings.codec = named
  return server.start((script or ECHO) .. "\n", { server = settings }) -- a text has a line end
end

local framings = {
  { codec = "line", sent = "one\r\ntwo\n\nthree\n", answer = "<one>\n<two>\n<>\n<three>\n" },
  { codec = { "line", eol = "\r\n" }, sent = "one\ntwo\r\n\r\n", answer = "<one\ntwo>\r\n<>\r\n" },
  { codec = { "delimiter", "||", "\0" }, sent = "a|b||c\0||", answer = "<a|b>||<c>||<>||" },
  { codec = { "netstring", max = "1k" }, sent = "3:abc,0:,10:0123456789,", answer = "5:<abc>,2:<>,12:<0123456789>," },
  { codec = { "varint" }, sent = "\3abc\0\1x", answer = "\5<abc>\2<>\3<x>" },
  { codec = { "length_field", length = 2 }, sent = "\0\3abc\0\0", answer = "\0\5<abc>\0\2<>" },
  { codec = { "length_field", length = 3, order = "le", adjustment = -3 }, sent = "\6\0\0abc", answer = "\8\0\0<abc>" },
  { codec = { "length_field", length = 8 }, sent = ("\0"):rep(7) .. "\1x", answer = ("\0"):rep(7) .. "\3<x>" },
  { codec = { "resp" }, sent = "+hi\r\n$2\r\nyo\r\n:12\r\n", answer = "$4\r\n<hi>\r\n$4\r\n<yo>\r\n$4\r\n<12>\r\n" },
  { codec = { "chain", { "length_field", length = 1 }, { "varint" } }, sent = "\6\1a\3bcd\2\1x",
    answer = "\4\3<a>\6\5<bcd>\4\3<x>" },
}

describe("framings", function()
  after_each(server.cleanup)

  for _, one in ipairs(framings) do
    local name = type(one.codec) == "table" and one.codec[1] or one.codec
    it(("%s: %q whole and byte by byte"):format(name, one.sent), function()
      local s = start(one.codec)
      local c = s:connect()
      assert.equal(one.answer, c:send(one.sent):receive(#one.answer))
      c:send_slowly(one.sent)
      assert.equal(one.answer, c:receive(#one.answer))
      assert.equal(one.answer:rep(200), c:exchange(one.sent:rep(200), #one.answer * 200))
    end)
  end

  it("fixed: frames of one size", function()
    local s = start({ "fixed", 3 }, "return function(conn, frame) conn:write_frame(frame:str():upper()) end")
    local c = s:connect()
    c:send_slowly("abcdefg")
    assert.equal("ABCDEF", c:receive(6))
    assert.equal("GHI", c:send("hi"):receive(3))
  end)

  it("call on_request for whole frames alone", function()
    local s = start "line"
    local c = s:connect()
    c:send_slowly(("x"):rep(50) .. "\n")
    c:receive_line()
    c:send("calls\n")
    assert.same({ "calls 2" }, s:wait_said(1))
  end)

  it("take frames that are larger than a block", function()
    local s = start({ "length_field", max = "1m" }, [[
      return function(conn, frame) conn:write_frame(frame) end]], { limits = { max_input = "2m" } })
    local frame = "\0\12\0\0" .. server.net.noise(12 * 65536, 3)
    assert.is_true(s:connect():exchange(frame, #frame) == frame)
  end)
end)

describe("a frame that cannot be", function()
  after_each(server.cleanup)

  local function closes(named, bytes, err, settings)
    local s = start(named, nil, settings)
    local c = s:connect()
    c:send(bytes)
    assert.same({ "", "closed" }, { c:receive_all() })
    assert.same({ "close " .. err }, s:wait_said(1))
    s:wait_log("sent a bad frame: " .. err)
  end

  it("ends the connection: too large", function()
    closes({ "line", max = 10 }, "0123456789ab", "too large")
    closes({ "netstring", max = 10 }, "11", "too large")
    closes({ "varint", max = 10 }, "\11", "too large")
    closes({ "length_field", max = 10 }, "\0\0\0\7", "too large")
    closes({ "length_field", length = 8 }, ("\255"):rep(8), "too large")
    closes({ "resp", max = "1k" }, "*1000000\r\n", "too large")
    closes({ "resp", depth = 2 }, "*1\r\n*1\r\n*1\r\n", "too large")
  end)

  it("ends the connection: not the grammar", function()
    closes("netstring", "x", "invalid argument")
    closes({ "length_field", adjustment = -10 }, "\0\0\0\1", "invalid argument")
    closes("resp", "PING\r\n", "invalid argument")
    closes("resp", "*?\r\n", "not supported")
    closes({ "chain", { "length_field", length = 1 }, { "varint" } }, "\2\5x", "short")
  end)

  it("ends the connection when input is full without one", function()
    closes("line", ("x"):rep(4096), "too large", { limits = { max_input = 4096 } })
  end)

  it("comes after the answers to those before it", function()
    local s = start({ "line", max = 10 }, [[
      return {
        on_request = function(conn, frame)
          local text = frame:str()
          rille.sleep(text == "slow" and 0.05 or 0)
          conn:write_frame(text)
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }]], { concurrency = 4 })
    local c = s:connect()
    c:send("slow\nquick\n" .. ("x"):rep(20))
    assert.same({ "slow\nquick\n", "closed" }, { c:receive_all() })
    assert.same({ "close too large" }, s:wait_said(1))
  end)

  it("is no frame when the peer left in the middle of it", function()
    local s = start "netstring"
    s:connect():send("1:a,5:par"):shutdown_write():receive_all()
    assert.same({ "close closed" }, s:wait_said(1))
  end)
end)

describe("codecs in a script", function()
  after_each(server.cleanup)

  it("may change in mid-stream", function()
    local s = server.start [[
      local codec = rille.codec
      local function third(conn) conn:write("raw " .. conn:read_string(conn:len())) end
      local function second(conn, frame)
        conn:write_frame(frame:str():upper())
        if frame:str() == "raw" then conn:on_request(third) end
      end
      return function(conn)
        conn:write("hello " .. conn:read_line():str() .. "\n")
        conn:on_request(second, codec.netstring())
      end]]
    local c = s:connect()
    c:send("anna\n3:abc,3:raw,rest")
    assert.equal("hello anna\n3:ABC,3:RAW,raw rest", c:receive(#"hello anna\n3:ABC,3:RAW,raw rest"))
  end)

  it("keep the slices of values that several tasks have", function()
    local s = start("resp", [[
      return function(conn, value)
        rille.sleep(0.01)
        conn:write_frame(value[2][1]:str() .. value[1]:str())
      end]], { concurrency = 8 })
    local sent, expected = {}, {}
    for i = 1, 100 do
      sent[i] = ("*2\r\n$3\r\n%03d\r\n*1\r\n$1\r\nx\r\n"):format(i)
      expected[i] = ("$4\r\nx%03d\r\n"):format(i)
    end
    expected = table.concat(expected)
    assert.equal(expected, s:connect():exchange(table.concat(sent), #expected))
  end)

  it("work on a worker", function()
    local s = start({ "line", max = 100 }, [[
      return function(conn, frame) conn:write_frame(frame:str():upper()) end]], { offload = "pool" })
    local c = s:connect()
    c:send_slowly("one\ntwo\n")
    assert.equal("ONE\nTWO\n", c:receive(8))
    c:send(("x"):rep(200) .. "\n")
    assert.same({ "", "closed" }, { c:receive_all() })
  end)

  it("written in Lua may encode, too", function()
    server.write("shout.lua", [[
      return {
        decode = function(conn) if conn:index_of("!") then return conn:read_until("!") end end,
        encode = function(conn, x) return conn:write(x .. "!") end,
      }]])
    local s = start("shout", "return function(conn, frame) conn:send_frame('you said ' .. frame) end")
    assert.equal("you said hey!!", s:connect():send("hey!"):receive(14))
  end)
end)

describe("a codec", function()
  it("leaves no garbage for a frame", function()
    local buffer = assert(LinkBuffer.new())
    local inner = codec.chain { codec.length_field { length = 1 }, codec.varint() }
    for bytes, one in pairs {
      ["hello\n"] = codec.line(), ["\0\0\0\5hello"] = codec.length_field(), ["5:hello,"] = codec.netstring(), ["\6\5hello"] = inner,
    } do
      local decode, total = one.decode, 0
      local size = garbage(function(n)
        for _ = 1, n do
          buffer:write(bytes)
          buffer:flush()
          total = total + decode(buffer):len()
          buffer:release()
        end
      end)
      assert.truthy(size < 1, ("%s: %.1f bytes"):format(one.name, size))
    end
    buffer:close()
  end)

  it("writes frames to a connection", function()
    inside.check [[
      local codec = rille.codec
      local a, b = rille.pair()
      local seen = {}
      b:on_request(function(_, frame) seen[#seen + 1] = frame:str() end, codec.line { max = 20 })
      a:write_frame("by name", codec.line())
      a:send_frame("and flushed", codec.line())
      rille.sleep(0.01)
      assert(seen[1] == "by name" and seen[2] == "and flushed" and not seen[3])
      local ok, err = a:write_frame(("x"):rep(21), codec.line { max = 20 })
      assert(not ok and err == "too large")
      ok, err = a:write_frame("a\nb", codec.line())
      assert(not ok and err == "invalid argument")
      a:close()
      b:close()
    ]]
  end)

  it("says what is wrong with a call", function()
    inside.check [[
      local codec = rille.codec
      local a, b = rille.pair()
      local function fails(expected, fn, ...)
        local ok, err = pcall(fn, ...)
        assert(not ok and err:find(expected, 1, true), tostring(err) .. " is not " .. expected)
      end
      fails("write_frame: the connection has no codec", a.write_frame, a, "x")
      fails("on_request: a frame may have 2097154 bytes, more than limits.max_input", a.on_request, a, print, codec.line { max = "2m" })
      fails("rille.codec.line: max: got 0; expected a size from 1 to 1073741824", codec.line, { max = 0 })
      fails("rille.codec.line: maximum: unknown option; line takes max, eol", codec.line, { maximum = 1 })
      fails("rille.codec.length_field: length: got 5; expected 1, 2, 3, 4 or 8", codec.length_field, { length = 5 })
      fails("rille.codec.chain: [2]: resp makes values; it has to be the last one", codec.chain,
        { codec.line(), codec.resp(), codec.line() })
      fails("rille.codec.chain: got 1 codecs; expected 2 to 4", codec.chain, { codec.line() })
      fails("rille.codec.delimiter: needs a delimiter", codec.delimiter, {})
      fails("rille.codec.fixed: needs a size", codec.fixed)
      a:close()
      b:close()
    ]]
  end)
end)
