-- read_line(max) took a line of max + 1 bytes out of the input before it refused it.

local server = require "spec.support.server"

describe("a line one byte too long", function()
  after_each(server.cleanup)

  it("is refused and stays in the input", function()
    local s = server.start([[
      return function(conn)
        local line, err, partial = conn:read_line(4)
        conn:write(("%s %s %s %s"):format(line, err, conn:len(), partial and partial:len()))
        conn:read_string(conn:len())
      end
    ]])
    local c = s:connect()
    for _, case in ipairs {
      { "1234\n", "1234 nil 0 nil" }, { "1234\r\n", "1234 nil 0 nil" }, { "12345\n", "nil too large 6 6" },
      { "12345\r\n", "nil too large 7 7" }, { "1234\r5\n", "nil too large 7 7" },
    } do
      c:send(case[1])
      assert.equal(case[2], c:receive(#case[2]))
    end
  end)
end)
