-- Handler scripts: how one is found, loaded and refused, what it finds in its world, and what becomes of its errors.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local RILLE = server.root .. "/bin/rille"

-- Run a script with the command until it ends by itself: { status =, out = }.
local function run(source, name, ...)
  local path = source and inside.write(name or "script.lua", source) or name
  return inside.command { RILLE, "run", path, "--listen", "tcp://127.0.0.1:0", ... }, path
end

local function lines_of(text)
  local list = {}
  for line in text:gmatch("[^\n]+") do list[#list + 1] = line end
  return list
end

describe("rille run refuses", function()
  after_each(inside.cleanup)

  local CASES = {
    { "a script that returns nothing", "local x = 1", "returned nothing: it has to return a function" },
    { "a script that returns a number", "return 42", "returned a number: it has to return a function" },
    { "a script that returns a string", "return 'x'", "returned a string: it has to return a function" },
    { "a table without on_request", "return { on_connect = print }", "returned a table without on_request" },
    { "an on_request that is no function", "return { on_request = 1 }", "on_request is a number, it has to be a function" },
    { "an on_close that is no function", "return { on_request = print, on_close = {} }",
      "on_close is a table, it has to be a function" },
    { "an on_start that is no function", "return { on_request = print, on_start = true }",
      "on_start is a boolean, it has to be a function" },
    { "a selftest that is no function", "return { on_request = print, selftest = 'x' }",
      "selftest is a string, it has to be a function" },
    { "a syntax error", "return function(conn)\n  conn:write(\nend\n", "script.lua:3: unexpected symbol near 'end'" },
  }
  for _, case in ipairs(CASES) do
    it(case[1] .. ": one line, status 1", function()
      local result = run(case[2])
      assert.equal(1, result.status, result.out)
      local lines = lines_of(result.out)
      assert.equal(1, #lines, result.out)
      assert.truthy(lines[1]:find(case[3], 1, true), result.out)
      assert.truthy(lines[1]:find("script.lua", 1, true), result.out)
    end)
  end

  it("an error at the top level: its message with file and line, status 1, at most three lines", function()
    for _, source in ipairs { "\nerror 'no licence'", "local x\nx.y = 1", "\nrequire('rille').sleep(1)",
        "\nlocal rille = require 'rille' rille.spawn(1)", "\nrequire 'no_such_module'", "\nerror()", "\nerror({})" } do
      local result = run(source)
      assert.equal(1, result.status, result.out)
      local lines = lines_of(result.out)
      assert.truthy(#lines <= 3, result.out)
      assert.truthy(lines[1]:find("script.lua failed", 1, true), result.out)
      if not source:find "error%(" then assert.truthy(lines[1]:find("script.lua:2: ", 1, true), result.out) end
    end
  end)

  it("a file that is not there, a folder, and a module nobody has", function()
    for name, text in pairs {
      ["/no/such/script.lua"] = "/no/such/script.lua: no such file",
      ["no_such_module"] = "no_such_module: no such file, and no module of that name",
      [server.root .. "/spec"] = "spec is a directory; name the script in it",
    } do
      local result = run(nil, name)
      assert.equal(1, result.status, result.out)
      assert.equal(1, #lines_of(result.out), result.out)
      assert.truthy(result.out:find(text, 1, true), result.out)
    end
  end)

  it("an on_start that returns false, or fails", function()
    local result = run("return { on_request = print, on_start = function() return false end }")
    assert.equal(1, result.status, result.out)
    assert.truthy(result.out:find("on_start returned false: not starting", 1, true), result.out)
    result = run("return { on_request = print, on_start = function()\n error 'no database' end }")
    assert.equal(1, result.status, result.out)
    assert.truthy(result.out:find("script.lua:2: no database", 1, true), result.out)
    assert.falsy(result.out:find("listening", 1, true), result.out)
  end)
end)

describe("script.load", function()
  after_each(inside.cleanup)

  it("tells where a script raised, with a traceback", function()
    local path = inside.write("fails.lua", "local function connect_to_database()\n  error 'refused'\nend\nconnect_to_database()\n")
    inside.check(([[
      local hooks, message = require("rille.script").load(%q)
      equal(hooks, nil)
      assert(message:find("fails.lua failed: [^\n]*fails.lua:2: refused\nstack traceback"), message)
      assert(message:find("connect_to_database", 1, true), message)
    ]]):format(path))
  end)

  it("takes a function or a table, and gives options, always a table", function()
    local path = inside.write("options.lua", "local options = ...\nreturn { on_request = print, seen = options }\n")
    inside.check(([[
      local script = require "rille.script"
      local options = { a = 1 }
      equal(script.load(%q, options).seen, options)
      equal(type(script.load(%q).seen), "table")
      equal(type(script.hooks_of(print, "x").on_request), "function")
    ]]):format(path, path))
  end)
end)

describe("a script under rille run", function()
  after_each(server.cleanup)

  it("finds modules in its own folder, then in the configured path, and itself by a module name", function()
    server.write("beside.lua", "return { name = 'beside' }")
    local folder = server.folder()
    os.execute(("mkdir -p %s/nested %s/elsewhere"):format(folder, folder))
    server.write("nested/init.lua", "return { name = 'nested' }")
    server.write("elsewhere/beside.lua", "return { name = 'wrong' }")
    server.write("elsewhere/far.lua", "return { name = 'far' }")
    server.write("elsewhere/gateway.lua", "local far = require 'far'\nreturn function(conn)\n"
      .. "conn:write(conn:read_line() .. far.name .. '\\n') end\n")
    local path = server.write("main.lua", "local a, b, c = require 'beside', require 'nested', require 'far'\n"
      .. "return function(conn) conn:skip(conn:len()) conn:write(a.name .. b.name .. c.name .. '\\n') end\n")
    local s = server.start(path, { conf = { path = folder .. "/elsewhere/?.lua" } })
    assert.equal("besidenestedfar", s:connect():send("x"):receive_line())
  end)

  it("gets its options, by configuration and by command line", function()
    local source = "local options = ...\nreturn function(conn)\n  conn:skip(conn:len())\n"
      .. "  conn:write(type(options.n) .. options.n .. options.text .. '\\n')\nend\n"
    local s = server.start(source, { options = { n = 5, text = "five" } })
    assert.equal("number5five", s:connect():send("x"):receive_line())
    local path = server.write("cli.lua", source)
    s = server.spawn(nil, { command = { RILLE, "run", path, "--listen", "tcp://127.0.0.1:0", "--", "n=7", "text=a=b" } })
    s:wait_listening(1)
    assert.truthy(s:connect():send("x"):receive_line():find("7a=b", 1, true))
  end)

  it("prints to the log, each line of code with a rate of its own", function()
    local prints = {}
    for i = 1, 25 do prints[i] = ("print('printed', %d, nil, true)"):format(i) end
    local path = server.write("prints.lua", "return function(conn)\n" .. table.concat(prints, "\n") .. "\nconn:close()\nend\n")
    local s = server.start(path)
    s:connect():send("x"):receive_all()
    for i = 1, 25 do s:wait_log(('level=info msg="printed\\t%d\\tnil\\ttrue" loop=1 script=prints@1'):format(i):gsub("\\", "%%\\")) end
  end)

  it("logs each place that raises with a rate of its own", function()
    local lines = {}
    for i = 1, 25 do lines[i] = ("rille.spawn(function() error 'failure %d' end)"):format(i) end
    local path = server.write("fails.lua", "local rille = require 'rille'\nreturn function(conn)\n"
      .. table.concat(lines, "\n") .. "\nconn:close()\nend\n")
    local s = server.start(path, { allow_errors = true })
    s:connect():send("x"):receive_all()
    for i = 1, 25 do s:wait_log(("fails.lua:%d: failure %d\\n"):format(i + 2, i)) end
  end)

  it("has other random numbers at each start, and in each server", function()
    local source = "local n = math.random(2^31)\nsay('%d', n)\nreturn print\n"
    local first = server.start(source):wait_said(1)[1]
    local second = server.start(source):wait_said(1)[1]
    assert.not_equal(first, second)
  end)

  it("may spawn, set timers and listen while it is loaded", function()
    local s = server.start([[
      rille.spawn(function() say "spawned" end)
      rille.after(0.001, function() say "after" end)
      local extra = rille.listen("tcp://127.0.0.1:0", function(conn) conn:write(conn:next(conn:len())) end)
      return {
        on_start = function() say("%s", extra:address()) end,
        on_request = print,
      }
    ]])
    local said = s:wait_said(3)
    table.sort(said)
    assert.same({ "after", "spawned" }, { said[1], said[2] })
    assert.equal("x", s:connect(nil, said[3]):send("x"):receive(1))
  end)

  it("answers for each hook that raises: a record with its name, and the end of that connection", function()
    local s = server.start([[
      local function failing(name) return function() error("in " .. name) end end
      local hooks = {}
      for _, name in ipairs { "on_prepare", "on_connect", "on_request", "on_disconnect", "on_close" } do
        local h = { on_request = function(conn) conn:write(conn:next(conn:len())) end,
          on_close = function(_, err) say("%s %s", name, tostring(err)) end }
        h[name] = failing(name)
        say("at %s %s", name, rille.listen("tcp://127.0.0.1:0", h):address())
      end
      return function(conn) conn:write(conn:next(conn:len())) end
    ]], { allow_errors = true })
    local urls = {}
    for _, text in ipairs(s:wait_said(5)) do
      local name, url = text:match("^at (%S+) (%S+)$")
      urls[name] = url
    end
    for _, name in ipairs { "on_prepare", "on_connect", "on_request" } do
      local c = s:connect(nil, urls[name]):send("x")
      c:receive_all()
      c:close() -- until then the server lingers
      s:wait_log('said ' .. name .. ' error"')
    end
    for _, name in ipairs { "on_disconnect", "on_close" } do
      local c = s:connect(nil, urls[name])
      assert.equal("x", c:send("x"):receive(1))
      c:shutdown_write():receive_all()
    end
    for _, name in ipairs { "on_prepare", "on_connect", "on_request", "on_disconnect", "on_close" } do
      s:wait_log("level=error msg=\"[^\n]*failed: [^\n]*script.lua:1: in " .. name .. "[^\n]*traceback[^\n]* conn=%d+")
    end
    local c = s:connect()
    assert.equal("y", c:send("y"):receive(1))
  end)

  it("raises at the script's line for misuse, wherever in the library it was noticed", function()
    local s = server.start([[
      return function(conn)
        local ok, err
        ok, err = pcall(function() conn:next("x") end) say("%s", err)
        ok, err = pcall(function() conn:write(nil) end) say("%s", err)
        ok, err = pcall(function() conn:set_timeouts { raed = 1 } end) say("%s", err)
        ok, err = pcall(function() conn:on_request(5) end) say("%s", err)
        ok, err = pcall(function() rille.listen("tcp://127.0.0.1:0", "no_key") end) say("%s", err)
        ok, err = pcall(function() rille.listen(5) end) say("%s", err)
        ok, err = pcall(function() rille.adopt("x") end) say("%s", err)
        conn:close()
      end
    ]])
    s:connect():send("x"):receive_all()
    for i, text in ipairs(s:wait_said(7)) do
      assert.truthy(text:find(("script.lua:%d: "):format(i + 2), 1, true), text)
    end
  end)

  it("may name functions of its table for listen and on_request", function()
    local s = server.start([[
      local script
      script = {
        on_start = function() say("%s", rille.listen("tcp://127.0.0.1:0", "second"):address()) end,
        on_request = function(conn)
          conn:skip(conn:len())
          conn:on_request("upper")
          conn:write("now upper\n")
        end,
        upper = function(conn) conn:write(conn:read_line():str():upper() .. "\n") end,
        second = function(conn) conn:write("second " .. conn:read_line() .. "\n") end,
      }
      return script
    ]])
    local c = s:connect()
    assert.equal("now upper", c:send("x"):receive_line())
    assert.equal("ABC", c:send("abc\n"):receive_line())
    assert.equal("second x", s:connect(nil, s:wait_said(1)[1]):send("x\n"):receive_line())
  end)
end)

describe("a file under rille exec", function()
  after_each(server.cleanup)

  it("prints to stdout, and its status is 0; 1 after an error", function()
    local path = server.write("prints.lua", "print('hello', ...)\nrequire('rille').sleep(0)\n")
    local result = inside.command { RILLE, "exec", path, "a", "b" }
    assert.same({ 0, "hello\ta\tb\n" }, { result.status, result.out })
    path = server.write("fails.lua", "\nerror 'boom'\n")
    result = inside.command { RILLE, "exec", path }
    assert.equal(1, result.status)
    assert.truthy(result.out:find("fails.lua:2: boom", 1, true), result.out)
  end)
end)
