-- Timers fired up to a millisecond early: the fraction of the current millisecond was cut off.

local server = require "spec.support.server"

describe("a sleep", function()
  after_each(server.cleanup)

  it("never ends before its time", function()
    local s = server.start([[
      local C = require "rille.core"
      return function(conn)
        conn:read_line()
        local early = 0
        for i = 1, 100 do
          local stop = C.rille_now() + i * 7e-5 -- begin at any fraction of a millisecond
          repeat until C.rille_now() >= stop
          local started = C.rille_now()
          rille.sleep(0.002)
          if C.rille_now() - started < 0.002 then early = early + 1 end
        end
        conn:write(early .. "\n")
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.equal("0", c:receive_line())
  end)
end)
