-- rille.mqtt.broker: its options and limits, its hooks, and what becomes of sessions when generations and Lua states come and go. What a
-- client of scripts/mqtt_broker.lua sees is in spec/scripts/mqtt_broker_spec.lua, reloads under load are in spec/mqtt_reload_spec.lua.

local mqtt = require "spec.support.mqtt"
local reload = require "spec.support.reload"
local server, net, packet = mqtt.server, mqtt.net, mqtt.packet

-- A script that is a broker with these options, and code in front.
local function script(options, before, version)
  return ([[
    -- version %s
    local mqtt = require "rille.mqtt"
    %s
    local broker = mqtt.broker { %s }
    local handlers = broker:handlers()
    return handlers
  ]]):format(version or 1, before or "", options or "")
end

local function run(options, before, opts)
  opts = opts or {}
  opts.conf = opts.conf or { loops = 2 }
  return server.start(script(options, before), opts)
end

-- An error in these options, at the line of the script.
local function refused(options)
  local broker = require("rille.mqtt").broker
  local ok, err = pcall(broker, options)
  assert.is_false(ok)
  return err
end

describe("rille.mqtt.broker", function()
  after_each(server.cleanup)

  it("says what is wrong with its options", function()
    assert.matches("mqtt_broker_spec.lua:%d+: rille.mqtt.broker has no option 'nme'", refused { nme = "x" })
    assert.matches("takes a table of options, not a string", refused "x")
    assert.matches("packet takes bytes from 128 to 8m, not 9m", refused { packet = "9m" })
    assert.matches("inflight takes a whole number from 1 to 1000, not 0", refused { inflight = 0 })
    assert.matches("queue takes a whole number", refused { queue = 1.5 })
    assert.matches("connect_time takes seconds", refused { connect_time = "soon" })
    assert.matches('slow is "drop" or "disconnect", not wait', refused { slow = "wait" })
    assert.matches("authenticate is a function, not a boolean", refused { authenticate = true })
    assert.matches("name is a string of 1 to 200 bytes", refused { name = "" })
    require("rille.mqtt").broker { name = "once", sessions_size = "64k", retained_size = "64k" }
    assert.matches("there is a broker 'once' in this script already", refused { name = "once" })
  end)

  describe("has limits:", function()
    it("subscriptions of a client, length and levels of filters: the code is 0x80", function()
      local c = mqtt.connect(run("subscriptions = 2, topic = 10, levels = 3").url)
      assert.same({ 1, 0x80, 0x80, 1, 0x80, 1 }, c:subscribe({ "a", ("x"):rep(11), "1/2/3/4", "b", "c", "a" }, 1))
      c:send(packet.unsubscribe(9, { { filter = "a" } }))
      c:expect(packet.UNSUBACK)
      assert.same({ 1 }, c:subscribe("c", 2))
    end)

    it("the packet", function()
      local s = run "packet = 1000"
      local c = mqtt.connect(s.url)
      c:publish("t", ("x"):rep(1000 - 3 - 3 - 2), 1)
      c:send(packet.publish("t", ("x"):rep(1000 - 3 - 3 - 2 + 1), 1, 1))
      assert.equal("closed", c:ended())
      s:wait_log "a packet that is too large"
    end)

    it("sessions", function()
      local s = run("sessions = 2", nil, { conf = { loops = 1 } })
      local a = mqtt.connect(s.url, { id = "a" })
      mqtt.connect(s.url, { id = "b", clean = false })
      local function code()
        local c = mqtt.open(s.url)
        c:send(packet.connect { id = "c", clean = true })
        return c:expect(packet.CONNACK).code
      end
      assert.equal(3, code())
      a:send(packet.disconnect)
      assert.equal("closed", a:ended())
      assert.is_true(net.poll_until(function() return code() == 0 end))
    end)

    it("the window and the queue, by messages and by bytes: what has no room is dropped", function()
      for options, want in pairs {
        ["inflight = 2, queue = 3"] = 5, ["inflight = 2, queue = 100, queue_bytes = 1000"] = 2 + 3, ["inflight = 1, queue = 0"] = 1,
      } do
        local s = run(options)
        local c = mqtt.connect(s.url, { id = "slow", clean = false })
        c:subscribe("t", 1)
        local p = mqtt.connect(s.url, { id = "p" })
        for i = 1, 20 do p:publish("t", ("%03d"):format(i) .. ("x"):rep(300), 1) end
        for i = 1, want do assert.equal(i, tonumber(select(2, c:message()):sub(1, 3)), options) end
        c:ping()
        s:wait_log 'mqtt: a message for \\?"slow\\?" is dropped'
        assert.is_true(s:count_log "is dropped, as it has no room" < 5) -- of 15 and more
        p:publish("t", "after", 1)
        assert.equal("after", select(2, c:message()))
        s:stop()
        server.cleanup()
      end
    end)

    it("or the connection is ended, with slow = \"disconnect\"", function()
      local s = run("inflight = 2, queue = 3, slow = 'disconnect'")
      local c = mqtt.connect(s.url, { id = "slow", clean = false })
      c:subscribe("t", 1)
      local p = mqtt.connect(s.url, { id = "p" })
      for i = 1, 10 do p:publish("t", tostring(i), 1) end
      assert.equal("reset", c:ended())
      local again, is_present = mqtt.connect(s.url, { id = "slow", clean = false })
      assert.is_true(is_present)
      for i = 1, 5 do assert.equal(tostring(i), select(2, again:message())) end
    end)

    it("the room for retained messages: what has none is delivered and not retained", function()
      local s = run("retained_size = '16k'")
      local c = mqtt.connect(s.url)
      c:subscribe("#", 0)
      for i = 1, 20 do
        c:publish("t/" .. i, ("x"):rep(1000), 0, true)
        assert.equal("t/" .. i, (c:message()))
      end
      s:wait_log "retained is full"
      local kept = 0
      local d = mqtt.connect(s.url)
      d:subscribe("t/+", 0)
      d:send(packet.pingreq)
      while d:packet().kind == packet.PUBLISH do kept = kept + 1 end
      assert.is_true(kept > 3 and kept < 20, kept .. " retained")
      -- what has no room is not what was there before
      mqtt.connect(s.url):publish("t/1", ("y"):rep(20000), 1, true) -- acknowledged when every loop has it
      d:close()
      d = mqtt.connect(s.url)
      d:subscribe("t/1", 0)
      d:ping()
    end)

    it("the room for persistent sessions: CONNECT is refused with 3, SUBSCRIBE with 0x80, messages are dropped", function()
      local s = run("sessions_size = '16k'", nil, { conf = { loops = 1 } })
      local code, i = 0, 0
      local clients = {}
      while code == 0 and i < 200 do
        i = i + 1
        clients[i] = mqtt.open(s.url)
        clients[i]:send(packet.connect { id = "client " .. i, clean = false, username = ("u"):rep(100) })
        code = clients[i]:expect(packet.CONNACK).code
        if i == 1 then clients[1]:subscribe("until then", 0) end
      end
      assert.equal(3, code)
      assert.is_true(i > 10)
      s:wait_log "no room for a session"
      local filters = {}
      for k = 1, 50 do filters[k] = ("f"):rep(100) .. k end
      for _, one in ipairs(clients[1]:subscribe(filters, 1)) do assert.equal(0x80, one) end
      clients[1]:publish(filters[1], "x", 1)
      clients[1]:ping()
      clients[1]:send(packet.unsubscribe(9, { { filter = "until then" } })) -- needs no room
      clients[1]:expect(packet.UNSUBACK)
      mqtt.connect(s.url, { id = "clean" }):publish("until then", "x", 1)
      clients[1]:ping()
    end)
  end)

  it("gives messages to persistent sessions that are connected when those that are not have used up the room", function()
    local s = run("sessions_size = '16k'", nil, { conf = { loops = 1 } })
    local away = mqtt.connect(s.url, { id = "away", clean = false })
    away:subscribe("#", 1)
    local there = mqtt.connect(s.url, { id = "there", clean = false })
    there:subscribe("t/+", 1)
    away:reset()
    local p = mqtt.connect(s.url, { id = "p" })
    for i = 1, 200 do p:publish("fill", tostring(i), 1) end
    s:wait_log "sessions_size"
    for i = 1, 5 do
      p:publish("t/" .. i, "x", 1)
      assert.equal("t/" .. i, (there:message()))
    end
    there:ping()
    away = mqtt.connect(s.url, { id = "away", clean = false })
    for i = 1, 20 do assert.equal(tostring(i), select(2, away:message(true))) end
    for i = 1, 20 do away:send(packet.reply(packet.PUBACK, i)) end -- there is room again
    for _ = 1, 20 do away:message() end
    p:publish("t/last", "x", 1)
    assert.equal("t/last", (there:message()))
  end)

  describe("calls hooks:", function()
    it("authenticate, with what the client has said", function()
      local s = run([[authenticate = function(client)
        if client.id == "error" then error "cannot tell" end
        if client.id == "banned" then return false end
        if client.password ~= "secret" then return false, 4 end
        say("%s %s %s %d %s", client.id, client.username, tostring(client.clean), client.keep_alive, client.peer:match("^127") or "")
        return true
      end]], nil, { allow_errors = true })
      local function code(options)
        local c = mqtt.open(s.url)
        c:send(packet.connect(options))
        local answer = c:packet()
        return answer and answer.code
      end
      assert.equal(5, code { id = "banned", clean = true })
      assert.equal(4, code { id = "ann", clean = true, username = "ann", password = "wrong" })
      assert.equal(4, code { id = "ann", clean = true })
      assert.equal(0, code { id = "ann", clean = true, keep_alive = 9, username = "Ann", password = "secret" })
      assert.is_nil(code { id = "error", clean = true })
      assert.equal("ann Ann true 9 127", s:wait_said(1)[1])
    end)

    it("authorize, for filters, topics and wills", function()
      local s = run([[authorize = function(client, topic, action)
        return not (topic == "no/" .. action)
      end]])
      local c = mqtt.connect(s.url)
      assert.same({ 0x80, 1 }, c:subscribe({ "no/subscribe", "#" }, 1))
      c:publish("no/publish", "x", 1)
      c:ping()
      local d = mqtt.open(s.url)
      d:send(packet.connect { id = "d", clean = true, will = { topic = "no/publish", payload = "" } })
      assert.equal(5, d:expect(packet.CONNACK).code)
    end)

    it("on_publish, which may say no", function()
      local s = run([[on_publish = function(client, m)
        say("%s %s %s %d %s", client.id, m.topic, m.payload, m.qos, tostring(m.retain))
        return m.payload ~= "no"
      end]])
      local c = mqtt.connect(s.url, { id = "c" })
      c:subscribe("#", 0)
      c:publish("t", "no", 1)
      c:send(packet.publish("t", "yes", 0, nil, true))
      assert.equal("yes", select(2, c:message()))
      assert.same({ "c t no 1 false", "c t yes 0 true" }, s:wait_said(2))
    end)

    it("one that parks lets others go on, and is asked again when another generation serves meanwhile", function()
      local hooks = [[authenticate = function(client)
          say("authenticate %s", client.id)
          if client.id == "slow" then park "authenticate" end
          return true
        end, authorize = function(client, topic, action)
          if topic == "slow" then say("%s", action) park(action) end
          return true
        end]]
      local park = [[local function park(what) -- the first time, until another generation serves
        if rille.dict("asked"):incr(what, 1, 0) == 1 then rille.retire_channel():receive() end
      end]]
      local s = reload.start(script(hooks, park), { conf = { loops = 2 } })
      local other = mqtt.connect(s.url, { id = "other" })
      other:subscribe("slow/#", 1)
      local c = mqtt.open(s.url)
      local function during(said, bytes, version)
        c:send(bytes)
        s:wait_said(said)
        other:ping()
        reload.to(s, script(hooks, park, version))
      end
      during(2, packet.connect { id = "slow", clean = true }, 2)
      assert.equal(0, c:expect(packet.CONNACK, 10).code)
      during(4, packet.subscribe(7, { { filter = "slow", qos = 1 } }), 3)
      assert.same({ 1 }, c:expect(packet.SUBACK, 10).codes)
      during(6, packet.publish("slow", "once", 1, 8), 4)
      local seen = { [packet.PUBACK] = 0, [packet.PUBLISH] = 0 }
      for _ = 1, 3 do
        if seen[packet.PUBACK] + seen[packet.PUBLISH] < 2 then
          local one = c:packet(10)
          seen[one.kind] = seen[one.kind] + 1
        end
      end
      assert.same({ [packet.PUBACK] = 1, [packet.PUBLISH] = 1 }, seen)
      c:ping()
      reload.wait_retired(s)
    end)
  end)

  it("says nothing about clients that are gone before they come to their loop", function()
    local s = run("", nil, { conf = { loops = 3 } })
    for i = 1, 100 do
      local c = mqtt.open(s.url)
      c:send(packet.connect { id = "gone " .. i, clean = true } .. packet.publish("t", "x", 1, 1))
      c:reset()
    end
    for i = 1, 10 do mqtt.connect(s.url, { id = "there " .. i }):ping() end
    assert.equal(0, s:count_log "level=warn")
    assert.equal(0, s:count_log "level=error")
  end)

  it("gives a session to the user alone that began it", function()
    local s = run "authorize = function(client, topic) return topic:match('^[^/]*') == client.username end"
    local ann = mqtt.connect(s.url, { id = "phone", username = "ann", clean = false })
    ann:subscribe("ann/#", 1)
    local function publish(text) mqtt.connect(s.url, { id = "p", username = "ann" }):publish("ann/x", text, 1) end
    ann:reset()
    local is_present
    ann, is_present = mqtt.connect(s.url, { id = "phone", username = "ann", clean = false })
    assert.is_true(is_present)
    publish "first"
    assert.equal("first", select(2, ann:message(true)))
    local eve
    eve, is_present = mqtt.connect(s.url, { id = "phone", username = "eve", clean = false })
    assert.is_false(is_present)
    publish "second"
    eve:ping()
  end)

  it("publishes for scripts", function()
    local s = run("", [[
      local broker
      rille.after(0.01, function()
        broker = require("rille.mqtt.broker").find "mqtt"
        say("%s", tostring(broker:publish("$SYS/x", "first", { retain = true, qos = 1 })))
        say("%s %s", broker:publish("a/#", "x"))
        say("%s %s", broker:publish("a\255", "x"))
        say("%s %s", broker:publish(("a"):rep(2000), "x"))
        say("%s", tostring(pcall(broker.publish, broker, 1, "x")))
        say("%s", tostring(pcall(broker.publish, broker, "a", "x", { qos = 2 })))
        say("%s", select(2, pcall(broker.publish, broker, "a", "x", 1)):match ": (.*)")
        for i = 1, 500 do assert(broker:publish("many", tostring(i), { retain = true })) end -- at one go
      end)
    ]], { conf = { loops = 1 } })
    assert.same({ "true", "nil invalid argument", "nil invalid argument", "nil too large", "false", "false",
      "bad argument #3 to 'publish' (table expected, got number)" }, s:wait_said(7))
    local c = mqtt.connect(s.url)
    c:subscribe("$SYS/#", 2)
    local topic, payload, one = c:message()
    assert.same({ "$SYS/x", "first", true, 1 }, { topic, payload, one.retain, one.qos })
  end)

  it("keeps order and answers in order when mailboxes are full", function()
    local s = run("queue = 10000, queue_bytes = '16m'", [[
      local post = require "rille.post"
      local real, n = post.call, 0
      post.call = function(...)
        n = n + 1
        if n % 4 ~= 0 then return nil, "full" end
        return real(...)
      end
    ]], { conf = { loops = 3 } })
    local readers = {}
    for i = 1, 6 do
      readers[i] = mqtt.connect(s.url, { id = "reader" .. i })
      readers[i]:subscribe("t", 1)
    end
    local p = mqtt.connect(s.url, { id = "writer" })
    local parts = {}
    for i = 1, 3000 do parts[i] = packet.publish("t", tostring(i), 1, i) end
    p:send(table.concat(parts))
    local faults, last, acked = {}, {}, 0
    local clients = { p, unpack(readers) }
    local deadline = net.deadline(30)
    local function is_complete()
      for _, one in ipairs(readers) do
        if last[one] ~= 3000 then return false end
      end
      return acked == 3000
    end
    while not is_complete() and net.now() < deadline do
      mqtt.turn(clients, function(c, one)
        if one.kind == packet.PUBACK then
          acked = acked + 1
          if one.id ~= acked then faults[#faults + 1] = ("%d acknowledged as number %d"):format(one.id, acked) end
          return
        end
        if tonumber(one.payload) ~= (last[c] or 0) + 1 then
          faults[#faults + 1] = ("%s after %d"):format(one.payload, last[c] or 0)
        end
        last[c] = tonumber(one.payload)
        c:send(packet.reply(packet.PUBACK, one.id))
      end)
    end
    assert.same({}, faults)
    assert.is_true(is_complete())
  end)

  it("gives sessions back when a generation that failed is rolled back", function()
    local good = script()
    local bad = good:gsub("return handlers", "local n = 0; local real = handlers.on_request; handlers.on_request = function(conn) "
      .. "n = n + 1; if n > 3 then error 'bad' end; return real(conn) end; return handlers")
    local guards = { min_requests = 5, max_error_rate = 0.01 }
    local s = reload.start(good, { conf = { loops = 1 }, allow_errors = true, reload = { canary = guards } })
    local c = mqtt.connect(s.url, { id = "c", clean = false })
    c:subscribe("t", 1)
    local p = mqtt.connect(s.url, { id = "p" })
    p:publish("t", "1", 1)
    assert.equal("1", select(2, c:message(true)))
    local pending = server.client.connect("unix://" .. s.socket)
    reload.put(bad)
    local code = "print(require('rille.reload').answer { wait = true, canary = 1, soak = 30 })"
    pending:send(("eval loop=0 timeout=120000 size=%d\n%s"):format(#code, code))
    local rolled_back
    local deadline = net.deadline(30)
    repeat -- requests that fail end their connections
      local d = mqtt.open(s.url)
      d:send(packet.connect { id = "d", clean = true })
      d.socket:receive_some(0.05)
      d:close()
      rolled_back = net.wait(pending.fd, net.POLLIN, net.now())
    until rolled_back or net.now() > deadline
    assert.matches("rolled back", (pending:receive_all(30)))
    p = mqtt.connect(s.url, { id = "p" })
    p:publish("t", "2", 1)
    local again, is_present = mqtt.connect(s.url, { id = "c", clean = false })
    assert.is_true(is_present)
    local _, payload, one = again:message()
    assert.same({ "1", true }, { payload, one.dup })
    assert.equal("2", select(2, again:message()))
  end)

  it("finds persistent sessions and retained messages again in a Lua state that replaces another", function()
    local s = run([[on_publish = function(_, m)
      if m.topic == "eat" then
        hoard = {}
        for i = 1, 1e7 do hoard[i] = { i } end
      end
    end]], nil, { conf = { loops = 2 }, limits = { memory = "32m" }, allow_errors = true, allow_failures = true })
    local ids, payload = {}, ("p"):rep(3000)
    for i = 1, 6 do
      local c = mqtt.connect(s.url, { id = "worker" .. i, clean = false })
      c:subscribe("jobs/#", 1)
      c:send(packet.disconnect)
      c:ended()
      ids[i] = "worker" .. i
    end
    local p = mqtt.connect(s.url, { id = "boss" })
    p:publish("kept", "value", 1, true)
    for i = 1, 5 do p:publish("jobs/" .. i, payload .. i, 1) end
    for i = 1, 4 do -- on both loops
      local eater = mqtt.open(s.url)
      eater:send(packet.connect { id = "eater" .. i, clean = true })
      eater:send(packet.publish("eat", "x", 1, 1))
      pcall(eater.ended, eater, 20)
      eater:close()
    end
    s:wait_log "replaced"
    for _, id in ipairs(ids) do
      local c, is_present
      assert.is_true(net.poll_until(function()
        local ok, one, there = pcall(mqtt.connect, s.url, { id = id, clean = false })
        c, is_present = one, there
        return ok
      end, 20))
      assert.is_true(is_present)
      for i = 1, 5 do
        local topic, text = c:message()
        assert.same({ "jobs/" .. i, payload .. i }, { topic, text })
      end
      c:subscribe("kept", 1)
      assert.equal("value", select(2, c:message()))
      c:ping()
    end
  end)
end)
