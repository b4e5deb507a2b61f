-- tls.offload: the private key's work of handshakes is done by workers; what happens to a connection while its job is away.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local server = require "spec.support.server"
local tls = require "spec.support.tls"

local ECHO = [[
return {
  on_connect = function(conn)
    local t = conn:tls()
    say("open %s %s %s %s", t.version, tostring(t.sni), t.resumed and "resumed" or "new", t.peer and t.peer.subject or "nobody")
  end,
  on_request = function(conn) conn:write(conn:next(conn:len())) end,
  on_close = function(_, err) say("closed %s", tostring(err)) end,
}
]]

-- As that, but the only worker of the pool is busy until there is a file "go".
local HELD = [[
local options = ...
local handlers = (function() %s end)()
handlers.on_start = function()
  rille.spawn(function() rille.pool("keys"):call("held", "wait", options.go) end)
  repeat rille.sleep(0.005) until rille.pool("keys"):stats().busy == 1
end
return handlers
]]

local WAIT = [[
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned);"
return { wait = function(path)
  while true do
    local file = io.open(path)
    if file then file:close() return true end
    ffi.C.usleep(2000)
  end
end }
]]

local rules

local function start(more, opts)
  opts = opts or {}
  local all = { certificate = rules.certificate, key = rules.key, offload = true }
  for key, value in pairs(more or {}) do all[key] = value end
  opts.listen = opts.listen or "tls://127.0.0.1:0"
  opts.server = opts.server or {}
  opts.server.tls = all
  return server.start(opts.script or ECHO, opts)
end

local function start_held(opts)
  opts = opts or {}
  server.write("held.lua", WAIT)
  opts.script = HELD:format(opts.script or ECHO)
  opts.options = { go = tls.file "go" }
  opts.conf = opts.conf or {}
  opts.conf.pools = { keys = { max = 1, queue = opts.queue } }
  local s = start({ offload = "keys" }, opts)
  return s, function() server.write("go", "") end
end

local function talk(s, words)
  return (tls.talk(s.port, "-servername localhost " .. (words or "")))
end

-- How many jobs a pool has done.
local function done(s, pool)
  local before = #s:log()
  s:signal "QUIT"
  return net.poll_until(function()
    return tonumber(s:log():sub(before + 1):match("pool " .. pool .. ": [^\n]* (%d+) done"))
  end)
end

describe("tls.offload", function()
  before_each(function() rules = tls.set_up() end)
  after_each(server.cleanup)

  it("has workers sign, and the rest is as without", function()
    local s = start { client = "optional", ca = tls.file "ca.pem", alpn = { "a" } }
    tls.certificate("me", "ca", "DNS:me")
    assert.equal("hello\n", talk(s, "-tls1_3 -sess_out one"))
    assert.equal("hello\n", talk(s, "-tls1_2 -alpn a"))
    assert.equal(2, done(s, "tls"))
    assert.equal("hello\n", talk(s, "-tls1_3 -sess_in one"))
    assert.equal("hello\n", talk(s, "-tls1_3 -cert me.pem -key me.key"))
    assert.equal("hello\n", talk(s, "-tls1_3 -groups P-384:P-256 -curves P-521:X448:P-256")) -- it has to ask again
    assert.equal("", talk(s, "-alpn b"))
    assert.equal("", talk(s, "-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256"))
    s:wait_log "TLS handshake with [%d.:]+ failed: no shared cipher"
    local opened = {}
    for _, line in ipairs(s:said()) do
      if line:find "^open" then opened[#opened + 1] = line end
    end
    assert.same({ "open TLSv1.3 localhost new nobody", "open TLSv1.2 localhost new nobody", "open TLSv1.3 localhost resumed nobody",
      "open TLSv1.3 localhost new CN=me", "open TLSv1.3 localhost new nobody" }, opened)
  end)

  it("does so where the key decrypts, and over HTTP, for curl", function()
    local key = tls.rsa()
    local s = start({ certificate = key.certificate, key = key.key, ciphers = "AES128-GCM-SHA256" })
    tls.sh "cp rsa.pem ca.pem"
    assert.equal("hello\n", talk(s, "-tls1_2"))
    assert.equal(2, done(s, "tls"))
    local http = start(nil, { listen = "https://127.0.0.1:0", script = "return function(req, res)\n res:send('hello\\n') end" })
    tls.set_up()
    assert.equal("hello\n", tls.sh(("curl -sSk --max-time 5 https://localhost:%d/"):format(http.port)))
    assert.matches("^HTTP/1.1 400", tls.sh(("curl -sSi --max-time 5 http://localhost:%d/"):format(http.port)))
  end)

  it("lets on_certificate choose before", function()
    local s = start(nil, { script = [[
      return {
        on_certificate = function(name)
          rille.sleep(0.01)
          if name == "other.test" then
            return { certificate = "]] .. tls.file "other.pem" .. [[", key = "]] .. tls.file "other.key" .. [[" }
          end
          return name ~= "none.test"
        end,
        on_request = function(conn) conn:write(conn:next(conn:len())) end,
      }
    ]] })
    tls.certificate("other", "ca", "DNS:other.test")
    assert.matches("CN = other", tls.look(s.port, "-servername other.test"))
    assert.matches("CN = site", tls.look(s.port, "-servername localhost"))
    assert.matches("unrecognized name", tls.look(s.port, "-servername none.test"))
  end)

  it("works for clients and by starttls", function()
    local key = tls.rsa()
    local s = start({ client = "required", ca = key.ca, certificate = key.certificate, key = key.key })
    tls.check(([[
      for _, version in ipairs { "1.2", "1.3" } do
        for _, resume in ipairs { false, true } do
          local c = assert(rille.dial("tls://127.0.0.1:%d", { tls = { ca = folder .. "/rsa.pem", name = "localhost", offload = "mine",
            min_version = version, certificate = folder .. "/rsa.pem", key = folder .. "/rsa.key", resume = resume } }))
          local text = ("x"):rep(100000)
          together(function() c:send(text) end, function() equal(c:read_string(#text), text) end)
          c:close()
        end
      end
      local jobs = rille.pool("mine"):stats()
      assert(jobs.done >= 4, jobs.done)
      local none, err = rille.dial("tls://127.0.0.1:%d", { tls = { ca = folder .. "/rsa.pem", name = "example.org", offload = true } })
      equal(none, nil) equal(err, "bad certificate")
      local a, b = rille.pair()
      local ok, ok_b
      together(function() ok = a:starttls { role = "client", verify = false, offload = true } end,
        function() ok_b = b:starttls { certificate = folder .. "/rsa.pem", key = folder .. "/rsa.key", offload = true } end)
      equal(ok, true) equal(ok_b, true)
      a:send("hello") equal(b:read_string(5), "hello")
      a:close() b:close()
      raises("starttls: offload is a boolean or string, not a number", a.starttls, a, { offload = 1 })
    ]]):format(s.port, s.port))
    s:wait_empty()
  end)

  it("loses nothing of what a server says right behind the handshake", function()
    server.write("greet.py", [[
import socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.maximum_version = ssl.TLSVersion.TLSv1_2
context.load_cert_chain("site.pem", "site.key")
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
for _ in range(6):
    s = context.wrap_socket(listener.accept()[0], server_side=True)
    for size in (1, 100, 16384, 40000): s.sendall(b"g" * size)
    s.unwrap()
]])
    tls.sh "timeout 60 python3 greet.py >greet.port 2>&1 & true"
    local port = net.poll_until(function() return tonumber(server.read(tls.file "greet.port"):match "^(%d+)\n") end, 10)
    tls.check(([[
      for i = 1, 6 do
        local c = assert(rille.dial("tls://127.0.0.1:%d", { tls = { ca = folder .. "/ca.pem", name = "localhost", offload = true } }))
        equal(c:tls().version, "TLSv1.2")
        if i %% 2 == 0 then rille.sleep(0.05) end
        equal(c:read_string(56485), ("g"):rep(56485))
        equal(select(2, c:read()), "closed")
        c:close()
      end
    ]]):format(port))
  end)

  describe("while the job is away", function()
    local function client_hello(s)
      local c = s:connect(nil, (s.url:gsub("^tls", "tcp")))
      c:send(tls.hello())
      return c
    end

    it("bears a peer that goes, one that breaks off, and one that waits too long", function()
      local s, go = start_held { timeouts = { handshake = 0.3 } }
      client_hello(s):close()
      client_hello(s):reset()
      local c = client_hello(s)
      assert.equal("", (c:receive_all()))
      local said = s:wait_said(3)
      table.sort(said)
      assert.equal("closed timeout", said[3])
      s:wait_empty()
      go()
      assert.equal("hello\n", talk(s))
    end)

    it("goes on with those that are still there, and tells the others", function()
      local s, go = start_held()
      local waiting = {}
      for i = 1, 20 do waiting[i] = client_hello(s) end
      s:wait_state(function(state) return state.accepted == 20 end)
      for i = 1, 20, 2 do waiting[i]:reset() end
      s:wait_state(function(state) return state.connections <= 10 end)
      go()
      for i = 2, 20, 2 do assert.equal("\22\3\3", waiting[i]:receive(3)) end
      assert.equal("hello\n", talk(s))
    end)

    it("ends with the server, at once or after its time", function()
      for _, times in ipairs { 1, 2 } do
        os.remove(tls.file "go")
        local s, go = start_held { timeouts = { handshake = 30 }, conf = { drain_timeout = 0.2, workers_timeout = 5 } }
        local c = client_hello(s)
        s:wait_state(function(state) return state.connections == 1 end)
        s:forget()
        for _ = 1, times do s:signal "TERM" end
        c:receive_all()
        go()
        assert.equal(0, s:wait_exit())
      end
    end)

    it("goes on with a connection whose script was replaced meanwhile", function()
      local s, go = start_held()
      local c = client_hello(s)
      s:wait_state(function(state) return state.connections == 1 end)
      s:signal "HUP"
      s:wait_log "script@2"
      go()
      assert.equal("\22\3\3", c:receive(3))
      c:close()
      assert.equal("hello\n", talk(s))
      s:wait_empty()
    end)

    it("is refused when too many wait", function()
      local s, go = start_held { queue = 2 }
      for _ = 1, 5 do client_hello(s) end
      assert.same({ "closed full", "closed full", "closed full" }, s:wait_said(3))
      s:wait_log "TLS handshake with [%d.:]+ failed: too many wait for a worker"
      go()
      assert.is_truthy(net.poll_until(function() return talk(s) == "hello\n" end)) -- when those two are through
    end)

    it("is closed by the script that started it", function()
      local s, go = start_held({ listen = "tcp://127.0.0.1:0", script = [[
        return { on_request = function(conn)
          conn:read_line()
          rille.spawn(function() rille.sleep(0.02) conn:close() end)
          local ok, err = conn:starttls()
          say("starttls %s %s", tostring(ok), tostring(err))
        end }]] })
      for _ = 1, 3 do
        local c = s:connect()
        c:send("tls\n" .. tls.hello())
        assert.equal("", (c:receive_all()))
      end
      for _, line in ipairs(s:wait_said(3)) do assert.equal("starttls nil closed", line) end
      s:wait_empty()
      go()
    end)
  end)

  it("survives clients that come and go at any time", function()
    local key = tls.rsa()
    local s = start({ certificate = key.certificate, key = key.key }, { conf = { loops = 2, pools = { tls = { max = 2 } } } })
    tls.check(([[
      math.randomseed(7)
      local done = 0
      local tasks = {}
      for i = 1, 16 do
        tasks[i] = rille.spawn(function()
          for k = 1, 12 do
            local c = dial(%d)
            local task = rille.spawn(function() return c:starttls { role = "client", verify = false, timeout = 30 } end)
            if k %% 3 == 0 then
              assert(task:join())
              done = done + 1
              c:close()
            else
              rille.sleep(math.random() * 0.01)
              if k %% 3 == 1 then c:abort() else task:cancel() c:close() end
              task:join()
            end
          end
        end)
      end
      for _, t in ipairs(tasks) do assert(t:join() == nil) end
      equal(done, 64)
    ]]):format(s.port), { seconds = 60 })
    s:wait_empty(2)
  end)

  it("leaves the loop free: its time for a handshake with RSA 4096 is a fraction", function()
    local key = tls.rsa(4096)
    -- nanoseconds on a processor of the workers' threads, and of the others
    local function times(s)
      local workers, others = 0, 0
      for task in io.popen("ls /proc/" .. s.pid .. "/task"):lines() do
        local path = "/proc/" .. s.pid .. "/task/" .. task
        local spent = tonumber(server.read(path .. "/schedstat"):match "^%d+") or 0
        if server.read(path .. "/comm"):find "^rille%-pool%-tls" then workers = workers + spent else others = others + spent end
      end
      return workers, others
    end
    local spent = {}
    for _, offload in ipairs { false, true } do
      local s = start({ certificate = key.certificate, key = key.key, offload = offload },
        { conf = { loops = 1, pools = { tls = { max = 1 } } } })
      local ping = [[local c = assert(rille.dial("tls://127.0.0.1:%d", { tls = { verify = false } })) ]]
      local code = (ping .. [[
        local pings, over = 0, 0
        local function shake() local d = assert(rille.dial("tls://127.0.0.1:%d", { tls = { verify = false, resume = false } }))
          d:send("x") equal(d:read_string(1), "x") d:close() over = over + 1 end
        shake()
        io.open(folder .. "/warm", "w"):close()
        repeat rille.sleep(0.01) until io.open(folder .. "/measure")
        for _ = 1, 4 do rille.spawn(function() for _ = 1, 8 do shake() end end) end
        while over < 33 do
          c:send("ping") equal(c:read_string(4), "ping")
          pings = pings + 1
          rille.sleep(0.002)
        end
        assert(pings >= 10, pings)
        c:close()
      ]]):format(s.port, s.port)
      os.remove(tls.file "warm")
      os.remove(tls.file "measure")
      local p = inside.start(("local folder = %q "):format(server.folder()) .. code, { seconds = 60 })
      assert.is_truthy(net.poll_until(function() return io.open(tls.file "warm") end, 20))
      local workers, others = times(s)
      server.write("measure", "")
      inside.verify(inside.finish(p, 60))
      local workers_after, others_after = times(s)
      spent[offload] = { workers = workers_after - workers, others = others_after - others }
      s:wait_empty()
    end
    assert.equal(0, spent[false].workers)
    local report = ("loop %.1f ms, then %.1f ms and %.1f ms of workers"):format(spent[false].others / 1e6, spent[true].others / 1e6,
      spent[true].workers / 1e6)
    assert.is_true(spent[true].workers > 0.5 * spent[false].others, report)
    -- a sanitizer makes the library dear, and not OpenSSL
    assert.is_true(net.is_sanitized or spent[true].others < 0.6 * spent[false].others, report)
  end)

  it("is named when it is wrong", function()
    local function problem(words)
      server.write("x.lua", "return function() end\n")
      local conf = server.write("wrong.lua", ([[return { servers = { { listen = "tls://127.0.0.1:0", script = "x.lua",
        tls = { certificate = "site.pem", key = "site.key", %s } } } }]]):format(words))
        return inside.command({ server.root .. "/bin/rille", "check", "--conf", conf }).out
    end
    assert.matches("tls%.offload: excludes ktls: a worker has no socket to give the keys to", problem "offload = true, ktls = true")
    assert.matches('tls%.offload: got "io"; expected true, false or the name of a pool', problem 'offload = "io"')
    assert.matches('tls%.offload: got 1; expected true, false or the name of a pool', problem "offload = 1")
  end)
end)
