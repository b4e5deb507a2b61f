-- What clients cannot make the server do: wait for ever, store without end, answer out of order, or forget the others.

local http = require "spec.support.http"
local server, net = http.server, http.net

local MIB = 1024 * 1024

local HELLO = 'return function(_, res)\nres:send "hello"\nend\n'

-- Memory that a server may have grown by; no figure under a sanitizer, which keeps what is freed.
local function assert_flat(s, before, growth)
  if net.is_sanitized then return end
  local now = s:rss()
  if now - before > growth then error(("%.1f MiB more than before"):format((now - before) / MIB), 0) end
end

-- ---- the load of well-behaved clients ---------------------------------------------------------------------------------

-- So many clients ask for / one request after the other, for so many seconds. Sorted latencies in ms.
local function measure(s, count, seconds)
  local ffi = require "ffi"
  local request = http.get()
  local clients, fds, started = {}, ffi.new("struct net_pollfd[?]", count), {}
  for i = 1, count do
    clients[i] = s:connect()
    clients[i]:send(request)
    started[i] = net.now()
    fds[i - 1].fd, fds[i - 1].events = clients[i].fd, net.POLLIN
  end
  local taken = {}
  local stop = net.now() + seconds
  while net.now() < stop do
    net.C.net_poll(fds, count, 1000)
    for i = 1, count do
      if fds[i - 1].revents ~= 0 then
        local c = clients[i]
        assert(http.answer(c).body == "hello")
        local now = net.now()
        taken[#taken + 1] = (now - started[i]) * 1000
        c:send(request)
        started[i] = now
      end
    end
  end
  for i = 1, count do
    http.answer(clients[i])
    clients[i]:close()
  end
  table.sort(taken)
  return taken
end

local function p99(list)
  return list[math.ceil(#list * 0.99)]
end

-- Run a piece of Lua that has the specs' client, in a process of its own, so that it takes no time from those who measure.
local function attack(s, code)
  local path = server.write("attack.lua", ([[
    package.path = %q
    local net, client = require "spec.support.net", require "spec.support.client"
    local url = %q
    net.raise_descriptor_limit()
    io.stdout:setvbuf "no"
  ]]):format(package.path, s.url) .. code .. "\n")
  local process = server.spawn(nil, { command = { os.getenv "LUAJIT" or "luajit", path } })
  process:forget()
  return process
end

-- What the others feel of an attack: p99 before and while it runs.
local function compare(s, what, code, begun)
  local calm = p99(measure(s, 50, 0.7))
  local process = attack(s, code)
  begun(process)
  local stormy = p99(measure(s, 50, 0.7))
  print(("%s: p99 of 50 clients %.2f ms before, %.2f ms meanwhile"):format(what, calm, stormy))
  assert.is_true(stormy <= calm * 3 + 10 * net.slow, ("%.2f ms before, %.2f ms meanwhile"):format(calm, stormy))
  return process
end

describe("http limits", function()
  after_each(server.cleanup)

  -- ---- heads -------------------------------------------------------------------------------------------------------

  local function refused(s, text, status)
    local c = s:connect()
    c:send(text)
    local answer = http.answer(c)
    assert.same({ status, "close" }, { answer.status, answer.connection })
    assert.equal("", (c:receive_all()))
    c:close()
  end

  it("refuses a target that is too long with 414", function()
    local s = http.start(HELLO, { limits = { target = 100 } })
    assert.equal(200, http.once(s, http.get("/" .. ("x"):rep(99))).status)
    refused(s, http.get("/" .. ("x"):rep(100)), 414)
    refused(s, "GET /" .. ("x"):rep(100), 414) -- without waiting for the rest
    refused(s, http.get("http://test/" .. ("x"):rep(89)), 414)
  end)

  it("refuses a head that is too long with 431", function()
    local s = http.start(HELLO, { limits = { head = 1000 } })
    local function head_of(size) return http.get("/", { "X: " .. ("v"):rep(size - #http.get("/", { "X: " })) }) end
    assert.equal(1000, #head_of(1000))
    assert.equal(200, http.once(s, head_of(1000)).status)
    refused(s, head_of(1001), 431)
    refused(s, ("\r\n"):rep(600), 431)
    refused(s, "GET / HTTP/1.1\r\nX: " .. ("v"):rep(2000), 431)
  end)

  it("refuses too many fields with 431, without storing them", function()
    local s = http.start(HELLO, { limits = { headers = 50, head = "1m" } })
    local many = {}
    for i = 1, 49 do many[i] = "X: " .. i end
    assert.equal(200, http.once(s, http.get("/", many)).status)
    many[50] = "X: 50"
    refused(s, http.get("/", many), 431)
    local before = s:rss()
    for i = 1, 100000 do many[i] = "X-" .. i .. ": 1" end
    local text = http.get("/", many)
    for _ = 1, 10 do
      local c = s:connect()
      c:try_send(text)
      assert.equal(431, http.answer(c).status)
      c:close()
    end
    assert_flat(s, before, 3 * MIB)
  end)

  it("takes ten thousand fields where that is allowed, and forgets them", function()
    local s = http.start([[
      return function(req, res)
        local n = 0
        for _ in pairs(req:headers()) do n = n + 1 end
        res:send(n .. " " .. tostring(req:header "x-10"))
      end
    ]], { limits = { headers = 10000, head = "1m" } })
    local many = {}
    for i = 1, 9999 do many[i] = "X-" .. i .. ": " .. i end
    local c = s:connect()
    for _ = 1, 3 do
      assert.equal("10000 10", http.ask(c, http.get("/", many)).body)
      assert.equal("2 nil", http.ask(c, http.get("/", { "a: b" })).body)
    end
  end)

  it("holds a head that comes in pieces only once", function()
    local s = http.start(HELLO, { limits = { head = "64k" } })
    assert.equal(200, http.once(s, http.get()).status)
    local before = s:rss()
    local clients = {}
    local text = http.get("/", { "X: " .. ("v"):rep(30000) })
    for i = 1, 20 do
      clients[i] = s:connect()
      clients[i]:send(text:sub(1, 9000))
    end
    for at = 9001, #text, 300 do
      for i = 1, 20 do clients[i]:send(text:sub(at, at + 299)) end
    end
    assert_flat(s, before, 20 * 200 * 1024)
    for i = 1, 20 do assert.equal("hello", http.answer(clients[i]).body) end
  end)

  it("waits for a head only so long, from its first byte, however busily it comes", function()
    local s = http.start(HELLO, { timeouts = { header = 0.3 } })
    local c = s:connect()
    for round = 1, 2 do
      if round == 2 then -- behind a request that was answered the time is new
        c = s:connect()
        assert.equal("hello", http.ask(c, http.get()).body)
        net.nap(200)
      end
      local began = net.now()
      c:send "GET / HTTP/1.1\r\nX: "
      while not net.wait(c.fd, net.POLLIN, net.now() + 0.02) do c:try_send "x" end
      local took = net.now() - began
      assert.is_true(took > 0.25 and took < 2 * net.slow, took)
      local answer = http.answer(c)
      assert.same({ 408, "close" }, { answer.status, answer.connection })
      assert.equal("", (c:receive_all()))
    end
  end)

  it("does not count the time without a byte, nor the handler's", function()
    local s = http.start([[
      return function(_, res)
        rille.sleep(0.4)
        res:send "hello"
      end
    ]], { timeouts = { header = 0.3 } })
    local c = s:connect()
    net.nap(350)
    c:send(http.get() .. "GET /half")
    assert.equal("hello", http.answer(c).body)
    c:send " HTTP/1.1\r\nHost: t\r\n\r\n" -- its time began when the one before was answered
    assert.equal("hello", http.answer(c).body)
  end)

  it("closes a connection that is idle between requests without a word", function()
    local s = http.start(HELLO, { timeouts = { idle = 0.2 } })
    local c = s:connect()
    assert.equal("hello", http.ask(c, http.get()).body)
    assert.same({ "", "closed" }, { c:receive_all() })
    assert.same({ "", "closed" }, { s:connect():receive_all() })
  end)

  -- ---- requests and connections --------------------------------------------------------------------------------------

  it("ends a connection after so many requests", function()
    local s = http.start(HELLO, { limits = { requests = 3 } })
    local c = s:connect()
    c:send(http.get():rep(5))
    assert.is_nil(http.answer(c).connection)
    assert.is_nil(http.answer(c).connection)
    assert.equal("close", http.answer(c).connection)
    assert.same({ "", "closed" }, { c:receive_all() })
    assert.equal("hello", http.once(s, http.get()).body)
  end)

  it("takes only so many connections at a time", function()
    local s = http.start(HELLO, { limits = { max_connections = 2 } })
    local a, b = s:connect(), s:connect()
    assert.equal("hello", http.ask(a, http.get()).body)
    assert.equal("hello", http.ask(b, http.get()).body)
    local c = s:connect()
    c:try_send(http.get())
    c:receives_nothing(0.05)
    a:close()
    assert.equal("hello", http.answer(c).body)
  end)

  -- ---- pipelining ----------------------------------------------------------------------------------------------------

  it("answers a thousand requests that come in one go in their order", function()
    local s = http.start [[
      return function(req, res)
        local n = tonumber(req:query "n")
        if n % 7 == 0 then rille.sleep(math.random() * 0.002) end
        if n % 5 == 0 then rille.yield() end
        local body = req:body():str()
        if n % 3 == 0 then
          res:write(req:query "n")
          if n % 2 == 0 then res:flush() end
          res:write(body)
        elseif n % 11 == 0 then
          return
        else
          res:send(req:query "n" .. body)
        end
      end
    ]]
    local parts = {}
    for n = 1, 1000 do
      if n % 4 == 0 then parts[n] = http.post("/?n=" .. n, ("b"):rep(n))
      elseif n % 13 == 0 then
        parts[n] = http.request("POST", "/?n=" .. n, { "Transfer-Encoding: chunked" }) .. http.chunked { "b", "bb" }
      else parts[n] = http.get("/?n=" .. n) end
    end
    local c = s:connect()
    c:send(table.concat(parts))
    for n = 1, 1000 do
      local body = n % 4 == 0 and ("b"):rep(n) or n % 13 == 0 and "bbb" or ""
      local expected = n % 11 == 0 and n % 3 ~= 0 and "" or n .. body
      assert.equal(expected, http.answer(c).body, n)
    end
  end)

  -- What the server writes by itself counts as well: an answer nobody sent, an error.
  for name, handler in pairs {
    ["sends"] = "res:send(('a'):rep(100))", ["writes"] = "res:write 'a' res:write 'b'", ["sends nothing"] = "",
    ["raises"] = "error 'no'", ["reads nothing"] = "res.status = 204",
  } do
    it("stores no endless answers for a client that does not read them: handler " .. name, function()
      local s = http.start("rille.log.set_rate(1)\nreturn function(req, res)\n" .. handler .. "\nend\n",
        { limits = { high_water = "64k" }, server = { send_buffer = "64k" }, allow_errors = true })
      local c = s:connect { receive_buffer = 4096 }
      local block = (name == "reads nothing" and http.post("/", "xyz") or http.get()):rep(1000)
      local before, sent, still = s:rss(), 0, 0
      while still < 15 and sent < 60 * MIB do
        local n = c:try_send(block, sent % #block)
        sent = sent + n
        if n == 0 then
          still = still + 1
          net.nap(10)
        else
          still = 0
        end
      end
      assert.is_true(sent < 60 * MIB, "the server took everything")
      assert_flat(s, before, 3 * MIB)
      -- others go on
      assert.is_true(http.once(s, http.get()).status > 0)
      -- and when it reads at last, everything is there, in step
      local rest = #block - sent % #block
      local at = sent % #block
      local expected = math.floor((sent + rest) / (#block / 1000) + 0.5)
      local answers = 0
      while answers < expected do
        if rest > 0 then
          local n = c:try_send(block, at)
          at, rest = at + n, rest - n
        end
        local text = c:receive_some(0.01)
        if c.ended then break end
        local _, count = ((c.tail or "") .. (text or "")):gsub("HTTP/1%.1 %d%d%d", "")
        answers = answers + count
        -- a status line may be cut
        local all = (c.tail or "") .. (text or "")
        c.tail = all:sub(-11)
        if c.tail:find("HTTP/1%.1 %d%d%d") then c.tail = c.tail:gsub("HTTP/1%.1 %d%d%d", "") end
      end
      assert.equal(expected, answers)
    end)
  end

  it("answers what came before a half-close, then ends", function()
    local s = http.start [[
      return function(req, res)
        rille.sleep(0.005)
        local body, err = req:body()
        res:send(body and body:str() or err)
      end
    ]]
    local c = s:connect()
    c:send(http.get() .. http.post("/", "one") .. http.post("/", "two"))
    c:shutdown_write()
    for _, body in ipairs { "", "one", "two" } do assert.equal(body, http.answer(c).body) end
    assert.same({ "", "closed" }, { c:receive_all() })
    -- in the middle of a head: nothing to answer
    local d = s:connect()
    d:send(http.get() .. "GET /half HTT")
    d:shutdown_write()
    assert.equal(200, http.answer(d).status)
    d:receive_all()
    -- in the middle of a body: it is not the whole request
    local e = s:connect()
    e:send(http.get() .. http.request("POST", "/", { "Content-Length: 10" }) .. "half")
    e:shutdown_write()
    assert.equal(200, http.answer(e).status)
    assert.equal(400, http.answer(e).status)
    assert.same({ "", "closed" }, { e:receive_all() })
  end)

  -- ---- drain ---------------------------------------------------------------------------------------------------------

  it("finishes requests under way at SIGTERM, announces the end, and closes idle connections at once", function()
    local s = http.start([[
      local go = {}
      return function(req, res)
        if req.path == "/begun" then res:write "begun " res:flush() end
        say("in %s", req.path)
        local body
        if req.path == "/body" then body = req:body():str() end
        if req.path == "/pieces" then
          body = ""
          for piece in function() return req:read() end do body = body .. piece:str() end
        end
        if not body then rille.sleep(0.3) end
        res[req.path == "/begun" and "write" or "send"](res, body or "done")
      end
    ]], { conf = { drain_timeout = 5 } })
    local idle, fresh = s:connect(), s:connect()
    assert.equal(200, http.ask(idle, http.post("/body", "x")).status)
    local plain, begun, body, chunked, pieces = s:connect(), s:connect(), s:connect(), s:connect(), s:connect()
    plain:send(http.get "/plain" .. http.get "/after")
    begun:send(http.get "/begun")
    body:send(http.request("POST", "/body", { "Content-Length: 6" }) .. "bo")
    chunked:send(http.request("POST", "/body", { "Transfer-Encoding: chunked" }) .. "3\r\nchu\r\n")
    pieces:send(http.request("POST", "/pieces", { "Content-Length: 6" }) .. "pie")
    s:wait_said(6)
    s:signal "TERM"
    s:wait_log "draining"
    assert.same({ "", "closed" }, { idle:receive_all(1) })
    assert.same({ "", "closed" }, { fresh:receive_all(1) })
    net.nap(50)
    body:send "dies"
    chunked:send "3\r\nnks\r\n0\r\n\r\n"
    pieces:send "ces"
    for client, text in pairs { [plain] = "done", [body] = "bodies", [chunked] = "chunks", [pieces] = "pieces" } do
      local answer = http.answer(client)
      assert.same({ 200, text, "close" }, { answer.status, answer.body, answer.connection })
      assert.same({ "", "closed" }, { client:receive_all() })
    end
    assert.equal("begun done", http.answer(begun).body)
    assert.same({ "", "closed" }, { begun:receive_all() })
    assert.equal(0, s:wait_exit())
    s:forget()
    s:check_end()
  end)

  -- ---- attacks: what do the others feel? -----------------------------------------------------------------------------

  it("holds a thousand slow heads cheaply, serves the others meanwhile, and ends them with 408", function()
    local s = http.start(HELLO, { timeouts = { header = 2 * net.slow } })
    http.once(s, http.get())
    local before = s:rss()
    local process = compare(s, "a thousand slow heads", [[
      local text = "GET / HTTP/1.1\r\nHost: slow\r\nX-Slow: " .. ("x"):rep(1000)
      local clients = {}
      for i = 1, 1000 do
        clients[i] = client.connect(url)
        clients[i]:send(text:sub(1, 20))
      end
      print "begun"
      local at, refused = 21, 0
      local next_byte = net.now() + 1
      while refused < 1000 do
        net.nap(20)
        if net.now() > next_byte then
          for i = 1, 1000 do
            if not clients[i].is_refused then clients[i]:try_send(text:sub(at, at)) end
          end
          at, next_byte = at + 1, net.now() + 1
        end
        for i = 1, 1000 do
          local c = clients[i]
          if not c.is_refused then
            local bytes = c:receive_some(0)
            if bytes then
              assert(bytes:find("^HTTP/1.1 408 "), bytes)
              c.is_refused = true
              refused = refused + 1
              c:close()
            end
          end
        end
      end
      print "all refused"
    ]], function(process) process:wait_log "begun" end)
    assert.equal(1000, s:state().connections)
    assert_flat(s, before, 16 * MIB)
    process:wait_log("all refused", 10)
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  for _, limit in ipairs { "1m", 0 } do
    it("does not store ten GiB that a handler ignores, limits.body = " .. limit, function()
      local s = http.start([[
        return function(req, res)
          if req.method == "POST" then
            say "ignoring"
            rille.sleep(1.2)
          end
          res:send "hello"
        end
      ]], { limits = { body = limit } })
      http.once(s, http.get())
      local before = s:rss()
      local process = compare(s, "ten GiB to " .. limit, [[
        local block = ("x"):rep(1048576)
        local c = client.connect(url)
        c:send "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10737418240\r\n\r\n"
        print "begun"
        local sent, answer = 0, ""
        local stop = net.now() + 3
        while net.now() < stop do
          local n = c:try_send(block)
          if not n then break end
          sent = sent + n
          local bytes = c:receive_some(0)
          if bytes == "" then break end
          answer = answer .. (bytes or "")
          if n == 0 then net.wait(c.fd, net.POLLOUT + net.POLLIN, net.now() + 0.1) end
        end
        print(("answer %s; %d bytes sent"):format(answer:match("^%S+ (%d+)") or "none", sent))
      ]], function(process) process:wait_log "begun" end)
      assert_flat(s, before, 4 * MIB)
      assert.equal(limit == 0 and "200" or "413", process:wait_log("answer (%w+)", 5))
      process:wait_exit()
      assert_flat(s, before, 4 * MIB)
      s:wait_state(function(state) return state.connections == 0 end)
    end)
  end
end)
