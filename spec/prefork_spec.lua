-- Several processes behind a parent: what each has, how one that dies is replaced, how they start and stop together.

local server = require "spec.support.server"
local systemd = require "spec.support.systemd"
local net = server.net

-- A sanitizer takes SIGSEGV for a find of its own, and its servers are slow; RILLE_LUAJIT is where it may hide.
local is_sanitized = net.is_sanitized or (os.getenv("RILLE_LUAJIT") or ""):find("san", 1, true)
local SLOW = is_sanitized and math.max(net.slow, 5) or net.slow
local CRASH = is_sanitized and "KILL" or "SEGV"
local CRASHED = is_sanitized and "signal 9" or "signal 11"

-- Says which process has it, then answers each line with it.
local WHO = [[
return {
  on_connect = function(conn) conn:write(rille.loop.process .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return end
    local seconds = tonumber(line:str():match("^sleep (.*)"))
    if seconds then rille.sleep(seconds) end
    while line:str() == "hang" do end
    local busy = rille.time() + (tonumber(line:str():match("^busy (.*)")) or 0)
    while rille.time() < busy do end
    if line:str() == "stop" then rille.shutdown() end
    conn:write(rille.loop.process .. "\n")
  end,
}
]]

local function conf_of(processes, more, server_keys)
  local conf = { processes = processes }
  for key, value in pairs(more or {}) do conf[key] = value end
  return { conf = conf, server = server_keys, allow_errors = true }
end

-- The pid of each process, by its number in the names of its threads.
local function pids_of(s)
  local pids = {}
  local listing = io.popen(("cat /proc/%d/task/%d/children"):format(s.pid, s.pid))
  for pid in listing:read("*a"):gmatch("%d+") do
    local names = io.popen(("cat /proc/%s/task/*/comm 2>/dev/null"):format(pid)):read("*a")
    local number = tonumber(names:match("rille%-p(%d+)%-l1"))
    if number then pids[number] = tonumber(pid) end
  end
  listing:close()
  return pids
end

local function wait_pids(s, count, seconds)
  local pids
  return net.poll_until(function()
    pids = pids_of(s)
    return #pids == count and pids
  end, seconds) or error(("there never were %d processes:\n%s"):format(count, s:tail()), 0)
end

local SIGNALS = { SEGV = 11, KILL = 9, TERM = 15, STOP = 19, CONT = 18, INT = 2 }
local function kill(pid, name)
  net.C.net_kill(pid, SIGNALS[name])
end

-- Open connections until each process has at least `each`: lists by process.
local function spread(s, processes, each)
  local by = {}
  for i = 1, processes do by[i] = {} end
  local deadline = net.deadline(20)
  local function is_enough()
    for i = 1, processes do
      if #by[i] < each then return false end
    end
    return true
  end
  while not is_enough() do
    if net.now() > deadline then error("the connections never came to all processes:\n" .. s:tail(), 0) end
    -- several at a time: the one that is awake takes those that come singly
    local fresh = {}
    for i = 1, 16 do fresh[i] = s:connect() end
    for _, c in ipairs(fresh) do
      local who = tonumber(c:receive_line())
      table.insert(by[who], c)
    end
  end
  return by
end

local function is_gone(pid)
  local state = server.read(("/proc/%d/stat"):format(pid)):match("%) (%a)")
  return state == nil or state == "Z"
end

describe("several processes", function()
  after_each(systemd.cleanup)

  for _, accept in ipairs { "shared", "reuseport", "balanced" } do
    for _, loops in ipairs { 1, 2 } do
      it(("share an address, accept = %s, %d loops"):format(accept, loops), function()
        local s = server.start(WHO, conf_of(3, { loops = loops }, { accept = accept }))
        local by = spread(s, 3, 3)
        for i = 1, 3 do
          for _, c in ipairs(by[i]) do assert.equal(tostring(i), c:send("x\n"):receive_line()) end
        end
        s:stop()
        assert.equal(4, s:count_log("stopped: 0 blocks, 0 retained slices"))
        local c, why = server.client.try_connect(s.url)
        assert.is_nil(c)
        assert.equal("ECONNREFUSED", why)
      end)
    end
  end

  it("are named to scripts, in the log and in their threads", function()
    local s = server.start([[
return { on_start = function(server)
  say("%d of %d, %d of %d", server.process, server.processes, rille.loop.process, rille.loop.processes)
end, on_request = print }
]], conf_of(2))
    local said = s:wait_said(2)
    table.sort(said)
    assert.same({ "1 of 2, 1 of 2", "2 of 2, 2 of 2" }, said)
    assert.equal(1, s:count_log('said 2 of 2[^\n]* process=2\n'))
    assert.equal(1, s:count_log("listening on"))
    local pids = wait_pids(s, 2)
    assert.is_true(pids[1] ~= s.pid and pids[2] ~= s.pid)
  end)

  it("are one where nothing else is said", function()
    local s = server.start([[
return { on_start = function(server) say("%d of %d", server.process, rille.loop.processes) end, on_request = print }
]])
    assert.same({ "1 of 1" }, s:wait_said(1))
    assert.equal(0, s:count_log("process="))
  end)

  it("write the banner once, keep a unix path until the end", function()
    local path = server.folder() .. "/sock"
    local opts = conf_of(2, { banner = "hello there" })
    opts.listen = "unix://" .. path
    local s = server.start(WHO, opts)
    s:wait_log("hello there")
    assert.equal(1, s:count_log("hello there"))
    local pid = wait_pids(s, 2)[2]
    kill(pid, "KILL")
    s:wait_log("started again")
    assert.matches("^[12]$", s:connect():receive_line())
    s:stop()
    assert.is_not.equal(0, os.execute("test -e " .. path))
  end)

  it("have dicts of their own, which is said", function()
    local s = server.start(WHO, conf_of(2, { dicts = { sessions = { size = "64k" } } }))
    assert.equal(1, s:count_log("has dicts of its own, they share nothing: sessions"))
  end)

  it("notice a busy port", function()
    local first = server.start(WHO, conf_of(2))
    for _, accept in ipairs { "shared", "reuseport" } do
      local opts = conf_of(2, nil, { accept = accept })
      opts.listen = first.url
      local second = server.spawn(WHO, opts)
      assert.equal(1, second:wait_exit())
      assert.matches("address in use", second:log())
      second:forget()
    end
  end)

  it("are not for programs", function()
    local program = server.write("program.lua", [[
local rille = require "rille"
print(rille.run { processes = 2, servers = { { listen = "tcp://127.0.0.1:0", script = function() end } } })
]])
    local env = ("LUA_PATH=%s/lua/?.lua;%s/lua/?/init.lua;;"):format(server.root, server.root)
    local s = server.spawn(nil, { command = { "env", env, os.getenv("RILLE_LUAJIT") or "luajit", program } })
    assert.equal(0, s:wait_exit())
    assert.matches("^nil\trille.run: processes: got 2; [^\n]*\n$", s:log())
    s:forget()
  end)
end)

-- A new connection that is answered; one that the dying process has still accepted is tried again. Who answered.
local function serve_one(s)
  return net.poll_until(function()
    local c = s:connect()
    local ok, line = pcall(c.receive_line, c)
    c:close()
    return ok and line
  end)
end

describe("a process that dies", function()
  after_each(systemd.cleanup)

  -- Its connections break, those of the others do not, newcomers are served at once, and it comes back.
  -- Seconds until a newcomer was answered, until there was a new process.
  local function crash_once()
    local s = server.start(WHO, conf_of(2))
    local by = spread(s, 2, 4)
    local pids = wait_pids(s, 2)
    -- load on both: each connection has a request under way
    for i = 1, 2 do
      for _, c in ipairs(by[i]) do c:send("sleep 0.3\n") end
    end
    local slowest = 0
    local before = net.now()
    kill(pids[2], CRASH)
    for _ = 1, 10 do
      local at = net.now()
      serve_one(s)
      slowest = math.max(slowest, net.now() - at)
    end
    s:wait_log("process 2 started again")
    local back
    net.poll_until(function()
      local many = {} -- the one that has been there may take most of them
      for i = 1, 8 do many[i] = s:connect() end
      for _, c in ipairs(many) do
        if c:receive_line() == "2" then back = back or net.now() - before end
        c:close()
      end
      return back
    end, 10)
    for _, c in ipairs(by[2]) do
      local bytes, how = c:receive_all()
      assert.equal("", bytes)
      assert.is_truthy(how == "reset" or how == "closed")
    end
    for _, c in ipairs(by[1]) do
      assert.equal("1", c:receive_line())
      assert.equal("1", c:send("x\n"):receive_line())
    end
    s:wait_log("process 2 %(pid " .. pids[2] .. "%) was ended by " .. CRASHED)
    local after = wait_pids(s, 2)
    assert.equal(pids[1], after[1])
    assert.is_not.equal(pids[2], after[2])
    s:stop()
    return slowest, back
  end

  it("takes its own connections with it, and is replaced", function()
    local answers, returns = {}, {}
    for i = 1, 5 do answers[i], returns[i] = crash_once() end
    table.sort(answers)
    table.sort(returns)
    if os.getenv("RILLE_FIGURES") then
      print(("\nslowest answer to 10 newcomers, ms: median %.2f, max %.2f; new process serves after, ms: median %.1f, max %.1f"):format(
        answers[3] * 1000, answers[5] * 1000, returns[3] * 1000, returns[5] * 1000))
    end
    assert.is_true(answers[3] < 0.1 * SLOW, ("newcomers waited for %.3f s"):format(answers[3]))
    assert.is_true(returns[3] < 1 * SLOW, ("the process was back after %.3f s"):format(returns[3]))
  end)

  it("is named with the script, the loop and the connection it was busy with", function()
    local s = server.start([[
local ffi = require "ffi"
return { on_connect = function(conn) conn:write(("%.0f %d\n"):format(conn.id, rille.loop.id)) end, on_request = function(conn)
  conn:read_line()
  ffi.cdef "int spec_kill_me(int pid, int signal) __asm__(\"kill\"); int spec_pid(void) __asm__(\"getpid\");"
  ffi.C.spec_kill_me(ffi.C.spec_pid(), 9)
end }
]], { name = "gateway", conf = { processes = 2, loops = 2 }, allow_errors = true })
    for _ = 1, 3 do
      s:connect():receive_line()
    end
    local c = s:connect()
    local id, loop = c:receive_line():match("(%S+) (%S+)")
    c:send("x\n")
    s:wait_log(("was in script gateway@1 on loop %s, last with this connection\" loop=%s script=gateway@1 conn=%s\n"):format(
      loop, loop, id))
    s:wait_log("started again")
  end)

  it("outside of scripts is said to have been in none", function()
    local s = server.start(WHO, conf_of(2))
    kill(wait_pids(s, 2)[1], "KILL")
    s:wait_log("process 1 was in no script")
    s:wait_log("started again")
  end)

  it("again and again waits longer each time, until it lives", function()
    local flag = server.folder() .. "/bad"
    local s = server.start(([[
return { on_start = function() return not io.open(%q) end, on_request = function(conn) conn:release() end }
]]):format(flag), conf_of(2))
    local pid = wait_pids(s, 2)[1]
    io.open(flag, "w"):close()
    kill(pid, "KILL")
    s:wait_log("process 1 %(pid %d+%) ended with status 1")
    s:wait_log("process 1: next start in 250 ms")
    s:wait_log("process 1: next start in 500 ms")
    s:wait_log("process 1: next start in 1000 ms")
    s:connect() -- the other one serves
    os.remove(flag)
    wait_pids(s, 2, 10)
  end)

  it("of a signal that only asks is replaced too, and resets nobody", function()
    local s = server.start(WHO, conf_of(2))
    local by = spread(s, 2, 2)
    kill(wait_pids(s, 2)[1], "TERM")
    for _, c in ipairs(by[1]) do assert.equal("", (c:receive_all())) end
    s:wait_log("process 1 started again")
    by = spread(s, 2, 2)
    local pids = wait_pids(s, 2)
    for _, c in ipairs(by[1]) do c:send("sleep 0.5\n") end
    net.nap(50)
    kill(pids[1], "TERM")
    for _, c in ipairs(by[1]) do assert.equal("1", c:receive_line()) end
    s:wait_log("process 1 %(pid " .. pids[1] .. "%) ended with status 0")
    assert.equal("2", by[2][1]:send("x\n"):receive_line())
  end)

  it("leaves what waits in the queue to the next one", function()
    local s = server.start(WHO, conf_of(2))
    local by = spread(s, 2, 1)
    by[2][1]:send(("busy %d\n"):format(3 * SLOW)) -- it takes nobody meanwhile
    net.nap(100)
    kill(wait_pids(s, 2)[1], "TERM")
    assert.equal("", (by[1][1]:receive_all()))
    for _ = 1, 10 do assert.equal("1", s:connect():receive_line()) end
    assert.equal("2", by[2][1]:receive_line(20))
  end)
end)

describe("the start of several processes", function()
  after_each(systemd.cleanup)

  it("fails as a whole, with one message, when a script cannot be loaded", function()
    local s = server.spawn("return {\n on_request = nil + 1 }", conf_of(3))
    assert.equal(1, s:wait_exit())
    assert.equal(1, s:count_log("attempt to perform arithmetic"))
    assert.is_true(select(2, s:log():gsub("\n", "\n")) <= 3)
    s:forget()
  end)

  it("fails as a whole when on_start says no", function()
    local s = server.spawn([[
return { on_start = function() return rille.loop.process ~= 3 end, on_request = print }
]], conf_of(3))
    assert.equal(1, s:wait_exit())
    assert.equal(0, s:count_log("started again"))
    assert.equal(0, s:count_log("listening on"))
    s:forget()
  end)

  it("ends with a signal that comes while scripts are loaded", function()
    local s = server.spawn([[
local flag = ]] .. ("%q"):format(server.folder() .. "/loading") .. [[

io.open(flag, "w"):close()
local t = rille.time()
while rille.time() < t + 0.5 do end
return print
]], conf_of(2))
    assert.is_truthy(net.poll_until(function() return io.open(server.folder() .. "/loading") end))
    s:signal("TERM")
    assert.equal(0, s:wait_exit())
    s:forget()
  end)

  it("does not take what is no number of processes", function()
    for value, pattern in pairs { [0] = "got 0", [65] = "got 65", many = 'got "many"' } do
      local s = server.spawn(WHO, conf_of(value))
      assert.equal(1, s:wait_exit())
      assert.matches("processes: " .. pattern .. "; expected a whole number from 1 to 64", s:log())
      s:forget()
    end
  end)

  it("takes their number from the command line", function()
    local s = server.run(WHO, nil, { words = { "--processes", "2" } })
    wait_pids(s, 2)
  end)
end)

describe("the end of several processes", function()
  after_each(systemd.cleanup)

  it("waits for what runs in each", function()
    local s = server.start(WHO, conf_of(2))
    local by = spread(s, 2, 2)
    for i = 1, 2 do
      for _, c in ipairs(by[i]) do c:send("sleep 0.5\n") end
    end
    net.nap(100)
    s:signal("TERM")
    for i = 1, 2 do
      for _, c in ipairs(by[i]) do assert.equal(tostring(i), c:receive_line()) end
    end
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)

  it("is at once with a second signal, and once only when the terminal signals all of them", function()
    local s = server.start(WHO, conf_of(2))
    local by = spread(s, 2, 1)
    local pids = wait_pids(s, 2)
    for i = 1, 2 do by[i][1]:send("sleep 100\n") end
    s:wait_state(function(state) return state.watches >= 1 end, nil, 2)
    for _, pid in ipairs { s.pid, pids[1], pids[2] } do kill(pid, "INT") end
    s:wait_log("stopping 2 processes")
    by[1][1]:receives_nothing(0.5) -- had one taken its own signal and that of the parent for two, it would be gone
    s:signal("TERM")
    assert.equal(0, s:wait_exit(5))
    s:check_end()
    s:forget()
  end)

  it("comes to those that hang, too", function()
    local s = server.start(WHO, conf_of(2))
    local c = s:connect():send("hang\n")
    c:receive_line()
    s:signal("TERM")
    s:wait_log("stopping 2 processes")
    s:signal("TERM")
    assert.equal(128 + 9, s:wait_exit(15))
    s:wait_log("does not stop: killed")
    s:wait_log("was in script script@1 on loop 1")
    s:forget()
  end)

  it("is the end of all when a script asks for it", function()
    local s = server.start(WHO, conf_of(3))
    s:connect():send("stop\n")
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)

  it("of the parent is that of all", function()
    local s = server.start(WHO, conf_of(2))
    local pids = wait_pids(s, 2)
    kill(s.pid, "KILL")
    s:wait_exit()
    s:forget()
    for i = 1, 2 do
      assert.is_truthy(net.poll_until(function() return is_gone(pids[i]) end), "process " .. i .. " is still there")
    end
    assert.is_nil((server.client.try_connect(s.url)))
  end)
end)

describe("signals for several processes", function()
  after_each(systemd.cleanup)

  it("reach each: SIGQUIT, SIGUSR1", function()
    local log_file = server.folder() .. "/log"
    local opts = conf_of(2)
    opts.log_file = log_file
    local s = server.start(WHO, opts)
    s:signal("QUIT")
    s:wait_log('msg="state"[^\n]* process=1 ')
    s:wait_log('msg="state"[^\n]* process=2 ')
    os.rename(log_file, log_file .. ".1")
    s:signal("USR1")
    assert.is_truthy(net.poll_until(function() return server.read(log_file) ~= "" or io.open(log_file) end))
    net.poll_until(function()
      s:signal("QUIT")
      local text = server.read(log_file)
      return text:find("process=1 ", 1, true) and text:find("process=2 ", 1, true)
    end)
    local text = server.read(log_file)
    assert.is_truthy(text:find("process=1 ", 1, true) and text:find("process=2 ", 1, true))
  end)

  it("are ignored where they mean nothing", function()
    local s = server.start(WHO, conf_of(2))
    for _, name in ipairs { "USR2", "HUP" } do s:signal(name) end
    assert.matches("^[12]$", s:connect():receive_line())
  end)
end)

describe("the service manager of several processes", function()
  after_each(systemd.cleanup)

  it("hears from the parent alone: ready when all are, the watchdog while all make turns, the stop", function()
    local manager = systemd.manager()
    local opts = conf_of(2)
    opts.wrap = systemd.wrap { "NOTIFY_SOCKET=" .. manager.address, "WATCHDOG_USEC=400000" }
    local s = server.start(WHO, opts)
    local message = manager:wait_for("READY")
    assert.equal(s.pid, tonumber(message.MAINPID))
    assert.matches("2 processes", message.STATUS)
    for _ = 1, 3 do manager:wait_for("WATCHDOG") end
    local pids = wait_pids(s, 2)
    kill(pids[2], "STOP")
    manager:count("WATCHDOG", 1)
    manager:drain()
    assert.equal(0, manager:count("WATCHDOG", 1))
    kill(pids[2], "CONT")
    for _ = 1, 2 do manager:wait_for("WATCHDOG") end
    s:signal("TERM")
    manager:wait_for("STOPPING")
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)
end)
