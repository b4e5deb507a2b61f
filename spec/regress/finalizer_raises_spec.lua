-- A finalizer that raised ended the process: the collector's steps ran outside any protected call.

local server = require "spec.support.server"

describe("a finalizer that raises", function()
  after_each(server.cleanup)

  it("is logged, and the server goes on", function()
    local s = server.start([[
      local function drop()
        local object = newproxy(true)
        getmetatable(object).__gc = function() error("finalizer") end
      end
      drop()
      return function(conn)
        conn:skip(conn:len())
        drop()
        conn:write "x"
      end
    ]], { allow_errors = true })
    assert.equal("x", s:connect():exchange("a", 1))
    s:wait_log("a finalizer failed")
    assert.equal("x", s:connect():exchange("a", 1))
  end)
end)
