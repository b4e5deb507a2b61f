-- Code of the console that was parked when its Lua state was replaced was never answered: its client waited until its time was over, and
-- the request was never freed. Errors of the state before were not counted any more.

local control = require "spec.support.control"
local server = require "spec.support.server"
local net = server.net

local SCRIPT = [[

local lines = 0
return function(conn)
  conn:read_line()
  lines = lines + 1
  if lines == 1 then error("as asked") end
  require("rille.state").inbox = nil
end
]]

describe("the console of a Lua state that is replaced", function()
  after_each(server.cleanup)

  it("is answered when the state ends", function()
    local s = control.start(SCRIPT, { allow_errors = true, allow_failures = true })
    s:connect():send("x\n"):receive_all()
    assert.equal(1, control.wait_status(s, function(status) return status.total.errors == 1 end).total.errors)
    local waiting = server.client.connect("unix://" .. s.socket)
    local code = "print('begun') require('rille').sleep(100)"
    waiting:send(("eval loop=1 timeout=100000 size=%d\n%s"):format(#code, code))
    control.wait_status(s, function(status) return status.loops[1].watches > 0 end)
    local before = net.now()
    s:connect():send("x\n")
    assert.matches('^{"ok":false,"script":"[^"]+","text":"the Lua state has ended"}\n$', waiting:receive_all(20))
    assert.is_true(net.now() - before < 20)
    s:wait_log("a new Lua state serves")
    local status = control.status(s)
    assert.equal(1, status.total.replaced)
    assert.equal(1, status.total.errors)
    assert.equal(1, status.loops[1].failures)
    assert.matches('\nrille_loop_replaced_total{loop="1"} 1\n', control.ask(s, "metrics\n"))
  end)
end)
