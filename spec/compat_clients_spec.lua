-- Clients that were written for LuaSocket, as Debian has them, over rille.compat and against the servers they are for: redis-lua and
-- redis-server, socket.http and socket.smtp of LuaSocket and Python's servers, ssl.https of LuaSec and openssl.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local server = require "spec.support.server"
local tls = require "spec.support.tls"

-- A process of ours that is there when its output says so; what the pattern captures.
local function start(command, pattern)
  local process = server.spawn(nil, { command = command, wrap = { "env", "-u", "LD_PRELOAD" } }) -- a sanitizer is for ours alone
  process:forget()
  local found
  net.poll_until(function()
    found = process:log():match(pattern)
    return found or process:wait_exit(0)
  end, 15)
  if not found then error(table.concat(command, " ") .. " does not start:\n" .. process:log(), 0) end
  return process, found
end

local function stop(process)
  if not process then return end
  process:signal "TERM"
  if not process:wait_exit(10) then process:kill() end
end

-- In front of each piece: everything gets rille.compat where it asks for LuaSocket, and nobody makes it wait.
local HEAD = [[require("rille.compat").install() ]]
  .. [[local waits = 0 local ticks = rille.every(0.01, function() waits = waits + 1 end) ]]

local function check(code, ...)
  return inside.check(HEAD .. code:format(...) .. "\nticks:cancel()", { seconds = 40 })
end

describe("redis-lua", function()
  local redis, port, path, problem

  before_each(function()
    path = server.folder() .. "/redis.sock"
    for _ = 1, 5 do -- redis cannot pick a port
      port = math.random(20000, 30000)
      local ok, started = pcall(start, { "redis-server", "--port", tostring(port), "--bind", "127.0.0.1", "--unixsocket", path,
        "--save", "", "--dir", server.folder() }, "(Ready to accept connections)")
      redis, problem = ok and started, started
      if redis then return end
    end
    error(problem, 0)
  end)

  after_each(function()
    stop(redis)
    server.cleanup()
  end)

  it("works as it is: commands, pipelines, transactions, large values, errors", function()
    check([[
      local client = require("redis").connect { host = "127.0.0.1", port = %d, timeout = 10, tcp_nodelay = true }
      equal(client:ping(), true)
      equal(client:set("key", "value"), true) equal(client:get "key", "value") equal(client:get "nothing", nil)
      equal(client:incrby("count", 5), 5)
      client:hmset("hash", { a = 1, b = 2 }) equal(client:hgetall("hash").b, "2")
      client:rpush("list", "x", "y\r\n", "") equal(#client:lrange("list", 0, -1), 3) equal(client:lrange("list", 1, 1)[1], "y\r\n")
      local large = ("0123456789\r\n\0"):rep(300000)
      client:set("large", large) equal(client:get "large" == large, true)
      local replies = client:pipeline(function(p) for i = 1, 500 do p:set("n" .. i, i) p:get("n" .. i) end end)
      equal(#replies, 1000) equal(replies[1000], "500")
      replies = client:transaction(function(t) t:incrby("count", 1) t:get "count" end)
      equal(replies[2], "6")
      raises("WRONGTYPE", client.incrby, client, "list", 1)
      client:quit()
    ]], port)
  end)

  it("parks its task while it waits, over TCP and over a Unix socket", function()
    check([[
      local redis = require "redis"
      local producer, heard = redis.connect("127.0.0.1", %d), {}
      local waiting = rille.spawn(function()
        local client = redis.connect("unix://%s")
        local popped = client:blpop("queue", 10)
        client:quit()
        return popped[2], waits
      end)
      local listening = rille.spawn(function()
        local client = redis.connect("127.0.0.1", %d)
        for message, abort in client:pubsub { subscribe = "news" } do
          if message.kind == "message" then
            heard[#heard + 1] = message.payload
            if message.payload == "end" then abort() end
          end
        end
        client:quit()
      end)
      rille.sleep(0.2)
      repeat rille.sleep(0.01) until producer:publish("news", "first") == 1
      producer:publish("news", "end")
      producer:lpush("queue", "job")
      local job, ticks_until_then = waiting:join()
      equal(job, "job")
      assert(ticks_until_then >= 3, "the loop stood still: " .. ticks_until_then)
      listening:join()
      equal(table.concat(heard, " "), "first end")
      producer:quit()
    ]], port, path, port)
  end)

  it("serves handlers on two loops, and lets the server stop while it waits", function()
    local process = server.start(([[
      require("rille.compat").install()
      local redis = require "redis"
      return function(conn)
        local line = conn:read_line()
        if not line then return conn:close() end
        local client = redis.connect("127.0.0.1", %d)
        if tostring(line) == "wait" then client:blpop("nothing", 0) end
        conn:send(client:incr "hits" .. "\n")
        client:quit()
      end
    ]]):format(port), { conf = { loops = 2, drain_timeout = 0.5 } })
    local clients, seen = {}, {}
    for i = 1, 20 do clients[i] = process:connect():send("hit\n") end
    for i = 1, 20 do seen[tonumber(clients[i]:receive_line(10))] = true end
    assert.equal(20, #seen)
    clients[1]:send "wait\n"
    clients[2]:send("hit\n")
    assert.equal("21", (clients[2]:receive_line(10):gsub("%s", "")))
    process:stop()
  end)

  it("gets time-outs and ends as LuaSocket tells them", function()
    check([[
      local redis = require "redis"
      local client = redis.connect { host = "127.0.0.1", port = %d, timeout = 0.2 }
      raises("timeout", client.blpop, client, "nothing", 5)
      raises("connection refused", redis.connect, "127.0.0.1", 1)
      client = redis.connect("127.0.0.1", %d)
      local other = redis.connect("127.0.0.1", %d)
      rille.spawn(function() rille.sleep(0.1) pcall(other.client, other, "kill", "type", "normal") end)
      raises("closed", client.blpop, client, "nothing", 10)
    ]], port, port, port)
  end)
end)

describe("socket.http", function()
  local web, port

  before_each(function()
    server.write("page.txt", ("line of a page\r\n"):rep(20000))
    web, port = start({ "python3", "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", server.folder() }, " port (%d+)")
  end)

  after_each(function()
    stop(web)
    server.cleanup()
  end)

  it("works as it is, several requests at a time", function()
    check([[
      local http, ltn12 = require "socket.http", require "ltn12"
      local base = "http://127.0.0.1:%d/"
      local page = ("line of a page\r\n"):rep(20000)
      local tasks = {}
      for i = 1, 4 do -- no more at once than Python's server queues
        tasks[i] = rille.spawn(function()
          for _ = 1, 5 do
            local body, code, headers = http.request(base .. "page.txt")
            equal(code, 200) equal(tonumber(headers["content-length"]), #page) equal(body == page, true)
          end
          return true
        end)
      end
      for i = 1, 4 do equal(tasks[i]:join(), true) end
      equal(select(2, http.request(base .. "nothing")), 404)
      local parts = {}
      local ok, code = http.request { url = base .. "page.txt", sink = ltn12.sink.table(parts) }
      equal(ok, 1) equal(code, 200) equal(table.concat(parts) == page, true)
      ok, code = http.request { url = base, method = "POST", source = ltn12.source.string "x", headers = { ["content-length"] = 1 } }
      equal(ok, 1) equal(code, 501)
      equal(select(2, http.request "http://127.0.0.1:1/"), "connection refused")
    ]], port)
  end)
end)

describe("socket.smtp", function()
  after_each(server.cleanup)

  it("delivers a mail", function()
    -- a server of this library's own shape: what the client says is looked at, line by line
    check [[
      local socket, smtp = require "socket", require "socket.smtp"
      local post = assert(socket.bind("127.0.0.1", 0))
      local _, port = post:getsockname()
      local heard = {}
      local serving = rille.spawn(function()
        local c = post:accept()
        c:send "220 here\r\n"
        repeat
          local line = c:receive()
          heard[#heard + 1] = line
          local word = line:sub(1, 4)
          if word == "DATA" then
            c:send "354 go on\r\n"
            repeat line = c:receive() heard[#heard + 1] = line until line == "."
          end
          c:send(word == "QUIT" and "221 bye\r\n" or "250 ok\r\n")
        until word == "QUIT"
        c:close()
      end)
      assert(smtp.send { from = "<a@test>", rcpt = "<b@test>", server = "127.0.0.1", port = tonumber(port),
        source = smtp.message { headers = { subject = "greetings" }, body = "one\r\n.two" } })
      serving:join()
      local text = table.concat(heard, "\n"):lower()
      assert(text:find("rcpt to:<b@test>", 1, true) and text:find("subject: greetings", 1, true) and text:find("\n..two", 1, true), text)
      post:close()
    ]]
  end)
end)

describe("ssl", function()
  local site, port

  before_each(function()
    tls.set_up()
    server.write("page.txt", "a page\r\n")
    local command = "cd %s && exec openssl s_server -accept 127.0.0.1:0 -cert site.pem -key site.key -WWW"
    site, port = start({ "sh", "-c", command:format(server.folder()) }, "ACCEPT 127%.0%.0%.1:(%d+)")
  end)

  after_each(function()
    stop(site)
    server.cleanup()
  end)

  it("lets ssl.https of LuaSec work as it is", function()
    check([[
      local https = require "ssl.https"
      local body, code = https.request "https://127.0.0.1:%d/page.txt"
      equal(body, "a page\r\n") equal(code, 200)
      local folder = "%s"
      body, code = https.request { url = "https://localhost:%d/page.txt", verify = "peer", cafile = folder .. "/ca.pem" }
      equal(body, 1) equal(code, 200)
      body, code = https.request { url = "https://127.0.0.1:%d/page.txt", verify = "peer" }
      equal(body, nil) equal(code, "certificate verify failed")
    ]], port, server.folder(), port, port)
  end)

  it("wraps both sides, and says what is wrong", function()
    check([[
      local socket, ssl = require "socket", require "ssl"
      local folder = "%s"
      local s = assert(socket.bind("127.0.0.1", 0))
      local _, port = s:getsockname()
      local context = assert(ssl.newcontext { mode = "server", protocol = "any", certificate = folder .. "/site.pem",
        key = folder .. "/site.key", alpn = { "echo" } })
      local serving = rille.spawn(function()
        while true do
          local c = s:accept()
          if not c then return end
          c = ssl.wrap(c, context)
          if c:dohandshake() then c:send((c:receive() or "") .. " back\n") end
          c:close()
        end
      end)
      local function connect(params, name)
        local c = assert(socket.connect("127.0.0.1", port))
        local plain = c
        params.mode, params.protocol = "client", params.protocol or "any"
        c = assert(ssl.wrap(c, params))
        equal(select(2, plain:receive()), "closed") -- it is the other one now
        if name then c:sni(name) end
        c:settimeout(5)
        return c, c:dohandshake()
      end
      local c, ok = connect({ verify = "peer", cafile = folder .. "/ca.pem", alpn = "echo", protocol = "tlsv1_3" }, "localhost")
      equal(ok, true)
      equal(c:info "protocol", "TLSv1.3") equal(c:getalpn(), "echo") equal(c:getsniname(), "localhost") assert(c:info().cipher)
      c:send "hello\n"
      local r = socket.select({ c }, nil, 5)
      equal(r[1], c) equal(c:receive(), "hello back") equal(select(2, c:receive()), "closed")
      c:close()
      local err
      c, ok, err = connect({ verify = "peer", cafile = folder .. "/ca.pem" }, "other.test")
      equal(ok, false) equal(err, "certificate verify failed")
      c:close()
      c, ok = connect { verify = "none" }
      equal(ok, true)
      c:close()
      equal(select(2, ssl.newcontext { mode = "client", protocol = "sslv3" }), "invalid protocol (sslv3)")
      equal(select(2, ssl.newcontext { mode = "client", capath = "/etc" }), "capath is not supported by rille.compat")
      raises("a connected socket of rille.compat.socket expected", ssl.wrap, socket.tcp(), { mode = "client" })
      s:close()
      serving:join()
    ]], server.folder())
  end)
end)
