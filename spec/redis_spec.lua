-- rille.redis against Debian's redis-server, and against servers that lie, hang, cut and leave.

local inside = require "spec.support.inside"
local redis = require "spec.support.redis"
local server = require "spec.support.server"
local tls = require "spec.support.tls"

local HEAD = [[local null, redis_url = rille.redis.null, ... or os.getenv "REDIS_URL" ]]
  .. [[local function fake(fn, settings) local l = assert(rille.listen("tcp://127.0.0.1:0", fn, settings)) ]]
  .. [[return l, l:address():gsub("^tcp", "redis") end ]]
  .. [[local function fails(err, ...) local v, why, message = ... ]]
  .. [[if v ~= nil or why ~= err then ]]
  .. [[error(("got %s %s %s, expected %s"):format(tostring(v), tostring(why), tostring(message), err), 2) end ]]
  .. [[return message end ]]
  .. [[local function list(t) for i, v in ipairs(t) do t[i] = tostring(v) end return table.concat(t, " ") end ]]

local function check(code, url, options)
  options = options or {}
  options.env = { REDIS_URL = url or "" }
  return inside.check(HEAD .. code, options)
end

describe("rille.redis", function()
  after_each(server.cleanup)

  it("carries out commands, and gives replies as Lua values", function()
    check([[
      local r = rille.redis { url = redis_url, name = "spec" }
      equal(r:ping(), "PONG")
      equal(r:set("k", "v"), "OK")
      equal(r:get "k", "v")
      local v, err = r:get "none"
      equal(v, nil) equal(err, nil)
      equal(r:set("n", 41), "OK")
      equal(r:incr "n", 42)
      equal(r:set("binary", "a\0b\r\nc"), "OK")
      equal(r:get "binary", "a\0b\r\nc")
      equal(r:call("strlen", "binary"), 6)
      r:hset("h", "a", 1, "b", 2.5)
      local h = r:hgetall "h"
      equal(h.a, "1") equal(h.b, "2.5")
      local m = r:mget("k", "none")
      equal(m[1], "v") equal(m[2], null)
      r:zadd("z", 1.5, "m")
      equal(r:zscore("z", "m"), 1.5)
      equal(#r:smembers "nobody", 0)
      equal(r:client "GETNAME", "spec")
      equal(r:debug("PROTOCOL", "BIGNUM").digits, "1234567999999999999999999999999999999")
      equal(r:debug("PROTOCOL", "TRUE"), true)
      equal(r:debug("PROTOCOL", "FALSE"), false)
      equal(r:debug("PROTOCOL", "VERBATIM").text, "This is a verbatim\nstring")
      equal(r:call("DEBUG", "PROTOCOL", "DOUBLE"), 3.141)
      equal(r:debug("PROTOCOL", "NULL"), nil)
      fails("error", r:incr "k")
      assert(fails("error", r:call "NOPE"):find "^ERR unknown command")
      equal(r:stats().connections, 1)
      raises("is not for a shared connection: use r:transaction", r.call, r, "MULTI")
      raises("use the URL", r.select, r, 3)
      raises("strings, numbers and slices", r.set, r, "k", {})
      r:close()
      fails("closed", r:get "k")
    ]], redis.start().url)
  end)

  it("speaks RESP2 too, over a Unix socket and with a password, to a database", function()
    local path = server.folder() .. "/redis.sock"
    local real = redis.start("--unixsocket", path, "--requirepass", "se/cret")
    check(([[
      local r = rille.redis { url = "unix:%s?password=se%%2fcret&db=3", protocol = 2 }
      equal(r:set("k", "v"), "OK")
      local h = (r:hset("h", "a", "1") and r:hgetall "h")
      equal(list(h), "a 1")
      local other = rille.redis(redis_url:gsub("//", "//default:se%%%%2fcret@") .. "/3")
      equal(other:get "k", "v")
      assert(fails("error", rille.redis(redis_url):get "k"):find "NOAUTH")
      assert(fails("error", rille.redis((redis_url:gsub("//", "//:wrong@"))):get "k"):find "WRONGPASS")
      r:close() other:close()
    ]]):format(path), real.url)
  end)

  it("speaks TLS", function()
    tls.set_up()
    local port = server.net.free_port()
    redis.start("--tls-port", tostring(port), "--tls-cert-file", tls.file "site.pem", "--tls-key-file", tls.file "site.key",
      "--tls-ca-cert-file", tls.file "ca.pem", "--tls-auth-clients", "no")
    check(([[
      local url, ca = "rediss://localhost:%d", "%s"
      local r = rille.redis { url = url, tls = { ca = ca } }
      equal(r:set("k", ("v"):rep(100000)), "OK")
      equal(#r:get "k", 100000)
      equal(#assert(r:transaction(function(t) t:get "k" end)), 1)
      r:close()
      fails("bad certificate", rille.redis(url):get "k")
    ]]):format(port, tls.file "ca.pem"))
  end)

  it("writes the commands of many tasks at once, and matches the replies", function()
    check([[
      local r = rille.redis(redis_url)
      local tasks = {}
      for i = 1, 500 do
        tasks[i] = rille.spawn(function()
          equal(r:set("k" .. i, i), "OK")
          equal(r:get("k" .. i), tostring(i))
          return i
        end)
      end
      for i = 1, 500 do equal(tasks[i]:join(), i) end
      equal(r:stats().connections, 1)
      equal(r:stats().pending, 0)
      local big = ("x"):rep(5e6)
      equal(r:set("big", big), "OK")
      equal(r:get "big" == big, true)
    ]], redis.start().url)
  end)

  it("has pipelines, transactions and scripts", function()
    check([[
      local r = rille.redis(redis_url)
      local results = assert(r:pipeline(function(p)
        p:set("a", 1) p:incr "a" p:get "none" p:lpush("a", "x") p:call("GET", "a")
      end))
      equal(results[1], "OK") equal(results[2], 2) equal(results[3], null) equal(results[5], "2")
      assert(results[4].err:find "^WRONGTYPE")
      equal(#r:pipeline(function() end), 0)
      raises("holds up", r.pipeline, r, function(p) p:blpop("x", 1) end)

      local done = assert(r:transaction(function(t) t:set("a", 5) t:incr "a" end))
      equal(list(done), "OK 6")
      local aborted, err = r:transaction(function(t)
        local seen = tonumber(t.now:get "a")
        r:set("a", 100) -- another connection
        t:set("a", seen + 1)
      end, "a")
      equal(aborted, nil) equal(err, nil)
      equal(r:get "a", "100")
      fails("cancelled", r:transaction(function(t) t:set("a", 0) return false end, "a"))
      assert(fails("error", r:transaction(function(t) t:set("a") end)):find "wrong number")
      raises("mine", r.transaction, r, function() error("mine", 0) end)
      equal(r:get "a", "100")

      local twice = r:script "return { KEYS[1], ARGV[1] * 2 }"
      for _ = 1, 3 do equal(list(assert(twice({ "k" }, { 21 }))), "k 42") end
      r:call("SCRIPT", "FLUSH")
      equal(list(assert(twice({ "k" }, { 4 }))), "k 8")
      assert(fails("error", r:script "return redis.error_reply('MY no')"()):find "^MY no")
    ]], redis.start().url)
  end)

  it("gives commands that wait a connection of their own", function()
    check([[
      local r = rille.redis { url = redis_url, max_exclusive = 2, connect_timeout = 0.3 }
      local waiting = rille.spawn(function() return r:blpop("q", 5) end)
      while r:stats().exclusive == 0 do rille.yield() end
      r:lpush("q", "job")
      equal(list(waiting:join()), "q job")
      equal(r:stats().idle, 1)
      local v, err = r:blpop("q", 0.05)
      equal(v, nil) equal(err, nil)
      equal(r:stats().idle, 1)
      fails("timeout", r:call_within(0.05, "BLPOP", "q", 0))
      equal(r:stats().idle, 0) -- its reply may still come: the connection is gone
      local cancelled = rille.spawn(function() return r:blpop("q", 0) end)
      while r:stats().exclusive == 0 do rille.yield() end
      cancelled:cancel()
      cancelled:join()
      equal(r:stats().exclusive, 0)
      local a, b = rille.spawn(r.blpop, r, "q", 2), rille.spawn(r.blpop, r, "q", 2)
      while r:stats().exclusive < 2 do rille.yield() end
      fails("full", r:blpop("q", 1))
      r:lpush("q", 1, 2)
      a:join() b:join()
    ]], redis.start().url)
  end)

  it("iterates over messages, also when the connection was lost", function()
    check([[
      local r = rille.redis(redis_url)
      local sub = assert(r:subscribe("a", "b"))
      local all = assert(r:psubscribe "a*")
      while r:publish("a", "1") < 2 do rille.sleep(0.01) end
      r:publish("b", "2")
      local got = {}
      for channel, message in sub do
        got[#got + 1] = channel .. message
        if message == "2" then break end
      end
      equal(got[1], "a1") equal(got[#got], "b2")
      local channel, message, pattern = all()
      equal(channel .. message .. pattern, "a1a*")
      r:call("CLIENT", "KILL", "TYPE", "pubsub")
      while r:publish("b", "3") < 1 do rille.sleep(0.01) end
      local c, m = sub()
      equal(c .. m, "b3")
      equal(sub.losses, 1)
      fails("timeout", sub:next(0.01))
      rille.after(0.02, function() sub:close() end)
      equal(sub(), nil)
      all:close()
      while r:stats().exclusive > 0 do rille.sleep(0.01) end
      local s = assert(r:ssubscribe "shard")
      while r:call("SPUBLISH", "shard", "x") < 1 do rille.sleep(0.01) end
      equal(select(2, s()), "x")
      s:close()
    ]], redis.start().url)
  end)

  it("gives slices of replies where that is wanted", function()
    check([[
      local r = rille.redis { url = redis_url, slices = true }
      r:mset("a", "hello", "b", ("y"):rep(1e6))
      local s = r:get "a"
      equal(s == "hello", true)
      s:release()
      local both = r:mget("a", "b", "none")
      equal(both[2]:len(), 1e6)
      both[1]:release() both[2]:release()
      equal(r:get "none", nil)
      local script = r:script "return 1"
      equal(script(), 1) equal(script(), 1)
      local sub = assert(r:subscribe "a")
      while r:publish("a", "text") < 1 do rille.sleep(0.01) end
      local channel, text = sub()
      equal(channel .. text, "atext")
      sub:close()
    ]], redis.start().url)
  end)

  it("lets go of slices that nobody gets", function()
    check [[
      local ends = false
      local l, url = fake(function(c, words)
        if words[2] == "a" then return c:write "$5\r\nhello\r\n*2\r\n$1\r\na\r\n" end
        if ends then c:close() end
      end, { codec = { "resp", strings = true } })
      for _ = 1, 2 do
        local r = rille.redis { url = url, slices = true, protocol = 2, timeout = 0.1 }
        fails(ends and "closed" or "timeout", r:pipeline(function(p) p:get "a" p:get "b" end))
        r:close()
        ends = true
      end
      l:close()
      collectgarbage() collectgarbage()
    ]]
  end)

  it("times out by the call, and goes on", function()
    check [[
      local held = {}
      local l, url = fake(function(c, frame)
        if frame[1] == "SLOW" then
          held[#held + 1] = c
        else
          for _, one in ipairs(held) do one:write "+late\r\n" end
          held = {}
          c:write "+OK\r\n"
        end
      end, { codec = { "resp", strings = true } })
      local r = rille.redis { url = url, timeout = 0.05, protocol = 2 }
      fails("timeout", r:call "SLOW")
      equal(r:call "FAST", "OK") -- the late reply is not its
      equal(r:call "FAST", "OK")
      fails("timeout", r:call_within(0.01, "SLOW"))
      local task = rille.spawn(r.call, r, "SLOW")
      rille.yield()
      task:cancel()
      equal(r:call "FAST", "OK")
      equal(r:stats().pending, 0)
      l:close()
    ]]
  end)

  it("says what became of commands under way, and comes back", function()
    check [[
      local mood, seen = "cut", 0
      local l, url = fake(function(c, frame)
        seen = seen + 1
        if mood == "cut" then return c:abort() end
        if mood == "half" then c:write "$5\r\nhe" return c:close() end
        c:write "+OK\r\n"
      end, { codec = { "resp", strings = true } })
      local r = rille.redis { url = url, protocol = 2, idempotent = { "get" } }
      local tasks = {}
      for i = 1, 5 do tasks[i] = rille.spawn(r.set, r, "k", i) end
      for i = 1, 5 do
        local v, err = tasks[i]:join()
        assert(v == nil and (err == "closed" or err == "reset"), err)
      end
      seen = 0
      local _, err = r:set("k", 1)
      assert(err == "closed" or err == "reset")
      equal(seen, 1)
      r:get "k"
      equal(seen, 3) -- sent again, once
      mood = "half"
      fails("closed", r:set("k", 1))
      mood = "fine"
      equal(r:set("k", 1), "OK")
      local address = l:address()
      l:close()
      r:close()
      local nobody = rille.redis { url = address:gsub("tcp", "redis"), protocol = 2 }
      fails("refused", nobody:get "k")
      local before = rille.now()
      fails("refused", nobody:get "k") -- at once: it was tried a moment ago
      local again = assert(rille.listen(address, function(c) c:skip(c:len()) c:write "+OK\r\n" end))
      while nobody:get "k" ~= "OK" do rille.sleep(0.01) end
      nobody:close()
      again:close()
    ]]
  end)

  it("gives a connection up that does not speak the protocol", function()
    check [[
      local answers = { "hello\r\n", "$-5\r\n", "*2\r\n$1\r\na\r\nX", ":12a\r\n", "$3\r\nabcd\r\n", "*99999999999\r\n", "$99999999999\r\n",
        "+" .. ("x"):rep(3000), ("*1\r\n"):rep(50), "%1\r\n+a\r\n;" }
      for i, text in ipairs(answers) do
        local l, url = fake(function(c) c:skip(c:len()) c:write(text) end)
        local r = rille.redis { url = url, protocol = 2, timeout = 2, max_reply = 2048 }
        local v, err = r:get "k"
        if v ~= nil or err == nil or err == "timeout" then error(("answer %d: %s %s"):format(i, tostring(v), tostring(err))) end
        equal(r:stats().connections, 0)
        r:close() l:close()
      end
      -- a reply that nobody has asked for
      local l, url = fake(function(c) c:skip(c:len()) c:write "+OK\r\n+OK\r\n" end)
      local r = rille.redis { url = url, protocol = 2 }
      equal(r:get "k", "OK")
      while r:stats().connections > 0 do rille.yield() end
      l:close()
    ]]
  end)

  it("understands replies however they are cut", function()
    check [[
      local text = "*4\r\n$5\r\nhello\r\n:12\r\n%1\r\n+a\r\n,1.5\r\n_\r\n"
      local cut = 0
      local l, url = fake(function(c)
        c:skip(c:len())
        c:send(text:sub(1, cut))
        rille.sleep(0.001)
        c:write(text:sub(cut + 1))
      end)
      local r = rille.redis { url = url, protocol = 2 }
      for at = 1, #text - 1 do
        cut = at
        local v = assert(r:get "k")
        assert(v[1] == "hello" and v[2] == 12 and v[3].a == 1.5 and v[4] == null, at)
      end
      r:close() l:close()
    ]]
  end)

  it("answers what is under way when it is closed, and keeps nothing", function()
    local real = redis.start()
    check([[
      local held, seen = nil, 0
      local l, url = fake(function(c) held, seen = c, seen + 1 end, { codec = { "resp", strings = true } })
      local r = rille.redis { url = url, protocol = 2, timeout = 2 }
      local tasks = { rille.spawn(r.get, r, "k"), rille.spawn(r.call_within, r, 0.05, "GET", "k"), rille.spawn(r.get, r, "k") }
      while seen < 3 do rille.yield() end
      r:close()
      fails("closed", r:get "k")
      fails("timeout", tasks[2]:join())
      held:write "+1\r\n+2\r\n+3\r\n"
      equal(tasks[1]:join(), "1") equal(tasks[3]:join(), "3")

      -- nobody waits any more
      r = rille.redis { url = url, protocol = 2, timeout = 0.05 }
      tasks[1] = rille.spawn(r.get, r, "k")
      while r:stats().pending < 1 do rille.yield() end
      r:close()
      fails("timeout", tasks[1]:join())

      -- while it is being opened
      held, seen = nil, 0
      r = rille.redis { url = url:gsub("//", "//:secret@"), protocol = 2, timeout = 2 }
      tasks = { rille.spawn(r.get, r, "k"), rille.spawn(r.get, r, "k") }
      while not held do rille.yield() end
      r:close()
      held:write "+OK\r\n"
      while seen < 3 do rille.yield() end
      held:write "+1\r\n+2\r\n"
      equal(tasks[1]:join() .. tasks[2]:join(), "12")
      while l:stats().connections > 0 do rille.yield() end
      l:close()

      r = rille.redis(redis_url)
      local sub = assert(r:subscribe "a")
      r:close()
      fails("closed", sub:next(2))
      while r:stats().exclusive > 0 do rille.yield() end
    ]], real.url)
  end)

  it("lets no command spoil a connection for others", function()
    check([[
      local r = rille.redis { url = redis_url, max_exclusive = 1 }
      r:set("k", "v")
      for _, name in ipairs { "REPLCONF", "MONITOR", "SYNC", "READONLY" } do
        raises(name .. " is not for a shared connection", r.call, r, name, "x")
      end
      raises("CLIENT is not for a shared connection", r.client, r, "reply", "off")
      raises("SCRIPT is not for a shared connection", r.call, r, "script", "debug", "yes")
      raises("SELECT is not for a shared connection", r.transaction, r, function(t) t.now:select(3) end)
      raises("REPLCONF is not for a shared connection", r.transaction, r, function(t) t.now:call("REPLCONF", "ACK", 1) end)
      equal(r:transaction(function(t) t:get "k" end)[1], "v")
      equal(r:get "k", "v")
    ]], redis.start().url)
  end)

  it("gives a greeting its time, and no more", function()
    check [[
      local l, url = fake(function(c)
        rille.sleep(0.2)
        c:write "+OK\r\n"
      end, { codec = { "resp", strings = true } })
      url = url:gsub("//", "//:secret@") .. "/3"
      -- AUTH, CLIENT SETNAME, SELECT
      fails("timeout", rille.redis { url = url, name = "spec", protocol = 2, connect_timeout = 0.55 }:get "k")
      local r = rille.redis { url = url, name = "spec", protocol = 2, connect_timeout = 10 }
      equal(r:get "k", "OK")
      r:close() l:close()
    ]]
  end)

  it("has limits", function()
    check [[
      local l, url = fake(function(c) c:skip(c:len()) end)
      local r = rille.redis { url = url, protocol = 2, max_pending = 3, timeout = 0.2 }
      for _ = 1, 3 do rille.spawn(r.get, r, "k") end
      rille.sleep(0.05)
      fails("full", r:get "k")
      for _, bad in ipairs { { url = "http://x" }, { connections = 0 }, { protocol = 4 }, { max_reply = 1 }, { nope = 1 }, { url = {} },
          { timeout = "x" }, { name = "a b" }, { url = { "redis://a", "redis://b" } } } do
        raises("rille.redis", rille.redis, bad)
      end
      raises("rille.redis", rille.redis, 5)
      fails("timeout", rille.redis { url = url, protocol = 3, connect_timeout = 0.05 }:get "k") -- it never says hello
      r:close() l:close()
    ]]
  end)
end)
