-- scripts/sniff.lua: three protocols on one port; and conn:on_request(fn, "http"), which it needs.

local http = require "spec.support.http"
local inside = require "spec.support.inside"
local tls = require "spec.support.tls"
local server = http.server
local net = server.net

local function run()
  local rules = tls.set_up()
  return server.run("scripts/sniff.lua", { "certificate=" .. rules.certificate, "key=" .. rules.key })
end

describe("scripts/sniff.lua", function()
  after_each(server.cleanup)

  it("tells HTTP, TLS and lines apart", function()
    local s = run()
    local c = s:connect()
    for i = 1, 3 do assert.equal(("/%d over HTTP\n"):format(i), http.ask(c, http.get("/" .. i)).body) end
    assert.equal("hello over TCP\n", s:connect():send("hello\n"):receive_line() .. "\n")
    local words = "--max-time 5 --cacert ca.pem https://localhost:%d/a https://localhost:%d/b"
    assert.equal("/a over HTTPS\n/b over HTTPS\n", tls.sh(("curl -sS " .. words):format(s.port, s.port)))
    assert.equal("hello over TLS\n", (tls.talk(s.port, "-servername localhost")))
  end)

  it("does so however slowly the first bytes come", function()
    local s = run()
    local c = s:connect()
    c:send_slowly(http.get "/slow")
    assert.equal("/slow over HTTP\n", http.answer(c, "GET").body)
    for _, line in ipairs { "GETX", "G", "", "POSTAL", "\22x", "\r" } do
      c = s:connect()
      c:send_slowly(line == "\22x" and "x\22" .. line .. "\n" or line .. "\n")
      c:receive_line()
    end
  end)

  it("answers pipelined requests, bodies, and clients that close their side", function()
    local s = run()
    local c = s:connect()
    c:send(http.get "/1" .. http.post("/2", ("x"):rep(10000)) .. http.get "/3"):shutdown_write()
    for i = 1, 3 do assert.equal(("/%d over HTTP\n"):format(i), http.answer(c, "GET").body) end
    assert.same({ "", "closed" }, { c:receive_all() })
    c = s:connect()
    c:send("GET / HTTP/1.1\r\n\r\n") -- no Host
    assert.equal(400, http.answer(c, "GET").status)
    assert.same({ "", "closed" }, { c:receive_all() })
    s:wait_empty()
  end)

  it("goes on with open connections over a reload", function()
    local s = run()
    local c, d = s:connect(), s:connect()
    assert.equal("/1 over HTTP\n", http.ask(c, http.get "/1").body)
    assert.equal("a over TCP", d:send("a\n"):receive_line())
    s:signal "HUP"
    s:wait_log "sniff@2"
    assert.equal("/2 over HTTP\n", http.ask(c, http.get "/2").body)
    assert.equal("b over TCP", d:send("b\n"):receive_line())
    assert.equal("/3 over HTTP\n", http.ask(s:connect(), http.get "/3").body)
  end)

  it("lets go of who does not say what it speaks", function()
    local s = run()
    for _, bytes in ipairs { "", "GE", "\22", "\22\3\1\0\1x", "\22nonsense of no handshake" } do
      local c = s:connect()
      if #bytes > 0 then c:send(bytes) end
      c:shutdown_write()
      c:receive_all()
    end
    s:wait_empty()
  end)

  it("waits 5 seconds for all that it has to know, not for each byte of it", function()
    local s = run()
    local c, began, is_over = s:connect(), net.now(), false
    for byte in ("PATC"):gmatch "." do
      c:try_send(byte)
      is_over = c:receive_some(2.5 / net.slow) == ""
      if is_over then break end
    end
    assert.is_true(is_over)
    assert.is_true(net.now() - began > 4)
    s:wait_empty()
  end)
end)

describe('conn:on_request(fn, "http")', function()
  after_each(server.cleanup)

  it("begins with what was not consumed", function()
    inside.check [=[
      local asked = {}
      local ends = 0
      local l = assert(rille.listen("tcp://127.0.0.1:0", {
        on_request = function(c)
          local first = c:read_line()
          if first ~= "switch" then return c:write "?\n" end
          assert(c:on_request(function(req, res)
            asked[#asked + 1] = req.path
            equal(c:is_active(), true)
            res:send(req:body():str() .. "!")
          end, "http"))
          equal(select(2, c:on_request(function() end, "http")), "busy")
          equal(select(2, c:read()), "busy") equal(select(2, c:write "x"), "busy")
        end,
        on_close = function() ends = ends + 1 end,
      }, { limits = { body = 10 } }))
      local c = assert(rille.dial(l:address()))
      c:send "no\n" equal(c:read_line():str(), "?")
      c:send "switch\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiGET /b HTTP/1.1\r\nHost: a\r\n\r\n"
      local text = ""
      while not text:find "!.*!" do text = text .. c:read():str() end
      equal(text:find("hi!", 1, true) ~= nil, true)
      c:send "POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n" -- the server's limit
      equal(c:read_line():str(), "HTTP/1.1 413 Content Too Large")
      c:close()
      equal(table.concat(asked), "/a/b")
      -- nobody has listened for these
      local a, b = rille.pair()
      equal(select(2, a:on_request(function() end, "http")), "not supported")
      a:close() b:close()
      local till = clock() + 5 * SLOW
      while ends < 1 and clock() < till do rille.sleep(0.005) end
      equal(ends, 1)
      l:close()
    ]=]
  end)

  it("answers 500 to a handler that raises, and ends with the one before it", function()
    inside.check([=[
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c)
        local how = c:read_line():str()
        c:on_request(function() error "oops" end, "http")
        if how == "raise" then error "before" end
      end))
      local c = assert(rille.dial(l:address()))
      c:send "go\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
      equal(c:read_line():str(), "HTTP/1.1 500 Internal Server Error")
      c:close()
      c = assert(rille.dial(l:address()))
      c:send "raise\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"
      local _, err = c:read() assert(err == "closed" or err == "reset")
      c:close() l:close()
    ]=], { errors = true })
  end)
end)
