-- A body that is too large, too slow or broken is answered by the server. A handler that then answered "400" itself, as one does,
-- raised "sent already", and any client could fill the log with tracebacks.

local server = require "spec.support.server"
local http = require "spec.support.http"

describe("a handler whose request was refused while it read the body", function()
  after_each(server.cleanup)

  -- The server's cleanup fails the spec when an error was logged.
  it("may answer in vain", function()
    local s = http.start([[
      return function(req, res)
        local body, err = req:body()
        say("%s", err)
        res.status = 400
        local set, set_err = res:header("X-Problem", err)
        local sent, send_err = res:send(err)
        say("%s %s %s %s", tostring(set), set_err, tostring(sent), send_err)
        say("%s %s", tostring(res:write("x")), select(2, res:json { error = err }))
        say("%s %s", tostring(res:file("/dev/null")), select(2, res:upgrade("x")))
      end
    ]], { limits = { body = 10 }, timeouts = { body = 0.1 } })
    local function ask(head, body)
      local c = s:connect()
      c:send("POST / HTTP/1.1\r\nHost: test\r\n" .. head .. "\r\n\r\n" .. body)
      return http.answer(c, "POST").status
    end
    assert.equal(413, ask("Transfer-Encoding: chunked", "20\r\n" .. ("x"):rep(32)))
    assert.equal(408, ask("Content-Length: 5", "x"))
    assert.equal(400, ask("Transfer-Encoding: chunked", "x\r\n"))
    local said = s:wait_said(12)
    for i, err in ipairs { "too large", "timeout", "invalid argument" } do
      assert.same({ err, "true nil nil closed", "nil closed", "nil closed" }, { unpack(said, 4 * i - 3, 4 * i) })
    end
  end)

  it("still hears of its own mistake otherwise", function()
    local s = http.start([[
      return function(req, res)
        res:send("x")
        local _, message = pcall(res.send, res, "y")
        say("%s", message)
      end
    ]])
    http.once(s, http.get "/")
    assert.truthy(s:wait_said(1)[1]:find("sent already", 1, true))
  end)
end)
