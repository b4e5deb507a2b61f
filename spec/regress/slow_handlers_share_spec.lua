-- The clock was first looked at after 32 messages of a connection, so slow handlers overran its share of a turn many times.

local server = require "spec.support.server"
local net = server.net

describe("a connection with slow handlers", function()
  after_each(server.cleanup)

  it("lets others in between after a few of its messages", function()
    local s = server.start([[
      local C = require "rille.core"
      local since, most = 0, 0
      return function(conn)
        if conn:read_line() == "ping" then
          if since > most then most = since end
          since = 0
          return conn:write(most .. "\n")
        end
        since = since + 1
        local stop = C.rille_now() + 0.003
        repeat until C.rille_now() >= stop
      end
    ]], { conf = { drain_timeout = 0.05 } })
    local flood, c = s:connect(), s:connect()
    flood:send(("x\n"):rep(300))
    s:wait_state(function(state) return state.messages > 0 end)
    local waits = {}
    for i = 1, 5 do
      local started = net.now()
      c:send("ping\n")
      c:receive_line()
      waits[i] = net.now() - started
    end
    table.sort(waits)
    assert.is_true(waits[3] < 0.03 * net.slow, ("median %.1f ms"):format(waits[3] * 1e3))
    flood:reset()
  end)
end)
