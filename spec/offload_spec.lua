-- Servers whose on_request runs on workers: servers[i].offload.

local server = require "spec.support.server"
local inside = require "spec.support.inside"

-- SLOW says which thread it is on, so that a spec sees it is a worker's.
local LINES = [[
local ffi = require "ffi"
ffi.cdef "int spec_gettid(void) __asm__(\"gettid\"); int spec_getpid(void) __asm__(\"getpid\");"
local options = ...
local commands = {}
function commands.thread(conn) return io.open(("/proc/self/task/%d/comm"):format(ffi.C.spec_gettid())):read() end
function commands.option() return options.word end
function commands.count(conn) conn.ctx = (conn.ctx or 0) + 1 return conn.ctx end
function commands.fail() error "on purpose" end
function commands.close(conn) conn:close() return "bye" end
function commands.peer(conn) return conn:peer() end
return {
  on_connect = function(conn) conn:write "hello\n" end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return end
    local name = line:str()
    conn:write(tostring(commands[name] and commands[name](conn) or "?" .. name) .. "\n")
  end,
  on_close = function(conn, err) say("closed %s", tostring(err)) end,
}
]]

describe("an offloaded server", function()
  after_each(server.cleanup)

  local function start(source, opts)
    opts = opts or {}
    opts.server = opts.server or {}
    opts.server.offload = opts.server.offload or "pool"
    return server.start(source, opts)
  end

  it("calls on_request on a worker, the other hooks on the loop", function()
    local s = start(LINES, { options = { word = "moon" } })
    local c = s:connect()
    assert.equal("hello", c:receive_line())
    assert.matches("^rille%-pool", c:send("thread\n"):receive_line())
    assert.equal("moon", c:send("option\n"):receive_line())
    assert.matches("^127%.0%.0%.1:%d+$", c:send("peer\n"):receive_line())
    for i = 1, 3 do assert.equal(tostring(i), c:send("count\n"):receive_line()) end
    c:send "clo"
    c:send "se\n"
    assert.equal("bye\n", (c:receive_all()))
    assert.same({ "closed nil" }, s:wait_said(1))
  end)

  it("keeps the order of messages, whole or in pieces", function()
    local s = start(LINES, { conf = { workers = 4 } })
    local c = s:connect()
    c:receive_line()
    local lines = {}
    for i = 1, 500 do lines[i] = "line" .. i end
    c:send(table.concat(lines, "\n") .. "\n")
    for i = 1, 500 do assert.equal("?line" .. i, c:receive_line()) end
    c:send_slowly "count\ncount\nlast\n"
    assert.equal("1", c:receive_line())
    assert.equal("2", c:receive_line())
    assert.equal("?last", c:receive_line())
  end)

  it("ends the connection whose on_request raises, and no other", function()
    local s = start(LINES, { allow_errors = true })
    local one, two = s:connect(), s:connect()
    one:receive_line() two:receive_line()
    assert.equal("", (one:send("fail\n"):receive_all()))
    assert.same({ "closed error" }, s:wait_said(1))
    assert.equal("1", two:send("count\n"):receive_line())
    s:wait_log "script@1: on_request of conn %d+ failed: [^\n]*on purpose\\nstack traceback"
  end)

  it("takes frames of a codec", function()
    server.write("pairs_codec.lua", "return { decode = function(conn) if conn:len() >= 2 then return conn:next(2) end end }")
    local s = start("return function(conn, frame)\n conn:write('<' .. frame:str() .. '>') end", { server = { codec = "pairs_codec" } })
    local c = s:connect()
    c:send_slowly "abcde"
    assert.equal("<ab><cd>", c:receive(8))
    c:send "f"
    assert.equal("<ef>", c:receive(4))
  end)

  it("waits for a place when the queue is full", function()
    local s = start("return function(conn)\n local line = conn:read_line() if line then conn:write(line) end end",
      { server = { offload = "tiny" }, conf = { pools = { tiny = { max = 1, queue = 1 } } } })
    local slow, clients = s:connect(), {}
    slow:send "half "
    for i = 1, 8 do clients[i] = s:connect():send("client" .. i .. "\n") end
    slow:send "a line\n"
    assert.equal("half a line", slow:receive(11))
    for i = 1, 8 do assert.equal("client" .. i, clients[i]:receive(7)) end
  end)

  it("closes a connection with more input than its handler takes", function()
    local s = start("return {\n on_request = function() end, on_close = function(_, err) say('closed') end }",
      { limits = { max_input = 5000 } })
    local c = s:connect()
    c:send(("x"):rep(5000))
    c:receive_all()
    s:wait_log "max_input %(5000 bytes%) reached, and on_request of conn %d+ takes none of it: closing"
    s:wait_said(1)
  end)

  it("survives peers that vanish while a worker has their connection", function()
    local s = start("return function(conn)\n local line = conn:read_line() if line then conn:write(line) end end")
    for i = 1, 20 do
      local c = s:connect()
      c:send "half a li"
      if i % 2 == 0 then c:reset() else c:close() end
    end
    local c = s:connect()
    assert.equal("whole", c:send("whole\n"):receive(5))
  end)

  it("stops with a connection at a worker", function()
    local s = start("return function(conn)\n say('in') conn:read_line() end", { conf = { drain_timeout = 0.2 } })
    local c = s:connect()
    c:send "x"
    s:wait_log "said in" -- by the worker
    s:signal "TERM"
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)
end)

describe("offload", function()
  after_each(server.cleanup)

  it("is refused where it cannot be", function()
    local function message(extra)
      server.write("s.lua", "return print\n")
      local path = server.write("c.lua", "return { servers = { { script = 's.lua', " .. extra .. " } } }\n")
      return inside.command({ server.root .. "/bin/rille", "check", "--conf", path }).out
    end
    assert.matches("c.lua:1: servers%[1%]%.offload: is not for datagrams", message "listen = 'udp://127.0.0.1:0', offload = 'pool'")
    assert.matches("c.lua:1: servers%[1%]%.offload: got 7", message "listen = 'tcp://127.0.0.1:0', offload = 7")
  end)
end)
