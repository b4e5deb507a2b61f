-- What a task of the script's own left unread on a connection with on_request was given to nobody, and lost at the peer's end.

local server = require "spec.support.server"

describe("input that a task has left", function()
  after_each(server.cleanup)

  it("is handed to on_request", function()
    local s = server.start([[
      return {
        on_connect = function(conn)
          rille.spawn(function() say("task %s", conn:next(3):str()) end)
        end,
        on_request = function(conn) say("request %s", conn:next(conn:len()):str()) end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]])
    local c = s:connect()
    s:wait_state(function(state) return state.connections == 1 end)
    c:send("abcdef")
    assert.same({ "task abc", "request def" }, s:wait_said(2))
    c:close()
    assert.equal("close nil", s:wait_said(3)[3])
  end)
end)
