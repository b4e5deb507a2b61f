-- rille.dns: a forwarder beside servers that answer rightly, late, wrongly, or not at all. They are spec/support/dns.lua, on loopback.

local dns = require "rille.dns"
local inside = require "spec.support.inside"
local message = require "spec.support.dns"
local server = require "spec.support.server"

local HEAD = [[local dns, made = require "rille.dns", require "spec.support.dns" local zone ]]
  .. [[local served = made.serve(function(...) return zone(...) end) ]]
  .. [[local function forwarder(more) local o = { upstreams = served.address } for k, v in pairs(more or {}) do o[k] = v end ]]
  .. [[return dns.forwarder(o) end ]]
  .. [[local function ask(f, name, kind, options) ]]
  .. [[return made.read(assert(f:answer(made.query(name, kind or "A", options), options))) end ]]
  .. [[local function wait(what) for _ = 1, 400 do if what() then return end rille.sleep(0.01) end error("it never came about", 2) end ]]

local function check(code, options)
  return inside.check(HEAD .. "local ok, err = xpcall(function() " .. code
    .. "\nend, debug.traceback) served.close() if not ok then error(err, 0) end", options)
end

describe("a forwarder of DNS", function()
  after_each(server.cleanup)

  it("asks once, and answers from its cache with the client's id and letters, and TTLs that age", function()
    check [[
      zone = function(name, kind)
        if kind == "AAAA" then return { { name, "AAAA", 100, "2001:db8:0:0:0:0:0:1" } } end
        return { { name, "A", 100, "192.0.2.1" }, { name, "A", 60, "192.0.2.2" } }
      end
      local f = forwarder()
      local first = ask(f, "www.test", "A", { id = 1 })
      equal(first.id, 1) equal(first.answers, 2) equal(first.ttls[1], 100)
      local again = ask(f, "wWw.TesT", "A", { id = 0xfffe, edns = 4096 })
      equal(again.id, 0xfffe) equal(again.answers, 2) equal(again.additionals, 1)
      equal(again.question, made.name "wWw.TesT" .. "\0\1\0\1")
      equal(again.flags, 0x8180)
      rille.sleep(1.1)
      local aged = ask(f, "www.test")
      assert(aged.ttls[1] < 100 and aged.ttls[1] > 80 and aged.ttls[2] < 60 and aged.ttls[2] > 40)
      equal(served.total, 1)
      ask(f, "www.test", "AAAA") ask(f, "www.test", "A", { edns = 1232, ok = true }) ask(f, "www.test", "A", { flags = 0x110 })
      equal(served.total, 4) -- type, DO and CD are questions of their own
      local stats = f:stats()
      equal(stats.hits, 2) equal(stats.misses, 4) equal(stats.entries, 4) equal(stats.pending, 0) equal(stats.waiting, 0)
      f:clear()
      equal(f:stats().entries, 0)
    ]]
  end)

  it("keeps what does not exist for as long as the SOA says, and nothing without one", function()
    check [[
      zone = function(name, kind)
        if name == "bare.test" then return { rcode = 3 } end
        return { rcode = name == "no.test" and 3 or 0, authority = { { "test", "SOA", 50, name == "long.test" and 90000 or 20 } } }
      end
      local f = forwarder { negative_max = 40 }
      for _ = 1, 2 do
        local no = ask(f, "no.test")
        equal(no.rcode, 3) equal(no.authorities, 1) equal(no.ttls[1], 20) -- the lesser of TTL and minimum
        equal(ask(f, "empty.test").ttls[1], 20)
        equal(ask(f, "long.test").ttls[1], 40)
        equal(ask(f, "bare.test").rcode, 3)
      end
      equal(served.asked["no.test A"], 1) equal(served.asked["empty.test A"], 1) equal(served.asked["bare.test A"], 2)
    ]]
  end)

  it("keeps TTLs within its bounds, and what has none not at all", function()
    check [[
      local ttl = 0
      zone = function(name) return { { name, "A", ttl, "192.0.2.1" } } end
      local f = forwarder()
      ask(f, "www.test") ask(f, "www.test")
      equal(served.total, 2)
      ttl = 2 ^ 31 + 5 -- RFC 2181, 8: none
      equal(ask(f, "www.test").ttls[1], 0)
      f = forwarder { ttl_min = 30, ttl_max = 300 }
      ttl = 0
      equal(ask(f, "low.test").ttls[1], 30)
      ttl = 90000
      equal(ask(f, "high.test").ttls[1], 300)
      local before = served.total
      ask(f, "low.test") ask(f, "high.test")
      equal(served.total, before)
      f = forwarder()
      ttl = 1
      ask(f, "short.test")
      rille.sleep(1.1)
      equal(ask(f, "short.test").ttls[1], 1)
      equal(served.asked["short.test A"], 2)
    ]]
  end)

  it("cuts what does not fit into a datagram, and asks over TCP for what was cut", function()
    check [[
      zone = function(name, kind, way)
        if name == "cut.test" and way == "udp" then return { truncated = true } end
        local list = {}
        for i = 1, name == "huge.test" and 30 or 4 do list[i] = { name, "TXT", 60, { ("x"):rep(200) } } end
        if name == "huge.test" and way == "udp" then return { truncated = true } end
        return list
      end
      local f = forwarder()
      local cut = ask(f, "big.test", "TXT")
      equal(cut.truncated, true) equal(cut.answers, 0) equal(cut.size, 12 + 10 + 4)
      equal(ask(f, "big.test", "TXT", { edns = 600 }).truncated, true)
      local whole = ask(f, "big.test", "TXT", { edns = 4096 })
      equal(whole.truncated, false) equal(whole.answers, 4)
      equal(ask(f, "big.test", "TXT", { stream = true }).answers, 4)
      equal(served.over_tcp, 0)
      equal(ask(f, "cut.test", "TXT", { edns = 1232 }).answers, 4)
      equal(ask(f, "huge.test", "TXT", { edns = 65535 }).truncated, true) -- more than goes through networks in one piece
      equal(ask(f, "huge.test", "TXT", { stream = true }).answers, 30)
      equal(served.over_tcp, 2) equal(f:stats().tcp, 2)
    ]]
  end)

  it("asks equal questions under way once", function()
    check [[
      zone = function(name) return { { name, "A", 0, "192.0.2.1" }, delay = 0.2 } end
      local f, tasks = forwarder(), {}
      for i = 1, 50 do tasks[i] = rille.spawn(function() return ask(f, i % 2 == 0 and "WWW.test" or "www.TEST", "A", { id = i }) end) end
      rille.yield()
      equal(f:stats().waiting, 50) equal(f:stats().pending, 1)
      tasks[7]:cancel()
      for i = 1, 50 do
        local answer = tasks[i]:join()
        if i ~= 7 then equal(answer.id, i) equal(answer.answers, 1) equal(answer.question:sub(2, 4), i % 2 == 0 and "WWW" or "www") end
      end
      equal(served.total, 1) equal(f:stats().joined, 49) equal(f:stats().waiting, 0)
    ]]
  end)

  it("takes no answer of another id, question, or sender", function()
    check [[
      local good = { "www.test", "A", 60, "192.0.2.1" }
      local stranger = rille.udp "udp://127.0.0.1:0"
      zone = function()
        return { good, before = function(send, id, question, peer)
          local evil = "\0\0\0\0\192\12\0\1\0\1\0\0\0\9\0\4\6\6\6\6"
          local other = made.u16((id:byte(1) * 256 + id:byte(2) + 1) % 65536)
          local head = "\129\128\0\1\0\1"
          send("") send("x") send(id) send(("\255"):rep(600)) send(id .. ("\0"):rep(10))
          send(other .. head .. "\0\0\0\0" .. question .. evil:sub(5))
          send(id .. head .. "\0\0\0\0" .. made.name "eee.test" .. "\0\1\0\1" .. evil:sub(5))
          send(id .. head .. "\0\0\0\0" .. question:sub(1, -4) .. "\28\0\1" .. evil:sub(5))
          send(id .. "\1\0\0\1\0\1\0\0\0\0" .. question .. evil:sub(5)) -- a query
          stranger:send_to(id .. head .. "\0\0\0\0" .. question .. evil:sub(5), peer:address())
        end }
      end
      local f = forwarder()
      local answer = f:answer(made.query("www.test", "A"))
      equal(answer:sub(-4), "\192\0\2\1")
      equal(f:stats().wrong, 9) equal(served.total, 1) equal(f:stats().failed, 0)
      stranger:close()
    ]]
  end)

  it("turns to TCP when somebody guesses", function()
    check [[
      zone = function(name, kind, way)
        return { { name, "A", 60, "192.0.2.1" }, silent = way == "udp", before = way == "udp" and function(send)
          for i = 1, 100 do send(made.u16(i) .. ("\0"):rep(20)) end
        end or nil }
      end
      local f = forwarder { timeout = 5 }
      equal(ask(f, "www.test").answers, 1) equal(f:stats().wrong, 64) equal(served.over_tcp, 1)
    ]]
  end)

  it("goes on to the next server, and stays with the one that answers", function()
    check [[
      local silent = made.serve(function() end)
      local refusing = made.serve(function() return { rcode = 5 } end)
      local broken = made.serve(function(name) return { count = 3, raw = "\192\12\0\1\0\1\0\0\0\9\0\4" } end)
      local loops = made.serve(function(name) return { count = 1, raw = "\192\26\0\1\0\1\0\0\0\9\0\4abcd" } end)
      local gone = "127.0.0.1:1"
      zone = function(name) return { { name, "A", 60, "192.0.2.1" } } end
      local f = dns.forwarder { timeout = 0.7,
        upstreams = { gone, silent.address, refusing.address, broken.address, loops.address, served.address } }
      equal(ask(f, "one.test").answers, 1)
      equal(f:stats().asked, 6) equal(f:stats().failed, 5)
      equal(ask(f, "two.test").answers, 1)
      equal(f:stats().asked, 7) equal(silent.total, 1)
      silent.close() refusing.close() broken.close() loops.close()
    ]]
  end)

  it("asks again without EDNS who cannot read a question with it", function()
    check [[
      local refusals = 0
      zone = function(name, kind, way, count, has_edns)
        if not has_edns and name ~= "never.test" then return { { name, "A", 60, "192.0.2.1" } } end
        refusals = refusals + 1
        local code = name == "not.test" and "\129\132" or "\129\129" -- NOTIMP, FORMERR
        return { silent = true, before = function(send, id) send(id .. code .. ("\0"):rep(8)) end } -- the header alone
      end
      local f = forwarder { timeout = 5, tries = 1 }
      local began = rille.now()
      equal(ask(f, "old.test").answers, 1) equal(refusals, 1) equal(served.total, 2)
      equal(ask(f, "never.test").rcode, 2) equal(refusals, 3)
      equal(ask(f, "not.test").rcode, 2) equal(refusals, 4)
      equal(f:stats().wrong, 0) equal(rille.now() - began < 5, true) -- nobody waits for what does not come
    ]]
  end)

  it("says SERVFAIL when no server answers, and asks nobody for a while", function()
    check [[
      local answers = false
      zone = function(name) return answers and { { name, "A", 60, "192.0.2.1" } } or nil end
      local f = forwarder { timeout = 0.4, tries = 2, failure_ttl = 1 }
      local answer = ask(f, "WWW.test", "A", { id = 5, edns = 1232 })
      equal(answer.rcode, 2) equal(answer.id, 5) equal(answer.answers, 0) equal(answer.question:sub(2, 4), "WWW")
      equal(served.total, 2)
      answers = true
      equal(ask(f, "www.test", "A", { edns = 1232 }).rcode, 2) equal(served.total, 2)
      rille.sleep(1.1)
      equal(ask(f, "www.test").answers, 1)
      equal(f:stats().failed, 2)
    ]]
  end)

  it("answers with what is stale when no server does, if it may", function()
    check [[
      local answers = true
      zone = function(name)
        if answers == "none" then return { rcode = 3 } end
        return answers and { { name, "A", 1, "192.0.2.1" } } or nil
      end
      local f = forwarder { timeout = 0.5, tries = 1, stale = "1h" }
      equal(ask(f, "www.test").ttls[1], 1) equal(ask(f, "gone.test").ttls[1], 1)
      rille.sleep(1.1)
      answers = "none"
      equal(ask(f, "gone.test").rcode, 3) -- without a SOA, so nothing to keep
      answers = false
      for _ = 1, 3 do
        local stale = ask(f, "www.test")
        equal(stale.rcode, 0) equal(stale.answers, 1) equal(stale.ttls[1], 30) -- RFC 8767, 4
      end
      equal(served.total, 4) equal(f:stats().stale, 3)
      equal(ask(f, "other.test").rcode, 2)
      equal(ask(f, "gone.test").rcode, 2) -- what it was before it was gone is no answer any more
    ]]
  end)

  it("answers what cannot be asked with the error it is, and nothing to what is no query", function()
    check [[
      zone = function(name) return { { name, "A", 60, "192.0.2.1" } } end
      local f = forwarder()
      local function rcode(text) return made.read(assert(f:answer(text))).rcode end
      local good = made.query("www.test", "A")
      for i = 0, 11 do equal(select(2, f:answer(good:sub(1, i))), "ignored") end
      for i = 12, #good - 1 do equal(rcode(good:sub(1, i)), 1) end
      equal(select(2, f:answer(made.query("www.test", "A", { flags = 0x8100 }))), "ignored")
      equal(rcode(good .. "x"), 1)
      equal(rcode("\0\1\1\0\0\2\0\0\0\0\0\0" .. good:sub(13) .. good:sub(13)), 1)
      equal(rcode("\0\1\1\0\0\1\0\0\0\0\0\0\192\12\0\1\0\1"), 1)
      equal(rcode("\0\1\1\0\0\1\0\0\0\0\0\0" .. ("\63" .. ("x"):rep(63)):rep(4) .. "\0\0\1\0\1"), 1)
      equal(rcode(made.query("www.test", "A", { edns = 1232, raw = "\0" })), 1)
      equal(rcode(made.query("www.test", 41)), 1)
      equal(rcode(made.query("www.test", "A", { flags = 0x2900 })), 4)
      equal(rcode(made.query("test", 250)), 4)
      equal(rcode(made.query("test", 252)), 5)
      equal(rcode(made.query("www.test", "A", { flags = 0 })), 5)
      equal(rcode(made.query("version.bind", "TXT", { class = 3 })), 5)
      local version = f:answer(made.query("www.test", "A", { edns = 512, version = 1 }))
      equal(version:sub(-11), "\0\0\41\4\208\1\0\0\0\0\0") -- BADVERS: 16, its upper bits in EDNS
      equal(served.total, 0)
      equal(rcode(good), 0)
    ]]
  end)

  it("has limits on what is asked and on who waits", function()
    check [[
      zone = function(name) return { { name, "A", 60, "192.0.2.1" }, delay = 0.3 } end
      local f, tasks = forwarder { max_pending = 2, max_waiting = 3 }, {}
      for i, name in ipairs { "a.test", "b.test", "c.test", "a.test", "b.test" } do
        tasks[i] = rille.spawn(function() return ask(f, name).rcode end)
      end
      local got = {}
      for i = 1, 5 do got[i] = tasks[i]:join() end
      equal(table.concat(got), "00202") equal(f:stats().full, 2)
      equal(ask(f, "c.test").rcode, 0)
    ]]
  end)

  it("keeps within its size, and drops what was not asked for longest", function()
    check [[
      zone = function(name) return { { name, "TXT", 600, { ("x"):rep(200) } } } end
      local f = forwarder { size = "64k" }
      ask(f, "kept.test", "TXT")
      for i = 1, 400 do
        ask(f, i .. ".test", "TXT")
        if i % 20 == 0 then ask(f, "kept.test", "TXT") end
        assert(f:stats().bytes <= 65536)
      end
      local stats = f:stats()
      assert(stats.entries > 100 and stats.entries < 300 and stats.evicted == 401 - stats.entries)
      equal(served.asked["kept.test TXT"], 1)
      ask(f, "1.test", "TXT")
      equal(served.asked["1.test TXT"], 2)
    ]]
  end)

  it("gives what it has when it is cancelled, or its run ends in the middle", function()
    check [[
      zone = function() end
      local f = forwarder { timeout = 30 }
      local task = rille.spawn(function() return ask(f, "a.test") end)
      rille.spawn(function() return ask(f, "b.test") end)
      rille.sleep(0.05)
      task:cancel()
      task:join()
      wait(function() return f:stats().waiting == 1 end)
      equal(f:stats().pending, 2) -- asked to the end, for who asks next
    ]]
  end)

  it("survives whatever comes over TCP", function()
    local bodies = { '""', [["\0"]], [["\0\5abc"]], [["\0\0"]], [["\255\255" .. ("x"):rep(65535)]], [[("\0\40" .. ("\255"):rep(40))]] }
    check(([[
      local bodies = { %s }
      zone = function(name, kind, way)
        if way == "udp" then return { truncated = true } end
        return { silent = true, before = function(send) send(bodies[tonumber(name:match "%%d+")]) end }
      end
      local f = forwarder { timeout = 0.5, tries = 1 }
      for i = 1, #bodies do equal(ask(f, i .. ".test").rcode, 2) end
      equal(f:stats().tcp, #bodies)
    ]]):format(table.concat(bodies, ", ")))
  end)

  it("checks its options", function()
    for text, options in pairs {
      ["upstreams is missing"] = {}, ["upstreams is missing "] = { upstreams = "" }, ["upstreams[1] is an address"] = { upstreams = { 5 } },
      ["no address such as"] = { upstreams = "dns.example" }, ["no option 'sizes'"] = { upstreams = "127.0.0.1", sizes = 1 },
      ["size: bytes, 64k or more expected, got 1k"] = { upstreams = "127.0.0.1", size = "1k" },
      ["tries: a whole number, 1 to 10 expected, got 0"] = { upstreams = "127.0.0.1", tries = "0" },
      ["ttl_min is more than ttl_max"] = { upstreams = "127.0.0.1", ttl_min = 10, ttl_max = 5 },
      ["timeout: seconds, up to 60 expected, got soon"] = { upstreams = "::1", timeout = "soon" },
    } do
      local ok, err = pcall(dns.forwarder, options)
      assert.is_false(ok)
      assert.truthy(tostring(err):find((text:gsub(" $", "")), 1, true), tostring(err))
    end
    for _, bad in ipairs {
      "192.0.2.1:0", "192.0.2.1:99999", "192.0.2.1:", "192.0.2.1:x", "[::1", "::1]", "192.0.2", "a:b", "udp://192.0.2.1:53", "[::1]:",
    } do
      local ok, err = pcall(dns.forwarder, { upstreams = { bad } })
      assert.is_false(ok, bad)
      assert.truthy(tostring(err):find("no address such as", 1, true), tostring(err))
    end
    assert.is_table(dns.forwarder { upstreams = "192.0.2.1, 2001:db8::1 [::1]:5300,127.0.0.1:5301", size = "1m", ttl_max = "60" })
  end)

  it("says what a message asks, and answers with errors", function()
    assert.same({ "www.test", "A" }, { dns.question(message.query("WWW.Test", "A")) })
    assert.same({ ".", "NS" }, { dns.question(message.query("", "NS")) })
    assert.same({ "a\\.b.\\000\\032\\255.test", 999 }, { dns.question((message.query("aXb.YZW.test", 999)
      :gsub("aXb", "a.b"):gsub("YZW", "\0 \255"))) })
    assert.same({ nil, "ignored" }, { dns.question "" })
    assert.same({ nil, "formerr" }, { dns.question(("\0"):rep(12)) })
    assert.same({ nil, "refused" }, { dns.question(message.query("test", 252)) })
    local answer = message.read(dns.error(message.query("Www.test", "A", { id = 9 }), "nxdomain"))
    assert.same({ 9, 3, 1 }, { answer.id, answer.rcode, answer.questions })
    assert.same({ nil, "ignored" }, { dns.error("", "refused") })
    assert.has_error(function() dns.error("x", "nothing") end)
    assert.has_error(function() dns.question(5) end)
  end)
end)
