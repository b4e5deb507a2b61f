-- What a connection keeps through a reload: its ctx.

local reload = require "spec.support.reload"
local server = reload.server
local ask = reload.ask
local commands = reload.commands

describe("the ctx of a connection", function()
  after_each(server.cleanup)

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

  -- ---- handles ------------------------------------------------------------------------------------------------

  -- What the library has under a name, by kind.
  local HANDLES = {
    dict = [[
      local function make() return rille.dict("seen", { size = "64k" }) end
      local function use(d) return tostring(d:incr("n", 1, 0)) end
    ]],
    topic = [[
      local function make() return rille.topic("news") end
      local function use(t) return tostring(t:publish("x")) .. " " .. t:count() end
    ]],
    pool = [[
      local function make() return rille.pool("work"):with { timeout = 5 } end
      local function use(p) return tostring(p) .. " " .. tostring(p:call("math", "max", 3, 7)) .. " " .. tostring(p._timeout) end
    ]],
    connection = [[
      local function make(conn) return rille.connection(conn.id) end
      local function use(c) return tostring(c:send("sent\n")) end
    ]],
  }
  local ANSWERS = {
    dict = { "1", "2", "3", "4" }, topic = { "0 0", "0 0", "0 0", "0 0" },
    pool = { "pool work 7 5", "pool work 7 5", "pool work 7 5", "pool work 7 5" }, connection = { "true", "true", "true", "true" },
  }

  for kind, text in pairs(HANDLES) do
    it("takes the handle of a " .. kind .. " along", function()
      text = text .. [[
        function commands.set(conn) local h = make(conn) conn.ctx = { handle = h, list = { h, "x" }, by = { [h] = 5 } } end
        function commands.use(conn)
          local c = conn.ctx
          local n = 0
          for k, v in pairs(c.by) do
            n = n + v
            assert(tostring(k) == tostring(c.handle) and getmetatable(k) == getmetatable(c.handle))
          end
          assert(n == 5 and getmetatable(c.list[1]) == getmetatable(c.handle) and c.list[2] == "x")
          return use(c.handle)
        end
      ]]
      local s = reload.start(commands("v1", text), { conf = { loops = 2 } })
      local c = s:connect()
      ask(c, "set")
      for i = 1, 4 do
        if i > 1 then
          reload.to(s, commands("v" .. i, text))
          reload.wait_retired(s)
        end
        local answer = ask(c, "use")
        if kind == "connection" then assert.equal("sent", answer) answer = c:receive_line() end
        assert.equal(("v%d %s"):format(i, ANSWERS[kind][i]), answer)
      end
      assert.equal(0, s:count_log("does not go to the next generation"))
      s:stop()
    end)
  end

  it("takes nothing for a handle that a script has put together", function()
    local text = [[
      function commands.set(conn) conn.ctx = { a = { ["\0rille"] = "topic", kind = "topic", name = "news" } } end
      function commands.get(conn) local a = conn.ctx.a return type(a) .. " " .. a.kind .. " " .. a.name .. " " .. a["\0rille"] end
    ]]
    local s = reload.start(commands("v1", text))
    local c = s:connect()
    ask(c, "set")
    reload.to(s, commands("v2", text))
    assert.equal("v2 table topic news topic", ask(c, "get"))
    s:stop()
  end)

  -- ---- migrations ---------------------------------------------------------------------------------------------

  -- What a ctx is, and was made from, on each of several loops.
  local MOVES = [[
    local turn = tonumber(version:match("%d+"))
    function M.on_connect(conn) conn.ctx = { shape = turn, moves = 0, loop = rille.loop.id, f = print } end
    function M.on_migrate(ctx)
      if ctx.shape ~= turn then error("shape " .. tostring(ctx.shape)) end
      assert(ctx.loop == rille.loop.id)
      local moves = ctx.moves
      ctx.moves = "spoilt"
      return { shape = turn + 1, moves = moves + 1, loop = ctx.loop, slept = ctx.slept }
    end
    function commands.get(conn) local c = conn.ctx return ("%d %d %s"):format(c.shape, c.moves, tostring(c.loop == rille.loop.id)) end
    function commands.fail() error "as it was asked" end
  ]]

  it("goes through on_migrate once on each of several loops", function()
    local s = reload.start(commands("v1", MOVES), { conf = { loops = 3 } })
    local clients, silent = {}, {}
    for i = 1, 12 do clients[i], silent[i] = s:connect(), s:connect() end
    for _, c in ipairs(silent) do assert.equal("v1 1 0 true", ask(c, "get")) end
    for v = 1, 8 do
      if v > 1 then reload.to(s, commands("v" .. v, MOVES)) end
      for _, c in ipairs(clients) do assert.equal(("v%d %d %d true"):format(v, v, v - 1), ask(c, "get")) end
      if v % 2 == 0 then reload.wait_retired(s) end
    end
    for _, c in ipairs(silent) do assert.equal("v8 8 7 true", ask(c, "get")) end
    s:stop()
  end)

  it("is again what it was before on_migrate, when its generation serves again", function()
    local s = reload.start(commands("v1", MOVES), { conf = { loops = 2 }, allow_errors = true })
    local clients, silent, other = {}, {}, {}
    for i = 1, 6 do clients[i], silent[i], other[i] = s:connect(), s:connect(), s:connect() end
    for i = 1, 6 do ask(clients[i], "get") ask(silent[i], "get") ask(other[i], "get") end
    for v = 2, 4 do
      reload.put(commands("v2", MOVES))
      reload.now(s, nil, { canary = 2, soak = 60 })
      for _, c in ipairs(clients) do assert.equal("v2 2 1 true", ask(c, "get")) end
      reload.fail(s, v)
      for _, c in ipairs(clients) do assert.equal("v1 1 0 true", ask(c, "get")) end
      for _, c in ipairs(silent) do assert.equal("v1 1 0 true", ask(c, "get")) end
      reload.wait_retired(s)
    end
    -- the others have heard nothing of it; with the next one everybody goes
    reload.to(s, commands("v2", MOVES))
    for _, list in ipairs { clients, silent, other } do
      for _, c in ipairs(list) do assert.equal("v2 2 1 true", ask(c, "get")) end
    end
    s:stop()
  end)
end)
