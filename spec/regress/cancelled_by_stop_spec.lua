-- A handler that a stop had cancelled counted as one that failed: on_close was told "error".

local server = require "spec.support.server"

describe("a handler that the end of the drain cancels", function()
  after_each(server.cleanup)

  it("ends its connection with `shutdown`", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(1)
          say "begun"
          rille.sleep(100)
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { conf = { drain_timeout = 0.1 } })
    local c = s:connect()
    c:send("x")
    s:wait_said(1)
    s:signal("TERM")
    assert.same({ "begun", "close shutdown" }, s:wait_said(2))
    c:close()
    assert.equal(0, s:wait_exit())
    s:forget()
  end)
end)
