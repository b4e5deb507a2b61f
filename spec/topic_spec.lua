-- Topics: publishing from any loop to subscribers on any loop, slow subscribers, order, ends, memory.

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local net = server.net

-- Each line is a command; its answer begins with "=". A message ends in a newline too.
local BOARD = [[
local LinkBuffer = require "rille.linkbuffer"
local commands = {}
local function topic(name) return rille.topic(name, name == "strict" and { slow = "disconnect" } or nil) end

function commands.sub(conn, name) return topic(name):subscribe(conn) end
function commands.unsub(conn, name) return topic(name):unsubscribe(conn) end
function commands.count(_, name) return topic(name):count() end
function commands.pub(_, name, text) return topic(name):publish(text .. "\n") end
function commands.stats(_, name)
  local s = topic(name):stats()
  return s.publishes, s.deliveries, s.dropped, s.disconnected, s.subscribers
end
function commands.big(_, name, size)
  local text = ("x"):rep(tonumber(size) - 1) .. "\n"
  return topic(name):publish(text)
end
function commands.many(_, name, count)
  local sum = 0
  for i = 1, tonumber(count) do sum = sum + topic(name):publish("message " .. i .. "\n") end
  return sum
end
function commands.mark(conn, bytes) conn.high_water = tonumber(bytes) return true end
function commands.mixed(conn, name)
  conn:write("a\n")
  topic(name):publish("b\n")
  conn:write("c\n")
  topic(name):publish("d\n")
  topic(name):publish("e\n")
  conn:write("f\n")
end
function commands.timer(_, name) rille.after(0.001, function() topic(name):publish("from a timer\n") end) return true end
function commands.task(_, name) rille.spawn(function() rille.yield() topic(name):publish("from a task\n") end) return true end
function commands.farewell(conn, name) conn:on_close(function() topic(name):publish("farewell\n") end) return true end
function commands.close(conn) conn:close() end
function commands.blocks() return LinkBuffer.stats().blocks_in_use, LinkBuffer.stats().bytes_in_use end
function commands.shut(conn) conn:shutdown("write") end
function commands.work(_, seconds)
  local clock = require("rille.core").rille_now
  local stop = clock() + tonumber(seconds)
  while clock() < stop do end
  return true
end
function commands.flood(_, name)
  for i = 1, 100000 do
    local count, err = topic(name):publish("flood\n")
    if err then return i, count, err end
  end
end

return {
  on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local what, name, text = line:str():match("^(%S+) ?(%S*) ?(.*)$")
    local results = { commands[what](conn, name, text) }
    for i = 1, #results do results[i] = tostring(results[i]) end
    conn:write("= " .. table.concat(results, " ") .. "\n")
  end,
  on_close = function(_, err) say("closed %s", tostring(err)) end,
}
]]

local function start(loops, opts)
  opts = opts or {}
  opts.conf = { loops = loops or 1 }
  opts.server = { accept = loops and loops > 1 and "balanced" or nil }
  return server.start(BOARD, opts)
end

local function enter(s, options)
  local c = s:connect(options)
  c.loop = tonumber(c:receive_line())
  return c
end

-- The answer to a command, without "= ".
local function ask(c, line, seconds)
  c:send(line .. "\n")
  local answer = c:receive_line(seconds)
  return assert(answer:match("^= (.*)$"), answer)
end

local function enter_many(s, count, name)
  local clients = {}
  for i = 1, count do
    clients[i] = enter(s)
    assert.equal("true", ask(clients[i], "sub " .. name))
  end
  return clients
end

local function eventually(c, line, want)
  local last
  local found = net.poll_until(function()
    last = ask(c, line)
    return last == want
  end)
  assert.is_true(found, ("%s: got %s, expected %s"):format(line, last, want))
end

describe("a topic", function()
  after_each(server.cleanup)

  for _, loops in ipairs { 1, 3 } do
    local where = (", %d loops"):format(loops)

    it("takes what one publishes to all who subscribed" .. where, function()
      local s = start(loops)
      local clients = enter_many(s, 9, "news")
      local other = enter(s)
      assert.equal("0", ask(other, "count other"))
      assert.equal("9", ask(other, "count news"))
      for i = 1, 5 do
        assert.equal("9", ask(other, "pub news hello " .. i))
        for _, c in ipairs(clients) do assert.equal("hello " .. i, c:receive_line()) end
      end
      eventually(other, "stats news", "5 45 0 0 9")
      other:receives_nothing(0.05)
    end)

    it("keeps the order of one publisher" .. where, function()
      local s = start(loops)
      local clients = enter_many(s, 6, "news")
      assert.equal("12000", ask(enter(s), "many news 2000", 20))
      for _, c in ipairs(clients) do
        for i = 1, 2000 do assert.equal("message " .. i, c:receive_line()) end
      end
    end)

    it("takes 1 MiB to all" .. where, function()
      local s = start(loops)
      local clients = enter_many(s, 6, "news")
      local publisher = enter(s)
      for _ = 1, 3 do
        assert.equal("6", ask(publisher, "big news 1048576"))
        for _, c in ipairs(clients) do assert.is_true(c:receive(1048576, 20) == ("x"):rep(1048575) .. "\n") end
      end
    end)

    it("has 1,000 subscribers" .. where, function()
      net.raise_descriptor_limit()
      local s = start(loops)
      local clients = enter_many(s, 1000, "news")
      local publisher = enter(s)
      assert.equal("1000", ask(publisher, "pub news hello"))
      for _, c in ipairs(clients) do assert.equal("hello", c:receive_line()) end
      for i = 1, 1000, 2 do clients[i]:close() end
      eventually(publisher, "count news", "500")
      assert.equal("500", ask(publisher, "pub news again"))
      for i = 2, 1000, 2 do assert.equal("again", clients[i]:receive_line()) end
    end)

    it("loses those whose connection ends, however it does" .. where, function()
      local s = start(loops)
      local clients = enter_many(s, 12, "news")
      for _, c in ipairs(clients) do ask(c, "sub more") end
      local publisher = enter(s)
      assert.equal("12", ask(publisher, "count more"))
      for i = 1, 3 do clients[i]:close() end
      for i = 4, 6 do clients[i]:reset() end
      for i = 7, 9 do clients[i]:send("close\n") end
      eventually(publisher, "count news", "3")
      eventually(publisher, "count more", "3")
      assert.equal("3", ask(publisher, "pub news hello"))
      for i = 10, 12 do assert.equal("hello", clients[i]:receive_line()) end
      for i = 10, 12 do clients[i]:close() end
      eventually(publisher, "count news", "0")
      assert.equal("0", ask(publisher, "pub news nobody"))
    end)

    it("is published to from timers, tasks and on_close" .. where, function()
      local s = start(loops)
      local clients = enter_many(s, 6, "news")
      local other = enter(s)
      ask(other, "farewell news")
      other:send("timer news\n")
      for _, c in ipairs(clients) do assert.equal("from a timer", c:receive_line()) end
      other:send("task news\n")
      for _, c in ipairs(clients) do assert.equal("from a task", c:receive_line()) end
      other:close()
      for _, c in ipairs(clients) do assert.equal("farewell", c:receive_line()) end
    end)

    it("is told of one's own end when one is gone" .. where, function()
      local s = start(loops)
      local clients = enter_many(s, 4, "news")
      ask(clients[1], "farewell news")
      clients[1]:reset()
      for i = 2, 4 do assert.equal("farewell", clients[i]:receive_line()) end
    end)

    it("lets a slow subscriber miss messages, and the others none" .. where, function()
      local s = start(loops)
      local slow = enter(s, { receive_buffer = 4096 })
      ask(slow, "mark 100000")
      ask(slow, "sub news")
      local quick = enter_many(s, 3, "news")
      local publisher = enter(s)
      local sent = 0
      local missed = net.poll_until(function()
        sent = sent + 1
        publisher:send("big news 500000\n")
        publisher:receive_line()
        for _, c in ipairs(quick) do c:receive(500000) end
        return tonumber(ask(publisher, "stats news"):match("^%d+ %d+ (%d+)")) >= 3
      end, 20)
      assert.is_true(missed)
      local publishes, deliveries, dropped, disconnected, subscribers =
        ask(publisher, "stats news"):match("^(%d+) (%d+) (%d+) (%d+) (%d+)$")
      assert.same({ tostring(sent), "0", "4" }, { publishes, disconnected, subscribers })
      assert.equal(4 * sent, deliveries + dropped)
      -- it gets the others whole, and those that come when it has caught up
      slow:receive((sent - dropped) * 500000, 20)
      assert.is_true(net.poll_until(function() return ask(publisher, "pub news now") ~= "3" end))
      assert.matches("^now", slow:receive_line())
    end)

    it("disconnects a slow subscriber when it was asked to" .. where, function()
      local s = start(loops)
      local slow = enter(s, { receive_buffer = 4096 })
      ask(slow, "mark 100000")
      ask(slow, "sub strict")
      local quick = enter_many(s, 3, "strict")
      local publisher = enter(s)
      local gone = net.poll_until(function()
        publisher:send("big strict 500000\n")
        publisher:receive_line()
        for _, c in ipairs(quick) do c:receive(500000) end
        return ask(publisher, "count strict") == "3"
      end, 20)
      assert.is_true(gone)
      assert.matches("^%d+ %d+ 0 1 3$", ask(publisher, "stats strict"))
      assert.same({ "closed too large" }, s:wait_said(1))
      assert.equal("reset", select(2, slow:receive_all(20)))
    end)
  end

  it("keeps what is written and what is published in order", function()
    local s = start()
    local c = enter_many(s, 1, "news")[1]
    for _ = 1, 20 do
      c:send("mixed news\n")
      assert.equal("a\nb\nc\nd\ne\nf\n= \n", c:receive(15))
    end
  end)

  it("sends a message once, however often one has subscribed, and none after unsubscribe", function()
    local s = start(2)
    local clients = enter_many(s, 4, "news")
    for _, c in ipairs(clients) do assert.equal("true", ask(c, "sub news")) end
    assert.equal("4", ask(clients[1], "count news"))
    local publisher = enter(s)
    assert.equal("4", ask(publisher, "pub news one"))
    for _, c in ipairs(clients) do assert.equal("one", c:receive_line()) end
    assert.equal("true", ask(clients[2], "unsub news"))
    assert.equal("false", ask(clients[2], "unsub news"))
    assert.equal("false", ask(publisher, "unsub news"))
    assert.equal("3", ask(publisher, "pub news two"))
    for i, c in ipairs(clients) do
      if i ~= 2 then assert.equal("two", c:receive_line()) end
    end
    assert.equal("3", ask(clients[2], "count news"))
    assert.equal("true", ask(clients[2], "sub news"))
    assert.equal("4", ask(publisher, "pub news three"))
    for _, c in ipairs(clients) do assert.equal("three", c:receive_line()) end
  end)

  it("is one of many that a connection listens to", function()
    local s = start(2)
    local a, b = enter(s), enter(s)
    for i = 1, 300 do
      ask(a, "sub topic" .. i)
      if i % 2 == 0 then ask(b, "sub topic" .. i) end
    end
    local publisher = enter(s)
    for i = 1, 300 do
      assert.equal(i % 2 == 0 and "2" or "1", ask(publisher, ("pub topic%d text %d"):format(i, i)))
      assert.equal("text " .. i, a:receive_line())
      if i % 2 == 0 then assert.equal("text " .. i, b:receive_line()) end
    end
    for i = 1, 300, 3 do ask(a, "unsub topic" .. i) end
    assert.equal("0", ask(publisher, "pub topic1 text"))
    assert.equal("1", ask(publisher, "pub topic4 text"))
    a:close()
    eventually(publisher, "count topic2", "1")
    eventually(publisher, "count topic3", "0")
  end)

  it("sends nothing to who has shut down, and says so to who wants to subscribe then", function()
    local s = start()
    local c = enter_many(s, 1, "news")[1]
    local other = enter(s)
    c:send("shut\n")
    eventually(other, "count news", "0")
    c:receive_all()
  end)

  it("holds one block for the payload, however many have to wait for it", function()
    local s = start(2)
    local publisher = enter(s)
    local clients = {}
    for i = 1, 20 do
      clients[i] = enter(s, { receive_buffer = 4096 })
      ask(clients[i], "sub news")
    end
    local function blocks() return ask(publisher, "blocks"):match("^(%d+) (%d+)$") end
    local before, bytes_before = blocks()
    assert.equal("20", ask(publisher, "big news 8388608"))
    local after, bytes_after
    net.poll_until(function() -- the other loop has it, and the publisher's string, and what was lent for a moment, are gone
      if ask(publisher, "stats news") ~= "1 20 0 0 20" then return false end
      after, bytes_after = blocks()
      return after - before == 1 and bytes_after - bytes_before == 8388608
    end)
    assert.equal(1, after - before)
    assert.equal(8388608, bytes_after - bytes_before)
    for i = 1, 20 do assert.equal(8388608, #clients[i]:receive(8388608, 20)) end
    eventually(publisher, "blocks", ("%d %d"):format(before, bytes_before))
  end)

  it("says when the mailbox of a loop is full, and counts whom it did not reach", function()
    local s = start(2)
    local one, two = enter(s), enter(s)
    assert.are_not.equal(one.loop, two.loop)
    ask(two, "sub news")
    two:send("work 1\n")
    local sent, count, err = ask(one, "flood news", 10):match("^(%d+) (%d+) (%S+)$")
    assert.same({ "0", "full" }, { count, err })
    for _ = 1, sent - 1 do
      local line = two:receive_line()
      if line == "= true" then line = two:receive_line() end
      assert.equal("flood", line)
    end
    local publishes, deliveries, dropped = ask(one, "stats news"):match("^(%d+) (%d+) (%d+) 0 1$")
    assert.same({ sent, tostring(sent - 1), "1" }, { publishes, deliveries, dropped })
  end)

  it("may be published to while its subscribers come and go on every loop", function()
    local s = start(3)
    local stay = enter_many(s, 3, "news")
    local publishers = { enter(s), enter(s), enter(s) }
    for _ = 1, 30 do
      for _, p in ipairs(publishers) do p:send("many news 20\n") end
      local guests = {}
      for i = 1, 6 do
        guests[i] = enter(s)
        guests[i]:send("sub news\n")
      end
      for i, c in ipairs(guests) do
        if i % 2 == 0 then c:close() else c:reset() end
      end
      for _, p in ipairs(publishers) do p:receive_line() end
    end
    for _, c in ipairs(stay) do
      for _ = 1, 3 * 30 * 20 do assert.matches("^message ", c:receive_line()) end
    end
    eventually(publishers[1], "count news", "3")
  end)

  it("stops with messages under way", function()
    local s = start(3)
    enter_many(s, 6, "news")
    local publisher = enter(s)
    publisher:send("many news 3000\n")
    publisher:send("big news 4000000\n")
    s:stop()
  end)

  -- ---- in one loop, seen from Lua ----------------------------------------------------------------------------------

  it("takes strings, slices and LinkBuffers, and copies no slice", function()
    inside.check [[
      local LinkBuffer = require "rille.linkbuffer"
      local topic = rille.topic "news"
      local a, b = rille.pair()
      equal(topic:publish("nobody\n"), 0)
      equal(topic:subscribe(a), true)
      equal(topic:publish("a string\n"), 1)
      equal(b:read_line():str(), "a string")
      equal(topic:publish(""), 1)

      local buf = LinkBuffer.new()
      buf:write("a slice\nthe rest\n")
      buf:flush()
      local slice = buf:next(8)
      local before = LinkBuffer.stats().blocks_in_use
      equal(topic:publish(slice), 1)
      equal(LinkBuffer.stats().blocks_in_use, before)
      equal(b:read_line():str(), "a slice")
      slice:retain()
      equal(topic:publish(slice), 1)
      slice:release()
      raises("slice expired", topic.publish, topic, slice)
      equal(b:read_line():str(), "a slice")

      equal(topic:publish(buf), 1)
      equal(b:read_line():str(), "the rest")
      equal(buf:len(), 9)
      buf:write(("x"):rep(100000))
      buf:write(("y"):rep(100000) .. "\n")
      buf:flush()
      equal(topic:publish(buf), 1)
      equal(b:read_line():str(), "the rest")
      b:release()
      equal(b:read_string(200001), ("x"):rep(100000) .. ("y"):rep(100000) .. "\n")
      equal(buf:len(), 200010)
      buf:close()
      local count, err = topic:publish(buf)
      equal(count, nil)
      equal(err, "closed")
      b:release()
      a:close() b:close()
    ]]
  end)

  it("publishes what a handler has just read", function()
    inside.check [[
      local topic = rille.topic "news"
      local a, b = rille.pair()
      local c, d = rille.pair()
      topic:subscribe(c)
      for i = 1, 100 do
        b:write("line " .. i .. "\n")
        topic:publish(a:read_until("\n"))
        a:release()
        equal(d:read_line():str(), "line " .. i)
        d:release()
      end
      for _, conn in ipairs { a, b, c, d } do conn:close() end
    ]]
  end)

  it("is one for each name", function()
    inside.check [[
      local one = rille.topic "one"
      equal(one, rille.topic "one")
      equal(tostring(one), "topic one")
      assert(one ~= rille.topic "on*")
      local a, b = rille.pair()
      rille.topic("*"):subscribe(a)
      equal(one:count(), 0)
      a:close() b:close()
      rille.yield() rille.yield()
      equal(rille.topic("*"):count(), 0)
      equal(select(2, one:subscribe(a)), "closed")
      equal(one:unsubscribe(a), false)
      for i = 1, 5000 do
        local topic = rille.topic("name " .. i)
        equal(topic:publish("x"), 0)
        equal(topic, rille.topic("name " .. i))
      end
      collectgarbage()
      equal(rille.topic(("x"):rep(255)):count(), 0)
    ]]
  end)

  it("takes nobody who is at an end", function()
    inside.check [[
      local topic = rille.topic "news"
      local a, b = rille.pair()
      local said
      topic:subscribe(a)
      a:on_close(function(conn)
        said = topic:count() .. " " .. tostring(topic:subscribe(conn)) .. " " .. select(2, topic:subscribe(conn))
      end)
      a:close()
      equal(topic:count(), 0)
      equal(select(2, topic:subscribe(a)), "closed")
      while not said do rille.yield() end
      equal(said, "0 nil closed")
      topic:subscribe(b)
      b:abort()
      equal(topic:count(), 0)
      local c, d = rille.pair()
      topic:subscribe(c)
      local fd = c:detach()
      equal(topic:count(), 0)
      rille.adopt(fd):close()
      d:close()
    ]]
  end)

  it("sends a burst to one connection in order", function()
    inside.check [[
      local topic = rille.topic "news"
      local a, b = rille.pair()
      topic:subscribe(a)
      for i = 1, 1000 do topic:publish(("%04d;"):format(i)) end
      local text, pieces = "", {}
      while #text < 5000 do
        text = text .. b:read():str()
        b:release()
      end
      for i = 1, 1000 do pieces[i] = ("%04d;"):format(i) end
      equal(text, table.concat(pieces))
      equal(topic:stats().deliveries, 1000)
      a:close() b:close()
    ]]
  end)

  it("lives as long as somebody is subscribed, without a table of it", function()
    inside.check [[
      local a, b = rille.pair()
      rille.topic("kept"):subscribe(a)
      collectgarbage() collectgarbage()
      equal(rille.topic("kept"):publish("still\n"), 1)
      equal(b:read_line():str(), "still")
      collectgarbage() collectgarbage()
      equal(rille.topic("kept"):stats().publishes, 1)
      a:close() b:close()
      for _ = 1, 3 do rille.yield() end
      collectgarbage() collectgarbage()
      equal(rille.topic("kept"):stats().publishes, 0)
    ]]
  end)

  it("treats slow subscribers as the first who had a wish said", function()
    inside.check [[
      rille.topic("a")
      rille.topic("a", {})
      rille.topic("a", { slow = "disconnect" })
      collectgarbage() collectgarbage()
      rille.topic("a", { slow = "disconnect" })
      raises('topic "a" was made with another option than slow = "drop"', rille.topic, "a", { slow = "drop" })
      rille.topic("b", { slow = "drop" })
      raises("another option", rille.topic, "b", { slow = "disconnect" })
      local stats = rille.topic("b"):stats()
      for _, name in ipairs { "publishes", "deliveries", "dropped", "disconnected", "subscribers" } do
        equal(stats[name], 0)
      end
    ]]
  end)

  it("raises at the line of the script for wrong arguments", function()
    inside.check [[
      local topic = rille.topic "news"
      raises("bad argument #1 to 'topic' (string expected, got nil)", rille.topic)
      raises("a name of 1 to 255 bytes expected, got 0", rille.topic, "")
      raises("a name of 1 to 255 bytes expected, got 256", rille.topic, ("x"):rep(256))
      raises("bad argument #2 to 'topic' (table expected, got string)", rille.topic, "x", "drop")
      raises("has no option 'fast'", rille.topic, "x", { fast = true })
      raises('slow is "drop" or "disconnect", not wait', rille.topic, "x", { slow = "wait" })
      raises("bad argument #1 to 'publish' (a string, slice or LinkBuffer expected, got number)", topic.publish, topic, 1)
      raises("bad argument #1 to 'subscribe' (a connection expected, got table)", topic.subscribe, topic, {})
      raises("bad argument #1 to 'unsubscribe' (a connection expected, got nil)", topic.unsubscribe, topic)
      local err = raises("piece", topic.publish, topic, nil)
      assert(err:find("%.lua:%d+: bad argument"), err)
    ]]
  end)

  it("can be used without a loop, where nobody is subscribed", function()
    inside.check([[
      local topic = rille.topic("news", { slow = "drop" })
      equal(topic:publish("hello"), 0)
      equal(topic:count(), 0)
      equal(topic:stats().publishes, 1)
    ]], { how = "plain" })
  end)

  it("takes no connection that speaks HTTP, until that is upgraded", function()
    local s = server.start([[
      local topic = rille.topic "news"
      return function(req, res)
        if req.path == "/up" then
          local conn = assert(res:upgrade("chat"))
          assert(topic:subscribe(conn))
          conn:flush()
          topic:publish("welcome\n")
          conn:read()
          return
        end
        local ok, err = topic:subscribe(req.conn)
        res:send(("%s %s %d"):format(tostring(ok), err, topic:publish("x")))
      end
    ]], { listen = "http://127.0.0.1:0" })
    local c = s:connect():send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert.matches("nil busy 0$", c:receive_all())
    local d = s:connect():send("GET /up HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
    assert.matches("^HTTP/1.1 101 ", d:receive_line())
    repeat local line = d:receive_line() until line == "\r"
    assert.equal("welcome", d:receive_line())
    d:close()
  end)
end)
