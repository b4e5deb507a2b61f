-- Names that are looked up: records of every type, hosts and resolv.conf, the cache, and servers that do wrong. The server is
-- spec/support/dns.lua, on loopback.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local HEAD = [[local dns = require "spec.support.dns" local zone local served = dns.serve(function(...) return zone(...) end) ]]
  .. [[local function with(more) local o = { servers = { served.address }, hosts = "", search = {} } ]]
  .. [[for k, v in pairs(more or {}) do o[k] = v end return { dns = o } end ]]
  .. [[local function ask(name, kind, more) return rille.resolve(name, kind, with(more)) end ]]

local function check(code, options)
  return inside.check(HEAD .. "local ok, err = xpcall(function() " .. code
    .. "\nend, debug.traceback) served.close() if not ok then error(err, 0) end", options)
end

describe("rille.resolve", function()
  after_each(server.cleanup)

  it("gives records of every type, with their time to live", function()
    check [[
      zone = function(name, kind)
        if kind == "A" then return { { name, "A", 60, "192.0.2.1" }, { name, "A", 30, "192.0.2.2" } } end
        if kind == "AAAA" then return { { name, "AAAA", 90, "2001:db8:0:0:0:0:0:1" } } end
        if kind == "SRV" then
          return { { name, "SRV", 5, { 20, 0, 5061, "b.test" } }, { name, "SRV", 5, { 10, 1, 5060, "a.test" } },
            { name, "SRV", 5, { 10, 9, 5062, "c.test" } } }
        end
        if kind == "TXT" then return { { name, "TXT", 5, { "one ", "two\0" } }, { name, "TXT", 5, { ("x"):rep(255), "y" } } } end
        if kind == "MX" then return { { name, "MX", 5, { 20, "mx2.test" } }, { name, "MX", 5, { 10, "mx1.test" } } } end
        if kind == "NS" then return { { name, "NS", 5, "ns1.test" }, { name, "NS", 5, "ns2.test" } } end
        if kind == "CNAME" then return { { name, "CNAME", 5, "other.test" } } end
        if kind == "PTR" then return { { name, "PTR", 5, name:find("ip6", 1, true) and "six.test" or "four.test" } } end
      end
      local both = assert(ask "www.test")
      equal(table.concat(both, " "), "192.0.2.1 192.0.2.2 2001:db8::1")
      equal(both.ttl, 30)
      equal(table.concat(assert(ask("www.test", "A")), " "), "192.0.2.1 192.0.2.2")
      equal(table.concat(assert(ask("www.test", "AAAA")), " "), "2001:db8::1")
      local srv = assert(ask("_sip._udp.test", "SRV"))
      equal(srv[1].target .. srv[1].port .. srv[1].weight .. srv[1].priority, "c.test5062910")
      equal(srv[2].target, "a.test") equal(srv[3].target, "b.test")
      local txt = assert(ask("text.test", "TXT"))
      equal(txt[1], "one two\0") equal(#txt[2], 256)
      local mx = assert(ask("test", "MX"))
      equal(mx[1].exchange .. mx[1].preference, "mx1.test10") equal(mx[2].exchange, "mx2.test")
      equal(table.concat(assert(ask("test", "NS")), " "), "ns1.test ns2.test")
      equal(ask("alias.test", "CNAME")[1], "other.test")
      equal(ask("192.0.2.1", "PTR")[1], "four.test")
      equal(ask("2001:db8::1", "PTR")[1], "six.test")
      equal(ask("::ffff:192.0.2.1", "PTR")[1], "six.test") equal(ask("fe80::1%lo", "PTR")[1], "six.test")
      assert(served.asked["1.0.2.0.0.0.0.c.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa PTR"])
      assert(served.asked["1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.e.f.ip6.arpa PTR"])
      assert(served.asked["1.2.0.192.in-addr.arpa PTR"])
      assert(served.asked["1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR"])
    ]]
  end)

  it("follows aliases, and notices those that go in circles or lead nowhere", function()
    check [[
      zone = function(name, kind)
        if name == "long.test" then
          local list = {}
          for i = 0, 20 do list[#list + 1] = { i == 0 and name or "a" .. i .. ".test", "CNAME", 9, "a" .. i + 1 .. ".test" } end
          return list
        end
        if name == "loop.test" then return { { name, "CNAME", 9, "pool.test" }, { "pool.test", "CNAME", 9, name } } end
        if name == "self.test" then return { { name, "CNAME", 9, name } } end
        if name == "lost.test" then return { { name, "CNAME", 9, "nowhere.test" } } end
        return { { "Real.Test", "A", 50, "192.0.2.9" }, { name, "CNAME", 7, "middle.test" }, { "MIDDLE.test", "CNAME", 8, "real.test" } }
      end
      local list = assert(ask("www.test", "A"))
      equal(#list, 1) equal(list[1], "192.0.2.9") equal(list.ttl, 7)
      for _, name in ipairs { "loop.test", "self.test", "long.test" } do
        local got, err, message = ask(name, "A")
        equal(got, nil) equal(err, "server failure") equal(message, "cannot look up " .. name .. ": server failure")
      end
      equal(select(2, ask("lost.test", "A")), "not found")
    ]]
  end)

  it("refuses what is no name", function()
    check [[
      zone = function() error "nobody is to be asked" end
      for name, why in pairs {
        [""] = "empty", [("a"):rep(64) .. ".test"] = "63", [("abcdefg."):rep(40)] = "255", ["a b"] = "spaces", ["a\nb"] = "control",
        ["a\0b"] = "control", ["\195\164.test"] = "ASCII", ["a..b"] = "label", [".a"] = "label", ["."] = "root", ["a\\b"] = "backslash",
      } do
        local got, err, message = ask(name)
        equal(got, nil) equal(err, "invalid argument")
        assert(message:find(why, 1, true), message)
      end
      equal(ask("192.0.2.1")[1], "192.0.2.1")
      equal(ask("2001:db8::1", "AAAA")[1], "2001:db8::1")
      equal(select(2, ask("192.0.2.1", "AAAA")), "invalid argument")
      for _, bad in ipairs { "192.0.2.999", "::zz", "1::2::3", "fe80::1::", "12345::1" } do
        for _, kind in ipairs { "A", "AAAA", "PTR", "MX" } do
          local got, err, message = ask(bad, kind)
          equal(got, nil) equal(err, "invalid argument") assert(message:find("is no address", 1, true), message)
        end
        equal(select(2, ask(bad)), "invalid argument")
      end
      equal(select(2, ask("192.0.2.1", "MX")), "invalid argument")
      raises("a name expected, got number", rille.resolve, 7)
      raises("SRV, TXT, MX, PTR, NS or CNAME expected, got X", rille.resolve, "a.test", "X")
      raises("dns.servers[1]: got \"nobody\"", rille.resolve, "a.test", "A", { dns = { servers = { "nobody" } } })
      raises("dns.trys: unknown key; did you mean 'tries'?", rille.resolve, "a.test", "A", { dns = { trys = 1 } })
      equal(served.total, 0)
    ]]
  end)

  it("names each way in which servers fail", function()
    check [[
      zone = function(name)
        if name == "none.test" then return { rcode = 3 } end
        if name == "empty.test" then return {} end
        if name == "servfail.test" then return { rcode = 2 } end
        if name == "notimp.test" then return { rcode = 4 } end
        if name == "refused.test" then return { rcode = 5 } end
        if name == "silent.test" then return nil end
        if name == "cut.test" then return { count = 3, raw = "\3abc" } end
        if name == "short.test" then return { { name, "A", 9, { raw = "abc" } } } end
        if name == "circle.test" then return { count = 1, raw = "\192\12\0\1\0\1" } end
        if name == "pointer.test" then return { count = 1, raw = "\193\255\0\1\0\1\0\0\0\9\0\4abcd" } end
        if name == "other.test" then return { { "another.test", "A", 9, "192.0.2.1" } } end
      end
      local quick = { timeout = 0.1, tries = 2 }
      local function fails(name, err)
        local got, why, message = ask(name, "A", quick)
        equal(got, nil) equal(name .. " " .. why, name .. " " .. err)
        equal(message, ("cannot look up %s: %s"):format(name, err))
      end
      fails("none.test", "not found")
      fails("empty.test", "not found")
      fails("servfail.test", "server failure")
      fails("notimp.test", "server failure")
      fails("refused.test", "refused")
      local before = clock()
      fails("silent.test", "timeout")
      assert(clock() - before < 5 * SLOW)
      equal(served.asked["silent.test A"], 2)
      for _, name in ipairs { "cut.test", "short.test", "circle.test", "pointer.test" } do fails(name, "server failure") end
      fails("other.test", "not found")
      -- nobody there
      local nobody = { servers = { "127.0.0.1:1" }, timeout = 1, tries = 1 }
      local got, why = ask("a.test", "A", nobody)
      equal(got, nil) equal(why, "refused")
    ]]
  end)

  it("asks the next server when one cannot help", function()
    check [[
      local other = dns.serve(function(name) return { { name, "A", 0, "192.0.2.7" } } end)
      zone = function() return { rcode = 2 } end
      local more = { servers = { "127.0.0.1:1", served.address, other.address }, timeout = 0.2 }
      equal(ask("www.test", "A", more)[1], "192.0.2.7")
      equal(other.total, 1)
      other.close()
    ]]
  end)

  it("asks again over TCP when an answer is truncated", function()
    check [[
      zone = function(name, kind, way)
        if way == "udp" then return { truncated = true } end
        local list = {}
        for i = 1, 200 do list[i] = { name, "A", 9, "10.0.0." .. i } end
        return list
      end
      local list = assert(ask("many.test", "A"))
      equal(#list, 200) equal(list[200], "10.0.0.200")
      equal(served.over_tcp, 1)
    ]]
  end)

  it("asks once for what many want to know, whatever the case of its letters", function()
    check [[
      zone = function(name) return { delay = 0.05, { name, "A", 9, "192.0.2.1" } } end
      local tasks = {}
      for i = 1, 50 do
        tasks[i] = rille.spawn(function() return ask(i % 2 == 0 and "WWW.Test" or "www.tesT.", "A")[1] end)
      end
      local gone = rille.spawn(function() return ask("www.test", "A") end)
      rille.yield()
      gone:cancel()
      for i = 1, 50 do equal(tasks[i]:join(), "192.0.2.1") end
      equal(served.total, 1)
    ]]
  end)

  it("keeps answers as long as they say, and as many as it may", function()
    check [[
      local last = 0
      zone = function(name, kind)
        last = last + 1
        if name == "zero.test" then return { { name, "A", 0, "192.0.2.1" } } end
        if name == "brief.test" then return { { name, "A", 1, "192.0.2." .. last } } end
        return { { name, "A", 600, "192.0.2.1" } }
      end
      local few = { cache = 3 }
      ask("zero.test", "A", few) ask("zero.test", "A", few)
      equal(served.asked["zero.test A"], 2)
      ask("a.test", "A", few) ask("A.TEST", "A", few)
      equal(served.asked["a.test A"], 1)
      local first = ask("brief.test", "A", few)[1]
      equal(ask("brief.test", "A", few)[1], first)
      rille.sleep(1.1)
      assert(ask("brief.test", "A", few)[1] ~= first)
      for i = 1, 20 do ask(i .. ".test", "A", few) end
      equal(rille.resolver_stats(with(few)).entries, 3)
      ask("a.test", "A", few)
      equal(served.asked["a.test A"], 2)
      ask("b.test", "A", { cache = 0 }) ask("b.test", "A", { cache = 0 })
      equal(served.asked["b.test A"], 2)
      local s = rille.resolver_stats(with { cache = 0 })
      equal(s.questions, 2) equal(s.queries, 2) equal(s.hits, 0) equal(s.entries, 0)
    ]]
  end)

  it("keeps what is not there as long as the zone says, but no longer than it may", function()
    check [[
      zone = function(name)
        if name == "bare.test" then return { rcode = 3 } end
        local minimum = name == "brief.test" and 1 or 600
        return { rcode = name ~= "empty.test" and 3 or 0, authority = { { "test", "SOA", 600, minimum } } }
      end
      local function twice(name, more)
        for _ = 1, 2 do equal(select(2, ask(name, "A", more)), "not found") end
        return served.asked[name .. " A"]
      end
      equal(twice "none.test", 1)
      equal(twice "empty.test", 1)
      equal(twice "bare.test", 2) -- nothing says how long
      equal(twice "brief.test", 1)
      equal(twice("never.test", { negative = 0 }), 2)
      rille.sleep(1.1)
      equal(twice "brief.test", 2)
      equal(twice("capped.test", { negative = 0.05 }), 1)
      rille.sleep(0.1)
      equal(twice("capped.test", { negative = 0.05 }), 2)
    ]]
  end)

  it("looks into the file of hosts first, and again when it has changed", function()
    local path = server.write("hosts", "# nobody\n192.0.2.4\tFour four.test # the rest is no name.test\n"
      .. "2001:db8::4 four.test\n192.0.2.5 four.test\nbad x.test\n")
    check(("local path = %q\n"):format(path) .. [[
      zone = function() return { rcode = 3 } end
      local more = { hosts = path }
      equal(table.concat(ask("four.TEST.", nil, more), " "), "192.0.2.4 192.0.2.5 2001:db8::4")
      equal(ask("four", "A", more)[1], "192.0.2.4")
      equal(select(2, ask("four", "AAAA", more)), "not found") -- the file knows it, and has none
      equal(served.total, 0)
      equal(select(2, ask("name.test", "A", more)), "not found")
      equal(select(2, ask("x.test", "A", more)), "not found")
      equal(served.total, 2)
      equal(table.concat(ask("localhost", nil, more), " "), "127.0.0.1 ::1")
      equal(ask("a.localhost", "AAAA", { hosts = "/nonexistent" })[1], "::1")
      equal(served.total, 2)
    ]])
  end)

  it("does as resolv.conf says", function()
    local path = server.write("resolv.conf", "")
    check(("local path = %q\n"):format(path) .. [[
      zone = function(name)
        if name == "www.corp.test" or name == "a.b" then return { { name, "A", 0, "192.0.2.1" } } end
        return { rcode = 3 }
      end
      local f = io.open(path, "w")
      f:write("search one.test corp.test\noptions ndots:2\n")
      f:close()
      local conf = { dns = { servers = { served.address }, resolv_conf = path, hosts = "" } }
      equal(rille.resolve("www", "A", conf)[1], "192.0.2.1")
      equal(served.asked["www.one.test A"], 1) equal(served.asked["www.corp.test A"], 1) equal(served.asked["www A"], nil)
      equal(rille.resolve("a.b", "A", conf)[1], "192.0.2.1")
      equal(served.asked["a.b.one.test A"], 1)
      equal(rille.resolve("a.b.", "A", conf)[1], "192.0.2.1") -- whole
      equal(served.asked["a.b.one.test A"], 1)
      -- a section `dns` counts more
      equal(select(2, ask("www", "A", { search = { "x.test" } })), "not found")
      equal(served.asked["www.x.test A"], 1) equal(served.asked["www A"], 1)
    ]])
  end)

  it("takes a resolv.conf that has changed, whatever is under way", function()
    local paths = { server.write("resolv1.conf", ""), server.write("resolv2.conf", "") }
    check(("local paths = { %q, %q }\n"):format(paths[1], paths[2]) .. [[
      zone = function(name)
        if name:find "^silent" then return nil end
        if name == "www.one.test" then return { rcode = 3, delay = 5.2 } end -- the file is looked at every 5 s
        if name:find "%.two%.test$" then return { { name, "A", 60, "192.0.2.2" } } end
        return name:find "%.corp%.test$" and { { name, "A", 60, "192.0.2.1" } } or { rcode = 3 }
      end
      local function write(path, text) local f = io.open(path, "w") f:write(text) f:close() end
      local function try(path, others)
        write(path, "search one.test corp.test\n")
        local conf = { dns = { servers = { served.address }, resolv_conf = path, hosts = "", timeout = 30, tries = 1 } }
        for i = 1, others do rille.spawn(rille.resolve, "silent" .. i .. ".", "A", conf) end
        rille.spawn(function() rille.sleep(0.1) write(path, "search two.test\n") end)
        rille.resolve("www", "A", conf) -- the next name of its search list is asked for while c-ares tells of the first
        equal(rille.resolve("other", "A", conf)[1], "192.0.2.2")
      end
      local tasks = { rille.spawn(try, paths[1], 0), rille.spawn(try, paths[2], 3) }
      for _, task in ipairs(tasks) do equal(select("#", task:join()), 0) end
    ]], { seconds = 30 })
  end)

  it("is over at once when its task is cancelled", function()
    check [[
      zone = function() return nil end
      local core, state = require "rille.core", require "rille.state"
      local parked = rille.spawn(function() return ask "silent.test" end)
      rille.sleep(0.01)
      equal(core.rille_dial_count(state.loop), 1)
      parked:cancel()
      equal(core.rille_dial_count(state.loop), 0)
      equal(select(2, parked:join()), "cancelled")
      equal(select(2, rille.with_timeout(0.02, ask, "silent.test")), "timeout")
      equal(core.rille_dial_count(state.loop), 0)
      rille.spawn(function() return ask "still.test" end) -- the run ends meanwhile
      rille.sleep(0.01)
    ]]
  end)

  it("takes what the configuration says, in every use of names", function()
    check [[
      zone = function(name, kind) return kind == "A" and { { name, "A", 9, "127.0.0.1" } } or { rcode = 3 } end
      local resolve = require "rille.resolve"
      local conf = require("rille.config").check({ servers = {}, dns = { servers = { served.address }, hosts = "", search = {} } })
      resolve.set_defaults(conf.dns)
      equal(rille.resolve("www.test")[1], "127.0.0.1")
      local listener = assert(rille.listen("tcp://listen.test:0", function(c) c:write(c:next(c:len())) end))
      equal(listener:address():match("^tcp://127.0.0.1:") ~= nil, true)
      local port = listener:address():match(":(%d+)$")
      local conn = assert(rille.dial("tcp://dial.test:" .. port))
      conn:send "x"
      equal(conn:read():str(), "x")
      conn:close()
      local one = assert(rille.udp("udp://one.test:0"))
      local two = assert(rille.udp())
      assert(two:connect("two.test:" .. one:address():match(":(%d+)$")))
      assert(two:send "datagram")
      local datagram, peer = one:receive(5)
      equal(datagram:str(), "datagram")
      assert(one:send_to("back", "three.test:" .. peer:address():match(":(%d+)$")))
      equal(two:receive(5):str(), "back")
      for _, name in ipairs { "listen", "dial", "one", "two", "three" } do equal(served.asked[name .. ".test A"], 1) end
      one:close() two:close() listener:close()
    ]]
  end)
end)
