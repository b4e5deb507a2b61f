-- What a connection keeps through a reload besides plain data: the retained slices and LinkBuffers in its ctx.

local reload = require "spec.support.reload"
local server = reload.server
local udp = require "spec.support.udp"
local ask = reload.ask
local commands = reload.commands

describe("the slices and LinkBuffers of a ctx", function()
  after_each(server.cleanup)

  -- Lines are kept in a ctx, as slices, and in a LinkBuffer.
  local KEEPS = [[
    local LinkBuffer = require "rille.linkbuffer"
    local function keep(conn, slice)
      local c = conn.ctx or { lines = {}, all = LinkBuffer.new() }
      conn.ctx = c
      c.lines[#c.lines + 1] = slice:retain()
      c.last = c.lines[#c.lines]
      c.all:write(slice)
      c.all:flush()
      return #c.lines
    end
    function M.on_close(conn)
      for _, one in ipairs(conn.ctx and conn.ctx.lines or {}) do one:release() end
      if conn.ctx then conn.ctx.all:close() end
    end
    function M.on_request(conn)
      local line = conn:read_line()
      if not line then return end
      local text = line:str()
      local c = conn.ctx
      if text == "get" then
        local texts = {}
        for i, one in ipairs(c.lines) do texts[i] = one:str() end
        assert(rawequal(c.last, c.lines[#c.lines]))
        local all = c.all:len() > 0 and c.all:peek(c.all:len()):str() or ""
        conn:write(version .. " " .. table.concat(texts, ",") .. " " .. all .. "\n")
      elseif text == "eat" then
        table.remove(c.lines, 1):release()
        c.last = c.lines[#c.lines]
        c.all:skip(1)
        conn:write(version .. " eaten\n")
      elseif text == "stats" then
        local s = LinkBuffer.stats()
        conn:write(("%s %d %d\n"):format(version, s.slices_retained, s.slices_leaked))
      elseif text == "leaks" then
        local lines = {}
        for _, one in ipairs(rille.leaks.report()) do
          if one.kind == "slice" or one.kind == "buffer" then lines[#lines + 1] = ("%s %d %s\n"):format(one.kind, one.count, one.place) end
        end
        conn:write(table.concat(lines), "none\n", "none\n")
      elseif text == "fail" then
        error "as it was asked"
      else
        conn:write(version .. " " .. keep(conn, line) .. "\n")
      end
    end
  ]]
  local LONG = ("x"):rep(6000) -- linked, where the short ones are copied

  it("takes retained slices and LinkBuffers along, each with one owner", function()
    local s = reload.start(commands("v1", KEEPS), { conf = { loops = 2, debug = { leaks = "all" } } })
    local clients = {}
    for i = 1, 6 do
      clients[i] = s:connect()
      ask(clients[i], "a" .. i)
      assert.equal("v1 2", ask(clients[i], LONG .. i))
    end
    for v = 2, 12 do
      reload.to(s, commands("v" .. v, KEEPS))
      if v % 3 == 0 then reload.wait_retired(s) end
      for i, c in ipairs(clients) do
        assert.equal(("v%d a%d,%s%d a%d%s%d"):format(v, i, LONG, i, i, LONG, i), ask(c, "get"))
      end
    end
    reload.wait_retired(s)
    assert.equal("v12 12 0", ask(s:connect(), "stats"))
    local seen = s:connect()
    seen:send("leaks\n")
    local found = { buffer = 0, slice = 0 }
    for _ = 1, 2 do
      local kind, count = seen:receive_line():match("^(%S+) (%d+) in a ctx of the generation before$")
      if kind then found[kind] = tonumber(count) end
    end
    assert.is_true(found.slice == 2 * found.buffer and found.buffer <= 6)
    for i, c in ipairs(clients) do
      ask(c, "eat")
      assert.equal(("v12 %s%d %d%s%d"):format(LONG, i, i, LONG, i), ask(c, "get"))
      c:shutdown_write()
      assert.equal("", (c:receive_all()))
    end
    assert.equal(0, s:count_log("does not go"))
    s:stop() -- which looks at what is left of blocks, slices and buffers
  end)

  it("has what it left with when its generation serves again, whatever became of that meanwhile", function()
    local s = reload.start(commands("v1", KEEPS), { allow_errors = true })
    local c, other, gone = s:connect(), s:connect(), s:connect()
    ask(c, "a") ask(c, LONG) ask(other, "b") ask(gone, "g")
    for v = 2, 4 do
      reload.put(commands("v" .. v, KEEPS))
      reload.now(s, nil, { canary = 1, soak = 60 })
      assert.equal(("v%d eaten"):format(v), ask(c, "eat"))
      assert.equal(("v%d 2"):format(v), ask(c, "more"))
      if v == 3 then gone:close() end
      reload.fail(s, v)
      assert.equal(("v1 a,%s a%s"):format(LONG, LONG), ask(c, "get"))
      reload.wait_retired(s)
      assert.equal("v1 b b", ask(other, "get"))
    end
    local stats = ask(s:connect(), "stats")
    assert.equal("v1 3 0", stats)
    for _, one in ipairs { c, other } do
      one:shutdown_write()
      one:receive_all()
    end
    s:stop()
  end)

  it("are what on_migrate makes of them, and after a rollback what they were before", function()
    local text = KEEPS .. [[
      function M.on_migrate(ctx)
        ctx.all:skip(1)
        ctx.all:write(" from " .. version)
        ctx.all:flush()
        table.remove(ctx.lines, 1):release()
        return ctx
      end
    ]]
    local s = reload.start(commands("v1", text), { allow_errors = true })
    local c = s:connect()
    for _, line in ipairs { "a", "b", "c", "d" } do ask(c, line) end
    reload.to(s, commands("v2", text))
    reload.wait_retired(s)
    assert.equal("v2 b,c,d bcd from v1", ask(c, "get"))
    reload.now(s, commands("v3", text), { canary = 1, soak = 60 })
    assert.equal("v3 c,d cd from v1 from v2", ask(c, "get"))
    reload.fail(s, 3)
    assert.equal("v2 b,c,d bcd from v1", ask(c, "get"))
    reload.wait_retired(s)
    reload.to(s, commands("v4", text))
    reload.wait_retired(s)
    assert.equal("v4 c,d cd from v1 from v2", ask(c, "get"))
    s:stop()
  end)

  it("leaves nothing of a connection that ends before the next generation has seen it", function()
    local s = reload.start(commands("v1", KEEPS))
    local c = s:connect()
    ask(c, "a")
    reload.to(s, commands("v2", KEEPS))
    reload.wait_retired(s)
    c:close()
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal("v2 0 0", ask(s:connect(), "stats"))
    s:stop()
  end)

  it("names slices that are not retained, and what of a LinkBuffer is not flushed", function()
    local text = [[
      local LinkBuffer = require "rille.linkbuffer"
      function commands.set(conn)
        local b, closed = LinkBuffer.new(), LinkBuffer.new()
        b:write("seen") b:flush() b:write("unseen")
        closed:close()
        conn.ctx = { b = b, closed = closed, part = b:peek(2), none = require("rille.slice").empty() }
      end
      function commands.get(conn)
        local c = conn.ctx
        local answer = ("%s %s %s %s"):format(c.b:peek(c.b:len()):str(), tostring(c.b:malloc_len()), tostring(c.part), tostring(c.closed))
        c.b:close()
        return answer
      end
      function M.on_retire() return { slice = require("rille.slice").empty(), topic = rille.topic("x") } end
      function M.on_reload(data) assert(data.topic.name == "x" and not data.slice) end
    ]]
    local s = reload.start(commands("v1", text))
    local c = s:connect()
    ask(c, "set")
    reload.to(s, commands("v2", text))
    assert.equal("v2 seen 0 nil nil", ask(c, "get"))
    for _, what in ipairs { "ctx%.part %(a slice that is not retained%)", "ctx%.closed %(a LinkBuffer: closed%)",
      "ctx%.b %(unflushed bytes of a LinkBuffer%)" } do
      assert.equal(1, s:count_log(what .. " does not go to the next generation"))
    end
    assert.equal(1, s:count_log("not handed over: on_retire%(%)%.slice %(a slice%)"))
    s:stop()
  end)

  it("go over with a session of datagrams as well", function()
    local function script(version)
      return ([[
        return {
          on_request = function(session, slice)
            local c = session.ctx
            if slice:str() ~= "get" then
              session.ctx = { kept = slice:retain(), moves = 0 }
            else
              session:send(%q .. " " .. c.kept:str() .. " " .. c.moves)
            end
          end,
          on_migrate = function(ctx) return { kept = ctx.kept, moves = ctx.moves + 1 } end,
          on_close = function(session) if session.ctx then session.ctx.kept:release() end end,
        }
      ]]):format(version)
    end
    local s = reload.start(script("v1"), { listen = "udp://127.0.0.1:0", server = { session = {} } })
    local clients, silent = {}, udp.connect(s.url)
    silent:send "silent"
    for i = 1, 5 do
      clients[i] = udp.connect(s.url)
      clients[i]:send("kept" .. i)
    end
    for v = 1, 6 do
      if v > 1 then reload.to(s, script("v" .. v)) end
      if v % 3 == 0 then reload.wait_retired(s) end
      for i, c in ipairs(clients) do
        c:send "get"
        assert.equal(("v%d kept%d %d"):format(v, i, v - 1), (c:receive()))
      end
    end
    silent:send "get"
    assert.equal("v6 silent 5", (silent:receive()))
    udp.close_all()
    s:stop()
  end)
end)
