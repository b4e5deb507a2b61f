-- rille.tls_hello: the first message of TLS clients, whole, in pieces, in several records, and what is none.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local HEAD = [[
local function hello_of(opts) -- of a client that is real
  local a, b = rille.pair()
  local task = rille.spawn(function() a:starttls(opts) end)
  opts.role, opts.timeout = "client", 5
  local need = 5
  while true do
    local bytes = assert(b:peek(need))
    local hello, err, more = rille.tls_hello(bytes)
    if hello then
      local text = b:peek(need):str()
      task:cancel() a:abort() b:abort()
      return hello, text
    end
    equal(err, "short")
    assert(more > need)
    need = more
  end
end
]]

local function check(code)
  return inside.check(HEAD .. code)
end

describe("rille.tls_hello", function()
  after_each(server.cleanup)

  it("reads whom a client wants and what it speaks", function()
    check [=[
      local hello, text = hello_of { name = "Shop.Example.org", alpn = { "h2", "http/1.1" }, verify = false }
      equal(hello.name, "shop.example.org") equal(table.concat(hello.alpn, " "), "h2 http/1.1")
      equal(rille.tls_hello(text).name, "shop.example.org")
      equal(rille.tls_hello(text .. "what follows").name, "shop.example.org")
      hello = hello_of { verify = false }
      equal(hello.name, nil) equal(hello.alpn, nil)
    ]=]
  end)

  it("says how many bytes are missing, at each length", function()
    check [=[
      local _, text = hello_of { name = "a.test", verify = false }
      for n = 0, #text - 1 do
        local hello, err, need = rille.tls_hello(text:sub(1, n))
        equal(hello, nil) equal(err, "short")
        equal(need, n < 5 and 5 or #text)
      end
      -- in records of so many bytes
      local function in_records(size)
        local body, records = text:sub(6), {}
        for at = 1, #body, size do
          local piece = body:sub(at, at + size - 1)
          records[#records + 1] = "\22\3\1\0" .. string.char(#piece) .. piece
        end
        return table.concat(records)
      end
      equal(select(2, rille.tls_hello(in_records(1))), "too large") -- a client that wants to be read again and again
      local cut = in_records(50)
      equal(rille.tls_hello(cut).name, "a.test")
      for n = 0, #cut - 1 do
        local hello, err, need = rille.tls_hello(cut:sub(1, n))
        equal(hello, nil) equal(err, "short")
        assert(need > n and need <= #cut)
      end
    ]=]
  end)

  it("refuses what is no client of TLS, and never fails at bytes", function()
    check [=[
      local function refused(text, want)
        local hello, err = rille.tls_hello(text)
        equal(hello, nil) equal(err, want or "handshake failed")
      end
      refused "GET / HTTP/1.1\r\n" refused "\22\2\0\0\5" refused "\21\3\1\0\2\1\0" refused "\22\3\1\0\0" refused "\22\3\1\255\255"
      refused "\22\3\1\0\4\2\0\0\0" refused("\22\3\1\0\4\1\1\0\0", "too large") refused "\22\3\1\0\4\1\0\0\0"
      raises("a string or slice expected, got number", rille.tls_hello, 7)
      local _, text = hello_of { name = "a.test", alpn = { "x" }, verify = false }
      local random = 7
      for _ = 1, 20000 do
        random = random * 16807 % 2147483647
        local at = 1 + random % #text
        random = random * 16807 % 2147483647
        local bad = text:sub(1, at - 1) .. string.char(random % 256) .. text:sub(at + 1)
        local hello, err = rille.tls_hello(bad)
        assert(hello or err == "short" or err == "handshake failed" or err == "too large")
      end
    ]=]
  end)
end)
