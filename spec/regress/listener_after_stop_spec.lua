-- A shutdown freed listeners that the script still held; a program held them beyond its run.

local inside = require "spec.support.inside"

describe("a listener that a script holds", function()
  after_each(inside.cleanup)

  it("can be asked and closed after the shutdown closed it", function()
    inside.check([[
      local l = assert(rille.listen("tcp://127.0.0.1:0", function() end))
      local url = l:address()
      rille.on_shutdown(function()
        rille.sleep(0.05)
        equal(l:address(), url)
        equal(l:close(), true)
        equal(select(2, l:address()), "closed")
      end)
      rille.shutdown(1)
      pcall(rille.sleep, 0.5)
    ]])
  end)

  it("is closed when its run is over", function()
    inside.check([[
      local l
      local conf = { log = { level = "warn" }, servers = { { listen = "tcp://127.0.0.1:0", script = {
        on_request = function() end,
        on_start = function()
          l = assert(rille.listen("tcp://127.0.0.1:0", function() end))
          rille.after(0, function() rille.shutdown(0) end)
        end,
      } } } }
      for _ = 1, 2 do
        local before = l
        assert(rille.run(conf))
        if before then
          equal(select(2, before:address()), "closed")
          equal(before:close(), true)
        end
      end
    ]], { how = "plain" })
  end)
end)
