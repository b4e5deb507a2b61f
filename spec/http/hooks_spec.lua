-- HTTP beside everything else that a script or a configuration may ask for: hooks, other transports, listeners at run time, tasks.

local http = require "spec.support.http"
local server = http.server

describe("http hooks", function()
  after_each(server.cleanup)

  it("are those of any connection, in order", function()
    local s = http.start [[
      return {
        on_prepare = function() rille.sleep(0.01) say "prepare" end,
        on_connect = function(conn)
          say("connect %s %s", tostring(select(2, conn:read(1))), tostring(select(2, conn:write "x")))
          rille.sleep(0.01)
          conn.ctx = { n = 0 }
        end,
        on_request = function(req, res)
          local ctx = req.conn.ctx
          ctx.n = ctx.n + 1
          say("request %d", ctx.n)
          res:send(tostring(ctx.n))
        end,
        on_disconnect = function() say "disconnect" end,
        on_close = function(conn, err) say("close %d %s", conn.ctx.n, tostring(err)) end,
      }
    ]]
    local c = s:connect()
    c:send(http.get():rep(2)) -- early
    assert.equal("1", http.answer(c).body)
    assert.equal("2", http.answer(c).body)
    assert.equal("3", http.ask(c, http.get()).body)
    c:close()
    assert.same({ "prepare", "connect busy busy", "request 1", "request 2", "request 3", "disconnect", "close 3 nil" }, s:wait_said(7))
  end)

  it("hear how a connection ended", function()
    local s = http.start([[
      return {
        on_request = function(req, res)
          if req.path == "/error" then res:write "x" error "broken" end
          req:body()
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { allow_errors = true, timeouts = { body = 0.1, header = 0.1 }, limits = { body = 100 } })
    local n = 0
    for text, err in pairs {
      [http.get "/error"] = "error", ["nonsense\r\n\r\n"] = "error", [http.request("POST", "/", { "Content-Length: 101" })] = "too large",
      ["GET / HT"] = "timeout", [http.request("POST", "/", { "Content-Length: 10" })] = "timeout",
      [http.get("/", { "Connection: close" })] = "nil", ["GET / HTTP/1.0\r\n\r\n"] = "nil",
    } do
      local c = s:connect()
      c:send(text)
      c:receive_all()
      c:close()
      n = n + 1
      assert.equal("close " .. err, s:wait_said(n)[n])
    end
    local c = s:connect()
    c:send(http.request("POST", "/", { "Content-Length: 10" }) .. "x")
    c:close()
    assert.equal("close closed", s:wait_said(n + 1)[n + 1])
  end)

  it("hear of no error when a request failed and was answered", function()
    local s = http.start([[
      return {
        on_request = function() error "broken" end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { allow_errors = true })
    local c = s:connect()
    assert.equal(500, http.ask(c, http.get()).status)
    c:close()
    assert.equal("close nil", s:wait_said(1)[1])
  end)

  it("may hand a connection's further requests to another handler, which may leave HTTP", function()
    local s = http.start [[
      local function second(req, res)
        if req.path == "/up" then
          local conn = res:upgrade "x"
          return conn:on_request(function(c) c:write("raw " .. c:next(c:len()):str()) end)
        end
        res:send("second " .. req.path)
      end
      return function(req, res)
        req.conn:on_request(second)
        res:send("first " .. req.path)
      end
    ]]
    local c = s:connect()
    c:send(http.get "/a" .. http.get "/b")
    assert.equal("first /a", http.answer(c).body)
    assert.equal("second /b", http.answer(c).body)
    assert.equal("second /c", http.ask(c, http.get "/c").body)
    c:send(http.get("/up", { "Connection: upgrade", "Upgrade: x" }))
    assert.equal(101, http.head(c).status)
    c:send "bytes"
    assert.equal("raw bytes", c:receive(9))
    assert.equal("first /a", http.once(s, http.get "/a").body)
  end)

  it("may refuse a connection", function()
    local s = http.start 'return { on_prepare = function() return false end, on_request = function()\nend }\n'
    local c = s:connect()
    c:try_send(http.get())
    assert.equal("", (c:receive_all()))
  end)

  it("hear of idle connections instead of losing them", function()
    local s = http.start([[
      return {
        on_request = function(_, res) res:send "x" end,
        on_idle = function(conn)
          conn.ctx = (conn.ctx or 0) + 1
          if conn.ctx == 3 then conn:close() end
        end,
      }
    ]], { timeouts = { idle = 0.05 } })
    local c = s:connect()
    assert.equal("x", http.ask(c, http.get()).body)
    assert.same({ "", "closed" }, { c:receive_all() })
  end)

  it("work over a Unix socket, as protocol of a server, and beside another protocol", function()
    local path = server.folder() .. "/sock"
    local s = server.start('return function(req, res)\nres:send(tostring(req.remote) .. req.path)\nend\n',
      { listen = "unix://" .. path, server = { protocol = "http" } })
    local c = s:connect(nil, "unix://" .. path)
    assert.truthy(http.ask(c, http.get "/x").body:find("/x$"))
    local echo = server.script_path("return function(conn)\nconn:write(conn:next(conn:len()))\nend\n", "echo")
    local both = http.start('return function(req, res)\nres:send(req.path)\nend\n',
      { conf = { servers = {
        { listen = "http://127.0.0.1:0", script = server.script_path("return function(req, res)\nres:send(req.path)\nend\n", "web") },
        { listen = "tcp://127.0.0.1:0", script = echo },
      } } })
    both:wait_listening(2)
    local web = both.urls[1]:find "http" and 1 or 2
    assert.equal("/y", http.ask(both:connect(nil, both.urls[web]), http.get "/y").body)
    local e = both:connect(nil, both.urls[3 - web])
    e:send(http.get())
    assert.equal(http.get(), e:receive(#http.get()))
  end)

  it("listen at run time, and stop", function()
    local s = http.start [[
      return function(req, res)
        if req.path == "/open" then
          local listener = rille.listen("http://127.0.0.1:0", function(req2, res2) res2:send("other " .. req2.path) end,
            { limits = { body = 5 } })
          rille.after(10, function() listener:close() end)
          res:send(listener:address())
        end
      end
    ]]
    local url = http.once(s, http.get "/open").body
    assert.truthy(url:find("^http://127%.0%.0%.1:%d+$"), url)
    local c = s:connect(nil, url)
    assert.equal("other /z", http.ask(c, http.get "/z").body)
    assert.equal(413, http.ask(c, http.post("/z", "123456")).status)
  end)

  it("let several tasks write one answer; each piece stays whole", function()
    local s = http.start([[
      return function(_, res)
        local tasks = {}
        for i = 1, 5 do
          tasks[i] = rille.spawn(function()
            for _ = 1, 50 do
              assert(res:write(tostring(i):rep(5000)))
              if math.random() < 0.2 then rille.sleep(0) end
            end
          end)
        end
        for i = 1, 5 do assert(tasks[i]:join() == nil) end
        res:write "end"
      end
    ]], { limits = { high_water = 20000 } })
    local c = s:connect { receive_buffer = 8192 }
    c:send(http.get())
    local answer = http.answer(c, "GET", 20)
    local seen = {}
    assert.equal(251, #answer.pieces)
    for i = 1, 250 do
      local digit = answer.pieces[i]:sub(1, 1)
      assert.is_true(answer.pieces[i] == digit:rep(5000))
      seen[digit] = (seen[digit] or 0) + 1
    end
    assert.same({ ["1"] = 50, ["2"] = 50, ["3"] = 50, ["4"] = 50, ["5"] = 50 }, seen)
    assert.equal("end", answer.pieces[251])
  end)

  it("let a task outlive its request without touching the next one", function()
    local s = http.start [[
      return function(req, res)
        if req.path == "/leave" then
          rille.spawn(function()
            rille.sleep(0.02)
            say("late: %s", tostring(select(2, pcall(res.send, res, "late"))))
          end)
        end
        res:send(req.path)
      end
    ]]
    local c = s:connect()
    assert.equal("/leave", http.ask(c, http.get "/leave").body)
    c:send "GET /slow HTTP/1.1\r\n"
    assert.truthy(s:wait_said(1)[1]:find("this request is over", 1, true))
    c:send "Host: t\r\n\r\n"
    assert.equal("/slow", http.answer(c).body)
  end)

  it("leave nothing behind in connections that idle between requests", function()
    local s = http.start [[
      return function(req, res)
        req:header "host"
        req:body()
        res:header("X-Y", "z")
        res:send(req.path)
      end
    ]]
    local clients = {}
    for i = 1, 300 do
      clients[i] = s:connect()
      assert.equal("/a b", http.ask(clients[i], http.post("/a%20b", "body")).body)
    end
    local state = s:state()
    assert.same({ 300, 0, 0 }, { state.connections, state.blocks, state.buffers })
  end)
end)
