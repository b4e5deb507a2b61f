-- conn:sendfile, and res:file of what is large enough for the kernel to send.

local http = require "spec.support.http"
local server, net = http.server, http.net

local LARGE = net.noise(5000000, 3)

-- A server whose on_request answers a line "offset length" with that part of a file between two lines of its own.
local SCRIPT = [[
  return function(conn)
    local line = conn:read_line():str()
    local offset, length = line:match("^(%%S+) (%%S+)$")
    conn:write("before\n")
    local sent, err = conn:sendfile(%q, tonumber(offset), tonumber(length))
    conn:write(("\n%%s %%s\n"):format(tostring(sent), tostring(err)))
  end
]]

local function start(bytes, opts)
  local path = server.write("file", bytes)
  return server.start(SCRIPT:format(path), opts), path
end

local function ask(c, offset, length, expected)
  c:send(("%s %s\n"):format(offset, length))
  assert.equal("before", c:receive_line())
  assert.is_true(c:receive(#expected, 20) == expected)
  assert.equal("", c:receive_line())
  return c:receive_line()
end

describe("conn:sendfile", function()
  after_each(server.cleanup)

  for name, opts in pairs { ["by the kernel"] = {}, ["of a shaped connection"] = { limits = { write_rate = 100000000 } } } do
    it("sends files and parts of them in order with the output, " .. name, function()
      local s = start(LARGE, opts)
      local c = s:connect()
      assert.equal(#LARGE .. " nil", ask(c, "-", "-", LARGE))
      assert.equal("1000 nil", ask(c, 17, 1000, LARGE:sub(18, 1017)))
      assert.equal("4000001 nil", ask(c, 999999, "-", LARGE:sub(1000000)))
      assert.equal("600000 nil", ask(c, 4097, 600000, LARGE:sub(4098, 604097)))
      assert.equal("0 nil", ask(c, #LARGE, "-", ""))
      assert.equal("nil short", ask(c, 10, #LARGE, ""))
      assert.equal("nil short", ask(c, #LARGE + 1, "-", ""))
    end)
  end

  it("sends empty files, and says what cannot be opened", function()
    local s = start("")
    local c = s:connect()
    assert.equal("0 nil", ask(c, "-", "-", ""))
    s = server.start([[
      return function(conn)
        local line = conn:read_line():str()
        say("%s", select(2, conn:sendfile(line)))
        local ok, err = pcall(conn.sendfile, conn, line, -1)
        say("%s %s", tostring(ok), err)
      end
    ]], { name = "other" }) -- a script that changes is loaded again
    s:connect():send("/nowhere/at/all\n"):send("/tmp\n")
    local said = s:wait_said(4)
    assert.equal("not found", said[1])
    assert.truthy(said[2]:match "^false .*offset is a number of bytes")
    assert.equal("not found", said[3])
  end)

  it("waits for a client that reads slowly, with nothing in memory", function()
    local s = start(LARGE:rep(4))
    local c = s:connect { receive_buffer = 8192 }
    c:send("- -\n")
    s:wait_state(function(state) return state.bytes_out > 100000 end)
    local bytes
    s:wait_state(function(state)
      local same = state.bytes_out == bytes
      bytes = state.bytes_out
      return same
    end)
    assert.is_true(s:state().block_bytes <= 300000)
    c:receive(7)
    assert.is_true(c:receive(4 * #LARGE, 30) == LARGE:rep(4))
  end)

  it("closes a connection whose file becomes shorter", function()
    local s, path = start(LARGE:rep(4))
    local c = s:connect { receive_buffer = 8192 }
    c:send("- -\n")
    s:wait_state(function(state) return state.bytes_out > 100000 end)
    local file = assert(io.open(path, "w"))
    file:close()
    local all, how = c:receive_all(20)
    assert.is_true(#all < 4 * #LARGE)
    assert.equal("closed", how)
  end)

  it("leaves nothing behind when the client goes", function()
    local s = start(LARGE:rep(4))
    for i = 1, 20 do
      local c = s:connect { receive_buffer = 8192 }
      c:send("- -\n")
      if i % 2 == 0 then c:receive(100000) end
      c:reset()
    end
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  it("lets others have their turn", function()
    local s = start(LARGE:rep(8))
    local big, small = s:connect(), s:connect()
    big:send("- -\n")
    assert.equal("10 nil", ask(small, 0, 10, LARGE:sub(1, 10)))
    big:receive(7)
    assert.is_true(big:receive(8 * #LARGE, 30) == LARGE:rep(8))
  end)
end)

describe("res:file of a large file", function()
  after_each(server.cleanup)

  it("is the same in one piece, in ranges, and in pipelined answers", function()
    local path = server.write("large", LARGE)
    local s = http.start(("return function(req, res) res:file(%q) end\n"):format(path))
    assert.is_true(http.once(s, http.get "/").body == LARGE)
    assert.is_true(http.once(s, http.get("/", { "Range: bytes=100001-3000000" })).body == LARGE:sub(100002, 3000001))
    local c = s:connect()
    c:send(http.get("/", { "Range: bytes=0-999999" }) .. http.get("/", { "Range: bytes=1000000-1999999" })
      .. http.get("/", { "Range: bytes=5-9", "Connection: close" }))
    local all = c:receive_all(20)
    for _, part in ipairs { LARGE:sub(1, 1000000), LARGE:sub(1000001, 2000000), LARGE:sub(6, 10) } do
      local at = all:find("\r\n\r\n", 1, true)
      assert.is_true(all:sub(at + 4, at + 3 + #part) == part)
      all = all:sub(at + 4 + #part)
    end
    assert.equal("", all)
  end)

  it("has no body for HEAD", function()
    local path = server.write("large", LARGE)
    local s = http.start(("return function(req, res) res:file(%q) end\n"):format(path))
    local c = s:connect()
    c:send("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    local all = c:receive_all()
    assert.truthy(all:find("Content-Length: " .. #LARGE, 1, true))
    assert.truthy(all:find "\r\n\r\n$")
  end)
end)
