-- Hot reload, from outside: its hooks, what belongs to the process and stays, and what happens when several come at once.

local http = require "spec.support.http"
local reload = require "spec.support.reload"
local server = reload.server
local net = server.net
local ask = reload.ask
local lines = reload.lines
local commands = reload.commands
local LOOPS = reload.LOOPS

describe("a reload", function()
  after_each(server.cleanup)

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

  it("hands over what each of several loops has, there and back", function()
    local text = [[
      local count, last = 0, "nothing"
      function M.on_retire() return { count = count, from = version, loop = rille.loop.id } end
      function M.on_reload(data, info)
        if data.loop ~= info.loop or data.loop ~= rille.loop.id then error "another loop's" end
        count, last = data.count, data.from .. " " .. tostring(info.rollback)
      end
      function commands.add() count = count + 1 return rille.loop.id .. " " .. count end
      function commands.last() return last end
      function commands.fail() error "as it was asked" end
    ]]
    local s = reload.start(commands("v1", text), { allow_errors = true, conf = { loops = 3 } })
    local clients, counts = {}, { 0, 0, 0 }
    for i = 1, 12 do clients[i] = s:connect() end
    local function add(version)
      for _, c in ipairs(clients) do
        local loop, count = ask(c, "add"):match("^" .. version .. " (%d) (%d+)$")
        loop = tonumber(loop)
        counts[loop] = counts[loop] + 1
        assert.equal(counts[loop], tonumber(count))
      end
    end
    add("v1")
    for v = 2, 5 do
      reload.to(s, commands("v" .. v, text))
      add("v" .. v)
      for _, c in ipairs(clients) do assert.equal(("v%d v%d false"):format(v, v - 1), ask(c, "last")) end
    end
    reload.now(s, commands("v6", text), { canary = 3, soak = 60 })
    add("v6")
    reload.fail(s, 6)
    add("v5") -- with what v6 has counted
    for _, c in ipairs(clients) do assert.equal("v5 v6 true", ask(c, "last")) end
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

  it("calls on_retire when all has begun that was posted before", function()
    local COUNT = 600 -- more than a loop takes of its mail in one turn
    local text = [[
      local target, dict = require "target", rille.dict("flags", { size = "64k" })
      local core = require "rille.core"
      function commands.where() return rille.loop.id end
      function commands.post(conn, count)
        for i = 1, tonumber(count) do assert(rille.post(2, "target", "hear", i)) end
      end
      function commands.block()
        local till = core.rille_now() + 20
        dict:set("is_blocked", true)
        while not dict:get("go") and core.rille_now() < till do end
      end
      function commands.await() while not dict:get("is_blocked") do rille.sleep(0.001) end end
      function M.on_start() if version == "v2" and rille.loop.id == 1 then dict:set("go", true) end end
      function M.on_retire() return { heard = target.heard, is_ordered = target.is_ordered } end
      function M.on_reload(data) if rille.loop.id == 2 then rille.log.info("said %d %s", data.heard, tostring(data.is_ordered)) end end
    ]]
    server.write("target.lua", [[
      local rille = require "rille"
      local M = { heard = 0, is_ordered = true }
      function M.hear(number)
        M.heard = M.heard + 1
        M.is_ordered = M.is_ordered and number == M.heard
        rille.sleep(1e5) -- what began is enough
      end
      return M
    ]])
    local s = reload.start(commands("v1", text), { conf = { loops = 2 }, server = { accept = "balanced" },
      reload = { drain = { policy = "stay" } } })
    local one, two = s:connect(), s:connect()
    if ask(one, "where") == "v1 2" then one, two = two, one end
    two:send("block\n")
    ask(one, "await")
    ask(one, "post " .. COUNT)
    reload.to(s, commands("v2", text)) -- behind the calls, in the mail of a loop that stands still
    assert.equal("v1 nil", two:receive_line())
    assert.same({ COUNT .. " true" }, s:wait_said(1))
    s:stop()
  end)

  -- That takes a lock of the process, which a thread that stages may have.
  it("has a new generation look up no function of the core on its loop", function()
    local text = [[
      local core, known = require "rille.core", {}
      function M.on_stage() for name in pairs(debug.getfenv(core)) do known[name] = true end end
      function M.on_start() rille.every(0.001, function() rille.now() end) rille.spawn(function() rille.sleep(0.001) end) end
      function M.on_connect(conn) conn.ctx = { 1 } end
      function M.on_migrate(ctx) return ctx end
      function M.on_retire() return 1 end
      function M.on_reload() end
      function M.on_close() end
      function commands.unknown(conn)
        conn:write("a part ")
        conn:flush()
        rille.sleep(0.01)
        local names = {}
        for name, value in pairs(debug.getfenv(core)) do
          if type(value) == "cdata" and not known[name] then names[#names + 1] = name end
        end
        return table.concat(names, " ")
      end
    ]]
    local s = reload.start(commands("v1", text))
    local c = s:connect()
    for i = 2, 3 do
      ask(c, "unknown")
      s:connect():close()
      reload.to(s, commands("v" .. i, text))
      assert.equal(("a part v%d "):format(i), ask(c, "unknown"))
    end
    s:stop()
  end)

  it("has a new generation load nothing of the library on its loop", function()
    local function version(v)
      return ([[
        local loaded = {}
        return {
          on_stage = function() for name in pairs(package.loaded) do loaded[name] = true end end,
          on_request = function(req, res)
            local late = {}
            for name in pairs(package.loaded) do
              if not loaded[name] then late[#late + 1] = name end
            end
            res:send(%q .. table.concat(late, " "))
          end,
        }
      ]]):format(v) .. "\n"
    end
    local s = reload.start(version("v1"), { listen = "http://127.0.0.1:0" })
    reload.to(s, version("v2"))
    local c = s:connect()
    for _ = 1, 2 do
      c:send(http.get("/"))
      assert.equal("v2", http.answer(c).body)
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
    reload.put(lines("v2", "function M.on_stage() rille.log.info('said staging') rille.sleep(1.5) end"))
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

  -- ---- early ones ---------------------------------------------------------------------------------------------

  it("comes with a SIGHUP as soon as the server says that it listens", function()
    for _ = 1, 20 do
      local s = server.start(lines("v1"), { conf = { reload = { watch = false } } })
      s:signal("HUP")
      s:wait_log("script@2: serves", 10)
      assert.equal("v1 a", ask(s:connect(), "a"))
      s:stop()
      server.cleanup()
    end
  end)

  it("comes when the server has started, with a SIGHUP from before", function()
    local text = [[
      require("ffi").cdef "int usleep(unsigned);"
      if not io.open("%s/loaded") then
        io.open("%s/loaded", "w"):close()
        rille.log.warn("loading")
        require("ffi").C.usleep(300000)
      end
    ]]
    for _ = 1, 3 do
      local s = server.spawn(lines("v1", (text:gsub("%%s", server.folder()))), { conf = { reload = { watch = false } } })
      s:wait_log("loading")
      s:signal("HUP")
      s:wait_log("script@2: serves", 10)
      s:wait_listening(1)
      s:stop()
      server.cleanup()
    end
  end)
end)
