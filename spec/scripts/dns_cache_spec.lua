-- scripts/dns_cache.lua, as a user runs it, between Debian's dnsmasq and dig.

local dnsmasq = require "spec.support.dnsmasq"
local message = require "spec.support.dns"
local server = require "spec.support.server"
local udp = require "spec.support.udp"
local net = server.net

local function framed(bytes) return message.u16(#bytes) .. bytes end

-- The next answer of a connection.
local function receive(c)
  local head = c:receive(2)
  return message.read(c:receive(head:byte(1) * 256 + head:byte(2)))
end

describe("scripts/dns_cache.lua", function()
  after_each(function()
    udp.close_all()
    server.cleanup()
  end)

  -- On a port that is free for UDP and for TCP.
  local function start(options, words)
    for tries = 1, 5 do
      local command = { server.root .. "/bin/rille", "run", server.root .. "/scripts/dns_cache.lua", "--listen",
        "udp://127.0.0.1:" .. server.net.some_port() }
      for _, word in ipairs(words or {}) do command[#command + 1] = word end
      command[#command + 1] = "--"
      for _, word in ipairs(options) do command[#command + 1] = word end
      local s = server.spawn(nil, { command = command })
      local ok, err = pcall(s.wait_listening, s, 1)
      if ok then
        s.tcp = s.url:gsub("^udp", "tcp")
        return s
      end
      s:forget()
      if tries == 5 or not s:log():find("address in use", 1, true) then error(err, 0) end
    end
  end

  local function ask(s, name, kind, options)
    return message.read(udp.connect(s.url):ask(message.query(name, kind, options)))
  end

  it("serves dig what dnsmasq says, over UDP and TCP, and says it again when dnsmasq is gone", function()
    local peer = dnsmasq.start()
    local s = start({ "upstreams=" .. peer.address, "timeout=1", "tries=1" }, { "--loops", "1" })
    local function round()
      local one = dnsmasq.dig(s.port, "a.test")
      assert.same({ "NOERROR", "qr rd ra", "A 192.0.2.1" }, { one.status, one.flags, one.short[1] })
      assert.is_true(one.ttl > 200 and one.ttl <= 300)
      assert.same({ "AAAA 2001:db8::6" }, dnsmasq.dig(s.port, "six.test", "AAAA").short)
      assert.same({ "A 192.0.2.9" }, dnsmasq.dig(s.port, "any.wild.test", "+tcp").short)
      assert.same({ "MX 10 a.test." }, dnsmasq.dig(s.port, "mail.test", "MX", "+noedns").short)
      assert.equal(2, #dnsmasq.dig(s.port, "alias.test", "+dnssec").short)
      local big = dnsmasq.dig(s.port, "big.test", "TXT", "+ignore", "+bufsize=512")
      assert.same({ "qr tc rd ra", 0 }, { big.flags, #big.short })
      big = dnsmasq.dig(s.port, "big.test", "TXT", "+noedns") -- dig turns to TCP
      assert.same({ "qr rd ra", 3 }, { big.flags, #big.short })
      assert.truthy(big.text:find("retrying in TCP mode", 1, true))
      assert.equal(3, #dnsmasq.dig(s.port, "big.test", "TXT").short)
    end
    round()
    assert.equal("NXDOMAIN", dnsmasq.dig(s.port, "nowhere.test").status)
    peer.kill()
    round()
    assert.equal("SERVFAIL", dnsmasq.dig(s.port, "other.wild.test").status)
    dnsmasq.start(peer.port)
    local came_back = net.poll_until(function() return dnsmasq.dig(s.port, "other.wild.test").status == "NOERROR" end, 15)
    assert.is_true(came_back)
  end)

  it("serves on two loops, with another upstream dead", function()
    local peer = dnsmasq.start()
    local s = start({ "upstreams=127.0.0.1:1," .. peer.address }, { "--loops", "2" })
    for i = 1, 20 do
      assert.equal(1, ask(s, i .. ".wild.test", "A").answers)
      local c = s:connect(nil, s.tcp)
      c:send(framed(message.query(i .. ".wild.test", "A")))
      assert.equal(1, receive(c).answers)
      c:close()
    end
    s:wait_empty(2)
  end)

  it("knows what is blocked", function()
    local peer = dnsmasq.start()
    local s = start { "upstreams=" .. peer.address, "block=ads.wild.test,x.test,Whole.Wild.test." }
    for _, name in ipairs { "ads.wild.test", "X.ADS.wild.test", "x.test", "a.whole.wild.test" } do
      assert.equal(3, ask(s, name, "A").rcode)
    end
    assert.equal("NXDOMAIN", dnsmasq.dig(s.port, "+tcp", "a.x.test").status)
    assert.equal(0, ask(s, "bads.wild.test", "A").rcode)
  end)

  it("says what is wrong with its options", function()
    for text, options in pairs { ["upstreams is missing"] = {}, ["no address such as"] = { "upstreams=example.test" } } do
      local s = server.spawn(nil, { command = { server.root .. "/bin/rille", "run", server.root .. "/scripts/dns_cache.lua", "--listen",
        "udp://127.0.0.1:0", "--", "tries=1", unpack(options) } })
      s:forget()
      assert.equal(1, s:wait_exit())
      assert.truthy(s:log():find(text, 1, true), s:log())
    end
  end)

  describe("with clients that do wrong", function()
    local peer, s, before

    before_each(function()
      peer = dnsmasq.start()
      s = start({ "upstreams=" .. peer.address }, { "--loops", "1" })
      assert.equal(3, ask(s, "big.test", "TXT", { edns = 4096 }).answers)
      assert.equal(1, ask(s, "a.test", "A").answers)
      before = s:descriptors()
    end)

    after_each(function()
      if not s then return end
      s:wait_empty()
      assert.is_true(net.poll_until(function() return s:descriptors() <= before end, 5), "descriptors are left")
      assert.equal(1, ask(s, "a.test", "A").answers)
      s = nil
    end)

    it("answers malformed datagrams with FORMERR or not at all", function()
      local c = udp.connect(s.url)
      for i = 1, 500 do
        c:send(net.noise(i % 90, i))
        c:send(message.query("www.test", "A"):sub(1, 12) .. net.noise(i % 60, i))
        if i % 50 == 0 then
          assert.equal(1, ask(s, "a.test", "A").answers)
          while c:try_receive(0) do end
        end
      end
      assert.equal(1, message.read(c:ask(message.query("www.test", "A") .. net.noise(60000, 1))).rcode)
      assert.equal(4, message.read(c:ask(message.query("www.test", "A", { flags = 0x2100 }))).rcode)
      assert.equal(5, message.read(c:ask(message.query("www.test", 252))).rcode)
    end)

    it("answers a frame that cannot be read, and closes", function()
      local c = s:connect(nil, s.tcp)
      c:send(framed(message.query("a.test", "A")) .. framed(message.query("a.test", "A") .. "x"))
      assert.equal(0, receive(c).rcode)
      assert.equal(1, receive(c).rcode)
      assert.same({ "", "closed" }, { c:receive_all() })
      for _, bytes in ipairs { framed(""), framed("x"), framed(message.query("a.test", "A", { flags = 0x8100 })) } do
        c = s:connect(nil, s.tcp)
        c:send(bytes)
        assert.equal("", (c:receive_all()))
      end
      c = s:connect(nil, s.tcp)
      c:send(framed(message.query("a.test", "A") .. ("\0"):rep(60000)))
      assert.equal(1, receive(c).rcode)
      assert.equal("", (c:receive_all()))
    end)

    it("answers all that was asked before a half-close", function()
      local c = s:connect(nil, s.tcp)
      for i = 1, 50 do c:send(framed(message.query("h" .. i .. ".wild.test", "A", { id = i }))) end
      c:send("\0\40half")
      c:shutdown_write()
      local ids = {}
      for _ = 1, 50 do ids[receive(c).id] = true end
      assert.equal(50, #ids)
      assert.equal("", (c:receive_all()))
    end)

    it("takes its time with who sends a byte now and then", function()
      local c = s:connect(nil, s.tcp)
      c:send_slowly(framed(message.query("a.test", "A", { id = 4 })))
      assert.equal(4, receive(c).id)
      c:close()
    end)

    it("forgets who resets, in the middle of a question or of an answer", function()
      for i = 1, 20 do
        local c = s:connect(nil, s.tcp)
        c:send(framed(message.query("r" .. i .. ".wild.test", "A")) .. "\0")
        if i % 2 == 0 then receive(c) end
        c:reset()
      end
    end)

    it("reads no further while answers are not taken", function()
      local c = s:connect({ receive_buffer = 4096 }, s.tcp)
      local query = framed(message.query("big.test", "TXT"))
      local batch, sent = query:rep(500), 0
      local rss, moved_at = s:rss(), net.now()
      while net.now() < moved_at + 0.5 and sent < 256 * 2 ^ 20 do
        local n = c:try_send(batch, sent % #batch)
        sent = sent + n
        if n > 0 then moved_at = net.now() else net.nap(5) end
      end
      assert.is_true(sent < 256 * 2 ^ 20)
      assert.is_true(s:rss() - rss < 32 * 2 ^ 20)
      for _ = 1, 5000 do assert(receive(c).answers == 3) end
      c:reset()
    end)

    it("is at everybody's service while an upstream is silent", function()
      local silent = server.start("return function()\nend\n", { listen = "udp://127.0.0.1:0", name = "silent" })
      local slow = start({ "upstreams=127.0.0.1:" .. silent.port, "timeout=2", "tries=1", "block=x.test" }, { "--loops", "1" })
      local descriptors = slow:descriptors()
      for i = 1, 5 do
        local c = slow:connect(nil, slow.tcp)
        c:send(framed(message.query("s" .. i .. ".test", "A")))
        if i % 2 == 0 then c:reset() else c:shutdown_write() end
      end
      local waits = udp.connect(slow.url)
      waits:send(message.query("s1.test", "A", { id = 77 }))
      assert.equal(1, ask(slow, "www.test", 41).rcode)
      local c = slow:connect(nil, slow.tcp)
      c:send(framed(message.query("s9.test", "A", { id = 1 })) .. framed(message.query("x.test", "A", { id = 2 })))
      assert.equal(2, receive(c).id) -- what is known does not wait for what is not
      assert.equal(1, receive(c).id)
      c:close()
      local answer = message.read(waits:receive(10))
      assert.same({ 77, 2 }, { answer.id, answer.rcode })
      slow:wait_empty()
      assert.is_true(net.poll_until(function() return slow:descriptors() <= descriptors end, 5))
    end)
  end)
end)
