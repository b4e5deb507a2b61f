-- redis_proxy: one address for several Redis servers. Keys are spread over them by their hash slot (what stands between braces is hashed
-- alone, as in Redis Cluster), pipelining is kept, MGET, MSET, DEL, EXISTS, TOUCH and UNLINK are split by key.
--
--   rille run scripts/redis_proxy.lua --listen tcp://127.0.0.1:6380 -- shards=redis://127.0.0.1:6379,redis://127.0.0.1:6381
--   redis-cli -p 6380 set k v
--   redis-benchmark -p 6380 -t set,get -c 50 -n 200000 -P 16

local rille = require "rille"

local options = ...
local shards = {}
for address in (options.shards or "redis://127.0.0.1:6379"):gmatch "[^,]+" do shards[#shards + 1] = address end

return rille.redis.shard {
  shards = shards,
  connections = tonumber(options.connections), -- to each server, from each loop
  timeout = tonumber(options.timeout), -- seconds for a reply
  max_pending = tonumber(options.max_pending), -- commands of a client under way
  max_command = options.max_command, -- bytes; above limits.max_input of the server it has no effect
  max_reply = options.max_reply,
  max_output = options.max_output, -- bytes that a client has not taken
}
