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

  for _, accept in ipairs(ACCEPTS) do
    for _, family in ipairs { "tcp", "unix" } do
      if not (accept == "reuseport" and family == "unix") then
        for _, loops in ipairs { 1, 3 } do
          it(("echo what ten clients send, %s, %s, %d loops"):format(accept, family, loops), function()
            local opts = conf_of(accept, nil, loops)
            if family == "unix" then opts.listen = "unix://" .. server.folder() .. "/sock" end
            local s = server.start(WHERE, opts)
            local bytes = net.noise(2 ^ 20)
            local clients = select(2, spread(s, 10))
            for _, c in ipairs(clients) do assert.is_true(c:exchange(bytes) == bytes) end
            for _, c in ipairs(clients) do c:close() end
            s:wait_state(function(state) return state.connections == 0 end)
          end)
        end
      end
    end
  end

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
end)
