-- TLS of connections that are accepted, against openssl and curl.

local server = require "spec.support.server"
local tls = require "spec.support.tls"

local ECHO = [[
return {
  on_connect = function(conn)
    local t = assert(conn:tls())
    say("open %s %s %s %s %s", t.version, t.cipher, tostring(t.sni), tostring(t.alpn), t.resumed and "resumed" or "new")
    if t.peer then say("peer %s by %s", t.peer.subject, t.peer.issuer) end
  end,
  on_request = function(conn) conn:write(conn:next(conn:len())) end,
  on_close = function(_, err) say("closed %s", tostring(err)) end,
}
]]

local rules

local function start(more, opts)
  opts = opts or {}
  local all = { certificate = rules.certificate, key = rules.key }
  for key, value in pairs(more or {}) do all[key] = value end
  opts.listen = opts.listen or "tls://127.0.0.1:0"
  opts.server = opts.server or {}
  opts.server.tls = all
  return server.start(opts.script or ECHO, opts)
end

-- One line there and back through openssl; what came, what it complained of.
local function talk(s, words)
  return tls.talk(s.port, "-servername localhost " .. (words or ""))
end

-- The same, with all it has to say of the session.
local function look(s, words)
  return tls.look(s.port, "-servername localhost " .. (words or ""))
end

describe("TLS", function()
  before_each(function() rules = tls.set_up() end)
  after_each(server.cleanup)

  describe("of a server", function()
    it("carries bytes both ways, with 1.3 and 1.2", function()
      local s = start()
      assert.equal("hello\n", (talk(s, "-tls1_3")))
      assert.equal("hello\n", (talk(s, "-tls1_2")))
      local said = s:wait_said(4)
      assert.matches("^open TLSv1%.3 TLS_[%w_]+ localhost nil new$", said[1])
      assert.equal("closed nil", said[2])
      assert.matches("^open TLSv1%.2 ECDHE%-ECDSA%-[%w-]+ localhost nil new$", said[3])
    end)

    it("says https in its address, and curl believes it", function()
      local s = start(nil, { listen = "https://127.0.0.1:0", script = "return function(req, res)\n res:send('hello\\n') end" })
      assert.matches("^https://127", s.url)
      assert.equal("hello\n", tls.sh(("curl -sS --max-time 5 --cacert ca.pem https://localhost:%d/"):format(s.port)))
      local words = "curl -sS --max-time 5 --tlsv1.2 --tls-max 1.2 --cacert ca.pem https://localhost:%d/"
      assert.equal("hello\n", tls.sh(words:format(s.port)))
    end)

    it("asks on_prepare before the handshake, and calls on_connect after it", function()
      local s = start(nil, { script = [[
        return {
          on_prepare = function(conn) say("prepare %s", tostring(conn:tls())) rille.sleep(0.01) end,
          on_connect = function(conn) say("connect %s", conn:tls().version) end,
          on_request = function(conn) conn:write(conn:next(conn:len())) end,
          on_close = function(_, err) say("close %s", tostring(err)) end,
        }
        ]] })
      assert.equal("hello\n", (talk(s, "-tls1_3")))
      server.client.connect((s.url:gsub("tls", "tcp"))):send("no TLS at all\r\n")
      assert.same({ "prepare nil", "connect TLSv1.3", "close nil", "prepare nil", "close handshake failed" }, s:wait_said(5))
    end)

    it("refuses what is older than TLS 1.2, or weak", function()
      local s = start()
      for _, words in ipairs { "-tls1_1", "-tls1", "-tls1_2 -cipher 3DES:@SECLEVEL=0", "-tls1_2 -cipher aNULL:eNULL:@SECLEVEL=0",
                               "-tls1_2 -cipher AES128-SHA:@SECLEVEL=0", "-tls1_2 -cipher RC4:@SECLEVEL=0" } do
        local out = talk(s, words .. (words:find "cipher" and "" or " -cipher DEFAULT:@SECLEVEL=0"))
        assert.equal("", out, words)
      end
      assert.equal(0, s:count_log "said open")
    end)

    it("takes TLS 1.3 alone when asked to", function()
      local s = start { min_version = "1.3" }
      assert.matches("alert protocol version", look(s, "-tls1_2"))
      assert.equal("hello\n", (talk(s, "-tls1_3")))
      s:wait_log "TLS handshake with 127%.0%.0%.1:%d+ failed: unsupported protocol"
    end)

    it("resumes sessions by tickets, on any loop", function()
      local s = start(nil, { conf = { loops = 2 }, server = { accept = "balanced" } })
      talk(s, "-tls1_2 -sess_out one")
      assert.matches("Reused, TLSv1%.2", look(s, "-tls1_2 -sess_in one"))
      talk(s, "-tls1_3 -sess_out two")
      for _ = 1, 2 do assert.matches("Reused, TLSv1%.3", look(s, "-tls1_3 -sess_in two")) end
      local resumed = 0
      for _, line in ipairs(s:wait_said(10)) do resumed = resumed + (line:find " resumed$" and 1 or 0) end
      assert.equal(3, resumed)
    end)

    it("serves with kTLS where the kernel has it, and without where not", function()
      local s = start({ ktls = true }, { script = [[return { on_connect = function(conn) say("%s", tostring(conn:tls().ktls.send)) end,
        on_request = function(conn) conn:write(conn:next(conn:len())) end }]] .. "\n" })
      assert.equal("hello\n", (talk(s, "-tls1_2")))
      assert.equal("hello\n", (talk(s, "-tls1_3")))
      local is_there = s:wait_said(2)[1] == "true"
      assert.equal(is_there and 0 or 1, s:count_log "TLS: ktls is wanted, but this kernel has no TLS")
    end)

    it("resumes them in any process", function()
      local s = start(nil, { conf = { processes = 2 } })
      talk(s, "-tls1_3 -sess_out one")
      for _ = 1, 4 do assert.matches("Reused", look(s, "-tls1_3 -sess_in one")) end
      s:forget()
      s:signal "TERM"
      assert.equal(0, s:wait_exit())
    end)

    it("gives no tickets when told so", function()
      local s = start { session_tickets = false }
      for _, version in ipairs { "-tls1_2", "-tls1_3" } do
        assert.not_matches("TLS session ticket:", look(s, version .. " -sess_out one"))
        assert.not_matches("Reused", look(s, version .. " -sess_in one"))
      end
    end)

    it("agrees on a protocol, and refuses clients that have none of its own", function()
      local s = start { alpn = { "b", "a" } }
      assert.matches("ALPN protocol: b", look(s, "-alpn a,b"))
      assert.matches("no application protocol", look(s, "-alpn c"))
      assert.matches("No ALPN negotiated", look(s))
    end)

    it("staples the authority's answer", function()
      tls.sh [[echo "V	330101000000Z		01	unknown	/CN=site" >index; serial=$(openssl x509 -in site.pem -noout -serial | cut -d= -f2);
        echo "V	330101000000Z		$serial	unknown	/CN=site" >index;
        openssl ocsp -issuer ca.pem -cert site.pem -reqout request.der;
        openssl ocsp -index index -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin request.der -respout answer.der]]
      local s = start { ocsp = tls.file "answer.der" }
      assert.matches("OCSP Response Status: successful", look(s, "-status"))
    end)
  end)

  describe("with several certificates", function()
    local function subject(s, name)
      local words = name and "-servername " .. name or "-noservername"
      return tls.client(s.port, words):match "subject=CN = (%w+)"
    end

    it("chooses by name: exactly, by a star, or the first", function()
      tls.certificate("star", "ca", "DNS:*.example.org")
      tls.certificate("www", "ca", "DNS:www.example.org")
      tls.certificate("other", "ca", "DNS:unlike")
      local s = start { certificates = {
        { certificate = tls.file "star.pem", key = tls.file "star.key" },
        { certificate = tls.file "www.pem", key = tls.file "www.key" },
        { certificate = tls.file "other.pem", key = tls.file "other.key", names = { "given.example.net" } },
      } }
      for name, expected in pairs {
        ["www.example.org"] = "www", ["WWW.Example.Org"] = "www", ["a.example.org"] = "star", ["a.b.example.org"] = "site",
        ["example.org"] = "site", ["given.example.net"] = "other", unlike = "site", localhost = "site",
      } do
        assert.equal(expected, subject(s, name), name)
      end
      assert.equal("site", subject(s))
    end)

    it("asks on_certificate, which may park", function()
      tls.certificate("late", "ca", "DNS:late")
      tls.certificate("listed", "ca", "DNS:listed")
      local s = start({ certificates = { { certificate = tls.file "listed.pem", key = tls.file "listed.key" } } }, { script = ([[
        local asked = 0
        return {
          on_certificate = function(name, peer)
            asked = asked + 1
            say("asked for %%s from %%s", tostring(name), peer:match("^127") or "?")
            rille.sleep(0.02)
            if name == "late" then return { certificate = %q, key = %q } end
            if name == "alias" then return "listed" end
            if name == "bad" then error "no idea" end
            if name == "wrong" then return 5 end
            return name ~= "evil"
          end,
          on_request = function(conn) conn:write(conn:next(conn:len())) end,
        }]]):format(tls.file "late.pem", tls.file "late.key"), allow_errors = true })
      assert.equal("late", subject(s, "late"))
      assert.equal("listed", subject(s, "alias"))
      assert.equal("listed", subject(s, "listed"))
      assert.equal("site", subject(s))
      for _, name in ipairs { "evil", "bad", "wrong" } do
        assert.matches("unrecognized name", tls.client(s.port, "-servername " .. name))
      end
      assert.equal("asked for late from 127", s:said()[1])
      s:wait_log "on_certificate failed: .-no idea"
    end)

    it("takes a changed file for new connections, and keeps a good one when the new is bad", function()
      local s = start(nil, { allow_errors = true })
      assert.equal("site", subject(s, "localhost"))
      local c = tls.sh(("(echo one; sleep 2.5; echo two; sleep 0.3) | timeout 10 openssl s_client -connect 127.0.0.1:%d -CAfile ca.pem"
        .. " >long 2>&1 & sleep 0.3"):format(s.port))
      assert.equal("", c)
      tls.certificate("next", "ca", "DNS:localhost")
      tls.sh "cp next.key site.key.new; cp next.pem site.pem.new; mv site.key.new site.key; mv site.pem.new site.pem"
      server.net.poll_until(function() return subject(s, "localhost") == "next" end, 5)
      assert.equal("next", subject(s, "localhost"))
      server.write("site.pem", "nonsense\n")
      server.net.poll_until(function()
        subject(s, "localhost")
        return s:log():find "has changed, and the one before is kept"
      end, 5)
      assert.equal("next", subject(s, "localhost"))
      assert.equal(1, s:count_log "the one before is kept")
      server.net.poll_until(function() return server.read(tls.file "long"):find "two" end, 5)
      assert.matches("one.*two", server.read(tls.file "long"))
    end)

    it("gives its first client what was changed before that came, and says once that ca is bad", function()
      tls.sh "cp ca.pem trusted.pem"
      local s = start({ ca = tls.file "trusted.pem", client = "optional" }, { allow_errors = true })
      tls.certificate("next", "ca", "DNS:localhost")
      tls.sh "cp next.key site.key; cp next.pem site.pem; sleep 1.1" -- files are looked at once a second
      assert.equal("next", subject(s, "localhost"))
      server.write("trusted.pem", "nonsense\n")
      server.net.poll_until(function()
        subject(s, "localhost")
        return s:log():find "the one before is kept: [^\n]*trusted.pem holds no certificate"
      end, 5)
      tls.sh "sleep 1.1"
      assert.equal("next", subject(s, "localhost"))
      assert.equal(1, s:count_log "the one before is kept")
    end)
  end)

  describe("with certificates of clients", function()
    before_each(function()
      tls.certificate("me", "ca", "DNS:me")
      tls.authority "stranger"
      tls.certificate("them", "stranger", "DNS:them")
    end)

    it("lets in who has a good one, and only those", function()
      local s = start { client = "required", ca = tls.file "ca.pem" }
      assert.equal("hello\n", (talk(s, "-cert me.pem -key me.key")))
      assert.equal("peer CN=me by CN=ca", s:wait_said(2)[2])
      assert.equal("", (talk(s)))
      s:wait_log "failed: the peer sent no certificate"
      assert.equal("", (talk(s, "-cert them.pem -key them.key")))
      s:wait_log "failed: unable to get local issuer certificate"
      assert.equal(1, s:count_log "said open")
    end)

    it("lets in who has none, when that is allowed", function()
      local s = start { client = "optional", ca = tls.file "ca.pem" }
      assert.equal("hello\n", (talk(s)))
      assert.equal("hello\n", (talk(s, "-cert me.pem -key me.key")))
      assert.equal("", (talk(s, "-cert them.pem -key them.key")))
    end)

    it("knows them when a session is resumed", function()
      local s = start { client = "required", ca = tls.file "ca.pem" }
      talk(s, "-tls1_2 -cert me.pem -key me.key -sess_out one")
      talk(s, "-tls1_2 -sess_in one")
      local said = s:wait_said(5)
      assert.matches(" resumed$", said[4])
      assert.equal("peer CN=me by CN=ca", said[5])
    end)
  end)

  describe("with a peer that misbehaves", function()
    it("names garbage, plain HTTP, a cut record and a silent end", function()
      local s = start(nil, { listen = { "tls://127.0.0.1:0", "https://127.0.0.1:0" }, script = [[
        return { on_request = function() end, on_close = function(_, err) say("closed %s", tostring(err)) end }
        ]] })
      server.client.connect((s.url:gsub("tls", "tcp"))):send("garbage, more than a record's head\r\n")
      s:wait_log "failed: wrong version number"
      local c = server.client.connect((s.urls[2]:gsub("https", "tcp")))
      c:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
      assert.matches("^HTTP/1.1 400 Bad Request\r\n", c:receive_line() .. "\n")
      s:wait_log "failed: the peer speaks HTTP without TLS"
      c = server.client.connect((s.url:gsub("tls", "tcp")))
      c:send("\22\3\1\2\0\1\0")
      c:shutdown_write()
      s:wait_log "failed: the peer has closed the connection"
      c = server.client.connect((s.url:gsub("tls", "tcp")))
      c:send("\22\3\1\2\0\1\0")
      c:reset()
      s:wait_log "failed: Connection reset by peer"
      s:wait_empty()
    end)

    it("gives up one that says nothing", function()
      local s = start(nil, { timeouts = { handshake = 0.2 } })
      local c = server.client.connect((s.url:gsub("tls", "tcp")))
      s:wait_log "failed: it took too long"
      assert.equal("closed timeout", s:wait_said(1)[1])
      c:close()
      s:wait_empty()
    end)

    it("takes an end without close_notify for a reset", function()
      local s = start()
      local client = "exec timeout -s KILL 60 openssl s_client -connect 127.0.0.1:%d -quiet"
      tls.sh(("(echo hello | sh -c 'echo $$ >pid; " .. client .. "' >quiet 2>&1 &)"):format(s.port))
      s:wait_said(1)
      tls.sh "kill -KILL -$(cat pid)" -- timeout has made a group of itself and the client
      assert.equal("closed reset", s:wait_said(2)[2])
    end)

    it("is not held up by it at a stop", function()
      local s = start()
      local c = server.client.connect((s.url:gsub("tls", "tcp")))
      s:wait_state(function(state) return state.connections == 1 end)
      s:stop(5)
      c:close()
    end)
  end)

  describe("in the configuration", function()
    local function message(more)
      local parts = {}
      for key, value in pairs(more) do parts[#parts + 1] = ("%s = %q"):format(key, value) end
      local path = server.write("conf.lua", "return { servers = { { listen = 'tls://127.0.0.1:0', script = 'scripts/echo.lua',\n tls = { "
        .. table.concat(parts, ", ") .. " } } } }\n")
      server.write("scripts_echo.lua", "")
      tls.sh "mkdir -p scripts; cp scripts_echo.lua scripts/echo.lua"
      local out = require("spec.support.inside").command({ server.root .. "/bin/rille", "check", "--conf", path })
      assert.equal(1, out.status)
      return (out.out:gsub(server.folder():gsub("%p", "%%%0") .. "/", ""):gsub("\n$", ""))
    end

    it("names the file and the key that are wrong", function()
      tls.certificate("mine", "ca", "DNS:x")
      server.write("empty.pem", "")
      tls.sh "openssl ec -in site.key -aes256 -passout pass:secret -out locked.key"
      local good, key = "site.pem", "site.key"
      assert.equal("rille: conf.lua:2: servers[1].tls.certificate: cannot read none.pem: no such file",
        message { certificate = "none.pem", key = key })
      assert.matches("^rille: conf.lua:2: servers%[1%].tls.certificate: empty.pem holds no certificate %(PEM%): no start line",
        message { certificate = "empty.pem", key = key })
      assert.matches("^rille: conf.lua:2: servers%[1%].tls.key: cannot read none.key", message { certificate = good, key = "none.key" })
      assert.equal("rille: conf.lua:2: servers[1].tls.key: mine.key is not the key of the certificate in site.pem",
        message { certificate = good, key = "mine.key" })
      assert.equal("rille: conf.lua:2: servers[1].tls.key: locked.key is encrypted; give one without a password",
        message { certificate = good, key = "locked.key" })
      assert.matches("servers%[1%].tls.ca: empty.pem holds no certificate", message { certificate = good, key = key, ca = "empty.pem" })
      assert.matches('tls.client: got "required"; it needs ca', message { certificate = good, key = key, client = "required" })
      assert.matches('tls.ciphers: "RC4": none of them is known, or safe', message { certificate = good, key = key, ciphers = "RC4" })
      assert.matches("tls.ocsp: site.pem holds no OCSP answer", message { certificate = good, key = key, ocsp = "site.pem" })
      assert.matches("tls: has a certificate and no key", message { certificate = good })
      assert.matches("tls: has no certificate", message { key = key })
    end)

    it("is needed for tls://", function()
      local words = { server.root .. "/bin/rille", "run", "scripts/echo.lua", "--listen", "tls://127.0.0.1:0" }
      local s = require("spec.support.inside").command(words)
      assert.equal(1, s.status)
      assert.matches('tls://127%.0%.0%.1:0 needs tls = { certificate = "FILE", key = "FILE" }', s.out)
    end)
  end)
end)
