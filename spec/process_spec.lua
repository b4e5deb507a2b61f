-- rille.process: programs that scripts start: what they inherit, what goes in and out, how they end, and that none stays behind.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

-- a sanitizer is for this process alone: not all programs run under it
local HEAD = [[do local f = require "ffi" f.cdef "int unsetenv(const char *);" f.C.unsetenv "LD_PRELOAD" end ]]
  .. [[local process = rille.process local folder = FOLDER local ffi = require "ffi" ]]
  .. [[local function failed(want, ok, err, message) equal(ok, nil) equal(err, want) return message end ]]
  .. [[ffi.cdef "int spec_getpid(void) __asm__(\"getpid\");" ]]
  .. [[local function await(fn) local stop = clock() + 5 * SLOW while not fn() do ]]
  .. [[if clock() > stop then error("it never came about", 2) end rille.sleep(0.002) end end ]]
  -- children of this process, by their states: "S", "Z", ...
  .. [[local function children() local list = "" local p = io.popen("cat /proc/[0-9]*/stat 2>/dev/null") for line in p:lines() do ]]
  .. [[local name, state, parent = line:match "%((.*)%) (%a) (%d+)" ]]
  .. [[local is_ours = tonumber(parent) == ffi.C.spec_getpid() and name ~= "sh" and name ~= "cat" ]]
  .. [[if is_ours then list = list .. state end end p:close() return list end ]]

local function check(code, options)
  server.write("mark", "")
  return inside.check(HEAD:gsub("FOLDER", ("%q"):format(server.folder())) .. code, options)
end

describe("rille.process", function()
  after_each(server.cleanup)

  it("runs a program: how it ended and what it wrote", function()
    check [[
      local status, out, err = process.run { "sh", "-c", "echo out; echo err >&2; exit 3" }
      equal(status.exit, 3) equal(status.signal, nil) equal(out, "out\n") equal(err, "err\n")
      status, out = process.run { "sh", "-c", "kill -9 $$" }
      equal(status.signal, 9) equal(status.exit, nil) equal(out, "")
      status, out, err = process.run { "sh", "-c", "echo a; echo b >&2", stderr = "stdout" }
      equal(out, "a\nb\n") equal(err, nil)
      status, out, err = process.run { "echo", "a b", "", "'c'", stdout = "pipe", stderr = "null" }
      equal(out, "a b  'c'\n") equal(err, nil)
      equal(select(2, process.run { "cat", input = "some text" }), "some text")
      local large = ("0123456789"):rep(90000)
      assert(select(2, process.run { "cat", input = large }) == large)
      equal(process.run { "true", input = large }.exit, 0) -- which does not want it
      equal(select(2, process.run { "cat" }), "") -- stdin is empty
      local b = require("rille.linkbuffer").new()
      b:write(large) b:flush()
      equal(select(2, process.run { "wc", "-c", input = b }), "900000\n")
      equal(select(2, process.run { "wc", "-c", input = b:next(5) }), "5\n")
      b:close()
    ]]
  end)

  it("names what is wrong", function()
    check [[
      local message = failed("not found", process.run { "no-such-program" })
      equal(message, "cannot run no-such-program: No such file or directory")
      message = failed("permission denied", process.spawn { folder .. "/mark" })
      assert(message:find "mark: Permission denied")
      message = failed("not found", process.spawn { "true", cwd = "/nowhere" })
      equal(message, "cannot enter the folder for true: No such file or directory")
      failed("invalid argument", process.spawn { "true", stdin = 9999 })
      message = failed("too large", process.run { "sh", "-c", "exec cat /dev/zero", max_output = 100000 })
      equal(message, "it wrote more than max_output allows")
      failed("too large", process.run { "sh", "-c", "cat /dev/zero >&2", max_output = 100000 })
      equal(#select(2, process.run { "head", "-c", "1000", "/dev/zero", max_output = 1000 }), 1000)
      failed("too large", process.run { "head", "-c", "1001", "/dev/zero", max_output = 1000 })
      local started = clock()
      failed("timeout", process.run { "sh", "-c", "sleep 60 & sleep 60", timeout = 0.1 })
      assert(clock() - started < 5)
      equal(rille.with_timeout(0.05, process.run, { "sleep", "60" }), nil)
      await(function() return children() == "" end)
      raises("the command is missing", process.run, {})
      raises("a table with the command", process.spawn, "ls")
      raises("argument 1: a string", process.spawn, { "ls", 7 })
      raises("argument 0: a string", process.spawn, { "ls\0" })
      raises("there is no option 'stdinn'", process.spawn, { "ls", stdinn = "null" })
      raises("there is no option 'pty'", process.run, { "ls", pty = true })
      raises('stdout: "pipe", "null", "inherit" or', process.spawn, { "ls", stdout = "stdout" })
      raises("'A=B' is no name", process.spawn, { "ls", env = { ["A=B"] = "x" } })
      raises("input and stdin exclude", process.run, { "ls", input = "x", stdin = "null" })
      raises("rows and columns", process.spawn, { "ls", pty = { rows = 0 } })
    ]]
    inside.check([[
      raises("needs a running loop", rille.process.spawn, { "true" })
    ]], { how = "plain" })
  end)

  it("gives a child no signal that is blocked or ignored, and no descriptor but three", function()
    check [[
      local _, out = process.run { "grep", "-E", "SigBlk|SigIgn", "/proc/self/status" }
      local blocked, ignored = out:match "SigBlk:%s*(%x+)\nSigIgn:%s*(%x+)"
      equal(tonumber(blocked, 16), 0)
      equal(bit.band(tonumber(ignored, 16), 0x1000), 0) -- SIGPIPE
      ffi.cdef "int open(const char *, int);"
      local leaky = ffi.C.open("/dev/null", 0) -- without O_CLOEXEC
      local from = io.open(folder .. "/mark")
      local proc = assert(process.spawn { "ls", "/proc/self/fd", stderr = "pipe", stdin = "pipe" })
      equal(proc.stdout:read_string(8), "0\n1\n2\n3\n") -- the last is the folder's own
      equal(proc.stdout:read(), nil)
      proc:wait() proc:close() from:close()
      ffi.cdef "int close(int);" ffi.C.close(leaky)
      equal(select(2, process.run { "sh", "-c", "kill -TERM $$; echo alive" }), "")
      equal(select(2, process.run { "sh", "-c", "trap 'echo caught' USR1; kill -USR1 $$; echo on" }), "caught\non\n")
      local _, nice = process.run { "sh", "-c", "nice" }
      equal(nice, io.popen("nice"):read "*a")
    ]]
  end)

  it("gives it the environment and the folder that are asked for", function()
    check([[
      equal(select(2, process.run { "sh", "-c", "echo $SPEC $MORE" }), "here\n")
      equal(select(2, process.run { "sh", "-c", "echo $SPEC $MORE $N", env = { MORE = "a b", N = 7 } }), "here a b 7\n")
      equal(select(2, process.run { "sh", "-c", "echo $SPEC.$MORE", env = { SPEC = false, MORE = "" } }), ".\n")
      equal(select(2, process.run { "/usr/bin/env", env = { A = "1" }, inherit_env = false }), "A=1\n")
      equal(select(2, process.run { "/usr/bin/env", inherit_env = false }), "")
      equal(select(2, process.run { "pwd", cwd = "/" }), "/\n")
      equal(select(2, process.run { "pwd", cwd = folder }), folder .. "\n")
    ]], { env = { SPEC = "here" } })
  end)

  it("talks to a child over connections", function()
    check [[
      local proc = assert(process.spawn { "cat", stdin = "pipe" })
      assert(proc.pid > 0 and proc.stderr == nil)
      equal(tostring(proc), "process " .. proc.pid)
      for i = 1, 100 do
        proc.stdin:send(i .. "\n")
        equal(proc.stdout:read_line():str(), tostring(i))
      end
      failed("timeout", proc:wait(0.01))
      proc.stdin:close()
      equal(proc.stdout:read(), nil)
      local status = proc:wait(5)
      equal(status.exit, 0) assert(proc:wait() == status)
      proc:close() proc:close()
      assert(proc:wait() == status)
      failed("closed", proc:kill())
    ]]
  end)

  it("takes descriptors, and inherits them", function()
    check [[
      local a, b = rille.pair()
      local fd = b:detach()
      local proc = assert(process.spawn { "sh", "-c", "read x; echo got $x >&2", stdin = fd, stderr = fd, stdout = "null" })
      ffi.cdef "int close(int);" ffi.C.close(fd)
      a:send "it\n"
      equal(a:read_line():str(), "got it")
      equal(proc:wait().exit, 0)
      equal(a:read(), nil)
      proc:close() a:close()
      local status, out = process.run { "echo", "to stdout", stdout = "inherit" }
      equal(status.exit, 0) equal(out, nil)
    ]]
  end)

  it("writes to a child that is gone without dying", function()
    check [[
      local proc = assert(process.spawn { "true", stdin = "pipe" })
      equal(proc:wait().exit, 0)
      local ok, err
      for _ = 1, 100 do
        ok, err = proc.stdin:send "x"
        if not ok then break end
      end
      equal(err, "closed")
      equal(proc.stdin:is_active(), false)
      proc:close()
    ]]
  end)

  it("signals a child, and its group", function()
    check [[
      local proc = assert(process.spawn { "sh", "-c", "trap 'echo hup' HUP; trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done" })
      equal(proc.stdout:read_line():str(), "ready")
      equal(proc:kill "HUP", true)
      equal(proc.stdout:read_line():str(), "hup")
      equal(proc:kill(10), true)
      equal(proc:wait().exit, 7)
      failed("not found", proc:kill "KILL")
      raises("a signal such as", proc.kill, proc, "BREAK")
      raises('"group" expected', proc.kill, proc, 9, "all")
      proc:close()
      proc = assert(process.spawn { "sh", "-c", "sleep 60 & echo $!; wait" })
      local grandchild = tonumber(proc.stdout:read_line():str())
      equal(proc:kill("KILL", "group"), true)
      equal(proc:wait().signal, 9)
      await(function()
        local f = io.open("/proc/" .. grandchild .. "/stat")
        local state = f and f:read("*a"):match "%) (%a)"
        if f then f:close() end
        return not state or state == "Z"
      end)
      proc:close()
    ]]
  end)

  it("lets several tasks wait for one child, and some of them give up", function()
    check [[
      local proc = assert(process.spawn { "cat", stdin = "pipe" })
      local tasks = {}
      for i = 1, 10 do tasks[i] = rille.spawn(function() return proc:wait(i % 2 == 0 and 0.01 or nil) end) end
      rille.sleep(0.05)
      tasks[1]:cancel() tasks[5]:cancel()
      rille.sleep(0.01)
      proc.stdin:close()
      for i = 1, 10 do
        local status, err = tasks[i]:join()
        if i % 2 == 0 then equal(err, "timeout")
        elseif i == 1 or i == 5 then equal(err, "cancelled")
        else equal(status.exit, 0) end
      end
      proc:close()
    ]]
  end)

  it("closes one that is waited for", function()
    check [[
      local proc = assert(process.spawn { "sleep", "60" })
      local waiter = rille.spawn(proc.wait, proc)
      rille.sleep(0.01)
      proc:close()
      equal(waiter:join().signal, 15)
      await(function() return children() == "" end)
    ]]
  end)

  it("leaves no zombie, however a handle goes", function()
    check [[
      for i = 1, 20 do
        local proc = assert(process.spawn { "sleep", "60" })
        if i % 2 == 0 then proc:close() end
      end
      for _ = 1, 20 do assert(process.spawn { "true", stdout = "null" }) end
      await(function() collectgarbage() return children() == "" end)
      local t = rille.spawn(process.run, { "sleep", "60" })
      rille.sleep(0.05)
      t:cancel()
      for _ = 1, 20 do
        t = rille.spawn(process.spawn, { "sleep", "60" })
        rille.yield()
        t:cancel()
      end
      await(function() collectgarbage() return children() == "" end)
    ]]
  end)

  it("does the same where the kernel has no descriptors for processes", function()
    check [[
      require("rille.core").rille_process_use_pidfd(0)
      equal(process.run { "sh", "-c", "exit 4" }.exit, 4)
      failed("timeout", process.run { "sleep", "60", timeout = 0.05 })
      local proc = assert(process.spawn { "sleep", "60" })
      failed("timeout", proc:wait(0.01))
      equal(proc:kill "INT", true)
      equal(proc:wait(5).signal, 2)
      proc:close()
      assert(process.spawn { "sleep", "60" }):close()
      await(function() return children() == "" end)
      rille.sleep(0.05) -- the threads that waited
    ]]
  end)

  it("gives a child a terminal", function()
    check [[
      local proc = assert(process.spawn { "sh", "-c", "tty; stty size; stty -echo; echo ready; read x; echo got $x; exit 5",
        pty = { rows = 30, columns = 100 } })
      equal(proc.stdin, proc.stdout)
      assert(proc.stdout:read_line():str():find "^/dev/pts/")
      equal(proc.stdout:read_line():str(), "30 100")
      equal(proc.stdout:read_line():str(), "ready")
      proc.stdin:send "it\n"
      equal(proc.stdout:read_line():str(), "got it")
      local piece, err = proc.stdout:read()
      equal(piece, nil) equal(err, "closed") -- the hang-up is the end
      equal(proc:wait().exit, 5)
      proc:close()
      proc = assert(process.spawn { "cat", pty = true })
      proc.stdin:send "\3" -- Ctrl-C
      equal(proc:wait(5).signal, 2)
      proc:close()
    ]]
  end)

  it("runs at most limits.processes", function()
    inside.check(HEAD:gsub("FOLDER", "''") .. [[
      local conf = require("rille.config").defaults()
      conf.limits.processes = 3
      return require("rille.server").run_task(conf, "spec@1", function()
        local list = {}
        for i = 1, 3 do list[i] = assert(process.spawn { "sleep", "60" }) end
        local message = failed("full", process.spawn { "true" })
        equal(message, "cannot run true: too many processes run")
        failed("not found", process.spawn { "no-such-program" } and nil, "not found")
        list[1]:kill() list[1]:wait()
        failed("not found", process.spawn { "no-such-program" })
        list[1] = assert(process.spawn { "true" })
        for i = 1, 3 do list[i]:close() end
      end)
    ]], { how = "plain" })
  end)

  it("ends children with the run, those that resist too, but not those that are detached", function()
    local result = check([[
      local one = assert(process.spawn { "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done" })
      one.stdout:read_line()
      local two = assert(process.spawn { "sleep", "60" })
      local three = assert(process.spawn { "sh", "-c", "exec sleep 60", detach = true, stdout = "null" })
      io.stdout:write(("%d %d %d\n"):format(one.pid, two.pid, three.pid)) io.stdout:flush()
      keep = { one, two, three }
    ]], { seconds = 20 })
    local one, two, three = result.out:match("(%d+) (%d+) (%d+)")
    local function is_there(pid)
      local f = io.open("/proc/" .. pid .. "/stat")
      local state = f and f:read("*a"):match "%) (%a)"
      if f then f:close() end
      return state ~= nil and state ~= "Z"
    end
    assert.same({ false, false, true }, { is_there(one), is_there(two), is_there(three) })
    assert.matches("killing 1 processes that did not end in 2.0 s", result.err)
    os.execute("kill " .. three)
  end)

  it("ends the children of a server that is stopped", function()
    local s = server.start([[
      local rille = require "rille"
      return function(conn)
        conn:read_line()
        local proc = assert(rille.process.spawn { "sh", "-c", "echo $$; exec sleep 60", env = { LD_PRELOAD = false } })
        conn:send(proc.stdout:read_line() .. "\n")
        proc:wait()
      end
    ]], { loops = 2 })
    local pids = {}
    for i = 1, 4 do
      local c = s:connect()
      c:send "go\n"
      pids[i] = c:receive_line()
    end
    s:signal "TERM"
    s:wait_log "draining"
    s:stop() -- the second signal: at once
    for i = 1, 4 do assert.is_nil(io.open("/proc/" .. pids[i] .. "/stat")) end
  end)
end)
