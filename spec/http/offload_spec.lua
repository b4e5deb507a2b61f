-- HTTP servers whose on_request runs on workers: servers[i].offload. What a handler sees and what goes over the wire is as on a loop.

local http = require "spec.support.http"
local server, net = http.server, http.net

local KIB, MIB = 1024, 1024 * 1024
local CLIENTS, ROUNDS = 10, 6

-- Answers by the path; /thread says which thread it is on.
local SCRIPT = [[
local ffi = require "ffi"
ffi.cdef "int spec_gettid(void) __asm__(\"gettid\"); int spec_usleep(unsigned us) __asm__(\"usleep\");"
local options = ...
local pages = {}
pages["/thread"] = function(_, res) res:send(io.open(("/proc/self/task/%d/comm"):format(ffi.C.spec_gettid())):read()) end
pages["/option"] = function(_, res) res:send(options.word) end
pages["/echo"] = function(req, res) res:send(req:body()) end
pages["/pipe"] = function(req, res)
  for piece in function() return req:read() end do
    if not res:write(piece) then return end
  end
end
pages["/sizes"] = function(req, res)
  for size in req:query("sizes"):gmatch "%d+" do res:write(("x"):rep(tonumber(size))) end
end
pages["/look"] = function(req, res)
  res.status = 201
  res:header("X-Two", { "a", "b" })
  res:header("Content-Type", "text/x-look")
  res:json { req.method, req.path, req.target, req.query:str(), req:query "a", req.version, req.host, req.remote:match "^[%d.]+",
    tostring(req:header "x-one"), req:headers()["x-one"], tostring(req:header "nothing"), req.ctx == req.ctx, res:header "x-two",
    tostring(req.conn:is_active()), tostring(select(2, req.conn:read())), tostring(select(2, req.conn:write "x")) }
end
pages["/count"] = function(req, res) req.conn.ctx = (req.conn.ctx or 0) + 1 res:send(tostring(req.conn.ctx)) end
pages["/status"] = function(_, res) res.status = 404 end
pages["/raise"] = function() error "on purpose" end
pages["/raise-late"] = function(_, res) res:write "begun" res:flush() error "on purpose" end
pages["/file"] = function(req, res)
  local ok, err = res:file(req:query "name", { type = "text/x-file" })
  if not ok then res.status = 404 res:send(err) end
end
pages["/close"] = function(req) req.conn:close() end
pages["/abort"] = function(req) req.conn:abort() end
pages["/say-last"] = function(req, res) res:send "bye" req.conn:close() end
pages["/upgrade"] = function(_, res) res:send(select(2, pcall(res.upgrade, res, "echo"))) end
pages["/late"] = function(req, res)
  local size, err = 0, nil
  while true do
    local piece
    piece, err = req:read()
    if not piece then break end
    size = size + #piece
  end
  say("read %d %s", size, tostring(err))
  say("send %s", tostring((select(2, res:send "x"))))
end
pages["/endless"] = function(req, res)
  say "endless"
  local ok, err
  repeat ok, err = res:write(("x"):rep(10000)) until not ok
  say("write %s %s", err, tostring(req.conn:is_active()))
end
pages["/wait"] = function(req, res)
  say "waiting"
  for _ = 1, 2000 do
    if not req.conn:is_active() then return say("gone %s", tostring((select(2, res:send "x")))) end
    ffi.C.spec_usleep(5000)
  end
end
pages["/hold"] = function(_, res)
  say "held"
  ffi.C.spec_usleep(300000)
  res:send "held"
end
return {
  on_request = function(req, res)
    local page = pages[req.path]
    if page then return page(req, res) end
    res:send(req.path)
  end,
  on_tunnel = function(_, res) res.status = 403 res:send "no tunnel" end,
  on_close = function(_, err) say("closed %s", tostring(err)) end,
}
]]

-- What was said, on a loop or by a worker, which has none.
local function wait_said(s, text)
  s:wait_log('msg="said ' .. text .. '"')
end

local function start(opts)
  opts = opts or {}
  opts.server = opts.server or {}
  opts.server.offload = opts.server.offload or "pool"
  return http.start(SCRIPT, opts)
end

local CHUNKED = { "Transfer-Encoding: chunked" }

local function chunked_post(path, bytes, size)
  local pieces = {}
  for at = 1, #bytes, size do pieces[#pieces + 1] = bytes:sub(at, at + size - 1) end
  return http.request("POST", path, CHUNKED) .. http.chunked(pieces)
end

describe("an offloaded HTTP server", function()
  after_each(server.cleanup)

  it("calls on_request on a worker, with the request and what was set for it", function()
    local s = start { options = { word = "moon" } }
    local c = s:connect()
    assert.matches("^rille%-pool", http.ask(c, http.get "/thread").body)
    assert.equal("moon", http.ask(c, http.get "/option").body)
    local answer = http.ask(c, http.get("/a/../look?a=b%20c", { "X-One: 1", "x-one: 2" }))
    assert.equal(201, answer.status)
    assert.equal("a | b", answer["x-two"])
    assert.equal("text/x-look", answer["content-type"])
    assert.equal('["GET","/look","/a/../look?a=b%20c","a=b%20c","b c","1.1","test","127.0.0.1","1, 2","1, 2","nil",true,"a",'
      .. '"true","busy","busy"]', (answer.body:gsub("\\/", "/")))
    for i = 1, 3 do assert.equal(tostring(i), http.ask(c, http.get "/count").body) end
    answer = http.ask(c, http.get "/status")
    assert.equal(404, answer.status)
    assert.equal("", answer.body)
    assert.equal("", http.ask(c, http.request("HEAD", "/thread")).body)
    assert.equal("/other", http.ask(c, http.get "/other").body)
  end)

  for _, loops in ipairs { 1, 3 } do
    it(("gives back bodies of every size, kept alive and pipelined, on %d loops"):format(loops), function()
      local s = start { conf = { loops = loops, workers = { max = 3, idle_timeout = 0.05 } } }
      s:states(loops)
      local before = ("%d descriptors, %d threads"):format(s:descriptors(), s:threads())
      local clients = {}
      for i = 1, CLIENTS do clients[i] = s:connect() end
      local bodies, sent = {}, {}
      for i = 1, CLIENTS do
        local parts = {}
        bodies[i] = {}
        for k, size in ipairs { 0, 1, 4096, 4097, 70000, 300000 } do
          local bytes = net.noise(size, i * ROUNDS + k)
          bodies[i][k] = bytes
          local path = k % 2 == 0 and "/echo" or "/pipe"
          parts[k] = i % 2 == 0 and http.request("POST", path, nil, bytes) or chunked_post(path, bytes, 10000)
        end
        for k = 1, 16 do parts[ROUNDS + k] = http.get("/" .. k) end
        sent[i] = table.concat(parts)
      end
      for i = 1, CLIENTS do
        local c = clients[i]
        local at = 0
        while at < #sent[i] do -- the answers are read as far as they come, or nobody could go on
          at = at + c:try_send(sent[i], at)
          c.buffer = c.buffer .. (at < #sent[i] and c:receive_some(0.01) or "")
        end
        for k = 1, ROUNDS do assert.is_true(http.answer(c).body == bodies[i][k], ("client %d, body %d"):format(i, k)) end
        for k = 1, 16 do assert.equal("/" .. k, http.answer(c).body) end
        c:close()
      end
      local now
      net.poll_until(function()
        now = ("%d descriptors, %d threads"):format(s:descriptors(), s:threads())
        return now == before
      end)
      assert.equal(before, now)
      s:stop()
    end)
  end

  it("takes a body of 1 MiB as a whole and in pieces, and no more", function()
    local s = start()
    local c = s:connect()
    local bytes = net.noise(MIB, 7)
    assert.is_true(http.ask(c, http.request("POST", "/echo", nil, bytes)).body == bytes)
    assert.is_true(http.ask(c, chunked_post("/echo", bytes, 50000)).body == bytes)
    assert.is_true(http.ask(c, http.request("POST", "/late", nil, bytes)).status == 200)
    wait_said(s, "read 1048576 nil")
    assert.equal(413, http.once(s, http.request("POST", "/echo", { "Content-Length: 1048577" })).status)
    assert.equal(413, http.once(s, chunked_post("/late", bytes .. "x", 50000)).status)
    wait_said(s, "read %d+ too large")
    wait_said(s, "send closed")
    assert.equal(431, http.once(s, http.get("/", { "X: " .. ("x"):rep(20000) })).status)
  end)

  it("asks for the body when its handler does, and waits no longer than that may take", function()
    local s = start { timeouts = { body = 0.2 }, limits = { body_rate = 0 } }
    local c = s:connect()
    c:send(http.request("POST", "/echo", { "Content-Length: 5", "Expect: 100-continue" }))
    assert.equal(100, http.head(c).status)
    c:send "hello"
    assert.equal("hello", http.answer(c).body)
    c:send(http.request("POST", "/thread", { "Content-Length: 5", "Expect: 100-continue" }))
    assert.equal("close", http.answer(c).connection)
    assert.equal(408, http.once(s, http.request("POST", "/late", { "Content-Length: 5" }) .. "1234").status)
    wait_said(s, "read 4 timeout")
    assert.equal("hello", http.once(s, http.request("POST", "/echo", { "Content-Length: 5" }) .. "hello").body)
  end)

  it("takes a body byte by byte", function()
    local s = start()
    local c = s:connect()
    c:send_slowly(chunked_post("/echo", "hello", 2))
    assert.equal("hello", http.answer(c).body)
    c:send_slowly(http.request("POST", "/pipe", nil, "world"))
    assert.equal("world", http.answer(c).body)
  end)

  it("answers 500 when the handler raises, and closes when the head is out", function()
    local s = start { allow_errors = true }
    local c = s:connect()
    assert.equal(500, http.ask(c, http.get "/raise").status)
    assert.equal(500, http.ask(c, http.request("POST", "/raise", nil, "hello")).status)
    assert.equal("/next", http.ask(c, http.get "/next").body)
    c:send(http.get "/raise-late")
    assert.matches("chunked.*\r\n\r\n5\r\nbegun\r\n$", (c:receive_all()))
    wait_said(s, "closed error")
    s:wait_log "script@1: on_request of conn %d+ failed: [^\n]*on purpose\\nstack traceback"
  end)

  it("sends pieces to a slow reader in bounded memory, and the end of what it wrote", function()
    local s = start()
    local c = s:connect { receive_buffer = 4096 }
    c:send(http.get "/endless")
    wait_said(s, "endless")
    local before = s:rss()
    local got = 0
    for _ = 1, 50 do got = got + #c:receive(20 * KIB) end
    assert.equal(50 * 20 * KIB, got)
    assert.is_true(s:rss() - before < 20 * MIB)
    assert.equal("/other", http.once(s, http.get "/other").body)
    c:reset()
    s:wait_log 'said write %a+ false"'
    assert.equal("xxxxxxxxxx", http.once(s, http.get "/sizes?sizes=1,2,3,4").body)
    assert.equal(MIB * 2, #http.once(s, http.get(("/sizes?sizes=%d,%d"):format(MIB, MIB))).body)
  end)

  it("tells the handler when its client is gone", function()
    local s = start()
    local c = s:connect()
    c:send(http.request("POST", "/late", { "Content-Length: 50000" }) .. "half")
    c:reset()
    s:wait_log 'said read %d+ %a+"'
    c = s:connect()
    c:send(http.get "/wait")
    wait_said(s, "waiting")
    c:reset()
    s:wait_log 'said gone %a+"'
    for i = 1, 20 do
      c = s:connect()
      c:send(http.request("POST", i % 2 == 0 and "/echo" or "/pipe", { "Content-Length: 100000" }) .. ("x"):rep(i * 1000))
      if i % 3 == 0 then c:reset() else c:close() end
    end
    assert.equal("/other", http.once(s, http.get "/other").body)
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  it("ends connections as the handler says", function()
    local s = start { allow_errors = true }
    assert.equal("", (s:connect():send(http.get "/close"):receive_all()))
    assert.matches("\r\n\r\nbye$", (s:connect():send(http.get "/say-last"):receive_all()))
    local c = s:connect()
    c:send(http.get "/abort")
    pcall(c.receive_all, c)
    assert.equal("no tunnel", http.once(s, "CONNECT test:1 HTTP/1.1\r\nHost: test:1\r\n\r\n").body)
    assert.matches("res:upgrade is not for a handler on a worker", http.once(s, http.get("/upgrade",
      { "Connection: upgrade", "Upgrade: echo" })).body)
  end)

  it("sends files, with ranges", function()
    local s = start()
    local path = server.write("page.txt", ("0123456789"):rep(20000))
    local c = s:connect()
    local answer = http.ask(c, http.get("/file?name=" .. path))
    assert.equal(200000, #answer.body)
    assert.equal("text/x-file", answer["content-type"])
    answer = http.ask(c, http.get("/file?name=" .. path, { "Range: bytes=5-9" }))
    assert.equal(206, answer.status)
    assert.equal("56789", answer.body)
    answer = http.ask(c, http.get "/file?name=/nowhere/at/all")
    assert.equal(404, answer.status)
    assert.equal("not found", answer.body)
  end)

  it("answers 503 when the queue is full, and goes on", function()
    local s = start { server = { offload = "tiny" }, conf = { pools = { tiny = { max = 1, queue = 1 } } } }
    local one = s:connect():send(http.get "/hold")
    wait_said(s, "held")
    local two, three = s:connect():send(http.get "/two"), s:connect()
    local answer
    assert.is_true(net.poll_until(function()
      answer = http.ask(three, http.get "/three")
      return answer.status == 503
    end))
    assert.equal("1", answer["retry-after"])
    assert.equal("held", http.answer(one).body)
    assert.equal("/two", http.answer(two).body)
    assert.equal("/three", http.ask(three, http.get "/three").body)
  end)

  it("stops with a request at a worker", function()
    local s = start { conf = { drain_timeout = 0.2 } }
    s:connect():send(http.request("POST", "/late", { "Content-Length: 5" }) .. "1")
    local c = s:connect()
    c:send(http.get "/hold")
    wait_said(s, "held")
    s:signal "TERM"
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)

  it("fails one request, not the others, when a handler takes too much memory", function()
    local s = http.start([[
      local kept = {}
      return function(req, res)
        if req.path == "/hog" then
          local all = {}
          for i = 1, 1e6 do all[i] = ("x"):rep(1e5) .. i end
        elseif req.path == "/keep" then
          kept[#kept + 1] = ("x"):rep(1e5) .. #kept
        end
        res:send(tostring(#kept))
      end
    ]], { server = { offload = "pool" }, conf = { workers = { max = 1, memory = "12m" } }, allow_errors = true })
    local c = s:connect()
    assert.equal("0", http.ask(c, http.get "/").body)
    assert.equal(500, http.ask(c, http.get "/hog").status)
    s:wait_log "not enough memory %(the pool's memory is 12288 KiB%)"
    assert.equal("0", http.ask(c, http.get "/").body)
    for _ = 1, 200 do assert.equal(200, http.ask(c, http.get "/keep").status) end
    s:wait_log "pool default: memory %(12582912 bytes%) is used up after rille.http.job.serve, %d+ bytes are in use"
    assert.is_true(tonumber(http.ask(c, http.get "/").body) < 100)
  end)
end)
