-- scripts/line_upper.lua, as a user runs it.

local server = require "spec.support.server"

describe("scripts/line_upper.lua", function()
  after_each(server.cleanup)

  it("answers each line in capitals", function()
    local s = server.run "scripts/line_upper.lua"
    local c = s:connect()
    c:send("hello\nworld\r\n\n")
    assert.equal("HELLO", c:receive_line())
    assert.equal("WORLD", c:receive_line())
    assert.equal("", c:receive_line())
    c:send_slowly("a slow line\n")
    assert.equal("A SLOW LINE", c:receive_line())
  end)

  it("ends at quit, after what was asked before", function()
    local s = server.run "scripts/line_upper.lua"
    local c = s:connect()
    c:send("one\nquit\nnever read\n")
    assert.same({ "ONE\nbye\n", "closed" }, { c:receive_all() })
  end)

  it("refuses a line that is too long, with its answer intact", function()
    local s = server.run("scripts/line_upper.lua", { "max=20" })
    local c = s:connect()
    c:send(("x"):rep(20) .. "\n")
    assert.equal(("X"):rep(20), c:receive_line())
    c:send(("x"):rep(21) .. "\n")
    assert.same({ "line too long\n", "closed" }, { c:receive_all() })
    c = s:connect()
    c:send(("x"):rep(500000)) -- without an end
    assert.same({ "line too long\n", "closed" }, { c:receive_all() })
    c = s:connect()
    c:send("fine\n")
    assert.equal("FINE", c:receive_line())
  end)

  it("lets a client go that leaves in the middle of a line", function()
    local s = server.run "scripts/line_upper.lua"
    local c = s:connect()
    c:send("half a li")
    c:shutdown_write()
    assert.same({ "", "closed" }, { c:receive_all() })
    s:connect():reset()
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  it("answers ten thousand lines in a row", function()
    local s = server.run "scripts/line_upper.lua"
    local c = s:connect()
    local lines = {}
    for i = 1, 10000 do lines[i] = "line number " .. i .. "\n" end
    local text = table.concat(lines)
    assert.is_true(c:exchange(text) == text:upper())
  end)
end)
