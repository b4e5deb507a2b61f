-- Answers as they go over the wire: what handlers set, send, write, stream from files, leave out, or break off.

local http = require "spec.support.http"
local server, net = http.server, http.net

local KIB, MIB = 1024, 1024 * 1024

-- A server that runs the code with req and res.
local function start(code, opts)
  return http.start("return function(req, res)\n" .. code .. "\nend\n", opts)
end

-- The answer to GET / of a handler with this code.
local function answer_of(code, request, opts)
  local s = start(code, opts)
  return http.once(s, request or http.get()), s
end

describe("http response", function()
  after_each(server.cleanup)

  -- ---- head --------------------------------------------------------------------------------------------------------

  it("has the status that was set, with its reason", function()
    local s = start 'res.status = tonumber(req:query "s"); res:send(tostring(res.status))'
    local c = s:connect()
    local reasons = { [200] = "OK", [201] = "Created", [404] = "Not Found", [418] = "", [500] = "Internal Server Error", [599] = "",
                      [301] = "Moved Permanently", [429] = "Too Many Requests", [503] = "Service Unavailable" }
    for status, reason in pairs(reasons) do
      local answer = http.ask(c, http.get("/?s=" .. status))
      assert.same({ status, tostring(status) }, { answer.status, answer.body })
      if reason ~= "" then assert.equal(reason, answer.reason) end
    end
  end)

  it("raises for a status that is none", function()
    local answer = answer_of [[
      local good = 0
      for _, status in ipairs { 0, 99, 100, 101, 199, 600, 1000, -1, 200.5, 0 / 0, "200", "200 OK\r\nX: y", true, {} } do
        local ok, err = pcall(function() res.status = status end)
        if not ok and err:find("res.status takes a number from 200 to 599", 1, true) then good = good + 1 end
      end
      local ok, err = pcall(function() res.status = nil end)
      res:send(good .. " " .. tostring(ok) .. " " .. res.status)
    ]]
    assert.equal("14 false 200", answer.body)
  end)

  it("has a date, a length and a type by itself", function()
    local answer = answer_of 'res:send "text"'
    assert.equal("text/plain; charset=utf-8", answer["content-type"])
    assert.equal("4", answer["content-length"])
    assert.equal(3, #answer.lines)
    local day, hour = answer.date:match("^%a%a%a, (%d%d %a%a%a %d%d%d%d) (%d%d:%d%d:%d%d) GMT$")
    assert.truthy(day and hour, answer.date)
    local now = os.time()
    local near = {}
    for i = -2, 2 do near[os.date("!%a, %d %b %Y %H:%M:%S GMT", now + i)] = true end
    assert.is_true(near[answer.date])
    local empty = answer_of 'res:send ""'
    assert.same({ "0", nil }, { empty["content-length"], empty["content-type"] })
  end)

  it("sets, replaces, lists and removes header fields", function()
    local answer = answer_of [[
      res:header("X-One", "1")
      res:header("x-one", "2")
      res:header("X-List", { "a", 2, req:header "host" })
      res:header("X-Gone", "x")
      res:header("x-gone", false)
      res:header("X-Number", 1.5)
      res:header("X-Empty", "")
      res:header("X-Slice", req:header "host")
      res:header("Content-Type", "text/css")
      res:header("Date", "today")
      res:send(table.concat({ res:header "X-ONE", res:header "x-list", tostring(res:header "x-gone"),
        tostring(res:header "nothing"), res:header "X-Number", res:header "x-empty", res:header "content-type" }, "|"))
    ]]
    assert.equal("2|a|nil|nil|1.5||text/css", answer.body)
    assert.equal("2", answer["x-one"])
    assert.equal("a | 2 | test", answer["x-list"])
    assert.is_nil(answer["x-gone"])
    assert.same({ "1.5", "", "test" }, { answer["x-number"], answer["x-empty"], answer["x-slice"] })
    assert.same({ "text/css", "today" }, { answer["content-type"], answer.date })
    -- one that was removed again comes from the server as ever
    answer = answer_of 'res:header("Content-Type", "a/b"); res:header("content-type", false); res:send "x"'
    assert.equal("text/plain; charset=utf-8", answer["content-type"])
    answer = answer_of 'res:header("X-L", { "1", "2" }); res:header("X-L", {}); res:header("A", "b"); res:send "x"'
    assert.same({ nil, "b" }, { answer["x-l"], answer.a })
  end)

  it("refuses field names and values that would end the line, and those that are the server's", function()
    local answer = answer_of [[
      local bad = {
        { "X", "a\r\nb" }, { "X", "a\n" }, { "X", "a\r" }, { "X", "\0" }, { "X", "a\127" }, { "X", "\1" }, { "X", { "a", "b\nc" } },
        { "", "a" }, { "X Y", "a" }, { "X:", "a" }, { "X\r\nY", "a" }, { "X\0", "a" }, { "\195\164", "a" }, { "X", true },
        { "X", { {} } }, { "X", function() end },
        { "Transfer-Encoding", "chunked" }, { "transfer-encoding", "gzip" }, { "Transfer-Encoding", false },
        { "Connection", "keep-alive" }, { "connection", "close, x" }, { "Connection", false },
        { "Content-Length", "-1" }, { "Content-Length", "1 " }, { "Content-Length", "0x10" }, { "Content-Length", "" },
        { "Content-Length", -1 }, { "Content-Length", 1.5 }, { "Content-Length", "9223372036854775808" },
      }
      local passed = {}
      for i, pair in ipairs(bad) do
        local ok, err = pcall(res.header, res, pair[1], pair[2])
        if ok then passed[#passed + 1] = i end
      end
      res:send(table.concat(passed, " "))
    ]]
    assert.equal("", answer.body)
    assert.equal(2, #answer.lines)
    assert.is_nil(answer["transfer-encoding"])
  end)

  it("takes 64 KiB of header fields, and says when there is no room", function()
    local answer = answer_of [[
      for i = 1, 60 do res:header("X-" .. i, ("v"):rep(1000)) end
      local ok, err = pcall(function() for i = 1, 60 do res:header("Y-" .. i, ("v"):rep(1000)) end end)
      res:send(tostring(ok) .. " " .. err)
    ]]
    assert.truthy(answer.body:find("^false .*script%.lua:%d+: no room for Y%-%d+"), answer.body)
    assert.equal(1000, #answer["x-60"])
  end)

  it("refuses a LinkBuffer that was closed", function()
    local answer = answer_of [[
      local buffer = require("rille.linkbuffer").new()
      buffer:write "lost"
      buffer:close()
      local _, err = res:send(buffer)
      local _, again = res:write(buffer)
      res:send(err .. " " .. again)
    ]]
    assert.equal("closed closed", answer.body)
  end)

  it("says Connection: upgrade beside Upgrade in a 426", function()
    local answer = answer_of [[
      res.status = 426
      res:header("Upgrade", "echo")
      res:header("Connection", "upgrade")
      res:header("Connection", "upgrade")
      res:send "no"
    ]]
    assert.same({ 426, "echo", "upgrade", "no" }, { answer.status, answer.upgrade, answer.connection, answer.body })
  end)

  it("sends no body with 205", function()
    local answer = answer_of 'res.status = 205; res:send "reset"'
    assert.same({ 205, "0", "" }, { answer.status, answer["content-length"], answer.body })
  end)

  it("knows no field but status", function()
    local answer = answer_of 'local _, err = pcall(function() res.stauts = 404 end); res:send(err)'
    assert.matches("script%.lua:%d+: res has no field 'stauts'", answer.body)
    assert.equal(200, answer.status)
  end)

  it("keeps the connection's own writer and reader methods away from the answer", function()
    local answer = answer_of [[
      local conn, said = req.conn, {}
      for _, name in ipairs { "malloc_ack", "malloc_len", "malloc", "write_u8", "next", "read_line", "peek", "skip",
        "detach" } do
        said[#said + 1] = tostring(select(2, conn[name](conn, 1)))
      end
      said[#said + 1] = tostring(select(2, conn:write "x"))
      res:send(table.concat(said, " "))
    ]]
    assert.equal(("busy "):rep(10):sub(1, -2), answer.body)
  end)

  it("announces the end of the connection when the handler wants it", function()
    local s = start 'res:header("Connection", "close"); res:send "x"'
    local c = s:connect()
    c:send(http.get():rep(3))
    assert.equal("close", http.answer(c).connection)
    assert.same({ "", "closed" }, { c:receive_all() })
  end)

  it("keeps the connection as the client asks", function()
    local s = start 'res:send "x"'
    local c = s:connect()
    assert.is_nil(http.ask(c, http.get()).connection)
    assert.equal("close", http.ask(c, http.get("/", { "Connection: x, Close" })).connection)
    assert.equal("", (c:receive_all()))
    local d = s:connect()
    assert.equal("keep-alive", http.ask(d, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").connection)
    assert.equal("close", http.ask(d, "GET / HTTP/1.0\r\n\r\n").connection)
    assert.equal("", (d:receive_all()))
  end)

  -- ---- send --------------------------------------------------------------------------------------------------------

  it("sends strings, slices, buffers and nothing", function()
    local s = start [[
      local LinkBuffer = require "rille.linkbuffer"
      local what = req.path
      if what == "/string" then res:send "string"
      elseif what == "/slice" then res:send(req:header "host")
      elseif what == "/body" then res:send(req:body())
      elseif what == "/piece" then res:send(req:read(3))
      elseif what == "/nothing" then res:send()
      elseif what == "/large" then res:send(("0123456789abcdef"):rep(65536 * 3))
      else
        local buffer = LinkBuffer.new()
        buffer:write "from a "
        buffer:write(("b"):rep(100000))
        buffer:flush()
        res:send(buffer)
        buffer:close()
      end
    ]]
    local c = s:connect()
    for _ = 1, 2 do
      assert.equal("string", http.ask(c, http.get "/string").body)
      assert.equal("test", http.ask(c, http.get "/slice").body)
      local body = net.noise(50000)
      assert.is_true(http.ask(c, http.post("/body", body)).body == body)
      assert.equal("012", http.ask(c, http.post("/piece", "01234")).body)
      assert.equal("", http.ask(c, http.get "/nothing").body)
      assert.is_true(http.ask(c, http.get "/buffer").body == "from a " .. ("b"):rep(100000))
      assert.is_true(http.ask(c, http.get "/large").body == ("0123456789abcdef"):rep(65536 * 3))
    end
  end)

  it("raises for a second answer, and keeps the first", function()
    local s = start([[
      local calls = {
        function() res:send "again" end, function() res:write "again" end, function() res:json {} end,
        function() res:file "/etc/hostname" end, function() res:upgrade "x" end, function() res.status = 404 end,
        function() res:header("A", "b") end,
      }
      if req.path == "/send" then res:send "first" else res:write "first" end
      for i, call in ipairs(calls) do
        local ok, err = pcall(call)
        local expected = ok and req.path == "/write" and i == 2
        if not expected and (ok or not err:find("two%.lua:")) then say("%s %d %s", req.path, i, tostring(err)) end
      end
    ]], { name = "two" })
    local c = s:connect()
    assert.equal("first", http.ask(c, http.get "/send").body)
    assert.equal("firstagain", http.ask(c, http.get "/write").body)
    assert.same({}, s:said())
  end)

  it("raises for a slice that has expired, and is none then", function()
    local s = start([[
      local piece = req:read(2)
      req:read(2)
      local ok, err = pcall(res.send, res, piece)
      local again, why = pcall(res.write, res, piece)
      res:send(("%s %s %s %s"):format(tostring(ok), err, tostring(again), why))
    ]], { name = "expired" })
    local body = http.once(s, http.post("/", "0123456789")).body
    assert.truthy(body:find("^false .*slice expired.* false .*slice expired"), body)
  end)

  it("is empty when the handler returns without one", function()
    local s = start 'if req.path == "/status" then res.status = 403 res:header("X", "y") end'
    local c = s:connect()
    local answer = http.ask(c, http.get())
    assert.same({ 200, "", "0" }, { answer.status, answer.body, answer["content-length"] })
    answer = http.ask(c, http.get "/status")
    assert.same({ 403, "", "y" }, { answer.status, answer.body, answer.x })
  end)

  it("has no body for HEAD, 204 and 304, whatever is sent or written", function()
    local s = start [[
      res.status = tonumber(req:query "s" or 200)
      if req.path == "/send" then return res:send "body" end
      if req.path == "/json" then return res:json { 1 } end
      if req.path == "/length" then res:header("Content-Length", 1000) return res:send() end
      if req.path == "/counted" then res:header("Content-Length", 8) end
      res:write "body"
      res:flush()
      res:write "more"
    ]]
    local c = s:connect()
    local head = http.ask(c, http.request("HEAD", "/send"))
    assert.same({ "4", "text/plain; charset=utf-8" }, { head["content-length"], head["content-type"] })
    assert.equal("chunked", http.ask(c, http.request("HEAD", "/write"))["transfer-encoding"])
    assert.equal("8", http.ask(c, http.request("HEAD", "/counted"))["content-length"])
    assert.equal("1000", http.ask(c, http.request("HEAD", "/length"))["content-length"])
    for _, path in ipairs { "/send", "/write", "/counted", "/json" } do
      for _, status in ipairs { 204, 304 } do
        for _, method in ipairs { "GET", "HEAD", "POST" } do
          local answer = http.ask(c, http.request(method, path .. "?s=" .. status))
          assert.same({ status, nil, nil }, { answer.status, answer["content-length"], answer["transfer-encoding"] })
        end
      end
    end
    assert.equal("bodymore", http.ask(c, http.get "/write").body) -- all were in step
  end)

  it("sends JSON", function()
    local s = start [[
      if req.path == "/type" then res:header("Content-Type", "application/x+json") end
      if req.path == "/bad" then
        local ok, err = pcall(res.json, res, { f = function() end })
        return res:send(tostring(ok) .. " " .. err)
      elseif req.path == "/nan" then
        return res:send(tostring((pcall(res.json, res, { 0 / 0 }))))
      end
      res:json { list = { 1, "two", true } }
    ]]
    local c = s:connect()
    local answer = http.ask(c, http.get())
    assert.same({ '{"list":[1,"two",true]}', "application/json" }, { answer.body, answer["content-type"] })
    assert.equal("application/x+json", http.ask(c, http.get "/type")["content-type"])
    assert.truthy(http.ask(c, http.get "/bad").body:find("^false .*json: .+"))
    assert.equal("false", http.ask(c, http.get "/nan").body)
  end)

  -- ---- write -------------------------------------------------------------------------------------------------------

  it("writes chunks, sent when the handler parks; an empty piece is none", function()
    local s = start [[
      local slice = req:header "host"
      local buffer = require("rille.linkbuffer").new()
      buffer:write(("b"):rep(5000))
      buffer:flush()
      res:write ""
      res:flush()
      rille.sleep(0.01)
      res:write "one"
      res:write ""
      res:write(slice)
      res:write(buffer)
      res:write(("x"):rep(70000))
      buffer:close()
    ]]
    local c = s:connect()
    for _ = 1, 2 do
      local answer = http.ask(c, http.get())
      assert.same({ "one", "test", ("b"):rep(5000), ("x"):rep(70000) }, answer.pieces)
      assert.equal("text/plain; charset=utf-8", answer["content-type"])
    end
  end)

  it("writes to the end of the connection for HTTP/1.0", function()
    local s = start 'for i = 1, 3 do res:write("piece " .. i .. ";") res:flush() end'
    for _, fields in ipairs { "", "Connection: keep-alive\r\n" } do
      local c = s:connect()
      local answer = http.ask(c, "GET / HTTP/1.0\r\n" .. fields .. "\r\n")
      assert.same({ "piece 1;piece 2;piece 3;", nil }, { answer.body, answer["transfer-encoding"] })
    end
    local c = s:connect()
    local head = http.ask(c, "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert.is_nil(head["transfer-encoding"])
  end)

  it("keeps to a Content-Length that was set", function()
    local s = start([[
      res:header("Content-Length", 10)
      local how = req.path
      res:write "01234"
      if how == "/short" then return end
      if how == "/long" then
        local ok, err = pcall(res.write, res, "567890")
        say("%s", err)
        res:write "abcde"
        say("%s", tostring((pcall(res.write, res, "x"))))
        res:write ""
        return
      end
      rille.yield()
      res:write "56789"
    ]], { name = "length" })
    local c = s:connect()
    for _ = 1, 2 do
      local answer = http.ask(c, http.get "/kept")
      assert.same({ "0123456789", "10", nil }, { answer.body, answer["content-length"], answer["transfer-encoding"] })
    end
    assert.equal("01234abcde", http.ask(c, http.get "/long").body)
    assert.truthy(s:said()[1]:find("more bytes than the Content-Length", 1, true))
    assert.equal("false", s:said()[2])
    c:send(http.get "/short" .. http.get "/kept")
    local rest, how = c:receive_all() -- the client sees that it was cut off
    assert.same({ "01234", "closed" }, { rest:match("\r\n\r\n(.*)$"), how })
  end)

  it("of send has the length of what is sent, whatever was set", function()
    assert.equal("hello", answer_of('res:header("Content-Length", 99); res:send "hello"').body)
    local answer = answer_of('res:header("Content-Length", 4); res:header("Content-Length", false); res:write "chunked"')
    assert.equal("chunked", answer.body)
  end)

  it("parks the handler while the client does not read, in bounded memory", function()
    local s = start([[
      local piece = ("p"):rep(65536)
      if req.path == "/small" then return res:send "small" end
      for i = 1, 1000 do
        local ok, err = res:write(piece)
        if not ok then return say("%d %s", i, err) end
      end
      say "done"
    ]], { limits = { high_water = "128k" } })
    assert.equal("small", http.once(s, http.get "/small").body)
    local before = s:rss()
    local c = s:connect { receive_buffer = 4096 }
    c:send(http.get())
    assert.equal("chunked", http.head(c)["transfer-encoding"])
    local stuck = s:state().bytes_out
    net.poll_until(function()
      local now = s:state().bytes_out
      local same = now == stuck
      stuck = now
      return same
    end)
    assert.same({}, s:said())
    assert.equal("small", http.once(s, http.get "/small").body)
    if not net.is_sanitized then assert.is_true(s:rss() - before < 4 * MIB, s:rss() - before) end
    -- reading on lets it go on
    local count = 0
    while s:count_log "said" == 0 do count = count + #(c:receive_some() or "") end
    assert.equal("done", s:wait_said(1)[1])
    assert.is_true(count > 30 * MIB)
    -- and one that goes away ends it
    local d = s:connect { receive_buffer = 4096 }
    d:send(http.get())
    http.head(d)
    d:reset()
    assert.truthy(s:wait_said(2)[2]:find("^%d+ %a+"))
  end)

  -- ---- files -------------------------------------------------------------------------------------------------------

  it("sends a file with its type, date and length", function()
    local bytes = net.noise(300000)
    local path = server.write("data.bin", bytes)
    server.write("page.html", "<p>")
    server.write("empty.css", "")
    local s = start(([[
      local path = %q .. req.path
      local ok, err = res:file(path)
      if ok == nil then res.status = 404 res:send(err) end
    ]]):format(server.folder()))
    local c = s:connect()
    local answer = http.ask(c, http.get "/data.bin")
    assert.is_true(answer.body == bytes)
    assert.same({ "application/octet-stream", "300000", "bytes" },
      { answer["content-type"], answer["content-length"], answer["accept-ranges"] })
    assert.truthy(answer["last-modified"]:find(" GMT$"))
    answer = http.ask(c, http.get "/page.html")
    assert.same({ "text/html; charset=utf-8", "<p>" }, { answer["content-type"], answer.body })
    answer = http.ask(c, http.get "/empty.css")
    assert.same({ "", "0", 200 }, { answer.body, answer["content-length"], answer.status })
    local head = http.ask(c, http.request("HEAD", "/data.bin"))
    assert.same({ "300000", answer.date and 200 }, { head["content-length"], head.status })
    assert.is_true(http.ask(c, http.get "/data.bin").body == bytes)
    answer = http.ask(c, http.get "/none")
    assert.same({ 404, "not found" }, { answer.status, answer.body })
    assert.truthy(path)
  end)

  it("sends a range of a file", function()
    server.write("digits", "0123456789")
    local s = start(("res:file(%q .. req.path)"):format(server.folder()))
    local c = s:connect()
    local function range(value, ...)
      return http.ask(c, http.get("/digits", { "Range: " .. value, ... }))
    end
    for value, expected in pairs {
      ["bytes=0-0"] = "0", ["bytes=2-4"] = "234", ["bytes=5-"] = "56789", ["bytes=-3"] = "789", ["bytes=-30"] = "0123456789",
      ["bytes=9-100"] = "9", ["bytes=0-9"] = "0123456789",
    } do
      local answer = range(value)
      assert.same({ 206, expected }, { answer.status, answer.body }, value)
      local first, last, size = answer["content-range"]:match("^bytes (%d+)%-(%d+)/(%d+)$")
      assert.same({ #expected, 10 }, { last - first + 1, tonumber(size) })
    end
    for _, value in ipairs { "bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999999999999-" } do
      local answer = range(value)
      assert.same({ 416, "bytes */10", "" }, { answer.status, answer["content-range"], answer.body }, value)
    end
    -- what is no range, or more than one, or of another kind: the whole
    for _, value in ipairs { "bytes=4-2", "bytes=a-b", "bytes=-", "lines=1-2", "bytes=0-1,3-4", "bytes=0-1 ", "bytes 0-1",
                             "bytes=99999999999999999999-", "" } do
      local answer = range(value)
      assert.is_true(answer.status == 200 or value == "bytes=0-1 " and answer.status == 206, value)
      if answer.status == 200 then assert.equal("0123456789", answer.body) end
    end
    -- only of the version that the client has
    local date = http.ask(c, http.get "/digits")["last-modified"]
    assert.equal("12", range("bytes=1-2", "If-Range: " .. date).body)
    assert.equal("0123456789", range("bytes=1-2", 'If-Range: "etag"').body)
    assert.equal("0123456789", http.ask(c, http.request("POST", "/digits", { "Range: bytes=1-2" })).body)
  end)

  it("answers 304 for a file that the client has", function()
    server.write("page.html", "<p>")
    local s = start(("res:file(%q .. req.path)"):format(server.folder()))
    local c = s:connect()
    local date = http.ask(c, http.get "/page.html")["last-modified"]
    local answer = http.ask(c, http.get("/page.html", { "If-Modified-Since: " .. date }))
    assert.same({ 304, nil }, { answer.status, answer["content-length"] })
    assert.equal("<p>", http.ask(c, http.get("/page.html", { "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT" })).body)
    assert.equal("<p>", http.ask(c, http.get("/page.html", { "If-Modified-Since: nonsense" })).body)
    assert.equal("<p>", http.ask(c, http.request("POST", "/page.html", { "If-Modified-Since: " .. date })).body)
  end)

  it("says what is wrong with a path and sends nothing then", function()
    local folder = server.folder()
    os.execute(("mkfifo '%s/pipe'; mkdir '%s/folder'; ln -s none '%s/dangling'"):format(folder, folder, folder))
    server.write("file", "x")
    local s = start(([[
      local results = {}
      for _, name in ipairs { "", "none", "folder", "pipe", "dangling", "file/x", "file\0", ("n"):rep(300), "folder/" } do
        local ok, err = res:file(%q .. "/" .. name)
        results[#results + 1] = tostring(ok) .. " " .. tostring(err)
      end
      res.status = 404
      res:send(table.concat(results, "; "))
    ]]):format(folder))
    local before = s:descriptors()
    local c = s:connect()
    local answer = http.ask(c, http.get())
    assert.equal(404, answer.status)
    for result in (answer.body .. "; "):gmatch("(.-); ") do assert.truthy(result:find("^nil %a+"), answer.body) end
    c:close()
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal(before, s:descriptors())
  end)

  it("keeps the status, type and fields of the handler", function()
    server.write("oops.html", "oops")
    local answer = answer_of(([[
      res.status = 404
      res:header("Content-Type", "text/x")
      res:header("X", "y")
      res:file(%q)
    ]]):format(server.folder() .. "/oops.html"), http.get("/", { "Range: bytes=0-1" }))
    assert.same({ 404, "text/x", "y", "oops" }, { answer.status, answer["content-type"], answer.x, answer.body })
    answer = answer_of(("res:file(%q, { type = 'a/b' })"):format(server.write("f", "x")))
    assert.equal("a/b", answer["content-type"])
  end)

  it("sends a large file to a slow client in bounded memory, while others are served", function()
    local path = server.folder() .. "/large"
    os.execute(("head -c %d /dev/urandom > '%s'"):format(50 * MIB, path))
    local s = start(([[
      if req.path == "/small" then return res:send "small" end
      local ok, err = res:file(%q)
      say("file %%s %%s", tostring(ok), tostring(err))
    ]]):format(path))
    assert.equal("small", http.once(s, http.get "/small").body)
    local before = s:rss()
    local c = s:connect { receive_buffer = 16384 }
    c:send(http.get())
    local head = http.head(c)
    assert.equal(tostring(50 * MIB), head["content-length"])
    for _ = 1, 20 do
      c:receive(10 * KIB)
      assert.equal("small", http.once(s, http.get "/small").body)
    end
    if not net.is_sanitized then assert.is_true(s:rss() - before < 5 * MIB, s:rss() - before) end
    local left = 50 * MIB - 200 * KIB - #c.buffer
    c.buffer = ""
    while left > 0 do left = left - #assert(c:receive_some()) end
    assert.equal(0, left)
    assert.equal("small", http.ask(c, http.get "/small").body)
    if not net.is_sanitized then assert.is_true(s:rss() - before < 8 * MIB, s:rss() - before) end
    -- one that goes away in the middle leaves no descriptor
    local descriptors = s:descriptors()
    local d = s:connect { receive_buffer = 16384 }
    d:send(http.get())
    http.head(d)
    d:reset()
    assert.truthy(s:wait_said(2)[2]:find("^file nil %a+$"))
    assert.is_truthy(net.poll_until(function() return s:descriptors() <= descriptors end))
  end)

  it("breaks off when a file shrinks on the way", function()
    local path = server.folder() .. "/shrinks"
    os.execute(("head -c %d /dev/zero > '%s'"):format(20 * MIB, path))
    local s = start(("local ok, err = res:file(%q); say('%%s %%s', tostring(ok), tostring(err))"):format(path))
    local c = s:connect { receive_buffer = 16384 }
    c:send(http.get())
    http.head(c)
    os.execute((": > '%s'"):format(path))
    local rest = c:receive_all(20)
    assert.is_true(#rest < 20 * MIB)
    assert.equal("nil short", s:wait_said(1)[1])
  end)

  -- ---- errors ------------------------------------------------------------------------------------------------------

  it("is a 500 when the handler raises before it answered, and the connection goes on", function()
    local s = start([[
      if req.path == "/fine" then return res:send "fine" end
      res.status = 201
      res:header("X-Secret", "1")
      res:header("Content-Length", 1000)
      if req.path == "/late" then rille.sleep(0.01) end
      error "secret words"
    ]], { allow_errors = true })
    local c = s:connect()
    for _, path in ipairs { "/", "/late" } do
      local answer = http.ask(c, http.get(path))
      assert.same({ 500, nil, nil }, { answer.status, answer["x-secret"], answer.connection })
      assert.is_nil(answer.body:find("secret", 1, true))
      assert.equal("500 Internal Server Error\n", answer.body)
      assert.equal("", http.ask(c, http.request("HEAD", path)).body)
    end
    c:send(http.get "/" .. http.get "/fine" .. http.get "/late" .. http.get "/fine")
    for _, status in ipairs { 500, 200, 500, 200 } do assert.equal(status, http.answer(c).status) end
    s:wait_log("level=error[^\n]*secret words[^\n]*traceback")
  end)

  it("is the end of the connection when it raises in the middle of its answer: no last chunk", function()
    local s = start([[
      if req.path == "/counted" then res:header("Content-Length", 100) end
      res:write "begun"
      if req.path == "/flushed" then res:flush() end
      error "broken"
    ]], { allow_errors = true })
    for path, rest in pairs { ["/"] = "5\r\nbegun\r\n", ["/flushed"] = "5\r\nbegun\r\n", ["/counted"] = "begun" } do
      local c = s:connect()
      c:send(http.get(path) .. http.get(path))
      http.head(c)
      assert.same({ rest, "closed" }, { c:receive_all() })
    end
  end)

  it("shows the traceback to a developer", function()
    local code = "\nlocal function deep() error 'for the developer' end\ndeep()"
    local answer, s = answer_of(code, nil, { conf = { dev = true }, allow_errors = true, name = "dev" })
    assert.equal(500, answer.status)
    assert.truthy(answer.body:find("dev.lua:3: for the developer", 1, true), answer.body)
    assert.truthy(answer.body:find("stack traceback", 1, true))
    assert.equal(#answer.body, tonumber(answer["content-length"]))
    s:stop()
    local t = server.run("return function()\nerror 'for the developer'\nend\n", nil,
      { listen = "http://127.0.0.1:0", words = { "--dev" }, allow_errors = true })
    assert.truthy(http.once(t, http.get()).body:find("for the developer", 1, true))
  end)

  it("survives values that are raised and are no strings", function()
    local s = start([[
      local values = { ["/nil"] = nil, ["/table"] = {}, ["/number"] = 42 }
      error(values[req.path])
    ]], { allow_errors = true, conf = { dev = true } })
    local c = s:connect()
    for _, path in ipairs { "/nil", "/table", "/number" } do assert.equal(500, http.ask(c, http.get(path)).status) end
  end)

  it("may be cut off by the handler: close, abort, shutdown", function()
    local s = start([[
      local how = req:query "how"
      if req.path == "/begun" then res:write "begun" end
      req.conn[how](req.conn, how == "shutdown" and "write" or nil)
      rille.sleep(0.01)
      local ok, err = pcall(function() return select(2, res:send "late") end)
      say("%s %s", how, tostring(err))
    ]], { allow_errors = true })
    for _, path in ipairs { "/none", "/begun" } do
      for _, how in ipairs { "close", "abort", "shutdown" } do
        local c = s:connect()
        c:send(http.get(path .. "?how=" .. how))
        local text = c:receive_all()
        assert.is_nil(text:find("late", 1, true))
        if path == "/none" then assert.equal("", text) end
      end
    end
    s:wait_said(6)
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  -- ---- leaving HTTP ------------------------------------------------------------------------------------------------

  local UPGRADE = http.get("/", { "Connection: keep-alive, Upgrade", "Upgrade: echo" })

  local ECHO = [[
    return {
      on_request = function(req, res)
        if req.path ~= "/" then return res:send "http" end
        res:header("X-Y", "z")
        local conn, err = res:upgrade(req:query "p" or "echo")
        if not conn then return res:send("no: " .. err) end
        conn:on_request(function(c)
          local bytes = c:next(c:len())
          say("got %s", bytes:str())
          c:write(bytes)
        end)
      end,
    }
  ]]

  it("leaves HTTP with 101; bytes that came early are handed over once", function()
    local s = http.start(ECHO)
    local c = s:connect()
    assert.equal("http", http.ask(c, http.get "/first").body)
    c:send(UPGRADE .. "early")
    local head = http.head(c)
    assert.same({ 101, "upgrade", "echo", "z" }, { head.status, head.connection, head.upgrade, head["x-y"] })
    assert.is_nil(head["content-length"] or head["transfer-encoding"])
    assert.equal("early", c:receive(5))
    c:send(http.get())
    assert.equal(http.get(), c:receive(#http.get()))
    c:send_slowly "late"
    assert.equal("late", c:receive(4))
    c:shutdown_write()
    assert.same({ "", "closed" }, { c:receive_all() })
    assert.equal("got early", s:said()[1])
  end)

  it("leaves HTTP while bytes come before and behind the switch", function()
    local s = http.start [[
      return function(req, res)
        local conn = res:upgrade "lines"
        rille.sleep(0.01)
        conn:write(conn:read_line():str():upper() .. "\n")
        conn:on_request(function(c)
          local line = c:read_line()
          if line then c:write(line:str() .. "\n") end
        end)
      end
    ]]
    for _ = 1, 5 do
      local c = s:connect()
      local text = http.get("/", { "Connection: upgrade", "Upgrade: lines" }) .. "one\ntwo\nthr"
      c:send(text)
      assert.equal(101, http.head(c).status)
      assert.equal("ONE", c:receive_line())
      assert.equal("two", c:receive_line())
      c:send("ee\n")
      assert.equal("three", c:receive_line())
      c:close()
    end
  end)

  it("cannot leave HTTP when that was not asked for", function()
    local s = http.start(ECHO)
    local c = s:connect()
    for _, fields in ipairs { {}, { "Upgrade: echo" }, { "Connection: upgrade" } } do
      assert.equal("no: invalid argument", http.ask(c, http.get("/", fields)).body)
    end
    assert.equal("no: invalid argument", http.ask(c, http.post("/", "body", { "Connection: upgrade", "Upgrade: echo" })).body)
    assert.equal("no: invalid argument", http.ask(c, (UPGRADE:gsub("HTTP/1.1", "HTTP/1.0"))).body)
    for _, name in ipairs { "a%20b", "a%0d%0ab", ("x"):rep(65) } do
      assert.equal("no: invalid argument", http.ask(c, http.get("/?p=" .. name, { "Connection: upgrade", "Upgrade: echo" })).body)
    end
  end)

  it("ends the connection when a handler leaves HTTP and has no use for it", function()
    local s = http.start([[
      return function(req, res)
        local conn = res:upgrade "x"
        conn:write "bye"
        if req.path == "/error" then error "broken" end
      end
    ]], { allow_errors = true })
    for _, path in ipairs { "/", "/error" } do
      local c = s:connect()
      c:send(http.get(path, { "Connection: upgrade", "Upgrade: x" }) .. "ignored")
      assert.equal(101, http.head(c).status)
      assert.equal("bye", (c:receive_all()))
    end
  end)

  it("takes no more of an answer behind the switch", function()
    local s = http.start([[
      return function(req, res)
        local conn = res:upgrade "x"
        local calls = { function() res:send "a" end, function() res:write "a" end, function() res:json {} end,
          function() res:file "/etc/hostname" end, function() res.status = 200 end, function() res:upgrade "x" end }
        local raised = 0
        for _, call in ipairs(calls) do
          if not pcall(call) then raised = raised + 1 end
        end
        conn:write(raised .. " of " .. #calls .. " " .. req:body():len() .. tostring(req:read()))
      end
    ]])
    local c = s:connect()
    c:send(http.get("/", { "Connection: upgrade", "Upgrade: x" }))
    assert.equal(101, http.head(c).status)
    assert.equal("6 of 6 0nil", (c:receive_all()))
  end)

  it("opens a tunnel for CONNECT, if the script takes it", function()
    local s = http.start [[
      return {
        on_request = function(req, res) res:send "http" end,
        on_tunnel = function(req, res)
          if req.target == "no.test:1" then
            res.status = 403
            return res:send "no"
          end
          local conn = res:upgrade()
          conn:write(req.target .. " " .. req.host .. " " .. req.method .. "\n")
          conn:on_request(function(c) c:write(c:next(c:len())) end)
        end,
      }
    ]]
    local c = s:connect()
    local function connect(target) return ("CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n"):format(target, target) end
    local answer = http.ask(c, connect "no.test:1")
    assert.same({ 403, "no", "close" }, { answer.status, answer.body, answer.connection })
    c = s:connect()
    assert.equal("http", http.ask(c, http.get()).body)
    c:send(connect "example.test:443" .. "early")
    local head = http.head(c)
    assert.same({ 200, nil, nil }, { head.status, head["content-length"], head["transfer-encoding"] })
    assert.equal("example.test:443 example.test CONNECT", c:receive_line())
    assert.equal("early", c:receive(5))
    -- a body would be read as what goes through the tunnel
    for _, line in ipairs { "Content-Length: 5", "Transfer-Encoding: chunked" } do
      local text = connect("a.test:1"):gsub("\r\n\r\n", "\r\n" .. line .. "\r\n\r\n")
      assert.equal(400, http.once(s, text .. "hello").status)
    end
  end)

  it("is no success for CONNECT without a tunnel: the client would send into it", function()
    local s = http.start([[
      return {
        on_request = function(req, res) res:send "http" end,
        on_tunnel = function(req, res)
          if req.host == "send" then res:send "fine" end
          if req.host == "write" then res:write "fine" end
          if req.host == "raise" then error "broken" end
        end,
      }
    ]], { allow_errors = true })
    for host, status in pairs { nothing = 501, raise = 500 } do
      local c = s:connect()
      c:send("CONNECT " .. host .. ":1 HTTP/1.1\r\nHost: " .. host .. ":1\r\n\r\n")
      assert.equal(status, http.answer(c).status)
    end
    for _, host in ipairs { "send", "write" } do
      local c = s:connect()
      c:send("CONNECT " .. host .. ":1 HTTP/1.1\r\nHost: " .. host .. ":1\r\n\r\n" .. http.get())
      assert.is_nil((c:receive_all()):find("http", 20, true))
    end
  end)

  it("is 501 for CONNECT to a script that does not take it", function()
    local s = start 'res:send "x"'
    local c = s:connect()
    local answer = http.ask(c, "CONNECT a.test:1 HTTP/1.1\r\nHost: a.test:1\r\n\r\n")
    assert.same({ 501, "close" }, { answer.status, answer.connection })
    assert.equal("", (c:receive_all()))
  end)
end)
