-- Bad packets of MQTT: decoded as the plain model decodes them, and sent to a broker, which others go on using. `make fuzz` and
-- `make model` run more of it: COUNT, SEED.

local LinkBuffer = require "rille.linkbuffer"
local model = require "spec.support.mqtt_model"
local mqtt = require "spec.support.mqtt"
local server, net, packet = mqtt.server, mqtt.net, mqtt.packet

local COUNT = tonumber(os.getenv "COUNT") or (net.is_sanitized and 2000 or 20000)
local SEED = tonumber(os.getenv "SEED") or os.time()
local MAX = 1000

-- What a body says by the codec and by the model; "bad" for nil.
local readers = {
  [packet.CONNECT] = {
    function(_, body)
      local out, err = packet.connect_of(body)
      return out or (err == "not supported" and "older" or "bad")
    end,
    function(_, body)
      local out, err = model.connect(body)
      return out or err
    end,
  },
  [packet.PUBLISH] = {
    function(flags, body)
      local topic, payload, id, qos, retain, dup = packet.publish_of(flags, body)
      return topic and { topic:str(), payload:str(), id or 0, qos, retain, dup } or "bad"
    end,
    function(flags, body)
      local topic, payload, id, qos, retain, dup = model.publish(flags, body)
      return topic and { topic, payload, id or 0, qos, retain, dup } or "bad"
    end,
  },
}
for _, kind in ipairs { packet.SUBSCRIBE, packet.UNSUBSCRIBE } do
  local has_qos = kind == packet.SUBSCRIBE
  readers[kind] = {
    function(_, body)
      local id, list = packet.filters_of(body, has_qos)
      return id and { id, list } or "bad"
    end,
    function(_, body)
      local id, list = model.filters(body, has_qos)
      return id and { id, list } or "bad"
    end,
  }
end

local ERRORS = { ["invalid argument"] = "bad", ["too large"] = "large" }

-- Compare for one stream of bytes, in a buffer of small blocks.
local function compare(bytes, where)
  local buffer = LinkBuffer.new(64)
  for at = 1, #bytes, 37 do buffer:write(bytes:sub(at, at + 36)) end
  buffer:flush()
  local at = 1
  while true do
    local want, want_flags, want_body, want_size = model.frame(bytes:sub(at), MAX)
    local kind, flags, body, size = packet.decode(buffer, MAX)
    if not kind then
      assert.equal(want, flags and ERRORS[flags] or "short", where)
      break
    end
    assert.same({ want, want_flags, want_body, want_size }, { kind, flags, body:str(), size }, where)
    local pair = readers[kind]
    if pair then assert.same(pair[2](want_flags, want_body), pair[1](flags, body), where) end
    buffer:skip(size)
    buffer:release()
    at = at + size
  end
  assert.equal(#bytes - at + 1, buffer:len(), where)
  buffer:close()
end

describe("bad packets of MQTT", function()
  after_each(server.cleanup)

  it("are decoded as by the model, SEED=" .. SEED, function()
    for i = 1, COUNT do
      math.randomseed(SEED * 1000003 % 2 ^ 31 + i)
      local bytes = model.packet()
      if i % 3 > 0 then bytes = model.spoil(bytes) end
      if i % 5 == 0 then bytes = bytes .. model.packet() end
      compare(bytes, ("COUNT=%d SEED=%d %q"):format(i, SEED, bytes))
    end
  end)

  it("end their own connection at most, SEED=" .. SEED, function()
    local s = server.run([[
      return require("rille.mqtt").broker { packet = 1000, connect_time = 2, sessions = 100000 }:handlers()
    ]], nil, { words = { "--loops", "2" } })
    local watcher = mqtt.connect(s.url, { id = "watcher" })
    watcher:subscribe("watched", 1)
    local speaker = mqtt.connect(s.url, { id = "speaker" })
    for i = 1, math.max(100, COUNT / 40) do
      math.randomseed(SEED * 1000003 % 2 ^ 31 + i)
      local bad = mqtt.open(s.url)
      local parts = {}
      if math.random(4) > 1 then parts[1] = packet.connect { id = "bad" .. math.random(20), clean = math.random(2) == 1 } end
      for _ = 1, math.random(6) do
        local one = model.packet()
        parts[#parts + 1] = math.random(3) == 1 and model.spoil(one) or one
      end
      pcall(bad.send, bad, table.concat(parts))
      local ending = math.random(3)
      if ending == 1 then
        bad:reset()
      elseif ending == 2 then
        bad.socket:shutdown_write()
        bad:ended(10)
        bad:close()
      else
        bad:close()
      end
      if i % 20 == 0 then
        speaker:publish("watched", tostring(i), 1)
        assert.equal(tostring(i), select(2, watcher:message()), "SEED=" .. SEED)
      end
    end
    watcher:close()
    speaker:close()
    s:wait_empty(2)
    assert.equal(0, s:count_log("level=error"))
  end)
end)
