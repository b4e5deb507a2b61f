-- A connection that the collector closed while the loop was about to sleep stayed open until something else woke the loop.

local server = require "spec.support.server"

describe("a connection that nobody holds", function()
  after_each(server.cleanup)

  it("is closed although nothing else happens", function()
    local s = server.start([[
      return function(conn)
        conn:skip(1)
        local _, b = rille.pair()
        rille.spawn(function()
          conn:write(("%s\n"):format(select(2, b:read(1))))
          b:close()
        end)
      end
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal("closed", c:receive_line())
  end)
end)
