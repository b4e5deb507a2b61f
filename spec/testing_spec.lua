-- rille.testing, used as a user does: in specs that `rille test` runs, one process each.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local RILLE = server.root .. "/bin/rille"

local PRELUDE = [[local rille, testing = require "rille", require "rille.testing" ]]
  -- a server that answers whatever comes with these bytes, and closes if it is told to
  .. [[local function raw(bytes, stays) return testing.serve(function(conn) ]]
  .. [[conn:skip(conn:len()) conn:write(bytes) if not stays then conn:close() end end) end ]]
  .. [[local function raises(text, line, fn, ...) local ok, err = pcall(fn, ...) assert.is_false(ok) ]]
  .. [[assert.matches("^[^\n]*piece_spec.lua:" .. line .. ": ", err) assert.matches(text, err, 1, true) end ]]
  .. [[describe("a piece", function() it("works", function() ]] .. "\n"

local function run(code)
  return inside.command { RILLE, "test", server.write("piece_spec.lua", PRELUDE .. code .. "\nend) end)\n") }
end

-- A piece of a spec that has to pass and to log no error. Its first line is line 2.
local function passes(code)
  local result = run(code)
  if result.status ~= 0 or not result.out:find("1 success / 0 failures / 0 errors", 1, true)
    or result.out:find("level=error", 1, true) then
    error(("exit status %s:\n%s"):format(tostring(result.status), result.out), 0)
  end
  return result.out
end

describe("rille.testing", function()
  after_each(server.cleanup)

  it("needs a loop", function()
    local testing = require "rille.testing"
    for name, argument in pairs { connect = "tcp://127.0.0.1:1", serve = print } do
      local ok, err = pcall(function() testing[name](argument) end)
      assert.is_false(ok)
      assert.equal(("spec/testing_spec.lua:36: rille.testing.%s needs a running loop: call it from a handler, "
        .. "or run the file with `rille exec`"):format(name), err)
    end
  end)

  describe("serve", function()
    it("serves a function at an address of its own", function()
      passes [[
        local echo = function(conn) conn:write(conn:next(conn:len())) end
        local a, b = testing.serve(echo), testing.serve(echo)
        assert.matches("^tcp://127%.0%.0%.1:%d+$", a.address)
        assert.not_equal(a.address, b.address)
        local client = assert(a:connect())
        client:send("hello\n")
        assert.equal("hello", client:read_line():str())
        client:close() ]]
    end)

    it("serves a table of callbacks, on_start included", function()
      passes [[
        local seen = {}
        local server = testing.serve {
          on_start = function(s) rille.sleep(0) seen[#seen + 1] = s.addresses[1] .. s.loop .. s.loops .. type(s.label) end,
          on_connect = function(conn) conn:on_request("second") conn:send("who?\n") end,
          on_request = function() end,
          second = function(conn) conn:write("not " .. conn:read_line():str() .. "\n") end,
        }
        local client = server:connect()
        assert.equal("who?", client:read_line():str())
        client:send("me\n")
        assert.equal("not me", client:read_line():str())
        assert.same({ server.address .. "11string" }, seen) ]]
    end)

    it("serves a script file with its options, and finds modules in its folder", function()
      server.write("shout.lua", "return string.upper\n")
      local script = server.write("script.lua", 'local options = ... local shout = require "shout"\n'
        .. 'return function(conn) conn:skip(conn:len()) conn:write(shout(options.word or "none") .. "\\n") end')
      passes(([[
        local function word_of(server)
          local client = server:connect()
          client:send("x")
          return client:read_line():str()
        end
        assert.equal("HELLO", word_of(testing.serve(%q, { options = { word = "hello" } })))
        assert.equal("NONE", word_of(testing.serve(%q))) ]]):format(script, script))
    end)

    it("serves HTTP handlers", function()
      passes [[
        local server = testing.serve(function(req, res)
          res.status = 201
          res:header("X-Path", req.path)
          res:send(req.method .. " " .. req:body())
        end, { protocol = "http" })
        assert.matches("^http://127%.0%.0%.1:%d+/?$", server.address)
        local response = assert(server:post("/a", "body"))
        assert.equal(201, response.status)
        assert.equal("/a", response.headers["x-path"])
        assert.equal("POST body", response.body)
        assert.equal("", assert(server:request { method = "HEAD" }).body)
        local client = assert(server:connect())
        client:send("GET /b HTTP/1.1\r\nHost: me\r\n\r\n")
        assert.equal("HTTP/1.1 201 Created", client:read_line():str())
        client:close() ]]
    end)

    it("does not fail the spec for what a handler raises, which is logged", function()
      local result = run [[
        local stream = testing.serve(function() error("broken stream") end)
        local client = stream:connect()
        client:send("x")
        assert.same({ nil, "closed" }, { client:read() })
        local http = testing.serve(function() error("broken page") end, { protocol = "http" })
        assert.equal(500, assert(http:get("/")).status) ]]
      assert.equal(0, result.status)
      assert.matches("level=error [^\n]*broken stream", result.out)
      assert.matches("level=error [^\n]*broken page", result.out)
    end)

    it("takes the settings of a server", function()
      passes [[
        local codec = { decode = function(conn) return conn:read_line():str() end }
        local closed
        local server = testing.serve({
          on_request = function(conn, frame) conn:write("<" .. frame .. ">") end,
          on_close = function(_, err) closed = err end,
        }, { codec = codec, timeouts = { idle = 0.02 } })
        local client = server:connect()
        client:send("a\n")
        assert.equal("<a>", client:next(3):str())
        assert.same({ nil, "closed" }, { client:read() })
        for _ = 1, 500 do
          if closed then break end
          rille.sleep(0.002)
        end
        assert.equal("timeout", closed) ]]
    end)

    it("lets nobody in after close, but keeps who was", function()
      passes [[
        local server = testing.serve(function(conn) conn:write(conn:next(conn:len())) end)
        local client = server:connect()
        client:send("a")
        assert.equal("a", client:next(1):str())
        assert.is_true(server:close())
        assert.is_true(server:close())
        assert.same({ nil, "refused" }, { server:connect() })
        assert.same({ nil, "GET /: refused" }, { server:get("/") })
        client:send("b")
        assert.equal("b", client:next(1):str()) ]]
    end)

    it("raises for what it cannot serve, at the line of the spec", function()
      server.write("syntax.lua", "x = = 1\n")
      server.write("raises.lua", "error('broken')\n")
      passes(([[
        local folder = %q
        raises("bad argument #1 to 'serve' (a function, a table of callbacks or the path", 4, function()
          testing.serve(1) end)
        raises("bad argument #2 to 'serve' (a table of settings expected, got number)", 6, function()
          testing.serve(print, 1) end)
        raises("script given to testing.serve returned a table without on_request", 8, function()
          testing.serve {} end)
        raises("testing.serve: nodealy: unknown key; did you mean 'nodelay'?", 10, function()
          testing.serve(print, { nodealy = true }) end)
        raises("no.lua: no such file", 12, function()
          testing.serve("no.lua") end)
        raises("syntax.lua:1: unexpected symbol near '='", 14, function()
          testing.serve(folder .. "/syntax.lua") end)
        raises("raises.lua:1: broken\nstack traceback", 16, function()
          testing.serve(folder .. "/raises.lua") end)
        raises("on_start returned false: not starting", 18, function()
          testing.serve { on_request = print, on_start = function() return false end } end)
        raises("too early", 20, function()
          testing.serve { on_request = print, on_start = function() error("too early") end } end)
        raises("attempt to call method 'pots'", 22, function()
          testing.serve(print):pots("/") end) ]]):format(server.folder()))
    end)
  end)

  describe("connect", function()
    it("reaches TCP and unix addresses", function()
      passes(([[
        for _, url in ipairs { "tcp://127.0.0.1:0", "tcp://[::1]:0", "unix://%s/socket", "unix:@rille-testing-%s" } do
          local listener = assert(rille.listen(url, function(conn) conn:write(conn:next(conn:len())) end))
          local client = assert(testing.connect(listener:address()))
          client:send("hello\n")
          assert.equal("hello", client:read_line():str())
          client:close()
          listener:close()
        end ]]):format(server.folder(), server.folder():match("[^/]*$")))
    end)

    it("says why it cannot", function()
      passes(([[
        local listener = assert(rille.listen("tcp://127.0.0.1:0", print))
        local url = listener:address()
        listener:close()
        assert.same({ nil, "refused" }, { testing.connect(url) })
        assert.same({ nil, "not found" }, { testing.connect("unix://%s/none") })
        local function message_of(address)
          local conn, err, message = testing.connect(address)
          assert.is_nil(conn)
          assert.equal("bad address", err)
          return message
        end
        assert.matches("unknown scheme", message_of "tpc://127.0.0.1:1")
        assert.matches("looks no names up; expected tcp://127.0.0.1:port", message_of "tcp://localhost:1", 1, true)
        assert.matches("looks no names up", message_of ":1")
        raises("bad argument #1 to 'connect' (an address expected, got nil)", 17, function()
          testing.connect() end) ]]):format(server.folder()))
    end)

    it("does not wait for ever for an answer", function()
      passes [[
        local server = testing.serve(function(conn) conn:skip(conn:len()) end)
        local client = server:connect()
        client:set_timeouts { read = 0.01 } -- 5 s otherwise
        client:send("anybody?")
        assert.same({ nil, "timeout" }, { client:read() }) ]]
    end)

    it("leaves no descriptor when its task is cancelled", function()
      passes [[
        local stat = io.open("/proc/self/stat")
        local list = "ls /proc/" .. stat:read("*n") .. "/fd"
        stat:close()
        local function descriptors()
          local output = io.popen(list)
          local _, count = output:read("*a"):gsub("\n", "")
          output:close()
          return count
        end
        local server = testing.serve(print)
        local before = descriptors()
        for _ = 1, 20 do
          local task = rille.spawn(server.connect, server)
          rille.spawn(task.cancel, task) -- runs in the same turn, when the connect has begun
          assert.same({ nil, "cancelled" }, { task:join() })
        end
        for _ = 1, 500 do -- the server's side goes in its own time
          if descriptors() == before then return end
          rille.sleep(0.002)
        end
        assert.equal(before, descriptors()) ]]
    end)
  end)

  describe("request", function()
    -- The server notes what it got and answers with the bytes it is given.
    it("sends what it is told", function()
      passes [[
        local got
        local server = testing.serve(function(conn)
          got = conn:read_until("\r\n\r\n"):str()
          local size = tonumber(got:match("Content%-Length: (%d+)"))
          if size then got = got .. conn:read_string(size) end
          conn:write("HTTP/1.1 204 No Content\r\n\r\n")
        end)
        local host = "Host: " .. server.address:match("//(.*)") .. "\r\n"
        assert(server:request {})
        assert.equal("GET / HTTP/1.1\r\n" .. host .. "Connection: close\r\n\r\n", got)
        assert(server:get("/a?b=c", { ["X-Id"] = 7, Accept = { "text/b", "text/a" } }))
        assert.equal("GET /a?b=c HTTP/1.1\r\n" .. host
          .. "Connection: close\r\nAccept: text/b\r\nAccept: text/a\r\nX-Id: 7\r\n\r\n", got)
        assert(server:post("/p", "hello"))
        assert.equal("POST /p HTTP/1.1\r\n" .. host .. "Connection: close\r\nContent-Length: 5\r\n\r\nhello", got)
        assert(server:post("/p"))
        assert.equal("POST /p HTTP/1.1\r\n" .. host .. "Connection: close\r\nContent-Length: 0\r\n\r\n", got)
        assert(server:request { method = "DELETE", path = "*", headers = { host = "me", connection = "x" } })
        assert.equal("DELETE * HTTP/1.1\r\nconnection: x\r\nhost: me\r\n\r\n", got) ]]
    end)

    it("returns status, reason, headers and body", function()
      passes [[
        local response = assert(raw("HTTP/1.1 200 All Good\r\nX-One: 1\r\nx-one:  two \r\nSet-Cookie: a=1, b\r\nSet-Cookie: c\r\n"
          .. "Content-Length: 5\r\n\r\nhello"):get("/"))
        assert.same({ status = 200, reason = "All Good", body = "hello",
          headers = { ["x-one"] = "1, two", ["set-cookie"] = "a=1, b\nc", ["content-length"] = "5" } }, response) ]]
    end)

    it("reads a body as the headers say it is framed", function()
      passes [[
        local function body_of(bytes, request) return assert(raw(bytes, request):request(request or {})).body end
        assert.equal("", body_of("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"))
        assert.equal("to the end", body_of("HTTP/1.1 200 OK\r\n\r\nto the end"))
        assert.equal("", body_of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", { method = "HEAD" }))
        assert.equal("", body_of("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", {}))
        assert.equal("", body_of("HTTP/1.1 204 No Content\r\n\r\n", {}))
        assert.equal("x", body_of("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: a\r\n\r\n"
          .. "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"))
        assert.equal(101, raw("HTTP/1.1 101 Switching Protocols\r\n\r\nsomething"):get("/").status)
        local response = raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
          .. "5\r\nhello\r\n00A;name=value\r\n, chunked!\r\n0\r\nSum: 1\r\n\r\n"):get("/")
        assert.equal("hello, chunked!", response.body)
        assert.same({ sum = "1" }, response.trailers) ]]
    end)

    it("takes bodies of many megabytes both ways", function()
      passes [[
        local server = testing.serve(function(conn)
          local size = tonumber(conn:read_until("\r\n\r\n"):str():match("Content%-Length: (%d+)"))
          conn:write(("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"):format(size))
          while size > 0 do
            local piece = conn:read()
            size = size - #piece
            conn:write(piece)
            conn:release()
          end
        end)
        local body = ("0123456789abcdef"):rep(512 * 1024)
        local task = rille.spawn(server.post, server, "/", body)
        local response = assert(task:join())
        assert.is_true(response.body == body) ]]
    end)

    it("reads the answer of a server that did not want the body", function()
      passes [[
        local server = testing.serve(function(conn)
          conn:read_until("\r\n\r\n")
          conn:write("HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
          conn:close()
        end)
        assert.equal(413, assert(server:post("/", ("x"):rep(4096))).status) ]]
    end)

    -- Each of these a forgiving client would take.
    it("refuses what is no HTTP/1.1", function()
      passes [[
        for bytes, text in pairs {
          [""] = "GET /x: the status line: closed",
          ["HTTP/1.1 20"] = 'GET /x: the status line: closed after "HTTP/1.1 20"',
          ["HTTP/1.1 200\r\n\r\n"] = 'GET /x: no status line of HTTP/1.1: "HTTP/1.1 200"',
          ["HTTP/1.0 200 OK\r\n\r\n"] = 'GET /x: no status line of HTTP/1.1: "HTTP/1.0 200 OK"',
          ["HTTP/1.1 600 Hm\r\n\r\n"] = 'GET /x: no status line of HTTP/1.1: "HTTP/1.1 600 Hm"',
          ["HTTP/1.1 200 OK\n\n"] = 'GET /x: the status line: closed after "HTTP/1.1 200 OK\\10\\10"',
          ["HTTP/1.1 200 OK\r\nA: 1\nB: 2\r\n\r\n"] = 'GET /x: the headers: a bare CR, LF or a NUL in "A: 1\\10B: 2"',
          ["HTTP/1.1 200 OK\r\nA : 1\r\n\r\n"] = 'GET /x: the headers: no header line: "A : 1"',
          ["HTTP/1.1 200 OK\r\nA: 1\r\n 2\r\n\r\n"] = 'GET /x: the headers: no header line: " 2"',
          ["HTTP/1.1 200 OK\r\nA: \1\r\n\r\n"] = 'GET /x: the headers: no header line: "A: \\1"',
          ["HTTP/1.1 200 OK\r\nA: 1\r\n"] = "GET /x: the headers: closed",
          ["HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"] = 'GET /x: Content-Length: no such number: "-1"',
          ["HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"] = 'GET /x: Content-Length: no such number: "1, 1"',
          ["HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"] =
            "GET /x: Content-Length and Transfer-Encoding in one response",
          ["HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"] = 'GET /x: Transfer-Encoding: not understood: "gzip"',
          ["HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"] = "GET /x: a response 204 with Content-Length or Transfer-Encoding",
          ["HTTP/1.1 304 Not Modified\r\n\r\nbody"] = 'GET /x: 4 bytes after the response: "body"',
          ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"] = 'GET /x: 1 bytes after the response: "c"',
          ["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"] = "GET /x: the body: closed after 3 of 5 bytes",
          ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] = "GET /x: a chunk's size: closed",
          ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"] = "GET /x: a chunk's size: no such number: \"x\"",
          ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1 2\r\n"] = "GET /x: a chunk's size: no such number: \"1 2\"",
          ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"] = "GET /x: a chunk's end: \"b\" where CR LF should be",
          ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"] = "GET /x: the trailers: closed",
        } do
          local response, err = raw(bytes):get("/x")
          assert.is_nil(response)
          assert.equal(text, err)
        end ]]
    end)

    it("gives up when the time is over", function()
      passes [[
        local response, err = raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", true):request { path = "/late", timeout = 0.02 }
        assert.is_nil(response)
        assert.equal("GET /late: timeout", err) ]]
    end)

    it("raises for what is no request, at the line of the spec", function()
      passes [[
        local server = testing.serve(print)
        raises("bad argument #1 to 'request' (a table expected, got nil)", 4, function()
          server:request() end)
        raises("request has no field 'methd'; did you mean 'method'?", 6, function()
          server:request { methd = "GET" } end)
        raises("request has no field '1'; expected one of method, path, headers, body, timeout", 8, function()
          server:request { "GET" } end)
        raises('request.path: got "/ x"; expected a path without spaces', 10, function()
          server:get("/ x") end)
        raises("request.body: got 1; expected a string", 12, function()
          server:post("/", 1) end)
        raises('request.headers["A"]: got "1\\13\\10B: 2"; expected a string on one line', 14, function()
          server:get("/", { A = "1\r\nB: 2" }) end)
        raises('request.headers: got "A:"; expected names', 16, function()
          server:get("/", { ["A:"] = "1" }) end)
        raises('request.method: got ""; expected', 18, function()
          server:request { method = "" } end)
        raises('request.timeout: got "1s"; expected seconds', 20, function()
          server:request { timeout = "1s" } end) ]]
    end)
  end)
end)
