-- scripts/rpc_client.lua and scripts/rpc_server.lua behind it, as a user runs them.

local server = require "spec.support.server"
local net = server.net

local function start(options, url)
  local back = server.run("scripts/rpc_server.lua")
  local all = { "server=" .. (url or back.url) }
  for _, option in ipairs(options or {}) do all[#all + 1] = option end
  return server.run("scripts/rpc_client.lua", all), back
end

describe("scripts/rpc_client.lua", function()
  after_each(server.cleanup)

  it("calls for each line, and answers in order", function()
    local c = start():connect()
    c:send("sleep 0.2\necho hello\nsum 1 2\nnone\nupper x\n")
    for _, line in ipairs { "0.2", "hello", "3", "error: no procedure none", "X" } do assert.equal(line, c:receive_line()) end
  end)

  it("has many clients share one connection", function()
    local s, back = start()
    local clients = {}
    for i = 1, 50 do clients[i] = s:connect() end
    local started = net.now()
    for i = 1, 50 do clients[i]:send(("sleep 0.2\necho client %d\n"):format(i)) end
    for i = 1, 50 do
      assert.equal("0.2", clients[i]:receive_line())
      assert.equal("client " .. i, clients[i]:receive_line())
    end
    assert.is_true(net.now() - started < 3 * net.slow)
    back:wait_state(function(state) return state.connections == 1 end)
  end)

  it("carries large results", function()
    local c = start({ "max=60k" }):connect()
    local text = ("0123456789"):rep(5000)
    for i = 1, 10 do
      c:send("echo " .. i .. text .. "\n")
      assert.equal(i .. text, c:receive_line())
    end
  end)

  it("says when there is no answer in time, and drops it when it comes", function()
    local c = start({ "timeout=0.2" }):connect()
    c:send("sleep 0.4\necho a\n")
    assert.equal("error: timeout", c:receive_line())
    assert.equal("a", c:receive_line())
    c:send("sleep 0.1\n")
    assert.equal("0.1", c:receive_line())
    c:send("echo b\n")
    assert.equal("b", c:receive_line())
  end)

  it("says when the server is gone, and connects again", function()
    local s, back = start()
    local c = s:connect()
    c:send("echo a\n")
    assert.equal("a", c:receive_line())
    c:send("sleep 60\n")
    back:wait_state(function(state) return state.messages == 2 end)
    back:kill()
    back:forget()
    local line = c:receive_line()
    assert.truthy(line == "error: closed" or line == "error: reset", line)
    c:send("echo b\n")
    assert.equal("error: refused", c:receive_line())
    server.run("scripts/rpc_server.lua", nil, { listen = back.url })
    c:send("echo c\n")
    assert.equal("c", c:receive_line())
  end)

  it("answers what is under way when it is reloaded, and when it stops", function()
    local s, back = start()
    local c, d = s:connect(), s:connect()
    c:send("sleep 0.6\n")
    back:wait_state(function(state) return state.messages == 1 end)
    s:signal("HUP")
    s:wait_log("rpc_client@2")
    d:send("echo new\n")
    assert.equal("new", d:receive_line())
    assert.equal("0.6", c:receive_line())
    back:wait_state(function(state) return state.connections == 1 end) -- the other one went with its generation
    c:send("sleep 0.5\n")
    back:wait_state(function(state) return state.messages == 3 end)
    s:stop()
    assert.equal("0.5", c:receive_line())
  end)

  it("answers who has closed its side, and lets go who resets, does not read or sends too long a line", function()
    local back = server.run("scripts/rpc_server.lua")
    local s = server.start("scripts/rpc_client.lua",
      { options = { server = back.url, max = 20000 }, timeouts = { write = 0.5 }, allow_errors = true })
    local half, gone, long = s:connect(), s:connect(), s:connect()
    gone:send("sleep 0.2\n")
    half:send("sleep 0.3\necho now\n")
    half:shutdown_write()
    gone:reset()
    assert.equal("0.3", half:receive_line())
    assert.equal("now", half:receive_line())
    assert.same({ "", "closed" }, { half:receive_all() })
    long:send(("x"):rep(20010))
    assert.equal("", (long:receive_all()))
    s:wait_log "too large"
    local lazy = s:connect { receive_buffer = 4096 }
    local many = ("echo " .. ("x"):rep(10000) .. "\n"):rep(100)
    for _ = 1, 100 do
      if not pcall(lazy.send, lazy, many, 0.2) then break end
    end
    s:wait_state(function(state) return state.connections == 1 end) -- that to the server of calls
    assert.is_true(s:rss() < 64 * 2 ^ 20 or net.has_sanitized_servers)
    local c = s:connect()
    c:send("echo on\n")
    assert.equal("on", c:receive_line())
  end)
end)
