-- torture: the handler that bench/torture.c runs against. The first line of a connection says what it wants: S, C, E and R
-- are promises that hold whatever else goes on; X is for everything that may end in any way, but must not leave anything.
--   S<n>  sink: reads n bytes, answers "OK"          C<n>  the same from a client that leaves without waiting
--   E<n>  echo until the client's end                R<n>  sends n bytes and closes, whatever the client sent
-- Byte number i of a stream is i % 251.

local rille = require "rille"

local options = ...
math.randomseed(tonumber(options.seed) or 1)
local random = math.random

local PERIOD = 251
local text = {}
for i = 0, PERIOD - 1 do text[i + 1] = string.char(i) end
local pattern = table.concat(text):rep(math.ceil((2 ^ 20 + PERIOD) / PERIOD))

local closed, opened = 0, 0
local held, tasks = {}, {}

local function part(at, n)
  local from = at % PERIOD
  return pattern:sub(from + 1, from + n)
end

local function wrong(...)
  rille.log.error("TORTURE " .. string.format(...))
end

local function check(conn, slice)
  local ctx = conn.ctx
  local n = slice:len()
  if slice:str() ~= part(ctx.at, n) then wrong("mode %s: wrong bytes at %d (%d)", ctx.mode, ctx.at, n) end
  ctx.at = ctx.at + n
end

-- ---- the promises ----------------------------------------------------------------------------------------------

local function take_some(conn, left)
  local way = random(6)
  if way == 1 then return conn:read(random(1, 70000)) end
  if way == 2 then return conn:next(math.min(left, random(1, 70000))) end
  if way == 3 and left >= PERIOD then return conn:read_until(text[random(PERIOD)], 100000) end
  if way == 4 then
    local slice, err = conn:read(random(1, 9000))
    if slice then rille.sleep(random() * 0.001) end
    return slice, err
  end
  if way == 5 then
    conn:pause()
    rille.after(random() * 0.002, function() conn:resume() end)
  end
  if way == 6 then
    local done, slice, err = false, nil, nil
    rille.spawn(function()
      slice, err = conn:read(left)
      done = true
    end):join()
    return slice, done and err or "no end"
  end
  return conn:next(math.min(left, math.max(1, conn:len())))
end

local function sink(conn)
  local ctx = conn.ctx
  while ctx.at < ctx.n do
    local slice, err = take_some(conn, ctx.n - ctx.at)
    if not slice then return wrong("mode %s: %s at %d of %d", ctx.mode, tostring(err), ctx.at, ctx.n) end
    check(conn, slice)
    if ctx.at < ctx.n and random(3) == 1 then return end -- the rest when on_request is called again
    conn:release()
  end
  if ctx.mode == "S" then
    conn:write "OK\n"
    if random(2) == 1 then conn:close() end
  end
end

local function echo(conn)
  local slice = conn:read(random(1, 100000))
  if not slice then return end
  check(conn, slice)
  if random(4) == 1 then conn:flush() end
  conn:write(slice)
end

local function source(conn)
  local ctx = conn.ctx
  while ctx.at < ctx.n do
    local n = math.min(ctx.n - ctx.at, random(1, 2 ^ random(4, 17)))
    local write = random(3) == 1 and conn.send or conn.write
    local ok, err = write(conn, part(ctx.at, n))
    if not ok then return wrong("mode R: %s at %d of %d", err, ctx.at, ctx.n) end
    ctx.at = ctx.at + n
    if random(20) == 1 then rille.sleep(random() * 0.002) end
  end
  conn:close()
end

-- ---- everything else -------------------------------------------------------------------------------------------

local act

local function any(list) return list[random(#list)] end

local acts = {
  function(conn) conn:next(random(0, conn:len() + 50)) end,
  function(conn) conn:read(random(1, 5000)) end,
  function(conn) conn:read_line(random(0, 300)) end,
  function(conn) conn:read_until(any { "x", "ab", "\r\n" }, random(1, 2000)) end,
  function(conn) conn:peek(random(0, 100)) end,
  function(conn) conn:skip(random(0, 100)) end,
  function(conn) local b = conn:take(random(0, 5000)) if b then conn:write(b) b:close() end end,
  function(conn) local s = conn:read(100) if s then s:retain() pcall(rille.sleep, 0) s:release() end end,
  function(conn) conn:release() end,
  function(conn) conn:write(("w"):rep(random(0, 300000))) end,
  function(conn) conn:send(("s"):rep(random(0, 50000))) end,
  function(conn) conn:flush() end,
  function(conn) if conn:malloc(random(1, 10000)) then conn:malloc_ack(random(0, 1)) end end,
  function() rille.sleep(random() * 0.003) end,
  function() rille.yield() end,
  function(conn) conn.high_water = 2 ^ random(0, 20) end,
  function(conn) conn:set_timeouts { [any { "read", "write", "idle", "lifetime", "linger" }] = random() * 0.05 } end,
  function(conn) conn:pause() rille.after(random() * 0.003, function() conn:resume() end) end,
  function(conn) conn:on_close(function() if random(20) == 1 then error("chaos") end end) end,
  function(conn) conn:on_request(function(c) act(c, 1) end) end,
  function(conn) held[random(10)] = conn end,
  function(_, depth) local other = held[random(10)] if other then act(other, depth + 1) end end,
  function(conn, depth)
    local spawned = rille.spawn(function() act(conn, depth + 1) act(conn, depth + 1) end)
    tasks[random(10)] = spawned
    if random(3) == 1 then spawned:join() end
  end,
  function() local other = tasks[random(10)] if other then other:cancel() end end,
  function(conn, depth) rille.with_timeout(random() * 0.002, act, conn, depth + 1) end,
  function(conn) conn:shutdown("write") end,
  function(conn) if random(3) == 1 then conn:close() end end,
  function(conn) if random(3) == 1 then conn:abort() end end,
  function(conn)
    local fd = random(3) == 1 and conn:detach()
    local other = fd and rille.adopt(fd)
    if other then rille.after(random() * 0.01, function() other:close() end) end
  end,
  function(conn)
    local a, b = rille.pair()
    if not a then return end
    a:set_timeouts { lifetime = 1 } -- else each may wait for the other for ever
    b:set_timeouts { lifetime = 1 }
    a:write(("p"):rep(random(1, 3000)))
    if random(2) == 1 then rille.spawn(function() b:read(100) a:close() end) end
    if random(2) == 1 then b:on_request(function(c) act(c, 3) end) end
    if random(2) == 1 then conn:write(b:read(50) or "") end
  end,
  function() if random(5) == 1 then error("chaos") end end,
}

function act(conn, depth)
  if depth > 3 then return end
  return acts[random(#acts)](conn, depth)
end

local function chaos(conn)
  for _ = 1, random(4) do act(conn, 1) end
  if random(2) == 1 then conn:skip(math.min(conn:len(), random(1, 10000))) end
end

-- ---- the script ------------------------------------------------------------------------------------------------

local modes = { S = sink, C = sink, E = echo, R = source, X = chaos }

local function request(conn)
  local ctx = conn.ctx
  if ctx then return modes[ctx.mode](conn) end
  local line, err = conn:read_line(100)
  if not line then return wrong("no first line: %s", tostring(err)) end
  ctx = { mode = line:sub(1, 1):str(), n = line:sub(2):tonumber(), at = 0 }
  if not modes[ctx.mode] then return wrong("first line %s", line:str()) end
  conn.ctx = ctx
  if ctx.mode == "X" then conn:set_timeouts { read = 0.2, write = 0.2, idle = 0.3, lifetime = 1 } end
end

return {
  on_start = function()
    rille.log.set_rate(0)
    rille.on_shutdown(function()
      for _ = 1, 500 do
        held, tasks = {}, {}
        collectgarbage() -- ends the pairs that are lost
        if rille.loop.stats().connections == 0 then break end
        rille.sleep(0.01)
      end
      rille.sleep(0.05)
      local before = rille.loop.stats().turns
      rille.sleep(0.2)
      local now = rille.loop.stats()
      rille.log.info("torture: accepted %d opened %d closed %d connections %d failures %d turns %d", now.accepted, opened,
        closed, now.connections, now.failures, now.turns - before)
    end)
  end,
  on_connect = function(conn)
    opened = opened + 1
    if random(10) == 1 then rille.sleep(random() * 0.002) end
    if random(10) == 1 then conn:peek(1) end
  end,
  on_request = request,
  on_disconnect = function(conn)
    local ctx = conn.ctx
    if ctx and ctx.mode == "X" and random(2) == 1 then act(conn, 2) end
  end,
  on_close = function(conn, err)
    closed = closed + 1
    local ctx = conn.ctx
    if rawget(conn, "is_over") then wrong("on_close twice") end
    conn.is_over = true
    if err == "closed" and ctx and ctx.mode == "R" then err = nil end -- it left what the client sent
    if ctx and ctx.mode ~= "X" and (ctx.at < ctx.n or err) then
      wrong("mode %s ended with %s at %d of %d", ctx.mode, tostring(err), ctx.at, ctx.n)
    end
    if ctx and ctx.mode == "X" and random(10) == 1 then rille.sleep(random() * 0.01) end
  end,
}
