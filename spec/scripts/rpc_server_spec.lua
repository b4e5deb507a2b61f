-- scripts/rpc_server.lua, as a user runs it.

local server = require "spec.support.server"
local net = server.net

local function u32(n)
  return string.char(math.floor(n / 2 ^ 24) % 256, math.floor(n / 2 ^ 16) % 256, math.floor(n / 2 ^ 8) % 256, n % 256)
end

local function call(id, text)
  return u32(4 + #text) .. u32(id) .. text
end

local function number(bytes)
  local a, b, c, d = bytes:byte(1, 4)
  return ((a * 256 + b) * 256 + c) * 256 + d
end

-- The id, status and result of the next answer.
local function answer(c)
  local frame = c:receive(number(c:receive(4)))
  return number(frame), frame:byte(5), frame:sub(6)
end

describe("scripts/rpc_server.lua", function()
  after_each(server.cleanup)

  it("answers calls with their ids, and says what is wrong with others", function()
    local c = server.run("scripts/rpc_server.lua"):connect()
    for id, one in ipairs {
      { "echo hello", 0, "hello" }, { "echo ", 0, "" }, { "echo", 0, "" }, { "upper a b", 0, "A B" }, { "sum 1 2.5 3", 0, "6.5" },
      { "sleep 0", 0, "0" }, { "none x", 1, "no procedure none" }, { "sum 1 x", 1, "x is no number" }, { "", 1, "no procedure " },
      { "sleep -1", 1, "sleep takes seconds" },
    } do
      c:send(call(id, one[1]))
      assert.same({ id, one[2], one[3] }, { answer(c) })
    end
  end)

  it("answers in the order in which calls are done", function()
    local c = server.run("scripts/rpc_server.lua"):connect()
    c:send(call(1, "sleep 0.4") .. call(2, "sleep 0.2") .. call(0, "echo nobody") .. call(3, "echo now"))
    for _, id in ipairs { 3, 2, 1 } do assert.equal(id, (answer(c))) end
  end)

  it("has a thousand calls of a connection under way", function()
    local c = server.run("scripts/rpc_server.lua"):connect()
    local calls, seen = {}, {}
    for id = 1, 1000 do calls[id] = call(id, "sleep 0.2") end
    local started = net.now()
    c:send(table.concat(calls))
    for _ = 1, 1000 do
      local id, status = answer(c)
      assert.equal(0, status)
      assert.is_nil(seen[id])
      seen[id] = true
    end
    assert.is_true(net.now() - started < 5 * net.slow)
  end)

  it("runs no more than options.concurrency at a time", function()
    local c = server.run("scripts/rpc_server.lua", { "concurrency=2" }):connect()
    c:send(call(1, "sleep 0.3") .. call(2, "sleep 0.1") .. call(3, "echo x"))
    for _, id in ipairs { 2, 3, 1 } do assert.equal(id, (answer(c))) end
  end)

  it("ends connections that speak something else, and those that leave in the middle", function()
    local s = server.run("scripts/rpc_server.lua", { "max=100" }, { allow_errors = true })
    local c = s:connect()
    c:send(u32(2) .. "xx")
    c:receive_all()
    c = s:connect()
    c:send(u32(101))
    assert.equal("", (c:receive_all()))
    c = s:connect()
    c:send(call(1, "echo x"):sub(1, 9))
    c:shutdown_write()
    assert.equal("", (c:receive_all()))
    c = s:connect()
    c:send_slowly(call(1, "echo slow"))
    assert.same({ 1, 0, "slow" }, { answer(c) })
    c:send(call(2, "sleep 0.2"))
    c:reset()
    c = s:connect()
    c:send(call(3, "echo on"))
    assert.same({ 3, 0, "on" }, { answer(c) })
  end)

  it("answers who has closed its side, and lets go who does not read", function()
    local s = server.start("scripts/rpc_server.lua", { timeouts = { write = 0.5 }, allow_errors = true })
    local half = s:connect()
    half:send(call(1, "sleep 0.3") .. call(2, "echo now"))
    half:shutdown_write()
    assert.same({ 2, 0, "now" }, { answer(half) })
    assert.same({ 1, 0, "0.3" }, { answer(half) })
    assert.same({ "", "closed" }, { half:receive_all() })
    -- it is answered until nothing more goes out, then nothing more is read, and then it is gone
    local lazy = s:connect { receive_buffer = 4096 }
    local many = call(1, "echo " .. ("x"):rep(10000)):rep(100)
    for _ = 1, 100 do
      if not pcall(lazy.send, lazy, many, 0.2) then break end
    end
    s:wait_empty()
    assert.is_true(s:rss() < 64 * 2 ^ 20 or net.has_sanitized_servers)
  end)
end)
