-- An error value whose __tostring raises broke the dispatcher, and left the connection open for ever.

local server = require "spec.support.server"

describe("an error that cannot be shown", function()
  after_each(server.cleanup)

  it("ends its connection like any other", function()
    local s = server.start([[
      local odd = {
        setmetatable({}, { __tostring = function() error("no") end }),
        setmetatable({}, { __tostring = function() return {} end }),
      }
      local i = 0
      return function()
        i = i + 1
        error(odd[i])
      end
    ]], { allow_errors = true })
    for i = 1, 2 do
      local c = s:connect()
      c:send("x")
      assert.equal("", (c:receive_all()))
      assert.equal(i, s:count_log("level=error[^\n]*stack traceback"))
    end
  end)
end)
