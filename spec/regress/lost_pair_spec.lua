-- A fiber in the pool kept the connection that it had parked on last: a connection that nobody held any more was not collected.

local inside = require "spec.support.inside"

describe("a connection that is lost", function()
  after_each(inside.cleanup)

  it("is closed although a task has parked on it", function()
    inside.check([[
      do
        local done = 0
        for _ = 1, 5 do
          rille.after(0, function() -- in a pooled fiber
            local a, b = rille.pair()
            rille.after(0.01, function() a:write "x" end)
            b:read(1)
            done = done + 1
          end)
        end
        while done < 5 do rille.sleep(0.01) end
      end
      for _ = 1, 100 do
        collectgarbage()
        if rille.loop.stats().connections == 0 then break end
        rille.sleep(0.01)
      end
      equal(rille.loop.stats().connections, 0)
    ]])
  end)
end)
