-- The floor of TLS as scanners look at it: old versions, weak ciphers, compression and renegotiation are refused with the right alert;
-- hellos are made by hand, as no library here would send them.

local server = require "spec.support.server"
local tls = require "spec.support.tls"

local ALERTS = { [40] = "handshake_failure", [47] = "illegal_parameter", [50] = "decode_error", [70] = "protocol_version",
  [86] = "inappropriate_fallback" }

local WEAK = {
  RC4 = { 0x0004, 0x0005, 0xc007, 0xc011 },
  ["3DES and DES"] = { 0x000a, 0x0009, 0xc008, 0xc012, 0x0016 },
  ["no encryption"] = { 0x0001, 0x0002, 0x003b, 0xc006, 0xc010 },
  export = { 0x0003, 0x0006, 0x0008, 0x0014 },
  ["no authentication"] = { 0x0034, 0x003a, 0x006c, 0x00a6, 0xc018, 0xc019 },
  ["keys that were agreed on before"] = { 0x008c, 0x00a8, 0xc035 },
}
-- What is only worse than need be: refused by default, there for who lists it.
local OLD = { CBC = { 0xc009, 0xc013, 0xc014, 0xc023, 0xc027 }, ["no forward secrecy"] = { 0x002f, 0x0035, 0x009c, 0x009d } }

local rules

local function start(more)
  local all = { certificate = rules.certificate, key = rules.key }
  for key, value in pairs(more or {}) do all[key] = value end
  return server.start([[
    return { on_connect = function() say("open") end, on_request = function(conn) conn:write(conn:next(conn:len())) end }
  ]], { listen = "tls://127.0.0.1:0", server = { tls = all } })
end

-- The answer to a hello: the name of an alert, or "hello" with what follows the record's head.
local function answer(s, hello)
  local c = server.client.connect((s.url:gsub("^tls", "tcp")))
  c:send(hello)
  local head = c:receive(5)
  local body = c:receive(head:byte(4) * 256 + head:byte(5))
  c:close()
  if head:byte() == 22 then return "hello", body end
  assert.equal(21, head:byte())
  assert.equal(2, body:byte(1)) -- fatal
  return ALERTS[body:byte(2)] or body:byte(2)
end

describe("TLS of a server", function()
  before_each(function() rules = tls.set_up() end)
  after_each(server.cleanup)

  it("refuses SSL 3, TLS 1.0 and 1.1 with protocol_version, and SSL 2", function()
    local s = start()
    assert.equal("handshake_failure", (answer(s, tls.hello { version = 0x300 }))) -- which knew no other
    for version = 0x301, 0x302 do assert.equal("protocol_version", (answer(s, tls.hello { version = version }))) end
    assert.equal("hello", (answer(s, tls.hello())))
    assert.equal("hello", (answer(s, tls.hello { version = 0x304 }))) -- a client of a future that says it the old way
    local c = server.client.connect((s.url:gsub("^tls", "tcp")))
    c:send("\128\46\1\0\2\0\21\0\0\0\16\1\0\128\2\0\128\3\0\128\4\0\128\5\0\128\6\0\64\7\0\192" .. ("c"):rep(16))
    local all = c:receive_all()
    assert.is_true(all == "" or all:byte() == 21)
    s:wait_log "TLS handshake with [%d.:]+ failed: unsupported protocol"
    assert.equal(0, s:count_log "said open")
  end)

  it("refuses 1.2 as well when 1.3 is the least", function()
    assert.equal("protocol_version", (answer(start { min_version = "1.3" }, tls.hello())))
  end)

  it("refuses weak ciphers, whatever the list says", function()
    local rsa = tls.rsa()
    for _, one in ipairs { {}, { ciphers = "ALL:COMPLEMENTOFALL:@SECLEVEL=0" }, { certificate = rsa.certificate, key = rsa.key },
                           { certificate = rsa.certificate, key = rsa.key, ciphers = "ALL:COMPLEMENTOFALL:@SECLEVEL=0" } } do
      local s = start(one)
      for what, ciphers in pairs(WEAK) do
        assert.equal("handshake_failure", (answer(s, tls.hello { ciphers = ciphers })), what)
      end
      for what, ciphers in pairs(OLD) do
        local got = answer(s, tls.hello { ciphers = ciphers })
        if not one.ciphers then assert.equal("handshake_failure", got, what) end
      end
      s:stop()
    end
  end)

  it("does not fall back, and does not compress", function()
    local s = start()
    assert.equal("inappropriate_fallback", (answer(s, tls.hello { ciphers = { 0xc02b, 0x5600 } })))
    local what, hello = answer(s, tls.hello { compressions = "\1\0" })
    assert.equal("hello", what)
    local session = hello:byte(39)
    assert.equal("\192\43\0", hello:sub(40 + session, 42 + session)) -- the cipher, and no compression
    assert.is_not.equal("hello", (answer(s, tls.hello { compressions = "\1" })))
  end)

  it("does not renegotiate", function()
    local s = start()
    local words = "(sleep 1; echo R; sleep 1; echo Q) | timeout 10 openssl s_client -connect 127.0.0.1:%d -tls1_2"
    local out = tls.sh(words:format(s.port))
    assert.matches("Secure Renegotiation IS supported", out)
    assert.matches("Compression: NONE", out)
    assert.matches("RENEGOTIATING", out)
    assert.matches("no renegotiation", out)
  end)
end)

describe("Behind a proxy, TLS", function()
  before_each(function() rules = tls.set_up() end)
  after_each(server.cleanup)

  it("begins after the header, in one piece with it or in many", function()
    local s = server.start([[return function(conn)
      conn:write(("%s %s %s\n"):format(conn:read_line():str(), conn:peer(), conn:tls().version))
    end]], { listen = "tls://127.0.0.1:0", server = { tls = rules, proxy = { trusted = { "127.0.0.1" } } } })
    tls.check(([[
      local header = "PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"
      for _, late in ipairs { true, false } do
        local c = dial(%d)
        if late then
          for i = 1, #header do c:send(header:sub(i, i)) end
        else
          c:write(header) -- it goes out with the hello, or just before
        end
        assert(c:starttls { role = "client", name = "localhost", ca = folder .. "/ca.pem" })
        c:send("hello\n")
        equal(c:read_line():str(), "hello 203.0.113.9:4711 TLSv1.3")
        c:close()
      end
    ]]):format(s.port))
    -- a hello without a header is none, nor is one inside TLS
    assert.equal("", (tls.talk(s.port)))
    s:wait_empty()
  end)

  it("is what curl speaks over HTTP", function()
    local s = server.start("return function(req, res)\n res:send(req.conn:peer() .. '\\n') end", {
      listen = "https://127.0.0.1:0", server = { tls = rules, proxy = { trusted = { "127.0.0.1" } } } })
    assert.matches("^127%.0%.0%.1:%d+\n$",
      tls.sh(("curl -sS --max-time 5 --haproxy-protocol --cacert ca.pem https://localhost:%d/"):format(s.port)))
  end)
end)
