-- Reloads of servers that are spoken to in datagrams: what handlers have, what waits, and sessions with what scripts keep of them.

local control = require "spec.support.control"
local server = require "spec.support.server"
local udp = require "spec.support.udp"
local net = server.net

local function cleanup()
  udp.close_all()
  server.cleanup()
end

-- Like server.start, by its script's text, which write() replaces; when it takes SIGHUP.
local function start(source, opts)
  opts = opts or {}
  opts.listen = opts.listen or "udp://127.0.0.1:0"
  opts.conf = opts.conf or {}
  opts.conf.reload = opts.conf.reload or {}
  opts.conf.reload.watch = false
  local s = control.start(source, opts)
  local request = ("eval loop=0 timeout=1000 size=%d\n%s"):format(#"print 'there'", "print 'there'")
  assert(net.poll_until(function() return control.ask(s, request):find("there", 1, true) end, 10), "nobody deploys")
  return s
end

-- Exit status, and what the command said on stderr.
local function reload(s, ...)
  local code, _, err = control.rille { "reload", "--control", s.socket, ... }
  return code, err
end

local function reload_ok(s, ...)
  local code, err = reload(s, ...)
  assert.equal(0, code, err .. s:tail())
end

-- The text of the script from now on. It is served after a reload.
local function write(source)
  server.write("script.lua", ("local rille = require 'rille'; rille.log.set_rate(0); "
    .. "local function say(...) rille.log.info('said ' .. string.format(...)) end; ") .. source)
end

local function count_of(list, pattern)
  local count = 0
  for _, text in ipairs(list) do if text:find(pattern) then count = count + 1 end end
  return count
end

local function wait_said(s, pattern, count)
  count = count or 1
  net.poll_until(function() return count_of(s:said(), pattern) >= count end, 10)
  assert.equal(count, count_of(s:said(), pattern), pattern .. "\n" .. s:tail())
end

local function wait_retired(s, number)
  s:wait_log(("script@%d: retired"):format(number), 10)
end

-- Load the script anew and go on with work() until it is served.
local function reload_while(s, number, work)
  s:signal("HUP")
  local pattern = ("script@%d: serves"):format(number)
  local deadline = net.deadline(10)
  repeat
    work()
    if net.now() > deadline then error(("script@%d never served\n%s"):format(number, s:tail()), 0) end
  until s:log():find(pattern, 1, true)
end

-- Senders of numbered datagrams that come back, once each. No more are under way than the kernel has room for.
local function make_crowd(s, size)
  local crowd = { sent = 0, got = 0, clients = {} }
  local open, under_way = {}, 0
  for i = 1, size do
    crowd.clients[i] = udp.connect(s.url)
    open[i] = {}
  end
  local function receive(i, seconds)
    local text = crowd.clients[i]:try_receive(seconds)
    if not text then return false end
    local number = tonumber(text:match("^(%d+)"))
    assert.truthy(open[i][number], "answered twice, or never asked: " .. text)
    open[i][number] = nil
    crowd.got = crowd.got + 1
    under_way = under_way - 1
    return true
  end
  function crowd.send()
    for i, c in ipairs(crowd.clients) do
      if under_way < 64 then
        crowd.sent, under_way = crowd.sent + 1, under_way + 1
        open[i][crowd.sent] = true
        c:send(tostring(crowd.sent))
      end
      while receive(i, 0) do end
    end
    net.nap(2)
  end
  function crowd.finish()
    for i in ipairs(crowd.clients) do
      while next(open[i]) do
        assert.is_true(receive(i, 5), ("%d sent, %d came back"):format(crowd.sent, crowd.got))
      end
    end
  end
  return crowd
end

local ECHO = [[
return function(dgram) dgram:reply(dgram) end
]]

local PARKING_ECHO = [[
local count = 0
return function(dgram)
  count = count + 1
  if count % 5 == 0 then rille.sleep(0.01) end
  dgram:reply(dgram)
end
]]

describe("a reload of a datagram server", function()
  after_each(cleanup)

  for _, one in ipairs {
    { "reuseport", "udp://127.0.0.1:0" }, { "balanced", "udp://127.0.0.1:0" }, { "shared", "unixgram" },
  } do
    local accept, listen = one[1], one[2]
    local rounds = accept == "reuseport" and 50 or 10
    it(("loses no datagram, %d times, %s, two loops"):format(rounds, accept), function()
      if listen == "unixgram" then listen = "unixgram://" .. server.folder() .. "/sock" end
      local s = start(PARKING_ECHO, { listen = listen, conf = { loops = 2 }, server = { accept = accept } })
      local crowd = make_crowd(s, 8)
      for i = 1, rounds do reload_while(s, i + 1, crowd.send) end
      crowd.finish()
      assert.equal(crowd.sent, crowd.got)
      for i = 1, rounds do wait_retired(s, i) end
      s:stop()
    end)
  end

  it("lets handlers finish where they began", function()
    local s = start([[
local options = ...
return function(dgram)
  while dgram == "park" and not io.open(options.go) do rille.sleep(0.01) end
  dgram:reply("one " .. dgram)
end
]], { server = { options = { go = server.folder() .. "/go" } } })
    local c, other = udp.connect(s.url), udp.connect(s.url)
    c:send "park"
    assert.equal("one a", other:ask "a")
    write "return function(dgram) dgram:reply('two ' .. dgram) end\n"
    reload_ok(s)
    assert.equal("two b", other:ask "b")
    assert.equal(0, s:count_log("script@1: retired"))
    server.write("go", "")
    assert.equal("one park", c:receive(10))
    wait_retired(s, 1)
  end)

  it("cancels handlers at the end of reload.drain.deadline", function()
    local s = start([[
return function(dgram)
  dgram:reply("parks")
  local ok, err = pcall(rille.sleep, 1000)
  say("woken %s %s", tostring(ok), tostring(err))
  error(err, 0)
end
]], { conf = { reload = { drain = { deadline = 0.2 } } } })
    local c = udp.connect(s.url)
    assert.equal("parks", c:ask "a")
    write "return function(dgram) dgram:reply('two ' .. dgram) end\n"
    reload_ok(s)
    wait_said(s, "woken false cancelled")
    wait_retired(s, 1)
    assert.equal("two b", c:ask "b")
    assert.equal(0, s:count_log("level=error"))
  end)

  it("goes back by itself when too many handlers raise", function()
    local s = start(ECHO, { conf = { loops = 2, reload = { canary = { loops = 2, soak = 20, min_requests = 5 } } }, allow_errors = true })
    local c = udp.connect(s.url)
    assert.equal("a", c:ask "a")
    write "return function() error 'of this generation' end\n"
    reload_ok(s)
    net.poll_until(function()
      c:send "x"
      return s:log():find("rolled back", 1, true)
    end, 10)
    assert.truthy(s:log():find("rolled back", 1, true))
    wait_retired(s, 2)
    while c:try_receive(0.05) do end
    assert.equal("b", c:ask "b")
  end)

  it("keeps what is queued for an address that the next generation did not want, for when it is taken back", function()
    local url = "unixgram://" .. server.folder() .. "/inner"
    local s = start([[
local options = ...
return {
  on_start = function() assert(rille.listen(options.url, function(dgram) dgram:reply("inner " .. dgram) end)) end,
  on_request = function(dgram) dgram:reply(dgram) end,
}
]], { conf = { reload = { canary = { loops = 1, soak = 20, min_requests = 5 } } }, allow_errors = true,
      server = { options = { url = url } } })
    local c, inner = udp.connect(s.url), udp.connect(url)
    assert.equal("inner a", inner:ask "a")
    write "return function() error 'of this generation' end\n"
    reload_ok(s)
    inner:send "queued"
    inner:receives_nothing(0.1)
    net.poll_until(function()
      c:send "x"
      return s:log():find("rolled back", 1, true)
    end, 10)
    assert.equal("inner queued", inner:receive())
    wait_retired(s, 2)
    assert.equal("inner b", inner:ask "b")
  end)

  it("leaves a group of multicast as it is", function()
    local s = start(ECHO, { listen = "udp4://:0", conf = { loops = 2 },
      server = { multicast = { groups = { "239.1.2.3" }, interface = "lo" } } })
    local c = udp.connect((s.url:gsub("^(%w+)://.*:(%d+)$", "%1://127.0.0.1:%2")))
    for i = 2, 4 do
      reload_while(s, i, function() assert.equal("x", c:ask "x") end)
      assert.equal("y", c:ask "y")
    end
  end)
end)

-- Counts in ctx, which says on which generation (STEP) it was done.
local COUNTER = [[
return {
  on_connect = function(conn)
    say("connect " .. conn:peer())
    conn.ctx = { n = 0, by = {} }
  end,
  on_request = function(conn, dgram)
    if dgram == "fail" then error "of this one" end
    if dgram == "close" then return conn:close() end
    conn.ctx.n = conn.ctx.n + STEP
    conn:send(dgram .. " " .. conn.ctx.n)
  end,
  on_close = function(conn, err) say("close STEP %d %s", conn.ctx.n, tostring(err)) end,
}
]]

local function counter(step) return (COUNTER:gsub("STEP", tostring(step))) end

local function connect_all(s, size)
  local clients = {}
  for i = 1, size do
    clients[i] = udp.connect(s.url)
    clients[i].total = 0
  end
  return clients
end

-- Each goes on from what it had, by `step`, or by `other`, of the generation before it, as long as that serves. What was sent twice,
-- because loopback lost an answer, would count twice: no ask().
local function each_counts(clients, step, other)
  for _, c in ipairs(clients) do
    c:send "n"
    local now = tonumber(c:receive():match("^n (%d+)$"))
    local added = now - c.total
    if not (added == step or (added == other and not c.is_over)) then
      error(("%d became %d, with steps of %d"):format(c.total, now, step), 0)
    end
    c.total, c.is_over = now, added == step
  end
end

describe("sessions of datagrams", function()
  after_each(cleanup)

  for _, listen in ipairs { "udp://127.0.0.1:0", "unixgram" } do
    it("keep ctx through twenty reloads, over " .. listen, function()
      local is_unix = listen == "unixgram"
      local s = start(counter(1), {
        listen = is_unix and "unixgram://" .. server.folder() .. "/sock" or listen,
        conf = { loops = is_unix and 1 or 2 }, server = { session = {} },
      })
      local clients = connect_all(s, 12)
      local silent = connect_all(s, 4) -- which go over when the old generation ends
      each_counts(clients, 1)
      each_counts(silent, 1)
      for i = 1, 20 do
        write(counter(i + 1))
        for _, c in ipairs(clients) do c.is_over = false end
        reload_while(s, i + 1, function() each_counts(clients, i + 1, i) end)
        wait_retired(s, i)
        each_counts(clients, i + 1)
      end
      each_counts(silent, 21)
      assert.equal(16, count_of(s:said(), "^connect "))
      assert.equal(0, count_of(s:said(), "^close "))
      local totals = {}
      for i, c in ipairs(clients) do
        c:send "close"
        totals[i] = ("close 21 %d nil"):format(c.total)
      end
      wait_said(s, "^close 21 %d+ nil", 12)
      local closed = {}
      for _, text in ipairs(s:said()) do closed[#closed + 1] = text:match "^close.*" end
      table.sort(totals)
      table.sort(closed)
      assert.same(totals, closed)
      s:stop()
      assert.equal(4, count_of(s:said(), "^close 21 22 shutdown"))
      assert.equal(16, count_of(s:said(), "^close "))
    end)
  end

  it("get back what they had when a generation is taken back", function()
    local s = start(counter(1), { conf = { loops = 2, reload = { canary = { loops = 2, soak = 20, min_requests = 200 } } },
      server = { session = {} }, allow_errors = true })
    local clients, silent = connect_all(s, 6), connect_all(s, 3)
    for _ = 1, 3 do each_counts(clients, 1) end
    each_counts(silent, 1)
    write(counter(100))
    reload_ok(s)
    local new = connect_all(s, 1)
    for _ = 1, 2 do each_counts(clients, 100) end
    each_counts(new, 100)
    local failing = 0
    net.poll_until(function()
      local c = udp.connect(s.url)
      c:send "fail"
      c:close()
      failing = failing + 1
      return s:log():find("rolled back", 1, true)
    end, 20)
    assert.truthy(s:log():find("rolled back", 1, true))
    wait_retired(s, 2)
    for _, c in ipairs(clients) do c.total = 3 end
    each_counts(clients, 1)
    each_counts(silent, 1)
    each_counts(new, 1) -- which had nothing there
    assert.equal(0, count_of(s:said(), "^close %d+ %d+ [^e]"))
    assert.equal(10 + failing, count_of(s:said(), "^connect "))
    s:stop()
    assert.equal(10, count_of(s:said(), "^close 1 %d+ shutdown"))
  end)

  it("stay while a handler of theirs runs, and take what on_migrate returns", function()
    local s = start([[
return {
  on_request = function(conn, dgram)
    conn.ctx = conn.ctx or { kept = "kept", closure = function() end }
    if dgram == "park" then
      conn:send("parks")
      conn:send("got " .. conn:receive(20))
    else
      conn:send("one " .. dgram)
    end
  end,
  on_close = function() say "close in one" end,
}
]], { server = { session = {} } })
    local c, other = udp.connect(s.url), udp.connect(s.url)
    assert.equal("one a", other:ask "a")
    c:send "park"
    assert.equal("parks", c:receive())
    write [[
return {
  on_connect = function() say "connect in two" end,
  on_request = function(conn, dgram) conn:send("two " .. dgram .. " " .. tostring(conn.ctx.kept) .. " " .. tostring(conn.ctx.closure)) end,
  on_migrate = function(ctx) ctx.kept = ctx.kept .. " on" return ctx end,
}
]]
    reload_ok(s)
    assert.equal("two b kept nil", other:ask "b")
    assert.truthy(s:log():find("ctx.closure (a function) does not go to the next generation", 1, true))
    c:send "c"
    assert.equal("got c", c:receive()) -- the receive that is parked
    c:send "d"
    assert.equal("two d kept nil", c:receive())
    wait_retired(s, 1)
    reload_ok(s)
    assert.equal("two e kept on nil", other:ask "e")
    assert.equal("two e kept on nil", c:ask "e")
    assert.equal(0, count_of(s:said(), "."))
  end)

  it("with functions of a generation stay with it, until its time is over", function()
    local s = start([[
return function(conn, dgram)
  if dgram == "bind" then conn:on_close(function(_, err) say("closer of one: %s", tostring(err)) end) end
  if dgram == "spawn" then rille.spawn(function() say("reader %s", tostring(select(2, pcall(conn.receive, conn)))) end) end
  conn:send("one " .. dgram)
end
]], { server = { session = {} }, conf = { reload = { drain = { deadline = 1.5 } } } })
    local bound, reader = udp.connect(s.url), udp.connect(s.url)
    assert.equal("one bind", bound:ask "bind")
    assert.equal("one spawn", reader:ask "spawn")
    write "return function(conn, dgram) conn:send('two ' .. dgram) end\n"
    reload_ok(s)
    assert.equal("one a", bound:ask "a")
    wait_said(s, "^closer of one: shutdown")
    wait_said(s, "^reader cancelled")
    wait_retired(s, 1)
    assert.equal("two b", bound:ask "b")
    assert.equal("two b", reader:ask "b")
    s:stop()
    assert.equal(1, count_of(s:said(), "^closer"))
  end)

  it("keep their times, and their number, through reloads", function()
    local idle = 3 * net.slow -- both reloads are over by then
    local s = start([[
local options = ...
return {
  on_request = function(conn, dgram)
    if dgram == "own" then conn:set_timeouts { idle = 0, lifetime = options.lifetime } end
    conn:send(dgram)
  end,
  on_close = function(conn, err) say("close %s", tostring(err)) end,
}
]], { server = { session = { idle = idle, max = 3 }, options = { lifetime = idle * 1.2 } } })
    local clients = { udp.connect(s.url), udp.connect(s.url), udp.connect(s.url) }
    for i, c in ipairs(clients) do assert.equal(i == 1 and "own" or "x", c:ask(i == 1 and "own" or "x")) end
    reload_ok(s)
    reload_ok(s)
    udp.connect(s.url):send "one too many" -- they still count
    s:wait_log "session.max %(3%) reached"
    wait_said(s, "^close timeout", 3)
    for _ = 1, 3 do assert.equal("y", udp.connect(s.url):ask "y") end
  end)

  it("end when the next generation does not listen any more", function()
    local url = "unixgram://" .. server.folder() .. "/inner"
    local s = start([[
local options = ...
local function serve(conn, dgram)
  conn:on_close(function(_, err) say("close %s", tostring(err)) end)
  conn:send("inner " .. dgram)
end
return {
  on_start = function() assert(rille.listen(options.url, serve, { session = {} })) end,
  on_request = function() end,
}
]], { listen = "tcp://127.0.0.1:0", server = { options = { url = url } } })
    local c = udp.connect(url)
    assert.equal("inner a", c:ask "a")
    reload_ok(s)
    assert.equal("inner b", c:ask "b")
    write "return function() end\n"
    reload_ok(s)
    wait_said(s, "^close closed", 2)
    wait_retired(s, 1)
    wait_retired(s, 2)
    assert.equal("ECONNREFUSED", c:try_send "c")
  end)

  it("outlive a Lua state that fails, where another generation has them", function()
    local s = start([[
local options = ...
return {
  on_request = function(conn, dgram)
    if dgram == "park" then
      conn:send "parks"
      while not io.open(options.go) do rille.sleep(0.01) end
    end
    conn:send("one " .. dgram)
  end,
}
]], { server = { session = {}, options = { go = server.folder() .. "/go" } }, allow_errors = true, allow_failures = true })
    local c, other = udp.connect(s.url), udp.connect(s.url)
    c:send "park"
    assert.equal("parks", c:receive())
    write [[
return function(conn, dgram)
  if dgram == "fail" then conn:send "soon" require("rille.state").inbox = nil return end
  conn:send("two " .. dgram)
end
]]
    reload_ok(s)
    assert.equal("two a", other:ask "a")
    other:send "fail"
    s:wait_log "a new Lua state serves"
    server.write("go", "")
    assert.equal("one park", c:receive(10))
    c:send "b"
    assert.equal("two b", c:receive())
    wait_retired(s, 1)
    while other:try_receive(0.05) do end
    assert.equal("two c", other:ask "c")
  end)
end)

describe("sockets of a script", function()
  after_each(cleanup)

  it("end with its generation, and so does who is parked there", function()
    local s = start [[
local options = ...
local peer = rille.udp "udp://127.0.0.1:0"
local own = rille.udp()
assert(own:connect "udp://127.0.0.1:9")
rille.spawn(function()
  local ok, err = pcall(peer.receive, peer)
  say("parked %s", tostring(err))
  say("after %s", tostring(select(2, pcall(peer.receive, peer))))
end)
return {
  on_start = function() say("at %s, %s", peer:address(), tostring(own:send "x")) end,
  on_request = function(dgram) dgram:reply(peer:address()) end,
}
]]
    local c = udp.connect(s.url)
    local first = c:ask "a"
    local descriptors
    for i = 2, 5 do
      reload_ok(s)
      local now = c:ask "a"
      assert.are_not.equal(first, now)
      first = now
      wait_retired(s, i - 1)
      wait_said(s, "^parked cancelled", i - 1)
      wait_said(s, "^after cancelled", i - 1)
      descriptors = descriptors or s:descriptors() -- with those of the threads that stage
    end
    assert.equal(5, count_of(s:said(), "^at udp://127.0.0.1:%d+, true"))
    net.poll_until(function() return s:descriptors() <= descriptors end)
    assert.is_true(s:descriptors() <= descriptors)
  end)

  it("that cannot be opened keep a generation from serving", function()
    local s = start("return function(dgram) dgram:reply 'one' end\n", { allow_errors = true })
    local c = udp.connect(s.url)
    write(("rille.udp %q\nreturn function(dgram) dgram:reply 'two' end\n"):format(s.url))
    local code, err = reload(s)
    assert.equal(1, code)
    assert.matches("address in use", err, 1, true)
    assert.equal("one", c:ask "a")
  end)
end)
