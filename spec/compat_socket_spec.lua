-- rille.compat.socket: first that it does what LuaSocket does, by running the same code with both; then what only Rille's has.

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local sockets = require "spec.support.sockets"

local function check(code, options)
  return inside.check([[local socket = require "rille.compat.socket" ]]
    .. [[local function served(fn) local s = assert(socket.bind("127.0.0.1", 0)) local host, port = s:getsockname() ]]
    .. [[rille.spawn(function() while true do local c = s:accept() if not c then return end ]]
    .. [[rille.spawn(function() fn(c) c:close() end) end end) return s, host, port end ]] .. code, options)
end

describe("rille.compat.socket does what LuaSocket does:", function()
  local peer

  before_each(function() peer = sockets.peer() end)
  after_each(server.cleanup)

  local function same(name, code)
    it(name, function()
      local theirs, ours = sockets.both(code, peer.port)
      assert.equal(0, theirs.status, theirs.out)
      assert.equal(theirs.out, ours.out)
      assert.equal(0, ours.status)
      assert.truthy(#ours.out > 0)
      peer:stop()
    end)
  end

  same("lines, with every CR left out", [[
    local c = told("s" .. hex("one\r\ntwo\n\nth\rre\r\re\r\n\r\nlast") .. ";c")
    for _ = 1, 7 do show(c:receive()) end
    show(c:receive "*l")
  ]])

  same("bytes, exactly so many", [[
    local c = told("s" .. hex("0123456789") .. ";c")
    show(c:receive(3)) show(c:receive(0)) show(c:receive("4")) show(c:receive(10)) show(c:receive(1)) show(c:receive(0))
  ]])

  same("everything until the end", [[
    local c = told("s" .. hex("abc\r\n") .. ";w0.05;s" .. hex("def") .. ";c")
    show(c:receive "*a") show(c:receive "*a") show(c:receive "*l")
    c = told "c"
    show(c:receive "*a")
    c = told("s" .. hex("abc\r\n") .. ";c")
    show(c:receive("*a", "before"))
    show(c:receive("*a", "before"))
  ]])

  same("prefixes", [[
    local c = told("s" .. hex("456789\nrest") .. ";c")
    show(c:receive(5, "123")) show(c:receive(3, "123")) show(c:receive(2, "123")) show(c:receive("*l", "67"))
    show(c:receive("*l", "the ")) show(c:receive(5, "ab")) show(c:receive("*l", "ab"))
  ]])

  same("partial results at a time-out, and the rest afterwards", [[
    local c = told("s" .. hex("par\r") .. ";w1;s" .. hex("tial\r\n12") .. ";w1;s" .. hex("345") .. ";p")
    c:settimeout(0.4)
    local line, err, part = c:receive()
    show(line, err, part)
    c:settimeout(5)
    show(c:receive("*l", part))
    c:settimeout(0.4)
    line, err, part = c:receive(5)
    show(line, err, part)
    c:settimeout(5)
    show(c:receive(5, part))
    c:settimeout(0.05)
    show(c:receive "*a") show(c:receive()) show(c:receive(1))
  ]])

  same("time-outs of a wait, and of a whole call", [[
    local drip = ("w0.2;s78;"):rep(8) .. "s0a;p"
    local c = told(drip)
    show(c:settimeout(0.8)) -- each wait is shorter
    local line, err, part = c:receive()
    show(line, err, #part >= 1 and #part < 8)
    c = told(drip)
    show(c:settimeout(0.8, "t"))
    line, err, part = c:receive()
    show(line, err, #part >= 1 and #part < 8)
    c:settimeout(nil, "t")
    show(#c:receive("*l", part))
    show(pcall(c.settimeout, c, 1, "x") == false)
  ]])

  same("settimeout(0): polls", [[
    local c = told("w0.2;s" .. hex("now\n") .. ";p")
    c:settimeout(0)
    show(c:receive())
    local turns, line, err = 0
    repeat
      line, err = c:receive()
      turns = turns + 1
    until line or err ~= "timeout"
    show(line, err, turns > 3)
  ]])

  same("what send returns", [[
    local c = told "e9;p"
    show(c:send("abc")) show(c:send("xabcx", 2, 4)) show(c:send("xabc", -3)) show(c:send("abc", 4)) show(c:send(""))
    show(c:send("abc", 3, 2))
    show(c:receive(9))
    show(pcall(c.send, c, nil) == false)
    local n = select(2, c:getstats()) show(n) show((c:getstats()))
    show(c:setstats(1, 2, 3)) local a, b, age = c:getstats() show(a, b, age >= 3 and age < 4)
  ]])

  same("half-closed connections", [[
    local c = told "g;c"
    show(c:send(("x"):rep(100000))) show(c:shutdown "send") show(c:receive()) show(c:send "more") show(c:receive())
    c = told("s" .. hex "abc" .. ";h;g")
    show(c:receive "*a") show(c:send "12345") show(c:close())
  ]])

  same("what was reset, refused, closed, and never connected", [[
    local c = told "w0.05;r"
    show(c:receive())
    show(c:receive())
    c = told "p"
    show(c:close()) show(c:receive()) show(c:send "x") show(c:close())
    show(socket.connect("127.0.0.1", 1))
    local d = socket.tcp()
    show(d:connect("127.0.0.1", 1))
    local _, port = told("p"):getpeername()
    show(d:connect("127.0.0.1", port))
    show(pcall(function() return socket.tcp():receive() end) == false)
    show(pcall(function() return d:accept() end) == false)
    show(socket.tcp():getpeername() == nil)
    show(pcall(function() return d:receive "*x" end) == false) show(pcall(function() return d:receive(-1) end) == false)
  ]])

  same("names of both ends", [[
    local c = told "p"
    local host, port, family = c:getpeername() show(host, port > 0, family)
    host, port, family = c:getsockname() show(host, type(port), family)
    local s = assert(socket.bind("*", 0)) host, port, family = s:getsockname() show(host, type(port), family)
    show(socket.bind("127.0.0.1", port)) show(tostring(s):match "^tcp{server}") show(tostring(c):match "^tcp{client}")
    show(tostring(socket.tcp()):match "^tcp{master}") show(s:close())
    local b = assert(socket.connect("127.0.0.1", (select(2, c:getpeername())), "127.0.0.1")) show((b:getsockname()))
  ]])

  same("servers: bind, listen, accept", [[
    local s = socket.tcp4()
    show(s:setoption("reuseaddr", true)) show(s:bind("127.0.0.1", 0)) show(s:listen(5))
    s:settimeout(0.05) show(s:accept())
    local _, port = s:getsockname()
    local a, b = assert(socket.connect("127.0.0.1", port)), assert(socket.connect("127.0.0.1", port))
    a:send "a\n" b:send "b\n"
    s:settimeout(5)
    local x, y = assert(s:accept()), assert(s:accept())
    show(x:receive()) show(y:receive()) show(x:send "to a\n") show(a:receive()) show(select(2, x:getsockname()) == port)
    x:close() show(a:receive()) show(s:close()) show(b:send "still\n") show(y:receive())
  ]])

  same("select", [[
    local quiet, talks, over = told "p", told("w0.1;s" .. hex "hi\nho\n" .. ";p"), told "c"
    over:receive()
    local r, w, err = socket.select({ quiet }, nil, 0.05) show(#r, #w, err)
    r, w, err = socket.select({ quiet, talks }, nil, 5) show(#r, r[1] == talks, r[talks], r[quiet], err)
    show(talks:receive()) -- the second line is in its buffer
    r, w, err = socket.select({ quiet, talks }, {}, 0) show(#r, r[1] == talks, err)
    r, w, err = socket.select({ quiet, talks, over }, { quiet }, 5) show(#r, #w, r[over] ~= nil, w[1] == quiet, w[quiet], err)
    r, w, err = socket.select(nil, nil, 0.01) show(#r, #w, err)
    local s = assert(socket.bind("127.0.0.1", 0))
    r, w, err = socket.select({ s, quiet }, nil, 0.05) show(#r, err)
    local c = assert(socket.connect("127.0.0.1", (select(2, s:getsockname()))))
    r, w, err = socket.select({ s, quiet }, nil, 5) show(#r, r[1] == s, err) show(s:accept() ~= nil, c ~= nil)
  ]])

  same("options", [[
    local c = told "p"
    show(c:setoption("tcp-nodelay", true)) show(c:getoption "tcp-nodelay")
    show(c:setoption("keepalive", true)) show(c:getoption "keepalive")
    show(c:setoption("keepalive", false)) show(c:getoption "keepalive") show(pcall(c.setoption, c, "no such", 1) == false)
    show(c:setoption("linger", { on = false, timeout = 0 }))
  ]])

  same("datagrams", [[
    local a, b = assert(socket.udp()), assert(socket.udp())
    show(a:setsockname("127.0.0.1", 0))
    local host, port = a:getsockname() show(host)
    show(b:sendto("one", host, port)) show(a:receive())
    show(b:sendto("two", host, port)) local data, ip, from = a:receivefrom() show(data, ip, from > 0)
    show(a:sendto("back", ip, from)) show(b:receive())
    show(b:setpeername(host, port)) show((b:getpeername())) show(b:send "12345") show(a:receive(3)) a:settimeout(0.05) show(a:receive())
    show(b:send "") show(a:receive()) show(pcall(b.sendto, b, "x", host, port) == false) show(pcall(a.send, a, "x") == false)
    local r, _, err = socket.select({ a }, nil, 0.05) show(#r, err)
    b:send "pong" r = socket.select({ a }, nil, 5) show(#r, r[1] == a) show(a:receive())
    show(a:close()) b:settimeout(1) b:send "x" show(b:receive())
  ]])

  same("try, protect, newtry, skip", [[
    local ended = 0
    local try = socket.newtry(function() ended = ended + 1 end)
    local f = socket.protect(function(what)
      if what == "try" then return try(nil, "bad", 3) end
      if what == "error" then error("worse", 0) end
      if what == "table" then error({ "mine" }) end
      return try(1, 2, 3)
    end)
    show(f()) show(f "try") show(ended) show(pcall(f, "error"))
    show(select("#", socket.skip(2, 1, 2, 3, 4)), socket.skip(2, 1, 2, 3, 4)) show(socket.protect(function() socket.try(false, "no") end)())
    show(type((select(2, pcall(f, "table")))))
  ]])

  same("sources and sinks", [[
    local ltn12 = require "ltn12"
    local function pulled(source) local t = {} show(ltn12.pump.all(source, (ltn12.sink.table(t)))) return table.concat(t) end
    local c = told("s" .. hex(("ab"):rep(3000)) .. ";c")
    show(pulled(socket.source("by-length", c, 2500))) show(pulled(socket.source("until-closed", c))) show(c:receive())
    c = told("s" .. hex "xyz" .. ";c") show(pulled(socket.source(c)))
    c = told "g;c"
    show(ltn12.pump.all(ltn12.source.string(("y"):rep(10000)), socket.sink("keep-open", c))) c:shutdown "send" show(c:receive())
    c = told "g;c" show(ltn12.pump.all(ltn12.source.string "y", socket.sink("close-when-done", c))) show(c:receive())
    show(pcall(socket.source, "nothing", c) == false)
  ]])

  same("names", [[
    show((socket.dns.toip "127.0.0.1")) show((socket.dns.toip "localhost")) show(socket.dns.toip "no.such.name.invalid.")
    show(type(socket.dns.gethostname())) show(type(socket.gettime())) show(socket.connect("no.such.name.invalid.", 80))
  ]])

  same("much, both ways", [[
    local c = told "z20000000;c"
    show(#c:receive(9999999)) show(#c:receive "*a")
    c = told "g;c"
    show(c:send(("y"):rep(20000000))) c:shutdown "send" show(c:receive())
  ]])
end)

describe("rille.compat.socket", function()
  after_each(server.cleanup)

  it("parks its task alone", function()
    check [[
      local s, host, port = served(function(c) c:receive() rille.sleep(0.1) c:send "done\n" end)
      local tasks = {}
      local began = clock()
      for i = 1, 20 do
        tasks[i] = rille.spawn(function()
          local c = assert(socket.connect(host, port))
          c:send "go\n"
          return c:receive(), c:close()
        end)
      end
      for i = 1, 20 do equal(tasks[i]:join(), "done") end
      assert(clock() - began < 1.5 * SLOW, "they waited for each other")
      s:close()
    ]]
  end)

  it("says so where nothing can park", function()
    local result = inside.run([[
      local socket = require "rille.compat.socket"
      local c = socket.tcp()
      raises("connect parks, and nothing can park here", c.connect, c, "127.0.0.1", 1)
      raises("select parks", socket.select, {}, {}, 0)
      raises("sleep parks", socket.sleep, 0)
      raises("toip parks", socket.dns.toip, "localhost")
      assert(socket.gettime() > 1e9)
    ]], { how = "plain" })
    assert.equal(0, result.status, result.out .. result.err)
  end)

  it("gives lines and bytes beyond limits.max_input in one piece", function()
    check [[
      local long = ("0123456789abcdef"):rep(300000)
      local s, host, port = served(function(c) c:send(long .. "\r\n" .. long .. "end\n" .. long) end)
      local c = assert(socket.connect(host, port))
      equal(c:receive() == long, true)
      equal(c:receive(#long + 3) == long .. "end", true)
      equal(c:receive(), "")
      equal(c:receive("*l", "p") == nil, true)
      equal((c:getstats()), #long * 3 + 6)
      c:close() s:close()
    ]]
  end)

  it("tells how much was sent when the peer takes no more, and goes on from there", function()
    check [[
      local go = rille.channel(1)
      local s, host, port = served(function(c) go:receive() c:send(#c:receive "*a" .. "\n") end)
      local c = assert(socket.connect(host, port))
      local data = ("x"):rep(30000000)
      c:settimeout(0.1)
      local ok, err, last = c:send(data)
      equal(ok, nil) equal(err, "timeout") assert(last > 0 and last < #data, last)
      local r, w, late = socket.select(nil, { c }, 0.05)
      equal(#w, 0) equal(late, "timeout")
      c:settimeout(0)
      local _, _, still = c:send(data, last + 1)
      equal(still, last)
      go:send(true)
      r, w = socket.select(nil, { c }, 10)
      equal(w[1], c)
      c:settimeout(30)
      equal(c:send(data, last + 1), #data)
      c:shutdown "send"
      equal(c:receive(), tostring(#data))
      c:close() s:close()
    ]]
  end)

  it("is interrupted by its task's end, by close of another task, and by with_timeout", function()
    check [[
      local s, host, port = served(function(c) c:receive "*a" end)
      local c = assert(socket.connect(host, port))
      local reading = rille.spawn(function() return c:receive() end)
      rille.sleep(0.02)
      reading:cancel()
      equal(select(2, reading:join()), "cancelled")
      equal(select(2, rille.with_timeout(0.02, c.receive, c)), "timeout")
      local selecting = rille.spawn(socket.select, { c, s }, { c }, 0)
      equal(#select(2, selecting:join()), 1)
      selecting = rille.spawn(socket.select, { c, s })
      rille.sleep(0.02)
      selecting:cancel()
      equal(select(2, selecting:join()), "cancelled")
      reading = rille.spawn(function() return c:receive() end)
      rille.sleep(0.02)
      equal(select(2, c:receive()), "busy") -- two tasks, one reader
      raises("another task waits", socket.select, { s, c }, nil, 1)
      c:close()
      equal(select(2, reading:join()), "closed")
      local accepting = rille.spawn(s.accept, s)
      rille.sleep(0.02)
      s:close()
      equal(select(2, accepting:join()), "closed")
    ]]
  end)

  it("connects without waiting", function()
    check [[
      local s, host, port = served(function(c) c:send "hi\n" end)
      local c = socket.tcp()
      c:settimeout(0)
      local ok, err = c:connect(host, port)
      assert(ok or err == "timeout", err)
      local _, w = socket.select(nil, { c }, 5)
      equal(w[1], c)
      if not ok then equal(c:connect(host, port), 1) end
      equal(select(2, c:connect(host, port)), "already connected")
      c:settimeout(5)
      equal(c:receive(), "hi")
      c:close()
      c = socket.tcp()
      c:settimeout(0)
      c:connect("127.0.0.1", 1)
      socket.select(nil, { c }, 5)
      equal(select(2, c:connect("127.0.0.1", 1)), "connection refused")
      c:close()
      c = socket.tcp()
      c:settimeout(0)
      c:connect("192.0.2.1", 80)
      c:close() -- nothing is left of it
      s:close()
    ]]
  end)

  it("keeps as many that wait for accept as its backlog says, and refuses those at its close", function()
    check [[
      local s = socket.tcp()
      assert(s:bind("127.0.0.1", 0) and s:listen(40))
      local _, port = s:getsockname()
      local clients = {}
      for i = 1, 60 do
        clients[i] = assert(socket.connect("127.0.0.1", port))
        clients[i]:send(i .. "\n")
      end
      local seen = 0
      s:settimeout(5)
      for _ = 1, 50 do
        local c = assert(s:accept())
        seen = seen + (tonumber(c:receive()) and 1 or 0)
        c:close()
      end
      equal(seen, 50)
      s:close()
      for i = 51, 60 do clients[i]:settimeout(5) equal(select(2, clients[i]:receive()), "closed") end
      for i = 1, 60 do clients[i]:close() end
    ]]
  end)

  it("drops clients that are gone before they are accepted", function()
    check [[
      local ffi = require "ffi"
      ffi.cdef 'int spec_dup(int) __asm__("dup"); int spec_close(int) __asm__("close");'
      local function next_fd() local fd = ffi.C.spec_dup(0) ffi.C.spec_close(fd) return fd end
      local s = assert(socket.bind("127.0.0.1", 0))
      local _, port = s:getsockname()
      rille.sleep(0.05)
      local before = next_fd()
      for _ = 1, 100 do
        local c = assert(rille.dial("tcp://127.0.0.1:" .. port))
        c:abort()
      end
      s:settimeout(0.1)
      repeat
        local c = s:accept()
        if c then c:close() end
      until not c
      rille.sleep(0.05)
      equal(next_fd(), before)
      s:close()
    ]]
  end)

  it("speaks IPv6", function()
    check [[
      local s = socket.tcp6()
      if not s:bind("::1", 0) then return end -- a host without it
      assert(s:listen())
      local host, port, family = s:getsockname()
      equal(host, "::1") equal(family, "inet6")
      local c = assert(socket.connect6(host, port))
      equal((c:getpeername()), "::1")
      c:send "six\n"
      equal(s:accept():receive(), "six")
      c:close() s:close()
    ]]
  end)

  it("reaches Unix sockets", function()
    check(("local folder = %q "):format(server.folder()) .. [[
      local unix = require "rille.compat.socket.unix"
      local path = folder .. "/s"
      equal(select(2, unix():connect(path)), "No such file or directory")
      local s = unix.stream()
      assert(s:bind(path) and s:listen())
      local c = unix()
      equal(c:connect(path), 1)
      local other = s:accept()
      c:send "hello\n"
      equal(other:receive(), "hello")
      c:close() other:close() s:close()
    ]])
  end)
end)
