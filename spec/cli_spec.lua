-- The command, run as a user runs it: what it prints where, and its exit status.

local server = require "spec.support.server"

local RILLE = server.root .. "/bin/rille"

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function mkdir(name)
  local path = server.folder() .. "/" .. name
  assert(os.execute("mkdir -p " .. quote(path)) == 0)
  return path
end

-- Run the command with these arguments in a folder (the spec's own): exit status, stdout, stderr.
local function rille_in(folder, ...)
  local words = {}
  for i, word in ipairs { ... } do words[i] = quote(word) end
  local out, err = server.folder() .. "/.out", server.folder() .. "/.err"
  local status = os.execute(("cd %s && timeout -k 1 60 %s %s >%s 2>%s </dev/null"):format(
    quote(folder), quote(RILLE), table.concat(words, " "), quote(out), quote(err)))
  return math.floor(status / 256), server.read(out), server.read(err)
end

local function rille(...)
  return rille_in(server.folder(), ...)
end

local function count_lines(text)
  local _, n = text:gsub("\n", "")
  return n
end

-- A wrong call: status 2, nothing on stdout, one line that says what is wrong and one that says where help is.
local function assert_usage(message, help, ...)
  local status, out, err = rille(...)
  assert.equal(message .. "\ntry '" .. help .. "'\n", err)
  assert.equal("", out)
  assert.equal(2, status)
end

-- Something else that is wrong: status 1, nothing on stdout, at most three lines, no traceback.
local function assert_failure(pattern, ...)
  local status, out, err = rille(...)
  assert.matches(pattern, err)
  assert.matches("^rille: ", err)
  assert.is_true(count_lines(err) <= 3)
  assert.not_matches("traceback", err)
  assert.equal("", out)
  assert.equal(1, status)
end

local ECHO = "return function(conn) conn:write(conn:next(conn:len())) end\n"

-- `rille run` with these arguments, as a server that listens.
local function start(...)
  local process = server.spawn(nil, { command = { RILLE, "run", ... } })
  process:wait_listening(1)
  return process
end

-- The same in a folder.
local function start_in(folder, ...)
  local process = server.spawn(nil, { command = {
    "sh", "-c", 'cd "$0" && exec "$@"', folder, RILLE, "run", ... } })
  process:wait_listening(1)
  return process
end

describe("the command rille", function()
  after_each(server.cleanup)

  describe("called in a wrong way", function()
    it("says what is missing", function()
      assert_usage("rille: a command is missing", "rille --help")
      assert_usage("rille exec: a file is missing: rille exec FILE", "rille exec --help", "exec")
      assert_usage("rille -e: the code is missing: rille -e CODE", "rille -e --help", "-e")
      assert_usage("rille run: --conf needs a value: --conf FILE", "rille run --help", "run", "--conf")
      assert_usage("rille run: --listen needs a value: --listen URL", "rille run --help", "run", "x.lua", "--listen", "--dev")
      assert_usage("rille run: an address is missing: rille run SCRIPT --listen URL", "rille run --help", "run", "x.lua")
      assert_usage("rille run: --listen needs a script: rille run SCRIPT --listen URL", "rille run --help",
        "run", "--listen", ":0")
      assert_usage("rille run: options after -- need a script: rille run SCRIPT --listen URL -- KEY=VALUE",
        "rille run --help", "run", "--", "a=b")
    end)

    it("says what it does not know, and what may be meant", function()
      assert_usage("rille: unknown command 'rnu'; did you mean 'run'?", "rille --help", "rnu")
      assert_usage("rille: unknown command 'frobnicate'", "rille --help", "frobnicate")
      assert_usage("rille: unknown option '--hlep'; did you mean '--help'?", "rille --help", "--hlep")
      assert_usage("rille: unknown option '-x'", "rille --help", "-x")
      assert_usage("rille run: unknown option '--confg'; did you mean '--conf'?", "rille run --help", "run", "--confg=x")
      assert_usage("rille check: unknown option '--listen'", "rille check --help", "check", "--listen", ":0")
      assert_usage("rille test: unknown option '-o'", "rille test --help", "test", "-o", "TAP")
    end)

    it("says what is too much", function()
      assert_usage("rille run: surplus argument 'b.lua'", "rille run --help", "run", "a.lua", "b.lua", "--listen", ":0")
      assert_usage("rille run: --conf and a script ('a.lua') exclude each other", "rille run --help",
        "run", "a.lua", "--conf", "c.lua")
      assert_usage("rille check: --conf and a script ('a.lua') exclude each other", "rille check --help",
        "check", "a.lua", "--conf", "c.lua")
      assert_usage("rille run: --conf is given twice", "rille run --help", "run", "--conf", "a", "--conf", "b")
      assert_usage("rille run: --dev takes no value", "rille run --help", "run", "--dev=1")
      assert_usage("rille: surplus argument 'x'", "rille --help", "--version", "x")
    end)
  end)

  describe("asked for help", function()
    it("prints it to stdout", function()
      local status, out, err = rille("--help")
      assert.equal(0, status)
      assert.matches("^usage: rille COMMAND", out)
      assert.equal("", err)
      assert.equal(out, select(2, rille("-h")))
      assert.equal(out, select(2, rille("help")))
    end)

    for _, name in ipairs { "run", "check", "exec", "-e", "test" } do
      it("prints that of " .. name, function()
        local status, out, err = rille(name, "--help")
        assert.equal(0, status)
        assert.matches("usage: rille " .. name, out, 1, true)
        assert.equal("", err)
        assert.equal(out, select(2, rille(name, "-h")))
        assert.equal(out, select(2, rille("help", name)))
      end)
    end

    it("keeps to the options it names", function()
      local _, out = rille("run", "--help")
      for option in out:gmatch("\n  (%-%-[%w-]+)") do
        assert.not_matches("unknown option", select(3, rille("run", option, "--", "x")))
      end
    end)
  end)

  it("prints the versions of Rille and LuaJIT", function()
    local status, out, err = rille("--version")
    assert.equal(0, status)
    assert.matches("^rille %d+%.%d+%.%d+ %(LuaJIT 2%.1[^\n]*%)\n$", out)
    assert.equal("", err)
  end)

  describe("run", function()
    it("serves a script at an address, and ends with status 0 at SIGTERM", function()
      local one = start(server.write("echo.lua", ECHO), "--listen", "tcp://127.0.0.1:0")
      assert.equal("hello", one:connect():exchange("hello"))
      one:stop()
    end)

    it("is the process that was started, and stops at SIGINT as well", function()
      local one = start(server.write("echo.lua", ECHO), "--listen=tcp://127.0.0.1:0")
      assert.matches("luajit", io.popen("readlink /proc/" .. one.pid .. "/exe"):read("*l"))
      one:signal("INT")
      assert.equal(0, one:wait_exit())
      one:check_end()
      one:forget()
    end)

    it("serves a script at many addresses", function()
      local path = server.folder() .. "/s"
      local one = start(server.write("echo.lua", ECHO), "--listen", "127.0.0.1:0", "--listen", "unix://" .. path)
      one:wait_listening(2)
      for _, url in ipairs(one.urls) do assert.equal("x", one:connect(nil, url):exchange("x")) end
    end)

    it("hands what follows -- to the script as options", function()
      local script = server.write("options.lua", [[
        local options, parts = ..., {}
        for _, key in ipairs { "a", "b", "c", "d", "e", "f", "g" } do
          parts[#parts + 1] = type(options[key]):sub(1, 1) .. ":" .. tostring(options[key])
        end
        return { on_connect = function(conn) conn:send(table.concat(parts, " ") .. "\n") end, on_request = function() end }]])
      local one = start(script, "--listen", "127.0.0.1:0", "--", "a=x=y", "b=-12", "c=0.5", "d=007", "e=true", "f=", "g=1e3")
      assert.equal("s:x=y n:-12 n:0.5 s:007 b:true s: s:1e3", one:connect():receive_line())
    end)

    it("serves a configuration, with paths relative to its folder, from any folder", function()
      mkdir("etc")
      server.write("echo.lua", ECHO)
      server.write("etc/conf.lua", 'return { servers = { { listen = "127.0.0.1:0", script = "../echo.lua" } } }')
      local one = start_in("/", "--conf", server.folder() .. "/etc/conf.lua")
      assert.equal("hello", one:connect():exchange("hello"))
    end)

    it("calls a server by its name", function()
      server.write("named.lua", "return { on_start = function(s) print('started', s.label) end, on_request = function() end }")
      server.write("conf.lua", 'return { servers = { { name = "front.door", listen = "127.0.0.1:0", script = "./named.lua" } } }')
      local one = start_in(server.folder(), "--conf", "conf.lua")
      one:wait_log("msg=\"[^\n]*started[^\n]*front.door@1\"[^\n]*script=front.door@1")
    end)

    it("takes conf/rille.lua of its folder without arguments, and writes its banner when it listens", function()
      mkdir("conf")
      server.write("echo.lua", ECHO)
      server.write("conf/rille.lua", [[return { banner = { "first", "second" }, servers = {
        { listen = "127.0.0.1:0", script = "../echo.lua" }, { listen = "127.0.0.1:0", script = "../echo.lua" } } }]])
      local one = start_in(server.folder())
      one:wait_listening(2)
      one:wait_log("listening[^\n]*\nfirst\nsecond\n")
      assert.equal(1, one:count_log("first\n"))
    end)

    it("keeps the banner out of a log for machines", function()
      mkdir("conf")
      server.write("echo.lua", ECHO)
      server.write("conf/rille.lua",
        'return { banner = "first", servers = { { listen = "127.0.0.1:0", script = "../echo.lua" } } }')
      local one = server.spawn(nil, { command = {
        RILLE, "run", "--conf", server.folder() .. "/conf/rille.lua", "--log-format", "json" } })
      one:wait_log('"msg":"listening on tcp://127.0.0.1:%d+"')
      one:signal("TERM")
      assert.equal(0, one:wait_exit())
      one:forget()
      for line in one:log():gmatch("[^\n]+") do assert.matches("^{.*}$", line) end
    end)

    it("logs more for developers, or what --log-level says", function()
      local script = server.write("noisy.lua", 'require("rille").log.debug("detail") return function() end')
      local one = start(script, "--listen", "127.0.0.1:0", "--dev")
      one:wait_log("level=debug msg=\"?detail")
      assert.equal(0, start(script, "--listen", "127.0.0.1:0"):count_log("detail"))
      local quiet = start(script, "--listen", "127.0.0.1:0", "--dev", "--log-level", "info")
      assert.equal(0, quiet:count_log("detail"))
    end)

    it("says in a line which value is wrong", function()
      local echo = server.write("echo.lua", ECHO)
      assert_failure('^rille: %-%-listen: bad address "tpc://127.0.0.1:1": unknown scheme', "run", echo, "--listen", "tpc://127.0.0.1:1")
      assert_failure('^rille: %-%-loops: got 400; expected a whole number from 1 to 256, or "auto"\n$',
        "run", echo, "--listen", ":0", "--loops", "400")
      assert_failure('^rille: %-%-log%-level: got "loud"; expected "debug"', "run", echo, "--listen", ":0", "--log-level", "loud")
      assert_failure("^rille: option 'verbose': expected key=value\n$", "run", echo, "--listen", ":0", "--", "verbose")
      assert_failure("^rille: cannot open no.lua: No such file or directory\n$", "run", "--conf", "no.lua")
      server.write("bad.lua", "return {\n  sevrers = {} }")
      assert_failure("^rille: bad.lua:2: sevrers: unknown key; did you mean 'servers'%?\n$", "run", "--conf", "bad.lua")
    end)

    it("says in a line which script cannot be served", function()
      assert_failure("^rille: cannot open script no.lua: no such file\n$", "run", "no.lua", "--listen", "127.0.0.1:0")
      assert_failure("^rille: cannot find script nomodule: ", "run", "nomodule", "--listen", "127.0.0.1:0")
      server.write("syntax.lua", "x = = 1")
      assert_failure("syntax.lua:1: unexpected symbol near '='\n$", "run", "syntax.lua", "--listen", "127.0.0.1:0")
      server.write("number.lua", "return 1")
      assert_failure("script number.lua returned a number", "run", "number.lua", "--listen", "127.0.0.1:0")
      server.write("raises.lua", "local x\nx.y = 1")
      assert_failure("raises.lua:2: attempt to index local 'x'[^\n]*\nrille: `rille check raises.lua` shows where\n$",
        "run", "raises.lua", "--listen", "127.0.0.1:0")
    end)

    it("says in a line which address is taken", function()
      local one = start(server.write("echo.lua", ECHO), "--listen", "127.0.0.1:0")
      assert_failure("^rille: [^\n]*" .. one.port .. "[^\n]*\n$", "run", "echo.lua", "--listen", "127.0.0.1:" .. one.port)
    end)
  end)

  describe("check", function()
    it("says ok to a configuration and each of its scripts, without binding their addresses", function()
      local one = start(server.write("echo.lua", ECHO), "--listen", "127.0.0.1:0")
      local busy = ('return { servers = { { listen = "127.0.0.1:%d", script = "%s/echo.lua" },\n'
        .. '{ listen = ":0", script = "./second.lua" } } }'):format(one.port, server.folder())
      server.write("conf.lua", busy)
      server.write("second.lua", ECHO)
      local status, out, err = rille("check", "--conf", "conf.lua")
      assert.equal("", err)
      assert.equal(("ok conf.lua\nok %s/echo.lua\nok second.lua\n"):format(server.folder()), out)
      assert.equal(0, status)
    end)

    it("says ok to the configuration that comes with Rille, from any folder", function()
      local status, out, err = rille_in("/", "check")
      assert.equal("", err)
      assert.matches("^ok [^\n]*conf/rille.lua\nok [^\n]*scripts/hello.lua\nok [^\n]*scripts/echo.lua\n$", out)
      assert.equal(0, status)
    end)

    it("loads a script with its options", function()
      server.write("needs.lua", "local options = ... assert(options.port == 80, 'no port') return function() end")
      assert.equal(0, (rille("check", "needs.lua", "--", "port=80")))
      local status, _, err = rille("check", "needs.lua")
      assert.equal(1, status)
      assert.matches("needs.lua:1: no port", err)
    end)

    it("shows the traceback of a script that fails", function()
      server.write("raises.lua", "local function deep() error('broken') end\ndeep()")
      local status, out, err = rille("check", "raises.lua")
      assert.equal(1, status)
      assert.equal("", out)
      assert.matches("raises.lua:1: broken\nstack traceback:\n.*raises.lua:2: in main chunk", err)
    end)

    describe("of on_stage and selftest", function()
      -- a script whose hooks have these bodies
      local function hooks(selftest, on_stage)
        server.write("asked.lua", ([[
          local rille = require "rille"
          local seen = {}
          return {
            on_request = function() end, on_start = function() error("not called") end,
            on_stage = function() %s end, selftest = function() %s end,
          }]]):format(on_stage or "", selftest))
      end

      local function check_asked()
        return rille("check", "asked.lua")
      end

      local function check_in_time(stage_timeout)
        server.write("conf.lua", ('return { servers = { { listen = ":0", script = "asked.lua", reload = { stage_timeout = "%s" } } } }')
          :format(stage_timeout))
        return rille("check", "--conf", "conf.lua")
      end

      it("runs them one after the other, on a loop", function()
        hooks("local a, b = rille.pair() a:send('x\\n') assert(b:read_line():str() == seen[1])", "rille.sleep(0.01) seen[1] = 'x'")
        local status, out, err = check_asked()
        assert.equal("", err)
        assert.equal("ok asked.lua\n", out)
        assert.equal(0, status)
      end)

      it("fails with one that raises, refuses, or ends before it has answered", function()
        for body, expected in pairs {
          ["error('broken')"] =
            "^rille: script asked.lua: selftest failed: asked.lua:5: broken\nstack traceback:\n.*asked.lua:5: in function",
          ["return false"] = "^rille: script asked.lua: selftest returned false\n$",
          ["return nil, 'no peer'"] = "^rille: script asked.lua: selftest failed: no peer\n$",
          ["rille.shutdown() rille.sleep(1)"] = "^rille: script asked.lua: on_stage or selftest was cancelled\n$",
          ["os.exit(0)"] = "^rille: script asked.lua ended the process that ran its on_stage and selftest by itself\n$",
          ["require('ffi').cdef 'int raise(int);' require('ffi').C.raise(9)"] =
            "^rille: script asked.lua ended the process that ran its on_stage and selftest with signal 9\n$",
        } do
          hooks(body)
          local status, out, err = check_asked()
          assert.matches(expected, err)
          assert.equal("", out)
          assert.equal(1, status)
        end
        hooks("", "return false")
        assert.matches("on_stage returned false", select(3, check_asked()))
      end)

      it("fails with one that does not return in time, parked or not", function()
        hooks("rille.sleep(100)")
        local status, out, err = check_in_time("100ms")
        assert.matches("^rille: script [^\n]*asked.lua: selftest did not return in time: timeout\nstack traceback:\n", err)
        assert.matches("asked.lua:5: in function", err)
        assert.equal("ok conf.lua\n", out)
        assert.equal(1, status)
        hooks("while true do end")
        status, out, err = check_in_time("100ms")
        assert.equal("ok conf.lua\n", out)
        assert.matches("^rille: script [^\n]*asked.lua: on_stage and selftest did not return within 0.1 s\n$", err)
        assert.equal(1, status)
      end)

      it("leaves nothing that they have started", function()
        hooks("rille.spawn(function() rille.sleep(100) end) " .. [[
          local proc = assert(rille.process.spawn { "sleep", "100" })
          local f = assert(io.open("pid", "w")) f:write(proc.pid) f:close()]])
        assert.equal(0, (check_asked()))
        local pid = server.read(server.folder() .. "/pid")
        assert.matches("^%d+$", pid)
        assert.not_equal(0, os.execute("kill -0 " .. pid .. " 2>/dev/null"))
      end)
    end)

    it("fails with a script that ends its process", function()
      server.write("exits.lua", "os.exit(0)")
      assert_failure("^rille: script exits.lua ended the process that loaded it by itself\n$", "check", "exits.lua")
    end)

    it("goes on with the other scripts of a configuration", function()
      server.write("bad.lua", "return 1")
      server.write("good.lua", ECHO)
      server.write("conf.lua",
        'return { servers = { { listen = ":0", script = "bad.lua" }, { listen = ":0", script = "good.lua" } } }')
      local status, out, err = rille("check", "--conf", "conf.lua")
      assert.equal(1, status)
      assert.equal("ok conf.lua\nok good.lua\n", out)
      assert.matches("^rille: script bad.lua returned a number", err)
    end)

    it("refuses a configuration in a line", function()
      server.write("conf.lua", "return {\nservers = 1 }")
      assert_failure("^rille: conf.lua:2: servers: got 1; expected a list of tables\n$", "check", "--conf", "conf.lua")
    end)

    it("survives a script that kills its process", function()
      server.write("crash.lua", 'require("ffi").cdef "int raise(int);" require("ffi").C.raise(9)')
      assert_failure("^rille: script crash.lua ended the process that loaded it with signal 9\n$", "check", "crash.lua")
    end)
  end)

  describe("exec", function()
    it("runs a file as a task, with its arguments", function()
      server.write("task.lua", [[
        local rille = require "rille"
        local a, b = rille.pair()
        rille.spawn(function() rille.sleep(0.01) a:send("parked\n") end)
        print(b:read_line():str(), arg[0], #arg, arg[2], ...)]])
      local status, out, err = rille("exec", "task.lua", "one", "--two")
      assert.equal("", err)
      assert.equal("parked\ttask.lua\t2\t--two\tone\t--two\n", out)
      assert.equal(0, status)
    end)

    it("finds modules in the file's folder", function()
      mkdir("lib")
      server.write("lib/helper.lua", "return 'helped'")
      server.write("lib/main.lua", "print(require 'helper')")
      assert.equal("helped\n", select(2, rille("exec", "lib/main.lua")))
    end)

    it("ends with the status of os.exit, wherever it is called", function()
      for code, expected in pairs { ["os.exit(7)"] = 7, ["os.exit()"] = 0, ["os.exit(false)"] = 1, ["os.exit(true)"] = 0,
        ["pcall(os.exit, 3)"] = 3, ["coroutine.wrap(function() os.exit(4) end)()"] = 4,
        ["table.sort({ 1, 2, 3 }, function() os.exit(5) end)"] = 5,
        ['require("rille").spawn(os.exit, 6) require("rille").sleep(60)'] = 6 } do
        local status, out, err = rille("-e", "io.write('out') " .. code .. " print('not reached')")
        assert.equal("", err)
        assert.equal("out", out)
        assert.equal(expected, status)
      end
    end)

    it("ends with 1 after an error, whose traceback is the file's own", function()
      server.write("raises.lua", "local function deep() require('rille').sleep(0) error('broken') end\ndeep()")
      local status, out, err = rille("exec", "raises.lua")
      assert.equal("rille: raises.lua:1: broken\nstack traceback:\n\t[C]: in function 'error'\n"
        .. "\traises.lua:1: in function 'deep'\n\traises.lua:2: in main chunk\n", err)
      assert.equal("", out)
      assert.equal(1, status)
    end)

    it("says in a line which file cannot be run", function()
      assert_failure("^rille: cannot open no.lua: No such file or directory\n$", "exec", "no.lua")
      assert_failure("^rille: cannot read %.: Is a directory\n$", "exec", ".")
      server.write("syntax.lua", "x = = 1")
      assert_failure("^rille: syntax.lua:1: unexpected symbol near '='\n$", "exec", "syntax.lua")
    end)

    it("ends with 1 when a signal stops it, but with 0 after rille.shutdown", function()
      server.write("waits.lua", 'io.stderr:write("waiting\\n") require("rille").sleep(60) print("not reached")')
      local one = server.spawn(nil, { command = { RILLE, "exec", server.folder() .. "/waits.lua" } })
      one:wait_log("waiting\n")
      one:signal("TERM")
      assert.equal(1, one:wait_exit())
      assert.equal(1, one:count_log("rille: stopped before it had ended\n"))
      assert.equal(0, one:count_log("not reached"))
      one:forget()
      assert.equal(0, (rille("-e", "rille.shutdown(0) rille.sleep(60)")))
    end)
  end)

  describe("-e", function()
    it("runs a piece of Lua with arguments and rille", function()
      local status, out, err = rille("-e", "rille.sleep(0.001) print(rille.loop.id, ...)", "a", "-b")
      assert.equal("", err)
      assert.equal("1\ta\t-b\n", out)
      assert.equal(0, status)
    end)

    it("runs the example of docs/cli.md", function()
      local example = server.read(server.root .. "/docs/cli.md"):match("\nrille %-e '([^']+)'\n")
      local status, out, err = rille("-e", example)
      assert.equal("", err)
      assert.equal("hello\n", out)
      assert.equal(0, status)
    end)

    it("says in a line that it is not Lua", function()
      assert_failure("^rille: %(command line%):1: unexpected symbol near '<eof>'\n$", "-e", "x =")
    end)
  end)

  describe("test", function()
    local PASSES = [[
      local rille = require "rille"
      describe("a spec", function()
        before_each(function() rille.sleep(0.001) end)
        it("parks", function()
          local a, b = rille.pair()
          rille.spawn(function() rille.sleep(0.01) a:send("x\n") end)
          assert.equal("x", b:read_line():str())
        end)
      end)]]
    local FAILS = 'describe("a spec", function() it("fails", function() assert.equal(1, 2) end) end)'

    it("runs specs that park", function()
      mkdir("spec")
      server.write("spec/one_spec.lua", PASSES)
      server.write("spec/two_spec.lua", PASSES)
      local status, out, err = rille("test")
      assert.equal("", err)
      assert.matches("2 successes / 0 failures / 0 errors / 0 pending", out)
      assert.equal(0, status)
      assert.matches("1 success / 0 failures", select(2, rille("test", "spec/one_spec.lua")))
    end)

    it("ends with 1 when one fails", function()
      mkdir("spec")
      server.write("spec/one_spec.lua", PASSES)
      server.write("spec/two_spec.lua", FAILS)
      local status, out = rille("test", "spec/one_spec.lua", "spec/two_spec.lua")
      assert.matches("1 success / 1 failure / 0 errors", out)
      assert.equal(1, status)
    end)

    it("hands what follows -- to busted", function()
      server.write("a_spec.lua", PASSES)
      assert.matches("^ok 1 %- a spec parks", select(2, rille("test", "a_spec.lua", "--", "-o", "TAP")))
    end)

    it("says in a line which file is not there", function()
      assert_failure("^rille: cannot open no_spec.lua: No such file or directory\n$", "test", "no_spec.lua")
    end)
  end)
end)
