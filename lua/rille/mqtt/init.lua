-- mqtt: MQTT 3.1.1 for scripts: packets, topic filters, and a broker that runs on all loops. docs/mqtt.md describes it.

require "rille.pairs" -- first: before what walks

return {
  packet = require "rille.mqtt.packet",
  filter = require "rille.mqtt.filter",
  broker = require("rille.mqtt.broker").new,
}
