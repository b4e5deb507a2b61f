-- How a proxy finds commands, their keys and their shards (core/redis.c), beside a model of it in Lua: the same from every random input,
-- whole, cut at each place and byte by byte. `make model COUNT=1000000` compares more; a failure names the seed.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local checksum = require "rille.checksum"
local codec = require "rille.codec"
local commands = require "rille.redis.commands"

local seed = tonumber(os.getenv "SEED") or os.time() % 2 ^ 31
local count = (tonumber(os.getenv "COUNT") or 100000) / 50 -- each is cut at every place

local random = math.random
local MAX, SHARDS = 120, 3
local RUN, OTHER = C.RILLE_REDIS_RUN, C.RILLE_REDIS_OTHER

local route = ffi.gc(C.rille_redis_route_new(), C.rille_redis_route_free)
for i = 1, SHARDS do
  assert(C.rille_redis_route_assign(route, math.floor((i - 1) * 16384 / SHARDS), math.floor(i * 16384 / SHARDS) - 1, i - 1) == 0)
end
for name, keys in pairs(commands.keys) do
  assert(C.rille_redis_route_add(route, name, #name, ffi.new("rille_redis_keys", keys)) == 0)
end

-- ---- the model -------------------------------------------------------------------------------------------------

local function slot_of(key)
  local tag = key:match "{([^}]*)}"
  if tag and key:find("{", 1, true) and tag ~= "" and not key:match "^[^{]*{}" then key = tag end
  return checksum.crc16(key, "xmodem") % 16384
end

local function shard_of(slot)
  for i = 1, SHARDS do
    if slot < math.floor(i * 16384 / SHARDS) then return i - 1 end
  end
end

-- The words that are keys; nil: they cannot be told.
local function keys_of(words)
  local k = commands.keys[words[1]:upper()]
  if not k or #words <= k.first then return nil end
  local out = {}
  if k.numkeys > 0 then
    local n = words[k.numkeys + 1]
    if not n then return k.first < k.numkeys and { words[k.first + 1] } or nil end -- the server says what is missing
    if not n:find "^%d+$" or #n > 10 or tonumber(n) > #words - k.numkeys - 1 then return nil end
    if k.first < k.numkeys then out[1] = words[k.first + 1] end
    for i = 1, tonumber(n) do out[#out + 1] = words[k.numkeys + 1 + i] end
    return out
  end
  local last = k.last < 0 and #words + k.last or k.last
  if last > #words - 1 then return nil end
  for i = k.first, math.max(last, k.first), k.step do out[#out + 1] = words[i + 1] end
  return out
end

local function target_of(words)
  local shard
  for _, key in ipairs(keys_of(words) or {}) do
    local mine = shard_of(slot_of(key))
    if shard and mine ~= shard then return OTHER end
    shard = mine
  end
  return shard and RUN + shard or OTHER
end

-- number, what follows; nil, nil: more is wanted; nil, err
local function line(s, at, mark, max)
  if at > #s then return nil end
  if s:sub(at, at) ~= mark then return nil, "invalid" end
  local digits = s:match("^%d*", at + 1)
  if #digits > 10 then return nil, "invalid" end
  local after = at + 1 + #digits
  if after > #s then return nil end
  if s:sub(after, after) ~= "\r" then return nil, "invalid" end
  if after + 1 > #s then return nil end
  if digits == "" or s:sub(after + 1, after + 1) ~= "\n" then return nil, "invalid" end
  if tonumber(digits) > max then return nil, "too large" end
  return tonumber(digits), after + 2
end

-- One command at the front: its words, its size; nil, nil; nil, err.
local function command_of(s)
  s = s:sub(1, MAX)
  if s == "" then return nil end
  if s:sub(1, 1) ~= "*" then return nil, "not supported" end
  local n, at = line(s, 1, "*", 2 ^ 20)
  if not n then
    if not at and #s + 1 > MAX then return nil, "too large" end
    return nil, at
  end
  if n == 0 then return nil, "invalid" end
  local words = {}
  for i = 1, n do
    local size, from = line(s, at, "$", MAX)
    if not size then
      if not from and #s + 1 > MAX then return nil, "too large" end
      return nil, from
    end
    if from + size + 1 > #s then
      if from + size + 1 > MAX then return nil, "too large" end
      return nil
    end
    if s:sub(from + size, from + size + 1) ~= "\r\n" then return nil, "invalid" end
    words[i] = s:sub(from, from + size - 1)
    at = from + size + 2
  end
  if at - 1 > MAX then return nil, "too large" end
  return words, at - 1
end

-- A list of { target, bytes }, the error, what is left.
local function model(s)
  local out = {}
  while true do
    local words, size = command_of(s)
    if not words then return out, size, s end
    out[#out + 1] = { target_of(words), s:sub(1, size) }
    s = s:sub(size + 1)
  end
end

-- ---- what is there ---------------------------------------------------------------------------------------------

local ERRORS = { [C.RILLE_ERR_TOO_LARGE] = "too large", [C.RILLE_ERR_INVALID] = "invalid", [C.RILLE_ERR_NOT_SUPPORTED] = "not supported" }
local scratch = ffi.new "rille_slice[1]"

-- The same; runs stand as { target, bytes, commands }.
local function found_in(pieces)
  local buffer, wait, out, err = LinkBuffer.new(1), ffi.new "rille_redis_wait", {}, nil
  for _, piece in ipairs(pieces) do
    local other = LinkBuffer.new(1) -- a block of its own
    other:write(piece)
    other:flush()
    buffer:append(other)
    other:close()
    while not err do
      local code = C.rille_redis_take_commands(route, wait, buffer, MAX, scratch)
      if code == 0 then break end
      if code < 0 then
        err = ERRORS[code]
      else
        local many = code >= RUN
        out[#out + 1] = { many and RUN + code % RUN or code, ffi.string(scratch[0].base_, scratch[0].size_),
          many and math.floor(code / RUN) or 1 }
        buffer:release()
      end
    end
  end
  local left = buffer:len()
  buffer:close()
  return out, err, left
end

local function check(s, pieces)
  local expected, expected_err, rest = model(s)
  local runs, err, left = found_in(pieces)
  local at = 1
  for _, run in ipairs(runs) do
    local bytes = {}
    for _ = 1, run[3] do
      local one = expected[at] or { "nothing", "" }
      if one[1] ~= run[1] then error(("command %d goes to %s, not %s"):format(at, tostring(run[1]), tostring(one[1]))) end
      bytes[#bytes + 1] = one[2]
      at = at + 1
    end
    assert(table.concat(bytes) == run[2], "other bytes")
  end
  assert(at == #expected + 1, "commands are missing")
  if err ~= expected_err then error(("error %s, not %s"):format(tostring(err), tostring(expected_err))) end
  assert(left == #rest or err, "other bytes are left")
end

-- ---- inputs ----------------------------------------------------------------------------------------------------

local NAMES = { "GET", "set", "MGET", "mset", "DEL", "RENAME", "EVAL", "ZUNIONSTORE", "BITOP", "OBJECT", "LMPOP", "PING", "x", "" }
local WORDS = { "a", "b", "{a}b", "{b}c", "{}a", "{a", "a}", "0", "1", "2", "3", "12345678901", "-1", "", "\r\n" }

local function pick(list) return list[random(#list)] end

local function one_command()
  local out = { pick(NAMES) }
  for i = 1, random(0, 5) do out[i + 1] = pick(WORDS) end
  local text = { ("*%d\r\n"):format(#out) }
  for i, word in ipairs(out) do text[i + 1] = ("$%d\r\n%s\r\n"):format(#word, word) end
  return table.concat(text)
end

local function input()
  local out = {}
  for i = 1, random(1, 4) do out[i] = one_command() end
  local s = table.concat(out)
  if random(3) > 1 then return s end
  local at = random(#s)
  local middle = random(3) == 1 and "" or string.char(pick { 0, 10, 13, 36, 42, 45, 48, 57, 255, random(0, 255) })
  return s:sub(1, at - 1) .. middle .. s:sub(at + random(0, 1))
end

describe("routes of Redis commands", function()
  it("are those of the model, however the bytes are cut", function()
    math.randomseed(seed)
    for i = 1, count do
      local s = input()
      codec.test.each_split(s, function(pieces)
        local ok, err = pcall(check, s, pieces)
        if not ok then error(("SEED=%d input %d %q in %d pieces: %s"):format(seed, i, s, #pieces, tostring(err)), 0) end
      end)
    end
  end)

  it("know the slots of the specification", function()
    for key, slot in pairs { ["123456789"] = 12739, foo = 12182, ["{foo}bar"] = 12182, ["a{foo}{bar}"] = 12182, [""] = 0,
      ["{}foo"] = slot_of "{}foo" } do
      assert.equal(slot, C.rille_redis_slot(key, #key), key)
    end
  end)

  it("gather commands of one shard, of one piece", function()
    local get = "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
    local runs = found_in { get:rep(10) .. get:gsub("a\r\n$", "b\r\n") .. get }
    assert.same({ 10, 1, 1 }, { runs[1][3], runs[2][3], runs[3][3] })
  end)

  it("take values of replies as far as they are whole", function()
    local resp = codec.resp { max = 100 }
    local decoder = ffi.gc(C.rille_decoder_new(resp._p), C.rille_decoder_free)
    local buffer = LinkBuffer.new()
    buffer:write "+OK\r\n:1\r\n*1\r\n$1\r\na\r\n$5\r\nhel"
    buffer:flush()
    assert.equal(2, C.rille_redis_take_values(decoder, buffer, 2, scratch))
    assert.equal("+OK\r\n:1\r\n", ffi.string(scratch[0].base_, scratch[0].size_))
    assert.equal(1, C.rille_redis_take_values(decoder, buffer, 5, scratch))
    assert.equal(0, C.rille_redis_take_values(decoder, buffer, 5, scratch))
    buffer:write "lo\r\n$x"
    buffer:flush()
    assert.equal(1, C.rille_redis_take_values(decoder, buffer, 5, scratch))
    assert.equal(0, C.rille_redis_take_values(decoder, buffer, 5, scratch))
    buffer:write "\r\n"
    buffer:flush()
    assert.equal(C.RILLE_ERR_INVALID, C.rille_redis_take_values(decoder, buffer, 5, scratch))
    buffer:close()
  end)

  it("look at another buffer anew, however far that one has come", function()
    local decoder = ffi.gc(C.rille_decoder_new(codec.resp { max = 100 }._p), C.rille_decoder_free)
    for _, text in ipairs { "$-1\r\n", "$3\r\nabc\r\n", "+OK\r\n:1\r\n", ":5\r\n" } do
      local buffer = LinkBuffer.new() -- as a loop's, which lends them to connections as long as there are bytes
      buffer:write(text)
      buffer:flush()
      assert.is_true(C.rille_redis_take_values(decoder, buffer, 5, scratch) > 0)
      assert.equal(text, ffi.string(scratch[0].base_, scratch[0].size_))
      buffer:close()
    end
  end)

  it("refuse what is none", function()
    local keys = ffi.new("rille_redis_keys", { first = 1, last = 1, step = 1 })
    assert.equal(C.RILLE_ERR_EXISTS, C.rille_redis_route_add(route, "GET", 3, keys))
    assert.equal(C.RILLE_ERR_INVALID, C.rille_redis_route_add(route, "", 0, keys))
    assert.equal(C.RILLE_ERR_INVALID, C.rille_redis_route_add(route, ("X"):rep(24), 24, keys))
    assert.equal(C.RILLE_ERR_INVALID, C.rille_redis_route_add(route, "X", 1, ffi.new("rille_redis_keys", { first = 1, step = 0 })))
    assert.equal(C.RILLE_ERR_INVALID, C.rille_redis_route_assign(route, 0, 16384, 0))
    assert.equal(C.RILLE_ERR_INVALID, C.rille_redis_route_assign(route, 0, 1, 1024))
  end)
end)
