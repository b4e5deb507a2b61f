-- scripts/udp_echo.lua, as a user runs it.

local server = require "spec.support.server"
local udp = require "spec.support.udp"
local net = server.net

describe("scripts/udp_echo.lua", function()
  after_each(function()
    udp.close_all()
    server.cleanup()
  end)

  for _, loops in ipairs { "1", "2" } do
    it("sends back what it gets, with " .. loops .. " loops", function()
      local s = server.run("scripts/udp_echo.lua", nil, { listen = "udp://127.0.0.1:0", words = { "--loops", loops } })
      for i = 1, 10 do
        local c = udp.connect(s.url)
        for _, size in ipairs { 0, 1, 1000, 9000, 65507 } do
          local bytes = net.noise(size, i)
          assert.is_true(c:ask(bytes) == bytes)
        end
      end
    end)
  end
end)
