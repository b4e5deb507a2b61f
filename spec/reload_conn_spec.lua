-- Connections through a reload: whose handler they get, and when.

local reload = require "spec.support.reload"
local server = reload.server
local http = require "spec.support.http"
local ask = reload.ask
local lines = reload.lines
local commands = reload.commands
local LOOPS = reload.LOOPS

describe("a connection through a reload", function()
  after_each(server.cleanup)

  it("is followed by a key of conn:on_request, while a function binds the connection", function()
    local text = [[
      function M.other(conn)
        local line = conn:read_line()
        if line then conn:write(version .. " other " .. line:str() .. "\n") end
      end
      function commands.key(conn) conn:on_request("other") end
      function commands.fn(conn) conn:on_request(M.other) end
      function commands.close(conn) conn:on_close(function() rille.log.info("said closed by %s", version) end) end
    ]]
    local s = reload.start(commands("v1", text))
    local key, fn, close = s:connect(), s:connect(), s:connect()
    ask(key, "key") ask(fn, "fn") ask(close, "close")
    reload.to(s, commands("v2", text))
    assert.equal("v2 other a", ask(key, "a"))
    assert.equal("v1 other a", ask(fn, "a"))
    assert.equal("v1 nil", ask(close, "x"))
    reload.to(s, commands("v3", text))
    assert.equal("v3 other b", ask(key, "b"))
    assert.equal("v1 other b", ask(fn, "b"))
    close:close()
    assert.same({ "closed by v1" }, s:wait_said(1))
    fn:close()
    reload.wait_retired(s)
    reload.to(s, lines("v4")) -- without the key
    key:send("x\n")
    key:receive_all()
    s:wait_log("has no function 'other' any more")
    s.allow_errors = true
    s:stop()
  end)

  it("reaches a long connection with its next message, a hundred times", function()
    local s = reload.start(lines("v1"), { conf = { loops = 2 } })
    local clients = {}
    for i = 1, 8 do clients[i] = s:connect() end
    for i = 2, 101 do
      reload.to(s, lines("v" .. i))
      for k, c in ipairs(clients) do assert.equal(("v%d %d"):format(i, k), ask(c, k)) end
    end
    reload.wait_retired(s)
    s:stop()
  end)

  it("goes over with 512 others at most in one turn of its loop when they are idle", function()
    local COUNT = 1300
    local text = [[
      local of_turn, turns = {}, 0
      function M.on_migrate(ctx)
        local now = rille.now() -- one time for all of a turn
        if not of_turn[now] then turns = turns + 1 end
        of_turn[now] = (of_turn[now] or 0) + 1
        local most, sum = 0, 0
        for _, count in pairs(of_turn) do most, sum = math.max(most, count), sum + count end
        if sum == 1300 then rille.log.info("said most %d in %d turns", most, turns) end
        return ctx
      end
      function M.on_connect(conn) conn.ctx = { number = conn.id } end
      function commands.get(conn) return tostring(conn.ctx.number == conn.id) end
    ]]
    server.net.raise_descriptor_limit()
    local s = reload.start(commands("v1", text))
    local clients = {}
    for i = 1, COUNT do clients[i] = s:connect() end
    for _, c in ipairs(clients) do assert.equal("v1 true", ask(c, "get")) end
    reload.to(s, commands("v2", text))
    assert.same({ "most 512 in 3 turns" }, s:wait_said(1)) -- they were asked for nothing
    reload.wait_retired(s)
    for _, c in ipairs(clients) do assert.equal("v2 true", ask(c, "get")) end
    for _, c in ipairs(clients) do c:close() end
    s:stop()
  end)

  it("leaves a handler that loops alone with drain.policy stay, until it returns", function()
    local s = reload.start(commands("v1", LOOPS), { reload = { drain = { policy = "stay", deadline = 0.1 } } })
    local c, idle = s:connect(), s:connect()
    assert.equal("v1 a", ask(c, "a"))
    reload.to(s, commands("v2", LOOPS))
    c:receives_nothing(0.5)
    assert.equal("v1 b retiring", ask(c, "b"))
    assert.equal("v2 a", ask(idle, "a"))
    assert.equal("v1 leave retiring", ask(c, "leave"))
    assert.equal("v2 c", ask(c, "c"))
    s:stop()
  end)

  it("takes a connection from a handler that loops at drain.deadline with drain.policy migrate", function()
    local s = reload.start(commands("v1", LOOPS), { reload = { drain = { policy = "migrate", deadline = 0.2, jitter = 0.1 } } })
    local clients = {}
    for i = 1, 5 do
      clients[i] = s:connect()
      assert.equal("v1 a", ask(clients[i], "a"))
    end
    reload.to(s, commands("v2", LOOPS))
    reload.wait_retired(s)
    for _, c in ipairs(clients) do assert.equal("v2 b", ask(c, "b")) end
    s:stop()
  end)

  it("closes the connection of a handler that loops at drain.deadline with drain.policy close", function()
    local s = reload.start(commands("v1", LOOPS), { reload = { drain = { policy = "close", deadline = 0.2, jitter = 0.1 } } })
    local c, idle = s:connect(), s:connect()
    assert.equal("v1 a", ask(c, "a"))
    assert.equal("v1 a", ask(idle, "a"))
    reload.to(s, commands("v2", LOOPS))
    local rest, how = c:receive_all()
    assert.equal("", rest)
    assert.equal("closed", how)
    reload.wait_retired(s)
    assert.equal("v2 b", ask(s:connect(), "b"))
    s:stop()
  end)

  it("is told to a handler by rille.retire_channel", function()
    local text = [[
      function M.on_request(conn)
        conn:write(version .. " here\n")
        conn:read_line()
        rille.retire_channel():receive()
        conn:write(version .. " goes\n")
      end
    ]]
    local s = reload.start(commands("v1", text), { conf = { drain_timeout = 0.2 } })
    local c = s:connect()
    assert.equal("v1 here", ask(c, "a"))
    reload.to(s, commands("v2", text))
    assert.equal("v1 goes", c:receive_line())
    assert.equal("v2 here", ask(c, "b"))
    reload.wait_retired(s)
    s:stop()
  end)

  it("loses no request of connections with keep-alive and of pipelined ones", function()
    local function version(v)
      return ([[
        return { on_request = function(req, res) res:send(%q .. " " .. req.path) end }
      ]]):format(v) .. "\n"
    end
    local s = reload.start(version("v1"), { listen = "http://127.0.0.1:0", conf = { loops = 2 } })
    local keep, pipe = s:connect(), s:connect()
    for i = 2, 20 do
      pipe:send(http.get("/a") .. http.get("/b"))
      reload.to(s, version("v" .. i))
      pipe:send(http.get("/c"):rep(20))
      for _ = 1, 2 do assert.equal(200, http.answer(pipe).status) end
      for _ = 1, 20 do assert.equal("v" .. i .. " /c", http.answer(pipe).body) end
      keep:send(http.get("/k"))
      assert.equal("v" .. i .. " /k", http.answer(keep).body)
    end
    s:stop()
  end)

  it("that has left HTTP by an upgrade stays open, and is served by the new code", function()
    local function version(v)
      return ([[
        local version = "%s"
        local M = {}
        function M.peer(conn)
          local line = conn:read_line()
          if not line then return end
          conn.ctx.lines = conn.ctx.lines + 1
          conn:write(("%%s %%s %%d\n"):format(version, line:str(), conn.ctx.lines))
        end
        function M.on_request(req, res)
          if req.path == "/plain" then return res:send(version) end
          local conn = res:upgrade("lines")
          conn.ctx = { lines = 0 }
          if req.path == "/key" then return conn:on_request("peer") end
          if req.path == "/fn" then return conn:on_request(function(c) return M.peer(c) end) end
          while true do -- the request lasts as long as the connection
            local line = conn:read_line()
            if not line or line:str() == "leave" then return end
            conn:write(version .. " holds " .. line:str() .. "\n")
          end
        end
        return M
      ]]):format(v)
    end
    local s = reload.start(version("v1"), { listen = "http://127.0.0.1:0", conf = { loops = 2 } })
    local function upgrade(path)
      local c = s:connect()
      c:send(http.get(path, { "Connection: upgrade", "Upgrade: lines" }))
      assert.matches("^HTTP/1.1 101 ", c:receive_line())
      while c:receive_line():gsub("\r$", "") ~= "" do end
      return c
    end
    local key, fn, hold, plain, silent = {}, {}, {}, s:connect(), upgrade("/key")
    for i = 1, 4 do key[i], fn[i], hold[i] = upgrade("/key"), upgrade("/fn"), upgrade("/hold") end
    for v = 1, 5 do
      if v > 1 then reload.to(s, version("v" .. v)) end
      for i = 1, 4 do
        assert.equal(("v%d a %d"):format(v, v), ask(key[i], "a"))
        assert.equal(("v1 b %d"):format(v), ask(fn[i], "b"))
        assert.equal("v1 holds c", ask(hold[i], "c"))
      end
      plain:send(http.get("/plain"))
      assert.equal("v" .. v, http.answer(plain).body)
    end
    assert.equal("v5 late 1", ask(silent, "late"))
    for i = 1, 4 do
      hold[i]:send("leave\n")
      assert.equal("", (hold[i]:receive_all()))
      fn[i]:close()
    end
    reload.wait_retired(s)
    assert.equal("v5 a 6", ask(key[1], "a"))
    s:stop()
  end)
end)
