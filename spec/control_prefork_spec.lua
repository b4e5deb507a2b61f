-- The control sockets and the metrics of a server of several processes: each is asked for itself, a stop is of all.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local server = require "spec.support.server"

local SCRIPT = "\nreturn function(conn) conn:read_line() conn:write('parked\\n') rille.sleep(60) end\n"

-- Two processes whose sockets are told; and the configuration they have.
local function start(script, conf)
  conf = conf or {}
  conf.processes = 2
  local s = control.start(script or SCRIPT, { conf = conf, allow_errors = true })
  s.sockets = { s.socket .. ".1", s.socket .. ".2" }
  s.conf = json.decode(control.ask({ socket = s.sockets[1] }, "hello\n")).conf
  return s
end

describe("the control sockets of several processes", function()
  after_each(server.cleanup)

  it("are numbered, one for each, and go with them", function()
    local s = start()
    for i = 1, 2 do
      local status = control.status { socket = s.sockets[i] }
      assert.same({ i, 2 }, { status.process, status.processes })
      assert.equal(s.pid, json.decode(control.ask({ socket = s.sockets[i] }, "hello\n")).server)
      assert.matches(("\nrille_process %d\n"):format(i), control.ask({ socket = s.sockets[i] }, "metrics\n"))
    end
    s:stop()
    for i = 1, 2 do assert.is_nil(io.open(s.sockets[i])) end
    assert.equal("", io.popen("ls " .. s.socket .. "* 2>/dev/null"):read("*a"))
  end)

  it("are found by the configuration: one has to be chosen, but to stop all", function()
    local s = start()
    local code, _, err = control.rille { "status", "--conf", s.conf }
    assert.equal(1, code)
    assert.equal(("rille: 2 processes answer: choose one with --control: %s, %s\n"):format(s.sockets[1], s.sockets[2]), err)
    local out
    code, out = control.rille { "stop", "--conf", s.conf }
    assert.same({ 0, ("stopping pid %d\n"):format(s.pid) }, { code, out })
    assert.equal(0, s:wait_exit(10))
    s:forget()
  end)

  it("are found by the parent's pid where nobody says where they are", function()
    local s = server.start(SCRIPT, { conf = { processes = 2 }, allow_errors = true })
    local code, _, err = control.rille { "status", "--pid", tostring(s.pid) }
    assert.equal(1, code)
    local pid = err:match("^rille: 2 processes answer: choose one with %-%-pid: (%d+), %d+\n$")
    local out
    code, out = control.rille { "status", "--json", "--pid", assert(pid) }
    assert.same({ 0, tonumber(pid) }, { code, json.decode(out).pid })
    assert.equal(0, (control.rille { "stop", "--pid", tostring(s.pid) }))
    assert.equal(0, s:wait_exit(10))
    s:forget()
  end)

  it("stop all at once, whichever process is asked", function()
    local s = start()
    local clients = {}
    for i = 1, 16 do clients[i] = s:connect():send("x\n") end
    for i = 1, 16 do assert.equal("parked", clients[i]:receive_line()) end
    assert.equal(0, (control.rille { "stop", "--now", "--control", s.sockets[2] }))
    assert.equal(0, s:wait_exit(10)) -- a drain lasts longer
    s:forget()
  end)
end)

describe("metrics.listen of several processes", function()
  after_each(server.cleanup)

  it("is one address, and each answer says whose it is", function()
    local s = start("\nreturn function(conn) conn:release() end\n", { metrics = { listen = "http://127.0.0.1:0" } })
    s:wait_listening(2)
    local number = control.get(s.urls[2], "/metrics"):match("\nrille_process (%d)\n")
    assert.is_true(number == "1" or number == "2")
  end)
end)
