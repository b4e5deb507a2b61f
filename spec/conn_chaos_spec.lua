-- Clients and handlers that do anything at any time, at random but the same each time for a seed. Nothing may crash, hang or be left
-- behind, and each connection has to come to exactly one end.

local server = require "spec.support.server"
local net = server.net

local SCRIPT = [[
local options = ...
math.randomseed(options.seed)
local random = math.random

local held = {}     -- connections that handlers of others may touch
local kept = {}     -- slices, most of them expired
local channel = rille.channel(2)

local function any(list)
  return list[random(#list)]
end

local acts
local function act(conn, depth)
  return acts[random(#acts)](conn, depth)
end

acts = {
  function(conn) conn:next(random(0, conn:len())) end,
  function(conn) conn:next(conn:len() + random(0, 50)) end,
  function(conn) conn:read(random(1, 5000)) end,
  function(conn) conn:read_line(random(0, 300)) end,
  function(conn) conn:read_until(any { "x", "ab", "\r\n" }, random(1, 2000)) end,
  function(conn) conn:peek(random(0, 100)) end,
  function(conn) conn:skip(random(0, 100)) end,
  function(conn) conn:read_string(random(0, 100)) end,
  function(conn) local buffer = conn:take(random(0, 5000)) if buffer then conn:write(buffer) buffer:close() end end,
  function(conn) local slice = conn:next(conn:len()) if slice then conn:write(slice) end end,
  function(conn) local slice = conn:peek(conn:len()) if slice then kept[random(20)] = slice end end,
  function(conn) local slice = conn:read(100) if slice then slice:retain() pcall(rille.sleep, 0) slice:len() slice:release() end end,
  function(conn) local slice = kept[random(20)] if slice and slice:is_valid() then conn:write(slice) end end,
  function(conn) conn:release() end,
  function(conn) conn:write(("w"):rep(random(0, 10000))) end,
  function(conn) conn:write(("W"):rep(random(0, 300000))) end,
  function(conn) conn:send(("s"):rep(random(0, 50000))) end,
  function(conn) conn:flush() end,
  function(conn) conn:write_u32(random(0, 2 ^ 31)) end,
  function(conn) if conn:malloc(random(1, 10000)) then conn:malloc_ack(random(0, 1)) end end,
  function() rille.sleep(random() * 0.003) end,
  function() rille.yield() end,
  function(conn) conn.ctx = { random() } end,
  function(conn) conn:set_timeouts { [any { "read", "write", "idle", "lifetime" }] = random() * 0.02 } end,
  function(conn) conn:pause() rille.after(random() * 0.003, function() conn:resume() end) end,
  function(conn) conn:on_close(function() if random(20) == 1 then error("chaos") end end) end,
  function(conn) conn:on_request(function(c) act(c) end) end,
  function(conn) held[random(10)] = conn end,
  function(_, depth) local other = held[random(10)] if other and (depth or 0) < 3 then act(other, (depth or 0) + 1) end end,
  function(conn, depth) if (depth or 0) < 2 then rille.spawn(function() act(conn, 2) act(conn, 2) end) end end,
  function(conn, depth) if (depth or 0) < 2 then rille.with_timeout(random() * 0.002, act, conn, 2) end end,
  function(conn, depth)
    if (depth or 0) > 1 then return end
    local task = rille.spawn(function() act(conn, 2) act(conn, 2) end)
    if random(2) == 1 then rille.sleep(random() * 0.001) end
    task:cancel()
    task:join()
  end,
  function() channel:send(1, 0.002) end,
  function() channel:receive(0.002) end,
  function() collectgarbage("step", 200) end,
  function(conn) if random(5) == 1 then conn:shutdown("write") end end,
  function(conn) if random(3) == 1 then conn:close() end end,
  function(conn) if random(5) == 1 then conn:abort() end end,
  function() if random(5) == 1 then error("chaos") end end,
  function(conn)
    if random(5) > 1 then return end
    local fd = conn:detach()
    local again = fd and rille.adopt(fd)
    if again then act(again, 2) again:close() end
  end,
  function()
    local a, b = rille.pair()
    if not a then return end
    a:write(("p"):rep(random(3000)))
    b:read(100)
    if random(2) == 1 then a:close() end
    if random(2) == 1 then b:abort() end
  end,
}

-- Acts of a task that outlives its connection may find it closed, and slices expired: that is no error here.
return {
  on_prepare = function() if random(30) == 1 then return false end end,
  on_connect = function(conn) if random(2) == 1 then act(conn) end end,
  on_request = function(conn) for _ = 1, random(4) do act(conn) end end,
  on_disconnect = function(conn) if random(4) == 1 then act(conn, 2) end end,
  on_idle = function(conn) if random(2) == 1 then act(conn) else conn:close() end end,
  on_close = function(conn) say("close %d", conn.id) if random(10) == 1 then act(conn, 2) end end,
}
]]

local function run(seed, count, transport)
  local s = server.start(SCRIPT, {
    options = { seed = seed }, allow_errors = true, log_level = "info",
    listen = transport == "unix" and "unix://" .. server.folder() .. "/sock" or nil,
    timeouts = { idle = 0.2, linger = 0.05, write = 0.2, read = 0.1 }, limits = { max_input = 50000, high_water = 100000 },
    conf = { drain_timeout = 0.5 },
  })
  math.randomseed(seed)
  local random = math.random
  local text = ("abx\r\n some words in a line of text\n"):rep(300)
  local open = {}
  for i = 1, count do
    local n = #open
    open[n + 1] = s:connect(random(4) == 1 and { receive_buffer = 4096 } or nil)
    for _ = 1, 3 do
      local k = random(#open)
      local client = open[k]
      if client then
        local what = random(20)
        if what <= 12 then client:try_send(text:sub(1, random(#text)))
        elseif what <= 15 then client:receive_some(0)
        elseif what == 16 then client:shutdown_write()
        elseif what == 17 then client:reset() table.remove(open, k)
        elseif what == 18 then client:close() table.remove(open, k)
        end
      end
    end
    if #open > 60 then table.remove(open, random(60)):close() end
    if i % 50 == 0 then net.nap(3) end
  end
  for _, client in ipairs(open) do client:close() end
  return s
end

describe("conn: chaos", function()
  after_each(server.cleanup)

  local COUNT = net.is_sanitized and 400 or 1000

  for seed = 1, 4 do
    it("ends in order, seed " .. seed, function()
      local s = run(seed, COUNT, seed % 2 == 0 and "unix" or "tcp")
      -- each that was accepted has an end; those that scripts made may live until they are collected
      local closed = 0
      net.poll_until(function()
        closed = s:count_log("said close %d")
        return closed >= COUNT
      end, 10)
      local ids = {}
      for id in s:log():gmatch("said close (%d+)") do
        assert.is_nil(ids[id], "two ends of one connection")
        ids[id] = true
      end
      local state = s:state()
      assert.equal(COUNT, state.accepted)
      assert.equal(COUNT, closed)
      assert.equal(0, state.failures)
      for line in s:log():gmatch("level=error[^\n]*") do
        local allowed = line:find("chaos", 1, true) or line:find("slice expired", 1, true)
        if not allowed then error(line, 0) end
      end
    end)
  end

  it("can be stopped in the middle", function()
    local s = run(7, COUNT / 2)
    s:signal("TERM")
    assert.equal(0, s:wait_exit(10))
    s:forget()
    s:check_end()
  end)
end)
