-- A task that was parked in a write when the write timeout closed its connection was never woken.

local server = require "spec.support.server"

describe("the write timeout", function()
  after_each(server.cleanup)

  it("wakes every task that is parked writing", function()
    local s = server.start([[
      local function fill(conn)
        local ok, err
        repeat ok, err = conn:write(("x"):rep(100000)) until not ok
        say("%s", err)
      end
      return function(conn)
        conn:skip(1)
        rille.spawn(fill, conn)
        rille.spawn(function()
          local ok, err
          repeat ok, err = conn:send(("y"):rep(100000)) until not ok
          say("send %s", err)
        end)
        fill(conn)
      end
    ]], { timeouts = { write = 0.05 } })
    local c = s:connect { receive_buffer = 4096 }
    c:send("x")
    local said = s:wait_said(3)
    table.sort(said)
    assert.same({ "send timeout", "timeout", "timeout" }, said)
    s:wait_state(function(state) return state.connections == 0 end)
  end)
end)
