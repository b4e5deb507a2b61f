-- scripts/tcp_proxy.lua, as a user runs it.

local server = require "spec.support.server"
local net = server.net

describe("scripts/tcp_proxy.lua", function()
  after_each(server.cleanup)

  it("carries bytes there and back, and the end of each side", function()
    local back = server.run "scripts/echo.lua"
    local s = server.run("scripts/tcp_proxy.lua", { "to=" .. back.url })
    local c = s:connect()
    local bytes = net.noise(1000000)
    assert.is_true(c:exchange(bytes) == bytes)
    c:send "last words"
    c:shutdown_write()
    assert.same({ "last words", "closed" }, { c:receive_all() })
    s:wait_empty()
    back:wait_empty()
  end)

  it("lets a server speak first", function()
    local back = server.start [[
      return { on_connect = function(conn) conn:send "welcome\n" end, on_request = function(conn) conn:skip(conn:len()) end }
    ]]
    local s = server.run("scripts/tcp_proxy.lua", { "to=" .. back.url })
    assert.equal("welcome", s:connect():receive_line())
  end)

  it("turns clients away when nobody is there", function()
    local back = server.run "scripts/echo.lua"
    local url = back.url
    back:stop()
    local s = server.run("scripts/tcp_proxy.lua", { "to=" .. url })
    assert.equal("", (s:connect():receive_all()))
    s:wait_log "refused"
  end)
end)
