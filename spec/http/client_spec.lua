-- rille.http.client: requests and answers over real sockets, against the server of this house and against servers that misbehave.

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local tls = require "spec.support.tls"

-- raw(fn): a server that calls fn(conn, head, number of the request) for each head that has come. serve(fn): one that speaks HTTP.
local HEAD = [[local http = rille.http ]]
  .. [[local function raw(fn) local n = 0 local l = assert(rille.listen("tcp://127.0.0.1:0", function(c) ]]
  .. [[local head = c:read_until("\r\n\r\n") if not head then return c:close() end n = n + 1 return fn(c, head:str(), n) end)) ]]
  .. [[return l, l:address():gsub("^tcp", "http") .. "" end ]]
  .. [[local function serve(fn) local l = assert(rille.listen("http://127.0.0.1:0", fn, { limits = { body = 0 } })) ]]
  .. [[return l, l:address() end ]]
  .. [[local function wait(what, fn) local till = clock() + 5 * SLOW repeat local v = fn() if v then return v end ]]
  .. [[rille.sleep(0.005) until clock() > till error("never: " .. what, 2) end ]]
  .. [[local function connections() return rille.loop.stats().connections end ]]
  .. [[local function finish(client, ...) client:close() for _, l in ipairs { ... } do l:close() end ]]
  .. [[wait("the end of all connections", function() collectgarbage() return connections() == 0 end) end ]]
  .. [[local OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" ]]

local function check(code, options)
  return inside.check(HEAD .. code, options)
end

describe("rille.http.client", function()
  after_each(server.cleanup)

  it("asks and gets answers, over one connection", function()
    check [=[
      local l, url = serve(function(req, res)
        res:header("X-Many", { "1", "2" })
        res:header("Set-Cookie", { "a=1", "b=2" })
        res.status = 201
        local own = req:header("x-own") or "none"
        res:send(("%s %s %s [%s] %s"):format(req.method, req.target, req.host, tostring(own), req:body():str()))
      end)
      local client = http.client { base = url .. "/v1/", headers = { ["X-Own"] = "mine" } }
      local ids = {}
      local res = assert(client:get("/a", { query = { q = "x y&", list = { 1, 2 } } }))
      equal(res.status, 201) equal(res.reason, "Created") equal(res.version, "1.1")
      equal(res:header("x-many"), "1, 2") equal(res:header("no"), nil) equal(#res:values("SET-cookie"), 2)
      equal(res:headers()["x-many"], "1, 2") equal(res:headers()["set-cookie"][2], "b=2")
      equal(res:body(), "GET /v1/a?list=1&list=2&q=x%20y%26 127.0.0.1 [mine] ")
      equal(res:body(), "GET /v1/a?list=1&list=2&q=x%20y%26 127.0.0.1 [mine] ") -- again
      equal(tostring(res), "res 201 " .. url .. "/v1/a?list=1&list=2&q=x%20y%26")
      res = assert(client:request { url = url .. "/b?c#d", query = "e=f", headers = { ["x-own"] = false } })
      equal(res:body(), "GET /b?c&e=f 127.0.0.1 [none] ")
      equal(client:post("/p", { body = "12345" }):body(), "POST /v1/p 127.0.0.1 [mine] 12345")
      equal(client:put("/p", { body = "" }):body(), "PUT /v1/p 127.0.0.1 [mine] ")
      equal(client:delete("/p", { headers = { ["X-Own"] = { "a", "b" } } }):body(), "DELETE /v1/p 127.0.0.1 [a, b] ")
      equal(client:request { method = "PROPFIND", path = "/p" }:body(), "PROPFIND /v1/p 127.0.0.1 [mine] ")
      local head = assert(client:head "/a")
      equal(head.status, 201) equal(head:body(), "") equal(head:header "Content-Length", "28")
      local s = client:stats()
      equal(s.origins, 1) equal(s.idle, 1) equal(s.in_use, 0) equal(s.requests, 7)
      equal(connections(), 2)
      finish(client, l)
    ]=]
  end)

  it("speaks JSON both ways", function()
    check [=[
      local l, url = serve(function(req, res)
        if req.path == "/bad" then return res:send "{" end
        local value = req:json()
        value.type = req:header("content-type"):str()
        res:json(value)
      end)
      local client = http.client()
      local value = client:post(url, { json = { a = 1 } }):json()
      equal(value.a, 1) equal(value.type, "application/json")
      value = client:post(url, { json = { a = 2 }, headers = { ["Content-Type"] = "x/y" } }):json()
      equal(value.a, 2) equal(value.type, "x/y")
      local none, err, message = client:get(url .. "/bad"):json()
      equal(none, nil) equal(err, "invalid argument") equal(type(message), "string")
      finish(client, l)
    ]=]
  end)

  it("gives the same, however an answer is cut", function()
    check([=[
      local answers = {
        { "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: 1\r\n\r\nhello world", "hello world" },
        { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n06\r\n world\r\n0\r\nX-T: 7\r\nX-U: \r\n\r\n",
          "hello world", "7" },
        { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nX: y\r\n\r\nHTTP/1.1 200\r\nContent-Length: 1\r\n\r\n!", "!" },
        { "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", "" },
        { "HTTP/1.0 200 OK\r\nX-A: 1\r\n\r\nuntil the end", "until the end", nil, true },
      }
      local answer, cut
      local l, url = raw(function(c)
        if cut == 0 then
          for i = 1, #answer[1] do c:send(answer[1]:sub(i, i)) rille.yield() end
        else
          c:send(answer[1]:sub(1, cut))
          turns(2)
          c:send(answer[1]:sub(cut + 1))
        end
        if answer[4] then c:close() end
      end)
      local client = http.client { base = url }
      for _, one in ipairs(answers) do
        answer = one
        for i = 0, #one[1] do
          cut = i
          local res = assert(client:get "/")
          equal(res:body(), one[2]) equal(res:trailer "x-t", one[3])
          if one[3] then equal(res:trailers()["x-u"], "") end
        end
      end
      equal(client:stats().in_use, 0)
      finish(client, l)
    ]=], { seconds = 60 })
  end)

  it("refuses malformed answers by name, and their connections", function()
    check [=[
      local OKAY = "HTTP/1.1 200 OK\r\n"
      local cases = {
        { "garbage\r\n\r\n", "server failure", "no status line" },
        { "HTTP/2.0 200 OK\r\n\r\n", "server failure", "neither HTTP/1.1" },
        { OKAY .. "X: 1\r\n folded\r\n\r\n", "server failure", "folded" },
        { OKAY .. "X : 1\r\n\r\n", "server failure", "before the colon" },
        { OKAY .. "nonsense\r\n\r\n", "server failure", "no field" },
        { OKAY .. "X: a\nY: b\r\n\r\n", "server failure", "no field" },
        { OKAY .. "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "server failure", "more than one Content-Length" },
        { OKAY .. "Content-Length: -1\r\n\r\nx", "server failure", "no number" },
        { OKAY .. "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "server failure", "both Content-Length" },
        { OKAY .. "Transfer-Encoding: gzip\r\n\r\n", "server failure", "not chunked alone" },
        { "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "server failure", "HTTP/1.0" },
        { "HTTP/1.1 101 Switching Protocols\r\n\r\n", "server failure", "101" },
        { ("HTTP/1.1 103 Hints\r\n\r\n"):rep(40), "server failure", "1xx" },
        { OKAY .. "X: " .. ("a"):rep(20000), "too large", "larger than allowed" },
        { OKAY .. ("X: a\r\n"):rep(101) .. "\r\n", "too large", "more fields" },
        { OKAY:sub(1, 9), "closed", "before its answer", true },
        { OKAY .. "X: ", "closed", "before its answer", true },
        { "", "closed", "before its answer", true },
      }
      local case
      local l, url = raw(function(c)
        c:send(case[1])
        if case[4] then c:close() end
      end)
      local client = http.client { base = url }
      for _, one in ipairs(cases) do
        case = one
        local res, err, message = client:get "/"
        equal(res, nil)
        if err ~= one[2] or not message:find(one[3], 1, true) then
          error(("%q: got %s, %s"):format(one[1]:sub(1, 80), tostring(err), tostring(message)))
        end
        if not message:find("^GET http://127") then error(message) end
        equal(client:stats().idle, 0)
      end
      equal(client:stats().requests, #cases) -- none was repeated
      finish(client, l)
    ]=]
  end)

  it("notices bodies that are wrong or end early", function()
    check [=[
      local CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      local cases = {
        { CHUNKED .. "5\r\nhelloX", "server failure" },
        { CHUNKED .. "z\r\n", "server failure" },
        { CHUNKED .. "5\nhello\r\n", "server failure" },
        { CHUNKED .. "11111111111111111\r\n", "server failure" },
        { CHUNKED .. "0\r\nBad Trailer: x\r\n\r\n", "server failure" },
        { CHUNKED .. "0\r\nX: " .. ("x"):rep(20000), "too large" },
        { CHUNKED .. "0\r\n" .. ("X: a\r\n"):rep(101) .. "\r\n", "too large" },
        { CHUNKED .. "5\r\nhel", "closed", true },
        { CHUNKED .. "5\r\nhello\r\n", "closed", true },
        { CHUNKED .. "5\r\nhello\r\n0\r\n", "closed", true },
        { "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "closed", true },
        { "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "reset", false, true },
        { "HTTP/1.1 200 OK\r\n\r\nhello", "reset", false, true },
      }
      local case
      local l, url = raw(function(c)
        c:send(case[1])
        if case[3] then c:close() end
        if case[4] then
          rille.after(0.05, function() c:abort() end)
          c:read()
        end
      end)
      local client = http.client { base = url }
      for i, one in ipairs(cases) do
        case = one
        local res = assert(client:get "/")
        local body, err, message = res:body()
        if body ~= nil or err ~= one[2] then
          error(("case %d: %s, %s, %s"):format(i, tostring(body), tostring(err), tostring(message)))
        end
        body, err = res:body() -- and so it stays
        equal(body, nil) equal(err, one[2])
        body, err = res:read()
        equal(body, nil) equal(err, one[2])
        equal(client:stats().idle, 0) equal(client:stats().in_use, 0)
      end
      finish(client, l)
    ]=]
  end)

  it("keeps a connection when that is safe, and else does not", function()
    check [=[
      local answer, close
      local l, url = raw(function(c, head)
        c:send(answer)
        if close then c:close() end
      end)
      local client = http.client { base = url }
      local function kept(text, opts)
        answer = text
        local res = assert(client:request(opts or {}))
        assert(res:body())
        local idle = client:stats().idle
        if idle == 1 then for _, one in pairs(client.origins) do one.upstream.list[1]:drop_idle() end end
        return idle == 1
      end
      equal(kept(OK), true)
      equal(kept "HTTP/1.1 204 No Content\r\n\r\n", true)
      equal(kept "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", true)
      equal(kept("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", { method = "HEAD" }), true)
      equal(kept("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", { method = "HEAD" }), true)
      equal(kept "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", true)
      equal(kept "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true)
      equal(kept "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false)
      equal(kept "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false)
      equal(kept(OK, { headers = { Connection = "close" } }), false)
      equal(kept(OK .. "HTTP/1.1 200 OK\r\n"), false)                        -- bytes that nobody asked for
      equal(kept "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nxx", false)
      equal(kept "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n", false) -- they may come yet
      equal(kept("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx", { method = "HEAD" }), false)
      close = true
      equal(kept "HTTP/1.1 200 OK\r\n\r\n", false)
      close = false
      -- bytes that come later
      answer = OK
      assert(client:get "/":body())
      equal(client:stats().idle, 1)
      finish(client, l)
    ]=]
  end)

  it("repeats what a server that was about to close has not seen, and nothing else", function()
    check [=[
      local seen, fate, partial = {}, {}, ""
      local l, url = raw(function(c, head, n)
        local method = head:match "^%a+"
        if method == "POST" then c:read_string(1) end
        seen[#seen + 1] = method
        if fate[#seen] == "close" then
          if partial ~= "" then c:send(partial) end
          return c:close()
        elseif fate[#seen] == "abort" then
          return c:abort()
        end
        c:send(OK)
      end)
      local client = http.client { base = url }
      local function ask(method, ...)
        seen, fate = {}, { false, ... }
        local opts = { method = method, body = method == "POST" and "x" or nil }
        assert(client:request(opts):body())
        local res, err = client:request(opts)
        local body = res and res:body()
        return body or err, #seen
      end
      local got, n = ask("GET", "close") equal(got, "ok") equal(n, 3)
      got, n = ask("GET", "abort") equal(got, "ok") equal(n, 3)
      got, n = ask("POST", "close") equal(got, "closed") equal(n, 2)
      -- on a fresh connection it is the answer
      fate, seen = { "close" }, {}
      local _, err = client:get "/" equal(err, "closed") equal(#seen, 1)
      partial = "HTTP/1.1 2"
      got, n = ask("GET", "close") equal(got, "closed") equal(n, 2)
      partial = ""
      -- what the script says counts
      seen, fate = {}, { false, "close" }
      assert(client:post("/", { body = "x", idempotent = true }):body())
      equal(client:post("/", { body = "x", idempotent = true }):body(), "ok") equal(#seen, 3)
      finish(client, l)
    ]=]
  end)

  it("holds its time-outs", function()
    check [=[
      local how
      local l, url = raw(function(c)
        if how == "silent" then return rille.sleep(2) end
        if how == "drip" then
          for i = 1, 500 do
            if not c:send(("HTTP/1.1 200 OK\r\nX: " .. ("a"):rep(500)):sub(i, i)) then return end
            rille.sleep(0.01)
          end
        end
        c:send "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        if how == "half" then return rille.sleep(2) end
        for _ = 1, 400 do
          if not c:send "x" then return end
          rille.sleep(0.01)
        end
      end)
      local client = http.client { base = url }
      local function took(fn)
        local began = clock()
        fn()
        local seconds = clock() - began
        if seconds > 1.5 * SLOW then error("it took " .. seconds) end
      end
      local function late(which, opts, what)
        how = which
        took(function()
          local res, err, message = client:get("/", opts)
          if res then _, err, message = res:body() end
          equal(err, "timeout")
          if not message:find(what, 1, true) then error(message) end
        end)
        equal(client:stats().in_use, 0)
      end
      late("silent", { answer_timeout = 0.1 }, "no answer in 0.1 s")
      late("silent", { timeout = 0.1 }, "not done in 0.1 s")
      late("drip", { answer_timeout = 0.1 }, "no answer in 0.1 s")
      late("half", { read_timeout = 0.1 }, "nothing more of the body in 0.1 s")
      late("slow", { timeout = 0.2 }, "not done in 0.2 s")
      -- from outside
      how = "silent"
      took(function()
        local res, err = rille.with_timeout(0.1, client.get, client, "/")
        equal(res, nil) equal(err, "timeout")
      end)
      equal(client:stats().in_use, 0)
      local t = rille.spawn(client.get, client, "/")
      rille.sleep(0.05)
      t:cancel()
      wait("the end of what was cancelled", function() return client:stats().in_use == 0 end)
      finish(client, l)
    ]=]
  end)

  it("hands a body on as it comes, and holds the server back", function()
    check [=[
      local written = 0
      local l, url = serve(function(_, res)
        for _ = 1, 2048 do
          if not res:write(("z"):rep(16384)) then return end
          written = written + 16384
        end
      end)
      local client = http.client { base = url }
      local res = assert(client:get "/")
      local first = assert(res:read(100))
      assert(#first <= 100)
      local before
      wait("the server to be held back", function()
        local same = before == written
        before = written
        rille.sleep(0.05)
        return same
      end)
      if written > 16 * 2 ^ 20 then error(written .. " bytes were taken from the server") end
      local size = #first
      local old
      for piece in function() return res:read(50000) end do
        if old then equal(old:is_valid(), false) end
        old = piece
        size = size + #piece
      end
      equal(size, 2048 * 16384)
      equal(res:read(), nil)
      equal(client:stats().idle, 1)
      finish(client, l)
    ]=]
  end)

  it("gives up what is not wanted", function()
    check [=[
      local l, url = serve(function(req, res) res:send(("z"):rep(tonumber(req:query "n"))) end)
      local client = http.client { base = url }
      assert(client:get("/", { query = { n = 30000 } }):discard())
      equal(client:stats().idle, 1)
      assert(client:get("/", { query = { n = 300000 } }):discard())
      equal(client:stats().idle, 0)
      local res = client:get("/", { query = { n = 300000 } })
      local body, err = res:body(1000)
      equal(body, nil) equal(err, "too large")
      -- lost
      client:get("/", { query = { n = 300000 } })
      wait("the collector", function() collectgarbage() return client:stats().in_use == 0 end)
      -- max_body counts chunks too
      local l2, url2 = serve(function(_, r) for _ = 1, 10 do r:write(("z"):rep(1000)) end end)
      res = client:get(url2, { max_body = 9999 })
      body, err = res:body()
      equal(body, nil) equal(err, "too large")
      equal(#client:get(url2, { max_body = 10000 }):body(), 10000)
      finish(client, l, l2)
    ]=]
  end)

  it("sends bodies of all kinds", function()
    check [=[
      local l, url = serve(function(req, res)
        local length = req:header "content-length"
        res:header("X-Length", length and length:str() or "chunked")
        while true do
          local piece = req:read()
          if not piece then break end
          res:write(piece)
        end
        res:write "."
      end)
      local client = http.client { base = url, answer_timeout = 5 * SLOW }
      local function post(body, headers)
        local res = assert(client:post("/", { body = body, headers = headers }))
        return res:body(), res:header "x-length"
      end
      local LinkBuffer = require "rille.linkbuffer"
      local function list(...) local parts, i = { ... }, 0 return function() i = i + 1 return parts[i] end end
      local body, length = post "abc" equal(body, "abc.") equal(length, "3")
      local buffer = LinkBuffer.new() buffer:write "abcd" buffer:flush()
      body, length = post(buffer:peek(4)) equal(body, "abcd.") equal(length, "4")
      body, length = post(buffer) equal(body, "abcd.") equal(length, "4")
      buffer:close()
      body, length = post(list("ab", "", "c")) equal(body, "abc.") equal(length, "chunked")
      body, length = post(list()) equal(body, ".") equal(length, "chunked")
      body, length = post(list("ab", "c"), { ["Content-Length"] = 3 }) equal(body, "abc.") equal(length, "3")
      -- an answer is such an object: from one server to another
      local big = ("0123456789"):rep(300000)
      body, length = post(big) equal(body, big .. ".") equal(length, "3000000")
      local res = assert(client:post("/", { body = list(big) }))
      body, length = post(res) equal(body, big .. "..") equal(length, "chunked")
      equal(client:stats().in_use, 0)
      finish(client, l)
    ]=]
  end)

  it("tells what is wrong with a body, and leaves nothing of it", function()
    check [=[
      local l, url = serve(function(req, res) res:send(req:body() and "ok" or "?") end)
      local client = http.client { base = url }
      local function list(...) local parts, i = { ... }, 0 return function() i = i + 1 return parts[i] end end
      raises("less than its Content-Length", client.post, client, "/", { body = list "ab", headers = { ["Content-Length"] = 5 } })
      raises("more bytes than its Content-Length", client.post, client, "/",
        { body = list("abc", "de"), headers = { ["Content-Length"] = 4 } })
      raises("piece of a body is a string", client.post, client, "/", { body = list(5) })
      raises("piece of a body is a string", client.post, client, "/", { body = list({}), headers = { ["Content-Length"] = 4 } })
      for _, length in ipairs { "-5", "0x10", "1e3", "1.5", "nan", "", " 5", "99999999999999999999", { "5", "5" } } do
        raises("Content-Length is one whole number", client.post, client, "/",
          { body = list(), headers = { ["Content-Length"] = length } })
      end
      raises("my own error", client.post, client, "/", { body = function() error "my own error" end })
      raises("could not be read: closed", client.post, client, "/", { body = function() return nil, "closed" end })
      equal(client:stats().in_use, 0) equal(client:stats().idle, 0)
      finish(client, l)
    ]=]
  end)

  it("takes an answer that comes before it has sent everything", function()
    check [=[
      local kind
      local l, url = raw(function(c)
        c:send(kind == "late" and OK or "HTTP/1.1 413 Too Large\r\nContent-Length: 4\r\n\r\nnope")
        if kind == "close" then return c:close() end
        if kind == "stop" then return rille.sleep(3) end
        while c:read() do c:release() end
      end)
      local client = http.client { base = url }
      local function endless() rille.yield() return ("x"):rep(65536) end
      for _, one in ipairs { "stop", "close" } do
        kind = one
        local res = assert(client:post("/", { body = endless }))
        equal(res.status, 413) equal(res:body(), "nope")
        equal(client:stats().in_use, 0) equal(client:stats().idle, 0)
        res = assert(client:post("/", { body = ("x"):rep(2 ^ 24) }))
        equal(res.status, 413) equal(res:body(), "nope")
        equal(client:stats().idle, 0)
      end
      finish(client, l)
    ]=]
  end)

  it("sends the rest nonetheless when it was not asked to stop", function()
    check [=[
      local PIECES, kind, got = 5
      local l, url = raw(function(c)
        local last = kind == "last" and "Connection: close\r\n" or ""
        c:send("HTTP/1.1 200 OK\r\n" .. last .. "Content-Length: 2\r\n\r\nok")
        got = 0
        repeat
          local line = c:read_line()
          if not line then return c:close() end
          local size = tonumber(line:str(), 16)
          c:next(size + 2)
          c:release()
          got = got + size
        until size == 0
      end)
      local client = http.client { base = url, timeout = 5 * SLOW }
      local function pieces(fn) local n = 0 return function() n = n + 1 turns(3) fn(n) return n <= PIECES and ("x"):rep(1000) or nil end end
      for _, read in ipairs { true, false } do
        local res = assert(client:post("/", { body = pieces(function() end) }))
        if read then equal(res:body(), "ok") else res:discard() end
        equal(got, PIECES * 1000) equal(client:stats().idle, 1)
      end
      local function fail(n) if n == 3 then error "in the middle" end end
      raises("in the middle", function() assert(client:post("/", { body = pieces(fail) })):body() end)
      local res, err, message = client:post("/", { timeout = 0.3 * SLOW, body = pieces(function() rille.sleep(1 * SLOW) end) })
      if res then res, err, message = res:body() end
      equal(res, nil) equal(err, "timeout") assert(message:find("not done in", 1, true), message)
      kind = "last"
      res = assert(client:post("/", { body = pieces(function() rille.sleep(0.05) end) }))
      equal(res:body(), "ok")
      wait("the end of the request", function() return client:stats().in_use == 0 and connections() == 0 end)
      assert(got < PIECES * 1000)
      finish(client, l)
    ]=]
  end)

  it("follows redirects when it is told to, and not where that is not safe", function()
    check [=[
      local other, other_url = serve(function(req, res) res:send(tostring(req:header "authorization" or "none")) end)
      local l, url = serve(function(req, res)
        if req.path == "/end" or req.path == "/a/end" then
          return res:send(("%s %s %s"):format(req.method, tostring(req:header "content-type" or "none"), req:body():str()))
        end
        local status, to = req.path:match "^/(%d+)(.*)$"
        if status == "399" then status, to = 302, other_url end
        res.status = tonumber(status)
        res:header("Location", to == "/rel" and "a/./b/../end" or to == "/query" and "?x" or to == "/loop" and req.path or to)
        res:send "moved"
      end)
      local client = http.client { base = url }
      local function go(method, path, n)
        local res, err, message = client:request { method = method, path = path, redirects = n or 3,
          headers = { ["Content-Type"] = "x/y", Authorization = "secret" }, body = method == "POST" and "body" or nil }
        return res and res:body() or err, res and res.status or message, res and res.url
      end
      equal(select(2, go("GET", "/302/end", 0)), 302)
      local body, status, at = go("GET", "/302/end") equal(body, "GET x/y ") equal(at, url .. "/end")
      equal((go("POST", "/302/end")), "GET none ")
      equal((go("POST", "/303/end")), "GET none ")
      equal((go("POST", "/307/end")), "POST x/y body")
      equal((go("POST", "/308/end")), "POST x/y body")
      body, status, at = go("GET", "/302/rel") -- to /302/a/end, and so to /a/end
      equal(body, "GET x/y ") equal(status, 200) equal(at, url .. "/a/end")
      equal((go("GET", "/399/", 2)), "none")  -- another server is not told
      local err, message = go("GET", "/302/loop", 3)
      equal(err, "server failure") assert(message:find "more than 3 redirects")
      equal((go("GET", "/302ftp://x/", 3)), "bad address")
      local n = 0
      local res = client:post("/307/end", { redirects = 3, body = function() n = n + 1 return n == 1 and "once" or nil end })
      equal(res.status, 307) res:discard()
      -- 301 and 302 to anything but POST keep the body too, so one that is used up is not sent again as an empty one
      for _, status in ipairs { 301, 302 } do
        n = 0
        res = client:put("/" .. status .. "/end", { redirects = 3, body = function() n = n + 1 return n == 1 and "once" or nil end })
        equal(res.status, status) res:discard()
        equal(client:put("/" .. status .. "/end", { redirects = 3, body = "again" }):body(), "PUT none again")
        equal(client:post("/" .. status .. "/end", { redirects = 3, body = function() return nil end }):body(), "GET none ")
      end
      finish(client, l, other)
    ]=]
  end)

  it("has a limit for origins, and one for the connections of each", function()
    check [=[
      local ls, urls = {}, {}
      for i = 1, 3 do
        ls[i], urls[i] = serve(function(req, res) if req.path == "/slow" then rille.sleep(0.2) end res:send "ok" end)
      end
      local client = http.client { max_origins = 2, max_per_origin = 2, queue = 1, queue_timeout = 5 }
      for i = 1, 3 do equal(client:get(urls[i]):body(), "ok") end
      equal(client:stats().origins, 2)
      equal(client:get(urls[1]):body(), "ok")
      equal(client:stats().origins, 2) equal(client:stats().idle, 2)
      local tasks = {}
      for i = 1, 3 do tasks[i] = rille.spawn(function() return client:get(urls[1] .. "/slow"):body() end) end
      turns(3)
      local res, err, message = client:get(urls[1])
      equal(res, nil) equal(err, "full") assert(message:find "callers wait")
      for i = 1, 3 do equal(tasks[i]:join(), "ok") end
      client:close()
      -- who waits for a connection of an origin that has to go is not left out
      client = http.client { max_origins = 1, max_per_origin = 1 }
      for i = 1, 2 do tasks[i] = rille.spawn(function() return client:get(urls[1] .. "/slow"):body() end) end
      turns(3)
      equal(client:get(urls[2]):body(), "ok")
      for i = 1, 2 do equal(tasks[i]:join(), "ok") end
      equal(client:stats().origins, 1)
      finish(client, unpack(ls))
    ]=]
  end)

  it("goes to the targets of an upstream", function()
    check [=[
      local function named(name) return serve(function(req, res) res:send(name .. " " .. req.host) end) end
      local l1, url1 = named "one"
      local l2, url2 = named "two"
      local up = rille.upstream { targets = { (url1:gsub("http", "tcp")), (url2:gsub("http", "tcp")) } }
      local client = http.client { upstream = up, base = "http://api.internal" }
      local seen = {}
      for _ = 1, 4 do local body = client:get("/"):body() seen[body] = (seen[body] or 0) + 1 end
      equal(seen["one api.internal"], 2) equal(seen["two api.internal"], 2)
      equal(client:get(url1 .. "/"):body(), "one 127.0.0.1") -- another origin has a pool of its own
      equal(client:stats().requests, 5)
      client:close()
      equal(select(2, client:get "/"), "closed")
      equal(up:stats().idle, 2)
      up:close()
      l1:close() l2:close()
    ]=]
  end)

  it("survives servers that do anything", function()
    check([=[
      local answers = {
        OK, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n" .. OK,
        "HTTP/1.0 200 OK\r\n\r\nto the end", OK .. "more", "nonsense", "HTTP/1.1 204 No\r\n\r\n",
      }
      local l, url = raw(function(c)
        local answer = answers[math.random(#answers)]
        local from = 1
        while from <= #answer do
          local dice = math.random(40)
          if dice == 1 then return c:abort() elseif dice == 2 then return c:close() elseif dice == 3 then rille.sleep(0.15) end
          local to = math.min(#answer, from + math.random(20))
          if not c:send(answer:sub(from, to)) then return end
          from = to + 1
          if dice < 10 then rille.yield() end
        end
        if math.random(4) == 1 then c:close() end
      end)
      local client = http.client { base = url, answer_timeout = 0.1, read_timeout = 0.1, max_per_origin = 8, queue_timeout = 60 }
      local tasks, good, bad = {}, 0, 0
      local function one(k)
        local body = k % 3 == 0 and function() return math.random(5) > 1 and ("x"):rep(math.random(9000)) or nil end or nil
        local res = client:request { method = body and "POST" or "GET", body = body }
        if not res then bad = bad + 1 return end
        local how = math.random(5)
        if how == 1 then res:discard() good = good + 1 return end
        if how == 2 then res:read() return end -- and lost
        if res:body() then good = good + 1 else bad = bad + 1 end
      end
      for i = 1, 20 do
        tasks[i] = rille.spawn(function() for k = 1, 20 do one(k) end end)
        if i % 5 == 0 then rille.after(0.2, function() tasks[i]:cancel() end) end
      end
      for i = 1, 20 do
        repeat collectgarbage() until rille.with_timeout(0.2, tasks[i].join, tasks[i]) ~= nil or tasks[i].done
      end
      if good == 0 or bad == 0 then error(good .. " good, " .. bad .. " bad") end
      tasks = nil
      wait("all to be given back", function() collectgarbage() return client:stats().in_use == 0 and client:stats().waiting == 0 end)
      finish(client, l)
    ]=], { seconds = 60 })
  end)

  it("raises at what cannot be meant", function()
    check [=[
      local client = http.client()
      raises("has no option 'tiemout'", http.client, { tiemout = 1 })
      raises("timeout is seconds from", http.client, { timeout = -1 })
      raises("base", http.client, { base = "nowhere" })
      raises("needs a base", http.client, { upstream = rille.upstream { targets = {} } })
      raises("has no option 'bdoy'", client.post, client, "http://a/", { bdoy = "" })
      raises("needs a url", client.request, client, {})
      raises("url or path", client.request, client, { url = "http://a", path = "/" })
      raises("body or json", client.post, client, "http://a", { body = "", json = 1 })
      raises("is no method", client.request, client, { method = "G T", url = "http://a" })
      raises("CONNECT", client.request, client, { method = "CONNECT", url = "http://a" })
      raises("control character", client.get, client, "http://a", { headers = { X = "a\r\nY: b" } })
      raises("no name of a header", client.get, client, "http://a", { headers = { ["X:"] = "a" } })
      raises("client's own", client.get, client, "http://a", { headers = { ["Transfer-encoding"] = "chunked" } })
      raises('may be "close"', client.get, client, "http://a", { headers = { Connection = "upgrade" } })
      raises("stands there twice", client.get, client, "http://a", { headers = { x = 1, X = 2 } })
      raises("Host stands there twice", client.get, client, "http://a", { headers = { Host = { "a", "b" } } })
      raises("is no Host", client.get, client, "http://a", { headers = { host = "a b" } })
      raises("not a function", client.get, client, "http://a", { query = { a = print } })
      raises("not a table", client.get, client, "http://a", { query = { a = { {} } } })
      raises("query is a table of names, 1 is none", client.get, client, "http://a", { query = { 1, a = 2 } })
      local nothing, why, message = client:get("http://a", { query = "a=1#b" })
      if nothing ~= nil or why ~= "bad address" or not message:find("percent-encoded", 1, true) then error(tostring(message)) end
      for _, bad in ipairs {
        "http://a b/", "http://a/b c", "http://a/\r\nX: y", "http://", "http://u:p@a/", "http://a:0/", "http://a:99999/",
        "http://[::1", "/x/", "https:/a", "http://a/" .. ("x"):rep(20000),
      } do
        local ok, res, err = pcall(client.request, client, { url = bad })
        if not ok or res ~= nil or err ~= "bad address" then error(bad:sub(1, 50) .. ": " .. tostring(err or res)) end
      end
      client:close()
    ]=]
  end)

  it("speaks TLS, with the server's certificate looked at", function()
    tls.set_up()
    check(([=[
      local l = assert(rille.listen("https://127.0.0.1:0", function(req, res) res:send(req.host .. " " .. req.conn:tls().alpn) end,
        { tls = { certificate = %q, key = %q } }))
      local port = l:address():match ":(%%d+)$"
      local strict, client = http.client(), http.client { tls = { ca = %q } }
      local res, err, message = strict:get("https://localhost:" .. port .. "/")
      equal(res, nil) equal(err, "bad certificate")
      for _ = 1, 2 do equal(assert(client:get("https://localhost:" .. port .. "/")):body(), "localhost http/1.1") end
      equal(client:stats().idle, 1)
      local trusting = http.client { tls = { verify = false } }
      equal(trusting:get("https://127.0.0.1:" .. port .. "/", { headers = { Connection = "close" } }):body(), "127.0.0.1 http/1.1")
      -- a plain server at the other end, and the other way round
      local plain, plain_url = serve(function(_, r) r:send "x" end)
      res, err = client:get((plain_url:gsub("^http", "https")))
      equal(res, nil) equal(err, "handshake failed")
      res = client:get("http://127.0.0.1:" .. port .. "/")
      equal(res.status, 400) res:discard()
      strict:close()
      finish(client, l, plain)
    ]=]):format(tls.file "site.pem", tls.file "site.key", tls.file "ca.pem"))
  end)
end)
