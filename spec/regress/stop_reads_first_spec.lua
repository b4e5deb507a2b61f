-- At a shutdown, connections whose request was still in the kernel were taken for idle and closed without an answer.

local server = require "spec.support.server"

describe("a shutdown", function()
  after_each(server.cleanup)

  it("answers requests of connections that it has just accepted", function()
    local s = server.start([[
      return function(conn) conn:write("answer to " .. conn:read_line() .. "\n") end
    ]])
    s:signal("STOP")
    local clients = {}
    for i = 1, 150 do
      clients[i] = s:connect()
      clients[i]:send(i .. "\n")
    end
    s:signal("TERM")
    s:signal("CONT")
    for i = 1, 150 do assert.equal("answer to " .. i .. "\n", (clients[i]:receive_all())) end
    assert.equal(0, s:wait_exit())
    s:forget()
    s:check_end()
  end)
end)
