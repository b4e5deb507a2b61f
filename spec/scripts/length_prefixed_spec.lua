-- scripts/length_prefixed.lua, as a user runs it.

local server = require "spec.support.server"
local net = server.net

local function u32(n)
  return string.char(math.floor(n / 2 ^ 24) % 256, math.floor(n / 2 ^ 16) % 256, math.floor(n / 2 ^ 8) % 256, n % 256)
end

local function frame(bytes)
  return u32(#bytes) .. bytes
end

local function varint(n)
  local out = ""
  while n >= 128 do
    out = out .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return out .. string.char(n)
end

-- The answer to the count-th frame.
local function answer(bytes, count)
  local sum = 0
  for i = 1, #bytes do sum = (sum + bytes:byte(i)) % 65536 end
  return frame("\1" .. string.char(math.floor(sum / 256), sum % 256) .. varint(count) .. bytes)
end

describe("scripts/length_prefixed.lua", function()
  after_each(server.cleanup)

  it("answers each frame with version, sum, count and its bytes", function()
    local s = server.run "scripts/length_prefixed.lua"
    local c = s:connect()
    for count, bytes in ipairs { "hello", "", ("\255"):rep(1000), "x" } do
      c:send(frame(bytes))
      local expected = answer(bytes, count)
      assert.equal(expected, c:receive(#expected))
    end
  end)

  it("takes frames a byte at a time and many at once", function()
    local s = server.run "scripts/length_prefixed.lua"
    local c = s:connect()
    c:send_slowly(frame("slow"))
    assert.equal(answer("slow", 1), c:receive(#answer("slow", 1)))
    local sent, expected = {}, {}
    for i = 2, 300 do
      local bytes = net.noise(i * 7, i)
      sent[#sent + 1] = frame(bytes)
      expected[#expected + 1] = answer(bytes, i)
    end
    expected = table.concat(expected)
    assert.is_true(c:exchange(table.concat(sent), #expected) == expected)
  end)

  it("counts for each connection by itself", function()
    local s = server.run "scripts/length_prefixed.lua"
    local c, d = s:connect(), s:connect()
    for count = 1, 3 do
      for _, client in ipairs { c, d } do
        client:send(frame("x"))
        assert.equal(answer("x", count), client:receive(#answer("x", count)))
      end
    end
  end)

  it("resets a client whose frame is larger than options.max, without reading it", function()
    local s = server.run("scripts/length_prefixed.lua", { "max=100" })
    local c = s:connect()
    c:send(frame(("x"):rep(100)))
    assert.equal(#answer(("x"):rep(100), 1), #c:receive(#answer(("x"):rep(100), 1)))
    c:send(u32(101))
    assert.equal("reset", select(2, c:receive_all()))
    c = s:connect()
    c:send(u32(2 ^ 32 - 1))
    assert.equal("reset", select(2, c:receive_all()))
  end)

  it("lets clients go that leave in the middle of a head or a frame", function()
    local s = server.run "scripts/length_prefixed.lua"
    for _, part in ipairs { "\0", "\0\0\0", u32(10), u32(10) .. "12345" } do
      local c = s:connect()
      c:send(part)
      c:shutdown_write()
      assert.same({ "", "closed" }, { c:receive_all() })
    end
    s:wait_state(function(state) return state.connections == 0 end)
  end)
end)
