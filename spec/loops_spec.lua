-- Several loops in one process: how connections come to them, what each has of its own, how they start and stop together.

local server = require "spec.support.server"
local net = server.net

-- Says on which loop it was accepted, then echoes.
local WHERE = [[
local rille = require "rille"
return {
  on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
  on_request = function(conn) conn:write(conn:next(conn:len())) end,
}
]]

local ACCEPTS = { "reuseport", "shared", "balanced" }

local function conf_of(accept, balance, loops)
  return { conf = { loops = loops or 2 }, server = { accept = accept, balance = balance } }
end

-- How many of `count` connections, all open at once, each loop got; the clients.
local function spread(s, count, options)
  local by_loop, clients = {}, {}
  for i = 1, count do
    clients[i] = s:connect(options)
    local loop = tonumber(clients[i]:receive_line())
    by_loop[loop] = (by_loop[loop] or 0) + 1
  end
  return by_loop, clients
end

describe("several loops", function()
  after_each(server.cleanup)

  it("take turns with round_robin", function()
    local s = server.start(WHERE, conf_of("balanced", "round_robin", 4))
    local by_loop = spread(s, 40)
    assert.same({ 10, 10, 10, 10 }, by_loop)
  end)

  it("all get some with random", function()
    local by_loop = spread(server.start(WHERE, conf_of("balanced", "random", 3)), 90)
    for loop = 1, 3 do assert.is_true((by_loop[loop] or 0) >= 10, ("loop %d got %s"):format(loop, by_loop[loop])) end
  end)

  it("get the next connection where there are fewest with least_connections", function()
    local s = server.start(WHERE, conf_of("balanced", "least_connections", 3))
    local by_loop, clients = spread(s, 30)
    assert.same({ 10, 10, 10 }, by_loop)
    -- one loop loses its connections, and gets the next ones
    for i = 1, 30, 3 do clients[i]:close() end
    local more = {}
    net.poll_until(function()
      local c = s:connect()
      more[#more + 1] = tonumber(c:receive_line())
      return #more >= 8
    end)
    local counts = {}
    for _, loop in ipairs(more) do counts[loop] = (counts[loop] or 0) + 1 end
    local most = math.max(counts[1] or 0, counts[2] or 0, counts[3] or 0)
    assert.is_true(most >= 7, "they went to several: " .. table.concat(more, " "))
  end)

  it("get all connections of one address on one loop with source_hash", function()
    local by_loop = spread(server.start(WHERE, conf_of("balanced", "source_hash", 4)), 20)
    local loops = 0
    for _ in pairs(by_loop) do loops = loops + 1 end
    assert.equal(1, loops)
  end)

  it("spread by the kernel with reuseport", function()
    local by_loop = spread(server.start(WHERE, conf_of("reuseport", nil, 2)), 64)
    assert.is_true((by_loop[1] or 0) >= 10 and (by_loop[2] or 0) >= 10, ("%s, %s"):format(by_loop[1], by_loop[2]))
  end)

  it("are as many as there are processors with auto", function()
    local s = server.start([[
local rille = require "rille"
return { on_start = function(server) say("loop %d of %d, %d", rille.loop.id, rille.loop.count, server.loops) end, on_request = print }
]], { conf = { loops = "auto" } })
    local cpus = tonumber(io.popen("nproc"):read("*a"))
    local said = s:wait_said(cpus)
    table.sort(said)
    for i = 1, cpus do assert.equal(("loop %d of %d, %d"):format(i, cpus, cpus), said[i]) end
  end)

  it("notice a busy port whatever the way to accept", function()
    local first = server.start(WHERE, conf_of("reuseport"))
    local listen = "tcp://127.0.0.1:" .. first.port
    for _, accept in ipairs(ACCEPTS) do
      local opts = conf_of(accept)
      opts.listen = listen
      local second = server.spawn(WHERE, opts)
      assert.equal(1, second:wait_exit())
      assert.matches("address in use", second:log())
      second:forget()
    end
  end)

  it("keep max_connections together", function()
    for _, accept in ipairs(ACCEPTS) do
      local opts = conf_of(accept, nil, 2)
      opts.limits = { max_connections = 4 }
      local s = server.start(WHERE, opts)
      local _, clients = spread(s, 4)
      local more = s:connect()
      more:receives_nothing(0.2)
      for _, c in ipairs(clients) do c:close() end
      assert.matches("^[12]$", more:receive_line())
    end
  end)

  it("do not start when on_start of one says no", function()
    local s = server.spawn([[
local rille = require "rille"
return { on_start = function() if rille.loop.id == 2 then return false end end, on_request = print }
]], { conf = { loops = 3 }, allow_errors = true })
    assert.equal(1, s:wait_exit())
    assert.matches("on_start returned false", s:log())
    s:forget()
  end)

  it("all stop when one asks for it", function()
    local s = server.start([[
local rille = require "rille"
return { on_request = function(conn) conn:release() rille.shutdown(1) end, on_close = function(_, err) say("%s", err) end }
]], conf_of("balanced", nil, 3))
    local clients = { s:connect(), s:connect(), s:connect() }
    clients[2]:send("stop")
    assert.equal(0, s:wait_exit())
    assert.equal(3, #s:said())
    s:check_end()
    s:forget()
  end)

  it("serve what is in every queue before they stop", function()
    for _, accept in ipairs(ACCEPTS) do
      local s = server.start(WHERE, conf_of(accept, nil, 2))
      local clients = {}
      for i = 1, 50 do
        clients[i] = s:connect()
        clients[i]:send("x")
      end
      s:signal("TERM")
      for i = 1, 50 do
        assert.matches("^[12]$", clients[i]:receive_line())
        assert.equal("x", clients[i]:receive(1))
      end
      for i = 1, 50 do clients[i]:close() end
      assert.equal(0, s:wait_exit())
      s:check_end()
      s:forget()
    end
  end)

  it("have threads with names", function()
    local s = server.start(WHERE, conf_of("reuseport", nil, 2))
    local names = io.popen(("cat /proc/%d/task/*/comm"):format(s.pid)):read("*a")
    assert.matches("rille%-loop%-1\n", names)
    assert.matches("rille%-loop%-2\n", names)
  end)

  it("may not listen on a Unix socket with reuseport", function()
    local opts = conf_of("reuseport")
    opts.listen = "unix:@rille-spec"
    local s = server.spawn(WHERE, opts)
    assert.equal(1, s:wait_exit())
    assert.matches("a Unix socket has no reuseport; use shared or balanced", s:log())
    s:forget()
  end)

  -- ---- from one to another ---------------------------------------------------------------------------------------

  -- Commands of a line: "post N TEXT", "send ID TEXT", "close ID"; each connection is told its loop and id first.
  local function start_switchboard(loops)
    server.write("calls.lua", [[
      local rille = require "rille"
      local M = {}
      function M.note(...) rille.log.info("said %s on %d", table.concat({ ... }, " "), rille.loop.id) end
      function M.fail() error("on purpose") end
      function M.count(...) rille.log.info("said %d of %d", select("#", ...), (select(2, ...)).n) end
      return M
    ]])
    return server.start([[
local rille = require "rille"
return {
  on_connect = function(conn) conn:write(("%d %.0f\n"):format(rille.loop.id, conn.id)) end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local what, where, text = line:str():match("^(%S+) ?(%S*) ?(.*)$")
    local ok, err, message
    if what == "post" then ok, err, message = rille.post(tonumber(where), "calls", "note", text)
    elseif what == "count" then ok, err = rille.post(tonumber(where), "calls", "count", nil, { n = 4 }, nil, nil)
    elseif what == "fail" then ok, err = rille.post(tonumber(where), "calls", text)
    elseif what == "bad" then ok, err, message = rille.post(tonumber(where), "calls", "note", print)
    elseif what == "flood" then
      for _ = 1, 100000 do
        ok, err = rille.post(tonumber(where), "calls", "note", text)
        if not ok then break end
      end
    elseif what == "block" then
      local stop = rille.now() + 1
      while require("rille.core").rille_now() < stop do end
      ok = true
    elseif what == "send" then ok, err = rille.connection(tonumber(where)):send(text)
    elseif what == "close" then ok, err = rille.connection(tonumber(where)):close()
    end
    conn:write(tostring(ok) .. (err and " " .. err or "") .. (message and " " .. message:sub(1, 40) or "") .. "\n")
  end,
}
]], { conf = { loops = loops or 2 }, server = { accept = "balanced" }, allow_errors = true })
  end

  local function greet(s)
    local c = s:connect()
    c.loop, c.id = c:receive_line():match("^(%d+) (%d+)$")
    return c
  end

  local function command(c, line)
    c:send(line .. "\n")
    return c:receive_line()
  end

  it("call functions on each other with rille.post", function()
    local s = start_switchboard()
    local c = greet(s)
    for loop = 1, 2 do assert.equal("true", command(c, ("post %d hello"):format(loop))) end
    local said = s:wait_said(2)
    table.sort(said)
    assert.same({ "hello on 1", "hello on 2" }, said)
    assert.equal("true", command(c, "count 1"))
    assert.equal("4 of 4", s:wait_said(3)[3])
    assert.equal("nil not found", command(c, "post 3 x"))
    assert.equal("nil not found", command(c, "post 0 x"))
    assert.matches("^nil invalid argument ", command(c, "bad 2"))
    assert.equal("true", command(c, "fail 2 fail"))
    s:wait_log("a posted call failed[^\n]*on purpose")
    assert.equal("true", command(c, "fail 1 nothing"))
    s:wait_log("module calls has no function 'nothing'")
  end)

  it("begin posted calls in their order, before what comes behind them", function()
    server.write("notes.lua", [[
      local rille = require "rille"
      local M = { list = {} }
      function M.add(text)
        M.list[#M.list + 1] = text
        if text == "1" then rille.sleep(0.01) end -- parks; the others do not wait for it
      end
      return M
    ]])
    local s = server.start([[
local rille = require "rille"
local notes, core = require "notes", require "rille.core"
local dict = rille.dict("flags", { size = "64k" })
return {
  on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local what, where = line:str():match("^(%S+) ?(%S*)$")
    if what == "post" then
      for i = 1, 5 do assert(rille.post(tonumber(where), "notes", "add", tostring(i))) end
    elseif what == "block" then -- the loop stands still
      local till = core.rille_now() + 20
      dict:set("is_blocked", true)
      while not dict:get("go") and core.rille_now() < till do end
    elseif what == "await" then
      while not dict:get("is_blocked") do rille.sleep(0.001) end
    elseif what == "go" then
      dict:set("go", true)
    end
    conn:write(table.concat(notes.list, " ") .. "\n")
  end,
}
]], { conf = { loops = 2 }, server = { accept = "balanced" } })
    local by_loop = { {}, {} }
    for _ = 1, 4 do
      local c = s:connect()
      table.insert(by_loop[tonumber(c:receive_line())], c)
    end
    local here, blocks, asks = by_loop[1][1], by_loop[2][1], by_loop[2][2]
    blocks:send("block\n")
    command(here, "await")
    command(here, "post 2")
    asks:send("list\n") -- is there for the next turn of that loop, as the calls are
    command(here, "go")
    assert.equal("", blocks:receive_line())
    assert.equal("1 2 3 4 5", asks:receive_line())
  end)

  it("tell who posts too much, and lose nothing that was taken", function()
    local s = start_switchboard()
    local one, two = greet(s), greet(s)
    assert.are_not.equal(one.loop, two.loop)
    two:send("block\n")
    assert.equal("nil full", command(one, ("flood %s x"):format(two.loop)))
    assert.equal("true", two:receive_line())
    -- the log limits the rate of a call site; that the loop still answers is what counts
    assert.is_true(net.poll_until(function() return command(one, ("post %s again"):format(two.loop)) == "true" end))
    assert.equal("true", command(two, ("post %s back"):format(one.loop)))
  end)

  it("send to and close each other's connections by id", function()
    local s = start_switchboard(3)
    local clients = {}
    for i = 1, 3 do clients[i] = greet(s) end
    for i = 1, 3 do
      for k = 1, 3 do
        local text = ("from %d to %d"):format(i, k)
        clients[i]:send(("send %s %s\n"):format(clients[k].id, text))
        if i == k then
          assert.equal(text .. "true", clients[k]:receive_line())
        else
          assert.equal("true", clients[i]:receive_line())
          assert.equal(text, clients[k]:receive(#text))
        end
      end
    end
    local large = ("x"):rep(50000)
    assert.equal("true", command(clients[1], ("send %s %s"):format(clients[2].id, large)))
    assert.equal(large, clients[2]:receive(#large))
    assert.equal("true", command(clients[1], "close " .. clients[2].id))
    assert.same({ "", "closed" }, { clients[2]:receive_all() })
    assert.equal("true", command(clients[1], ("send %s too late"):format(clients[2].id)))
    assert.equal("true", command(clients[1], "close " .. clients[3].id))
    assert.equal("nil not found", command(clients[1], "send 1 x"))
  end)

  it("run a timer once in the process when it is asked to", function()
    local s = server.start([[
local rille = require "rille"
return {
  on_start = function()
    rille.every(0.01, function() say("once %d", rille.loop.id) end, { once_per_process = true })
    rille.every(0.01, function() say("each %d", rille.loop.id) end)
  end,
  on_request = print,
}
]], { conf = { loops = 2 } })
    local seen = {}
    net.poll_until(function()
      for _, text in ipairs(s:said()) do seen[text] = true end
      return seen["once 1"] and seen["each 1"] and seen["each 2"]
    end)
    assert.is_true(seen["each 2"])
    assert.is_nil(seen["once 2"])
  end)
end)
