-- A 2xx answer to CONNECT says that the tunnel is there. An on_tunnel that returned without upgrade() gave one, and what the
-- client sent into its tunnel was read as requests. Likewise 101 for a protocol that the client had not named.

local server = require "spec.support.server"
local http = require "spec.support.http"

describe("what is no tunnel", function()
  after_each(server.cleanup)

  -- All that a client gets that sends a request into the tunnel at once.
  local function talk(body)
    local s = http.start("return { on_request = function(req, res) res:send 'smuggled' end, on_tunnel = function(req, res)\n"
      .. body .. "\nend }")
    local c = s:connect()
    c:send("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n" .. http.get "/")
    c:shutdown_write()
    return c:receive_all()
  end

  it("is refused with 501 where the handler says nothing", function()
    local answer = talk ""
    assert.truthy(answer:find("^HTTP/1%.1 501 .*Connection: close\r\n"), answer)
    assert.falsy(answer:find("smuggled"))
  end)

  it("ends the connection where the handler has sent a 2xx", function()
    for _, body in ipairs { "res:send 'x'", "res:write 'x'" } do
      local answer = talk(body)
      assert.truthy(answer:find("^HTTP/1%.1 200 "), answer)
      assert.falsy(answer:find("smuggled"))
    end
  end)

  it("is what the handler says otherwise, and what was meant for the tunnel is no request", function()
    local answer = talk "res.status = 403"
    assert.truthy(answer:find("^HTTP/1%.1 403 .*Connection: close"), answer)
    assert.falsy(answer:find("smuggled"))
  end)
end)

describe("res:upgrade", function()
  after_each(server.cleanup)

  it("switches to a protocol that the client has offered, and to no other one", function()
    local s = http.start([[
      return function(req, res)
        local conn, err = res:upgrade(req.path:sub(2))
        if not conn then res:send(err) end
      end
    ]])
    local function ask(name)
      local c = s:connect()
      c:send(http.get("/" .. name, { "Connection: upgrade", "Upgrade: h2c, WebSocket ,x/1" }))
      return http.answer(c, "GET").status
    end
    for _, name in ipairs { "h2c", "websocket", "X" } do assert.equal(101, ask(name), name) end
    for _, name in ipairs { "h2", "socket", "1", "x/2", "", "," } do assert.equal(200, ask(name), name) end
  end)
end)
