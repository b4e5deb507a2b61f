-- scripts/resp_ping.lua, as a user runs it.

local server = require "spec.support.server"

local function request(...)
  local out = { ("*%d\r\n"):format(select("#", ...)) }
  for i, word in ipairs { ... } do out[i + 1] = ("$%d\r\n%s\r\n"):format(#word, word) end
  return table.concat(out)
end

describe("scripts/resp_ping.lua", function()
  after_each(server.cleanup)

  local function answers(c, sent, expected)
    c:send(sent)
    assert.equal(expected, c:receive(#expected))
  end

  it("answers commands", function()
    local c = server.run("scripts/resp_ping.lua"):connect()
    answers(c, request "PING", "+PONG\r\n")
    answers(c, request("ping", "hello"), "$5\r\nhello\r\n")
    answers(c, request("ECHO", "a\r\nb"), "$4\r\na\r\nb\r\n")
    answers(c, request("GET", "k"), "$-1\r\n")
    answers(c, request("SET", "k", "v"), "+OK\r\n")
    answers(c, request("GET", "k"), "$1\r\nv\r\n")
    answers(c, request("DEL", "k", "none"), ":1\r\n")
    answers(c, request "NOPE", "-ERR unknown command\r\n")
    answers(c, request "GET", "-ERR wrong number of arguments for 'get'\r\n")
    answers(c, ":5\r\n*0\r\n*1\r\n:1\r\n", ("-ERR expected a list of strings\r\n"):rep(3))
    c:send(request "QUIT")
    assert.same({ "+OK\r\n", "closed" }, { c:receive_all() })
  end)

  it("takes requests a byte at a time and many at once", function()
    local c = server.run("scripts/resp_ping.lua"):connect()
    c:send_slowly(request("SET", "a", "1") .. request("GET", "a"))
    assert.equal("+OK\r\n$1\r\n1\r\n", c:receive(12))
    assert.equal(("+PONG\r\n"):rep(500), c:exchange(request("PING"):rep(500), 7 * 500))
  end)

  it("ends a connection that does not speak the protocol, or asks for too much", function()
    local s = server.run "scripts/resp_ping.lua"
    for _, sent in ipairs { "GET / HTTP/1.1\r\n\r\n", "*1\r\n$65536\r\n", "*1000000\r\n", "*-5\r\n", "*1\r\n*1\r\n*1\r\n" } do
      local c = s:connect()
      c:send(sent)
      assert.same({ "", "closed" }, { c:receive_all() })
    end
    assert.equal("+PONG\r\n", s:connect():send(request "PING"):receive(7))
  end)
end)
