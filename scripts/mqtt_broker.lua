-- mqtt_broker: an MQTT 3.1.1 broker on all loops: QoS 0 and 1, retained messages, wills, keep-alive, persistent sessions, wildcards.
--
--   rille run scripts/mqtt_broker.lua --listen tcp://127.0.0.1:1883 -- password=secret
--   mosquitto_sub -p 1883 -u ann -P secret -t 'home/#' -q 1 &
--   mosquitto_pub -p 1883 -u ann -P secret -t home/kitchen -m 21.5 -q 1
--
-- Without a password everybody may connect. What else may be set, limits above all, is in docs/mqtt.md.

local rille = require "rille"
local mqtt = require "rille.mqtt"

local options = ...
local BAD_CREDENTIALS = 4

-- client: id, username, password, peer, clean, keep_alive. May park: ask a database, if you have one.
local function authenticate(client)
  if options.password and client.password ~= options.password then return false, BAD_CREDENTIALS end
  return true
end

-- action: "publish" or "subscribe" (topic is a filter then). To from/NAME/... the user of that name alone publishes.
local function authorize(client, topic, action)
  local name = action == "publish" and topic:match("^from/([^/]*)")
  return not name or name == client.username
end

local broker = mqtt.broker {
  name = options.name or "mqtt",
  authenticate = authenticate,
  authorize = authorize,
  packet = options.packet, -- bytes, "256k" unless said
  slow = options.slow,     -- "drop" or "disconnect"
}

-- Numbers of the first loop, for whoever has subscribed to $SYS/#.
rille.every(10, function()
  for key, value in pairs(broker:stats()) do
    broker:publish("$SYS/broker/" .. key, tostring(value), { retain = true })
  end
end, { once_per_process = true })

return broker:handlers()
