-- Hot reload, from outside: what a new generation of a script gets of the old one, when it is refused, and what becomes of connections.

local reload = require "spec.support.reload"
local http = require "spec.support.http"
local server = reload.server
local net = server.net

local ask = reload.ask

-- Answers each line with `version` and what it was.
local function lines(version, more)
  return ([[
local version = %q
local M = {}
%s
function M.on_request(conn)
  local line = conn:read_line()
  if line then conn:write(version .. " " .. line:str() .. "\n") end
end
return M
]]):format(version, more or "")
end

-- The same, where what a line names is done.
local function commands(version, text)
  return ([[
local version = %q
local M, commands = {}, {}
%s
M.on_request = M.on_request or function(conn)
  local line = conn:read_line()
  if not line then return end
  local name, rest = line:str():match("^(%%S+) ?(.*)$")
  local answer = commands[name] and commands[name](conn, rest)
  if answer ~= false then conn:write(version .. " " .. tostring(answer) .. "\n") end
end
return M
]]):format(version, text or "")
end

describe("a reload", function()
  after_each(server.cleanup)

  -- ---- what goes over -----------------------------------------------------------------------------------------

  it("moves ctx by value, and names once what cannot go", function()
    local text = [[
      local deep = function(n) local t = { leaf = n } for _ = 1, n do t = { t } end return t end
      function commands.set(conn)
        conn.ctx = { n = 7, s = "x\0y", t = { { 1 }, { 2, k = true } }, u = 18446744073709551615ULL, i = -5LL, nan = 0 / 0,
          f = function() end, co = coroutine.create(print), obj = setmetatable({}, {}), d = deep(20), [true] = false }
      end
      function commands.get(conn)
        local c = conn.ctx
        local d, depth = c.d, 0
        while not d.leaf do d, depth = d[1], depth + 1 end
        return ("%d %q %d %s %s %s %s %s %s %s %d %s"):format(c.n, c.s, c.t[2][1], tostring(c.t[2].k), tostring(c.u), tostring(c.i),
          tostring(c.nan ~= c.nan),
          type(c.f), type(c.co), type(c.obj), depth, tostring(c[true]))
      end
      commands["nil"] = function(conn) return conn.ctx end
    ]]
    local s = reload.start(commands("v1", text))
    local a, b, none = s:connect(), s:connect(), s:connect()
    ask(a, "set") ask(b, "set") ask(none, "nil")
    reload.to(s, commands("v2", text))
    local want = [[ 7 "x\0y" 2 true 18446744073709551615ULL -5LL true nil nil nil 20 false]]
    assert.equal("v2" .. want, ask(a, "get"))
    assert.equal("v2" .. want, ask(b, "get"))
    assert.equal("v2 nil", ask(none, "nil"))
    for _, what in ipairs { "ctx.f", "ctx.co", "ctx.obj" } do
      assert.equal(1, s:count_log(what:gsub("%.", "%%.") .. " %([^\n]*does not go to the next generation"))
    end
    reload.to(s, commands("v3", text))
    assert.equal("v3" .. want, ask(a, "get"))
    s:stop()
  end)

  it("lets on_migrate say what goes instead of ctx", function()
    local text = [[
      function M.on_migrate(ctx)
        if ctx.fails then error("no way") end
        return { n = ctx.n + 1 }
      end
      function commands.set(conn, n) conn.ctx = { n = tonumber(n), f = print } end
      function commands.fail(conn) conn.ctx = { n = 1, fails = true } end
      function commands.get(conn) return conn.ctx.n end
    ]]
    local s = reload.start(commands("v1", text), { allow_errors = true })
    local a, b = s:connect(), s:connect()
    ask(a, "set 5") ask(b, "fail")
    reload.to(s, commands("v2", text))
    assert.equal("v2 6", ask(a, "get"))
    assert.equal("v2 1", ask(b, "get"))
    assert.equal(0, s:count_log("ctx%.f"))
    assert.equal(1, s:count_log("on_migrate failed"))
    s:stop()
  end)

  it("moves what on_retire returned to on_reload, and calls on_start of each generation", function()
    local text = [[
      local count, from = 0, "nothing"
      function M.on_start(info) rille.log.info("said start %s %d", version, info.loop) end
      function M.on_retire() return { count = count, f = function() end } end
      function M.on_reload(data, info)
        count = data and data.count or -1
        from = ("%s %d %s"):format(info.label, info.generation, tostring(info.rollback))
      end
      function commands.add() count = count + 1 return count end
      function commands.from() return from end
    ]]
    local s = reload.start(commands("v1", text), { allow_errors = true })
    local c = s:connect()
    ask(c, "add")
    assert.equal("v1 2", ask(c, "add"))
    for i = 2, 4 do
      reload.to(s, commands("v" .. i, text))
      assert.equal(("v%d %d"):format(i, i + 1), ask(c, "add"))
      assert.matches("@" .. i .. " " .. i .. " false", ask(c, "from"))
    end
    assert.same({ "start v1 1", "start v2 1", "start v3 1", "start v4 1" }, s:said())
    assert.equal(3, s:count_log("not handed over: on_retire%(%)%.f"))
    s:stop()
  end)

  it("goes on when on_retire raises", function()
    local s = reload.start(lines("v1", [[function M.on_retire() error("stuck") end]]), { allow_errors = true })
    reload.to(s, lines("v2", [[function M.on_reload(data) rille.log.info("said %s", tostring(data)) end]]))
    assert.same({ "nil" }, s:said())
    assert.equal("v2 x", ask(s:connect(), "x"))
    assert.equal(1, s:count_log("on_retire failed"))
    s:stop()
  end)

  -- ---- what is refused ----------------------------------------------------------------------------------------

  local REFUSED = {
    { "a syntax error", "local x = = 1\nreturn x\n", "script.lua:1: " },
    { "a top level that raises", "error('top')\nreturn {}\n", "top" },
    { "a script without on_request", "\nreturn {}\n", "without on_request" },
    { "a module that is missing", "require 'no.such.module'\nreturn {}\n", "no.such.module" },
    { "on_stage that raises", lines("bad", "function M.on_stage() error('stage') end"), "on_stage failed: .*script.lua:%d+: stage" },
    { "on_stage that returns false", lines("bad", "function M.on_stage() return false end"), "on_stage returned false" },
    { "selftest that raises", lines("bad", "function M.selftest() error('self') end"), "selftest failed: .*script.lua:%d+: self" },
    { "selftest that fails", lines("bad", "function M.selftest() return nil, 'no luck' end"), "selftest failed: no luck" },
    { "on_start that raises", lines("bad", "function M.on_start() error('start') end"), "on_start failed: .*script.lua:%d+: start" },
    { "on_start that returns false", lines("bad", "function M.on_start() return false end"), "on_start returned false" },
    { "on_reload that raises", lines("bad", "function M.on_reload() error('take') end"), "on_reload failed: .*script.lua:%d+: take" },
    { "an address that cannot be had", lines("bad", "rille.listen('tcp://192.0.2.1:1', { on_request = print })"), "192.0.2.1" },
  }
  for _, case in ipairs(REFUSED) do
    it("is refused for " .. case[1] .. ", and the old one serves on", function()
      local s = reload.start(lines("v1"), { allow_errors = true, conf = { loops = 2 } })
      local c = s:connect()
      assert.equal("v1 a", ask(c, "a"))
      for _ = 1, 3 do
        local report = reload.now(s, case[2])
        assert.is_false(report.ok)
        assert.matches(case[3], report.message)
        assert.equal("v1 b", ask(c, "b"))
        assert.equal("v1 c", ask(s:connect(), "c"))
      end
      local status, _, err = reload.command(s)
      assert.equal(1, status)
      assert.matches(case[3], err)
      reload.to(s, lines("v2"))
      assert.equal("v2 d", ask(c, "d"))
      reload.wait_retired(s)
      s:stop()
    end)
  end

  it("is refused when staging hangs, and four such threads are the last", function()
    local s = reload.start(lines("v1"), { allow_errors = true, allow_failures = true, reload = { stage_timeout = 0.3 } })
    local c = s:connect()
    for _ = 1, 4 do
      local report = reload.now(s, lines("bad", "while true do end"))
      assert.is_false(report.ok)
      assert.matches("stage_timeout", report.message)
      assert.equal("v1 a", ask(c, "a"))
    end
    reload.put(lines("v2"))
    local status, _, err = reload.command(s)
    assert.equal(1, status)
    assert.matches("4 .*restart", err)
    assert.equal("v1 a", ask(c, "a"))
    s:signal("TERM")
    s:wait_exit(20)
    s:forget()
  end)

  it("is refused when a hook is parked for too long, which costs no thread", function()
    local s = reload.start(lines("v1"), { allow_errors = true, reload = { stage_timeout = 1.5 * net.slow } })
    for _ = 1, 3 do
      for _, hook in ipairs { "on_stage", "selftest" } do
        local report = reload.now(s, lines("bad", ("function M.%s() rille.sleep(60) end"):format(hook)))
        assert.is_false(report.ok)
        assert.matches(hook .. " did not return in time", report.message)
      end
    end
    reload.to(s, lines("v2"))
    assert.equal("v2 a", ask(s:connect(), "a"))
    s:stop()
  end)

  it("waits for on_start no longer than it has to", function()
    local s = reload.start(lines("v1"), { allow_errors = true })
    local c = s:connect()
    local before = net.now()
    reload.to(s, lines("v2", "function M.on_start() rille.sleep(0.2) rille.log.info('said late') end"))
    assert.is_true(net.now() - before >= 0.2)
    assert.same({ "late" }, s:said())
    assert.equal("v2 a", ask(c, "a"))
    s:stop()
  end)

  -- ---- timers and tasks ---------------------------------------------------------------------------------------

  -- Says its version at each tick of what the top level has begun.
  local BEGUN = [[
    rille.every(0.02, function() rille.log.info("said every %s", version) end)
    rille.after(0.01, function() rille.log.info("said after %s", version) end)
    rille.spawn(function()
      rille.log.info("said task %s", version)
      while true do rille.sleep(0.02) rille.log.info("said loop %s", version) end
    end)
  ]]

  local function count(list, what)
    local n = 0
    for _, text in ipairs(list) do
      if text == what then n = n + 1 end
    end
    return n
  end

  it("starts the timers and tasks of the top level once, after the commit, and ends the old ones", function()
    local s = reload.start(lines("v1", BEGUN), { allow_errors = true })
    s:wait_said(10)
    local watches = s:state().watches
    for i = 2, 5 do
      reload.now(s, lines("bad" .. i, BEGUN .. "function M.selftest() rille.sleep(0.1) return false end"))
      reload.now(s, lines("bad" .. i, BEGUN .. "function M.on_start() return false end"))
      reload.to(s, lines("v" .. i, BEGUN))
      reload.wait_retired(s)
      local before = #s:said()
      s:wait_said(before + 10)
      for at, text in ipairs(s:said()) do
        if at > before + 2 then assert.matches("v" .. i .. "$", text) end
      end
      assert.equal(1, count(s:said(), "task v" .. i))
      assert.equal(1, count(s:said(), "after v" .. i))
    end
    for _, text in ipairs(s:said()) do assert.not_matches("bad", text) end
    s:wait_state(function(state) return state.watches == watches end)
    s:stop()
  end)

  it("lets `every` of the old generation rest in a soak, and go on after a rollback", function()
    local s = reload.start(lines("v1", BEGUN), { allow_errors = true })
    s:wait_said(5)
    local bad = BEGUN .. "function M.on_connect() rille.log.info('said soaks') end"
    reload.put(lines("v2", bad))
    reload.now(s, nil, { canary = 1, soak = 60 })
    local from = #s:said()
    s:wait_said(from + 10)
    for at, text in ipairs(s:said()) do
      if at > from + 1 and text:find("every") then assert.equal("every v2", text) end
    end
    -- another version ends the soak, a bad one leaves the one before it
    reload.now(s, "local x = = 1\nreturn x\n")
    s:stop()
  end)

  -- ---- addresses ----------------------------------------------------------------------------------------------

  it("hands over an address of rille.listen, or closes it", function()
    local path = "unix://" .. server.folder() .. "/extra.sock"
    local function with(version, listens)
      return lines(version, listens and ([[
        rille.listen(%q, { on_request = function(conn) local line = conn:read_line()
          if line then conn:write(version .. " extra " .. line:str() .. "\n") end end })
      ]]):format(path) or "")
    end
    local s = reload.start(with("v1", true))
    local c = s:connect(nil, path)
    assert.equal("v1 extra a", ask(c, "a"))
    for i = 2, 4 do
      reload.to(s, with("v" .. i, true))
      assert.equal(("v%d extra b"):format(i), ask(s:connect(nil, path), "b"))
    end
    reload.to(s, with("v5", false))
    assert.is_truthy(net.poll_until(function()
      local other = server.client.try_connect(path)
      if other then other:close() end
      return not other
    end))
    reload.to(s, with("v6", true))
    assert.equal("v6 extra b", ask(s:connect(nil, path), "b"))
    s:stop()
  end)

  it("lets on_stage and selftest start tasks and timers of their own, and wait for them", function()
    local text = [[
      local ticks, warm = 0, 0
      rille.spawn(function() rille.log.info("said top %s", version) end)
      function M.on_stage()
        local task = rille.spawn(function() rille.sleep(0.01) return 5 end)
        warm = task:join()
      end
      function M.selftest()
        rille.after(0.01, function() ticks = ticks + 1 end)
        rille.sleep(0.1)
        assert(ticks == 1 and warm == 5)
      end
      function commands.warm() return warm end
    ]]
    local s = reload.start(commands("v1"))
    reload.to(s, commands("v2", text))
    assert.equal("v2 5", ask(s:connect(), "warm"))
    assert.same({ "top v2" }, s:wait_said(1))
    s:stop()
  end)

  it("opens no address of rille.listen for a selftest", function()
    local path = server.folder() .. "/extra.sock"
    local text = ([[
      rille.listen("unix://%s", { on_request = function(conn) local line = conn:read_line()
        if line then conn:write(version .. " " .. line:str() .. "\n") end end })
      function M.selftest() rille.sleep(0.1) end
    ]]):format(path)
    local s = reload.start(lines("v1", text))
    for i = 2, 3 do
      reload.to(s, lines("v" .. i, text))
      assert.equal(("v%d x"):format(i), ask(s:connect(nil, "unix://" .. path), "x"))
    end
    s:stop()
  end)

  -- ---- connections --------------------------------------------------------------------------------------------

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

  -- A handler that keeps its connection.
  local LOOPS = [[
    function M.on_request(conn)
      while true do
        local line = conn:read_line()
        if not line then return end
        conn:write(version .. " " .. line:str() .. (rille.retiring() and " retiring" or "") .. "\n")
        if line:str() == "leave" then return end
      end
    end
  ]]

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

  it("keeps the subscriptions of connections", function()
    local text = [[
      function commands.sub(conn) return rille.topic("news"):subscribe(conn) end
      function commands.pub(conn, what) rille.topic("news"):publish(what .. "\n") return "sent" end
    ]]
    local s = reload.start(commands("v1", text), { conf = { loops = 2 } })
    local subscribers = {}
    for i = 1, 4 do
      subscribers[i] = s:connect()
      assert.equal("v1 true", ask(subscribers[i], "sub"))
    end
    for i = 2, 4 do
      reload.to(s, commands("v" .. i, text))
      reload.wait_retired(s)
      local c = s:connect()
      assert.equal(("v%d sent"):format(i), ask(c, "pub n" .. i))
      c:close()
      for _, one in ipairs(subscribers) do assert.equal("n" .. i, one:receive_line()) end
      if i == 3 then assert.equal("v3 nil", ask(subscribers[1], "nothing")) end
    end
    s:stop()
  end)

  it("lets calls of a pool that are under way come to their end in their generation", function()
    server.write("slow.lua", [[
      local M = {}
      function M.work(path, n) while not io.open(path) do require("ffi").C.usleep(2000) end return n * 2 end
      require("ffi").cdef "int usleep(unsigned);"
      return M
    ]])
    local go = server.folder() .. "/go"
    local text = ([[
      function commands.work(conn, n) return (rille.pool("slow"):call("slow", "work", %q, tonumber(n))) end
    ]]):format(go)
    local s = reload.start(commands("v1", text))
    local c = s:connect()
    c:send("work 21\n")
    s:wait_state(function(state) return state.messages == 1 end)
    reload.to(s, commands("v2", text))
    reload.to(s, commands("v3", text))
    server.write("go", "")
    assert.equal("v1 42", c:receive_line())
    assert.equal("v3 nil", ask(c, "x"))
    reload.wait_retired(s)
    s:stop()
  end)

  it("makes rille.post reach the generation that serves", function()
    local text = [[
      function commands.post(conn, other) return rille.post(tonumber(other), "target", "hear", version) end
    ]]
    local function target(v) server.write("target.lua", ([[
      return { hear = function(from) require("rille").log.info("said %%s to %s", from) end }
    ]]):format(v)) end
    target("v1")
    local s = reload.start(commands("v1", text), { conf = { loops = 2 } })
    local c = s:connect()
    assert.equal("v1 true", ask(c, "post 1")) assert.equal("v1 true", ask(c, "post 2"))
    s:wait_said(2)
    for i = 2, 3 do
      target("v" .. i)
      reload.to(s, commands("v" .. i, text))
      ask(c, "post 1") ask(c, "post 2")
      local said = s:wait_said(i * 2)
      for k = i * 2 - 1, i * 2 do assert.equal(("v%d to v%d"):format(i, i), said[k]) end
    end
    s:stop()
  end)

  it("has nothing to do with a global that a handler writes, which the log names once", function()
    local text = [[
      at_load = 1
      function commands.write(conn, n) counter = (counter or 0) + 1 return counter end
      function commands.unset() counter = nil end
      function commands.load() at_load = at_load + 1 return at_load end
    ]]
    local s = reload.start(commands("v1", text))
    local c = s:connect()
    assert.equal("v1 1", ask(c, "write"))
    assert.equal("v1 2", ask(c, "write"))
    ask(c, "unset") ask(c, "write")
    assert.equal("v1 2", ask(c, "load"))
    reload.to(s, commands("v2", text))
    assert.equal("v2 1", ask(c, "write"))
    assert.equal(1, s:count_log("script%.lua:%d+: sets the global 'counter'[^\n]*script=script@1"))
    assert.equal(1, s:count_log("script%.lua:%d+: sets the global 'counter'[^\n]*script=script@2"))
    assert.equal(0, s:count_log("global 'at_load'"))
    s:stop()
  end)

  -- ---- more than one at a time --------------------------------------------------------------------------------

  it("is refused beyond max_generations, and possible again when an old one is gone", function()
    local s = reload.start(commands("v1", LOOPS), { allow_errors = true, reload = { max_generations = 3 } })
    local held = {}
    for i = 1, 2 do
      held[i] = s:connect()
      assert.equal(("v%d a"):format(i), ask(held[i], "a"))
      reload.to(s, commands("v" .. (i + 1), LOOPS))
    end
    local report = reload.now(s, commands("v4", LOOPS))
    assert.is_false(report.ok)
    assert.matches("3 generations are alive %(reload%.max_generations%)", report.message)
    held[1]:close()
    local ok = net.poll_until(function() return reload.now(s, commands("v4", LOOPS)).ok end, 10)
    assert.is_true(ok)
    assert.equal("v4 a", ask(s:connect(), "a"))
    held[2]:close()
    s:stop()
  end)

  it("of a version that comes while another one is staged replaces that one", function()
    local s = reload.start(lines("v1"), { allow_errors = true })
    local slow = server.client.connect("unix://" .. s.socket)
    reload.put(lines("v2", "function M.on_stage() rille.log.info('said staging') rille.sleep(0.4) end"))
    local code = "print(require('rille.reload').answer { wait = true })"
    slow:send(("eval loop=0 timeout=20000 size=%d\n%s"):format(#code, code))
    s:wait_said(1)
    reload.to(s, lines("v3"))
    assert.matches("newer version", slow:receive_all())
    assert.equal("v3 a", ask(s:connect(), "a"))
    assert.equal(1, #s:said())
    reload.wait_retired(s)
    s:stop()
  end)

  it("of a version that comes in a soak ends the soak", function()
    local s = reload.start(lines("v1"), { conf = { loops = 2 } })
    for i = 2, 6 do
      local report = reload.to(s, lines("v" .. i), { canary = 1, soak = 60 })
      assert.is_true(report.soaking)
    end
    reload.to(s, lines("v7"))
    reload.wait_retired(s)
    for _ = 1, 4 do assert.equal("v7 a", ask(s:connect(), "a")) end
    s:stop()
  end)

  it("comes by itself when a module appears that was missing", function()
    local s = reload.start(lines("v1"), { allow_errors = true, reload = { watch = true } })
    local c = s:connect()
    reload.put(lines("v2", "version = require('later')"))
    s:wait_log("not reloaded: [^\n]*later")
    assert.equal("v1 a", ask(c, "a"))
    server.write("later.lua", "return 'later'")
    assert.is_truthy(net.poll_until(function() return ask(c, "b") == "later b" end, 10))
    s:stop()
  end)

  it("comes within a second of a change, however the file is changed, and once for a burst", function()
    local one = server.write("app1.lua", lines("v1"):gsub("^", "local rille = require 'rille' "))
    local two = server.write("app2.lua", lines("v2"):gsub("^", "local rille = require 'rille' "))
    local link = server.folder() .. "/current.lua"
    os.execute(("ln -s app1.lua %s"):format(link))
    local s = reload.start(link, { reload = { watch = true } })
    local c = s:connect()
    local function expect(version)
      local from = net.now()
      local found = net.poll_until(function() return ask(c, "x") == version .. " x" end, 10)
      if not found then error(version .. " is not served:\n" .. s:tail(), 0) end
      if not net.is_sanitized then assert.is_true(net.now() - from < 1 * net.slow * 3) end
      return net.now() - from
    end
    expect("v1")
    os.execute(("ln -s app2.lua %s.new && mv -T %s.new %s"):format(link, link, link))
    expect("v2")
    os.execute(("ln -sfn app1.lua %s"):format(link))
    expect("v1")
    server.write("app1.lua", lines("written"):gsub("^", "local rille = require 'rille' "))
    expect("written")
    local new = server.write("app1.lua.tmp", lines("renamed"):gsub("^", "local rille = require 'rille' "))
    os.rename(new, one)
    expect("renamed")
    local before = s:count_log("serves; ")
    for i = 1, 50 do
      server.write("app1.lua", lines("burst" .. i):gsub("^", "local rille = require 'rille' "))
      net.nap(1)
    end
    expect("burst50")
    net.nap(700)
    assert.is_true(s:count_log("serves; ") - before <= 2)
    assert(two)
    s:stop()
  end)
end)
