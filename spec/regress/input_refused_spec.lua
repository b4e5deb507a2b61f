-- A connection whose on_request took nothing of max_input bytes was neither read nor called again, and did not notice its
-- peer's end.

local server = require "spec.support.server"

describe("input up to max_input that on_request does not take", function()
  after_each(server.cleanup)

  it("ends the connection with `too large`", function()
    local s = server.start([[
      return {
        on_request = function(conn) say("%d", conn:len()) end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { limits = { max_input = 1000 } })
    local c = s:connect()
    c:send(("x"):rep(5000))
    local text, how = c:receive_all()
    assert.same({ "", "closed" }, { text, how })
    c:close()
    s:wait_log("said close")
    local said = s:said()
    assert.equal("1000", said[#said - 1])
    assert.equal("close too large", said[#said])
  end)
end)
