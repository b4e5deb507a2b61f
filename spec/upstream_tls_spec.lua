-- rille.upstream over TLS: connections that are kept, names that are followed, checks.

local server = require "spec.support.server"
local tls = require "spec.support.tls"

local HEAD = [[local serve_dns = require("spec.support.dns").serve ]]
  .. [[local server = { certificate = folder .. "/site.pem", key = folder .. "/site.key" } ]]
  .. [[local made = 0 ]]
  .. [[local function listen(fn) return assert(rille.listen("tcp://127.0.0.1:0", { on_connect = function(c) ]]
  .. [[made = made + 1 c:starttls(server) end, on_request = fn })) end ]]
  .. [[local function answer(c) local line = c:read_line() if line then c:write(line:str() .. "!\n") end end ]]
  .. [[local function ask(c) c:send "hello\n" local line, err = c:read_line() if not line then return nil, err end return line:str() end ]]

local function check(code, options)
  return tls.check(HEAD .. code, options)
end

describe("upstreams with TLS", function()
  before_each(tls.set_up)
  after_each(server.cleanup)

  it("keep connections, and notice their ends", function()
    check [=[
      local conns = {}
      local l = listen(function(c) conns[#conns + 1] = c return answer(c) end)
      local url = "tls://localhost:" .. l:address():match ":(%d+)$"
      local up = rille.upstream { targets = { url }, dial = { tls = { ca = folder .. "/ca.pem" } } }
      for _ = 1, 5 do
        equal(up:with(ask), "hello!")
        rille.sleep(0.005) -- tickets come
      end
      equal(made, 1)
      conns[#conns]:close()
      local till = clock() + 5 * SLOW
      while up:targets()[1].idle > 0 and clock() < till do rille.sleep(0.005) end
      equal(up:targets()[1].idle, 0)
      equal(up:with(ask), "hello!") equal(made, 2)
      up:close()
      -- nobody's certificate
      up = rille.upstream { targets = { url }, retry = { attempts = 1 } }
      local _, err = up:with(ask)
      equal(err, "bad certificate") equal(up:targets()[1].in_use, 0)
      up:close() l:close()
    ]=]
  end)

  it("know the name of a server however its address is written", function()
    check [=[
      local l = listen(answer)
      local port = l:address():match ":(%d+)$"
      local tls = { ca = folder .. "/ca.pem" }
      for _, url in ipairs { "localhost:", "TLS://localhost:", "tls://localhost.:", "Tcp://localhost:", "127.0.0.1:" } do
        local c = assert(rille.dial(url .. port, { tls = tls }))
        equal(ask(c), "hello!")
        c:close()
      end
      local up = rille.upstream { targets = { "TLS://localhost:" .. port }, dial = { tls = tls } }
      equal(up:with(ask), "hello!")
      equal(up:targets()[1].url, "tls://localhost:" .. port)
      raises("is there already", up.set_targets, up, { "tls://localhost:" .. port, "TLS://localhost:" .. port })
      assert(up:remove("TLS://localhost:" .. port))
      up:close()
      raises("rille.dial: tls has no option 'foo' for a client", rille.dial, l:address(), { tls = { foo = 1 } })
      raises("rille.dialer: tls: verify is a boolean, not a number", rille.upstream, { targets = {}, dial = { tls = { verify = 0 } } })
      raises('rille.dial: tls: role is "client", not server', rille.dial, l:address(), { tls = { role = "server" } })
      l:close()
    ]=]
  end)

  it("close a connection at once whose handshake nobody waits for any more", function()
    check [=[
      local silent = assert(rille.listen("tcp://127.0.0.1:0", function() end))
      local url = silent:address():gsub("tcp", "tls")
      equal(select(2, rille.with_timeout(0.05, rille.dial, url)), "timeout")
      turns(2)
      assert(rille.loop.stats().connections < 2, "it waits for the collector")
      local _, err, message = rille.with_timeout(5 * SLOW, rille.dial, url, { timeout = 0.0009 }) -- less than a millisecond is not none
      equal(err, "timeout") assert(message, "it has no end of its own")
      silent:close()
    ]=]
  end)

  it("compare certificates with the name that DNS was asked for, and are checked", function()
    check [=[
      local d = serve_dns(function(name, kind) return kind == "A" and { { name, "A", 60, "127.0.0.1" } } or {} end)
      local host
      local l = listen(function(c)
        local line = c:read_line()
        if line and line:str():find "^GET" then
          host = c:read_line():str()
          return c:write "HTTP/1.1 204 Fine\r\n\r\n"
        end
        if line then c:write(line:str() .. "!\n") end
      end)
      local port = l:address():match ":(%d+)$"
      local options = { tls = { ca = folder .. "/ca.pem" }, dns = { servers = { d.address }, hosts = "", search = {} } }
      local up = rille.upstream { targets = { { url = "tls://localhost:" .. port, dns = "A" } }, dial = options,
        health = { active = { check = "http:///", interval = 0.01, fall = 1, timeout = 5 * SLOW } } }
      equal(up:with(ask), "hello!")
      equal(up:targets()[1].url, "tls://127.0.0.1:" .. port)
      local till = clock() + 5 * SLOW
      while made < 4 and clock() < till do rille.sleep(0.005) end
      assert(made >= 4) equal(up:targets()[1].state, "up") equal(host, "Host: localhost")
      up:close()
      up = rille.upstream { targets = { { url = "tls://other.test:" .. port, dns = "A" } }, dial = options, retry = { attempts = 1 } }
      equal(select(2, up:with(ask)), "bad certificate")
      up:close() l:close() d.close()
    ]=]
  end)
end)
