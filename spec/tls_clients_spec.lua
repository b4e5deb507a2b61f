-- Clients that others wrote, and certificates that are no good: what each side says, and that nothing stays half open.

local net = require "spec.support.net"
local server = require "spec.support.server"
local tls = require "spec.support.tls"

local rules

-- Python's client, which checks as a browser does: name, chain, time. A session is resumed the second time.
local PYTHON = [[
import socket, ssl, sys
port, version = int(sys.argv[1]), getattr(ssl.TLSVersion, sys.argv[2])
context = ssl.create_default_context(cafile="ca.pem")
context.minimum_version = context.maximum_version = version
context.set_alpn_protocols(["h2", "http/1.1"])
if len(sys.argv) > 3: context.load_cert_chain(sys.argv[3] + ".pem", sys.argv[3] + ".key")
session = None
for _ in range(2):
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port), 5), server_hostname="localhost", session=session) as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while True:
            part = s.recv(4096)
            if not part: break
            answer += part
        print(s.version(), s.selected_alpn_protocol(), s.session_reused, answer.split(b"\r\n\r\n")[1].decode())
        session = s.session
]]

local HELLO = [[return function(req, res)
  local peer = req.conn:tls().peer
  res:send("hello " .. (peer and peer.subject or "nobody"))
end]]

local function https(more, opts)
  local all = { certificate = rules.certificate, key = rules.key }
  for key, value in pairs(more or {}) do all[key] = value end
  opts = opts or {}
  opts.listen, opts.server = "https://127.0.0.1:0", { tls = all }
  return server.start(HELLO, opts)
end

local function curl(s, words, host)
  local command = "curl -sS --max-time 5 -w ' %%{ssl_verify_result} %%{http_version}' %s --resolve other.test:%d:127.0.0.1"
    .. " https://%s:%d/; echo \" $?\""
  local out = tls.sh(command:format(words, s.port, host or "localhost", s.port))
  return (out:gsub("\n$", ""))
end

describe("A client of TLS", function()
  before_each(function()
    rules = tls.set_up()
    server.write("client.py", PYTHON)
  end)
  after_each(server.cleanup)

  it("from Python completes 1.2 and 1.3, is resumed, and shows its certificate", function()
    tls.certificate("me", "ca", "DNS:me")
    local s = https { client = "optional", ca = tls.file "ca.pem" }
    for version, name in pairs { TLSv1_2 = "TLSv1.2", TLSv1_3 = "TLSv1.3" } do
      local words = ("timeout 20 python3 client.py %d %s"):format(s.port, version)
      local line = name .. " http/1.1 %s hello %s\n"
      assert.equal(line:format("False", "nobody") .. line:format("True", "nobody"), tls.sh(words))
      assert.equal(line:format("False", "CN=me") .. line:format("True", "CN=me"), tls.sh(words .. " me"))
    end
  end)

  it("as curl is served, and told what is wrong", function()
    tls.certificate("me", "ca", "DNS:me")
    local s = https { client = "optional", ca = tls.file "ca.pem" }
    assert.equal("hello nobody 0 1.1 0", curl(s, "--cacert ca.pem --tlsv1.3"))
    assert.equal("hello nobody 0 1.1 0", curl(s, "--cacert ca.pem --tls-max 1.2"))
    assert.equal("hello CN=me 0 1.1 0", curl(s, "--cacert ca.pem --cert me.pem --key me.key"))
    assert.matches("no alternative certificate subject name matches.* 60$", curl(s, "--cacert ca.pem", "other.test"))
    assert.matches(" 60$", curl(s, "")) -- who signed it nobody knows
    assert.matches(" 35$", curl(s, "--cacert ca.pem --tls-max 1.1 --ciphers DEFAULT:@SECLEVEL=0"))
    s:wait_empty()
  end)

  it("of Rille refuses each certificate that is no good, and leaves nothing half open", function()
    tls.certificate("old", "ca", "DNS:localhost", -1)
    tls.sh(("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout own.key -out own.pem -days 2 -subj /CN=localhost"
      .. " -addext subjectAltName=DNS:localhost"))
    local servers = {}
    for _, name in ipairs { "site", "old", "own" } do
      servers[name] = server.start("return function(conn)\n conn:write(conn:next(conn:len())) end", { name = name,
        listen = "tls://127.0.0.1:0", server = { tls = { certificate = tls.file(name .. ".pem"), key = tls.file(name .. ".key") } } })
    end
    tls.check(([[
      local ports = { site = %d, old = %d, own = %d }
      local function refused(which, options, err, text)
        local none, e, message = rille.dial("tls://127.0.0.1:" .. ports[which], { tls = options })
        equal(none, nil) equal(e, err)
        if not message:find(text, 1, true) then error(("%%q has no %%q"):format(message, text)) end
      end
      local ca = folder .. "/ca.pem"
      refused("site", { ca = ca, name = "example.org" }, "bad certificate", "hostname mismatch")
      refused("site", { name = "localhost" }, "bad certificate", "unable to get local issuer certificate")
      refused("old", { ca = ca, name = "localhost" }, "bad certificate", "certificate has expired")
      refused("own", { ca = ca, name = "localhost" }, "bad certificate", "self-signed certificate")
      refused("site", { ca = folder .. "/nothing.pem", name = "localhost" }, "bad certificate", "ca: cannot read")
      refused("site", { ca = folder .. "/site.key", name = "localhost" }, "bad certificate", "holds no certificate")
      refused("site", { ca = ca, name = "localhost", certificate = folder .. "/old.pem", key = folder .. "/site.key" }, "bad certificate",
        "is not the key of the certificate")
      local c = assert(rille.dial("tls://127.0.0.1:" .. ports.own, { tls = { ca = folder .. "/own.pem", name = "localhost" } }))
      c:close()
    ]]):format(servers.site.port, servers.old.port, servers.own.port))
    for _, s in pairs(servers) do s:wait_empty() end
  end)

  it("gets the certificate that was, as long as the new one and its key do not fit", function()
    local s = https(nil, { allow_errors = true })
    assert.equal("hello nobody 0 1.1 0", curl(s, "--cacert ca.pem"))
    tls.certificate("next", "ca", "DNS:localhost")
    local kept = tls.sh "openssl x509 -in site.pem -noout -serial"
    tls.sh "cp next.pem site.pem.new; mv site.pem.new site.pem"
    assert.is_truthy(net.poll_until(function()
      curl(s, "--cacert ca.pem")
      return s:log():find("TLS: key has changed, and the one before is kept: " .. tls.file "site.key" .. " is not the key", 1, true)
    end, 5))
    local words = ("openssl s_client -connect 127.0.0.1:%d </dev/null 2>/dev/null | openssl x509 -noout -serial"):format(s.port)
    assert.equal(kept, tls.sh(words))
    tls.sh "cp next.key site.key.new; mv site.key.new site.key"
    local wanted = tls.sh "openssl x509 -in next.pem -noout -serial"
    assert.is_truthy(net.poll_until(function() return tls.sh(words) == wanted end, 5))
    assert.equal(1, s:count_log "the one before is kept")
  end)
end)
