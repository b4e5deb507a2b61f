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

  it("compare certificates with the name that DNS was asked for, and are checked", function()
    check [=[
      local d = serve_dns(function(name, kind) return kind == "A" and { { name, "A", 60, "127.0.0.1" } } or {} end)
      local l = listen(function(c)
        local line = c:read_line()
        if line and line:str():find "^GET" then return c:write "HTTP/1.1 204 Fine\r\n\r\n" end
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
      assert(made >= 4) equal(up:targets()[1].state, "up")
      up:close()
      up = rille.upstream { targets = { { url = "tls://other.test:" .. port, dns = "A" } }, dial = options, retry = { attempts = 1 } }
      equal(select(2, up:with(ask)), "bad certificate")
      up:close() l:close() d.close()
    ]=]
  end)
end)
