-- At a shutdown, connections whose request was still in the kernel were taken for idle and closed without an answer.

local server = require "spec.support.server"

describe("a shutdown", function()
  after_each(server.cleanup)

  it("answers requests of connections that it has just accepted", function()
    local s = server.start([[
      return function(conn) conn:write("answer to " .. conn:read_line() .. "\n") end
    ]])
    s:signal("STOP")
    local clients = {}
    for i = 1, 150 do
      clients[i] = s:connect()
      clients[i]:send(i .. "\n")
    end
    s:signal("TERM")
    s:signal("CONT")
    for i = 1, 150 do assert.equal("answer to " .. i .. "\n", (clients[i]:receive_all())) end
    assert.equal(0, s:wait_exit())
    s:forget()
    s:check_end()
  end)

  -- Loop 1 is held up while connections come, then accepts and hands every other one to loop 2, which stops already: it is held up in
  -- on_shutdown until loop 1 gets there, and so long that the look for idle connections is due in the turn that takes them from the mail.
  it("answers requests of connections that were handed to a loop that stops", function()
    local gates = server.folder() .. "/gate"
    local s = server.start([[
      local GATES = (...).gates

      local function hold(name, least)
        local started = rille.time()
        local gate
        repeat
          gate = gate or io.open(GATES .. name)
        until gate and rille.time() - started >= (least or 0) or rille.time() - started > 20
        if gate then gate:close() end
      end

      local function open(name)
        io.open(GATES .. name, "w"):close()
      end

      return {
        on_start = function()
          rille.on_shutdown(function()
            say("stops %d", rille.loop.id)
            if rille.loop.id == 2 then hold("2", 0.1) else open("2") end
          end)
        end,
        on_request = function(conn)
          local line = conn:read_line()
          conn:write(rille.loop.id .. " " .. line .. "\n")
          conn:flush()
          if line == "hold" and rille.loop.id == 1 then say("held") hold("1") end
        end,
      }
    ]], { conf = { loops = 2 }, server = { accept = "balanced", options = { gates = gates } } })
    local first, second = s:connect(), s:connect()
    for _, c in ipairs { first, second } do assert.matches("^[12] here", c:send("here\n"):receive_line()) end
    for _, c in ipairs { first, second } do c:send("hold\n") end
    local answers = { first:receive_line(), second:receive_line() }
    table.sort(answers)
    assert.same({ "1 hold", "2 hold" }, answers)
    s:wait_said(1)
    local clients = {}
    for i = 1, 8 do
      clients[i] = s:connect()
      clients[i]:send(i .. "\n")
    end
    s:signal("TERM")
    assert.equal("stops 2", s:wait_said(2)[2])
    server.write("gate1", "")
    for i = 1, 8 do
      local _, text = (clients[i]:receive_all()):match("^(%d) (%d)\n$") -- a loop that stops already is handed none
      assert.equal(tostring(i), text, "connection " .. i)
    end
    assert.equal(0, s:wait_exit())
    s:forget()
    s:check_end()
  end)
end)
