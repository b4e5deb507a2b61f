-- conn:starttls on any connection, in either role; what crosses TLS in pieces, slowly, in bulk.

local server = require "spec.support.server"
local tls = require "spec.support.tls"

-- Both ends of a pair, TLS between them. client's options may be given.
local BOTH = [[
local SERVER = { certificate = folder .. "/site.pem", key = folder .. "/site.key" }
local CLIENT = { role = "client", name = "localhost", ca = folder .. "/ca.pem" }
local function options(more)
  local t = {}
  for _, from in ipairs { CLIENT, more or {} } do for k, v in pairs(from) do t[k] = v end end
  return t
end
local function pair(more, of_server)
  local a, b = rille.pair()
  local ok, err, why, ok_b, err_b, why_b
  together(function() ok, err, why = a:starttls(options(more)) end, function() ok_b, err_b, why_b = b:starttls(of_server or SERVER) end)
  return a, b, ok, err, why, ok_b, err_b, why_b
end
]]

local function check(code, options) return tls.check(BOTH .. code, options) end

describe("conn:starttls", function()
  before_each(function() tls.set_up() end)
  after_each(server.cleanup)

  it("encrypts a pair, and says what was agreed on", function()
    check [[
      local a, b, ok, err, why, ok_b = pair({ alpn = { "x", "y" } }, { certificate = SERVER.certificate, key = SERVER.key, alpn = { "y" } })
      equal(ok, true) equal(ok_b, true)
      a:send("over TLS\n")
      equal(b:read_line():str(), "over TLS")
      b:send("and back\n")
      equal(a:read_line():str(), "and back")
      local t = a:tls()
      equal(t.version, "TLSv1.3") equal(t.alpn, "y") equal(t.sni, "localhost") equal(t.resumed, false)
      equal(t.peer.subject, "CN=site") equal(t.peer.issuer, "CN=ca") equal(t.peer.names[1], "localhost")
      equal(#t.peer.fingerprint, 64)
      equal(t.peer.not_after > rille.time() and t.peer.not_after < rille.time() + 31 * 86400, true)
      equal(t.ktls.send, false)
      equal(b:tls().sni, "localhost") equal(b:tls().peer, nil)
      local x, e = a:detach()
      equal(x, nil) equal(e, "not supported")
      equal(select(2, a:starttls(options())), "exists")
      a:close() b:close()
      local c, d = rille.pair()
      equal(c:tls(), nil)
      c:close() d:close()
    ]]
  end)

  it("starts in the middle of a stream, as a mail server does", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line()
        if not line then return conn:close() end
        if line ~= "STARTTLS" then return conn:write("plain " .. line:str() .. "\n") end
        conn:write("go ahead\n")
        local ok, err = conn:starttls()
        say("starttls %s %s", tostring(ok), tostring(err))
        conn:on_request(function(c) c:write("secret " .. c:read_line():str() .. "\n") end)
      end
    ]], { server = { tls = { certificate = tls.file "site.pem", key = tls.file "site.key" } } })
    check(([[
      local c = dial(%d)
      c:send("one\n")
      equal(c:read_line():str(), "plain one")
      c:send("STARTTLS\n")
      equal(c:read_line():str(), "go ahead")
      equal(c:starttls(CLIENT), true)
      c:send("two\n")
      equal(c:read_line():str(), "secret two")
      c:close()
    ]]):format(s.port))
    assert.same({ "starttls true nil" }, s:said())
    -- words that were put in before the handshake are never taken for what came over TLS
    local c = s:connect()
    c:send("STARTTLS\ninjected\n")
    assert.equal("go ahead", c:receive_line())
    assert.equal("starttls nil handshake failed", s:wait_said(2)[2])
    assert.not_matches("injected", s:log())
  end)

  it("takes a handshake that was read already: TLS and plain on one port", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          if not conn.ctx and conn:peek(1):byte(1) == 22 then
            conn.ctx = true
            return conn:starttls()
          end
          conn:write((conn:tls() and "TLS " or "plain ") .. conn:read_line():str() .. "\n")
        end,
      }
    ]], { server = { tls = { certificate = tls.file "site.pem", key = tls.file "site.key" } } })
    local c = s:connect()
    c:send("hello\n")
    assert.equal("plain hello", c:receive_line())
    assert.equal("TLS hello\n", (tls.talk(s.port)))
  end)

  it("refuses a certificate that is wrong, and says why", function()
    tls.certificate("old", "ca", "DNS:localhost", -1)
    tls.authority "stranger"
    check([[
      local function refused(err, why, more, of_server)
        local a, b, ok, e, w, ok_b = pair(more, of_server)
        equal(ok, nil) equal(e, err) equal(w, why)
        if ok_b then equal(b:read(), nil) end -- of TLS 1.3 the server has done its part
        equal(a:write("x"), nil)
        b:close()
      end
      refused("bad certificate", "hostname mismatch", { name = "example.org" })
      refused("bad certificate", "IP address mismatch", { name = "127.0.0.2" })
      refused("bad certificate", "certificate has expired", nil, { certificate = folder .. "/old.pem", key = folder .. "/old.key" })
      refused("bad certificate", "unable to get local issuer certificate", { ca = folder .. "/stranger.pem" })
      refused("bad certificate", "certificate rejected", { fingerprint = ("0"):rep(64) })
      local a, b, ok = pair({ name = "127.0.0.1" })
      equal(ok, true)
      local print = a:tls().peer.fingerprint
      a:close() b:close()
      a, b, ok = pair({ name = "whoever", ca = folder .. "/stranger.pem", fingerprint = print })
      equal(ok, true) a:close() b:close()
      a, b, ok = pair({ name = "whoever", ca = folder .. "/stranger.pem", verify = false })
      equal(ok, true) a:close() b:close()
    ]])
  end)

  it("trusts whom the system trusts, without a ca", function()
    check([[
      local a, b = rille.pair()
      local err, why
      together(function() local _ _, err, why = a:starttls { role = "client", name = "localhost" } end, function() b:starttls(SERVER) end)
      equal(err, "bad certificate") equal(why, "unable to get local issuer certificate")
      a:close() b:close()
    ]])
    check([[
      local a, b = rille.pair()
      local ok
      together(function() ok = a:starttls { role = "client", name = "localhost" } end, function() b:starttls(SERVER) end)
      equal(ok, true)
      a:close() b:close()
    ]], { env = { SSL_CERT_FILE = tls.file "ca.pem" } })
  end)

  it("fails with the peer: no TLS there, a reset, silence", function()
    check [[
      local function failing(what, err, more)
        local a, b = rille.pair()
        local task = rille.spawn(function() return a:starttls(options(more)) end)
        rille.yield()
        what(b)
        local ok, e = task:join()
        equal(ok, nil) equal(err and e, err) equal(type(e), "string")
        b:close()
      end
      failing(function(b) b:send("220 hello\r\n") end, "handshake failed")
      failing(function(b) b:read() b:close() end, "closed")
      failing(function(b) rille.yield() b:abort() end) -- "reset" or "closed", whichever was first
      failing(function() end, "timeout", { timeout = 0.05 })
    ]]
  end)

  it("ends well when a script closes the connection during the handshake", function()
    check [[
      for _, silent in ipairs { true, false } do
        local a, b = rille.pair()
        local task = rille.spawn(function() return a:starttls(CLIENT) end)
        rille.yield()
        a:write("never sent")
        a:close()
        if not silent then b:send("no TLS\r\n") end
        local ok, err = task:join()
        equal(ok, nil) equal(type(err), "string")
        b:close()
        task = nil
        a, b = rille.pair()
        task = rille.spawn(function() return a:starttls(CLIENT) end)
        rille.yield()
        equal(task:cancel(), true)
        task:join()
        a:close() b:close()
      end
    ]]
  end)

  it("says what it is called with", function()
    check [[
      local a, b = rille.pair()
      raises("role is \"server\" or \"client\", not x", a.starttls, a, { role = "x" })
      raises("starttls has no option 'nome' for a client", a.starttls, a, { role = "client", nome = "x" })
      raises("verify is a boolean, not a string", a.starttls, a, { role = "client", name = "x", verify = "no" })
      raises("name, of the server, is missing", a.starttls, a, { role = "client" })
      raises("certificate and key are missing", a.starttls, a)
      local ok, err, why = a:starttls { certificate = folder .. "/none.pem", key = folder .. "/site.key" }
      equal(ok, nil) equal(err, "bad certificate")
      equal(why, ("certificate: cannot read %s/none.pem: no such file"):format(folder))
      a:send("still plain\n")
      equal(b:read_line():str(), "still plain")
      a:close() b:close()
      equal(select(2, a:starttls(CLIENT)), "closed")
    ]]
  end)

  describe("then", function()
    it("carries a mebibyte each way at once, and more to a slow reader", function()
      check [[
        local SIZE = 2 ^ 20
        local text = ("0123456789abcdef"):rep(SIZE / 16)
        local function read_all(c, n)
          local parts, have = {}, 0
          while have < n do
            local s = assert(c:read())
            parts[#parts + 1] = s:str()
            have = have + s:len()
            c:release()
          end
          return table.concat(parts)
        end
        for _, version in ipairs { "1.3", "1.2" } do
          local a, b, ok = pair(version == "1.2" and { ciphers = "ECDHE+AESGCM" } or { min_version = "1.3" })
          equal(ok, true)
          together(function() assert(a:send(text)) end, function() assert(b:send(text)) end,
            function() equal(read_all(a, SIZE) == text, true) end, function() equal(read_all(b, SIZE) == text, true) end)
          a.high_water = 2 ^ 26
          for i = 1, 4 do a:write(text) end
          local have = 0
          while have < 4 * SIZE do
            local s = assert(b:read(10000))
            for i = 1, s:len(), 997 do equal(s:byte(i), text:byte((have + i - 1) % SIZE + 1)) end
            have = have + s:len()
            b:release()
            if have % 7 == 0 then rille.sleep(0.001) end
          end
          a:close() b:close()
        end
      ]]
    end)

    it("bears every cut of the bytes between", function()
      check([[
        local function pump(from, to, n)
          while true do
            local s = from:read(n)
            if not s then return to:shutdown("write") end
            to:send(s)
            from:release()
          end
        end
        for _, n in ipairs { 1, 2, 3, 5, 7, 64, 1000, 16389 } do
          local a, left = rille.pair()
          local right, b = rille.pair()
          rille.spawn(pump, left, right, n) rille.spawn(pump, right, left, n)
          local ok, ok_b
          together(function() ok = a:starttls(CLIENT) end, function() ok_b = b:starttls(SERVER) end)
          equal(ok, true) equal(ok_b, true)
          local text = ("x"):rep(n < 10 and 3000 or 100000)
          local back
          together(function() a:send(text) a:shutdown("write") end, function()
            local all = {}
            while true do local s = b:read() if not s then break end all[#all + 1] = s:str() b:release() end
            back = table.concat(all)
          end)
          equal(#back, #text)
          equal(select(2, b:read()), "closed")
          b:send("bye")
          equal(a:read_string(3), "bye")
          a:close() b:close() left:close() right:close()
        end
      ]], { seconds = 60 })
    end)

    it("ends on both sides with close_notify, and tells a cut from an end", function()
      check [[
        local a, b = pair()
        a:send("last words")
        a:close()
        equal(b:read_string(10), "last words")
        equal(select(2, b:read()), "closed")
        b:close()
        a, b = pair()
        a:send("last words")
        a:abort()
        equal(b:read_string(10), "last words")
        equal(select(2, b:read()), "reset")
        b:close()
        -- half of it
        a, b = pair()
        a:shutdown("write")
        equal(select(2, b:read()), "closed")
        b:send("an answer")
        equal(a:read_string(9), "an answer")
        a:close() b:close()
      ]]
    end)

    it("refuses what was changed on the way", function()
      check [[
        local a, left = rille.pair()
        local right, b = rille.pair()
        local harm = false
        rille.spawn(function() while true do local s = left:read() if not s then return end
          local text = s:str() left:release()
          if harm then text = text:sub(1, -2) .. string.char((text:byte(-1) + 1) % 256) end
          right:send(text) end end)
        rille.spawn(function() while true do local s = right:read() if not s then return end left:send(s) right:release() end end)
        together(function() a:starttls(CLIENT) end, function() b:starttls(SERVER) end)
        a:send("good") equal(b:read_string(4), "good")
        harm = true
        a:send("bad")
        equal(select(2, b:read()), "reset")
        a:close() b:close() left:close() right:close()
      ]]
    end)

    it("may be paused, slow, and traced in plain", function()
      check [[
        local a, b = pair()
        b:pause()
        a:send(("y"):rep(100000))
        turns(5)
        b:resume()
        b:trace(true)
        local have = 0
        while have < 100000 do have = have + b:read():len() b:release() end
        b:trace(false)
        b:set_rate { read = 2 ^ 20, write = 2 ^ 20 }
        together(function() a:send(("z"):rep(60000)) end, function()
          local got = 0
          while got < 60000 do got = got + b:read():len() b:release() end
        end)
        together(function() b:send(("w"):rep(60000)) end, function()
          local got = 0
          while got < 60000 do got = got + a:read():len() a:release() end
        end)
        a:close() b:close()
      ]]
    end)
  end)

  it("of 200 clients at once", function()
    local s = server.start([[
      return { on_request = function(conn) conn:write(conn:next(conn:len())) end, on_connect = function(conn) assert(conn:tls()) end }
    ]], { listen = "tls://127.0.0.1:0", conf = { loops = 2 }, server = { accept = "balanced",
      tls = { certificate = tls.file "site.pem", key = tls.file "site.key" } }, timeouts = { handshake = 60 } })
    check(([[
      local tasks, good = {}, 0
      local conns = {}
      for i = 1, 200 do conns[i] = dial(%d) end
      for i = 1, 200 do
        tasks[i] = rille.spawn(function()
          assert(conns[i]:starttls(options { timeout = 60 }))
          conns[i]:send("hello " .. i .. "\n")
          equal(conns[i]:read_line():str(), "hello " .. i)
          good = good + 1
          conns[i]:close()
        end)
      end
      for _, t in ipairs(tasks) do t:join() end
      equal(good, 200)
    ]]):format(s.port), { seconds = 60 })
    s:wait_empty(2)
  end)

  it("goes along to another loop, with what OpenSSL still holds", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line()
        if not line then return conn:close() end
        local to = line:str():match("^move (%d)")
        if to then
          conn:release()
          assert(conn:move(tonumber(to)))
          return
        end
        conn:write(("loop %d %s\n"):format(rille.loop.id, conn:tls() and "TLS" or "plain"))
      end
    ]], { listen = "tls://127.0.0.1:0", conf = { loops = 2 }, server = { accept = "balanced",
      tls = { certificate = tls.file "site.pem", key = tls.file "site.key" } } })
    check(([[
      local c = dial(%d)
      assert(c:starttls(CLIENT))
      for round = 1, 20 do
        local to = round %% 2 + 1
        c:send("move " .. to .. "\n") c:send("where\n")
        equal(c:read_line():str(), "loop " .. to .. " TLS")
        c:send("move " .. to .. "\nwhere\n")
        equal(c:read_line():str(), "loop " .. to .. " TLS")
      end
      c:close()
    ]]):format(s.port))
  end)

  it("is no hindrance for a topic", function()
    local s = server.start([[
      return {
        on_connect = function(conn) rille.topic("news"):subscribe(conn) conn:write("welcome\n") end,
        on_request = function(conn) rille.topic("news"):publish(conn:read_line():str() .. "\n") end,
      }
    ]], { listen = "tls://127.0.0.1:0", server = { tls = { certificate = tls.file "site.pem", key = tls.file "site.key" } } })
    check(([[
      local a, b = dial(%d), dial(%d)
      assert(a:starttls(CLIENT)) assert(b:starttls(CLIENT))
      equal(a:read_line():str(), "welcome") equal(b:read_line():str(), "welcome")
      for i = 1, 50 do a:send("message " .. i .. "\n") end
      for i = 1, 50 do equal(a:read_line():str(), "message " .. i) equal(b:read_line():str(), "message " .. i) end
      a:close() b:close()
    ]]):format(s.port, s.port))
  end)

  it("is what a dial of tls:// does, and refuses a server it cannot trust", function()
    local s = server.start("scripts/echo.lua", { listen = "tls://127.0.0.1:0", server = { tls = tls.set_up() } })
    check(([[
      local c = assert(rille.dial("tls://127.0.0.1:%d", { tls = { ca = CLIENT.ca } }))
      c:send("over TLS")
      equal(c:next(8):str(), "over TLS")
      equal(c:tls().version, "TLSv1.3")
      c:close()
      local d = assert(rille.dial("tcp://127.0.0.1:%d", { tls = { ca = CLIENT.ca, name = "localhost" } }))
      equal(d:tls().sni, "localhost")
      d:close()
      local none, err, message = rille.dial("tls://127.0.0.1:%d")
      equal(none, nil) equal(err, "bad certificate")
      assert(message:find("^cannot dial tls://127%%.0%%.0%%.1:"), message)
      none, err = rille.dial("tls://127.0.0.1:%d", { tls = { ca = CLIENT.ca, name = "other.test" } })
      equal(err, "bad certificate")
    ]]):format(s.port, s.port, s.port, s.port))
    s:wait_empty()
    s:stop()
  end)
end)
