-- The PROXY protocol: the decoder beside its model, headers that are written, and listeners behind a proxy.

local ffi = require "ffi"

local C = require "rille.core"
local header = require("rille.conn_proxy").header
local http = require "spec.support.http"
local inside = require "spec.support.inside"
local model = require "spec.support.proxy_model"
local server = http.server

local head = ffi.new("rille_proxy_head")
local FAMILIES = { [0] = "unknown", "inet", "inet6", "unix" }

-- The bytes stand at the very end of their room, so that a sanitizer sees one that is read too far.
local function decode(s)
  local room = ffi.new("uint8_t[?]", math.max(#s, 1))
  ffi.copy(room, s, #s)
  local size = C.rille_proxy_decode(room, #s, head)
  if size <= 0 then return size end
  if head.is_local == 1 then return size, "local" end
  local family = FAMILIES[head.family]
  if family == "unknown" or family == "unix" then return size, family end
  return size, ("%s %d %d"):format(family, head.source_port, head.destination_port)
end

local SIGNATURE = "\r\n\r\n\0\r\nQUIT\n"
local V4 = { source = "203.0.113.9:4711", destination = "192.0.2.1:443" }

local GOOD = {
  "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n", "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", "PROXY UNKNOWN\r\n",
  "PROXY UNKNOWN ffff::ffff  what ever\r\n", "PROXY UNKNOWN " .. ("x"):rep(91) .. "\r\n",
  header(V4), header {}, header { source = "[2001:db8::1]:1", destination = "[::1]:2", tlvs = { [1] = "h2", [4] = "" } },
  header { source = "unix:/a", destination = "unix:/b" },
  header { source = V4.source, destination = V4.destination, tlvs = { [2] = ("n"):rep(300) }, crc32c = true },
  SIGNATURE .. "\32\255\0\5hello", SIGNATURE .. "\33\0\0\3abc", SIGNATURE .. "\33\0\0\0",
}
local BAD = {
  "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\n",
  "PROXY TCP4  203.0.113.9 192.0.2.1 4711 443\r\n", "PROXY TCP4 ::1 ::1 1 1\r\n",
  "PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
  "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", "PROXY \r\n", "PROXY UNKNOWN" .. ("x"):rep(92) .. "\r\n",
  "PROXY UNKNOWNX\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n", "PROXY TCP4 1.2.3.4\0 1.2.3.4 1 1\r\n",
  "GET / HTTP/1.1\r\n\r\n", "PROXX", "\r\n\r\nX",
  SIGNATURE .. "\17\17\0\0", SIGNATURE .. "\34\17\0\0", SIGNATURE .. "\33\65\0\0", SIGNATURE .. "\33\19\0\0",
  SIGNATURE .. "\33\17\0\11" .. ("a"):rep(11), SIGNATURE .. "\33\17\0\14" .. ("a"):rep(14),
  SIGNATURE .. "\33\17\0\19" .. ("a"):rep(12) .. "\3\0\4abcd",
}

describe("the PROXY header", function()
  it("is read as the model reads it, at every split", function()
    for _, list in ipairs { GOOD, BAD } do
      for _, bytes in ipairs(list) do
        for n = 0, #bytes do
          local part = bytes:sub(1, n)
          assert.same({ model.decode(part) }, { decode(part) }, ("%q"):format(part))
        end
        local size = decode(bytes)
        if list == GOOD then assert.equal(#bytes, size) else assert.is_true(size < 0, ("%q"):format(bytes)) end
        assert.equal(size, (decode(bytes .. "\r\nmore of it")))
      end
    end
  end)

  it("is read as the model reads it when bytes of it are others", function()
    math.randomseed(tonumber(os.getenv "SEED") or 7)
    local all = {}
    for _, list in ipairs { GOOD, BAD } do for _, bytes in ipairs(list) do all[#all + 1] = bytes end end
    for _ = 1, tonumber(os.getenv "COUNT") or 20000 do
      local bytes = all[math.random(#all)]
      for _ = 1, math.random(3) do
        local at = math.random(#bytes)
        local other = math.random(2) == 1 and math.random(0, 255) or bytes:byte(math.random(#bytes))
        local new = math.random(4) == 1 and "" or string.char(other)
        bytes = bytes:sub(1, at - 1) .. new .. bytes:sub(at + 1)
        if #bytes == 0 then bytes = "P" end
      end
      assert.same({ model.decode(bytes) }, { decode(bytes) }, ("%q"):format(bytes))
    end
  end)

  it("is written for both versions", function()
    assert.equal("PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n",
      header { version = 1, source = V4.source, destination = V4.destination })
    assert.equal("PROXY UNKNOWN\r\n", header { version = 1 })
    assert.equal(SIGNATURE .. "\32\0\0\0", header {})
    assert.equal(SIGNATURE .. "\33\17\0\18\203\0\113\9\192\0\2\1\18\103\1\187\1\0\3foo",
      header { source = V4.source, destination = V4.destination, tlvs = { [1] = "foo" } })
  end)

  it("is not written for what is no address", function()
    assert.same({ nil, "bad address" }, { header { source = "1.2.3.4", destination = "1.2.3.4:1" } })
    assert.same({ nil, "bad address" }, { header { source = "[::1]:1", destination = "1.2.3.4:1" } })
    assert.same({ nil, "too large" }, { header { tlvs = { [1] = ("x"):rep(40000), [2] = ("x"):rep(40000) } } })
    for _, options in ipairs { { sauce = "" }, { source = "1.2.3.4:1" }, { version = 3 }, { tlvs = { [300] = "" } },
      { version = 1, tlvs = { [1] = "" } }, { tlvs = { [3] = "abcd" } }, "text" } do
      assert.is_false(pcall(header, options))
    end
  end)
end)

local SCRIPT = [[
  local function show(conn)
    local said = conn:proxied()
    if not said then return conn:peer():gsub(":%d+$", "") .. " -" end
    local tlvs = {}
    for kind, value in pairs(said.tlvs) do tlvs[#tlvs + 1] = kind == 3 and "crc" or kind .. "=" .. value end
    table.sort(tlvs)
    local peer = conn:peer():gsub("^127.0.0.1:%d+$", "127.0.0.1")
    return ("%s v%d %s>%s via %s %s"):format(peer, said.version, tostring(said.source), tostring(said.destination),
      (said.via:gsub(":%d+$", "")), table.concat(tlvs, ","))
  end
  return {
    on_prepare = function(conn) say("prepare %s", show(conn)) end,
    on_connect = function(conn) say("connect %s", show(conn)) end,
    on_request = function(conn) conn:write(show(conn) .. " " .. conn:read_line():str() .. "\n") end,
    on_close = function() say("close") end,
  }
]]

local function start(proxy, opts)
  opts = opts or {}
  opts.server = opts.server or {}
  opts.server.proxy = proxy or { trusted = { "127.0.0.0/8" } }
  return server.start(SCRIPT, opts)
end

local V2 = header { source = V4.source, destination = V4.destination, tlvs = { [1] = "h2" }, crc32c = true }

describe("a server behind a proxy", function()
  after_each(server.cleanup)

  it("sees the client that the header names, from on_prepare on", function()
    local s = start()
    local c = s:connect()
    c:send(V2 .. "hello\n")
    local line = c:receive_line()
    assert.truthy(line:match "^203%.0%.113%.9:4711 v2 203%.0%.113%.9:4711>192%.0%.2%.1:443 via 127%.0%.0%.1 1=h2,crc hello$")
    assert.truthy(s:said()[1]:match "^prepare 203%.0%.113%.9:4711 v2 ")
    assert.truthy(s:said()[2]:match "^connect 203%.0%.113%.9:4711 v2 ")
    c:send("again\n")
    assert.truthy(c:receive_line():match " again$")
  end)

  it("takes headers in pieces, with the end behind them, and of both versions", function()
    local s = start()
    for _, bytes in ipairs { header { version = 1, source = "[2001:db8::7]:80", destination = "[::1]:443" },
      header { source = "[2001:db8::7]:80", destination = "[::1]:443" } } do
      for _, way in ipairs { "send", "send_slowly" } do
        local c = s:connect()
        c[way](c, bytes .. "x\n")
        c:shutdown_write()
        assert.truthy(c:receive_all():match "^%[2001:db8::7%]:80 v[12] %[2001:db8::7%]:80>%[::1%]:443 via 127%.0%.0%.1  x\n$")
      end
    end
  end)

  it("keeps the proxy's own address for LOCAL and UNKNOWN", function()
    local s = start()
    for version, bytes in ipairs { "PROXY UNKNOWN\r\n", (header {}) } do
      assert.equal(("127.0.0.1 v%d nil>nil via 127.0.0.1  x"):format(version), s:connect():send(bytes .. "x\n"):receive_line())
    end
  end)

  it("closes and logs what has no header, a bad one, too long a one, or none in time", function()
    local s = start { trusted = { "127.0.0.1" }, timeout = 0.2, max = 300 }
    local cases = {
      { "GET / HTTP/1.1\r\n\r\n", "no PROXY header" }, { "PROXY TCP4 x\r\n", "a malformed PROXY header" },
      { V2:sub(1, -2) .. "!", "a PROXY header with a wrong checksum" }, { "PROXY T", "took longer than proxy.timeout" },
      { "", "took longer than proxy.timeout" }, { SIGNATURE .. "\33\17\2\0" .. ("x"):rep(500), "longer than proxy.max" },
    }
    for _, case in ipairs(cases) do
      local c = s:connect()
      c:send(case[1])
      local all, how = c:receive_all()
      assert.equal("", all)
      assert.equal("reset", how)
      s:wait_log("refused 127.0.0.1:%d+ on tcp://127.0.0.1:%d+: [^\"]*" .. case[2]:gsub("%.", "%%."))
    end
    local c = s:connect()
    c:send("PROXY T"):shutdown_write()
    assert.equal("reset", select(2, c:receive_all()))
    s:wait_log "it ended before its PROXY header did"
    s:connect():reset()
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal(0, #s:said())
  end)

  it("refuses who is not trusted, or serves him without looking", function()
    local s = start { trusted = { "10.0.0.0/8" } }
    local c = server.client.try_connect(s.url) -- it may be reset before connect returns
    if c then assert.equal("reset", select(2, c:receive_all())) end
    s:wait_log "not among proxy.trusted"
    s = start({ trusted = { "10.0.0.0/8" }, accept = "optional" }, { name = "other" }) -- a script that changes is loaded again
    assert.equal("127.0.0.1 - PROXY UNKNOWN", (s:connect():send("PROXY UNKNOWN\r\n"):receive_line():gsub("\r", "")))
  end)

  it("does without a header where that is optional", function()
    local s = start { trusted = { "127.0.0.1" }, accept = "optional", timeout = 0.2 }
    assert.equal("127.0.0.1 - PROXX", s:connect():send("PROXX\n"):receive_line())
    assert.truthy(s:connect():send(V2 .. "x\n"):receive_line():match "^203")
    local c = s:connect()
    s:wait_said(5) -- the two before, and that this one is prepared after the time is over
    assert.equal("127.0.0.1 - late", c:send("late\n"):receive_line())
  end)

  it("lets clients in by their own address, and counts them by it", function()
    local s = start(nil, { server = { deny = { "203.0.113.66/32" } }, limits = { max_connections_per_address = 2 } })
    local function come(ip)
      local c = s:connect()
      c:send(header { source = ip .. ":1", destination = "192.0.2.1:1" } .. "x\n")
      return c
    end
    for _ = 1, 3 do
      local one, two = come "203.0.113.1", come "203.0.113.1"
      one:receive_line() two:receive_line()
      assert.equal("reset", select(2, come("203.0.113.1"):receive_all()))
      come("203.0.113.2"):receive_line()
      assert.equal("reset", select(2, come("203.0.113.66"):receive_all()))
      server.client.close_all()
      s:wait_state(function(state) return state.connections == 0 end)
    end
    s:wait_log "refused 203.0.113.66:1 on [^\n]*by allow and deny"
    s:wait_log "refused 203.0.113.1:1 on [^\n]*max_connections_per_address"
  end)

  it("goes with loops, balancing, HTTP and a stop", function()
    local s = http.start("return function(req, res) res:send(req.conn:peer() .. ' ' .. req.conn:proxied().via) end\n",
      { server = { proxy = { trusted = { "127.0.0.1" } }, accept = "balanced" }, conf = { loops = 2 } })
    for _ = 1, 4 do
      local c = s:connect()
      c:send_slowly(header(V4))
      c:send(http.get("/", { "Connection: close" }))
      assert.truthy(c:receive_all():match "\r\n\r\n203%.0%.113%.9:4711 127%.0%.0%.1:%d+$")
    end
    s:connect() -- and never says a word
    s:stop()
  end)

  it("goes to the new generation when the script is loaded again before the header is there", function()
    local s = start()
    local c = s:connect()
    c:send(V2:sub(1, 20))
    s:wait_state(function(state) return state.accepted == 1 end)
    server.write("script.lua", [[
      return function(conn) conn:write("new " .. conn:peer() .. " " .. conn:read_line():str() .. "\n") end
    ]])
    s:wait_log "script@1: retired"
    c:send(V2:sub(21) .. "y\n")
    assert.equal("new 203.0.113.9:4711 y", c:receive_line())
  end)

  it("is written for another connection", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line():str()
        conn:send_proxy(conn, { version = tonumber(line) })
        conn:write("|")
      end
    ]])
    local c = s:connect()
    c:send("1\n")
    assert.equal(("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r"):format(c:port(), s.port), c:receive_line())
    c:receive(1)
    c:send("2\n")
    local size, said = decode(c:receive(28))
    assert.equal(28, size)
    assert.equal(("inet %d %d"):format(c:port(), s.port), said)
  end)

  it("is written for a client of IPv4 of a listener for both families", function()
    inside.check [=[
      local l = assert(rille.listen("tcp://[::]:0", function(conn)
        conn:read_line()
        assert(conn:send_proxy(conn, { version = 1 }))
        conn:write(conn:local_address() .. "\n")
        raises("bad argument #2 to 'send_proxy' (a table expected, got number)", conn.send_proxy, conn, conn, 2)
        conn:close()
      end))
      local port = l:address():match ":(%d+)$"
      local c = assert(rille.dial("tcp://127.0.0.1:" .. port))
      local own = c:local_address():match ":(%d+)$"
      c:send "\n"
      equal(c:read_line():str(), ("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d"):format(own, port))
      equal(c:read_line():str(), "tcp://127.0.0.1:" .. port)
      c:close() l:close()
    ]=]
  end)
end)
