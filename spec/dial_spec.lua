-- rille.dial: connections that a script opens, to peers that answer, refuse, hang, reset, close halfway or come late; and rille.select.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local server = require "spec.support.server"

local ROUNDS = tonumber(os.getenv "RILLE_ROUNDS") or 1000

local HEAD = [[local ffi = require "ffi" local core, state = require "rille.core", require "rille.state" ]]
  .. [[local function listen(fn, url) return assert(rille.listen(url or "tcp://127.0.0.1:0", fn or function() end)) end ]]
  .. [[local function echo(url) return listen(function(c) c:write(c:next(c:len())) end, url) end ]]
  .. [[local function fails(err, url, options) local c, why, message = rille.dial(url, options) ]]
  .. [[if c or why ~= err then error(("%s: got %s %s, expected %s"):format(url, tostring(c), tostring(why), err), 2) end ]]
  .. [[return message end ]]
  .. [[local pid = io.open("/proc/self/stat"):read("*n") ]]
  .. [[local function descriptors() local n, p = 0, io.popen("ls /proc/" .. pid .. "/fd") ]]
  .. [[for _ in p:lines() do n = n + 1 end p:close() return n end ]]
  .. [[local function exchange(c) c:send "ping" equal(c:next(4):str(), "ping") c:release() end ]]

local function check(code, options)
  local folder = server.write("mark", ""):match("^(.*)/")
  return inside.check(HEAD .. ("local folder, ROUNDS = %q, %d "):format(folder, ROUNDS) .. code, options)
end

describe("rille.dial", function()
  after_each(server.cleanup)

  it("lets as much input wait as it is told", function()
    check [[
      local big = ("x"):rep(3e6)
      local l = listen(function(c) c:skip(c:len()) c:write(big) end)
      local c = assert(rille.dial(l:address(), { max_input = 4 * 2 ^ 20 }))
      c:send "go"
      equal(c:next(#big):len(), #big)
      c:close()
      c = assert(rille.dial(l:address(), { max_input = 1000 }))
      c:send "go"
      local s, err = c:next(2000)
      equal(s, nil) equal(err, "too large")
      c:abort()
      raises("max_input takes bytes", rille.dial, l:address(), { max_input = 0 })
      l:close()
    ]]
  end)

  it("reaches every kind of stream, and gives a connection like others", function()
    check [[
      for _, url in ipairs { "tcp://127.0.0.1:0", "tcp4://127.0.0.1:0", "unix://" .. folder .. "/s", "unix:@rille-dial-" .. folder:sub(-6),
          "tcp6://[::1]:0" } do
        local listener, err = rille.listen(url, function(c) c:write(c:next(c:len())) end)
        if listener then
          local c = assert(rille.dial(listener:address()))
          exchange(c)
          assert(c:peer() and c:local_address() and c:is_active() and c.id > 0)
          if url:find "tcp" then
            equal(c:peer(), listener:address():match("//(.*)$"))
            equal(c:option "nodelay", true)
          end
          c:shutdown "write"
          equal(select(2, c:read()), "closed")
          c:close()
          listener:close()
        else
          assert(url:find("::1", 1, true), err) -- a host without IPv6
        end
      end
    ]]
  end)

  it("reaches datagrams as a socket that is connected", function()
    check [[
      local other = assert(rille.udp "udp://127.0.0.1:0")
      local s = assert(rille.dial(other:address()))
      assert(s:send "one")
      local datagram, peer = other:receive(5)
      equal(datagram:str(), "one")
      peer:send "two"
      equal(s:receive(5):str(), "two")
      s:close() other:close()
    ]]
  end)

  it("heeds its options", function()
    check [[
      local listener = echo()
      local c = assert(rille.dial(listener:address(), { bind = "127.0.0.2", nodelay = false, keepalive = 30, timeout = 5 }))
      assert(c:local_address():find("^tcp://127%.0%.0%.2:%d+$"), c:local_address())
      equal(c:option "nodelay", false) equal(c:option "keepalive", true) equal(c:option "keepalive_idle", 30)
      exchange(c)
      c:close()
      local free = listen()
      local port = free:address():match ":(%d+)$"
      free:close()
      rille.sleep(0.01)
      c = assert(rille.dial(listener:address(), { bind = "127.0.0.1:" .. port }))
      equal(c:local_address(), "tcp://127.0.0.1:" .. port)
      c:abort()
      fails("address not available", listener:address(), { bind = "192.0.2.1" })
      fails("not supported", listener:address(), { bind = "::1" })
      fails("bad address", listener:address(), { bind = "nobody.test" })
      listener:close()
    ]]
  end)

  it("keeps connections in pools, by address, name and options", function()
    check [=[
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c) c:write(c:next(c:len())) end))
      local url = l:address()
      local function ask(c) assert(c:send "x") equal(c:read_string(1), "x") return c end
      local a = ask(assert(rille.dial(url, { pool = true })))
      local b = ask(assert(rille.dial(url, { pool = true })))
      if a.id == b.id then error "both have one" end
      local id = a.id
      equal(a:keep(), true)
      equal(select(2, a:keep()), "closed")
      for _, opts in ipairs { { pool = "other" }, { pool = true, nodelay = false }, { pool = true, bind = "127.0.0.1" } } do
        local other = ask(assert(rille.dial(url, opts)))
        if other.id == id then error "one of another pool" end
        other:close()
      end
      local again = ask(assert(rille.dial(url, { pool = true })))
      equal(again.id, id)
      again:keep()
      b:keep()
      -- what the server closes, and what is given back with bytes unread, is not used again
      local c = ask(assert(rille.dial(url, { pool = true })))
      c:send "left" c:peek(4)
      local unread = c.id
      c:keep()
      local d = ask(assert(rille.dial(url, { pool = true })))
      if d.id == unread then error "with somebody's answer" end
      d:close()
      raises("was not dialed with the option pool", rille.pair().keep, rille.pair())
      raises("pool is a string, got number", rille.dial, url, { pool = 1 })
      raises("pool is an option of rille.dial", rille.dialer, { pool = true })
      equal(select(2, rille.dial("nowhere:", { pool = true })), "bad address")
      l:close() rille.sleep(0.05)
      equal(select(2, rille.dial(url, { pool = "after" })), "refused")
    ]=]
  end)

  it("has connections in 1024 pools at most", function()
    check [=[
      local url = "unix:@rille-pools-" .. folder:gsub("%W", "")
      local l = listen(nil, url)
      local held = {}
      for i = 1, 1024 do held[i] = assert(rille.dial(url, { pool = "pool " .. i })) end
      equal(fails("full", url, { pool = "another" }), ("cannot dial %s: 1024 addresses are in pools, and all have connections"):format(url))
      assert(rille.dial(url, { pool = "pool 1" })):close() -- those that there are go on
      for i = 2, 1024 do held[i]:keep() end
      fails("full", url, { pool = "another" }) -- idle ones count
      held[1]:close()
      local till, c = clock() + 5 * SLOW
      repeat
        rille.sleep(0.005)
        c = rille.dial(url, { pool = "another" })
      until c or clock() > till
      assert(c, "the place of a pool without connections is never free")
      c:close()
      l:close()
    ]=]
  end)

  it("makes no room in its pools at the cost of a connection that is on its way", function()
    check [=[
      local d = require("spec.support.dns").serve(function(name, kind)
        return { delay = 0.2, kind == "A" and { name, "A", 60, "127.0.0.1" } or nil }
      end)
      local l = echo()
      local named = "tcp4://late.test:" .. l:address():match ":(%d+)$"
      local options = { pool = true, dns = { servers = { d.address }, search = {}, hosts = "" } }
      local late = rille.spawn(rille.dial, named, options)
      rille.yield()
      for i = 1, 1023 do fails("not found", "unix:///nonexistent/" .. i, { pool = true }) end
      fails("not found", "unix:///nonexistent/another", { pool = true })
      local c = assert(late:join())
      local id = c.id
      exchange(c)
      assert(c:keep())
      equal(assert(rille.dial(named, options)).id, id)
      d.close() l:close()
    ]=]
  end)

  it("takes any letters for a scheme", function()
    check [=[
      local l = echo()
      exchange(assert(rille.dial((l:address():gsub("tcp", "Tcp")))))
      exchange(assert(rille.dial((l:address():gsub("tcp", "TCP4")), { pool = true })))
      fails("refused", "UNIX:@rille-nobody-" .. folder:sub(-6))
      equal(fails("not supported", "HTTP://127.0.0.1:1"),
        "cannot dial http://127.0.0.1:1: http:// is not for dialing: rille.http.client makes requests")
      l:close()
    ]=]
  end)

  it("refuses more than 256 different values of max_input", function()
    check [=[
      local l = listen()
      local url = l:address()
      for i = 1, 256 do assert(rille.dial(url, { max_input = 1000 + i })):abort() end
      equal(fails("full", url, { max_input = 1 }), ("cannot dial %s: 256 values of max_input are in use"):format(url))
      assert(rille.dial(url, { max_input = 1256 })):abort()
      assert(rille.dial(url)):abort()
      l:close()
    ]=]
  end)

  it("names what is wrong with an address", function()
    check [[
      fails("bad address", "foo://127.0.0.1:1") fails("bad address", "127.0.0.1") fails("bad address", "")
      fails("bad address", "tcp://:1") fails("bad address", "tcp://0.0.0.0:1") fails("bad address", "tcp://[::]:1")
      fails("bad address", "tcp://127.0.0.1:0") fails("bad address", "tcp://a.test:0") fails("bad address", "tcp://127.0.0.1:65536")
      fails("bad address", "tcp://a.test:65536") fails("bad address", "tcp://a\0b:1") fails("bad address", "tcp://a b:1")
      fails("bad address", "tcp://a\nb:1") fails("bad address", "tcp://" .. ("a."):rep(200) .. ":1")
      fails("bad address", "tcp://" .. ("a"):rep(64) .. ".test:1") fails("bad address", "tcp://a..b:1")
      fails("bad address", ("x"):rep(5000))
      fails("bad address", "unix://relative") fails("bad address", "tcp://127.1:80") fails("bad address", "tcp4://[::1]:1")
      for _, scheme in ipairs { "https", "wss", "http", "ws" } do
        local message = fails("not supported", scheme .. "://127.0.0.1:1")
        equal(message, ("cannot dial %s://127.0.0.1:1: %s:// is %s"):format(scheme, scheme, scheme:find("^http")
          and "not for dialing: rille.http.client makes requests" or "not supported: there is no WebSocket client yet"))
      end
      raises("an address expected, got number", rille.dial, 7)
      raises("no option 'timout'", rille.dial, "tcp://127.0.0.1:1", { timout = 1 })
      raises("timeout is a number, got string", rille.dial, "tcp://127.0.0.1:1", { timeout = "1s" })
      raises("seconds, 0 or more", rille.dial, "tcp://127.0.0.1:1", { timeout = -1 })
      raises("max is for the connections of a rille.dialer", rille.dial, "tcp://127.0.0.1:1", { max = 1 })
    ]]
  end)

  it("names what the network says", function()
    check [[
      local gone = listen()
      local url = gone:address()
      gone:close()
      rille.sleep(0.01)
      equal(fails("refused", url), "cannot connect to " .. url .. ": refused")
      fails("not found", "unix:///nonexistent/socket")
      fails("refused", "unix://" .. folder .. "/mark")
      fails("refused", "unix:@rille-nobody-" .. folder:sub(-6))
      fails("refused", "tcp://nobody.invalid:1", { dns = { servers = { "127.0.0.1:1" }, tries = 1, hosts = "", search = {} } })
    ]]
  end)

  it("gives up in time when nobody accepts, and leaves nothing half open", function()
    check [[
      ffi.cdef "int socket(int, int, int); int bind(int, const void *, unsigned); int listen(int, int);"
      ffi.cdef "int getsockname(int, void *, unsigned *); int close(int);"
      local address = ffi.new("uint8_t[16]", { 2, 0, 0, 0, 127, 0, 0, 1 })
      local fd = ffi.C.socket(2, 1, 0)
      assert(ffi.C.bind(fd, address, 16) == 0 and ffi.C.listen(fd, 0) == 0)
      ffi.C.getsockname(fd, address, ffi.new("unsigned[1]", 16))
      local url = "tcp://127.0.0.1:" .. address[2] * 256 + address[3]
      local kept = {}
      for _ = 1, 4 do kept[#kept + 1] = rille.dial(url, { timeout = 0.1 }) end -- the queue is full from here
      local before = descriptors()
      local began = clock()
      fails("timeout", url, { timeout = 0.05 })
      assert(clock() - began < 3 * SLOW)
      equal(select(2, rille.with_timeout(0.05, rille.dial, url)), "timeout")
      local parked = rille.spawn(rille.dial, url)
      rille.sleep(0.02)
      equal(core.rille_dial_count(state.loop), 1)
      parked:cancel()
      equal(select(2, parked:join()), "cancelled")
      equal(core.rille_dial_count(state.loop), 0)
      local till = clock() + 5 * SLOW
      repeat rille.sleep(0.001) until descriptors() == before or clock() > till
      equal(descriptors(), before)
      local full = "unix:@rille-full-" .. folder:sub(-6)
      local l = listen(function() end, full)
      assert(rille.dial(full)):close()
      l:close()
      for _, c in ipairs(kept) do c:abort() end
      ffi.C.close(fd)
      rille.spawn(rille.dial, url) -- the run ends meanwhile
    ]]
  end)

  it("waits while the queue of a Unix listener is full", function()
    check [[
      ffi.cdef "int socket(int, int, int); int bind(int, const void *, unsigned); int listen(int, int);"
      ffi.cdef "int accept(int, void *, void *); int close(int);"
      local name = "rille-queue-" .. folder:sub(-6)
      local address = ffi.new("uint8_t[110]", { 1, 0, 0 })
      ffi.copy(address + 3, name)
      local fd = ffi.C.socket(1, 1, 0)
      assert(ffi.C.bind(fd, address, 3 + #name) == 0 and ffi.C.listen(fd, 0) == 0)
      local first = assert(rille.dial("unix:@" .. name, { timeout = 1 }))
      fails("timeout", "unix:@" .. name, { timeout = 0.05 })
      local late = rille.spawn(rille.dial, "unix:@" .. name, { timeout = 20 })
      rille.sleep(0.03)
      equal(late:is_done(), false)
      local one = ffi.C.accept(fd, nil, nil)
      local second = assert(late:join())
      first:close() second:close()
      ffi.C.close(one) ffi.C.close(fd)
    ]]
  end)

  it("never meets itself where nobody listens", function()
    check [[
      local l = listen()
      local port = tonumber(l:address():match ":(%d+)$")
      l:close()
      rille.sleep(0.01)
      -- from the very port it wants to reach: the kernel would connect the socket with itself
      fails("refused", "tcp://127.0.0.1:" .. port, { bind = "127.0.0.1:" .. port })
    ]]
  end)

  it("tries IPv6 and IPv4 by turns, and waits neither for silent addresses nor for late answers", function()
    check [[
      local dns = require "spec.support.dns"
      local listener = echo()
      local port = listener:address():match ":(%d+)$"
      local served = dns.serve(function(name, kind)
        if name == "six-silent.test" and kind == "AAAA" then return nil end
        if name == "six-late.test" and kind == "AAAA" then return { delay = 0.3, { name, "AAAA", 9, "0:0:0:0:0:0:0:1" } } end
        if name == "none.test" then return { rcode = 3 } end
        if name == "failing.test" then return { rcode = 2 } end
        if kind == "AAAA" then
          if name == "only-four.test" then return {} end
          return { { name, "AAAA", 9, "2001:db8:0:0:0:0:0:1" }, { name, "AAAA", 9, "2001:db8:0:0:0:0:0:2" } }
        end
        if name == "only-six.test" then return {} end
        if name == "four-late.test" then return { delay = 0.1, { name, "A", 9, "127.0.0.1" } } end
        local list = { { name, "A", 9, "127.0.0.1" } }
        if name == "many.test" then for i = 2, 60 do table.insert(list, 1, { name, "A", 9, "127.0.0." .. i }) end end
        return list
      end)
      local d = rille.dialer { timeout = 5, dns = { servers = { served.address }, hosts = "", search = {}, timeout = 1 } }
      for _, name in ipairs { "only-four", "both", "six-silent", "six-late", "four-late" } do
        local began = clock()
        local c = assert(d:dial("tcp://" .. name .. ".test:" .. port))
        equal(c:peer(), "127.0.0.1:" .. port)
        assert(clock() - began < 3 * SLOW, name)
        exchange(c)
        c:close()
      end
      equal(select(2, d:dial("tcp://many.test:" .. port)), "refused") -- 16 addresses are tried
      equal(select(2, d:dial("tcp://none.test:" .. port)), "not found")
      equal(select(2, d:dial("tcp://failing.test:" .. port)), "server failure")
      local c, err = d:dial("tcp6://both.test:" .. port)
      assert(c == nil and (err == "unreachable" or err == "address not available" or err == "timeout" or err == "permission denied"), err)
      c = assert(d:dial("tcp4://both.test:" .. port))
      c:close()
      equal(core.rille_dial_count(state.loop), 0)
      served.close() listener:close()
    ]]
  end)

  it("counts connects under way, and the connections of a dialer, against their limits", function()
    check [[
      local listener = echo()
      local d = rille.dialer { max = 2 }
      local one, two = assert(d:dial(listener:address())), assert(d:dial(listener:address()))
      local c, err, message = d:dial(listener:address())
      equal(c, nil) equal(err, "full") assert(message:find("2 connections of this dialer", 1, true))
      equal(d:stats().open, 2)
      one:close()
      local deadline = clock() + 5 * SLOW
      while d:stats().open > 1 and clock() < deadline do rille.yield() end
      one = assert(d:dial(listener:address()))
      two:close()
      two = nil
      one = nil -- nobody can close it any more
      while d:stats().open > 0 and clock() < deadline do collectgarbage() rille.sleep(0.001) end
      equal(d:stats().open, 0)
      require("rille.dial").set_defaults { timeout = 1, max = 1 }
      local few = rille.dialer { dns = { servers = { "192.0.2.1" }, hosts = "", search = {} } }
      local parked = rille.spawn(function() return few:dial "tcp://a.test:1" end)
      rille.yield()
      equal(select(2, few:dial "tcp://b.test:1"), "full")
      parked:cancel()
      parked:join()
      listener:close()
    ]]
  end)

  it("has many at once in one task, each way at the same time", function()
    check [[
      local listener = echo()
      local conns = {}
      for i = 1, 50 do conns[i] = assert(rille.dial(listener:address())) end
      for i = 50, 1, -1 do conns[i]:send("number " .. i .. "\n") end
      for i = 1, 50 do equal(conns[i]:read_line():str(), "number " .. i) end
      local c = conns[1]
      local size = 2 ^ 22
      local writer = rille.spawn(function()
        for _ = 1, size / 2 ^ 16 do assert(c:send(("x"):rep(2 ^ 16))) end
        c:shutdown "write"
      end)
      local got = 0
      while true do
        local s = c:read()
        if not s then break end
        got = got + s:len()
        c:release()
      end
      assert(writer:join() == nil and writer:is_done())
      equal(got, size)
      for i = 1, 50 do conns[i]:close() end
      listener:close()
    ]]
  end)

  it("needs no task for connections with an on_request, and little memory while they are idle", function()
    check([[
      local listener = listen { on_connect = function(c) c:write "hello\n" end, on_request = function(c) c:write(c:next(c:len())) end }
      local COUNT = 1000
      local got, conns = 0, {}
      local function on_request(c)
        local line = c:read_line()
        if line then got = got + 1 end
      end
      local task = require "rille.task"
      local function fill(n)
        for i = 1, n do
          local c = assert(rille.dial(listener:address()))
          c:on_request(on_request)
        end
      end
      fill(100)
      local deadline = clock() + 20 * SLOW
      while got < 100 and clock() < deadline do rille.sleep(0.001) end
      collectgarbage() collectgarbage()
      local before, waiting = collectgarbage "count", #task.waiting()
      fill(COUNT)
      while got < 100 + COUNT and clock() < deadline do rille.sleep(0.001) end
      equal(got, 100 + COUNT)
      collectgarbage() collectgarbage()
      local each = (collectgarbage "count" - before) * 1024 / COUNT
      equal(#task.waiting(), waiting)
      print(("%d bytes"):format(each))
      assert(each < 2048, each) -- both ends of it
      listener:close()
    ]])
  end)
end)

describe("rille.select", function()
  after_each(server.cleanup)

  it("waits for the first of several connections", function()
    check [[
      local a, b = rille.pair()
      local c, d = rille.pair()
      local e, f = rille.pair()
      local list = { a, c, e }
      local got, err = rille.select(list, 0.01)
      equal(got, nil) equal(err, "timeout")
      equal(select(2, rille.select(list, 0)), "timeout")
      rille.after(0.01, function() d:send "x" end)
      got = assert(rille.select(list, 5))
      equal(#got, 1) equal(got[1], c)
      equal(c:read():str(), "x")
      b:send "1" f:send "2"
      rille.sleep(0.01)
      got = rille.select(list)
      equal(#got, 2) equal(got[1], a) equal(got[2], e)
      a:read() e:read()
      rille.after(0.01, function() d:close() end)
      got = rille.select(list)
      equal(#got, 1) equal(got[1], c)
      equal(select(2, c:read()), "closed")
      c:close()
      rille.yield() rille.yield()
      equal(rille.select(list, 1)[1], c) -- over is over
      local reader = rille.spawn(function() return a:read():str() end)
      rille.yield()
      equal(select(2, rille.select { a, e }), "busy")
      b:send "y"
      equal(reader:join(), "y")
      local parked = rille.spawn(rille.select, { a, e })
      rille.yield()
      equal(select(2, a:read()), "busy")
      parked:cancel()
      equal(select(2, parked:join()), "cancelled")
      b:send "z"
      equal(a:read():str(), "z") -- nobody holds it any more
      a:set_timeouts { read = 0.01 }
      got, err = rille.select({ a, e }, 0.1)
      equal(got, nil) equal(err, "timeout")
      raises("a list of connections expected", rille.select, 7)
      raises("number 1 is no connection", rille.select, { 7 })
      raises("it would never return", rille.select, {})
      a:close() b:close() e:close() f:close() d:close()
    ]]
  end)

  it("leaves the connections of its list alone when the list has changed meanwhile", function()
    check [[
      local a, b = rille.pair()
      local c, d = rille.pair()
      local list = { a, c }
      local parked = rille.spawn(rille.select, list, 0.02)
      rille.yield()
      list[2] = nil
      equal(select(2, parked:join()), "timeout")
      d:send "x"
      equal(c:read():str(), "x") -- nobody holds it any more
      list = { a }
      local reader = rille.spawn(function() return c:read():str() end)
      parked = rille.spawn(rille.select, list)
      rille.yield()
      list[2] = c
      b:send "y"
      equal(#assert(parked:join()), 1)
      d:send "z"
      equal(rille.with_timeout(5 * SLOW, reader.join, reader), "z") -- it still has its reader
      a:close() b:close() c:close() d:close()
    ]]
  end)

  it("serves many connections in one task", function()
    check [[
      local listener = echo()
      local conns, left = {}, 100
      for i = 1, 20 do
        conns[i] = assert(rille.dial(listener:address()))
        conns[i]:send "."
      end
      while left > 0 do
        for _, c in ipairs(assert(rille.select(conns, 20))) do
          local s = assert(c:read())
          left = left - 1
          c:send(s)
          c:release()
        end
      end
      for i = 1, 20 do conns[i]:close() end
      listener:close()
    ]]
  end)
end)

describe("many rounds of rille.dial", function()
  after_each(server.cleanup)

  it("end with the right name, whatever the peer does, and leave nothing", function()
    check([[
      local closed = listen()
      local nobody = closed:address()
      closed:close()
      local peers = {
        answers = echo(),
        resets = listen { on_connect = function(c) c:abort() end, on_request = function() end },
        leaves = listen { on_connect = function(c) c:shutdown "write" end, on_request = function(c) c:next(c:len()) end },
        late = listen { on_connect = function(c) rille.sleep(0.002) c:write "late" end, on_request = function(c) c:next(c:len()) end },
      }
      local kinds = { "answers", "resets", "leaves", "late", "refuses", "cancelled" }
      local round = {}
      function round.answers(c) c:send "ping" equal(c:next(4):str(), "ping") end
      function round.resets(c, err)
        if not c then return equal(err, "reset") end
        local got, why = c:read()
        equal(got, nil)
        assert(why == "reset" or why == "closed", why)
      end
      function round.leaves(c) equal(select(2, c:read()), "closed") end
      function round.late(c) equal(c:next(4):str(), "late") end
      function round.refuses(c, err) equal(c, nil) equal(err, "refused") end
      rille.sleep(0.02)
      local tasks, before = {}, descriptors()
      local left = ROUNDS
      for i = 1, 10 do
        tasks[i] = rille.spawn(function()
          while left > 0 do
            left = left - 1
            local kind = kinds[left % #kinds + 1]
            if kind == "cancelled" then
              local t = rille.spawn(function() local c = rille.dial(peers.answers:address()) if c then c:close() end end)
              if left % 2 == 0 then rille.yield() end
              t:cancel()
              t:join()
            else
              local c, err = rille.dial(peers[kind] and peers[kind]:address() or nobody)
              if not c and kind ~= "refuses" and kind ~= "resets" then error(kind .. ": " .. err) end
              round[kind](c, err)
              if c then c:close() end
            end
          end
          return true
        end)
      end
      for i = 1, 10 do assert(tasks[i]:join()) end
      equal(core.rille_dial_count(state.loop), 0)
      local deadline = clock() + 10 * SLOW
      while descriptors() > before and clock() < deadline do rille.sleep(0.01) collectgarbage() end
      assert(descriptors() <= before)
      for _, l in pairs(peers) do l:close() end
    ]], { seconds = 60 + ROUNDS / 50 * net.slow })
  end)
end)
