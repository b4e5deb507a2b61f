-- rille status, conns, stop, console: a server is asked from outside while clients talk to it.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local server = require "spec.support.server"
local net = server.net

local ECHO = [[

return {
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    if line == "raise" then error("as asked") end
    if line == "stall" then
      local until_ = rille.time() + 2.5
      while rille.time() < until_ do end
    end
    conn:write(line, "\n") conn:write("\n")
  end,
}
]]

local HTTP = [[

return function(req, res)
  if req.path == "/raise" then error("as asked") end
  res:send("hello\n")
end
]]

local function two_servers()
  local http = server.write("pages.lua", "local rille = require 'rille' " .. HTTP)
  return control.start(ECHO, {
    name = "echo", allow_errors = true, listen = { "tcp://127.0.0.1:0" },
    conf = { loops = 2, servers = {
      { listen = "tcp://127.0.0.1:0", script = server.script_path(ECHO, "echo"), accept = "balanced" },
      { listen = "http://127.0.0.1:0", script = http, accept = "balanced" },
    } },
  })
end

local function sum(list, key)
  local total = 0
  for _, one in ipairs(list) do total = total + one[key] end
  return total
end

describe("rille status", function()
  after_each(server.cleanup)

  it("agrees with what clients counted, over two loops, TCP and HTTP", function()
    local s = two_servers()
    s:wait_listening(2)
    local sent, received, messages, errors, accepted = 0, 0, 0, 0, 0
    local open = {}
    for i = 1, 6 do
      local c = s:connect(nil, s.urls[1])
      accepted = accepted + 1
      open[i] = c
      for k = 1, 10 do
        local line = ("line %d of %d\n"):format(k, i)
        c:send(line)
        sent = sent + #line
        received = received + #c:receive(#line)
        messages = messages + 1
      end
    end
    for _ = 1, 4 do
      local c = s:connect(nil, s.urls[2])
      accepted = accepted + 1
      local request = "GET /x HTTP/1.1\r\nHost: spec\r\nConnection: close\r\n\r\n"
      c:send(request)
      sent = sent + #request
      received = received + #c:receive_all(10)
      messages = messages + 1
    end
    for _ = 1, 3 do
      local c = s:connect(nil, s.urls[1])
      accepted = accepted + 1
      c:send("raise\n")
      sent = sent + 6
      assert.equal("", c:receive_all(10))
      messages, errors = messages + 1, errors + 1
    end
    local got = control.wait_status(s, function(status) return status.total.connections == #open end)
    assert.same({ connections = #open, accepted = accepted, messages = messages, bytes_in = sent, bytes_out = received,
                  errors = errors, stalls = 0, replaced = 0 }, got.total)
    assert.equal(2, #got.loops)
    for _, key in ipairs { "connections", "accepted", "messages", "bytes_in", "bytes_out", "errors" } do
      assert.equal(got.total[key], sum(got.loops, key), key)
    end
    for _, loop in ipairs(got.loops) do
      assert.is_true(loop.accepted > 0, "balanced: each loop has some")
      assert.is_false(loop.stalled)
      assert.equal(0, loop.age)
      assert.equal(2, #loop.states)
      assert.equal(loop.errors, sum(loop.states, "errors"))
      assert.equal(0, loop.failures)
      assert.is_true(loop.turn_p50 > 0 and loop.turn_p50 <= loop.turn_p99)
      assert.is_true(loop.lua_bytes > 100000)
    end
    local by_address = {}
    for _, l in ipairs(got.listeners) do
      local one = by_address[l.address] or { accepted = 0, connections = 0 }
      by_address[l.address] = one
      one.accepted, one.connections = one.accepted + l.accepted, one.connections + l.connections
    end
    assert.same({ [s.urls[1]] = { accepted = 9, connections = 6 }, [s.urls[2]] = { accepted = 4, connections = 0 } }, by_address)
    assert.equal(s.pid, got.pid)
    assert.equal("serving", got.health)
    assert.equal(errors, got.log.error)
    assert.is_true(got.rss > 1000000 and got.descriptors > 5)
    assert.is_true(math.abs(got.descriptors - s:descriptors()) <= 2)
  end)

  it("tells the longest turn without waits for a processor, with debug.turns", function()
    -- two loops on one processor: each has it for about half of the time that its turn lasts
    local CPU_S = 0.1
    local source = [[
local ffi = require "ffi"
ffi.cdef "typedef struct { long s, ns; } spec_time; int spec_clock(int, spec_time *) __asm__(\"clock_gettime\");"
local time = ffi.new "spec_time"
local function cpu()
  ffi.C.spec_clock(3, time) -- CLOCK_THREAD_CPUTIME_ID
  return tonumber(time.s) + tonumber(time.ns) / 1e9
end
return {
  on_connect = function(conn) conn:write(require("rille").loop.id .. "\n") end,
  on_request = function(conn)
    conn:read_line()
    local stop = cpu() + ]] .. CPU_S .. [[

    while cpu() < stop do end
    conn:write("done\n")
  end,
}
]]
    local cpus = require("ffi").new("int[1]")
    require("rille.core").rille_cpu_list(cpus, 1)
    for _, is_on in ipairs { true, false } do
      local s = control.start(source, { conf = { loops = 2, debug = { turns = is_on } }, server = { accept = "balanced" },
        wrap = { "taskset", "-c", tostring(cpus[0]) } })
      local clients = { s:connect(), s:connect() }
      local loops = {}
      for i, c in ipairs(clients) do loops[i] = c:receive_line() end
      assert.are_not.equal(loops[1], loops[2])
      local function both(is_so)
        return function(status) return is_so(status.loops[1]) and is_so(status.loops[2]) end
      end
      if is_on then control.wait_status(s, both(function(loop) return loop.longest_work > 0 end)) end
      local got
      assert.is_true(net.poll_until(function() -- they are to be at it at the same time
        for _, c in ipairs(clients) do c:send("go\n") end
        for _, c in ipairs(clients) do assert.equal("done", c:receive_line()) end
        got = control.status(s)
        return both(function(loop) return loop.longest_turn >= 1.5 * CPU_S end)(got)
      end, 20))
      for _, loop in ipairs(got.loops) do
        if is_on then assert.is_true(loop.longest_work >= CPU_S and loop.longest_work < 0.8 * loop.longest_turn)
        else assert.equal(0, loop.longest_work) end
      end
      s:stop()
    end
  end)

  it("names pools, dicts and topics", function()
    local s = control.start([[

local rille = require "rille"
return { on_connect = function(conn)
  rille.dict("seen", { size = "64k" }):set("a", 1)
  rille.topic("news"):subscribe(conn)
  rille.topic("news"):publish("x")
  rille.pool("jobs", { max = 2 }):call("string", "rep", "x", 3)
  conn:write("ready\n")
end, on_request = function() end }
]])
    local c = s:connect()
    assert.equal("xready\n", c:receive(7))
    local got = control.status(s)
    assert.equal("seen", got.dicts[1].name)
    assert.equal(1, got.dicts[1].keys)
    assert.equal(65536, got.dicts[1].capacity)
    assert.is_true(got.dicts[1].free < 65536)
    assert.same({ name = "news", subscribers = 1, publishes = 1, deliveries = 1, dropped = 0, disconnected = 0 }, got.topics[1])
    assert.equal("jobs", got.pools[1].name)
    assert.equal(1, got.pools[1].done)
    assert.equal(2, got.pools[1].max)
  end)

  it("tells of connections that were refused, and of datagrams", function()
    local s = control.start(ECHO, {
      name = "echo", conf = { servers = {
        { listen = "tcp://127.0.0.1:0", script = server.script_path(ECHO, "echo"), deny = { "127.0.0.0/8" } },
        { listen = "udp://127.0.0.1:0", script = server.script_path("\nreturn function(d) d:reply('pong') end\n", "pong") },
      } },
    })
    s:wait_listening(2)
    local refused = server.client.try_connect(s.urls[1]) -- or it is reset before it knows that it is connected
    if refused then refused:receive_all() end
    local status = control.wait_status(s, function(status) return sum(status.listeners, "refused_by_list") == 1 end)
    local by = {}
    for _, one in ipairs(status.listeners) do by[one.script] = one end
    assert.same({ 1, 0, 0, 0 }, { by["echo@1"].refused_by_list, by["echo@1"].refused_by_address, by["echo@1"].shed, by["pong@1"].shed })
    assert.is_nil(by["echo@1"].datagrams)
    assert.same({ 0, 0 }, { by["pong@1"].datagrams, by["pong@1"].datagrams_dropped })
    local text = control.ask(s, "metrics\n")
    assert.matches('\nrille_listener_refused_total{loop="1",script="echo@1",address="[^"]+",reason="list"} 1\n', text)
    assert.matches('\nrille_listener_datagrams_total{loop="1",script="pong@1",address="udp:[^"]+"} 0\n', text)
    assert.not_matches('rille_listener_datagrams_total{loop="1",script="echo@1"', text)
  end)

  it("counts programs that run, and connections that change their loop", function()
    local s = control.start([[

local rille = require "rille"
local programs = {}
local commands = {}
function commands.start() programs[#programs + 1] = assert(rille.process.spawn { "sleep", "100", stdout = "null" }) end
function commands.exits() programs[#programs + 1] = assert(rille.process.spawn { "true", stdout = "null" }) end
function commands.kill()
  local program = table.remove(programs, 1)
  program:kill("KILL")
  program:wait()
end
return {
  on_move = function(conn) conn:write("moved\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return end
    if line == "move" then return conn:move(3 - rille.loop.id) end
    commands[line:str()]()
    conn:write("done\n")
  end,
}
]], { conf = { loops = 2 }, server = { accept = "balanced" } })
    local c = s:connect()
    local function run(command, count)
      for _ = 1, count do
        c:send(command .. "\n")
        c:receive_line()
      end
    end
    local function counted(status)
      local one, two = status.loops[1], status.loops[2]
      return { status.children.running, status.children.started, one.moved_in, one.moved_out, two.moved_in, two.moved_out }
    end
    assert.same({ 0, 0, 0, 0, 0, 0 }, counted(control.status(s)))
    run("start", 3)
    run("kill", 1)
    run("exits", 2)
    run("move", 3)
    local status = control.wait_status(s, function(got) return got.children.running == 2 end) -- nobody has waited for the two
    assert.same({ 2, 5, 1, 2, 2, 1 }, counted(status))
    assert.same({ 0, 1 }, { status.loops[1].connections, status.loops[2].connections })
    local text = control.ask(s, "metrics\n")
    local function has(line) assert.truthy(text:find("\n" .. line .. "\n", 1, true), line .. " is not in\n" .. text) end
    has "rille_children 2"
    has "rille_children_started_total 5"
    has 'rille_loop_moved_in_total{loop="1"} 1'
    has 'rille_loop_moved_out_total{loop="1"} 2'
    has 'rille_loop_moved_in_total{loop="2"} 2'
    local _, out = control.rille { "status", "--control", s.socket }
    assert.matches("\n  programs: 2 run, 5 started\n", out)
    assert.matches("\n  loop 1: 1 connections came from other loops, 2 went to others\n", out)
  end)

  it("prints for people in 80 columns", function()
    local s = two_servers()
    s:wait_listening(2)
    s:connect(nil, s.urls[1]):exchange("hello\n", 6)
    local code, out = control.rille { "status", "--control", s.socket }
    assert.equal(0, code)
    assert.matches("^rille %d+%.%d+%.%d+, pid " .. s.pid .. ", serving for ", out)
    assert.matches("\n  loop .*messages", out)
    for line in out:gmatch("[^\n]+") do
      if not line:find("/", 1, true) then assert.is_true(#line <= 80, line) end
    end
  end)

  it("does not wait for a loop that is stalled, and says who holds it", function()
    local s = two_servers()
    s:wait_listening(2)
    local c = s:connect(nil, s.urls[1])
    c:send("hello\n")
    assert.equal("hello\n", c:receive(6))
    control.status(s) -- so the numbers are at most a tenth of a second older than what follows
    c:send("stall\n")
    local id = s:wait_log('is stalled: echo@1, conn %d+ of 127%.0%.0%.1:' .. c:port() .. ' holds it .-conn=(%d+)', 10)
    local got = control.status(s)
    assert.equal("stalled", got.health)
    local held
    for _, loop in ipairs(got.loops) do
      if loop.stalled then held = loop end
    end
    assert.is_true(held.since > 0.9)
    assert.equal(1, held.connections)
    assert.equal("stall\n", c:receive(6, 10))
    s:wait_log("goes on: echo@1, conn " .. id .. " of .- held it for 2%.%d+ s", 10)
    got = control.wait_status(s, function(status) return status.total.stalls == 1 end)
    assert.equal("serving", got.health)
    assert.equal(1, s:count_log("is stalled"))
  end)

  it("is told of stalls as the configuration says", function()
    local s = control.start([[

return function(conn)
  local ms = conn:read_line():tonumber()
  local until_ = rille.time() + ms / 1000
  while rille.time() < until_ do end
  conn:write("done\n")
end
]], { conf = { stall_after = "100ms" } })
    s:connect():exchange("400\n", 5)
    s:wait_log("goes on", 10)
    local quiet = control.start([[

return function(conn)
  local ms = conn:read_line():tonumber()
  local until_ = rille.time() + ms / 1000
  while rille.time() < until_ do end
  conn:write("done\n")
end
]], { conf = { stall_after = 0 } })
    quiet:connect():exchange("1300\n", 5)
    assert.equal(0, control.status(quiet).total.stalls)
    assert.equal(0, quiet:count_log("stalled"))
  end)
end)

describe("rille conns", function()
  after_each(server.cleanup)

  it("lists connections with their peers, at most so many", function()
    local s = control.start(ECHO, { name = "echo" })
    local ports = {}
    for i = 1, 5 do
      local c = s:connect()
      c:exchange("hello\n", 6)
      ports["127.0.0.1:" .. c:port()] = i
    end
    local code, out = control.rille { "conns", "--json", "--control", s.socket }
    assert.equal(0, code)
    local answer = json.decode(out)
    assert.equal(5, answer.total)
    assert.equal(5, #answer.connections)
    for _, one in ipairs(answer.connections) do
      assert.truthy(ports[one.peer], one.peer)
      ports[one.peer] = nil
      assert.equal("echo@1", one.script)
      assert.equal(1, one.loop)
      assert.equal("stream", one.protocol)
      assert.truthy(one.state == "reading" or one.state == "idle", one.state)
      assert.is_true(one.age >= 0 and one.idle >= 0 and one.idle <= one.age)
    end
    answer = json.decode(select(2, control.rille { "conns", "--json", "--limit", "2", "--control", s.socket }))
    assert.equal(5, answer.total)
    assert.equal(2, #answer.connections)
    code, out = control.rille { "conns", "--control", s.socket }
    assert.equal(0, code)
    assert.matches("\n%d+ +1 echo@1 +127%.0%.0%.1:%d+", out)
  end)
end)

describe("rille stop", function()
  after_each(server.cleanup)

  it("drains as SIGTERM does, and with --now at once", function()
    local s = control.start(ECHO, { name = "echo" })
    local code, out = control.rille { "stop", "--control", s.socket }
    assert.equal(0, code)
    assert.equal(("stopping pid %d\n"):format(s.pid), out)
    assert.equal(0, s:wait_exit(10))
    s:forget()
    s:check_end()
    assert.is_nil(io.open(s.socket))

    s = control.start("\nreturn function(conn) conn:read_line() conn:write('parked\\n') rille.sleep(60) end\n")
    assert.equal("parked\n", s:connect():exchange("x\n", 7))
    assert.equal(0, (control.rille { "stop", "--control", s.socket }))
    s:wait_log "draining connections"
    local c = server.net.now()
    assert.equal(0, (control.rille { "stop", "--now", "--control", s.socket }))
    assert.equal(0, s:wait_exit(10))
    assert.is_true(server.net.now() - c < 10)
    s:forget()
  end)
end)

describe("rille console", function()
  after_each(server.cleanup)

  local function console(s, ...)
    return control.rille { "console", "--control", s.socket, ... }
  end

  it("evaluates in the state of a script, and may park", function()
    local s = control.start("\nanswer = 42 return function(conn) conn:release() end\n", { name = "gateway", conf = { loops = 2 } })
    local code, out = console(s, "-e", "answer, rille.loop.id, { 1, a = 'x' }")
    assert.same({ 0, '42\n1\n{ 1, a = "x" }\n' }, { code, out })
    code, out = console(s, "--loop", "2", "--state", "gateway", "--eval", "rille.sleep(0.01) print('on', rille.loop.id)")
    assert.same({ 0, "on\t2\n" }, { code, out })
  end)

  it("reads line by line, and keeps globals between them", function()
    local s = control.start("\nreturn function(conn) conn:release() end\n")
    local code, out, err = control.rille({ "console", "--control", s.socket }, "n = 20\nn + 1\n\nno_such_thing()\nn + 2\n")
    assert.same({ 0, "> > 21\n> > > 22\n> \n" }, { code, out })
    assert.matches("attempt to call global 'no_such_thing'", err)
  end)

  it("tells what went wrong", function()
    local s = control.start("\nreturn function(conn) conn:release() end\n", { name = "gateway" })
    local _
    local code, out, err = console(s, "-e", "local function f() error('as asked') end f()")
    assert.same({ 1, "" }, { code, out })
    assert.matches("^console:1: as asked\nstack traceback:", err)
    assert.not_matches("rille/console.lua", err)
    code, _, err = console(s, "-e", "1 +* 2")
    assert.equal(1, code)
    assert.matches("^console:1: unexpected symbol", err)
    code, _, err = console(s, "--timeout", "0.2", "-e", "rille.sleep(10)")
    assert.same({ 1, "it did not end in time\n" }, { code, err })
    code, _, err = console(s, "--state", "other", "-e", "1")
    assert.same({ 1, "there is no Lua state 'other' on loop 1; there are gateway@1\n" }, { code, err })
    code, _, err = console(s, "--loop", "7", "-e", "1")
    assert.same({ 1, "rille: there is no loop 7\n" }, { code, err })
  end)

  it("does not wait for code that never ends", function()
    local s = control.start("\nreturn function(conn) conn:release() end\n")
    local code, _, err = console(s, "--timeout", "0.3", "-e", "local t = rille.time() while rille.time() - t < 2 do end")
    assert.equal(1, code)
    assert.matches("did not answer in time", err)
    s:wait_log("goes on", 10)
  end)

  it("bounds what comes back", function()
    local s = control.start("\nreturn function(conn) conn:release() end\n")
    local code, out = console(s, "-e", "for i = 1, 100000 do print('0123456789') end")
    assert.equal(0, code)
    assert.is_true(#out < 70000)
    assert.matches("%(more was cut%)\n$", out)
  end)
end)

describe("the control socket", function()
  after_each(server.cleanup)

  local QUIET = "\nreturn function(conn) conn:release() end\n"

  it("is the owner's alone, and goes with the server", function()
    local s = control.start(QUIET)
    local p = io.popen("stat -c '%a %F' " .. s.socket)
    assert.equal("600 socket\n", p:read("*a"))
    p:close()
    s:stop()
    assert.equal("", io.popen("ls " .. s.socket .. " 2>/dev/null"):read("*a"))
  end)

  it("takes the place of one that a killed server left, not of one that answers", function()
    local path = server.folder() .. "/shared.sock"
    local first = control.start(QUIET, { conf = { control = { path = path } } })
    local second = server.spawn(QUIET, { conf = { control = { path = path } } })
    second:forget()
    assert.equal(1, second:wait_exit(10))
    assert.matches("control socket .*shared%.sock: address in use", second:log())
    first:kill()
    first:forget()
    local third = control.start(QUIET, { conf = { control = { path = path } } })
    third.socket = path
    assert.equal(third.pid, control.status(third).pid)
  end)

  it("refuses a folder that others may write to", function()
    local folder = server.folder() .. "/open"
    assert(os.execute("mkdir " .. folder .. " && chmod 0777 " .. folder) == 0)
    local s = server.spawn(QUIET, { conf = { control = { path = folder .. "/x.sock" } } })
    s:forget()
    assert.equal(1, s:wait_exit(10))
    assert.matches("others may write to its folder", s:log())
  end)

  it("is found by pid and by configuration, and may be off", function()
    local s = server.start(QUIET)
    local code, out = control.rille { "status", "--pid", tostring(s.pid) }
    assert.equal(0, code)
    local file = out:match("\n  (/[^\n]*)\n")
    code, out = control.rille { "status", "--json", "--conf", file }
    assert.equal(0, code)
    assert.equal(s.pid, json.decode(out).pid)
    local off = server.start(QUIET, { conf = { control = false } })
    local err
    code, out, err = control.rille { "status", "--pid", tostring(off.pid) }
    assert.same({ 1, "", ("rille: no server with pid %d answers\n"):format(off.pid) }, { code, out, err })
  end)

  it("answers each request once, and says what it does not know", function()
    local s = control.start(QUIET)
    assert.matches('^{"error":"unknown request; there are hello', control.ask(s, "frobnicate\n"))
    assert.matches('^{"error":"the line is longer', control.ask(s, ("x"):rep(600)))
    assert.matches('^{"error":"the code is longer', control.ask(s, "eval size=1000000\nx"))
    assert.matches('^{"error":"conns: expected', control.ask(s, "conns 0\n"))
    assert.matches('^{"error":"eval: expected', control.ask(s, "eval timeout=x\n"))
    assert.matches('^{"pid":', control.ask(s, "hello\r\nstatus\n"))
  end)

  it("does not spin when descriptors have run out", function()
    local s = control.start(QUIET, { ulimit = "-n 40", allow_errors = true })
    local clients = {}
    for i = 1, 60 do clients[i] = server.client.connect(s.url) end
    s:wait_log "Too many open files"
    local waiting = server.client.connect("unix://" .. s.socket)
    waiting:send("hello\n")
    local function ticks()
      local user, system = server.read(("/proc/%d/stat"):format(s.pid)):match("%) %a" .. (" %-?%d+"):rep(10) .. " (%d+) (%d+)")
      return user + system
    end
    local before = ticks()
    net.nap(1000)
    assert.is_true(ticks() - before < 50, "it was busy for " .. ticks() - before .. " ticks of 100")
    for _, c in ipairs(clients) do c:close() end
    assert.matches('^{"pid":', waiting:receive_all(10))
  end)

  it("is held up by no client that is slow, silent, or many", function()
    local s = control.start(QUIET)
    local clients = {}
    for i = 1, 60 do -- more than it serves at a time
      clients[i] = server.client.connect("unix://" .. s.socket)
      if i % 3 == 0 then clients[i]:send("sta") end
      if i % 3 == 1 and i < 30 then clients[i]:send("status\n") end
    end
    for i = 1, 60 do clients[i]:close() end
    local reader = server.client.connect("unix://" .. s.socket, { receive_buffer = 1 })
    reader:send("metrics\n") -- and does not read
    local before = net.now()
    assert.equal(s.pid, control.status(s).pid)
    assert.is_true(net.now() - before < 5)
    s:connect():close()
  end)
end)
