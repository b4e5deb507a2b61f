-- scripts/redis_proxy.lua, as a user runs it: with redis-cli and redis-benchmark in front of Debian's redis-server, and with peers that
-- misbehave on either side.

local redis = require "spec.support.redis"
local server = require "spec.support.server"

local command, fake, start = redis.command, redis.fake, redis.proxy

describe("scripts/redis_proxy.lua", function()
  after_each(server.cleanup)

  -- Two real servers behind it.
  local function start_two(...)
    local a, b = redis.start(), redis.start()
    return start({ a.url, b.url }, ...), a, b
  end

  local function answers(c, sent, expected)
    c:send(sent)
    assert.equal(expected, c:receive(#expected))
  end

  local function cli(port, ...)
    return (redis.output("redis-cli -p %d %s", port, table.concat({ ... }, " ")):gsub("\n$", ""))
  end

  it("serves redis-cli, and spreads keys over its servers", function()
    local s, a, b = start_two()
    assert.equal("OK", cli(s.port, "set", "k", "v"))
    assert.equal("v", cli(s.port, "get", "k"))
    for i = 1, 15 do assert.equal("OK", (cli(s.port, "mset", "k" .. i, i, "x" .. i, i))) end
    local sizes = { tonumber(cli(a.port, "dbsize")), tonumber(cli(b.port, "dbsize")) }
    assert.equal(31, sizes[1] + sizes[2])
    assert.is_true(sizes[1] > 3 and sizes[2] > 3)
    assert.equal("1\n2\n\n3", cli(s.port, "mget", "k1", "k2", "none", "k3"))
    assert.equal("3", cli(s.port, "exists", "k1", "k2", "k3", "none"))
    assert.equal("2", cli(s.port, "del", "k1", "x2", "none"))
    assert.equal("PONG", cli(s.port, "ping"))
    assert.equal("OK", cli(s.port, "set", "'{t}a'", "1"))
    assert.equal("OK", cli(s.port, "rename", "'{t}a'", "'{t}b'"))
    assert.equal("t", cli(s.port, "eval", "'return KEYS[1]'", "1", "t"))
    assert.truthy(cli(s.port, "info"):find "shards:2")
  end)

  it("refuses by name what it cannot do", function()
    local s = start_two()
    local c = s:connect()
    for name, text in pairs {
      MULTI = "-ERR 'MULTI' is not supported by this proxy\r\n", SUBSCRIBE = "-ERR 'SUBSCRIBE' is not supported by this proxy\r\n",
      BLPOP = "-ERR 'BLPOP' is not supported by this proxy\r\n", ["a\r\nb"] = "-ERR 'A??B' is not supported by this proxy\r\n",
      GET = "-ERR wrong number of arguments for 'get' command\r\n", MGET = "-ERR wrong number of arguments for 'mget' command\r\n",
      [""] = "-ERR '' is not supported by this proxy\r\n",
    } do
      answers(c, command(name), text)
    end
    local apart = "'%s': its keys hash to different shards\r\n"
    answers(c, command("RENAME", "a", "b"), "-ERR " .. apart:format "RENAME")
    answers(c, command("ZUNIONSTORE", "a", "1", "b"), "-ERR " .. apart:format "ZUNIONSTORE")
    answers(c, command("EVAL", "return 1", "0"), "-ERR 'EVAL' without a key has no shard\r\n")
    answers(c, command("MSET", "a", "1", "b"), "-ERR wrong number of arguments for 'mset' command\r\n")
    answers(c, command("SELECT", "1"), "-ERR 'SELECT' is not supported here: there is database 0 alone\r\n")
    answers(c, command("LPUSH", "l", "1") .. command("INCR", "l"),
      ":1\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n")
    c:send(command("SET", "q", "1") .. command "QUIT" .. command("SET", "q", "2"))
    assert.same({ "+OK\r\n+OK\r\n", "closed" }, { c:receive_all() })
    answers(s:connect(), command("GET", "q"), "$1\r\n1\r\n")
  end)

  it("keeps each client's order, however commands are spread and cut", function()
    local s = start_two("max_pending=64")
    local sent, expected = {}, {}
    for i = 1, 500 do
      sent[#sent + 1] = command("SET", "key" .. i, "value" .. i) .. command("GET", "key" .. i)
      expected[#expected + 1] = ("+OK\r\n$%d\r\nvalue%d\r\n"):format(#("value" .. i), i)
      if i % 7 == 0 then
        sent[#sent + 1] = command("MGET", "key" .. i, "none", "key" .. i - 1) .. command "PING"
        expected[#expected + 1] = ("*3\r\n$%d\r\nvalue%d\r\n$-1\r\n$%d\r\nvalue%d\r\n+PONG\r\n"):format(#("value" .. i), i,
          #("value" .. i - 1), i - 1)
      end
    end
    sent, expected = table.concat(sent), table.concat(expected)
    assert.equal(expected, s:connect():exchange(sent, #expected))
    local slow = s:connect()
    slow:send_slowly(sent:sub(1, 1500))
    assert.equal(expected:sub(1, 200), slow:receive(200))
    local half = s:connect() -- says all, then waits for the answers
    half:send(sent)
    half:shutdown_write()
    assert.same({ expected, "closed" }, { half:receive_all() })
    local big = ("x"):rep(900000)
    answers(s:connect(), command("SET", "big", big) .. command("GET", "big") .. command "PING",
      "+OK\r\n$900000\r\n" .. big .. "\r\n+PONG\r\n")
  end)

  it("serves redis-benchmark without an error", function()
    local s = start_two()
    for _, depth in ipairs { 1, 16 } do
      local text, status = redis.output("redis-benchmark -p %d -t set,get,incr,lpush,mset -c 20 -n 2000 -P %d -r 1000 -q", s.port, depth)
      assert.equal(0, status, text)
      assert.is_nil(text:lower():find("err", 1, true) and text)
      assert.truthy(text:find "GET: [%d.]+ requests per second")
    end
    s:wait_state(function(state) return state.connections <= 2 end) -- those to the servers
  end)

  it("answers a bad frame with the protocol's error, behind what came before it, and closes", function()
    local s = start_two("max_command=2000")
    for bad, why in pairs {
      ["PING\r\n"] = "inline commands are not supported", ["*1\r\n:1\r\n"] = "a list of bulk strings was expected",
      ["*0\r\n"] = "a list of bulk strings was expected", ["*-1\r\n"] = "a list of bulk strings was expected",
      ["*1\r\n$3\r\nabcd\r\n"] = "a list of bulk strings was expected", ["*99999999999\r\n"] = "a list of bulk strings was expected",
      ["*9999999\r\n"] = "command too large", ["*2\r\n$3\r\nGET\r\n$5000\r\n"] = "command too large",
      ["*1\r\n$-1\r\n"] = "a list of bulk strings was expected",
    } do
      local c = s:connect()
      c:send(command("SET", "k", "v") .. bad)
      assert.same({ "+OK\r\n-ERR Protocol error: " .. why .. "\r\n", "closed" }, { c:receive_all() })
    end
    s:wait_state(function(state) return state.connections <= 2 end)
  end)

  it("says that a server is gone, and finds it again", function()
    local s, a, b = start_two()
    local c = s:connect()
    local keys = {}
    for i = 1, 20 do keys[i] = "k" .. i end
    for _, key in ipairs(keys) do answers(c, command("SET", key, "1"), "+OK\r\n") end
    b.process:kill()
    local lost, kept = 0, 0
    for _, key in ipairs(keys) do
      c:send(command("GET", key))
      local line = c:receive_line()
      if line:sub(1, 1) == "-" then
        assert.truthy(line:find "^%-ERR shard 2 %(redis://127.0.0.1:%d+%): ")
        lost = lost + 1
      else
        c:receive_line()
        kept = kept + 1
      end
    end
    assert.is_true(lost > 3 and kept > 3)
    c:send(command("MGET", unpack(keys)))
    assert.truthy(c:receive_line():find "^%-ERR shard 2")
    local again = server.spawn("", { command = { "/usr/bin/env", "redis-server", "--port", tostring(b.port), "--save", "" } })
    again:forget()
    local found = server.net.poll_until(function()
      c:send(command("EXISTS", unpack(keys)))
      return c:receive_line():find "^:" ~= nil
    end, 15)
    assert.is_true(found)
    assert.is_number(a.port)
  end)

  it("tells all that wait when a server breaks off, is silent or talks nonsense", function()
    for how, why in pairs { ["conn:abort()"] = "reset", ["conn:write '$5\\r\\nab' conn:close()"] = "closed", [""] = "timeout",
      ["conn:write 'nonsense\\r\\n'"] = "invalid argument", ["conn:write(('x'):rep(100))"] = "invalid argument",
      ["conn:write '$99999\\r\\n'"] = "too large" } do
      local s = start({ fake(how) }, "timeout=0.2", "max_reply=2000")
      local c = s:connect()
      c:send(command("GET", "a"):rep(3) .. command "PING" .. command("MGET", "a", "b"))
      for _ = 1, 3 do
        local line = c:receive_line()
        assert.truthy(line:find "^%-ERR shard 1" and (line:find(why, 1, true) or line:find "closed" or line:find "reset"), how .. line)
      end
      assert.equal("+PONG", (c:receive_line():gsub("\r", "")))
      assert.truthy(c:receive_line():find "^%-ERR shard 1")
      server.cleanup()
    end
  end)

  it("does not let a client that reads nothing cost more than it may", function()
    local s = start_two("max_output=1m")
    local c, other = s:connect(), s:connect()
    answers(other, command("SET", "big", ("x"):rep(500000)), "+OK\r\n")
    local many = command("GET", "big"):rep(100)
    c:send(many)
    s:wait_state(function(state) return state.connections == 2 end) -- the other one, and one to a server
    answers(other, command "PING", "+PONG\r\n")
    other:close()
    c:close()
  end)

  it("goes on with a client that has read nothing for a while", function()
    local s = start_two()
    local c = s:connect { receive_buffer = 4096 }
    answers(c, command("SET", "big", ("x"):rep(500000)), "+OK\r\n")
    c:send(command("GET", "big"):rep(30))
    s:wait_state(function(state) return state.bytes_in > 500000 * 31 end) -- more than goes out
    for _ = 1, 30 do assert.is_true(c:receive(500011):sub(-10) == "xxxxxxxx\r\n") end
    answers(c, command "PING", "+PONG\r\n")
    -- nor does one hold up its end that goes then
    c:send(command("GET", "big"):rep(30))
    s:wait_state(function(state) return state.bytes_in > 500000 * 61 end)
    c:send(command("GET", "big"):rep(2))
    c:reset()
    s:wait_state(function(state) return state.connections <= 2 end)
  end)

  it("lets those wait that fill a server which takes nothing, and nobody else", function()
    local stuck = fake "conn:pause() rille.sleep(4) conn:abort()"
    local real = redis.start()
    local s = start({ stuck, real.url }, "timeout=2")
    local key = { "{bar}", "{foo}" } -- slots 5061 and 12182
    local c, other = s:connect(), s:connect()
    local bytes, at, idle = command("SET", key[1], ("x"):rep(50000)):rep(1000), 0, 0
    while idle < 20 and at < #bytes do
      local n = assert(c:try_send(bytes, at))
      at, idle = at + n, n == 0 and idle + 1 or 0
      if n == 0 then server.net.nap(10) end
    end
    assert.is_true(at < #bytes)
    answers(other, command("SET", key[2], "1") .. command("GET", key[2]), "+OK\r\n$1\r\n1\r\n")
    local line = c:receive_line()
    assert.truthy(line:find "^%-ERR shard 1 .*: timeout", line)
    assert.is_true(s:rss() < 200e6)
    c:reset()
    other:close()
    s:wait_state(function(state) return state.connections <= 1 end, 10) -- what the silent server was sent has had its time
  end)

  it("keeps its clients over a reload", function()
    local s = server.start(([[
      -- a version of it
      return rille.redis.shard { shards = { %q } }
    ]]):format(redis.start().url))
    local c = s:connect()
    answers(c, command("SET", "k", "v"), "+OK\r\n")
    c:send(command("GET", "k"):rep(100))
    s:signal "HUP"
    local expected = ("$1\r\nv\r\n"):rep(100)
    assert.equal(expected, c:receive(#expected))
    s:wait_log "reload"
    answers(c, command("GET", "k"), "$1\r\nv\r\n")
    answers(s:connect(), command("GET", "k"), "$1\r\nv\r\n")
  end)

  it("forgets clients that leave with commands under way", function()
    local s = start({ fake "rille.sleep(0.005) conn:write '+OK\\r\\n'" })
    for i = 1, 20 do
      local c = s:connect()
      c:send(command("GET", "a"):rep(i))
      if i % 2 == 0 then c:reset() else c:close() end
    end
    s:wait_state(function(state) return state.connections <= 1 end, 20)
    answers(s:connect(), command("GET", "a"), "+OK\r\n")
  end)
end)
