-- What the first rille.run of a program left reached into the second: the finalizer of a connection closed one of the next
-- run that had the same id, and tables of connections that had not come to their end served for others in their slots.

local inside = require "spec.support.inside"

local ONCE = [[
  local function once(body)
    local failure
    assert(rille.run { log = { level = "warn" }, servers = { { listen = "tcp://127.0.0.1:0", script = {
      on_request = function() end,
      on_start = function()
        rille.spawn(function()
          local ok, err = pcall(body)
          if not ok and err ~= rille.cancelled then failure = err end
          rille.shutdown(0)
        end)
      end,
    } } } })
    if failure then error(failure, 0) end
  end
]]

describe("a second run", function()
  after_each(inside.cleanup)

  it("is not touched by finalizers of the first", function()
    inside.check(ONCE .. [[
      collectgarbage "stop"
      once(function()
        local a, b = rille.pair()
        a:close()
        b:close()
        rille.sleep(0.01)
      end)
      once(function()
        local a, b = rille.pair()
        collectgarbage()
        collectgarbage()
        rille.sleep(0.01)
        equal(a:is_active() and b:is_active(), true)
      end)
    ]], { how = "plain" })
  end)

  it("knows no connection of the first, whose on_close functions have all been called", function()
    inside.check(ONCE .. [[
      local kept, called = {}, 0
      once(function()
        for i = 1, 5 do
          kept[i] = rille.pair()
          kept[i].ctx = "old"
          for _ = 1, 10 do
            kept[i]:on_close(function()
              called = called + 1
              rille.sleep(0.01)
            end)
          end
        end
      end)
      equal(called, 50)
      for i = 1, 5 do equal(kept[i]:is_active(), false) end
      once(function()
        local a, b = rille.pair()
        equal(a.ctx, nil)
        a:write "x"
        equal(b:read_string(1), "x")
      end)
    ]], { how = "plain" })
  end)
end)
