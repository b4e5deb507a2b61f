-- commands: where the keys of Redis commands stand; for what has to know which server a command belongs to. What is not here has no keys,
-- or keys that can only be found by whoever carries it out.

local commands = {}

-- first, last, step: words, the name being word 0; a negative last counts from the end. numkeys: the word that says how many follow it.
local LISTS = {
  { "1 1 1", [[
    APPEND BITCOUNT BITFIELD BITFIELD_RO BITPOS DECR DECRBY DUMP EXPIRE EXPIREAT EXPIRETIME GEOADD GEODIST GEOHASH GEOPOS GEOSEARCH GET
    GETBIT GETDEL GETEX GETRANGE GETSET HDEL HEXISTS HGET HGETALL HINCRBY HINCRBYFLOAT HKEYS HLEN HMGET HMSET HRANDFIELD HSCAN HSET HSETNX
    HSTRLEN HVALS INCR INCRBY INCRBYFLOAT LINDEX LINSERT LLEN LPOP LPOS LPUSH LPUSHX LRANGE LREM LSET LTRIM PERSIST PEXPIRE PEXPIREAT
    PEXPIRETIME PFADD PSETEX PTTL RESTORE RPOP RPUSH RPUSHX SADD SCARD SET SETBIT SETEX SETNX SETRANGE SISMEMBER SMEMBERS SMISMEMBER SPOP
    SRANDMEMBER SREM SSCAN STRLEN SUBSTR TTL TYPE XACK XADD XAUTOCLAIM XCLAIM XDEL XLEN XPENDING XRANGE XREVRANGE XTRIM ZADD ZCARD ZCOUNT
    ZINCRBY ZLEXCOUNT ZMSCORE ZPOPMAX ZPOPMIN ZRANDMEMBER ZRANGE ZRANGEBYLEX ZRANGEBYSCORE ZRANK ZREM ZREMRANGEBYLEX ZREMRANGEBYRANK
    ZREMRANGEBYSCORE ZREVRANGE ZREVRANGEBYLEX ZREVRANGEBYSCORE ZREVRANK ZSCAN ZSCORE]] },
  { "1 -1 1", "DEL EXISTS MGET PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SUNION SUNIONSTORE TOUCH UNLINK" },
  { "1 -1 2", "MSET MSETNX" },
  { "1 2 1", "COPY GEOSEARCHSTORE LCS LMOVE RENAME RENAMENX RPOPLPUSH SMOVE ZRANGESTORE" },
  { "2 -1 1", "BITOP" },
  { "2 2 1", "OBJECT XGROUP XINFO" },
  { "2 2 1 1", "LMPOP SINTERCARD ZDIFF ZINTER ZINTERCARD ZMPOP ZUNION" },
  { "1 1 1 2", "ZDIFFSTORE ZINTERSTORE ZUNIONSTORE" },
  { "3 3 1 2", "EVAL EVALSHA EVALSHA_RO EVAL_RO FCALL FCALL_RO" },
}

-- By name: { first =, last =, step =, numkeys = }.
commands.keys = {}
for _, list in ipairs(LISTS) do
  local first, last, step, numkeys = list[1]:match "^(%d+) (-?%d+) (%d+) ?(%d*)$"
  local keys = { first = tonumber(first), last = tonumber(last), step = tonumber(step), numkeys = tonumber(numkeys) or 0 }
  for name in list[2]:gmatch "%S+" do commands.keys[name] = keys end
end

local function set(names)
  local out = {}
  for name in names:gmatch "%S+" do out[name] = true end
  return out
end

-- Those that keep a connection to themselves: it waits, or is in a state that is the caller's, or they have no reply (REPLCONF ACK).
commands.blocking = set [[
  BLMOVE BLMPOP BLPOP BRPOP BRPOPLPUSH BZMPOP BZPOPMAX BZPOPMIN WAIT WAITAOF XREAD XREADGROUP]]
commands.stateful = set [[
  ASKING AUTH CLIENT|REPLY DISCARD EXEC HELLO MONITOR MULTI PSUBSCRIBE PSYNC PUNSUBSCRIBE QUIT READONLY READWRITE REPLCONF RESET
  SCRIPT|DEBUG SELECT SSUBSCRIBE SUBSCRIBE SUNSUBSCRIBE SYNC UNSUBSCRIBE UNWATCH WATCH]]

function commands.is_stateful(name, words)
  if commands.stateful[name] then return true end
  return words[2] ~= nil and commands.stateful[name .. "|" .. words[2]:upper()] or false
end

-- The first key among the words of a command (the name being the first of them); nil: it has none, or none that can be found.
function commands.first_key(name, words)
  local keys = commands.keys[name]
  if not keys then return nil end
  local at = keys.first
  if keys.numkeys > 0 and keys.numkeys < at then
    local count = tonumber(words[keys.numkeys + 1])
    if not count or count < 1 then return nil end
  end
  return words[at + 1]
end

return commands
