-- scripts/echo.lua, as a user runs it.

local server = require "spec.support.server"
local net = server.net

describe("scripts/echo.lua", function()
  after_each(server.cleanup)

  it("sends back what it gets, whatever the bytes and however they come", function()
    local s = server.run "scripts/echo.lua"
    local c = s:connect()
    c:send("hello\n")
    assert.equal("hello\n", c:receive(6))
    c:send_slowly("one byte at a time \0\255\r\n")
    assert.equal("one byte at a time \0\255\r\n", c:receive(23))
    local bytes = net.noise(1000000)
    assert.is_true(c:exchange(bytes) == bytes)
    c:shutdown_write()
    assert.same({ "", "closed" }, { c:receive_all() })
  end)

  it("answers what was sent before the end", function()
    local s = server.run "scripts/echo.lua"
    local c = s:connect()
    c:send("last words")
    c:shutdown_write()
    assert.equal("last words", (c:receive_all()))
  end)

  it("serves two hundred clients at once over a Unix socket", function()
    local s = server.run("scripts/echo.lua", nil, { listen = "unix://" .. server.folder() .. "/sock" })
    local clients = {}
    for i = 1, 200 do
      clients[i] = s:connect()
      clients[i]:send("client " .. i)
    end
    for i = 200, 1, -1 do assert.equal("client " .. i, clients[i]:receive(#("client " .. i))) end
    for i = 1, 200 do
      if i % 2 == 0 then clients[i]:reset() end
    end
    clients[1]:send("still here")
    assert.equal("still here", clients[1]:receive(10))
  end)
end)
