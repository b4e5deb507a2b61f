-- close() with input of the peer still unread gave the input away under a handler that runs on, and its slices expired.

local server = require "spec.support.server"

describe("slices of a handler that has closed", function()
  after_each(server.cleanup)

  it("stay valid until it returns, unread input or not", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line()
        conn:write "bye"
        conn:close()
        rille.sleep(0.05)
        say(line:str())
      end
    ]])
    local c = s:connect()
    c:send("two\n" .. ("z"):rep(1000000))
    assert.equal("bye", (c:receive_all()))
    assert.same({ "two" }, s:wait_said(1))
  end)
end)
