-- A listener that waits (max_connections, no descriptors) was looked at only before the loop slept; a loop with a task that
-- always runs never does.

local server = require "spec.support.server"

describe("a listener that was full", function()
  after_each(server.cleanup)

  it("accepts again in a loop that never sleeps", function()
    local s = server.start([[
      return {
        on_start = function() rille.spawn(function() while true do rille.yield() end end) end,
        on_request = function(conn) conn:write(conn:next(conn:len())) end,
      }
    ]], { limits = { max_connections = 1 } })
    local first, second = s:connect(), s:connect()
    assert.equal("a", first:exchange("a", 1))
    second:send("b")
    second:receives_nothing(0.05)
    first:close()
    assert.equal("b", second:receive(1, 5))
  end)
end)
