-- Request bodies: read as a whole, in pieces or not at all, from clients that send them in every way they may and in some they
-- may not.

local http = require "spec.support.http"
local server, net = http.server, http.net

local KIB, MIB = 1024, 1024 * 1024

-- Answers with the whole body, or the error.
local WHOLE = [[
return function(req, res)
  local body, err = req:body()
  if body then return res:send(body) end
  say("body: %s", err)
end
]]

-- Answers with the sizes of the pieces and the body again.
local PIECES = [[
return function(req, res)
  local max, list = tonumber(req:query "max"), {}
  while true do
    local piece, err = req:read(max)
    if not piece then
      say("end: %s", tostring(err))
      break
    end
    if max and piece:len() > max then error "too long a piece" end
    list[#list + 1] = piece:str()
  end
  local text = table.concat(list)
  res:send(#list .. " " .. text)
end
]]

local CHUNKED = { "Transfer-Encoding: chunked" }

local function chunked_post(pieces, trailers)
  return http.request("POST", "/", CHUNKED) .. http.chunked(pieces, trailers)
end

-- What is left of an answer behind the number of pieces.
local function text_of(body)
  return body:match("^%d+ (.*)$")
end

describe("http body", function()
  after_each(server.cleanup)

  it("comes as a whole, of every size around a block's", function()
    local s = http.start(WHOLE)
    local c = s:connect()
    for _, size in ipairs { 0, 1, 100, 4095, 4096, 4097, 8191, 8192, 8193, 65535, 65536, 65537, 200000, MIB } do
      local bytes = net.noise(size, size)
      c:send(http.request("POST", "/", { "Content-Length: " .. size }))
      assert.is_true(c:exchange(bytes .. http.get(), 1):sub(1, 1) == "H")
      c.buffer = "H" .. c.buffer
      assert.is_true(http.answer(c).body == bytes, size)
      assert.equal("", http.answer(c).body) -- of a request without one, which came with it
      assert.is_true(http.ask(c, chunked_post(size > 0 and { bytes } or {})).body == bytes, size)
    end
  end)

  it("is the same when it is asked for twice", function()
    local s = http.start [[
      return function(req, res)
        local a, b = req:body(), req:body()
        rille.sleep(0.01)
        res:send(a:str() .. b:str() .. req:body():str() .. tostring(req:read()))
      end
    ]]
    local c = s:connect()
    assert.equal("abcabcabcnil", http.ask(c, http.post("/", "abc")).body)
    assert.equal("abcabcabcnil", http.ask(c, chunked_post { "a", "bc" }).body)
    assert.equal("nil", http.ask(c, http.get()).body)
  end)

  it("comes in pieces", function()
    local s = http.start(PIECES)
    local c = s:connect()
    local bytes = net.noise(500000)
    c:send(http.request("POST", "/", { "Content-Length: 500000" }))
    c:send(bytes)
    assert.is_true(text_of(http.answer(c).body) == bytes)
    assert.equal("4 0123456789", http.ask(c, http.post("/?max=3", "0123456789")).body)
    assert.equal("10 0123456789", http.ask(c, http.post("/?max=1.9", "0123456789")).body)
    assert.equal("0 ", http.ask(c, http.get()).body)
    for _, text in ipairs(s:wait_said(4)) do assert.equal("end: nil", text) end
  end)

  it("comes in pieces of the chunked coding, however it is cut", function()
    local s = http.start(PIECES)
    local c = s:connect()
    assert.equal("3 abcdef", http.ask(c, chunked_post { "a", "bc", "def" }).body)
    assert.equal("0 ", http.ask(c, chunked_post {}).body)
    local bytes = net.noise(300000)
    local pieces, at = {}, 1
    while at <= #bytes do
      local size = at % 977 + 1
      pieces[#pieces + 1] = bytes:sub(at, at + size - 1)
      at = at + size
    end
    local text = chunked_post(pieces)
    c:send(text)
    assert.is_true(text_of(http.answer(c).body) == bytes)
    c:send_slowly(chunked_post { "slow", "er" })
    assert.equal("slower", text_of(http.answer(c).body))
    for from = 1, #text, 7919 do c:send(text:sub(from, from + 7918)) end
    assert.is_true(text_of(http.answer(c).body) == bytes)
  end)

  it("comes as a whole in the chunked coding, with extensions, trailers and in tiny pieces", function()
    local s = http.start(WHOLE)
    local c = s:connect()
    local head = http.request("POST", "/", CHUNKED)
    local body = '3;a=1;b="x;y"\r\nabc\r\n0a\r\n0123456789\r\n000;last\r\nTrailer: 1\r\nX-Host: evil\r\n\r\n'
    assert.equal("abc0123456789", http.ask(c, head .. body).body)
    c:send_slowly(head .. body)
    assert.equal("abc0123456789", http.answer(c).body)
    assert.equal("next", http.ask(c, http.post("/", "next")).body)
  end)

  it("does not merge trailers into the header", function()
    local s = http.start [[
      return function(req, res)
        req:body()
        res:send(tostring(req:header "x") .. tostring(req:headers().x))
      end
    ]]
    local c = s:connect()
    assert.equal("nilnil", http.ask(c, chunked_post({ "a" }, "X: 1\r\n")).body)
  end)

  it("comes as a whole behind the pieces that were read", function()
    local s = http.start [[
      return function(req, res)
        local first = req:read(4):str()
        rille.sleep(0.005)
        res:send(first .. "|" .. req:body():str() .. "|" .. req:body():str() .. "|" .. tostring(req:read()))
      end
    ]]
    local c = s:connect()
    assert.equal("0123|456789|456789|nil", http.ask(c, http.post("/", "0123456789")).body)
    assert.equal("0123|456789|456789|nil", http.ask(c, chunked_post { "012345", "6", "789" }).body)
    assert.equal("0123|||nil", http.ask(c, http.post("/", "0123")).body)
    c:send(http.request("POST", "/", { "Content-Length: 10" }) .. "01")
    for _, piece in ipairs { "23", "4567", "89" } do c:send(piece) end
    local answer = http.answer(c).body
    assert.truthy(answer == "0123|456789|456789|nil" or answer:find("^01|23456789|23456789|nil$"), answer)
  end)

  it("may be answered while it comes", function()
    local s = http.start([[
      return function(req, res)
        while true do
          local piece = req:read()
          if not piece then return end
          res:write(piece)
          res:flush()
        end
      end
    ]], { limits = { body = 0 } })
    local c = s:connect()
    c:send(http.request("POST", "/", CHUNKED) .. "5\r\nhello\r\n")
    assert.equal("chunked", http.head(c)["transfer-encoding"])
    assert.equal("5\r\nhello\r\n", c:receive(10))
    c:send "2\r\n, \r\n"
    assert.equal("2\r\n, \r\n", c:receive(7))
    c:send "0\r\n\r\n"
    assert.equal("0\r\n\r\n", c:receive(5))
    local bytes = net.noise(3 * MIB)
    c:send(http.request("POST", "/", { "Content-Length: " .. #bytes }))
    c.buffer = c:exchange(bytes, #bytes, 20) .. c.buffer
    assert.is_true(http.answer(c).body == bytes)
  end)

  -- ---- Expect ------------------------------------------------------------------------------------------------------

  local EXPECTING = http.request("POST", "/", { "Expect: 100-continue", "Content-Length: 5" })

  it("is asked for with 100 (Continue) when the handler reads", function()
    for _, script in ipairs { WHOLE, PIECES } do
      local s = http.start(script)
      local c = s:connect()
      for _ = 1, 3 do
        c:send(EXPECTING)
        assert.equal("HTTP/1.1 100 Continue\r\n\r\n", c:receive(25))
        c:send("hello")
        assert.truthy(http.answer(c).body:find("hello", 1, true))
      end
      -- it came without waiting: nothing to ask for
      assert.truthy(http.ask(c, EXPECTING .. "hello").status == 200)
      c:send(http.request("POST", "/", { "Expect: 100-CONTINUE", "Transfer-Encoding: chunked" }))
      assert.equal("HTTP/1.1 100 Continue\r\n\r\n", c:receive(25))
      c:send(http.chunked { "hel", "lo" })
      assert.truthy(http.answer(c).body:find("hello", 1, true))
    end
  end)

  it("is not asked for when the handler does not read, and the connection ends: it may or may not come", function()
    local answers = { 'res:send "no"', 'res:write "no"', "res.status = 204", 'res:file "/etc/hostname"', "error 'no'" }
    for _, answer in ipairs(answers) do
      local s = http.start("return function(_, res)\n" .. answer .. "\nend\n", { allow_errors = true })
      local c = s:connect()
      c:send(EXPECTING)
      assert.equal("close", http.answer(c).connection, answer)
      assert.same({ "", "closed" }, { c:receive_all() })
      local d = s:connect() -- the client takes the answer for the end of the matter and asks for something else
      d:send(EXPECTING)
      http.answer(d)
      d:try_send(http.get())
      assert.equal("", (d:receive_all()), answer)
    end
  end)

  it("is no matter of Expect without a body", function()
    local s = http.start(WHOLE)
    local c = s:connect()
    assert.equal(200, http.ask(c, http.request("POST", "/", { "Expect: 100-continue", "Content-Length: 0" })).status)
    assert.equal(200, http.ask(c, http.get("/", { "Expect: 100-continue" })).status)
    assert.equal(417, http.ask(c, http.get("/", { "Expect: more" })).status)
  end)

  -- ---- limits ------------------------------------------------------------------------------------------------------

  it("is refused at once when its declared length is over the limit", function()
    local s = http.start(WHOLE, { limits = { body = 10 } })
    local c = s:connect()
    assert.equal("0123456789", http.ask(c, http.post("/", "0123456789")).body)
    for _, fields in ipairs { {}, { "Expect: 100-continue" } } do
      local d = s:connect()
      d:send(http.request("POST", "/", { "Content-Length: 11", unpack(fields) }))
      local answer = http.answer(d)
      assert.same({ 413, "close" }, { answer.status, answer.connection })
      assert.equal("", (d:receive_all()))
    end
    assert.equal(413, http.once(s, http.request("POST", "/", { "Content-Length: 9223372036854775807" })).status)
  end)

  it("may be sent to its end by a client that reads only then: the answer is still there", function()
    local s = http.start([[
      return function(req, res)
        if req.path == "/raise" then res:write "begun" error "broken" end
        if req.path == "/close" then res:header("Connection", "close") end
        if req.path == "/piece" then req:read(1) end
        res:send "done"
      end
    ]], { limits = { body = 100 * KIB }, allow_errors = true })
    local cases = {
      ["/refused"] = { 413, { "Content-Length: " .. MIB } }, ["/close"] = { 200, { "Content-Length: " .. 100 * KIB } },
      ["/raise"] = { 200, { "Content-Length: " .. 100 * KIB } }, ["/piece"] = { 200, { "Content-Length: " .. 100 * KIB } },
      ["/wrong"] = { 400, { "Content-Length: x" } }, ["/chunks"] = { 200, CHUNKED },
    }
    for path, case in pairs(cases) do
      local c = s:connect()
      c:send(http.request("POST", path, case[2]) .. (path == "/chunks" and "100000\r\n" or "x"))
      net.wait(c.fd, net.POLLIN, net.now() + 1) -- the answer is there, and the server done with it
      net.nap(5)
      for _ = 1, 100 do
        c:send(("x"):rep(KIB))
        net.nap(0)
      end
      local head = http.head(c)
      assert.equal(case[1], head.status, path)
      local _, how = c:receive_all()
      assert.equal("closed", how, path)
    end
  end)

  it("is refused when the chunks come to more than the limit", function()
    for _, script in ipairs { WHOLE, PIECES } do
      local s = http.start(script, { limits = { body = 10 } })
      local c = s:connect()
      assert.equal(200, http.ask(c, chunked_post { "01234", "56789" }).status)
      c:send(http.request("POST", "/", CHUNKED) .. "6\r\n012345\r\n")
      c:send("5\r\n6789a\r\n")
      local answer = http.answer(c)
      assert.same({ 413, "close" }, { answer.status, answer.connection })
      assert.equal("", (c:receive_all()))
      assert.truthy(s:wait_log("said %a+: too large"))
      assert.equal(413, http.once(s, http.request("POST", "/", CHUNKED) .. "ffffffffffffffff\r\n").status)
    end
  end)

  it("may be of any length without a limit", function()
    local s = http.start([[
      return function(req, res)
        local n = 0
        for piece in function() return req:read() end do n = n + piece:len() end
        res:send(tostring(n))
      end
    ]], { limits = { body = 0 } })
    local c = s:connect()
    local block = ("x"):rep(MIB)
    c:send(http.request("POST", "/", { "Content-Length: " .. 40 * MIB }))
    local before = s:rss()
    for _ = 1, 40 do c:send(block) end
    assert.equal(tostring(40 * MIB), http.answer(c).body)
    if not net.is_sanitized then assert.is_true(s:rss() - before < 8 * MIB, s:rss() - before) end
  end)

  -- ---- a body that nobody reads --------------------------------------------------------------------------------------

  it("is stepped over when it is small, so that the next request is read right", function()
    local s = http.start 'return function(req, res)\nres:send(req.path)\nend\n'
    local c = s:connect()
    local smuggled = http.get "/smuggled"
    for _, method in ipairs { "GET", "POST", "DELETE", "HEAD" } do
      c:send(http.request(method, "/a", nil, smuggled) .. http.request(method, "/b", CHUNKED) .. http.chunked { smuggled }
        .. http.get "/c")
      for _, path in ipairs { "/a", "/b" } do
        assert.equal(method == "HEAD" and "" or path, http.answer(c, method).body)
      end
      assert.equal("/c", http.answer(c).body)
    end
    -- it comes late
    c:send(http.request("POST", "/late", { "Content-Length: 30000" }))
    assert.equal("/late", http.answer(c).body)
    c:send(("x"):rep(10000))
    c:send(("y"):rep(20000) .. http.get "/next")
    assert.equal("/next", http.answer(c).body)
    c:send(http.request("POST", "/late", CHUNKED) .. "4\r\n")
    assert.equal("/late", http.answer(c).body)
    c:send_slowly("abcd\r\n1;x=1\r\ne\r\n0\r\nA: b\r\n\r\n" .. http.get "/after")
    assert.equal("/after", http.answer(c).body)
  end)

  it("ends the connection behind the answer when it is large", function()
    local s = http.start('return function(_, res)\nres:send "done"\nend\n', { limits = { body = 0 } })
    local c = s:connect()
    c:send(http.request("POST", "/", { "Content-Length: " .. 10 * MIB }))
    local answer = http.answer(c)
    assert.same({ "done", "close" }, { answer.body, answer.connection })
    for _ = 1, 10 do c:try_send(("x"):rep(MIB)) end
    assert.equal("", (c:receive_all()))
    -- chunked: nobody can know before
    local d = s:connect()
    d:send(http.request("POST", "/", CHUNKED))
    assert.equal("done", http.answer(d).body)
    local chunk = ("%x\r\n%s\r\n"):format(32 * KIB, ("x"):rep(32 * KIB))
    for _ = 1, 100 do d:try_send(chunk) end
    assert.equal("", (d:receive_all()))
  end)

  it("ends the connection when the rest of it does not come", function()
    local s = http.start('return function(_, res)\nres:send "done"\nend\n', { timeouts = { header = 0.15 } })
    local c = s:connect()
    c:send(http.request("POST", "/", { "Content-Length: 100" }) .. "some")
    assert.equal("done", http.answer(c).body)
    assert.same({ "", "closed" }, { c:receive_all() })
  end)

  it("is stepped over behind an error of the handler as well", function()
    local s = http.start([[
      return function(req, res)
        if req.path == "/read" then req:read(3) end
        if req.path ~= "/fine" then error "broken" end
        res:send "fine"
      end
    ]], { allow_errors = true })
    local c = s:connect()
    for _, path in ipairs { "/", "/read" } do
      assert.equal(500, http.ask(c, http.post(path, http.get "/fine")).status)
      assert.equal("fine", http.ask(c, http.get "/fine").body)
      assert.equal(500, http.ask(c, http.request("POST", path, CHUNKED) .. http.chunked { "abcdef", http.get "/fine" }).status)
      assert.equal("fine", http.ask(c, http.get "/fine").body)
    end
  end)

  -- ---- clients that do not send it -----------------------------------------------------------------------------------

  it("is nil, an error and no answer's place when the client vanishes", function()
    for _, read in ipairs { "req:body()", "req:read(), req:read()" } do
      local s = http.start(([[
        return function(req, res)
          local results = { %s }
          local err = select(-1, %s)
          say("got %%s", err)
          res.status = 400
          res:header("X-Y", "z")
          say("sent %%s %%s", tostring(res:send "x"), tostring(select(2, res:write "x")))
        end
      ]]):format("", read))
      for _, fields in ipairs { { "Content-Length: 10" }, CHUNKED } do
        local c = s:connect()
        local before = #s:said()
        c:send(http.request("POST", "/", fields) .. "4\r\nabc")
        if before == 0 then c:shutdown_write() else c:reset() end
        local list = s:wait_said(before + 2)
        assert.truthy(list[before + 1] == "got closed" or list[before + 1] == "got reset", list[before + 1])
        assert.truthy(list[before + 2]:find("^sent nil %a+$"), list[before + 2])
      end
    end
  end)

  it("is refused where the chunked coding is wrong", function()
    local flaws = { "x\r\n", "-1\r\n", "0x1\r\n", " 1\r\n", "\r\n", "1\n", "1\r\nab\r\n", "1\r\na\n", "1;\1\r\n", "0\r\nnoname\r\n",
                    "0\r\nA : 1\r\n", "11111111111111111\r\n" }
    for _, script in ipairs { WHOLE, PIECES } do
      local s = http.start(script)
      for _, flaw in ipairs(flaws) do
        local c = s:connect()
        c:send(http.request("POST", "/", CHUNKED) .. "3\r\nabc\r\n")
        c:send(flaw .. http.get())
        local answer = http.answer(c)
        assert.same({ 400, "close" }, { answer.status, answer.connection }, flaw)
        assert.equal("", (c:receive_all()))
      end
      s:wait_said(#flaws)
      for _, text in ipairs(s:said()) do assert.truthy(text:find(": invalid argument$"), text) end
    end
    -- and where nobody reads it the connection ends
    local s = http.start 'return function(_, res)\nres:send "done"\nend\n'
    for _, flaw in ipairs(flaws) do
      local c = s:connect()
      c:send(http.request("POST", "/", CHUNKED) .. "3\r\nabc\r\n" .. flaw .. http.get())
      assert.equal("done", http.answer(c).body)
      assert.equal("", (c:receive_all()), flaw)
    end
  end)

  it("has to come in time", function()
    for _, script in ipairs { WHOLE, PIECES } do
      for _, fields in ipairs { { "Content-Length: 10" }, CHUNKED } do
        local s = http.start(script, { timeouts = { body = 0.15 } })
        local c = s:connect()
        local began = net.now()
        c:send(http.request("POST", "/", fields) .. "4\r\nab")
        local answer = http.answer(c)
        assert.same({ 408, "close" }, { answer.status, answer.connection })
        assert.equal("", (c:receive_all()))
        assert.is_true(net.now() - began > 0.1)
        assert.truthy(s:wait_said(1)[1]:find("timeout", 1, true), s:said()[1])
      end
    end
  end)

  it("has to come in time in each single wait, where that is asked for", function()
    local s = http.start(WHOLE, { timeouts = { read = 0.15 } })
    local c = s:connect()
    net.nap(200) -- between requests nobody waits for it
    assert.equal("x", http.ask(c, http.post("/", "x")).body)
    c:send(http.request("POST", "/", { "Content-Length: 10" }) .. "half")
    assert.equal(408, http.answer(c).status)
    assert.equal("", (c:receive_all()))
  end)

  it("has as much time as it needs at the least allowed rate, however it is cut", function()
    local s = http.start(WHOLE, { timeouts = { body = 0.4 }, limits = { body_rate = 10 * KIB } })
    local c = s:connect()
    c:send(http.request("POST", "/", { "Content-Length: 6144" }))
    for _ = 1, 6 do -- longer than 0.4 s, but each KiB gives 0.1 s more
      c:send(("x"):rep(KIB))
      net.nap(90)
    end
    assert.equal(6144, #http.answer(c).body)
  end)

  it("does not have the time anew with each byte", function()
    for _, script in ipairs { WHOLE, PIECES } do
      local s = http.start(script, { timeouts = { body = 0.2 } })
      local c = s:connect()
      c:send(http.request("POST", "/", { "Content-Length: 10000" }))
      local sent = 0
      while sent < 200 do
        c:try_send("x")
        sent = sent + 1
        if net.wait(c.fd, net.POLLIN, net.now() + 0.01) then break end
      end
      assert.equal(408, http.answer(c).status)
      assert.is_true(sent < 100, sent)
    end
  end)

  it("has a time of its own in each request", function()
    local s = http.start(WHOLE, { timeouts = { body = 0.3 } })
    local c = s:connect()
    for i = 1, 8 do -- each waits for a while; none too long
      c:send(http.request("POST", "/", { "Content-Length: 4" }))
      net.nap(60)
      c:send("b" .. i .. "..")
      assert.equal("b" .. i .. "..", http.answer(c).body)
    end
  end)

  it("does not count the handler's own time", function()
    local s = http.start([[
      return function(req, res)
        rille.sleep(0.3)
        local first = req:read(1):str()
        rille.sleep(0.3)
        res:send(first .. req:body():str())
      end
    ]], { timeouts = { body = 0.15 } })
    local c = s:connect()
    assert.equal("hello", http.ask(c, http.post("/", "hello")).body)
  end)

  it("is read by one task at a time; another one hears busy", function()
    local s = http.start [[
      return function(req, res)
        local other = rille.spawn(function()
          local a, why_a = req:body()
          local b, why_b = req:read()
          return ("%s %s %s %s"):format(tostring(a), why_a, tostring(b), why_b)
        end)
        local body = req:body()
        res:send(body:str() .. " " .. other:join())
      end
    ]]
    local c = s:connect()
    c:send(http.request("POST", "/", { "Content-Length: 4" }) .. "ab")
    s:wait_state(function(state) return state.messages == 1 end)
    c:send("cd")
    assert.equal("abcd nil busy nil busy", http.answer(c).body)
  end)

  it("can be given up with a time-out of the handler's own", function()
    local s = http.start [[
      return function(req, res)
        local body, err = rille.with_timeout(0.05, function() return req:body() end)
        if req.path == "/again" then body = req:body() end
        res:send(tostring(body and body:str()) .. " " .. tostring(err))
      end
    ]]
    local c = s:connect()
    c:send(http.request("POST", "/", { "Content-Length: 4" }) .. "ab")
    assert.equal("nil timeout", http.answer(c).body)
    c:send("cd" .. http.post("/", "next"))
    assert.equal("next nil", http.answer(c).body)
    c:send(http.request("POST", "/again", { "Content-Length: 4" }) .. "ab")
    s:wait_state(function(state) return state.messages == 3 end)
    net.nap(80)
    c:send("cd")
    assert.equal("abcd timeout", http.answer(c).body)
  end)

  it("of a handler that left its reading to a task and returned does not hold up the next request", function()
    local s = http.start([[
      return function(req, res)
        if req.path == "/leave" then
          rille.spawn(function() say("task: %s", select(2, pcall(req.body, req))) end)
          rille.yield()
        end
        res:send(req.path)
      end
    ]])
    for _, fields in ipairs { { "Content-Length: 4" }, CHUNKED } do
      local c = s:connect()
      local before = #s:said()
      c:send(http.request("POST", "/leave", fields))
      assert.equal("/leave", http.answer(c).body)
      c:send((fields == CHUNKED and http.chunked { "abcd" } or "abcd") .. http.get "/next")
      assert.equal("/next", http.answer(c).body)
      assert.truthy(s:wait_said(before + 1)[before + 1]:find("this request is over", 1, true))
    end
  end)

  it("cannot be read past HTTP, through the connection", function()
    local s = http.start [[
      return function(req, res)
        local conn, list = req.conn, {}
        for _, call in ipairs { "next", "read", "read_line", "peek", "skip", "read_until", "read_string", "take" } do
          list[#list + 1] = tostring(select(2, conn[call](conn, call == "read_until" and "x" or 1)))
        end
        list[#list + 1] = tostring(select(2, conn:write "x"))
        list[#list + 1] = tostring(select(2, conn:send "x"))
        list[#list + 1] = tostring(select(2, conn:write_byte(1)))
        list[#list + 1] = tostring(select(2, conn:malloc(1)))
        list[#list + 1] = tostring(select(2, conn:append(require("rille.linkbuffer").new())))
        res:send(table.concat(list, " ") .. " " .. req:body():str())
      end
    ]]
    local c = s:connect()
    assert.equal(("busy "):rep(13) .. "abcxyz", http.ask(c, http.post("/", "abcxyz")).body)
  end)
end)
