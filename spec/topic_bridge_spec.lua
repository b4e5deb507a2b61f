-- Topics that several Rille processes share over a redis-server: what comes once, in which order, and what becomes of it when that server
-- goes and comes back.

local cluster = require "spec.support.cluster"
local inside = require "spec.support.inside"
local redis = require "spec.support.redis"
local reload = require "spec.support.reload"

local net, server = cluster.net, cluster.server

local SCRIPT = [[
  local rille = require "rille"
  return function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local word, rest = line:str():match "^(%S+) ?(.*)$"
    local news = rille.topic "news"
    if word == "subscribe" then
      news:subscribe(conn)
      conn:write "subscribed\n"
    elseif word == "publish" then
      conn:write("published " .. tostring(news:publish(rest .. "\n")) .. "\n")
    elseif word == "many" then
      for i = 1, tonumber(rest) do news:publish(("%d\n"):format(i)) end
      conn:write "done\n"
    elseif word == "stats" then
      local b = news:stats().bridge
      conn:write(("connected %s sent %d received %d lost %d\n"):format(tostring(b.connected), b.sent, b.received, b.lost))
    end
  end
]]

local function node(store, options)
  options = options or {}
  options.script = SCRIPT
  local conf = options.conf or {}
  conf.topics = { news = { bridge = store.url, timeout = 0.5 * net.slow } }
  local self = cluster.node(conf, options)
  return self
end

local function subscriber(one)
  local c = one:connect():send "subscribe\n"
  assert.equal("subscribed", c:receive_line(10))
  return c
end

-- Until the server has that many subscriptions to the channel.
local function wait_bridged(store, count)
  local seen
  local ok = net.poll_until(function()
    seen = redis.output("redis-cli -p %d pubsub numsub rille:topic:news", store.port)
    return tonumber(seen:match "(%d+)%s*$") == count
  end, 20)
  if not ok then error(("%d bridges expected: %s"):format(count, seen), 0) end
end

local function publish(one, text)
  one.speaker = one.speaker or one:connect()
  one.speaker:send("publish " .. text .. "\n")
  return one.speaker:receive_line(10)
end

describe("a topic with a bridge", function()
  after_each(server.cleanup)

  it("brings what is published to the subscribers of every process, once, in its order", function()
    local store = cluster.store()
    local a, b = node(store, { conf = { loops = 2 } }), node(store, { conf = { loops = 3 } })
    local clients = {}
    for i = 1, 6 do clients[i] = subscriber(i % 2 == 0 and a or b) end
    wait_bridged(store, 2) -- one for each process, not for each loop
    assert.equal("published 3", publish(a, "first"))
    assert.equal("published 3", publish(b, "second"))
    local _ = publish(a, "third")
    for _, c in ipairs(clients) do
      local got = { c:receive_line(10), c:receive_line(10), c:receive_line(10) }
      table.sort(got)
      assert.same({ "first", "second", "third" }, got)
    end
    a.speaker:send "many 2000\n"
    assert.equal("done", a.speaker:receive_line(20))
    for _, c in ipairs(clients) do
      for i = 1, 2000 do assert.equal(tostring(i), c:receive_line(20)) end
      c:receives_nothing(0.2)
    end
  end)

  it("takes what others publish in plain words", function()
    local store = cluster.store()
    local c = subscriber(node(store))
    wait_bridged(store, 1)
    redis.output("redis-cli -p %d publish rille:topic:news 'hello\n'", store.port)
    assert.equal("hello", c:receive_line(10))
  end)

  it("goes on in its process without the server, and comes back by itself", function()
    local store = cluster.store()
    local a, b = node(store), node(store)
    local here, there = subscriber(a), subscriber(b)
    wait_bridged(store, 2)
    store.kill()
    a:wait_log "bridge to redis://[%d%.:]+ is down"
    for i = 1, 3 do
      assert.equal("published 1", publish(a, "alone " .. i))
      assert.equal("alone " .. i, here:receive_line(10))
    end
    a.speaker:send "stats\n"
    assert.matches("connected false sent 0 received 0", a.speaker:receive_line(10))
    store.revive()
    wait_bridged(store, 2)
    a:wait_log("it is back", 10)
    local got
    assert.is_true(net.poll_until(function() -- the connection that publishes comes back when its pause is over
      publish(a, "again")
      got = there:receive_some(0.3)
      return got ~= nil and got ~= ""
    end, 20))
    assert.matches("^again\n", got)
    a.speaker:send "stats\n"
    assert.matches("connected true sent %d+ received 0 lost %d+", a.speaker:receive_line(10))
  end)

  it("notices a server that hangs", function()
    local store = cluster.store()
    local a = node(store)
    local c = subscriber(a)
    wait_bridged(store, 1)
    store.process:signal "STOP"
    a:wait_log("bridge to redis://[%d%.:]+ is down", 20)
    assert.equal("published 1", publish(a, "here"))
    assert.equal("here", c:receive_line(10))
    store.process:signal "CONT"
    a:wait_log("it is back", 20)
  end)

  it("is handed over at a reload", function()
    local store = cluster.store()
    local b = node(store)
    local s = reload.start(SCRIPT, { conf = { topics = { news = { bridge = store.url } } } })
    local c = subscriber(s)
    wait_bridged(store, 2)
    for i = 1, 3 do
      reload.to(s, SCRIPT .. "-- " .. i)
      publish(b, "after " .. i)
      assert.equal("after " .. i, c:receive_line(10))
      wait_bridged(store, 2)
    end
    publish(b, "last")
    assert.equal("last", c:receive_line(10))
    c:receives_nothing(0.3)
  end)

  it("brings each message once and in order through reloads, on several loops", function()
    local store = cluster.store()
    local b = node(store)
    local s = reload.start(SCRIPT, { conf = { loops = 2, topics = { news = { bridge = store.url } } } })
    local clients = { subscriber(s), subscriber(s), subscriber(s) }
    wait_bridged(store, 2)
    local sent, reloads = 0, 0
    repeat -- the messages of each round fall into the handing over
      reload.to(s, SCRIPT .. "-- " .. reloads)
      reloads = reloads + 1
      for _ = 1, 40 do
        sent = sent + 1
        assert.equal("published 0", publish(b, tostring(sent)))
      end
      for _, c in ipairs(clients) do
        for i = sent - 39, sent do assert.equal(tostring(i), c:receive_line(10)) end
      end
      reload.wait_retired(s)
    until reloads == 12
    for _, c in ipairs(clients) do c:receives_nothing(0.1) end
    wait_bridged(store, 2)
  end)

  it("goes to the next generation also where that one's claim is lost", function()
    local store = cluster.store()
    local b = node(store)
    -- what the next generation publishes goes elsewhere
    local astray = [[
      local wire = require "rille.redis.wire"
      local encode = wire.encode
      wire.encode = function(words) return encode(words[1] == "PUBLISH" and { "PUBLISH", "elsewhere", words[3] } or words) end
    ]]
    local s = reload.start(SCRIPT, { conf = { topics = { news = { bridge = store.url } } } })
    local c = subscriber(s)
    wait_bridged(store, 2)
    reload.to(s, astray .. SCRIPT)
    assert.equal("published 0", publish(b, "meanwhile"))
    assert.equal("meanwhile", c:receive_line(10))
    reload.wait_retired(s)
    assert.equal("published 0", publish(b, "then"))
    assert.equal("then", c:receive_line(10))
    c:receives_nothing(0.1)
  end)

  it("loses what its queue does not hold, and says how much", function()
    local store = redis.start()
    inside.check(([[
      local t = rille.topic("t", { bridge = "%s", queue = "1k" })
      for i = 1, 100 do equal(t:publish(("x"):rep(100)), 0) end
      local s
      for _ = 1, 100 do
        s = t:stats().bridge
        if s.sent + s.lost == 100 then break end
        rille.sleep(0.05)
      end
      equal(s.sent + s.lost, 100)
      equal(s.sent >= 1 and s.sent < 10, true)
    ]]):format(store.url), { seconds = 30 })
  end)

  it("takes slices and LinkBuffers, and is refused when it is none", function()
    local store = redis.start()
    inside.check(([[
      local url = "%s"
      local r = rille.redis(url)
      local sub = r:subscribe "p:t"
      local t = rille.topic("t", { bridge = url, prefix = "p:", slow = "drop" })
      local b = require("rille.linkbuffer").new()
      b:write "buffer" b:flush()
      t:publish(b) t:publish(b:peek(3)) t:publish "text"
      for _, expected in ipairs { "buffer", "buf", "text" } do
        local _, message = sub:next(5)
        equal(message:match "^rille1:%%x+:(.*)$", expected)
      end
      b:close()
      local v, err = t:publish(b)
      equal(v, nil) equal(err, "closed")
      raises("bad argument #1 to 'publish'", t.publish, t, 5)
      equal(rille.topic("t", { bridge = url, prefix = "p:" }), t)
      equal(rille.topic "t", t)
      raises("has another bridge already", rille.topic, "t", { bridge = url })
      raises("has no option 'prefix': it takes slow, and bridge", rille.topic, "u", { prefix = "x" })
      raises("topics.bridge: got \"x\"; expected a URL such as", rille.topic, "u", { bridge = "x" })
      raises("topics.quue: unknown key; did you mean 'queue'?", rille.topic, "u", { bridge = url, quue = 1 })
      sub:close() r:close()
    ]]):format(store.url), { seconds = 30 })
  end)
end)
