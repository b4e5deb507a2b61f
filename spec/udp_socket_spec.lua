-- rille.udp: sockets that a script makes itself.

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local udp = require "spec.support.udp"

local check = inside.check

describe("rille.udp", function()
  after_each(function()
    udp.close_all()
    server.cleanup()
    inside.cleanup()
  end)

  it("asks and answers", function()
    check [[
local a, b = assert(rille.udp "udp://127.0.0.1:0"), assert(rille.udp())
equal(select(2, b:address()), "not found")
assert(b:connect(a:address()))
assert(b:send "hello")
local dgram, peer = a:receive(5)
equal(dgram:str(), "hello")
equal("udp://" .. peer:address(), b:address())
assert(dgram:reply "reply")
assert(a:send_to("by peer", peer))
assert(a:send_to("by address", peer:address()))
assert(a:send_to("by url", b:address()))
assert(peer:send(dgram))
for _, text in ipairs { "reply", "by peer", "by address", "by url", "hello" } do equal(b:receive(5):str(), text) end
raises("slice expired", function() local first = b:receive(0) return (first or dgram):str(), a:receive(0), a:close(), dgram:str() end)
equal(select(2, a:send_to("x", b:address())), "closed")
equal(select(2, a:receive()), "closed")
equal(select(2, peer:send "x"), "closed")
equal(a:address(), nil)
b:close()
b:close()
]]
  end)

  it("parks its receive, with and without a time", function()
    check [[
local a, b = assert(rille.udp "udp://127.0.0.1:0"), assert(rille.udp "udp://127.0.0.1:0")
local began = clock()
equal(select(2, a:receive(0.05)), "timeout")
assert(clock() - began >= 0.05)
equal(select(2, a:receive(0)), "timeout")
rille.after(0.02, function() b:send_to("later", a:address()) end)
equal(a:receive():str(), "later")
local task = rille.spawn(function() return a:receive() end)
rille.yield()
equal(select(2, a:receive()), "busy")
task:cancel()
equal(select(2, task:join()), "cancelled")
local result, err = rille.with_timeout(0.02, a.receive, a)
equal(result, nil)
equal(err, "timeout")
task = rille.spawn(function() return select(2, a:receive()) end)
rille.yield()
a:close()
equal(task:join(), "closed")
for i = 1, 100 do
  local c = assert(rille.udp "udp://127.0.0.1:0")
  local waiting = rille.spawn(function() return c:receive(5):str() end)
  turns(1)
  b:send_to("number " .. i, c:address())
  equal(waiting:join(), "number " .. i)
  c:close()
end
b:close()
]]
  end)

  it("hears that nobody listens", function()
    check [[
local gone = assert(rille.udp "udp://127.0.0.1:0")
local url = gone:address()
gone:close()
local c = assert(rille.udp())
assert(c:connect(url))
assert(c:send "x")
equal(select(2, c:receive(5)), "refused")
assert(c:send "x")
rille.sleep(0.05)
equal(select(2, c:send "x"), "refused")
local back = assert(rille.udp(url))
assert(c:send "again")
equal(back:receive(5):str(), "again")
c:close() back:close()
]]
  end)

  it("speaks over Unix sockets", function()
    check([[
local folder = os.getenv "SPEC_FOLDER"
local path = folder .. "/sock"
local a, b = assert(rille.udp("unixgram://" .. path, { mode = "0600" })), assert(rille.udp())
assert(b:connect("unixgram://" .. path))
assert(b:send "hello")
local dgram, peer = a:receive(5)
equal(dgram:str(), "hello")
equal(peer:address(), b:address())
equal(tostring(peer):match "^unixgram:@", "unixgram:@")
assert(peer:send "back")
equal(b:receive(5):str(), "back")
assert(dgram:reply "reply")
assert(a:send_to("to", peer))
equal(b:receive(5):str(), "reply")
equal(b:receive(5):str(), "to")
equal(select(2, rille.udp("unixgram://" .. path)), "address in use")
a:close()
equal(io.open(path), nil)
equal(select(2, b:send "x"), "refused")
equal(select(2, rille.udp():connect("unixgram://" .. path)), "not found")
]], { env = { SPEC_FOLDER = server.folder() } })
  end)

  it("says what it does not do", function()
    check [[
local a = assert(rille.udp "udp://127.0.0.1:0")
equal(select(2, a:connect "udp://some..example:53"), "invalid argument") -- that cannot be a name
equal(select(2, a:send "not connected"), "invalid argument")
equal(select(2, a:send_to("x", "udp6://[::1]:1")), "invalid argument")
equal(select(2, a:send_to("x", "tcp://127.0.0.1:1")), "bad address")
equal(select(2, a:send_to(("x"):rep(65508), a:address())), "too large")
assert(a:send_to(("x"):rep(65507), a:address()))
equal(#a:receive(5):str(), 65507)
assert(a:send_to("", a:address()))
equal(a:receive(5):len(), 0)
local _, err, message = rille.udp "tcp://127.0.0.1:0"
equal(err, "bad address")
assert(message:find "not an address for datagrams")
_, err = rille.udp(a:address())
equal(err, "address in use")
raises("has no option 'codec'", rille.udp, nil, { codec = {} })
raises("limits.max_datagram: got 0", rille.udp, { limits = { max_datagram = 0 } })
raises("multicast needs an address", rille.udp, nil, { multicast = { interface = "lo" } })
raises("an address expected", rille.udp, 7)
raises("a string or a slice expected", a.send_to, a, 7, a:address())
raises("an address expected", a.send_to, a, "x", 7)
raises("seconds", a.receive, a, -1)
equal(select(2, a:send_to("to all", "udp://255.255.255.255:9")), "permission denied")
a:close()
]]
  end)

  it("drops what is over max_datagram, and counts", function()
    check [[
local a = assert(rille.udp("udp://127.0.0.1:0", { limits = { max_datagram = 100 } }))
a:send_to(("x"):rep(101), a:address())
a:send_to(("x"):rep(100), a:address())
equal(a:receive(5):len(), 100)
local stats = a:stats()
equal(stats.too_large, 1)
equal(stats.received, 1)
equal(stats.sent, 2)
a:close()
equal(select(2, a:stats()), "closed")
]]
  end)

  it("is closed by the collector when it is lost, or by the end", function()
    check [[
for _ = 1, 100 do rille.udp "udp://127.0.0.1:0" end
collectgarbage() collectgarbage()
local kept = assert(rille.udp "udp://127.0.0.1:0")
kept:send_to("never read", kept:address())
rille.spawn(function() kept:receive() kept:receive() end)
rille.sleep(0.01)
]]
  end)

  local FAMILIES = {
    ["IPv4"] = { "udp4://:0", "239.1.2.3", "239.1.2.3:%d" },
    ["IPv6"] = { "udp6://:0", "ff12::5:6", "[ff12::5:6%%1]:%d" },
  }
  for family, one in pairs(FAMILIES) do
    it("joins groups on lo, " .. family, function()
      local result = check(([[
local url, group, address = %q, %q, %q
local a, b = assert(rille.udp(url)), assert(rille.udp(url))
assert(a:join(group, "lo"))
local sender = assert(rille.udp(url, { multicast = { interface = "lo", ttl = 1, loop = true } }))
local port = tonumber(a:address():match ":(%%d+)$")
local sent, err = sender:send_to("to the group", "udp://" .. address:format(port))
if not sent then return print("no route for multicast on lo: " .. err) end
equal(a:receive(5):str(), "to the group")
assert(a:leave(group, "lo"))
sender:send_to("to nobody", "udp://" .. address:format(port))
equal(select(2, a:receive(0.05)), "timeout")
equal(select(2, a:leave(group, "lo")), "address not available")
equal(select(2, a:join("10.0.0.1")), "bad address")
equal(select(2, a:join(group, "nosuch0")), "not found")
a:close() b:close() sender:close()
]]):format(unpack(one)))
      if result.out:find "no route" then pending("this kernel has " .. result.out:match "no route[^\n]*") end
    end)
  end

  it("says which group cannot be joined", function()
    check [[
local _, err, message = rille.udp("udp4://:0", { multicast = { groups = "10.0.0.1" } })
equal(err, "invalid argument")
assert(message:find('cannot join "10.0.0.1"', 1, true), message)
]]
  end)

  it("and a server with groups, on two loops, gets each datagram once", function()
    local s = server.start([[
return function(dgram, peer) say("%s %s", dgram:str(), peer:address():match "^127") peer:send "heard" end
]], { listen = "udp4://:0", conf = { loops = 2 }, server = { multicast = { groups = { "239.7.7.7" }, interface = "lo" } } })
    check(([[
local c = assert(rille.udp("udp4://127.0.0.1:0", { multicast = { interface = "lo" } }))
for i = 1, 10 do
  assert(c:send_to("number " .. i, "239.7.7.7:%d"))
  equal(c:receive(5):str(), "heard")
end
equal(select(2, c:receive(0.05)), "timeout")
c:close()
]]):format(s.port))
    assert.equal(10, #s:said())
  end)
end)
