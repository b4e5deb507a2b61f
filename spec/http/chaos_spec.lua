-- Requests and handlers that do anything at any time, at random but the same each time for a seed, right and wrong bytes mixed.
-- Nothing may crash, hang or be left behind, each connection comes to exactly one end, and honest clients get their own answers.
-- SEEDS=100 SEED=1000 in the environment: so many runs, with seeds behind that one.

local http = require "spec.support.http"
local server, net = http.server, http.net

local SCRIPT = [[
local options = ...
math.randomseed(options.seed)
local random = math.random
local LinkBuffer = require "rille.linkbuffer"

local held = {} -- requests and connections that other handlers may touch

local function any(list)
  return list[random(#list)]
end

local function stream(conn)
  local choice = random(6)
  if choice == 1 then conn:write(conn:next(conn:len()))
  elseif choice == 2 then conn:read_line(100)
  elseif choice == 3 then conn:skip(conn:len())
  elseif choice == 4 then rille.sleep(random() * 0.003)
  elseif choice == 5 then conn:close()
  else error "chaos" end
end

local acts
local function act(req, res, depth)
  return acts[random(#acts)](req, res, depth or 0)
end

acts = {
  function(req) req:body() end,
  function(req) local body = req:body() if body and body:len() > 0 then body:byte(body:len()) end end,
  function(req) req:read(random(1, 3000)) end,
  function(req) for _ = 1, random(30) do if not req:read(random(1, 300)) then break end end end,
  function(req) repeat local piece = req:read() until not piece end,
  function(req) return req.path, req.target, req.host, req.version, req.remote, req.method end,
  function(req) local all = req:headers() return all.host end,
  function(req) local x = req:header "x" if x then x:retain() rille.sleep(0) x:len() x:release() end end,
  function(req) return req:query(), req:query "a", req.query:len() end,
  function(req) req:json() end,
  function(_, res) res.status = any { 200, 201, 204, 304, 404, 500 } end,
  function(_, res) res:header("X-" .. random(5), ("v"):rep(random(0, 300))) end,
  function(_, res) res:header("X-" .. random(5), any { false, { "a", "b" }, 12 }) end,
  function(_, res) res:header("Content-Length", random(0, 3000)) end,
  function(_, res) if random(5) == 1 then res:header("Connection", "close") end end,
  function(_, res) res:send(("s"):rep(random(0, 5000))) end,
  function(_, res) res:send(("S"):rep(random(0, 300000))) end,
  function(req, res) res:send(req:header "host") end,
  function(req, res) local body = req:body() if body then res:send(body) end end,
  function(_, res) for _ = 1, random(10) do res:write(("w"):rep(random(0, 2000))) end end,
  function(_, res) res:write(("W"):rep(random(0, 200000))) end,
  function(req, res) local piece = req:read() if piece then res:write(piece) end end,
  function(_, res)
    local buffer = LinkBuffer.new()
    buffer:write(("b"):rep(random(0, 20000)))
    buffer:flush()
    res[any { "send", "write" }](res, buffer)
    buffer:close()
  end,
  function(_, res) res:flush() end,
  function(_, res) res:json { random(), "x" } end,
  function(_, res) res:file(options.file, random(3) == 1 and { type = "a/b" } or nil) end,
  function(_, res) res:file(options.file .. "none") end,
  function(_, res)
    if random(4) > 1 then return end
    local conn = res:upgrade "chaos"
    if conn and random(4) > 1 then conn:on_request(stream) end
    if conn and random(3) == 1 then stream(conn) end
  end,
  function() rille.sleep(random() * 0.003) end,
  function() rille.yield() end,
  function(req) req.conn:release() end,
  function(req) req.conn:flush() end,
  function(req) req.ctx.x = random() end,
  function(req) req.conn.ctx = { random() } end,
  function(req) req.conn:set_timeouts { [any { "read", "write", "idle", "lifetime" }] = random() * 0.05 } end,
  function(req) req.conn:pause() rille.after(random() * 0.003, function() req.conn:resume() end) end,
  function(req) req.conn:on_close(function() if random(10) == 1 then error "chaos" end end) end,
  function(req, res) held[random(10)] = { req, res } end,
  function(_, _, depth)
    local other = held[random(10)]
    if other and depth < 3 then act(other[1], other[2], depth + 1) end
  end,
  function(req, res, depth)
    if depth > 1 then return end
    local task = rille.spawn(function() act(req, res, 2) act(req, res, 2) end)
    if random(2) == 1 then rille.sleep(random() * 0.001) end
    if random(2) == 1 then task:cancel() end
    if random(2) == 1 then task:join() end
  end,
  function(req, res, depth) if depth < 2 then rille.with_timeout(random() * 0.002, act, req, res, 2) end end,
  function() collectgarbage("step", 200) end,
  function(req) if random(10) == 1 then req.conn:close() end end,
  function(req) if random(20) == 1 then req.conn:abort() end end,
  function(req) if random(20) == 1 then req.conn:shutdown "write" end end,
  function(req) local fd = random(20) == 1 and req.conn:detach() if fd then rille.adopt(fd):close() end end,
  function() if random(4) == 1 then error "chaos" end end,
}

-- How an honest client wants its body to be read.
local ways = {
  whole = function(req) return req:body() and req:body():str() end,
  pieces = function(req)
    local list = {}
    for piece in function() return req:read(random(5000)) end do
      list[#list + 1] = piece:str()
      if random(5) == 1 then rille.yield() end
    end
    return table.concat(list)
  end,
  half = function(req) req:read(10) return "" end,
  none = function() return "" end,
  late = function(req)
    rille.with_timeout(0.001, req.body, req)
    return req:body() and req:body():str()
  end,
  raise = function(req)
    if random(2) == 1 then req:read(5) end
    error "chaos"
  end,
}

local function honest(req, res)
  local id = req:query "id"
  if random(3) == 1 then rille.sleep(random() * 0.002) end
  local text = id .. ":" .. ways[req:query "way"](req)
  local how = random(3)
  if how == 1 then return res:send(text) end
  for i = 1, #text, 1000 do
    res:write(text:sub(i, i + 999))
    if how == 3 then res:flush() end
  end
end

local function serve(req, res)
  if req.path == "/honest" then return honest(req, res) end
  for _ = 1, random(4) do act(req, res) end
end

return {
  on_request = serve,
  on_tunnel = serve,
  on_close = function(conn) say("close %d", conn.id) end,
}
]]

-- ---- what clients send -------------------------------------------------------------------------------------------------

local random = math.random

local function any(list)
  return list[random(#list)]
end

local function fields()
  local list = {}
  for i = 1, random(0, 5) do
    list[i] = any { "X: 1", "X: 2", "Cookie: a=b", "Expect: 100-continue", "Connection: keep-alive", "Range: bytes=1-2",
                    "Accept: " .. ("a"):rep(random(0, 2000)), "If-Modified-Since: x" }
  end
  if random(20) == 1 then list[#list + 1] = "Connection: close" end
  if random(6) == 1 then
    list[#list + 1] = "Connection: upgrade"
    list[#list + 1] = "Upgrade: chaos"
  end
  return list
end

local function good_request()
  local target = any { "/", "/a%20b", "//x/../y", "/?a=1&b=2", "http://host/x?a", "/" .. ("p"):rep(random(0, 3000)) }
  local kind = random(6)
  if kind <= 2 then return http.get(target, fields()) end
  if kind == 3 then return http.request("HEAD", target, fields()) end
  local body = ("body"):rep(random(0, any { 5, 500, 40000 }))
  if kind == 4 then return http.post(target, body, fields()) end
  if kind == 5 and random(5) == 1 then return "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n" end
  local pieces = {}
  for i = 1, random(0, 8) do pieces[i] = ("chunk"):rep(random(1, 800)) end
  local list = fields()
  list[#list + 1] = "Transfer-Encoding: chunked"
  return http.request("POST", target, list) .. http.chunked(pieces, any { "", "T: 1\r\n" })
end

-- Some are cut, some have a wrong byte.
local function request()
  local text = good_request()
  local what = random(12)
  if what == 1 then return text:sub(1, random(#text)) end
  if what == 2 then
    local at = random(#text)
    return text:sub(1, at - 1) .. string.char(random(0, 255)) .. text:sub(at + 1)
  end
  if random(3) == 1 then return text:gsub("HTTP/1%.1", "HTTP/1.0", 1) end
  return text
end

local function honest_round(s)
  local c = s:connect()
  local parts, expected = {}, {}
  for i = 1, random(1, 8) do
    local way = any { "whole", "whole", "pieces", "half", "none", "late", "raise" }
    local body = ("honest "):rep(random(0, any { 3, 3000 }))
    local target = ("/honest?id=%d&way=%s"):format(i, way)
    if random(2) == 1 then
      local pieces, at = {}, 1
      while at <= #body do
        local size = random(any { 10, 10000 })
        pieces[#pieces + 1] = body:sub(at, at + size - 1)
        at = at + size
      end
      parts[i] = http.request("POST", target, { "Transfer-Encoding: chunked" }) .. http.chunked(pieces)
    else
      parts[i] = http.post(target, body)
    end
    local is_echo = way == "whole" or way == "pieces" or way == "late"
    expected[i] = way == "raise" and "500 Internal Server Error\n" or i .. ":" .. (is_echo and body or "")
  end
  local text = table.concat(parts)
  local at = random(#text)
  c:send(text:sub(1, at))
  return function()
    while at < #text do
      local size = random(any { 100, 5000, #text })
      c:send(text:sub(at + 1, at + size))
      at = at + size
    end
    for i = 1, #parts do
      local got = http.answer(c).body
      if got ~= expected[i] then error(("answer %d is %q instead of %q"):format(i, got:sub(1, 50), expected[i]:sub(1, 50)), 0) end
    end
    c:close()
  end
end

local function run(seed, count)
  local s = http.start(SCRIPT, {
    options = { seed = seed, file = server.write("file", ("f"):rep(100000)) }, allow_errors = true,
    timeouts = { idle = 0.4, linger = 0.05, write = 0.2, header = 0.3, body = 0.1 },
    limits = { body = 200000, high_water = 60000, body_rate = 0 }, conf = { drain_timeout = 0.5 },
    server = seed % 2 == 0 and { receive_buffer = 2048, send_buffer = 2048 } or nil, -- short reads and writes
  })
  math.randomseed(seed)
  local open, honest = {}, 0
  for i = 1, count do
    local n = #open
    open[n + 1] = s:connect(random(4) == 1 and { receive_buffer = 4096 } or nil)
    local finish
    if i % 20 == 0 then
      finish = honest_round(s)
      honest = honest + 1
    end
    for _ = 1, 4 do
      local k = random(#open)
      local client = open[k]
      if client then
        local what = random(20)
        if what <= 10 then
          local text = request()
          for _ = 1, random(0, 3) do text = text .. request() end
          client:try_send(text)
        elseif what <= 14 then client:receive_some(0)
        elseif what == 15 then client:try_send(net.noise(random(100), i))
        elseif what == 16 then client:shutdown_write()
        elseif what == 17 then client:reset() table.remove(open, k)
        elseif what == 18 then client:close() table.remove(open, k)
        end
      end
    end
    if finish then finish() end
    if #open > 60 then table.remove(open, random(60)):close() end
    if i % 50 == 0 then net.nap(3) end
  end
  for _, client in ipairs(open) do client:close() end
  return s, count + honest
end

local ALLOWED = {
  "chaos", "slice expired", "this request is over", "the head is out already", "was sent already", "more bytes than the Content%-Length",
  "attempt to index", -- what a closed connection did not give
}

local function check_log(s)
  for line in s:log():gmatch("level=error[^\n]*") do
    local is_allowed = false
    for _, pattern in ipairs(ALLOWED) do is_allowed = is_allowed or line:find(pattern) ~= nil end
    if not is_allowed then error(line, 0) end
  end
end

describe("http chaos", function()
  after_each(server.cleanup)

  local COUNT = net.is_sanitized and 300 or 400

  for seed = 1, tonumber(os.getenv "SEEDS") or 4 do
    it("ends in order, seed " .. seed, function()
      local s, count = run(seed + (tonumber(os.getenv "SEED") or 0), COUNT)
      local closed = 0
      net.poll_until(function()
        closed = s:count_log("said close %d")
        return closed >= count
      end, 10)
      local ids = {}
      for id in s:log():gmatch("said close (%d+)") do
        assert.is_nil(ids[id], "two ends of one connection")
        ids[id] = true
      end
      local state = s:state()
      assert.equal(count, state.accepted)
      assert.equal(count, closed)
      assert.equal(0, state.failures)
      check_log(s)
    end)
  end

  it("can be stopped in the middle", function()
    local s = run(7, COUNT / 2)
    s:signal "TERM"
    assert.equal(0, s:wait_exit(10))
    s:forget()
    s:check_end()
    check_log(s)
  end)
end)
