-- What a handler sees of a request, asked for over real sockets. Bodies have a file of their own (body_spec.lua).

local http = require "spec.support.http"
local server = http.server

-- Answers with show(what), which each spec defines: a Lua expression of req.
local function start(expression, opts)
  return http.start(([[
    local function show(x) return type(x) == "string" and x or tostring(x) end
    return function(req, res)
      res:send(show(%s))
    end
  ]]):format(expression), opts)
end

-- What the expression is for a request with this text.
local function seen(s, text)
  local answer = http.once(s, text)
  assert.equal(200, answer.status)
  return answer.body
end

describe("http request", function()
  after_each(server.cleanup)

  it("has the method, as it was sent", function()
    local s = start "req.method"
    for _, method in ipairs { "GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "get", "X-1!" } do
      assert.equal(method, seen(s, http.request(method, "/")))
    end
  end)

  it("has the path, decoded once and normalised, and the target as it came", function()
    local s = start "req.path .. ' ' .. req.target"
    local cases = {
      ["/"] = "/",
      ["/a/b.txt"] = "/a/b.txt",
      ["/a/b/"] = "/a/b/",
      ["/a%20b"] = "/a b",
      ["/%2541"] = "/%41", -- once
      ["/a/../b"] = "/b",
      ["/a/%2e%2e/b"] = "/b",
      ["/a/%2E./b"] = "/b",
      ["/./a/."] = "/a/",
      ["//a///b"] = "/a/b",
      ["/a%2Fb"] = "/a/b",
      ["/a%2f..%2fb"] = "/b",
      ["/%C3%A4"] = "/ä",
      ["/a+b"] = "/a+b",
      ["/a?b=/../c"] = "/a",
      ["/?"] = "/",
    }
    for target, path in pairs(cases) do assert.equal(path .. " " .. target, seen(s, http.get(target))) end
  end)

  it("is refused when the path leaves the root or hides a control character", function()
    local s = start "req.path"
    for _, target in ipairs { "/..", "/a/../../b", "/%2e%2e/b", "/%00", "/a%0d%0ab", "/%zz", "/%4", "/%7f" } do
      local answer = http.once(s, http.get(target))
      assert.equal(400, answer.status, target)
      assert.equal("close", answer.connection)
    end
  end)

  it("takes an absolute target, whose host counts more than Host", function()
    local s = start "req.path .. ' ' .. req.host .. ' ' .. req.target .. ' ' .. req.query:str()"
    assert.equal("/a other.test http://other.test:81/%61?q=1 q=1", seen(s, http.get "http://other.test:81/%61?q=1"))
    assert.equal("/ other.test HTTP://OTHER.test ", seen(s, http.get "HTTP://OTHER.test"))
    assert.equal("/ other.test http://other.test?x x", seen(s, http.get "http://other.test?x"))
  end)

  it("takes OPTIONS *", function()
    local s = start "req.method .. ' ' .. req.path .. ' ' .. req.target"
    assert.equal("OPTIONS * *", seen(s, http.request("OPTIONS", "*")))
    assert.equal(400, http.once(s, http.get "*").status)
  end)

  it("has the query as a slice, empty without one", function()
    local s = start "req.query:str() .. ' ' .. req.query:len()"
    assert.equal("a=1&b=%32 9", seen(s, http.get "/x?a=1&b=%32"))
    assert.equal(" 0", seen(s, http.get "/x"))
    assert.equal(" 0", seen(s, http.get "/x?"))
    assert.equal("? 1", seen(s, http.get "/x??"))
  end)

  it("finds parameters of the query, decoded", function()
    local s = start "req:query('a') or 'nil'"
    local cases = {
      [""] = "nil", ["?"] = "nil", ["?a"] = "", ["?a="] = "", ["?a=1"] = "1", ["?b=2&a=1&a=3"] = "1",
      ["?a=one+two%20three"] = "one two three", ["?%61=x"] = "x", ["?a=%zz%4"] = "%zz%4", ["?aa=1"] = "nil",
      ["?a=b=c"] = "b=c", ["?A=1"] = "nil", ["?&&a=1"] = "1", ["?a=%00%0d"] = "\0\r", ["?a=%2B"] = "+",
    }
    for query, value in pairs(cases) do assert.equal(value, seen(s, http.get("/" .. query)), query) end
  end)

  it("lists all parameters; those of one name together", function()
    local s = http.start [[
      return function(req, res)
        local names, lines = {}, {}
        local all = req:query()
        for name in pairs(all) do names[#names + 1] = name end
        table.sort(names)
        for i, name in ipairs(names) do
          local value = all[name]
          lines[i] = name .. "=" .. (type(value) == "table" and "[" .. table.concat(value, ",") .. "]" or value)
        end
        res:send(table.concat(lines, ";"))
      end
    ]]
    assert.equal("a=[1,2,3];b c=x&y;d=;e=", seen(s, http.get "/?a=1&a=2&b+c=x%26y&d&e=&a=3&=none&&"))
    assert.equal("", seen(s, http.get "/"))
    local many = {}
    for i = 1, 1000 do many[i] = "p=" .. i end
    local big = http.start([[
      return function(req, res) res:send(tostring(#req:query().p) .. req:query("q")) end
    ]], { limits = { head = "32k", target = "16k" } })
    assert.equal("1000" .. ("v"):rep(3000), seen(big, http.get("/?" .. table.concat(many, "&") .. "&q=" .. ("v"):rep(3000))))
  end)

  it("has the version and the host without its port, in lower case", function()
    local s = start "req.version .. ' ' .. tostring(req.host)"
    local function host(line) return seen(s, "GET / HTTP/1.1\r\n" .. line .. "\r\n\r\n") end
    assert.equal("1.1 www.example.org", host "Host: WWW.Example.ORG:8080")
    assert.equal("1.1 www.example.org", host "host:www.example.org")
    assert.equal("1.1 [::1]", host "Host: [::1]:80")
    assert.equal("1.1 [::1]", host "Host: [::1]")
    assert.equal("1.1 127.0.0.1", host "Host: 127.0.0.1")
    assert.equal("1.1 ", host "Host:")
    assert.equal("1.0 ", seen(s, "GET / HTTP/1.0\r\n\r\n"))
  end)

  it("knows who asks", function()
    local s = start "req.remote .. ' ' .. tostring(req.conn == res.conn) .. ' ' .. req.conn.id"
    local c = s:connect()
    assert.truthy(http.ask(c, http.get()).body:match("^127%.0%.0%.1:" .. c:port() .. " true %d+$"))
  end)

  it("has header fields by name in any case, and nil for those that are not there", function()
    local s = start "req:header('x-NAME') and req:header('x-NAME'):str() or 'nil'"
    assert.equal("value", seen(s, http.get("/", { "X-Name: value" })))
    assert.equal("a b", seen(s, http.get("/", { "x-name:\t a b \t" })))
    assert.equal("", seen(s, http.get("/", { "x-name:" })))
    assert.equal("nil", seen(s, http.get("/", { "x-names: value", "x-nam: 1" })))
    assert.equal("a, b, c, , d", seen(s, http.get("/", { "X-NAME: a, b", "other: 1", "x-name: c", "x-name:", "X-name: d" })))
  end)

  it("combines cookies as cookies", function()
    local s = start "req:header('Cookie'):str() .. '|' .. req:headers().cookie"
    assert.equal("a=1; b=2|a=1; b=2", seen(s, http.get("/", { "Cookie: a=1", "cookie: b=2" })))
  end)

  it("lists all fields", function()
    local s = http.start [[
      return function(req, res)
        local list = {}
        for name, value in pairs(req:headers()) do list[#list + 1] = name .. "=" .. value end
        table.sort(list)
        res:send(table.concat(list, "\n"))
      end
    ]]
    assert.equal("a=1, 2\nhost=test\nx-y=", seen(s, http.get("/", { "A: 1", "a: 2", "X-Y:" })))
    local many, expected = {}, { "host=test" }
    for i = 1, 99 do
      many[i] = ("n%03d: %d"):format(i, i)
      expected[i + 1] = ("n%03d=%d"):format(i, i)
    end
    assert.equal(table.concat(expected, "\n"), seen(s, http.get("/", many)))
  end)

  it("keeps slices of the head until the handler returns, whatever it does with the body", function()
    local s = http.start [[
      return function(req, res)
        local one, both, path, query = req:header "one", req:header "both", req.path, req.query
        rille.sleep(0.01)
        while req:read(10) do rille.yield() end
        req.conn:release()
        req:header("one"):str()
        res:send(table.concat({ one:str(), both:str(), path, query:str(), req.path, req:header("both"):str() }, " "))
      end
    ]]
    local c = s:connect()
    c:send("POST /a%62?q HTTP/1.1\r\nHost: t\r\nOne: 1\r\nBoth: 2\r\nBoth: 3\r\nContent-Length: 20000\r\n\r\n")
    for _ = 1, 20 do c:send(("x"):rep(1000)) end
    assert.equal("1 2, 3 /ab q /ab 2, 3", http.answer(c).body)
  end)

  it("expires its slices when the handler has returned, but for retained ones", function()
    local s = http.start [[
      local before, kept, copy
      return function(req, res)
        local text = "first"
        if before then
          local ok, err = pcall(before.str, before)
          text = tostring(ok) .. " " .. tostring(err) .. " " .. kept:str() .. " " .. copy:str()
          kept:release()
          copy:release()
        end
        before, kept, copy = req:header "x", req:header("x"):retain(), req:header("y"):retain()
        if req.path == "/end" then kept:release() copy:release() end
        res:send(text)
      end
    ]]
    local c = s:connect()
    assert.equal("first", http.ask(c, http.get("/", { "x: 1", "y: a", "y: b" })).body)
    local second = http.ask(c, http.get("/end", { "x: 2", "y: c" })).body
    assert.truthy(second:find("^false [^\n]*slice expired[^\n]* 1 a, b$"), second)
  end)

  it("takes a head that comes in pieces, and one that does not fit a block", function()
    local s = start "req:header('x'):len() .. ' ' .. req.path"
    local c = s:connect()
    c:send_slowly(http.get("/slow", { "X: 1234" }))
    assert.equal("4 /slow", http.answer(c).body)
    local big = http.get("/big", { "X: " .. ("v"):rep(15000) })
    assert.equal("15000 /big", http.ask(c, big).body)
    for _ = 1, 3 do
      for at = 1, #big, 997 do c:send(big:sub(at, at + 996)) end
      assert.equal("15000 /big", http.answer(c).body)
    end
  end)

  it("has a table for what belongs to the request", function()
    local s = start "(function() req.ctx.n = (req.ctx.n or 0) + 1; return req.ctx.n end)()"
    local c = s:connect()
    for _ = 1, 3 do assert.equal("1", http.ask(c, http.get()).body) end
  end)

  it("reads JSON", function()
    local s = http.start [[
      return function(req, res)
        local value, err, message = req:json()
        if value == nil then return res:send(tostring(err) .. ": " .. tostring(message)) end
        res:send(type(value) == "table" and tostring(value.a[2]) or tostring(value))
      end
    ]]
    assert.equal("two", seen(s, http.post("/", '{"a":[1,"two"]}')))
    assert.equal("false", seen(s, http.post("/", "false")))
    assert.truthy(seen(s, http.post("/", "{")):find("^invalid argument: .+"))
    assert.truthy(seen(s, http.post("/", "")):find("^invalid argument: .+"))
    assert.truthy(seen(s, http.get()):find("^invalid argument: .+"))
    assert.truthy(seen(s, http.post("/", ("["):rep(5000))):find("^invalid argument: .+"))
    assert.truthy(seen(s, http.post("/", "[NaN]")):find("^invalid argument: .+"))
  end)

  it("has nil for names it does not know, and says what it is", function()
    local s = start "tostring(req.nothing) .. ' ' .. tostring(req) .. ' ' .. tostring(res)"
    assert.equal("nil req GET /x res 200", seen(s, http.get "/x"))
  end)

  it("is a fresh table for each request", function()
    local s = start "(function() local old = req.mine; req.mine = 1; return old end)()"
    local c = s:connect()
    for _ = 1, 5 do assert.equal("nil", http.ask(c, http.get()).body) end
    c:send(http.get():rep(5))
    for _ = 1, 5 do assert.equal("nil", http.answer(c).body) end
  end)

  it("raises at the script's line when it is used after its handler returned", function()
    local s = http.start([[
      local uses = {
        function(req) local _ = req.path end,
        function(req) local _ = req.method end,
        function(req) local _ = req.query end,
        function(req) local _ = req.host end,
        function(req) local _ = req.version end,
        function(req) local _ = req:header "host" end,
        function(req) local _ = req:headers() end,
        function(req) local _ = req:body() end,
        function(req) local _ = req:read() end,
        function(req) local _ = req:json() end,
        function(_, res) local _ = res:send "x" end,
        function(_, res) local _ = res:write "x" end,
        function(_, res) local _ = res:flush() end,
        function(_, res) local _ = res:header("a", "b") end,
        function(_, res) local _ = res:header "a" end,
        function(_, res) res.status = 200 end,
        function(_, res) local _ = res.status end,
        function(_, res) local _ = res:json {} end,
        function(_, res) local _ = res:file "/etc/hostname" end,
        function(_, res) local _ = res:upgrade "x" end,
        function(_, res) local _ = res:is_sent() end,
      }
      local old_req, old_res
      return function(req, res)
        if not old_req then
          old_req, old_res = req, res
          return res:send "first"
        end
        local flaws = {}
        for i, use in ipairs(uses) do
          local ok, err = pcall(use, old_req, old_res)
          if ok or not tostring(err):find("old%.lua:" .. i + 1 .. ": this request is over") then
            flaws[#flaws + 1] = ("%d: %s"):format(i, tostring(err))
          end
        end
        if req.path == "/forget" then old_req, old_res = nil, nil end
        res:send(#flaws == 0 and "good" or table.concat(flaws, "; "))
      end
    ]], { name = "old" })
    local c = s:connect()
    http.ask(c, http.get())
    assert.equal("good", http.ask(c, http.get()).body)
    -- of another connection, and of one that is gone
    assert.equal("good", http.once(s, http.get()).body)
    c:close()
    assert.equal("good", http.once(s, http.get "/forget").body)
  end)

  it("raises for arguments of a wrong type", function()
    local s = http.start [[
      return function(req, res)
        local calls = {
          function() req:header() end, function() req:header(1) end, function() req:query(1) end,
          function() req:read "x" end, function() req:read {} end, function() res:file() end,
          function() res:file("/etc/hostname", 1) end, function() res:header() end, function() res:upgrade(1) end,
          function() res:send {} end, function() res:send(1) end, function() res:write() end, function() res:write(true) end,
        }
        local good = 0
        for _, call in ipairs(calls) do
          local ok, err = pcall(call)
          if not ok and tostring(err):find("bad argument", 1, true) then good = good + 1 end
        end
        res:send(good .. " of " .. #calls)
      end
    ]]
    assert.equal("13 of 13", seen(s, http.get()))
  end)

  it("takes req:read(0) for a mistake of the script's, not the end of a body", function()
    local s = start "tostring(select(2, req:read(0)))"
    assert.equal("invalid argument", seen(s, http.post("/", "body")))
  end)
end)
