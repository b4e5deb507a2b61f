-- The broker of scripts/mqtt_broker.lua under reloads: 1,000 subscribers, QoS 1, and no message is lost, late or out of order.

local mqtt = require "spec.support.mqtt"
local reload = require "spec.support.reload"
local server, net, packet = mqtt.server, mqtt.net, mqtt.packet

local SUBSCRIBERS = net.is_sanitized and 100 or 1000
local PUBLISHERS = 4
local RELOADS = 20
local MOSQUITTOS = 3
local WINDOW = 2
local LAG = 100 -- messages that the slowest may be behind: a session's queue holds 1000, and drops the rest

local function source(version)
  return ("-- version %d\n"):format(version) .. server.read(server.root .. "/scripts/mqtt_broker.lua")
end

local function begin(s)
  local c = server.client.connect("unix://" .. s.socket)
  local code = "print(require('rille.reload').answer { wait = true })"
  c:send(("eval loop=0 timeout=120000 size=%d\n%s"):format(#code, code))
  return c
end

local function finish(c)
  local text = c:receive_all(60)
  c:close()
  assert.matches('"ok":%s*true', (text:gsub("\\", "")))
end

-- A publisher sends numbers, up to WINDOW ahead of their PUBACKs, while nobody is too far behind.
local function publisher(s, n)
  local c = mqtt.connect(s.url, { id = "publisher " .. n })
  c.topic, c.sent, c.acked = "load/" .. n, 0, 0
  c.is_publisher = true
  return c
end

local function publish(c)
  c.sent = c.sent + 1
  c:send(packet.publish(c.topic, tostring(c.sent), 1, c:id()))
end

-- One that acknowledges late, breaks off when some of its messages are not acknowledged, and comes back. The server has had the
-- acknowledgements that were sent before the ping it has answered.
local KEPT, ACKED = 6, 4

local function acknowledge(c, count)
  for _ = 1, count do c:send(packet.reply(packet.PUBACK, table.remove(c.pending, 1).id)) end
end

local function may_leave(c)
  if c.is_leaving or #c.pending < KEPT then return end
  acknowledge(c, ACKED)
  c.is_leaving = true
  c:send(packet.pingreq)
end

local function leave(s, c)
  for _, one in ipairs(c.again) do c.pending[#c.pending + 1] = one end -- that have not come again yet
  c.again, c.pending, c.is_leaving, c.breaks = c.pending, {}, false, c.breaks + 1
  c:come_back(s.url, { id = c.name, clean = false })
end

-- A repeat has to be the DUP of the first that was not acknowledged, with its packet id.
local function note_repeat(c, one, number)
  local first = table.remove(c.again, 1)
  if not first or first.topic ~= one.topic or first.number ~= number or first.id ~= one.id or not one.dup then
    return ("%s: %s %d came again as %d, dup %s; %s to come again"):format(c.name, one.topic, number, one.id, tostring(one.dup),
      first and ("%s %d as %d was"):format(first.topic, first.number, first.id) or "nothing was")
  end
end

-- Numbers of each topic rise by one.
local function note(c, one, faults)
  local last, number = c.last[one.topic] or 0, tonumber(one.payload)
  local fault
  if number == last + 1 then
    c.last[one.topic] = number
    c.count = c.count + 1
    if #c.again > 0 then fault = "a message came before one that had not been acknowledged" end
  elseif number <= last then
    fault = note_repeat(c, one, number)
  else
    fault = ("%s: %d after %d"):format(one.topic, number, last)
  end
  faults[#faults + 1] = fault
  c.pending[#c.pending + 1] = { topic = one.topic, number = number, id = one.id }
end

local function subscriber(s, i)
  local c = mqtt.connect(s.url, { id = "subscriber " .. i, clean = i % 2 == 0 })
  c:subscribe("load/#", 1)
  c.name, c.last, c.pending, c.again, c.breaks, c.count = "subscriber " .. i, {}, {}, {}, 0, 0
  c.is_flaky = i % 50 == 1
  return c
end

-- For a failure: who has not got what.
local function what_is_missing(clients, sent, faults)
  local lines = { "not every message came:" }
  for i = 1, SUBSCRIBERS do
    local c = clients[i]
    for topic, count in pairs(sent) do
      if c.last[topic] ~= count or #c.again > 0 then
        lines[#lines + 1] = ("%s: %s of %d of %s, %d are to come again, broke off %d times"):format(c.name, tostring(c.last[topic]), count,
          topic, #c.again, c.breaks)
      end
    end
  end
  for _, fault in ipairs(faults) do lines[#lines + 1] = fault end
  return table.concat(lines, "\n", 1, math.min(#lines, 20)) .. "\n"
end

describe("an MQTT broker that is reloaded", function()
  after_each(server.cleanup)

  it("gives every message to 1,000 subscribers at least once, none after its ack, in order", function()
    net.raise_descriptor_limit()
    local s = reload.start(source(0), { conf = { loops = 2 }, limits = { max_connections = 5000 } })
    local clients, faults = {}, {}
    for i = 1, SUBSCRIBERS do
      clients[i] = subscriber(s, i)
    end
    local others = {}
    for i = 1, MOSQUITTOS do
      others[i] = mqtt.mosquitto("sub", s, "-t", "load/+", "-q", "1", "-v", "-i", "mosquitto " .. i, "-c", "-t", "end")
    end
    assert.is_true(net.poll_until(function() -- they have subscribed
      local count = 0
      for i = 1, 2 do
        count = count + tonumber(reload.eval(s, i, [[print(require("rille.mqtt.broker").find("mqtt"):stats().subscriptions)]]))
      end
      return count == SUBSCRIBERS + 2 * MOSQUITTOS
    end))
    for i = 1, PUBLISHERS do clients[#clients + 1] = publisher(s, i) end
    local is_over = false
    local function heard(c, one)
      if one.kind == packet.PUBACK then
        c.acked = c.acked + 1
      elseif one.kind == packet.PUBLISH then
        note(c, one, faults)
        if not c.is_flaky or is_over then acknowledge(c, #c.pending) else may_leave(c) end
      elseif one.kind == packet.PINGRESP then
        if is_over then c.is_leaving = false else leave(s, c) end
      else
        assert.same({ packet.CONNACK, true, 0 }, { one.kind, one.is_present, one.code })
      end
    end
    local function turn()
      mqtt.turn(clients, heard)
      local slowest, total = math.huge, 0
      for i, c in ipairs(clients) do
        if i <= SUBSCRIBERS then slowest = math.min(slowest, c.count) else total = total + c.sent end
      end
      for i = SUBSCRIBERS + 1, #clients do
        local c = clients[i]
        while not is_over and c.sent < c.acked + WINDOW and total < slowest + LAG do
          publish(c)
          total = total + 1
        end
      end
    end
    for version = 1, RELOADS do
      reload.put(source(version))
      local pending = begin(s)
      repeat turn() until net.wait(pending.fd, net.POLLIN, net.now())
      finish(pending)
      for _ = 1, 3 do turn() end
    end
    is_over = true
    for _, c in ipairs(clients) do
      if c.is_flaky then acknowledge(c, #c.pending) end
    end
    local sent = {}
    local deadline = net.deadline(60)
    local function is_complete()
      for i = SUBSCRIBERS + 1, #clients do
        if clients[i].acked ~= clients[i].sent then return false end
        sent[clients[i].topic] = clients[i].sent
      end
      for i = 1, SUBSCRIBERS do
        for topic, count in pairs(sent) do
          if clients[i].last[topic] ~= count or #clients[i].again > 0 then return false end
        end
      end
      return true
    end
    while not is_complete() do
      turn()
      if net.now() > deadline then error(what_is_missing(clients, sent, faults) .. s:tail(), 0) end
    end
    assert.same({}, faults)
    -- mosquitto's own clients have the same
    for _, one in ipairs(others) do
      local function complete()
        local last = {}
        for topic, number in one:log():gmatch("(load/%d+) (%d+)\n") do
          number = tonumber(number)
          if number > (last[topic] or 0) + 1 then error(("mosquitto_sub: %s: %d after %s"):format(topic, number, last[topic]), 0) end
          last[topic] = math.max(number, last[topic] or 0)
        end
        for topic, count in pairs(sent) do
          if last[topic] ~= count then return false end
        end
        return true
      end
      assert.is_true(net.poll_until(complete, 20))
    end
    local total = 0
    for _, count in pairs(sent) do total = total + count end
    local breaks = 0
    for i = 1, SUBSCRIBERS do breaks = breaks + clients[i].breaks end
    if os.getenv "RILLE_ROUNDS" then
      io.stderr:write(("mqtt_reload: %d messages to %d clients, which broke off %d times\n"):format(total, SUBSCRIBERS, breaks))
    end
    assert.is_true(total >= RELOADS and breaks > 0)
    reload.wait_retired(s)
    assert.equal(0, s:count_log("level=error"))
    for _, one in ipairs(clients) do one:close() end
  end)
end)
