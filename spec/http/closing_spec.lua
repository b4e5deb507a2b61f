-- What a client still gets when its connection is about to end, and what ends it.

local server = require "spec.support.server"
local http = require "spec.support.http"
local net = server.net

local SIZE = 900000

-- Read slowly: pieces of `step` bytes with pauses, until the end. What came.
local function read_slowly(c, step, pause_ms)
  local parts, size = {}, 0
  while true do
    local piece = c:receive_some(5)
    if not piece or piece == "" then break end
    parts[#parts + 1] = piece
    size = size + #piece
    if size % (step * 4) < #piece then net.nap(pause_ms) end
  end
  return table.concat(parts)
end

describe("an answer", function()
  after_each(server.cleanup)

  local BIG = "return function(req, res) res:send(('x'):rep(" .. SIZE .. ")) end\n"

  local function start(opts)
    opts = opts or {}
    opts.server = { send_buffer = "64k" }
    opts.timeouts = opts.timeouts or { linger = 0.2 }
    return http.start(BIG, opts)
  end

  it("comes whole to a slow client whose connection ends with it", function()
    local s = start()
    for _, text in ipairs {
      "GET / HTTP/1.0\r\n\r\n", http.get("/", { "Connection: close" }), http.get("/", { "Connection: close" }) .. "\r\n",
    } do
      local c = s:connect { receive_buffer = 32768 }
      c:send(text)
      local answer = read_slowly(c, 32768, 60)
      assert.equal(SIZE, #(answer:match("\r\n\r\n(.*)$") or ""))
    end
  end)

  it("comes whole to a slow client when the server stops meanwhile", function()
    local s = start()
    local c = s:connect { receive_buffer = 32768 }
    c:send(http.get())
    net.nap(50)
    s:signal("TERM")
    local answer = read_slowly(c, 32768, 60)
    assert.equal(SIZE, #(answer:match("\r\n\r\n(.*)$") or ""))
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)

  it("is given up when a client takes nothing of it for timeouts.write", function()
    local s = start { timeouts = { linger = 0.1, write = 0.4 } }
    local c = s:connect { receive_buffer = 4096 }
    c:send(http.get("/", { "Connection: close" }))
    s:wait_state(function(state) return state.connections == 1 end)
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  it("leaves a client that was refused and does not end its side timeouts.linger, not timeouts.write", function()
    local s = start { timeouts = { linger = 0.1, write = 60 } }
    local c = s:connect()
    c:send("GET / HTTP/1.1\r\n\r\n") -- no Host
    assert.equal(400, http.answer(c, "GET").status)
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  it("is not followed by an answer to nothing: an empty line is no beginning of a request", function()
    local s = http.start([[
      return function(req, res) res:send(req:body()) end
    ]], { timeouts = { header = 0.1 } })
    local c = s:connect()
    assert.equal("a=1", http.ask(c, http.post("/", "a=1") .. "\r\n").body)
    c:receives_nothing(0.4)
    assert.equal("b=2", http.ask(c, http.post("/", "b=2")).body)
  end)

  it("with 205 leaves the connection in step however it is written", function()
    local s = http.start([[
      return function(req, res)
        local how = req:query "how"
        if not how then return res:send "next" end
        res.status = 205
        if how == "counted" then res:header("Content-Length", 3) end
        if how == "send" then res:send "abc" else res:write "abc" end
      end
    ]])
    for _, how in ipairs { "send", "write", "counted" } do
      local c = s:connect()
      c:send(http.get("/?how=" .. how) .. http.get())
      local answer = http.answer(c)
      assert.same({ 205, "0", "" }, { answer.status, answer["content-length"], answer.body })
      assert.equal("next", http.answer(c).body)
    end
  end)

  it("that is too large for memory is refused before its head is out", function()
    local s = http.start([[
      return function(req, res)
        local large = require("rille.linkbuffer").new()
        local piece = ("x"):rep(2 ^ 20)
        for _ = 1, 5 do large:write(piece) end
        large:flush()
        local all = require("rille.linkbuffer").new()
        for _ = 1, 210 do all:write(large) end
        all:flush()
        local _, err = res:send(all)
        all:close()
        large:close()
        res:send(tostring(err))
      end
    ]])
    assert.equal("too large", http.once(s, http.get()).body)
  end)

  it("closes a connection that owes only the rest of a body at once when the server stops", function()
    local s = http.start([[return function(req, res) res:send "no use for it" end
    ]])
    local c = s:connect()
    c:send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
    assert.equal("no use for it", http.answer(c).body)
    local before = net.now()
    s:signal("TERM")
    assert.equal(0, s:wait_exit())
    assert.is_true(net.now() - before < 2)
    s:check_end()
    s:forget()
  end)
end)

describe("the time for a body", function()
  after_each(server.cleanup)

  it("counts only while the handler waits", function()
    local s = http.start([[
      local rille = require "rille"
      return function(req, res)
        local body, err = rille.with_timeout(0.05, req.body, req)
        rille.sleep(0.7)
        say("%s %s", tostring(body), tostring(err))
        res:send(req:body())
      end
    ]], { timeouts = { body = 0.5 }, limits = { body_rate = 0 } })
    local c = s:connect()
    c:send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12")
    assert.equal("nil timeout", s:wait_said(1)[1])
    net.nap(100)
    c:send "345"
    local answer = http.answer(c)
    assert.same({ 200, "12345" }, { answer.status, answer.body })
  end)
end)

describe("what a handler asks again and again", function()
  after_each(server.cleanup)

  it("costs memory once", function()
    local s = http.start([[
      return function(req, res)
        local stats = require("rille.linkbuffer").stats
        local _ = req.path, req:header "x"
        local before = stats().blocks_in_use
        for _ = 1, 10000 do
          assert(req.path == "/a b")
          assert(req:header "x" == "1, 2")
        end
        res:send(tostring(stats().blocks_in_use - before))
      end
    ]])
    assert.equal("0", http.once(s, http.get("/a%20b", { "X: 1", "x: 2" })).body)
  end)
end)
