-- Sessions that a client resumes: of Rille's server and of openssl's, kept by server and rules, used once where they have to be.

local server = require "spec.support.server"
local tls = require "spec.support.tls"

-- One connection to `url`: whether it was resumed. The answer to a line has the tickets before it.
local ONCE = [[
local function once(url, more, name)
  local options = { ca = folder .. "/ca.pem", name = name or "localhost" }
  for k, v in pairs(more or {}) do options[k] = v end
  local c = assert(rille.dial(url, { tls = options }))
  c:send("hello\n")
  equal(c:read_line():len(), 5)
  local t = c:tls()
  equal(t.peer.subject, "CN=site") -- of a session as well
  c:close()
  return t.resumed and "resumed" or "new", t.version
end
]]

local function check(code, options) return tls.check(ONCE .. code, options) end

local rules

local function start(more)
  local all = { certificate = rules.certificate, key = rules.key }
  for key, value in pairs(more or {}) do all[key] = value end
  local s = server.start([[return { on_request = function(conn) conn:write(conn:next(conn:len())) end,
    on_connect = function(conn) say("%s", conn:tls().resumed and "resumed" or "new") end }]],
    { listen = "tls://127.0.0.1:0", server = { tls = all } })
  return s, "tls://127.0.0.1:" .. s.port
end

describe("A client's TLS", function()
  before_each(function() rules = tls.set_up() end)
  after_each(server.cleanup)

  it("resumes the session of the connection before", function()
    local s, url = start()
    check(([[
      equal(once(%q), "new")
      for _ = 1, 5 do equal(once(%q), "resumed") end
    ]]):format(url, url))
    assert.same({ "new", "resumed", "resumed", "resumed", "resumed", "resumed" }, s:wait_said(6))
  end)

  it("resumes that of TLS 1.2 too, which may be used again", function()
    local port, stop = tls.openssl_server "-cert site.pem -key site.key -tls1_2"
    check(([[
      local url = "tls://127.0.0.1:%d"
      equal(once(url), "new")
      for _ = 1, 3 do
        local how, version = once(url)
        equal(how, "resumed") equal(version, "TLSv1.2")
      end
    ]]):format(port))
    stop()
  end)

  it("resumes sessions of openssl", function()
    local port, stop = tls.openssl_server "-cert site.pem -key site.key -tls1_3"
    check(([[
      local url = "tls://127.0.0.1:%d"
      equal(once(url), "new")
      for _ = 1, 3 do equal(once(url), "resumed") end
    ]]):format(port))
    stop()
  end)

  it("uses one of TLS 1.3 once, and keeps four of a server", function()
    for given, kept in pairs { [1] = 1, [20] = 4 } do
      local port, stop = tls.openssl_server("-cert site.pem -key site.key -tls1_3 -num_tickets " .. given)
      check(([[
        local url = "tls://127.0.0.1:%d"
        equal(once(url), "new")
        for i = 1, 6 do
          local c = assert(rille.dial(url, { tls = { ca = folder .. "/ca.pem", name = "localhost" } }))
          c:pause() -- what it is given is not looked at
          equal(c:tls().resumed, i <= %d)
          c:close()
        end
      ]]):format(port, kept))
      stop()
    end
  end)

  it("keeps apart servers, names and rules, and keeps nothing when told so", function()
    local _, url = start()
    local _, other = start()
    check(([[
      local url, other = %q, %q
      equal(once(url), "new")
      equal(once(other), "new")
      equal(once(url, { min_version = "1.3" }), "new")
      equal(once(url, nil, "127.0.0.1"), "new")
      equal(once(url, { verify = false }, "example.org"), "new")
      equal(once(url, { resume = false }), "new")
      equal(once(url, { resume = false }), "new")
      equal(once(url), "resumed")
      local none, err = rille.dial(url, { tls = { ca = folder .. "/ca.pem", name = "example.org" } })
      equal(none, nil) equal(err, "bad certificate")
    ]]):format(url, other))
  end)

  it("begins anew after a server that does not know the session any more", function()
    local s, url = start { session_tickets = false }
    check(([[ for _ = 1, 3 do equal(once(%q), "new") end ]]):format(url))
    s:stop()
  end)

  it("does not resume what was agreed on with other files", function()
    local _, url = start()
    tls.certificate("me", "ca", "DNS:me")
    check(([[
      local more = { certificate = folder .. "/me.pem", key = folder .. "/me.key" }
      equal(once(%q, more), "new")
      equal(once(%q, more), "resumed")
      local from, to = assert(io.open(more.certificate)), assert(io.open(more.certificate .. ".new", "w"))
      to:write(from:read "*a")
      from:close() to:close()
      assert(os.rename(more.certificate .. ".new", more.certificate))
      rille.sleep(1.2) -- files are looked at once a second
      equal(once(%q, more), "new")
      equal(once(%q, more), "resumed")
    ]]):format(url, url, url, url))
  end)

  it("resumes on one loop what another loop began, also when all dial at once", function()
    local _, url = start()
    local s = server.start([[
      local options = ...
      return { on_request = function(conn)
        for _ = 1, tonumber(conn:read_line():str()) do
          local c = assert(rille.dial(options.url, { tls = { ca = options.ca, name = "localhost" } }))
          c:send("hello\n")
          c:read_line()
          say("%d %s", rille.loop.id, c:tls().resumed and "resumed" or "new")
          c:close()
        end
        conn:write("done\n")
      end }
    ]], { name = "front", conf = { loops = 2 }, server = { accept = "balanced" }, options = { url = url, ca = tls.file "ca.pem" } })
    local clients = {}
    for i = 1, 4 do clients[i] = s:connect() end
    for i = 1, 2 do
      clients[i]:send("1\n")
      assert.equal("done", clients[i]:receive_line())
    end
    local first, second = unpack(s:wait_said(2))
    assert.matches(" new$", first)
    assert.matches(" resumed$", second)
    assert.is_not.equal(first:byte(), second:byte()) -- the loops
    for _, c in ipairs(clients) do c:send("10\n") end
    for _, c in ipairs(clients) do assert.equal("done", c:receive_line(20)) end
    assert.equal(42, #s:wait_said(42))
  end)

  it("gives up the sessions of a server that a handshake failed with", function()
    local port, stop = tls.openssl_server "-cert site.pem -key site.key -tls1_2"
    check(([[
      local url = "tls://127.0.0.1:%d"
      equal(once(url), "new") equal(once(url), "resumed")
      local c = assert(rille.dial("tcp://127.0.0.1:%d"))
      local ok, err = rille.dial(url, { timeout = 0.3, tls = { ca = folder .. "/ca.pem", name = "localhost" } })
      equal(ok, nil) equal(err, "timeout") -- the server talks to one at a time
      c:close()
      equal(once(url), "new") equal(once(url), "resumed")
    ]]):format(port, port))
    stop()
  end)

  it("resumes what starttls began, by the peer's address", function()
    local s = server.start([[return function(conn)
      if conn:tls() then return conn:write(conn:read_line():str() .. "\n") end
      conn:read_line()
      conn:send("go\n")
      conn:starttls()
    end]], { server = { tls = rules } })
    check(([[
      for i = 1, 3 do
        local c = assert(rille.dial("tcp://127.0.0.1:%d"))
        c:send("tls\n")
        c:read_line()
        assert(c:starttls { role = "client", name = "localhost", ca = folder .. "/ca.pem" })
        c:send("hello\n")
        equal(c:read_line():str(), "hello")
        equal(c:tls().resumed, i > 1)
        c:close()
      end
    ]]):format(s.port))
  end)
end)
