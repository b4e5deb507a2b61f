-- Servers over datagrams: answers, lifetimes, limits, several loops, floods, the end.

local server = require "spec.support.server"
local udp = require "spec.support.udp"
local net = server.net

local ECHO = "scripts/udp_echo.lua"

local function cleanup()
  udp.close_all()
  server.cleanup()
end

local function start(script, opts)
  opts = opts or {}
  opts.listen = opts.listen or "udp://127.0.0.1:0"
  return server.start(script, opts)
end

-- What is bound to a wildcard, as a client of this host reaches it.
local function at(s, host)
  return ("udp://%s:%d"):format(host, s.port)
end

local FAMILIES = {
  udp = function() return "udp://127.0.0.1:0" end,
  udp4 = function() return "udp4://127.0.0.1:0" end,
  udp6 = function() return "udp6://[::1]:0" end,
  path = function() return "unixgram://" .. server.folder() .. "/sock" end,
  abstract = function() return "unixgram:@rille-spec-" .. net.C.net_getpid() end,
}

describe("datagrams", function()
  after_each(cleanup)

  for name, url_of in pairs(FAMILIES) do
    for _, accept in ipairs { "reuseport", "shared", "balanced" } do
      for _, loops in ipairs { 1, 2 } do
        local is_unix = name == "path" or name == "abstract"
        if not (is_unix and accept == "reuseport") then
          it(("come back, %s, %s, %d loops"):format(name, accept, loops), function()
            local s = start(ECHO, { listen = url_of(), conf = { loops = loops }, server = { accept = accept } })
            for i = 1, 6 do
              local c = udp.connect(s.url)
              for _, size in ipairs { 0, 1, 64, 1472, 2048, 2049, 60000 } do
                local bytes = net.noise(size, i)
                assert.is_true(c:ask(bytes) == bytes, size .. " bytes")
              end
              c:close()
            end
          end)
        end
      end
    end
  end

  it("are answered from the address they were sent to", function()
    for _, listen in ipairs { "udp4://:0", "udp://:0" } do
      local s = start(ECHO, { listen = listen })
      for _, host in ipairs { "127.0.0.1", "127.0.0.2", "127.1.2.3" } do
        -- what comes from elsewhere, a connected socket does not receive
        assert.equal(host, udp.connect(at(s, host)):ask(host))
      end
    end
    local s = start(ECHO, { listen = "udp://:0" })
    assert.equal("six", udp.connect(("udp6://[::1]:%d"):format(s.port)):ask "six")
  end)

  it("have a peer that can be kept and sent to later, by a timer or another task", function()
    local s = start([[
local last
return function(dgram, peer)
  if dgram == "who" then return dgram:reply(peer:address() .. " " .. tostring(peer) .. " " .. tostring(last == peer)) end
  last = peer
  rille.after(0.01, function() peer:send "later" end)
  rille.spawn(function() rille.sleep(0.05) assert(peer:send(rille.loop.id .. "")) end)
end
]])
    local c = udp.connect(s.url)
    c:send "x"
    assert.equal("later", c:receive())
    assert.equal("1", c:receive())
    local address = "127.0.0.1:" .. c:port()
    assert.equal(address .. " " .. address .. " true", c:ask "who")
    assert.matches(" false$", udp.connect(s.url):ask "who")
  end)

  it("live as long as their handler, parked or not", function()
    local s = start([[
local kept, retained
return function(dgram, peer)
  if dgram == "check" then
    local ok, err = pcall(function() return kept:str() end)
    local ok2, err2 = pcall(function() return kept:reply "x" end)
    dgram:reply(("%s %s %s %s %s"):format(tostring(ok), err:match("slice expired") , tostring(ok2), err2:match("slice expired"),
      retained:str()))
    return retained:release()
  end
  kept = dgram
  retained = dgram:sub(1, 3):retain()
  rille.sleep(0.05)
  dgram:reply("first ")
  peer:send(dgram:sub(2, -1))
  dgram:sub(1, 1):reply(dgram)
end
]])
    local c = udp.connect(s.url)
    c:send "hello"
    assert.equal("first ", c:receive())
    assert.equal("ello", c:receive())
    assert.equal("hello", c:receive())
    assert.equal("false slice expired false slice expired hel", c:ask "check")
  end)

  it("of a retained slice, or none of a datagram, are not replied to", function()
    local s = start([[
local Slice = require "rille.slice"
local LinkBuffer = require "rille.linkbuffer"
return function(dgram, peer)
  local buffer = LinkBuffer.new()
  buffer:write "bytes" buffer:flush()
  local other = buffer:next(5)
  local texts = {}
  for i, one in ipairs { other, Slice.empty(), dgram:retain() } do
    local ok, err = pcall(function() return one:reply "x" end)
    texts[i] = tostring(ok) .. (err:match "not of a datagram" or err)
  end
  dgram:release()
  buffer:close()
  local ok, err = pcall(function() peer:send {} end)
  texts[4] = err:match "string or a slice expected"
  peer:send(table.concat(texts, ","))
end
]])
    assert.equal("falsenot of a datagram,falsenot of a datagram,falsenot of a datagram,string or a slice expected",
      udp.connect(s.url):ask "x")
  end)

  it("over max_datagram are dropped, counted and logged", function()
    for _, listen in ipairs { "udp://127.0.0.1:0", FAMILIES.path() } do
      local s = start(ECHO, { listen = listen, limits = { max_datagram = 1000 } })
      local c = udp.connect(s.url)
      c:send(("x"):rep(1001)):send(("x"):rep(30000)):send(("y"):rep(1000))
      assert.is_true(c:receive() == ("y"):rep(1000))
      s:wait_log("over limits.max_datagram %(1000%)")
      assert.equal(2, s:state().datagrams_dropped)
    end
    local s = start(ECHO, { listen = "unixgram://" .. server.folder() .. "/large" })
    local c = udp.connect(s.url)
    c:send(("x"):rep(100000)):send "small"
    assert.equal("small", c:receive())
  end)

  it("whose handler raises are logged, and the others go on", function()
    local s = start([[
return function(dgram)
  if dgram == "raise" then error "of this one" end
  if dgram == "park" then rille.sleep(0.01) error "after a park" end
  dgram:reply(dgram)
end
]], { allow_errors = true })
    local c = udp.connect(s.url)
    for _, text in ipairs { "raise", "park", "raise" } do c:send(text) end
    assert.equal("fine", c:ask "fine")
    s:wait_log "on_request failed.-of this one"
    s:wait_log "on_request failed.-after a park"
  end)

  it("wait in the kernel while handlers have as many as they may", function()
    local s = start([[
local running, most = 0, 0
return function(dgram)
  if dgram == "most" then return dgram:reply(tostring(most)) end
  running = running + 1
  most = math.max(most, running)
  rille.sleep(0.05)
  running = running - 1
  dgram:reply(dgram)
end
]], { limits = { max_handlers = 10 }, server = { receive_buffer = "1m" } })
    local c = udp.connect(s.url)
    for i = 1, 60 do c:send("number " .. i) end
    local seen = {}
    for _ = 1, 60 do seen[c:receive()] = true end
    for i = 1, 60 do assert.is_true(seen["number " .. i]) end
    assert.equal("10", c:ask "most")
  end)

  it("to a port where nobody listens do not end the socket", function()
    local s = start([[
return function(dgram, peer)
  if dgram == "gone" then rille.after(0.02, function() for _ = 1, 20 do peer:send "nobody there" end end) end
  dgram:reply(dgram)
end
]])
    local gone = udp.connect(s.url)
    gone:ask "gone"
    gone:close()
    local c = udp.connect(s.url)
    local deadline = net.now() + 0.2
    while net.now() < deadline do assert.equal("here", c:ask "here") end
  end)

  it("go to a peer that takes nothing only for a while, and others are served", function()
    local s = start([[
return function(dgram, peer)
  if dgram ~= "many" then return dgram:reply(dgram) end
  local taken, err = 0
  for i = 1, 5000 do
    local ok, why = peer:send("number " .. i)
    if ok then taken = taken + 1 else err = why end
  end
  say("taken %d %s", taken, tostring(err))
end
]], { listen = FAMILIES.path(), limits = { send_queue = 100 } })
    local deaf = udp.connect(s.url, { is_unconnected = true })
    deaf:send_to("many", s.url)
    assert.matches("^taken %d+ full$", s:wait_said(1)[1])
    local c = udp.connect(s.url)
    assert.equal("hello", c:ask "hello")
    assert.equal("number 1", deaf:receive())
    s:wait_state(function(state) return state.datagrams_dropped > 4000 end)
  end)

  it("in a flood leave a share to connections", function()
    local s = server.start("scripts/echo.lua", {
      conf = {
        servers = {
          { listen = "tcp://127.0.0.1:0", script = server.root .. "/scripts/echo.lua" },
          { listen = "udp://127.0.0.1:0", script = server.root .. "/" .. ECHO },
        },
      },
    })
    s:wait_listening(2)
    local url_of = {}
    for _, url in ipairs(s.urls) do url_of[url:sub(1, 3)] = url end
    local tcp, flood = server.client.connect(url_of.tcp), udp.connect(url_of.udp)
    for _ = 1, 30 do
      for _ = 1, 1000 do flood:try_send "flood" end
      assert.equal("through", tcp:exchange "through")
    end
  end)

  it("that wait in the kernel at a stop are handled and answered", function()
    for _, accept in ipairs { "shared", "balanced", "reuseport" } do
      local s = start([[
return function(dgram)
  rille.sleep(0.1)
  dgram:reply(dgram)
end
]], { conf = { loops = 2 }, server = { accept = accept } })
      local c = udp.connect(s.url)
      s:signal "STOP"
      for i = 1, 50 do c:send("number " .. i) end
      s:signal "TERM"
      s:signal "CONT"
      local seen = {}
      for _ = 1, 50 do seen[c:receive()] = true end
      for i = 1, 50 do assert.is_true(seen["number " .. i], accept .. " " .. i) end
      assert.equal(0, s:wait_exit())
      s:check_end()
      s:forget()
    end
  end)

  it("of a handler that never comes back are given up after drain_timeout", function()
    local s = start([[
return function(dgram) dgram:reply "taken" rille.sleep(1000) end
]], { conf = { drain_timeout = "300ms" } })
    udp.connect(s.url):ask "x"
    s:stop()
  end)

  it("leave no Unix path behind, and take over one that nobody answers on", function()
    local url = FAMILIES.path()
    local path = url:match "//(.*)"
    local s = start(ECHO, { listen = url, server = { mode = "0600" } })
    assert.matches("^srw%-%-%-%-%-%-%-", io.popen("ls -l " .. path):read "*a")
    local second = server.spawn(ECHO, { listen = url })
    assert.equal(1, second:wait_exit())
    assert.matches("address in use", second:log())
    second:forget()
    s:kill()
    s:forget()
    s = start(ECHO, { listen = url })
    assert.equal("again", udp.connect(s.url):ask "again")
    s:stop()
    assert.is_nil(io.open(path))
  end)

  it("notice a busy port whatever the way to accept", function()
    local first = start(ECHO)
    for _, accept in ipairs { "reuseport", "shared", "balanced" } do
      local second = server.spawn(ECHO, { listen = first.url, conf = { loops = 2 }, server = { accept = accept } })
      assert.equal(1, second:wait_exit())
      assert.matches("address in use", second:log())
      second:forget()
    end
  end)

  it("can be listened to at run time, and the listener says what it counted", function()
    local s = start([[
local l
return function(dgram, peer)
  if dgram == "open" then
    l = assert(rille.listen("udp://127.0.0.1:0", function(d) d:reply("inner " .. d) end))
    dgram:reply(l:address())
  elseif dgram == "stats" then
    local stats = l:stats()
    dgram:reply(("%d %d %d %d"):format(stats.received, stats.bytes_in, stats.sent, stats.in_handlers))
  else
    l:close()
    dgram:reply(tostring(l:address()) .. tostring(l:stats()))
  end
end
]])
    local c = udp.connect(s.url)
    local inner = udp.connect(c:ask "open")
    inner:send "abc"
    assert.equal("inner abc", inner:receive())
    assert.equal("1 3 1 0", c:ask "stats")
    assert.equal("nilnil", c:ask "close")
    assert.equal("ECONNREFUSED", net.poll_until(function()
      local sent = inner:try_send "x"
      return sent ~= true and sent
    end))
  end)

  describe("that the kernel puts together", function()
    -- Sends datagrams in one piece, as a list: those of one size and a last one that is shorter.
    local function send_run(c, size, count, last)
      if not c:segment(size) then return nil end
      local list = {}
      for i = 1, count do list[i] = (("%d:"):format(i) .. ("x"):rep(size)):sub(1, i < count and size or last) end
      c:send(table.concat(list))
      return list
    end

    local KEEPER = [[
local kept = {}
return function(dgram, peer)
  if dgram == "kept" then
    local texts = {}
    for i, one in ipairs(kept) do texts[i] = one:str() one:release() end
    kept = {}
    return peer:send(table.concat(texts))
  end
  kept[#kept + 1] = dgram:retain()
end
]]

    for _, family in ipairs { "udp4", "udp6" } do
      it("come one by one, " .. family, function()
        local s = start([[
return function(dgram, peer)
  local head = dgram:sub(1, 3):str()
  if head == "10:" then rille.sleep(0.05) end
  dgram:reply(dgram)
  if head == "20:" then error("as asked") end
  peer:send(#dgram .. " bytes")
end
]], { listen = family .. (family == "udp6" and "://[::1]:0" or "://127.0.0.1:0"), allow_errors = true })
        local c = udp.connect(s.url)
        local sent = send_run(c, 300, 50, 111)
        if not sent then return pending "the kernel has no UDP_SEGMENT" end
        local got, sizes = {}, 0
        for _ = 1, 99 do
          local one = assert(c:try_receive(5))
          if one:find(" bytes$") then
            sizes = sizes + tonumber(one:match("%d+"))
          else
            got[tonumber(one:match("%d+"))] = one
          end
        end
        assert.same(sent, got)
        assert.equal(48 * 300 + 111, sizes)
        s:wait_log("as asked")
        assert.equal(0, s:wait_state(function(state) return state.blocks == 0 end).slices)
      end)
    end

    it("share a block, which lives as long as one of them", function()
      local s = start(KEEPER)
      local c = udp.connect(s.url)
      local sent = send_run(c, 1000, 40, 1000)
      if not sent then return pending "the kernel has no UDP_SEGMENT" end
      local state = s:wait_state(function(state) return state.slices == 40 end)
      assert.is_true(state.blocks < 40, state.blocks .. " blocks, with those that stand ready")
      c:segment(0)
      assert.equal(table.concat(sent), c:ask "kept")
      s:wait_state(function(now) return now.slices == 0 and now.blocks == 0 end)
      assert.equal(0, s:state().datagrams_dropped)
    end)

    it("are over max_datagram each for itself", function()
      local s = start(KEEPER, { limits = { max_datagram = 500 } })
      local c = udp.connect(s.url)
      local sent = send_run(c, 501, 10, 400)
      if not sent then return pending "the kernel has no UDP_SEGMENT" end
      s:wait_state(function(state) return state.datagrams_dropped == 9 end)
      c:segment(0)
      assert.equal(sent[10], c:ask "kept")
    end)

    it("are not more than max_handlers, and wait for each session in its queue", function()
      local GATE = [[
local inside, most = 0, 0
return function(dgram, peer)
  if dgram == "most" then return peer:send(most .. " " .. inside) end
  inside = inside + 1
  most = math.max(most, inside)
  rille.sleep(0.01)
  inside = inside - 1
end
]]
      for _, limit in ipairs { 20, 256, 300 } do
        local s = start(GATE, { limits = { max_handlers = limit } })
        local c = udp.connect(s.url)
        for i = 1, 20 do
          if not send_run(c, 100, 60, 50) then return pending "the kernel has no UDP_SEGMENT" end
          -- they come one by one there, and the kernel has no room for so many
          if limit < 256 then s:wait_state(function(state) return state.messages == i * 60 end) end
        end
        s:wait_state(function(state) return state.messages == 1200 end, 20)
        c:segment(0)
        local most, inside
        net.poll_until(function()
          most, inside = c:ask("most"):match("(%d+) (%d+)")
          return inside == "0"
        end)
        assert.is_true(tonumber(most) <= limit and inside == "0", most .. " at a time")
        s:stop()
      end
      local s = start([[
return function(conn, dgram)
  conn.ctx = (conn.ctx or 0) + 1
  conn:send(conn.ctx .. " " .. #dgram)
end
]], { server = { session = {} } })
      local c = udp.connect(s.url)
      for _ = 1, 3 do send_run(c, 100, 60, 60) end
      for i = 1, 180 do assert.equal(i .. (i % 60 == 0 and " 60" or " 100"), c:receive()) end
      assert.equal(0, s:state().datagrams_dropped)
    end)

    it("are handed on to other loops one by one", function()
      local s = start([[
return function(dgram) dgram:reply(rille.loop.id .. dgram:str()) end
]], { conf = { loops = 2 }, server = { accept = "balanced" } })
      local c = udp.connect(s.url)
      local sent = send_run(c, 200, 60, 100)
      if not sent then return pending "the kernel has no UDP_SEGMENT" end
      local by_loop, got = { 0, 0 }, {}
      for _ = 1, 60 do
        local loop, text = c:receive():match("^(%d)(.*)$")
        by_loop[tonumber(loop)] = by_loop[tonumber(loop)] + 1
        got[tonumber(text:match("%d+"))] = text
      end
      assert.same(sent, got)
      assert.same({ 30, 30 }, by_loop)
    end)
  end)

  it("leave no Lua garbage", function()
    if net.is_sanitized then return pending "measured without a sanitizer alone" end
    local s = start(ECHO)
    local c = udp.connect(s.url)
    local function some(n)
      for _ = 1, n do
        for _ = 1, 16 do c:send "a datagram of some bytes" end
        for _ = 1, 16 do if not c:try_receive(1) then break end end
      end
    end
    some(500)
    local best = math.huge
    for _ = 1, 5 do
      local before = s:state()
      some(300)
      local after = s:state()
      best = math.min(best, (after.lua_allocated - before.lua_allocated) / (after.messages - before.messages))
    end
    assert.is_true(best < 30, best .. " bytes a datagram")
  end)
end)

describe("the configuration of datagrams", function()
  after_each(cleanup)

  local function message_of(one, loops)
    one.script = "udp_echo.lua"
    one.listen = one.listen or "udp://127.0.0.1:7000"
    local _, message = require("rille.config").check({ loops = loops, servers = { one } })
    return message
  end

  it("says what cannot be", function()
    for text, one in pairs {
      ["servers%[1%].listen: tcp.- and udp.-make two servers"] = { listen = { "tcp://:1", "udp://:2" } },
      ["servers%[1%].codec: excludes udp"] = { codec = "some" },
      ["servers%[1%].protocol: got \"http\""] = { protocol = "http" },
      ["servers%[1%].session: is for datagrams"] = { listen = "tcp://:1", session = {} },
      ["servers%[1%].multicast: is for datagrams"] = { listen = "unix:@x", multicast = {} },
      ["servers%[1%].session.max: got 0"] = { session = { max = 0 } },
      ["servers%[1%].limits.max_datagram: got \"1m\""] = { limits = { max_datagram = "1m" } },
    } do
      assert.matches(text, message_of(one) or "no message")
    end
  end)

  it("says what cannot keep a peer on one loop, or would double what comes", function()
    local function of(one, loops) return message_of(one, loops or 2) end
    assert.matches("shared.-cannot keep a peer on one loop", of { session = {}, accept = "shared" })
    assert.matches("shared.-cannot keep a peer on one loop", of { session = {}, listen = "unixgram:@x" })
    assert.matches("round_robin.-cannot keep a peer on one loop", of { session = {}, accept = "balanced" })
    assert.is_nil(of { session = {}, accept = "balanced", balance = "source_hash" })
    assert.is_nil(of { session = {} })
    assert.is_nil(of({ session = {}, accept = "shared" }, 1))
    assert.matches("each loop would get a copy", of { multicast = {}, accept = "reuseport" })
    assert.is_nil(of { multicast = {} })
  end)
end)
