-- A write that took the output above high_water parked without telling the core, so nobody ever woke it.

local server = require "spec.support.server"

describe("a write above high_water", function()
  after_each(server.cleanup)

  it("goes on when the output has been sent", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        for _ = 1, 50 do conn:write(("x"):rep(10000)) end
        conn:write("end\n")
      end
    ]], { limits = { high_water = 5000 } })
    local c = s:connect()
    c:send("x")
    assert.equal(500004, #c:receive(500004))
  end)
end)
