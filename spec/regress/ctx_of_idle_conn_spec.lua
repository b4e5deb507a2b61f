-- A connection that was silent for a whole generation lost what its script kept of it: going on, it packed what the state in between had
-- never looked at.

local control = require "spec.support.control"
local server = require "spec.support.server"

describe("a connection that is idle through two reloads", function()
  after_each(server.cleanup)

  it("keeps its ctx", function()
    local s = control.start([[
return function(conn)
  local line = conn:read_line()
  conn.ctx = conn.ctx or line:str()
  conn:send(conn.ctx .. "\n")
end
]], { conf = { reload = { watch = false } } })
    local c = s:connect()
    c:send "first\n"
    assert.equal("first\n", c:receive(6))
    for i = 1, 3 do
      assert.equal(0, (control.rille { "reload", "--control", s.socket }))
      s:wait_log(("script@%d: retired"):format(i))
    end
    c:send "second\n"
    assert.equal("first\n", c:receive(6))
  end)
end)
