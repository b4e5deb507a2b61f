-- The linger timeout began at the turn's clock, so the time that a handler computed before it closed was taken from it and its
-- output was cut off.

local server = require "spec.support.server"

describe("close() after long work", function()
  after_each(server.cleanup)

  it("has the whole linger timeout to send the output", function()
    local s = server.start([[
      return {
        on_request = function(conn)
          conn:skip(conn:len())
          local started = rille.time()
          while rille.time() - started < 0.6 do end
          conn.high_water = 1e8
          conn:write(("x"):rep(8000000))
          conn:close()
          say "closed"
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { timeouts = { linger = 0.5 * server.net.slow } })
    local c = s:connect { receive_buffer = 16384 }
    c:send("x")
    s:wait_log("said closed", 10)
    assert.equal(8000000, #c:receive_all(10))
    assert.equal("close nil", s:wait_said(2)[2])
  end)
end)
