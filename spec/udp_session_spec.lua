-- Sessions over datagrams: their beginning, order, one end each, limits, several loops.

local server = require "spec.support.server"
local udp = require "spec.support.udp"
local net = server.net

local function cleanup()
  udp.close_all()
  server.cleanup()
end

-- What a datagram says is done; everything else comes back with the name that on_connect gave the session.
local BOARD = [[
local count, retained = 0, nil
local commands = {}
function commands.close(conn) conn:close() say("send after close: %s", select(2, conn:send "x")) end
function commands.raise() error "of this one" end
function commands.ctx(conn) conn:send(tostring(conn.ctx)) end
function commands.loop(conn) conn:send(tostring(rille.loop.id)) end
function commands.peer(conn) conn:send(conn:peer() .. " " .. tostring(conn:is_active())) end
function commands.later(conn) rille.after(0.02, function() conn:send "from a timer" end) end
function commands.hooks(conn)
  conn:on_close(function(_, err) say("first %s %s", conn:peer() and "peer" or "none", tostring(err)) end)
  conn:on_close(function() error "in a closer" end)
  conn:on_close(function() say "last" end)
  conn:close()
end
function commands.sleep(conn) rille.sleep(0.3) conn:send "slept" end
function commands.receive(conn, dgram)
  conn:send("first " .. dgram)
  local second = conn:receive(5)
  conn:send("second " .. second)
  local _, err = conn:receive(0)
  conn:send("none " .. err)
  _, err = conn:receive(0.02)
  conn:send("late " .. err)
  conn:send("still " .. dgram .. " and " .. second)
end
function commands.spawn(conn)
  rille.spawn(function()
    local dgram = conn:receive()
    conn:send("task " .. dgram)
  end)
  rille.yield()
  say("busy: %s", select(2, conn:receive()))
end
function commands.idle(conn) conn:set_timeouts { idle = 0.05 } conn:send "set" end
function commands.life(conn) conn:set_timeouts { lifetime = 0.05, idle = 0 } conn:send "set" end
function commands.forever() rille.sleep(1000) end
return {
  on_connect = function(conn)
    count = count + 1
    conn.ctx = "session " .. count
    say("connect %d", count)
  end,
  on_request = function(conn, dgram)
    local command = commands[dgram:str()]
    if command then return command(conn, dgram) end
    conn:send(conn.ctx .. " " .. dgram)
  end,
  on_close = function(conn, err) say("close %s %s", conn.ctx, tostring(err)) end,
}
]]

local function start(session, opts)
  opts = opts or {}
  opts.listen = opts.listen or "udp://127.0.0.1:0"
  opts.server = opts.server or {}
  opts.server.session = session or {}
  return server.start(opts.script or BOARD, opts)
end

local function count_of(list, pattern)
  local count = 0
  for _, text in ipairs(list) do if text:find(pattern) then count = count + 1 end end
  return count
end

-- Nothing of it may be said twice.
local function closed_once(s, name)
  net.poll_until(function() return count_of(s:said(), "^close " .. name) > 0 end)
  assert.equal(1, count_of(s:said(), "^close " .. name))
end

describe("sessions", function()
  after_each(cleanup)

  for _, listen in ipairs { "udp://127.0.0.1:0", "udp6://[::1]:0", "unixgram" } do
    it("are one for each peer, over " .. listen, function()
      local s = start(nil, { listen = listen == "unixgram" and "unixgram://" .. server.folder() .. "/sock" or listen })
      local clients = {}
      for i = 1, 5 do
        clients[i] = udp.connect(s.url)
        assert.equal(("session %d a"):format(i), clients[i]:ask "a")
      end
      for i = 1, 5 do assert.equal(("session %d b"):format(i), clients[i]:ask "b") end
      s:stop()
      local said = s:said()
      for i = 1, 5 do assert.equal(1, count_of(said, ("^close session %d shutdown"):format(i))) end
    end)
  end

  it("keep the order of what comes, and one handler runs at a time", function()
    local s = start({ queue = 1000 }, { script = [[
return function(conn, dgram)
  conn.running = (conn.running or 0) + 1
  assert(conn.running == 1)
  if tonumber(dgram:str()) % 10 == 0 then rille.sleep(0.002) end
  conn:send(dgram)
  conn.running = conn.running - 1
end
]], server = { receive_buffer = "1m" } })
    local c = udp.connect(s.url)
    for i = 1, 200 do c:send(tostring(i)) end
    for i = 1, 200 do assert.equal(tostring(i), c:receive()) end
  end)

  it("end once: by close, and the next datagram begins another", function()
    local s = start()
    local c = udp.connect(s.url)
    assert.equal("session 1 a", c:ask "a")
    c:send "close"
    closed_once(s, "session 1 nil")
    assert.equal("session 2 b", c:ask "b")
    assert.same({ "connect 1", "send after close: closed", "close session 1 nil", "connect 2" }, s:said())
  end)

  it("end once: by an error, which is logged", function()
    local s = start(nil, { allow_errors = true })
    local c = udp.connect(s.url)
    c:send "raise"
    closed_once(s, "session 1 error")
    s:wait_log "on_request of conn %d+ failed.-of this one"
    assert.equal("session 2 b", c:ask "b")
  end)

  it("end once: by silence, which a sender or a working handler is not", function()
    local s = start { idle = 0.25 }
    local c, worker = udp.connect(s.url), udp.connect(s.url)
    worker:send "sleep"
    for _ = 1, 8 do
      assert.matches("session %d x", c:ask "x")
      net.nap(50)
    end
    assert.equal(0, count_of(s:said(), "^close session %d timeout") - count_of(s:said(), "^close session 1 timeout"))
    assert.equal("slept", worker:receive())
    closed_once(s, "session 1 timeout")
    closed_once(s, "session 2 timeout")
  end)

  it("have times of their own", function()
    local s = start()
    for i, name in ipairs { "idle", "life" } do
      assert.equal("set", udp.connect(s.url):ask(name))
      closed_once(s, ("session %d timeout"):format(i))
    end
  end)

  it("call what was added to their end, last first, and go on after one that raises", function()
    local s = start(nil, { allow_errors = true })
    udp.connect(s.url):send "hooks"
    closed_once(s, "session 1 nil")
    local said = s:said()
    assert.same({ "connect 1", "last", "first peer nil", "close session 1 nil" }, said)
  end)

  it("send at any time, know their peer, keep their ctx", function()
    local s = start()
    local c = udp.connect(s.url)
    c:send "later"
    assert.equal("from a timer", c:receive())
    assert.equal(("127.0.0.1:%d true"):format(c:port()), c:ask "peer")
    assert.equal("session 1", c:ask "ctx")
  end)

  it("are read in straight lines", function()
    local s = start()
    local c = udp.connect(s.url)
    c:send "receive"
    assert.equal("first receive", c:receive())
    c:send "more"
    for _, text in ipairs { "second more", "none timeout", "late timeout", "still receive and more" } do
      assert.equal(text, c:receive())
    end
    assert.equal("session 1 a", c:ask "a")
  end)

  it("are read by one task at a time", function()
    local s = start()
    local c = udp.connect(s.url)
    c:send "spawn"
    assert.equal("busy: busy", s:wait_said(2)[2])
    c:send "x"
    assert.equal("task x", c:receive())
    s:stop()
    closed_once(s, "session 1 shutdown")
  end)

  it("are so many at most, and others are dropped until one ends", function()
    local s = start { max = 2 }
    local a, b, c = udp.connect(s.url), udp.connect(s.url), udp.connect(s.url)
    assert.equal("session 1 x", a:ask "x")
    assert.equal("session 2 x", b:ask "x")
    c:send "x"
    s:wait_log "session.max %(2%) reached"
    a:send "close"
    closed_once(s, "session 1 nil")
    assert.equal("session 3 x", c:ask "x")
  end)

  it("have a queue, beyond which datagrams are dropped", function()
    local s = start { queue = 5 }
    local c = udp.connect(s.url)
    c:send "sleep"
    s:wait_said(1)
    for i = 1, 20 do c:send("number " .. i) end
    assert.equal("slept", c:receive())
    for i = 1, 5 do assert.equal("session 1 number " .. i, c:receive()) end
    assert.equal("session 1 last", c:ask "last")
    assert.equal(15, s:state().datagrams_dropped)
  end)

  it("that do not look at their datagrams leave room for others", function()
    local s = start({ queue = 100 }, { limits = { max_handlers = 50 } })
    for _ = 1, 3 do
      local c = udp.connect(s.url)
      c:send "forever"
      for i = 1, 60 do c:send("number " .. i) end
    end
    local other = udp.connect(s.url)
    for _ = 1, 20 do assert.matches("^session %d x$", other:ask "x") end
    s:wait_state(function(state) return state.datagrams_dropped > 100 end)
    s:signal "TERM"
    s:wait_log "stopping: draining" -- two that wait are one
    s:signal "TERM"
    assert.equal(0, s:wait_exit())
    s:forget()
  end)

  for _, how in ipairs { "reuseport", "balanced" } do
    it("stay on one loop, " .. how, function()
      local s = start(nil, { conf = { loops = 2 },
        server = { accept = how, balance = how == "balanced" and "source_hash" or nil } })
      for i = 1, 12 do
        local c = udp.connect(s.url, how == "balanced" and { bind = "udp://127.0.0." .. i .. ":0" } or nil)
        local loop = c:ask "loop"
        for _ = 1, 10 do assert.equal(loop, c:ask "loop") end
      end
      s:stop()
      assert.equal(12, count_of(s:said(), "^connect"))
      assert.equal(12, count_of(s:said(), "^close .-shutdown"))
    end)
  end

  it("over a Unix socket stay on one loop, balanced", function()
    local s = start(nil, { listen = "unixgram:@rille-session-" .. net.C.net_getpid(), conf = { loops = 3 },
      server = { accept = "balanced", balance = "source_hash" } })
    for _ = 1, 8 do
      local c = udp.connect(s.url)
      local loop = c:ask "loop"
      for _ = 1, 5 do assert.equal(loop, c:ask "loop") end
    end
  end)

  it("that a handler holds are ended after drain_timeout, once", function()
    local s = start(nil, { conf = { drain_timeout = "200ms" } })
    udp.connect(s.url):send "forever"
    s:wait_said(1)
    s:stop()
    closed_once(s, "session 1 shutdown")
  end)

  it("end with their listener", function()
    local s = server.start([[
local l
return function(dgram)
  if dgram == "open" then
    l = assert(rille.listen("udp://127.0.0.1:0", {
      on_request = function(conn, d) conn:send(d) end,
      on_close = function(conn, err) say("close %s %s", conn:peer() and "peer", err) end,
    }, { session = {} }))
    return dgram:reply(l:address())
  end
  l:close()
  dgram:reply "closed"
end
]], { listen = "udp://127.0.0.1:0" })
    local c = udp.connect(s.url)
    local inner = udp.connect(c:ask "open")
    assert.equal("x", inner:ask "x")
    assert.equal("closed", c:ask "close")
    assert.same({ "close peer closed" }, s:wait_said(1))
  end)

  it("that are idle are small", function()
    local other = os.getenv("RILLE_LUAJIT") or ""
    if net.is_sanitized or other:find("san", 1, true) then return pending "measured without a sanitizer alone" end
    local s = start({ max = 20000 }, { script = "return { on_request = function(conn, dgram) conn:send(dgram) end,\n}" })
    local count = 4000
    local function fill(octet)
      for i = 1, count do
        local c = udp.connect(s.url, { receive_buffer = 4096, bind = ("udp://127.0.%d.%d:0"):format(octet, i % 250 + 1) })
        c:ask "x"
        c:close()
      end
    end
    fill(1)
    local before = s:rss()
    fill(2)
    assert.is_true((s:rss() - before) / count < 800, (s:rss() - before) / count .. " bytes a session")
  end)
end)
