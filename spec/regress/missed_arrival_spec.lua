-- Bytes that came while on_request was parked somewhere else were not reported when it returned without consuming: it was called again
-- only when still more came.

local server = require "spec.support.server"

describe("a handler that consumes nothing", function()
  after_each(server.cleanup)

  it("is called again for what came while it ran", function()
    local s = server.start([[
      return function(conn)
        if conn:len() >= 10 then return conn:write(conn:next(10)) end
        say("%d", conn:len())
        rille.sleep(0.05)
      end
    ]])
    local c = s:connect()
    c:send("12345")
    s:wait_said(1)
    c:send("67890")
    assert.equal("1234567890", c:receive(10))
    assert.equal(1, #s:said())
  end)
end)
