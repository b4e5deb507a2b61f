-- redis_http: Redis commands over HTTP, replies as JSON.
--
--   GET /GET/key                     200 {"result":"value"}; a segment is a word, %2F a slash in it
--   PUT /SET/key                     the body is the last word
--   POST / ["SET","key","value"]     also [["INCR","a"],["GET","b"]]: {"result":[1,"x"]}, the commands in one write
--   GET /SUBSCRIBE/channel/...       {"channel":...,"message":...}, a line each, until the client leaves
--
--   rille run scripts/redis_http.lua --listen http://127.0.0.1:8080 -- redis=redis://127.0.0.1:6379 allow=GET,SET,INCR
--   curl http://127.0.0.1:8080/GET/key

local rille = require "rille"

local options = ...
local json = rille.redis.json
local client = rille.redis { url = options.redis, timeout = tonumber(options.timeout) }
local wait = tonumber(options.wait) or 60 -- seconds that a command may take which waits, as BLPOP, and whose client may have left
local STATUS = { error = 400, timeout = 504, full = 503 } -- 502: the server is not there

local streams = setmetatable({}, { __mode = "k" }) -- subscriptions that are being sent
rille.on_shutdown(function() for one in pairs(streams) do one:close() end end)
local allowed = options.allow and {} -- without it: every command
for name in (options.allow or ""):gmatch "[^,]+" do allowed[name:upper()] = true end

local function reply(res, status, key, value)
  res.status = status
  res:header("Content-Type", "application/json")
  return res:send(('{"%s":%s}\n'):format(key, json(value)))
end

-- What the client returned, or raised, which is the fault of the command.
local function answer(res, ok, value, err, message)
  if not ok and type(value) ~= "string" then error(value, 0) end -- cancelled
  if not ok then return reply(res, 400, "error", (value:gsub("^.-:%d+: ", ""))) end
  if err then return reply(res, STATUS[err] or 502, "error", message or err) end
  return reply(res, 200, "result", value)
end

local function problem_of(words)
  if type(words) ~= "table" or type(words[1]) ~= "string" then return 400, "a command is a list of words" end
  if allowed and not allowed[words[1]:upper()] then return 403, "this command is not allowed" end
end

local function stream(res, words)
  local messages, err, message = client:subscribe(unpack(words, 2))
  if not messages then return reply(res, STATUS[err] or 502, "error", message or err) end
  streams[messages] = true
  res:header("Content-Type", "application/x-ndjson")
  local ok = res:write ""
  while ok do
    local channel, text = messages:next(15)
    if not channel and text ~= "timeout" then break end
    ok = res:write(channel and ('{"channel":%s,"message":%s}\n'):format(json(channel), json(text)) or "\n") -- is anybody there?
  end
  return messages:close()
end

local function words_of(req)
  local words = {}
  for word in req.target:match("^[^?]*"):gmatch "/([^/]+)" do
    words[#words + 1] = word:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  end
  local body = req.method ~= "PUT" or req:body() -- nil: it never came, and the server has answered
  if req.method == "PUT" then words[#words + 1] = body and body:str() end
  return body and words
end

return function(req, res)
  local words
  if req.method == "POST" then words = req:json() else words = words_of(req) end
  local is_batch = type(words) == "table" and type(words[1]) == "table"
  for _, one in ipairs(is_batch and words or { words or false }) do
    local status, problem = problem_of(one)
    if problem then return reply(res, status, "error", problem) end
  end
  if not is_batch and words[1]:upper() == "SUBSCRIBE" and words[2] then return stream(res, words) end
  if not is_batch then return answer(res, pcall(rille.with_timeout, wait, client.call, client, unpack(words))) end
  return answer(res, pcall(client.pipeline, client, function(p)
    for _, one in ipairs(words) do p:call(unpack(one)) end
  end))
end
