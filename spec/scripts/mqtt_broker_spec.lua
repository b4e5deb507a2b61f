-- scripts/mqtt_broker.lua, as a user runs it: with mosquitto's own clients, and with a raw one for what those do not do.

local mqtt = require "spec.support.mqtt"
local tls = require "spec.support.tls"
local server, net, packet = mqtt.server, mqtt.net, mqtt.packet

local SCRIPT = "scripts/mqtt_broker.lua"

local function run(loops, options)
  return server.run(SCRIPT, options, { words = { "--loops", tostring(loops or 1) } })
end

local function fill(count) return ("x"):rep(count) end

describe("scripts/mqtt_broker.lua", function()
  after_each(server.cleanup)

  it("has at most 80 lines", function()
    local count = 0
    for _ in io.lines(SCRIPT) do count = count + 1 end
    assert.is_true(count <= 80, count .. " lines")
  end)

  describe("with mosquitto's clients", function()
    -- A mosquitto_sub that has subscribed: it says so on its first line with -d.
    local function subscriber(s, ...)
      local process = mqtt.mosquitto("sub", s, "-d", ...)
      process:wait_log("Subscribed %(mid")
      return process
    end

    local function messages(process)
      local list = {}
      for _, line in ipairs(mqtt.lines(process)) do
        if not line:match("^Client ") and not line:match("^Subscribed ") then list[#list + 1] = line end
      end
      return list
    end

    for _, loops in ipairs { 1, 3 } do
      it("takes messages of each QoS to subscribers of each, with " .. loops .. " loops", function()
        local s = run(loops)
        local all = {}
        for qos = 0, 2 do
          all[#all + 1] = subscriber(s, "-t", "home/+/temperature", "-q", tostring(qos), "-v", "-C", "3")
          all[#all + 1] = subscriber(s, "-t", "home/#", "-q", tostring(qos), "-v", "-C", "3")
        end
        for qos = 0, 2 do
          mqtt.publish(s, "-t", "home/kitchen/temperature", "-m", tostring(20 + qos), "-q", tostring(qos))
          mqtt.publish(s, "-t", "garden/temperature", "-m", "cold", "-q", tostring(qos))
        end
        for _, one in ipairs(all) do
          local list = messages(one)
          table.sort(list) -- of three publishers
          assert.same({ "home/kitchen/temperature 20", "home/kitchen/temperature 21", "home/kitchen/temperature 22" }, list)
        end
      end)
    end

    it("keeps the last retained message of a topic, until an empty one", function()
      local s = run(2)
      mqtt.publish(s, "-t", "a/1", "-m", "old", "-r")
      mqtt.publish(s, "-t", "a/1", "-m", "new", "-r", "-q", "1")
      mqtt.publish(s, "-t", "a/2", "-m", "other", "-r")
      mqtt.publish(s, "-t", "b", "-m", "not retained")
      for _, filter in ipairs { "a/#", "#", "a/+" } do
        local list = messages(mqtt.mosquitto("sub", s, "-t", filter, "-v", "-C", "2", "-F", "%r %t %p"))
        table.sort(list)
        assert.same({ "1 a/1 new", "1 a/2 other" }, list)
      end
      mqtt.publish(s, "-t", "a/1", "-n", "-r")
      assert.same({ "a/2 other" }, messages(mqtt.mosquitto("sub", s, "-t", "a/#", "-v", "-C", "1")))
    end)

    it("publishes the will of a client that is gone, not of one that has said goodbye", function()
      local s = run(2)
      local watcher = subscriber(s, "-t", "will/#", "-v", "-C", "2", "-q", "1")
      local polite = subscriber(s, "-t", "x", "--will-topic", "will/polite", "--will-payload", "never", "-C", "1")
      local gone = subscriber(s, "-t", "x", "--will-topic", "will/gone", "--will-payload", "it is gone", "--will-qos", "1")
      mqtt.publish(s, "-t", "x", "-m", "go")
      assert.equal(0, polite:wait_exit())
      gone:kill()
      net.poll_until(function() return watcher:log():find("it is gone", 1, true) end)
      mqtt.publish(s, "-t", "will/end", "-m", "end")
      assert.same({ "will/gone it is gone", "will/end end" }, messages(watcher))
    end)

    it("keeps messages for a persistent session", function()
      local s = run(3)
      local first = subscriber(s, "-t", "jobs", "-q", "1", "-c", "-i", "worker", "-C", "1")
      mqtt.publish(s, "-t", "jobs", "-m", "1", "-q", "1")
      assert.same({ "1" }, messages(first))
      for i = 2, 5 do mqtt.publish(s, "-t", "jobs", "-m", tostring(i), "-q", "1") end
      assert.same({ "2", "3", "4", "5" }, messages(mqtt.mosquitto("sub", s, "-t", "jobs", "-q", "1", "-c", "-i", "worker", "-C", "4")))
    end)

    it("asks for a password", function()
      local s = run(1, { "password=secret" })
      local bad = mqtt.mosquitto("pub", s, "-t", "a", "-m", "b", "-u", "ann", "-P", "wrong")
      assert.equal(4, bad:wait_exit()) -- the return code of the CONNACK
      mqtt.publish(s, "-t", "a", "-m", "b", "-u", "ann", "-P", "secret")
    end)

    it("speaks over TLS, on all loops", function()
      tls.set_up()
      local s = server.start(SCRIPT, { listen = "tls://127.0.0.1:0", conf = { loops = 3 },
        server = { tls = { certificate = tls.file "site.pem", key = tls.file "site.key" } } })
      local words = { "--cafile", tls.file "ca.pem", "--insecure", "-t", "secure", "-q", "1" }
      local all = {}
      for i = 1, 4 do all[i] = subscriber(s, "-C", "4", "-i", "tls" .. i, unpack(words)) end
      for i = 1, 4 do mqtt.publish(s, "-m", tostring(i), unpack(words)) end
      for i = 1, 4 do
        local list = messages(all[i])
        table.sort(list)
        assert.same({ "1", "2", "3", "4" }, list)
      end
    end)

    it("carries a large message", function()
      local s = run(2)
      local path = server.write("large", fill(200000))
      local one = mqtt.mosquitto("sub", s, "-d", "-t", "large", "-C", "1", "-F", "%l", "-q", "1")
      one:wait_log("Subscribed %(mid")
      mqtt.publish(s, "-t", "large", "-f", path, "-q", "1")
      assert.same({ "200000" }, messages(one))
    end)
  end)

  it("lets the user of a name alone publish to from/NAME", function()
    local s = run(2)
    local watcher = mqtt.connect(s.url)
    watcher:subscribe("from/#", 1)
    local ann = mqtt.connect(s.url, { id = "a", username = "ann" })
    local eve = mqtt.connect(s.url, { id = "e", username = "eve" })
    eve:publish("from/ann/x", "forged", 1) -- acknowledged, and nobody gets it
    ann:publish("from/ann/x", "true", 1)
    assert.equal("true", select(2, watcher:message()))
    watcher:ping()
  end)

  it("tells its numbers under $SYS, which no client publishes to", function()
    local s = server.run(server.read(SCRIPT):gsub("every%(10,", "every(0.05,"), nil, {})
    local c = mqtt.connect(s.url)
    c:subscribe("$SYS/broker/connected", 0)
    local topic, count
    repeat topic, count = c:message() until count ~= "0"
    assert.same({ "$SYS/broker/connected", "1" }, { topic, count })
    local d = mqtt.connect(s.url)
    d:subscribe("$x/#", 0)
    d:publish("$x/y", "z", 1)
    d:ping()
  end)

  it("gives a message once to a client whose filters overlap, with the highest QoS", function()
    local c = mqtt.connect(run(2).url)
    assert.same({ 0 }, c:subscribe("a/#", 0))
    assert.same({ 1, 1 }, c:subscribe({ "a/+", "+/b" }, 1))
    c:send(packet.publish("a/b", "x", 1, 9))
    local kinds = {}
    for _ = 1, 2 do
      local one = c:packet()
      kinds[one.kind] = one
    end
    assert.equal(1, kinds[packet.PUBLISH].qos)
    assert.is_false(kinds[packet.PUBLISH].retain)
    assert.equal(9, kinds[packet.PUBACK].id)
    c:ping()
  end)

  it("stops delivering after UNSUBSCRIBE", function()
    local c = mqtt.connect(run(1).url)
    c:subscribe({ "a", "b" }, 1)
    c:send(packet.unsubscribe(77, { { filter = "a" }, { filter = "never" } }))
    assert.equal(77, c:expect(packet.UNSUBACK).id)
    c:publish("a", "x", 1)
    c:send(packet.publish("b", "y", 1, 9))
    assert.equal(packet.PUBLISH + packet.PUBACK, c:packet().kind + c:packet().kind)
  end)

  it("takes a message of QoS 2 once", function()
    local s = run(2)
    local watcher = mqtt.connect(s.url)
    watcher:subscribe("t", 1)
    local c = mqtt.connect(s.url, { id = "c" })
    for _ = 1, 3 do
      c:send(packet.publish("t", "x", 2, 5))
      assert.equal(5, c:expect(packet.PUBREC).id)
    end
    c:send(packet.reply(packet.PUBREL, 5))
    assert.equal(5, c:expect(packet.PUBCOMP).id)
    c:publish("t", "y", 2)
    assert.equal("x", select(2, watcher:message()))
    assert.equal("y", select(2, watcher:message()))
  end)

  for _, loops in ipairs { 1, 3 } do
    it("sends again what was not acknowledged, in order, and nothing that was, with " .. loops .. " loops", function()
      local s = run(loops)
      local c = mqtt.connect(s.url, { id = "worker", clean = false })
      c:subscribe("jobs", 1)
      local p = mqtt.connect(s.url, { id = "boss" })
      for i = 1, 30 do p:publish("jobs", tostring(i), 1) end
      local seen = {}
      for i = 1, 20 do -- the window
        local _, payload, one = c:message(true)
        assert.equal(tostring(i), payload)
        assert.is_false(one.dup)
        seen[i] = one.id
      end
      for i = 1, 5 do c:send(packet.reply(packet.PUBACK, seen[i])) end
      for i = 21, 25 do assert.equal(tostring(i), select(2, c:message(true))) end
      c:ping()
      c:reset()
      local again, is_present = mqtt.connect(s.url, { id = "worker", clean = false })
      assert.is_true(is_present)
      for i = 6, 25 do
        local _, payload, one = again:message()
        assert.equal(tostring(i), payload)
        assert.is_true(one.dup)
        if seen[i] then assert.equal(seen[i], one.id) end
      end
      for i = 26, 30 do assert.equal(tostring(i), select(2, again:message())) end
      again:ping()
      again:send(packet.disconnect)
      assert.equal("closed", again:ended())
      -- a clean one ends it
      local clean, was_there = mqtt.connect(s.url, { id = "worker", clean = true })
      assert.is_false(was_there)
      p:publish("jobs", "late", 1)
      clean:ping()
    end)
  end

  it("closes the connection before when a client comes a second time, and publishes its will", function()
    local s = run(3)
    local watcher = mqtt.connect(s.url)
    watcher:subscribe("will", 1)
    local first = mqtt.connect(s.url, { id = "twin", clean = false, will = { topic = "will", payload = "first", qos = 1 } })
    first:subscribe("t", 1)
    for i = 1, 5 do
      local will = { topic = "will", payload = tostring(i), qos = 1 }
      local second, is_present = mqtt.connect(s.url, { id = "twin", clean = false, will = will })
      assert.is_true(is_present)
      assert.equal("closed", first:ended())
      assert.equal(i == 1 and "first" or tostring(i - 1), select(2, watcher:message()))
      first = second
    end
    watcher:publish("t", "hello", 1)
    assert.equal("hello", select(2, first:message()))
  end)

  it("ends who is silent for one and a half of its keep-alive time, however much it is sent", function()
    local s = run(1)
    local watcher = mqtt.connect(s.url)
    watcher:subscribe("will", 0)
    local c = mqtt.connect(s.url, { id = "mute", keep_alive = 1, will = { topic = "will", payload = "mute" } })
    c:subscribe("t", 0)
    local alive = mqtt.connect(s.url, { id = "alive", keep_alive = 1 })
    local began, over = net.now(), nil
    while not over and net.now() < net.deadline(10) do
      watcher:publish("t", "x", 0)
      alive:ping()
      net.nap(20)
      if not c:each(function() end) then over = net.now() end
    end
    assert.is_true(over ~= nil and over - began >= 1.4)
    assert.equal("mute", select(2, watcher:message()))
    alive:ping()
  end)

  it("gives messages of the same publisher in order, across loops", function()
    local s = run(3)
    local readers = {}
    for i = 1, 6 do
      readers[i] = mqtt.connect(s.url, { id = "reader" .. i })
      readers[i]:subscribe("t", 1)
    end
    local p = mqtt.connect(s.url, { id = "writer" })
    local parts = {}
    for i = 1, 500 do parts[i] = packet.publish("t", tostring(i), 1, i) end
    p:send(table.concat(parts))
    for i = 1, 500 do assert.equal(i, p:expect(packet.PUBACK).id) end
    for _, one in ipairs(readers) do
      for i = 1, 500 do assert.equal(tostring(i), select(2, one:message())) end
      one:ping()
    end
  end)

  describe("with peers that misbehave", function()
    local function closed(s, bytes, message)
      local c = mqtt.open(s.url)
      c:send(bytes)
      local all, how = c.socket:receive_all()
      assert.equal("closed", how, message)
      return all
    end

    it("answers a CONNECT that it refuses, and closes", function()
      local s = run(1)
      assert.equal(packet.connack(false, 1), closed(s, "\16\12\0\4MQTT\5\2\0\0\0\0"))           -- version 5
      assert.equal(packet.connack(false, 1), closed(s, "\16\15\0\6MQIsdp\3\2\0\0\0\1a"))        -- version 3.1
      assert.equal(packet.connack(false, 2), closed(s, packet.connect { id = "", clean = false }))
      assert.equal(packet.connack(false, 2), closed(s, packet.connect { id = fill(257), clean = true }))
      assert.equal(packet.connack(false, 2), closed(s, packet.connect { id = "\1x", clean = true }))
      mqtt.connect(s.url, { id = "" }):ping()
    end)

    it("closes on what is no MQTT, and on packets out of place", function()
      local s = run(2)
      local hello = packet.connect { id = "x", clean = true }
      local welcome = packet.connack(false, 0)
      for what, bytes in pairs {
        http = "GET / HTTP/1.1\r\n\r\n", zero = "\0\0", length = "\16\255\255\255\255\1", early = packet.publish("a", "b"),
        ping = packet.pingreq, protocol = "\16\12\0\4NOPE\4\2\0\0\0\0", flags = "\19\0", large = "\48\255\255\255\127",
        will = packet.connect { id = "w", clean = true, will = { topic = "a/#", payload = "" } },
      } do
        assert.equal("", closed(s, bytes, what), what)
      end
      for what, bytes in pairs {
        twice = hello, connack = welcome, suback = packet.suback(1, { 0 }), pubcomp = packet.reply(packet.PUBCOMP, 1),
        qos_3 = "\54\5\0\1a\0\1", wildcard = packet.publish("a/#", "b"), text = packet.publish("\255", "b"), empty = "\48\2\0\0",
        no_filters = "\130\2\0\1", bad_filter = packet.subscribe(1, { { filter = "a/#/b" } }),
        bad_qos = "\130\6\0\1\0\1a\3", puback = "\64\1\0",
        pubrec = packet.reply(packet.PUBREC, 1),
        ping = "\192\1x", goodbye = "\224\1x", long = packet.publish(fill(2000), ""), levels = packet.publish(("/"):rep(40), ""),
        large = "\48\255\255\255\127",
      } do
        assert.equal(welcome, closed(s, hello .. bytes, what), what)
      end
      -- an acknowledgement of nothing is nothing
      local c = mqtt.connect(s.url)
      c:send(packet.reply(packet.PUBACK, 9))
      c:ping()
      c:close()
      s:wait_empty(2)
    end)

    it("lets go who says nothing, or nothing whole", function()
      local s = server.run([[
        return require("rille.mqtt").broker { connect_time = 0.3 }:handlers()
      ]], nil, {})
      local silent, half = mqtt.open(s.url), mqtt.open(s.url)
      half:send(packet.connect({ id = "x", clean = true }):sub(1, 9))
      assert.is_truthy(silent:ended())
      assert.is_truthy(half:ended())
      local good = mqtt.connect(s.url)
      net.nap(400)
      good:ping()
    end)

    it("leaves nothing of peers that break off or end their side, anywhere in a packet", function()
      local s = run(2)
      local watcher = mqtt.connect(s.url, { id = "watcher" })
      watcher:subscribe("will/#", 0)
      local bytes = packet.connect { id = "x", clean = true } .. packet.subscribe(1, { { filter = "a", qos = 1 } })
        .. packet.publish("a", "b", 1, 1)
      for cut = 1, #bytes, 3 do
        for _, ending in ipairs { "reset", "close", "half" } do
          local c = mqtt.open(s.url)
          c:send(bytes:sub(1, cut))
          if ending == "half" then
            c.socket:shutdown_write()
            c:ended()
          else
            c[ending](c)
          end
        end
      end
      watcher:ping()
      watcher:close()
      s:wait_empty(2)
    end)

    it("takes what was sent before a half-close, for each loop", function()
      local s = run(3)
      local watcher = mqtt.connect(s.url, { id = "watcher" })
      watcher:subscribe({ "t", "will" }, 1)
      for i = 1, 10 do
        local c = mqtt.open(s.url)
        local will = { topic = "will", payload = "" }
        local hello = packet.connect { id = "brief " .. i, clean = true, will = will }
        c:send(hello .. packet.publish("t", tostring(i), 1, 1) .. packet.disconnect)
        c.socket:shutdown_write()
        assert.equal(tostring(i), select(2, watcher:message()))
        assert.equal(packet.connack(false, 0), (c.socket:receive_all():sub(1, 4)))
      end
      watcher:ping()
    end)

    it("drops messages of QoS 0 for who does not read, and keeps a window of QoS 1", function()
      local s = run(1)
      local slow = mqtt.connect(s.url, { id = "slow" }, { receive_buffer = 4096 })
      slow:subscribe({ "zero" }, 0)
      slow:subscribe({ "one" }, 1)
      local p = mqtt.connect(s.url, { id = "p" })
      local payload = fill(100000)
      for _ = 1, 60 do p:send(packet.publish("zero", payload)) end -- 6 MB: a few are in flight, the rest is dropped
      for _ = 1, 30 do p:publish("one", "x", 1) end
      p:ping()
      local memory = s:rss()
      for _ = 1, 100 do p:send(packet.publish("zero", payload)) end
      p:ping()
      if not net.is_sanitized then assert.is_true(s:rss() - memory < 8e6, "what is not read piles up") end
      local zeros, ones = 0, 0
      while ones < 30 do
        local one = slow:expect(packet.PUBLISH)
        if one.qos == 1 then
          ones = ones + 1
          slow:send(packet.reply(packet.PUBACK, one.id))
        else
          assert.equal(100000, #one.payload)
          zeros = zeros + 1
        end
      end
      assert.is_true(zeros < 160, zeros .. " came")
    end)
  end)
end)
