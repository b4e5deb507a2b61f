-- Unread input made the end of a connection call on_request once more; if that call parked, it came back to a connection that was
-- gone, and broke the dispatcher.

local server = require "spec.support.server"

describe("a connection that ends with unread input", function()
  after_each(server.cleanup)

  it("does not call on_request again", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          say("request")
          rille.sleep(0.01)
          say("slept")
        end,
        on_close = function(conn, err)
          conn:on_request(function() say("late request") end)
          say("close %s", err)
        end,
      }
    ]])
    local c = s:connect()
    c:send("unread")
    s:wait_said(2)
    c:close()
    s:wait_log("said close")
    s:stop()
    assert.same({ "request", "slept", "close closed" }, s:said())
  end)
end)
