-- The codec of MQTT: what is written is read again, however it is cut; what is no MQTT is refused, as the standard says.

local LinkBuffer = require "rille.linkbuffer"
local packet = require "rille.mqtt.packet"

local function buffer_of(bytes)
  local buffer = LinkBuffer.new()
  buffer:write(bytes)
  buffer:flush()
  return buffer
end

-- Decode what these bytes begin with, and hand its body to fn: what that returns; or nil, err of decode.
local function read(bytes, fn, max)
  local buffer = buffer_of(bytes)
  local kind, flags, body, size = packet.decode(buffer, max or 2 ^ 28)
  if not kind then
    buffer:close()
    return nil, flags
  end
  local out = { fn(flags, body, kind, size) }
  buffer:close()
  return unpack(out, 1, 8)
end

local function connect(bytes)
  return read(bytes, function(_, body) return packet.connect_of(body) end)
end

-- A CONNECT from its parts.
local function raw_connect(name, level, flags, rest)
  local body = packet.u16(#name) .. name .. string.char(level, flags) .. "\0\60" .. rest
  return "\16" .. string.char(#body) .. body
end

local FULL = { id = "ann", clean = true, keep_alive = 60, username = "user", password = "pass\0word",
  will = { topic = "gone/ann", payload = "\0\1", qos = 2, retain = true } }

local EXAMPLES = {
  packet.connect(FULL), packet.connect { id = "", clean = true }, packet.connack(true, 0), packet.publish("a/b", "payload"),
  packet.publish("a/b", "", 1, 10), packet.publish("\195\188ber", ("x"):rep(300), 2, 65535, true, true),
  packet.reply(packet.PUBACK, 1), packet.reply(packet.PUBREL, 2), packet.subscribe(3, { { filter = "a/+", qos = 1 }, { filter = "#" } }),
  packet.suback(3, { 1, 0x80 }), packet.unsubscribe(4, { { filter = "#" } }), packet.pingreq, packet.pingresp, packet.disconnect,
}

describe("packets of MQTT", function()
  it("are read as they were written", function()
    local out = connect(packet.connect(FULL))
    assert.same(FULL, out)
    assert.same({ id = "", clean = false, keep_alive = 0 }, connect(packet.connect { id = "" }))
    local topic, payload, id, qos, retain, dup
    read(packet.publish("a/b", "text", 1, 7, true, true), function(flags, body)
      topic, payload, id, qos, retain, dup = packet.publish_of(flags, body)
      assert.equal("a/b", topic:str())
      assert.equal("text", payload:str())
    end)
    assert.same({ 7, 1, true, true }, { id, qos, retain, dup })
    read(packet.publish("t", ""), function(flags, body)
      topic, payload, id, qos, retain, dup = packet.publish_of(flags, body)
      assert.equal(0, payload:len())
      assert.same({ nil, 0, false, false }, { id, qos, retain, dup })
    end)
    read(EXAMPLES[9], function(_, body)
      assert.same({ 3, { { filter = "a/+", qos = 1 }, { filter = "#", qos = 0 } } }, { packet.filters_of(body, true) })
    end)
    read(EXAMPLES[11], function(_, body) assert.same({ 4, { { filter = "#" } } }, { packet.filters_of(body, false) }) end)
    read(packet.suback(9, { 0, 1, 0x80 }), function(_, body) assert.same({ 9, { 0, 1, 0x80 } }, { packet.suback_of(body) }) end)
    read(packet.connack(true, 5), function(_, body) assert.same({ true, 5 }, { packet.connack_of(body) }) end)
    for _, kind in ipairs { packet.PUBACK, packet.PUBREC, packet.PUBREL, packet.PUBCOMP, packet.UNSUBACK } do
      assert.same({ 300, kind }, { read(packet.reply(kind, 300), function(_, body, got) return packet.id_of(body), got end) })
    end
  end)

  it("are bytes as the standard has them", function()
    -- the examples of sections 2.2.3, 3.3 and 3.8
    assert.equal("\48\10\0\3a/b\0\10\1\2\3", (packet.publish("a/b", "\0\10\1\2\3")))
    assert.equal("\130\14\0\10\0\3a/b\1\0\3c/d\2", (packet.subscribe(10, { { filter = "a/b", qos = 1 }, { filter = "c/d", qos = 2 } })))
    for size, length in pairs { [0] = "\0", [127] = "\127", [128] = "\128\1", [16383] = "\255\127", [16384] = "\128\128\1" } do
      if size > 2 then assert.equal("\48" .. length, (packet.publish("", ("x"):rep(size - 2)):sub(1, 1 + #length))) end
    end
  end)

  it("are one after the other, however they come", function()
    local all = table.concat(EXAMPLES)
    for step = 1, 40 do
      local buffer, kinds = LinkBuffer.new(), {}
      for at = 1, #all, step do
        buffer:write(all:sub(at, at + step - 1))
        buffer:flush()
        while true do
          local kind, _, body, size = packet.decode(buffer, 2 ^ 20)
          if not kind then break end
          assert.equal(size - body:len() >= 2, true)
          kinds[#kinds + 1] = kind
          buffer:skip(size)
          buffer:release()
        end
      end
      assert.same({ 1, 1, 2, 3, 3, 3, 4, 6, 8, 9, 10, 12, 13, 14 }, kinds)
      assert.equal(0, buffer:len())
      buffer:close()
    end
  end)

  it("are waited for until they are whole, and nothing is consumed before", function()
    for _, bytes in ipairs(EXAMPLES) do
      for cut = 0, #bytes - 1 do
        local buffer = buffer_of(bytes:sub(1, cut))
        assert.same({ n = 1 }, { n = select("#", packet.decode(buffer, 1000)), (packet.decode(buffer, 1000)) })
        assert.equal(cut, buffer:len())
        buffer:close()
      end
    end
  end)

  it("are not copied", function()
    local buffer = buffer_of(packet.publish("topic", ("x"):rep(100000), 1, 1))
    local _, flags, body = packet.decode(buffer, 2 ^ 20)
    local topic, payload = packet.publish_of(flags, body)
    local from, there = body:ptr(), topic:ptr()
    assert.is_true(there == from + 2)
    assert.is_true(payload:ptr() == from + 2 + 5 + 2)
    buffer:close()
  end)

  it("that are too large are refused by their length", function()
    local bytes = packet.publish("a", ("x"):rep(200))
    assert.same({ nil, "too large" }, { read(bytes:sub(1, 3), nil, 100) })
    assert.equal(#bytes, (read(bytes, function(_, _, _, size) return size end, #bytes)))
    assert.same({ nil, "too large" }, { read(bytes, nil, #bytes - 1) })
    assert.has_error(function() packet.publish(("x"):rep(65536), "") end)
  end)

  it("of kinds 0 and 15, with other flags, or a fifth byte of length are none", function()
    for _, bytes in ipairs { "\0", "\240", "\17", "\130\128\128\128\128", "\128", "\138", "\96", "\193", "\225", "\66",
      "\48\255\255\255\255\1" } do
      assert.same({ nil, "invalid argument" }, { read(bytes) }, ("%q"):format(bytes))
    end
  end)

  it("CONNECT: of another protocol or version, with reserved flags, with bytes missing or too many", function()
    assert.same({ nil, "not supported" }, { connect(raw_connect("MQTT", 5, 2, "\0\0")) })
    assert.same({ nil, "not supported" }, { connect(raw_connect("MQIsdp", 3, 2, "\0\0")) })
    for what, bytes in pairs {
      name = raw_connect("HTTP", 4, 2, "\0\0"), reserved = raw_connect("MQTT", 4, 3, "\0\0"),
      will_qos = raw_connect("MQTT", 4, 2 + 8, "\0\0"), will_retain = raw_connect("MQTT", 4, 2 + 32, "\0\0"),
      qos_3 = raw_connect("MQTT", 4, 2 + 4 + 24, "\0\0\0\1a\0\1b"), password_alone = raw_connect("MQTT", 4, 2 + 64, "\0\0\0\1a"),
      short = raw_connect("MQTT", 4, 2, "\0"), cut = raw_connect("MQTT", 4, 2, "\0\5abc"), more = raw_connect("MQTT", 4, 2, "\0\0x"),
      no_will = raw_connect("MQTT", 4, 2 + 4, "\0\0"), no_name = "\16\1\0", bad_text = raw_connect("MQTT", 4, 2, "\0\1\255"),
      nul = raw_connect("MQTT", 4, 2, "\0\1\0"), user_missing = raw_connect("MQTT", 4, 2 + 128, "\0\0"),
    } do
      assert.same({ nil, "invalid argument" }, { connect(bytes) }, what)
    end
  end)

  it("PUBLISH: with QoS 3, DUP without QoS, no topic, no packet id, or bytes missing", function()
    for what, bytes in pairs {
      qos_3 = "\54\5\0\1a\0\1", dup = "\56\3\0\1a", no_topic = "\48\2\0\0", no_id = "\50\3\0\1a", zero = "\50\5\0\1a\0\0",
      cut = "\48\3\0\9a", nothing = "\48\0",
    } do
      assert.is_nil(read(bytes, function(flags, body) return packet.publish_of(flags, body) end), what)
    end
  end)

  it("SUBSCRIBE and UNSUBSCRIBE: without filters, with a bad QoS, or bytes missing", function()
    for what, bytes in pairs {
      none = "\130\2\0\1", zero = "\130\6\0\0\0\1a\0", qos = "\130\6\0\1\0\1a\3", no_qos = "\130\5\0\1\0\1a", cut = "\130\5\0\1\0\9a",
      short = "\130\1\0", text = "\130\6\0\1\0\1\255\0",
    } do
      assert.is_nil(read(bytes, function(_, body) return packet.filters_of(body, true) end), what)
    end
    assert.is_nil(read("\162\2\0\1", function(_, body) return packet.filters_of(body, false) end))
  end)

  it("take only UTF-8 for text", function()
    for _, good in ipairs { "", "a", "\127", "\194\128", "\223\191", "\224\160\128", "\237\159\191", "\238\128\128", "\239\191\191",
      "\240\144\128\128", "\244\143\191\191", "\239\187\191" } do
      assert.is_true(packet.is_text(good), ("%q"):format(good))
    end
    for _, bad in ipairs { "\0", "a\0b", "\128", "\192\128", "\193\191", "\224\159\191", "\237\160\128", "\240\143\191\191",
      "\244\144\128\128", "\245\128\128\128", "\194", "\224\160", "\240\144\128", "\194a", "\255", "\195\40" } do
      assert.is_false(packet.is_text(bad), ("%q"):format(bad))
    end
  end)
end)
