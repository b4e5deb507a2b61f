-- What a service manager sees: notifications (sd_notify), the watchdog, sockets that it passes (sd_listen_fds), the user.

local server = require "spec.support.server"
local systemd = require "spec.support.systemd"

local ECHO = "scripts/echo.lua"

-- Works for as many seconds as a client says, without a turn; "hang" parks.
local BUSY = [[
return function(conn)
  local word = conn:read_line():str()
  local seconds = tonumber(word)
  local until_ = rille.time() + (seconds or 0)
  while rille.time() < until_ do end
  if word:find("^sleep ") then rille.sleep(tonumber(word:match("%d+"))) end
  conn:write("done\n")
end
]]

local function start(manager, script, opts, env)
  opts = opts or {}
  env = env or {}
  env[#env + 1] = "NOTIFY_SOCKET=" .. manager.address
  opts.wrap = systemd.wrap(env)
  return server.start(script, opts)
end

describe("notifications", function()
  after_each(systemd.cleanup)

  for _, kind in ipairs { "path", "abstract name" } do
    it("say READY=1 when all loops accept, to a " .. kind, function()
      local manager = systemd.manager(kind ~= "path")
      local s = start(manager, [[
return { on_start = function() rille.sleep(0.1) say("started") end, on_request = function(conn) conn:release() end }
]], { conf = { loops = 3 } })
      local message = manager:receive()
      assert.equal("1", message.READY)
      assert.equal(s.pid, tonumber(message.MAINPID))
      assert.matches("3 loops", message.STATUS)
      assert.equal(3, #s:said())
      s:connect()
      assert.equal(0, manager:count("READY", 0.1))
    end)
  end

  it("say STOPPING=1 when a drain begins", function()
    local manager = systemd.manager()
    local s = start(manager, BUSY)
    manager:wait_for("READY")
    local c = s:connect():send("sleep 1\n")
    s:wait_state(function(state) return state.connections == 1 and state.watches == 1 end)
    s:signal("TERM")
    local message = manager:wait_for("STOPPING")
    assert.equal("1", message.STOPPING)
    assert.is_true(tonumber(message.EXTEND_TIMEOUT_USEC) > 5000000)
    assert.equal("done", c:receive_line())
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
    assert.equal(0, manager:count("STOPPING", 0.05))
  end)

  it("say STOPPING=1 when a script stops the server", function()
    local manager = systemd.manager()
    local s = start(manager, "return function(conn)\nconn:release() rille.shutdown(1) end", { conf = { loops = 2 } })
    s:connect():send("x")
    manager:wait_for("STOPPING")
    assert.equal(0, s:wait_exit())
    s:forget()
  end)

  it("ask for more time while connections drain", function()
    local manager = systemd.manager()
    local s = start(manager, BUSY, { conf = { drain_timeout = "20s" } })
    local c = s:connect():send("sleep 6\n")
    s:wait_state(function(state) return state.watches == 1 end)
    s:signal("TERM")
    manager:wait_for("STOPPING")
    local more = manager:wait_for("EXTEND_TIMEOUT_USEC", 8)
    assert.is_nil(more.STOPPING)
    assert.equal("done", c:receive_line(10))
    assert.equal(0, s:wait_exit())
    s:forget()
  end)

  it("come from rille.run in a program as well", function()
    local manager = systemd.manager()
    local program = server.write("program.lua", [[
local rille = require "rille"
assert(rille.run { servers = { { listen = "tcp://127.0.0.1:0", script = function(conn) conn:write(conn:next(conn:len())) end } } })
]])
    local words = systemd.wrap { "NOTIFY_SOCKET=" .. manager.address,
      ("LUA_PATH=%s/lua/?.lua;%s/lua/?/init.lua;;"):format(server.root, server.root) }
    words[#words + 1] = os.getenv("RILLE_LUAJIT") or "luajit"
    words[#words + 1] = program
    local s = server.spawn(nil, { command = words })
    s:forget()
    assert.equal(s.pid, tonumber(manager:wait_for("READY", 10).MAINPID))
    s:signal("TERM")
    manager:wait_for("STOPPING")
    assert.equal(0, s:wait_exit())
  end)

  it("leave nothing of the manager's variables to what scripts start", function()
    local manager = systemd.manager()
    local s = start(manager, [[
return { on_start = function()
  for _, name in ipairs { "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID" } do
    say("%s %s", name, tostring(os.getenv(name)))
  end
end, on_request = print }
]], nil, { "WATCHDOG_USEC=10000000", "WATCHDOG_PID=1", "LISTEN_FDS=2", "LISTEN_PID=1" })
    for _, said in ipairs(s:wait_said(5)) do assert.matches(" nil$", said) end
  end)

  it("to nobody are a warning, not the end", function()
    for _, address in ipairs { server.folder() .. "/nobody", "relative", "@" } do
      local s = start({ address = address }, ECHO)
      s:wait_log("NOTIFY_SOCKET")
      assert.equal("hi", s:connect():send("hi"):receive(2))
      s:stop()
    end
  end)
end)

describe("the watchdog", function()
  after_each(systemd.cleanup)

  it("hears from a server that makes turns, idle or not, and not from one whose loop is stuck", function()
    local manager = systemd.manager()
    local s = start(manager, BUSY, { conf = { loops = 2 } }, { "WATCHDOG_USEC=300000" })
    manager:wait_for("READY")
    for _ = 1, 3 do manager:wait_for("WATCHDOG") end
    local c = s:connect():send("3\n")
    manager:count("WATCHDOG", 1) -- until it has been stuck for longer than the interval
    manager:drain()
    assert.equal(0, manager:count("WATCHDOG", 1))
    assert.equal("done", c:receive_line(10))
    for _ = 1, 2 do manager:wait_for("WATCHDOG") end
  end)

  it("is another process's when WATCHDOG_PID says so", function()
    local manager = systemd.manager()
    start(manager, ECHO, nil, { "WATCHDOG_USEC=100000", "WATCHDOG_PID=1" })
    manager:wait_for("READY")
    assert.equal(0, manager:count("WATCHDOG", 0.4))
  end)

  it("hears nothing where it was not asked for", function()
    local manager = systemd.manager()
    start(manager, ECHO, nil, { "WATCHDOG_USEC=soon" })
    manager:wait_for("READY")
    assert.equal(0, manager:count("WATCHDOG", 0.3))
  end)
end)

describe("passed descriptors", function()
  after_each(systemd.cleanup)

  -- A server that was passed these; opts as for server.spawn.
  local function passed(fds, names, opts)
    opts = opts or {}
    opts.passed = fds
    opts.wrap = systemd.wrap(nil, #fds, names)
    return opts
  end

  local function ask(c)
    return c:send("hi"):receive(2)
  end

  for _, loops in ipairs { 1, 3 } do
    it(("are found by their address, %d loops"):format(loops), function()
      local fd, url = systemd.socket("tcp://127.0.0.1:0")
      local early = server.client.connect(url) -- waits in the queue
      local s = server.start(ECHO, passed({ fd }, "web", { listen = url, conf = { loops = loops } }))
      assert.equal(url, s.url)
      assert.equal("hi", ask(early))
      assert.equal("hi", ask(s:connect()))
      assert.equal(0, s:count_log("no server uses"))
    end)
  end

  it("are found by name and by number", function()
    local one, first = systemd.socket("tcp://127.0.0.1:0")
    local two, second = systemd.socket("unix://" .. server.folder() .. "/two")
    local s = server.start(ECHO, passed({ one, two }, "web:admin", { listen = { "fd:web", "fd:4" } }))
    assert.same({ first, second }, s.urls)
    for _, url in ipairs(s.urls) do assert.equal("hi", ask(s:connect(nil, url))) end
  end)

  it("serve HTTP", function()
    local fd, url = systemd.socket("tcp://127.0.0.1:0")
    local s = server.start("scripts/hello.lua", passed({ fd }, "web", { listen = "fd:web", server = { protocol = "http" } }))
    local answer = s:connect(nil, url):send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):receive_all()
    assert.matches("^HTTP/1.1 200 ", answer)
  end)

  it("stay open at a stop: nothing is refused or reset, the next server answers", function()
    local fd, url = systemd.socket("tcp://127.0.0.1:0")
    local s = server.start(BUSY, passed({ fd }, "web", { listen = url }))
    local old = s:connect():send("sleep 1\n")
    s:wait_state(function(state) return state.watches == 1 end)
    s:signal("TERM")
    s:wait_log("draining")
    local waiting = {}
    for i = 1, 20 do waiting[i] = server.client.connect(url):send("0\n") end
    assert.equal("done", old:receive_line())
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
    waiting[21] = server.client.connect(url):send("0\n")
    local next_one = server.start(BUSY, passed({ fd }, "web", { listen = url }))
    for _, c in ipairs(waiting) do assert.equal("done", c:receive_line()) end
    next_one:stop()
  end)

  it("of a unix path leave it where it is", function()
    local path = server.folder() .. "/sock"
    local fd = systemd.socket("unix://" .. path)
    local s = server.start(ECHO, passed({ fd }, "sock", { listen = "unix://" .. path, conf = { loops = 2 } }))
    assert.equal("hi", ask(s:connect()))
    s:stop()
    assert.equal(0, os.execute("test -S " .. path))
  end)

  it("serve rille.listen, again and again", function()
    local fd, url = systemd.socket("tcp://127.0.0.1:0")
    local s = server.start(([[
return { on_start = function()
  for i = 1, 3 do
    local l = assert(rille.listen(%q, function(conn) conn:write(conn:next(conn:len())) end))
    if i < 3 then l:close() end
    local again, err = rille.listen(l:address() or "tcp://127.0.0.1:0", print)
    if i == 3 then say("%%s", err) else again:close() end
  end
end, on_request = print }
]]):format(url), passed({ fd }, "web"))
    assert.equal("hi", ask(s:connect(nil, url)))
    assert.same({ "address in use" }, s:said())
    assert.equal(0, s:count_log("no server uses"))
  end)

  it("that nobody uses are named and stay open", function()
    local fd, url = systemd.socket("tcp://127.0.0.1:0")
    local datagram = systemd.socket("tcp://127.0.0.1:0", systemd.SOCK_DGRAM)
    local s = server.start(ECHO, passed({ fd, datagram }, "web:udp"))
    s:wait_log("no server uses descriptor 3 %(web%).*" .. url:match("%d+$"))
    s:wait_log("no server uses descriptor 4 %(udp%).*datagram")
    server.client.connect(url)
  end)

  it("of another process are not touched", function()
    local fd, url = systemd.socket("tcp://127.0.0.1:0")
    local s = server.spawn(ECHO, { listen = url, passed = { fd }, wrap = { "env", "LISTEN_FDS=1", "LISTEN_PID=1" } })
    assert.equal(1, s:wait_exit())
    assert.matches("address in use", s:log())
    s:forget()
  end)

  -- what is wrong, in one line
  local function refused(opts, pattern)
    local s = server.spawn(ECHO, opts)
    assert.equal(1, s:wait_exit())
    local log = s:log()
    assert.matches(pattern, log)
    assert.matches("^[^\n]*\n[^\n]*\n?$", log) -- and where `rille check` shows more
    s:forget()
  end

  it("that cannot be listened on are errors of one line", function()
    local datagram = systemd.socket("tcp://127.0.0.1:0", systemd.SOCK_DGRAM)
    local silent, url = systemd.socket("tcp://127.0.0.1:0", nil, true)
    refused(passed({ datagram }, "dns", { listen = "fd:dns" }), "descriptor 3 %(dns%).*datagram")
    refused(passed({ silent }, "web", { listen = "fd:web" }), "descriptor 3 %(web%).*does not listen")
    refused(passed({ silent }, "web", { listen = url }), "descriptor 3 %(web%).*does not listen")
    refused(passed({ datagram }, "dns", { listen = "fd:web" }), "no such descriptor was passed; there are: 3 %(dns%)")
    refused(passed({ datagram, silent }, "a:a", { listen = "fd:a" }), "descriptors 3 and 4 have that name")
    refused({ listen = "fd:web" }, "LISTEN_FDS names none")
    refused({ wrap = systemd.wrap(nil, 3), passed = { silent } }, "descriptor 4 was passed, but it is not open")
    refused({ wrap = systemd.wrap(nil, "many"), passed = { silent } }, 'LISTEN_FDS is "many"; expected a number')
    local fd, good = systemd.socket("tcp://127.0.0.1:0")
    refused(passed({ fd }, "web", { listen = good, server = { accept = "reuseport" } }), "a passed descriptor has no reuseport")
  end)

  it("keep what else was wrong with an address wrong", function()
    refused({ listen = "fd:" }, "the name or number of a descriptor is missing")
  end)

  it("are shared by the processes of a prefork server", function()
    local fd, url = systemd.socket("tcp://127.0.0.1:0")
    local s = server.start(ECHO, passed({ fd }, "web", { listen = "fd:web", conf = { processes = 2 } }))
    assert.equal(url, s.url)
    for _ = 1, 10 do assert.equal("hi", ask(s:connect())) end
    s:stop()
    server.client.connect(url)
  end)
end)

-- ---- user ------------------------------------------------------------------------------------------------------

local function output_of(command)
  local pipe = io.popen(command)
  local text = pipe:read("*l")
  pipe:close()
  return text
end

local is_root = output_of("id -u") == "0"

describe("user", function()
  after_each(systemd.cleanup)

  local function open_folder()
    os.execute("chmod 755 " .. server.folder())
  end

  for _, processes in ipairs { 1, 2 } do
    it(("is whom root becomes after binding, with %d processes"):format(processes), function()
      if not is_root then return pending("needs root") end
      open_folder()
      if os.execute(("setpriv --reuid 65534 test -r %s/lua/rille/boot.lua"):format(server.root)) ~= 0 then
        return pending("needs a tree that others can read")
      end
      -- a path in a folder of root, and a port below 1024 that nobody has
      local path = server.folder() .. "/sock"
      local port
      for p = 1023, 900, -1 do
        if not server.client.try_connect("tcp://127.0.0.1:" .. p) then
          port = p
          break
        end
      end
      local s = server.start([[
return { on_start = function()
  for line in io.lines("/proc/self/status") do
    if line:find("^[UG]id:") or line:find("^Groups:") then say("%s", (line:gsub("%s+", " "))) end
  end
end, on_request = function(conn) conn:write(conn:next(conn:len())) end }
]], { listen = { "unix://" .. path, "tcp://127.0.0.1:" .. port }, conf = { user = "nobody", loops = 2, processes = processes } })
      for _, said in ipairs(s:wait_said(6 * processes)) do
        assert.is_truthy(said == "Uid: 65534 65534 65534 65534" or said:find("^Gid: (%d+) %1 %1 %1") or said:find("^Groups:"))
        assert.is_nil(said:find(" 0 ", 1, true))
      end
      for _, url in ipairs(s.urls) do assert.equal("hi", s:connect(nil, url):send("hi"):receive(2)) end
    end)
  end

  it("takes numbers and a group", function()
    if not is_root then return pending("needs root") end
    open_folder()
    local s = server.start([[
return { on_start = function()
  local text = io.open("/proc/self/status"):read("*a")
  say("%s %s", text:match("Uid:%s+(%d+)"), text:match("Gid:%s+(%d+)"))
end, on_request = print }
]], { conf = { user = "12345:23456" } })
    assert.same({ "12345 23456" }, s:wait_said(1))
  end)

  it("that is none is an error", function()
    for user, pattern in pairs {
      ["no-such-user"] = 'user: there is no user "no%-such%-user"', ["nobody:no-such-group"] = 'there is no group "no%-such%-group"',
      ["4000000"] = "4000000:GROUP",
    } do
      local s = server.spawn(ECHO, { conf = { user = user } })
      assert.equal(1, s:wait_exit())
      assert.matches(pattern, s:log())
      s:forget()
    end
  end)

  it("cannot be chosen by others than root", function()
    if not is_root then return pending("needs root, to be somebody else") end
    open_folder()
    local s = server.spawn(ECHO, { conf = { user = "root" }, wrap = { "setpriv", "--reuid", "65534", "--clear-groups" } })
    assert.equal(1, s:wait_exit())
    assert.matches("user: only root can become root", s:log())
    s:forget()
  end)
end)

describe("the unit files", function()
  it("are good in the eyes of systemd", function()
    if os.execute("command -v systemd-analyze >/dev/null") ~= 0 then return pending("needs systemd-analyze") end
    local folder = server.folder()
    -- the files as they are, but for the command, which need not be installed here
    for _, name in ipairs { "rille.service", "rille.socket" } do
      local text = server.read("conf/" .. name):gsub("/usr/local/bin/rille", "/bin/true")
      server.write(name, text)
    end
    local pipe = io.popen(("cd %s && SYSTEMD_UNIT_PATH=%s: systemd-analyze verify --man=no --recursive-errors=no "
      .. './rille.service ./rille.socket 2>&1; echo "status $?"'):format(folder, folder))
    local text = pipe:read("*a")
    pipe:close()
    server.cleanup()
    assert.equal("status 0\n", text)
  end)
end)
