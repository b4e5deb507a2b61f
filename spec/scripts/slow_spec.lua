-- scripts/slow.lua, as a user runs it.

local server = require "spec.support.server"
local net = server.net

describe("scripts/slow.lua", function()
  after_each(server.cleanup)

  it("answers when the time is over, and serves the others meanwhile", function()
    local s = server.run "scripts/slow.lua"
    local c, other = s:connect(), s:connect()
    local started = net.now()
    c:send("sleep 0.2\n")
    for _ = 1, 5 do
      other:send("sleep 0.01\n")
      assert.equal("slept 0.01", other:receive_line())
    end
    assert.is_true(net.now() - started < 0.2)
    assert.equal("slept 0.2", c:receive_line())
    assert.is_true(net.now() - started >= 0.2)
  end)

  it("keeps a hundred sleepers at once", function()
    local s = server.run "scripts/slow.lua"
    local started = net.now()
    local clients = {}
    for i = 1, 100 do
      clients[i] = s:connect()
      clients[i]:send("sleep 0.1\n")
    end
    for i = 1, 100 do assert.equal("slept 0.1", clients[i]:receive_line()) end
    assert.is_true(net.now() - started < 1 * net.slow)
  end)

  it("gives up after options.limit", function()
    local s = server.run("scripts/slow.lua", { "limit=0.1" })
    local c = s:connect()
    local started = net.now()
    c:send("limit 30\nlimit 0.01\n")
    assert.equal("gave up: timeout", c:receive_line())
    assert.is_true(net.now() - started >= 0.1)
    assert.equal("slept 0.01", c:receive_line())
  end)

  it("lets a client go that says nothing for options.idle seconds in the middle of a line", function()
    local s = server.run("scripts/slow.lua", { "idle=0.1" })
    local c = s:connect()
    c:send("slee")
    assert.same({ "too slow\n", "closed" }, { c:receive_all() })
  end)

  it("lets a client go that says nothing at all for options.idle seconds", function()
    local s = server.run("scripts/slow.lua", { "idle=0.1" })
    local c = s:connect()
    assert.same({ "too slow\n", "closed" }, { c:receive_all() })
  end)

  it("says how to ask, to anybody who asks otherwise", function()
    local s = server.run "scripts/slow.lua"
    local c = s:connect()
    for _, line in ipairs { "", "sleep", "sleep x", "sleep 1.2.3", "run 5", "sleep -1", "sleep 1 2" } do
      c:send(line .. "\n")
      assert.equal("say: sleep SECONDS, or limit SECONDS", c:receive_line())
    end
    c:send(("x"):rep(200) .. "\n")
    c:receive_all()
  end)

  it("forgets a sleeper whose client left", function()
    local s = server.run "scripts/slow.lua"
    local c = s:connect()
    c:send("sleep 0.1\n")
    c:reset()
    s:wait_state(function(state) return state.connections == 0 and state.watches == 0 end)
  end)
end)
