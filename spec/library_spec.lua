-- rille.run in a program of one's own: each program is a luajit process, its client is this one.

local client = require "spec.support.client"
local inside = require "spec.support.inside"
local net = require "spec.support.net"

-- A process of a program that serves, and the URLs it listens on.
local function serve(code, count)
  local process = inside.start(code, { how = "plain" })
  local urls
  net.poll_until(function()
    urls = {}
    for url in process.err():gmatch('msg="listening on ([^"]+)"') do urls[#urls + 1] = url end
    return #urls >= (count or 1) or process:has_exited()
  end, 10)
  if #urls < (count or 1) then error("it does not listen:\n" .. process.out() .. process.err(), 0) end
  return process, unpack(urls)
end

local function end_well(process, options)
  return inside.verify(inside.finish(process), options)
end

-- A configuration for one run, ended by its own on_start.
local BRIEFLY = [[
  local function conf(more)
    local c = { log = { level = "warn" }, servers = { { listen = "tcp://127.0.0.1:0", script = function() end } } }
    for k, v in pairs(more or {}) do c[k] = v end
    return c
  end
  local function briefly(fn)
    local script = { on_request = print, on_start = function() rille.spawn(function()
      local ok, err = pcall(fn)
      rille.shutdown(0)
      if not ok then error(err, 0) end
    end) end }
    return rille.run(conf { servers = { { listen = "tcp://127.0.0.1:0", script = script } } })
  end
]]

describe("rille.run", function()
  after_each(function()
    client.close_all()
    inside.cleanup()
  end)

  it("serves a closure until rille.shutdown, then returns true", function()
    local process, url = serve [[
      local seen = {}
      print(rille.run { servers = { { listen = "tcp://127.0.0.1:0", script = function(conn)
        local line = conn:read_line():str()
        seen[#seen + 1] = line
        conn:write(line:upper() .. "\n")
        if line == "bye" then rille.shutdown() end
      end } } })
      print(table.concat(seen, " "))
    ]]
    local c = client.connect(url)
    assert.equal("HELLO", c:send("hello\n"):receive_line())
    assert.equal("BYE", c:send("bye\n"):receive_line())
    assert.same({ "", "closed" }, { c:receive_all() })
    assert.equal("true\nhello bye\n", end_well(process).out)
  end)

  it("serves until SIGTERM, and SIGINT as well", function()
    for _, signal in ipairs { "TERM", "INT" } do
      local process, url = serve [[
        print(rille.run { servers = { { listen = "tcp://127.0.0.1:0", script = function(conn)
          conn:write(conn:next(conn:len()))
        end } } })
      ]]
      local c = client.connect(url)
      assert.equal("x", c:send("x"):receive(1))
      process:signal(signal)
      c:receive_all()
      assert.equal("true\n", end_well(process).out)
    end
  end)

  it("serves tables of hooks, scripts by path with options, and modules, at many addresses", function()
    inside.write("helper.lua", "return { suffix = '!' }")
    local path = inside.write("by_path.lua", "local options = ...\nlocal helper = require 'helper'\n"
      .. "return function(conn) conn:write(options.greeting .. conn:read_line() .. helper.suffix) conn:close() end\n")
    inside.write("by_name.lua", "return function(conn) conn:write('module ' .. conn:read_line()) conn:close() end\n")
    local process, a, b, c = serve(([[
      package.path = %q .. "/?.lua;" .. package.path
      local path, cpath = package.path, package.cpath
      print(rille.run { servers = {
        { listen = "tcp://127.0.0.1:0", script = { on_connect = function(conn) conn:send("hi ") end,
          on_request = function(conn) conn:write("table " .. conn:read_line()) conn:close() end } },
        { listen = "tcp://127.0.0.1:0", script = %q, options = { greeting = "path " } },
        { listen = "tcp://127.0.0.1:0", script = "by_name" },
      } })
      equal(package.path, path) equal(package.cpath, cpath)
    ]]):format(inside.folder(), path), 3)
    assert.equal("hi table x", (client.connect(a):send("x\n"):receive_all()))
    assert.equal("path y!", (client.connect(b):send("y\n"):receive_all()))
    assert.equal("module z", (client.connect(c):send("z\n"):receive_all()))
    process:signal("TERM")
    assert.equal("true\n", end_well(process).out)
  end)

  it("calls on_stage before it serves, which may park, and does not start when that refuses", function()
    inside.check(BRIEFLY .. [[
      local order = {}
      local function script(answer)
        return { on_request = print, on_stage = function() rille.sleep(0.01) order[#order + 1] = "stage" return answer end,
          on_start = function() order[#order + 1] = "start" rille.spawn(rille.shutdown, 0) end }
      end
      local ok, message = rille.run(conf { servers = { { listen = "tcp://127.0.0.1:0", script = script() } } })
      equal(ok, true, message)
      equal(table.concat(order, " "), "stage start")
      ok, message = rille.run(conf { servers = { { listen = "tcp://127.0.0.1:0", script = script(false) } } })
      equal(ok, nil) equal(message, "not started: see the log")
      equal(table.concat(order, " "), "stage start stage")
    ]], { how = "plain", errors = true })
  end)

  it("leaves the program's print to stdout, and its coroutine, print, path and signals as they were", function()
    local r = inside.check(BRIEFLY .. [[
      local function signals()
        local file = io.open("/proc/self/status")
        local text = file:read("*a")
        file:close()
        -- 28 signals in 7 digits; above 31 they are the C library's own
        return text:match("SigBlk:[^\n]*") .. text:match("SigIgn:.-(%x%x%x%x%x%x%x)\n") .. text:match("Threads:[^\n]*")
      end
      local before = { print, coroutine.wrap, coroutine.yield, coroutine.resume, coroutine.status, package.path, signals(),
        math.random, os.exit, getmetatable("").__index }
      assert(briefly(function() print "printed" end))
      local after = { print, coroutine.wrap, coroutine.yield, coroutine.resume, coroutine.status, package.path, signals(),
        math.random, os.exit, getmetatable("").__index }
      for i = 1, #before do equal(after[i], before[i], i) end
    ]], { how = "plain" })
    assert.equal("printed\n", r.out)
  end)

  it("leaves the program its signals: SIGTERM ends it afterwards", function()
    local process = inside.start(BRIEFLY .. [[
      assert(briefly(function() end))
      io.stdout:write("done\n")
      io.stdout:flush()
      require("ffi").cdef "int poll(void *, unsigned long, int);"
      require("ffi").C.poll(nil, 0, 20000)
    ]], { how = "plain" })
    assert(net.poll_until(function() return process.out():find("done") end))
    process:signal("TERM")
    assert.equal("signal 15", process:wait_exit())
  end)

  it("may run again, as often as one likes, and leaves nothing", function()
    inside.check(BRIEFLY .. [[
      jit.off() -- traces are no leak
      local count = 0
      local function one()
        assert(briefly(function()
          local a, b = rille.pair()
          rille.spawn(function() b:send(a and "x") rille.sleep(60) end)
          equal(a:read():str(), "x")
          rille.every(0.001, function() rille.sleep(60) end)
          rille.spawn(function() pcall(rille.sleep, 60) rille.spawn(rille.sleep, 60) pcall(rille.sleep, 60) end)
          rille.sleep(0.003)
          count = count + 1
        end))
      end
      for _ = 1, 3 do one() end
      collectgarbage() collectgarbage()
      local before = collectgarbage "count"
      for _ = 1, 20 do one() end
      collectgarbage() collectgarbage()
      equal(count, 23)
      local grown = collectgarbage "count" - before
      if grown > 100 then error("grew by " .. grown .. " KiB") end
    ]], { how = "plain" })
  end)

  it("keeps connections of an earlier run closed, and their ends harmless", function()
    inside.check(BRIEFLY .. [[
      local kept, parked
      assert(briefly(function()
        local a, b = rille.pair()
        local c, d = rille.pair()
        c:on_close(function() rille.sleep(60) end)
        kept = { a, b, c, d }
        parked = rille.spawn(function() return a:read() end)
        rille.yield()
      end))
      for _, conn in ipairs(kept) do
        equal(conn:is_active(), false)
        equal(conn:write("x"), nil) equal(conn:read(), nil) equal(conn:len(), 0)
        equal(conn:close(), true) equal(conn:abort(), true)
      end
      local ok, err = parked:join()
      equal(ok, nil)
      assert(briefly(function()
        local a, b = rille.pair()
        kept = nil
        for _ = 1, 3 do collectgarbage() end -- those of the first run go now
        rille.sleep(0.005)
        equal(a:is_active(), true) equal(b:is_active(), true)
        a:send("x")
        equal(b:read():str(), "x")
        a:close() b:close()
      end))
    ]], { how = "plain", errors = false })
  end)

  it("keeps timers of an earlier run from touching those of a later one", function()
    inside.check(BRIEFLY .. [[
      local kept, never = {}, 0
      assert(briefly(function()
        for i = 1, 5 do kept[i] = rille.after(60, function() never = never + 1 end) end
        kept[6] = rille.every(60, function() never = never + 1 end)
      end))
      assert(briefly(function()
        local tasks = {}
        for i = 1, 10 do tasks[i] = rille.spawn(function() rille.sleep(0.01) return i end) end
        rille.yield()
        for _, timer in ipairs(kept) do timer:cancel() end
        equal(rille.loop.stats().watches, 10)
        for i = 1, 10 do equal(tasks[i]:join(), i) end
      end))
      equal(never, 0)
    ]], { how = "plain" })
  end)

  it("gives nil and a message for a wrong configuration, and may be called again", function()
    local r = inside.check(BRIEFLY .. [[
      print(rille.run())
      print(rille.run {})
      print(rille.run(conf { sevrers = {} }))
      print(rille.run(conf { loops = 2 }))
      for _, script in ipairs { false, 42, {}, { on_request = 1 }, { on_request = print, on_close = "x" }, "no_such_module",
          "./none.lua" } do
        print(rille.run(conf { servers = { { listen = "tcp://127.0.0.1:0", script = script } } }))
      end
      print(rille.run(conf { servers = { { listen = "tcp://nowhere", script = print } } }))
      print(rille.run(conf { log = { file = "/no/such/folder/log" } }))
      print(briefly(function() end))
    ]], { how = "plain" })
    local lines = {}
    for line in r.out:gmatch("[^\n]+") do lines[#lines + 1] = line end
    assert.equal(14, #lines, r.out)
    for i = 1, 13 do assert.truthy(lines[i]:find("^nil\t%S"), lines[i]) end
    assert.truthy(lines[3]:find("sevrers", 1, true))
    assert.truthy(lines[4]:find("servers[1].script: got a function; with 2 loops expected a path", 1, true), lines[4])
    assert.truthy(lines[10]:find("no_such_module", 1, true))
    assert.truthy(lines[11]:find("./none.lua", 1, true))
    assert.truthy(lines[13]:find("/no/such/folder/log", 1, true))
    assert.equal("true", lines[14])
  end)

  it("gives nil and a message for a busy address, closes what it had opened, and may be called again", function()
    local r = inside.check(BRIEFLY .. [[
      assert(briefly(function()
        local taken = rille.listen("tcp://127.0.0.1:0", print)
        local free = rille.listen("tcp://127.0.0.1:0", print)
        busy, open = taken:address(), free:address()
        free:close()
        print(rille.run(conf()))
      end))
      -- a second program holds it
      local holder = io.popen("exec luajit - 2>/dev/null << 'END'\n" .. ([=[
        package.path = %q
        local rille = require "rille"
        rille.run { log = { level = "off" }, servers = { { listen = %q, script = {
          on_request = print,
          on_start = function() io.stdout:write("here\n") io.stdout:flush() rille.after(20, rille.shutdown)
            rille.spawn(function() while not io.open(%q) do rille.sleep(0.002) end rille.shutdown(0) end)
          end } } } }
      ]=]):format(package.path, busy, arg[2] .. ".go") .. "\nEND\n")
      equal(holder:read(), "here")
      local ok, message = rille.run(conf { servers = { { listen = { open, busy }, script = print } } })
      equal(ok, nil)
      print(message)
      assert(message:find(busy:match(":(%d+)$"), 1, true), message)
      io.open(arg[2] .. ".go", "w"):close()
      holder:read("*a")
      holder:close()
      ok, message = rille.run(conf { servers = { { listen = { open, busy }, script = {
        on_request = print, on_start = function() rille.after(0, function() rille.shutdown(0) end) end } } } })
      equal(message, nil)
      print(ok)
    ]], { how = "plain" })
    assert.truthy(r.out:find("a loop runs in this Lua state already", 1, true), r.out)
    assert.truthy(r.out:find("true\n$"), r.out)
  end)

  it("does not start when on_start says so, or fails", function()
    local r = inside.check(BRIEFLY .. [[
      local function start(fn)
        return rille.run(conf { servers = { { listen = "tcp://127.0.0.1:0", script = { on_request = print, on_start = fn } } } })
      end
      print(start(function() return false end))
      print(start(function() error "no database" end))
      print(start(function(server)
        equal(#server.addresses, 1) equal(server.loop, 1) equal(server.loops, 1)
        assert(server.addresses[1]:find("^tcp://127.0.0.1:%d+$"), server.addresses[1])
        rille.sleep(0.001) -- it may park
        rille.spawn(rille.shutdown)
      end))
    ]], { how = "plain", errors = true })
    assert.equal("nil\tnot started: see the log\nnil\tnot started: see the log\ntrue\n", r.out)
    assert.truthy(r.err:find("on_start returned false", 1, true))
    assert.truthy(r.err:find("on_start failed: [^\n]*no database"))
  end)

  it("hands its log lines to log.to", function()
    local r = inside.check(BRIEFLY .. [[
      local lines = {}
      assert(rille.run(conf { log = { level = "info", to = function(line) lines[#lines + 1] = line end },
        servers = { { listen = "tcp://127.0.0.1:0", script = { on_request = print, on_start = function()
          rille.spawn(function() rille.log.warn("hello %d", 5) rille.shutdown(0) end) end } } } }))
      for _, line in ipairs(lines) do print(line) end
    ]], { how = "plain" })
    assert.truthy(r.out:find('level=info msg="listening on tcp://127.0.0.1:', 1, true), r.out)
    assert.truthy(r.out:find('level=warn msg="hello 5"', 1, true), r.out)
    assert.equal("", r.err)
  end)

  it("logs an error of a handler, closes that connection, and goes on", function()
    local process, url = serve [[
      assert(rille.run { servers = { { listen = "tcp://127.0.0.1:0", script = function(conn)
        local line = conn:read_line():str()
        if line == "fail" then error "in the handler" end
        conn:write(line .. "\n")
      end } } })
    ]]
    local good, bad = client.connect(url), client.connect(url)
    bad:send("fail\n"):receive_all()
    assert.equal("x", good:send("x\n"):receive_line())
    process:signal("TERM")
    local r = end_well(process, { errors = true })
    assert.truthy(r.err:find("on_request of conn %d+ failed: [^\n]*in the handler[^\n]*traceback"))
  end)
end)

describe("rille.shutdown", function()
  after_each(function()
    client.close_all()
    inside.cleanup()
  end)

  it("calls the functions of on_shutdown in tasks, last added first, whatever one raises", function()
    local r = inside.check(BRIEFLY .. [[
      assert(rille.run(conf { servers = { { listen = "tcp://127.0.0.1:0", script = { on_request = print,
        on_start = function()
          rille.on_shutdown(function() print "first added" end)
          rille.on_shutdown(function() error "of a hook" end)
          rille.on_shutdown(function() rille.sleep(0.01) print "last added, may park" end)
          local err = raises("bad argument #1 to 'on_shutdown' (function expected, got nil)", function() rille.on_shutdown() end)
          rille.spawn(rille.shutdown)
        end } } } }))
      print "returned"
    ]], { how = "plain", errors = true })
    assert.equal("last added, may park\nfirst added\nreturned\n", r.out)
    assert.truthy(r.err:find("on_shutdown failed: [^\n]*of a hook"))
  end)

  it("gives connections so much time to finish, and no more", function()
    local process, url = serve [[
      local from
      assert(rille.run { drain_timeout = 60, servers = { { listen = "tcp://127.0.0.1:0", script = {
        on_request = function(conn)
          local line = conn:read_line():str()
          if line == "stop" then from = clock() rille.shutdown(0.3) end
          if line == "quick" then rille.shutdown(0.3) rille.sleep(0.02) conn:write("done\n") return end
          conn:write("working\n")
          conn:flush()
          rille.sleep(60)
        end,
        on_close = function(conn, err) print("closed", err) end,
      } } } })
      print(clock() - from >= 0.3, clock() - from < 5 * SLOW)
    ]]
    local idle, slow, quick, stopper = client.connect(url), client.connect(url), client.connect(url), client.connect(url)
    slow:send("slow\n")
    assert.equal("working", slow:receive_line())
    stopper:send("stop\n")
    assert.equal("working", stopper:receive_line())
    quick:send("quick\n")
    assert.equal("", (idle:receive_all())) -- at once, it had nothing to do
    slow:receive_all()
    quick:receive_all()
    local r = end_well(process)
    local _, closed = r.out:gsub("closed\tshutdown\n", "")
    assert.truthy(closed >= 3, r.out)
    assert.truthy(r.out:find("true\ttrue\n$"), r.out)
    assert.truthy(r.err:find("connections that have not finished", 1, true))
  end)

  it("lets a handler that is quick enough finish", function()
    local process, url = serve [[
      assert(rille.run { servers = { { listen = "tcp://127.0.0.1:0", script = function(conn)
        conn:read_line()
        rille.shutdown(5 * SLOW)
        rille.sleep(0.02)
        conn:write("answer\n")
      end } } })
    ]]
    local c = client.connect(url):send("x\n")
    assert.same({ "answer\n", "closed" }, { c:receive_all() })
    end_well(process)
  end)

  it("cancels what is still parked, so that it cleans up", function()
    local r = inside.check(BRIEFLY .. [[
      assert(briefly(function()
        rille.spawn(function()
          local ok, err = pcall(rille.sleep, 60)
          print("cleaning up", err == rille.cancelled, (select(2, pcall(rille.sleep, 0))) == rille.cancelled)
        end)
        rille.spawn(function()
          local a, b = rille.pair()
          print("read", a:read())
        end)
        rille.sleep(0.001)
      end))
    ]], { how = "plain" })
    assert.truthy(r.out:find("cleaning up\ttrue\ttrue", 1, true), r.out)
  end)

  it("raises for a time that is none, and without a loop", function()
    inside.check [[
      local err = raises("bad argument to 'shutdown' (seconds", function()
        rille.shutdown("soon")
      end)
      equal(err:match(":(%d+):"), "3")
    ]]
    inside.check([[
      raises("rille.shutdown needs a running loop", function() rille.shutdown() end)
      raises("rille.on_shutdown needs a running loop", function() rille.on_shutdown(print) end)
      raises("rille.pair needs a running loop", function() rille.pair() end)
      raises("rille.listen needs a running loop", function() rille.listen("tcp://127.0.0.1:0", print) end)
    ]], { how = "plain" })
  end)
end)
