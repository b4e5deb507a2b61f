-- Retained messages of rille.mqtt: what is kept stays, what is not leaves no name behind, and who subscribes gets them all.

local mqtt = require "spec.support.mqtt"
local reload = require "spec.support.reload"
local retained = require "rille.mqtt.retained"
local server, net, packet = mqtt.server, mqtt.net, mqtt.packet

local function script(options, version)
  return ("-- version %d\nreturn require('rille.mqtt').broker { %s }:handlers()\n"):format(version or 1, options or "")
end

-- Topics 1 to count, each acknowledged.
local function publish_all(s, count, size)
  local p = mqtt.connect(s.url, { id = "publisher" })
  local acked = 0
  local function one_more() acked = acked + 1 end
  for i = 1, count do
    p:send(packet.publish("t/" .. i, ("x"):rep(size), 1, i, true))
    p:each(one_more)
  end
  local deadline = net.deadline(20)
  while acked < count and net.now() < deadline do mqtt.turn({ p }, one_more) end
  assert.equal(count, acked)
  p:close()
end

-- What a client is given until it has `count` different ones: how often each came.
local function read_all(c, count, during)
  local seen, distinct = {}, 0
  local deadline = net.deadline(20)
  while distinct < count and net.now() < deadline do
    mqtt.turn({ c }, function(_, one)
      if one.kind ~= packet.PUBLISH then return end
      assert.is_true(one.retain)
      if not seen[one.topic] then distinct = distinct + 1 end
      seen[one.topic] = (seen[one.topic] or 0) + 1
      if one.qos > 0 then c:send(packet.reply(packet.PUBACK, one.id)) end
    end)
    if during then during(distinct) end
  end
  assert.equal(count, distinct)
  for topic, times in pairs(seen) do assert.equal(1, times, topic) end
end

local COUNT = 3000 -- far more than a window and a queue; with SIZE more than an output above which nothing is written
local SIZE = 600

describe("retained messages of MQTT", function()
  after_each(server.cleanup)

  it("stay when there is no room for others", function()
    for _, size in ipairs { "16k", "1m" } do
      local all, kept = retained.new("retained " .. size, size), {}
      for i = 1, 5000 do
        local topic = "topic/" .. i
        if all:keep(topic, ("p"):rep(10 + i % 300), 1) then kept[#kept + 1] = topic end
      end
      assert.is_true(#kept > 50 and #kept < 5000)
      for _, topic in ipairs(kept) do assert.is_string((all:get(topic)), topic) end
      assert.equal(5000 - #kept, all.refused)
      assert.is_true(all.values:free_space() < 1024) -- and none was refused while there was room
    end
  end)

  it("that have no room leave no name behind, on no loop", function()
    local s = reload.start(script "retained_size = '16k'", { conf = { loops = 2 } })
    publish_all(s, 2000, 1)
    for loop = 1, 2 do
      local text = reload.eval(s, loop, [[
        local broker = require("rille.mqtt.broker").find "mqtt"
        print(broker:stats().retained, #broker.retained.values:keys(0))]])
      local known, kept = text:match "(%d+)%s+(%d+)"
      assert.equal(kept, known)
      assert.is_true(tonumber(known) > 10 and tonumber(known) < 1000)
    end
  end)

  it("all come to who subscribes, with QoS 0, however slowly it reads", function()
    local s = reload.start(script(), { conf = { loops = 2 } })
    publish_all(s, COUNT, SIZE)
    local c = mqtt.connect(s.url, { id = "reader" }, { receive_buffer = 4096 })
    c:send(packet.subscribe(1, { { filter = "t/#", qos = 0 }, { filter = "t/+/none", qos = 0 } }))
    read_all(c, COUNT)
    c:ping()
  end)

  it("all come with QoS 1, once, with reloads meanwhile, and to a persistent session that breaks off", function()
    local s = reload.start(script(), { conf = { loops = 2 } })
    publish_all(s, COUNT, SIZE)
    local c = mqtt.connect(s.url, { id = "reader", clean = false })
    c:send(packet.subscribe(1, { { filter = "t/+", qos = 1 } }))
    local version = 1
    read_all(c, COUNT, function(distinct)
      if distinct < version * COUNT / 4 or version > 3 then return end
      version = version + 1
      reload.to(s, script("", version))
    end)
    assert.equal(4, version)
    c:ping()
    -- and the rest after a connection that broke off
    c:send(packet.subscribe(2, { { filter = "t/#", qos = 1 } }))
    c:expect(packet.SUBACK)
    local seen, distinct = {}, 0
    local function take()
      local topic = c:message()
      if not seen[topic] then distinct = distinct + 1 end
      seen[topic] = true
    end
    for _ = 1, 100 do take() end
    c:reset()
    c = mqtt.connect(s.url, { id = "reader", clean = false })
    while distinct < COUNT do take() end
  end)

  it("are not given any more after UNSUBSCRIBE", function()
    local s = reload.start(script(), { conf = { loops = 1 } })
    publish_all(s, 100, 1)
    local c = mqtt.connect(s.url, { id = "reader" })
    c:send(packet.subscribe(1, { { filter = "t/#", qos = 1 } }))
    c:expect(packet.SUBACK)
    c:send(packet.unsubscribe(2, { { filter = "t/#" } }))
    local list, one = {}, c:packet()
    while one.kind == packet.PUBLISH do
      list[#list + 1], one = one.id, c:packet()
    end
    assert.equal(packet.UNSUBACK, one.kind)
    assert.equal(20, #list)
    for _, id in ipairs(list) do c:send(packet.reply(packet.PUBACK, id)) end
    c:ping()
  end)
end)
