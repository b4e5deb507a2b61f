-- conn:pump and conn:sendfile with TLS on one side or on both.

local server = require "spec.support.server"
local tls = require "spec.support.tls"

-- client - front, back - upstream: `front_tls` and `back_tls` say on which of the two there is TLS.
local CHAIN = [[
local SERVER = { certificate = folder .. "/site.pem", key = folder .. "/site.key" }
local CLIENT = { role = "client", name = "localhost", ca = folder .. "/ca.pem" }
local function both(has_tls)
  local a, b = rille.pair()
  if has_tls then together(function() assert(a:starttls(CLIENT)) end, function() assert(b:starttls(SERVER)) end) end
  return a, b
end
local function read_all(c)
  local parts = {}
  while true do
    local s, err = c:read()
    if not s then return table.concat(parts), err end
    parts[#parts + 1] = s:str()
    c:release()
  end
end
local function noise(size, seed)
  math.randomseed(seed)
  local parts = {}
  for i = 1, size / 8 do parts[i] = ("%08x"):format(math.random(0, 2 ^ 31)) end
  return table.concat(parts)
end
local function chain(front_tls, back_tls)
  local client, front = both(front_tls)
  local back, upstream = both(back_tls)
  return client, front, back, upstream
end
local function close(...) for _, c in ipairs { ... } do c:close() end end
]]

local WAYS = { ["TLS to plain"] = "true, false", ["plain to TLS"] = "false, true", ["TLS to TLS"] = "true, true" }

describe("conn:pump", function()
  before_each(function() tls.set_up() end)
  after_each(server.cleanup)

  for name, way in pairs(WAYS) do
    local function check(code, options) return tls.check(CHAIN .. code:gsub("WAY", way), options) end

    it("moves bytes both ways, and each end of them: " .. name, function()
      check([[
        local client, front, back, upstream = chain(WAY)
        local there, here = noise(3000000, 1), noise(2000000, 2)
        local result
        together(
          function() result = { front:pump(back) } end,
          function() client:send(there) client:shutdown("write") end,
          function() upstream:send(here) upstream:shutdown("write") end,
          function() local all, err = read_all(client) equal(all == here, true) equal(err, "closed") end,
          function() local all, err = read_all(upstream) equal(all == there, true) equal(err, "closed") end)
        equal(result[1], #there) equal(result[2], #here) equal(result[3], nil)
        close(client, front, back, upstream)
      ]], { seconds = 60 })
    end)

    it("carries on with what was read, by small pieces, to a slow reader: " .. name, function()
      check([[
        local client, front, back, upstream = chain(WAY)
        client:send("first line\nrest")
        equal(front:read_line():str(), "first line")
        local text = noise(600000, 3)
        together(
          function() equal(front:pump(back), 4 + 20 + #text) end,
          function()
            for i = 1, 20 do client:send("x") rille.sleep(0.001) end
            client:send(text) client:shutdown("write")
          end,
          function()
            equal(upstream:read_string(24), "rest" .. ("x"):rep(20))
            local have = 0
            while have < #text do
              local s = assert(upstream:read(7000))
              equal(s:str() == text:sub(have + 1, have + s:len()), true)
              have = have + s:len()
              upstream:release()
              if have % 5 == 0 then rille.sleep(0.001) end
            end
            upstream:shutdown("write")
          end)
        close(client, front, back, upstream)
      ]], { seconds = 60 })
    end)

    it("takes exactly so many bytes, ends after a silence, and can be cancelled: " .. name, function()
      check [[
        local client, front, back, upstream = chain(WAY)
        local text = noise(100000, 4)
        client:write(text .. "the rest.")
        together(function() client:flush() end, function() equal(front:pump(back, { bytes = #text }), #text) end,
          function() equal(upstream:read_string(#text) == text, true) end)
        equal(front:read_string(9), "the rest.")
        local there, here, how
        together(function() there, here, how = front:pump(back, { until_idle = 0.05 }) end, function() client:send("tick") end)
        equal(there, 4) equal(here, 0) equal(how, "idle")
        equal(upstream:read_string(4), "tick")
        local task = rille.spawn(function() front:pump(back) end)
        client:send("tock")
        equal(upstream:read_string(4), "tock")
        task:cancel() task:join()
        equal(front:pumped(), 4)
        client:send("mine") equal(front:read_string(4), "mine")
        close(client, front, back, upstream)
      ]]
    end)

    it("says which end was cut off, after the bytes that came before: " .. name, function()
      check [[
        local has_tls = {}
        has_tls.client, has_tls.upstream = WAY
        for _, which in ipairs { "client", "upstream" } do
          local client, front, back, upstream = chain(WAY)
          local from, to = client, upstream
          if which == "upstream" then from, to = upstream, client end
          local ok, err
          together(function() ok, err = front:pump(back) end,
            function() from:send("last words") equal(to:read_string(10), "last words") from:abort() end)
          equal(ok, nil) equal(err, has_tls[which] and "reset" or "closed") -- a pair knows no RST
          close(client, front, back, upstream)
        end
      ]]
    end)
  end

  it("is refused during a handshake, as is a handshake during a pump", function()
    tls.check(CHAIN .. [[
      local client, front = rille.pair()
      local back, upstream = both(true)
      local task = rille.spawn(function() return front:starttls(SERVER) end)
      rille.yield()
      equal(select(2, back:pump(front)), "busy")
      equal(select(2, front:pump(back)), "busy")
      assert(client:starttls(CLIENT))
      task:join()
      close(client, front, back, upstream)
      client, front = rille.pair()
      back, upstream = rille.pair()
      task = rille.spawn(function() return client:pump(back, { both = false }) end)
      rille.yield()
      equal(select(2, back:starttls(SERVER)), "busy")
      equal(select(2, client:starttls(CLIENT)), "busy")
      task:cancel() task:join()
      close(client, front, back, upstream)
    ]])
  end)

  it("may be traced and have a rate", function()
    tls.check(CHAIN .. [[
      local client, front, back, upstream = chain(true, true)
      front:trace(true) back:set_rate { read = 2 ^ 21, write = 2 ^ 21 }
      local text = noise(200000, 5)
      together(function() front:pump(back) end, function() client:send(text) client:shutdown("write") end,
        function() equal(read_all(upstream) == text, true) upstream:shutdown("write") end)
      close(client, front, back, upstream)
    ]])
  end)

  it("is how a server ends TLS in front of another", function()
    local http = server.start("return function(req, res)\n res:send(('x'):rep(500000) .. req.path) end",
      { name = "behind", listen = "http://127.0.0.1:0" })
    local front = server.start([[
      local options = ...
      return function(conn)
        local back = assert(rille.dial(options.back))
        local there, here = conn:pump(back)
        say("%d bytes", here or 0)
        back:close() conn:close()
      end
    ]], { name = "front", listen = "tls://127.0.0.1:0", options = { back = "tcp://127.0.0.1:" .. http.port },
      server = { tls = { certificate = tls.file "site.pem", key = tls.file "site.key", alpn = { "http/1.1" } } } })
    local out = tls.sh(("curl -sS --max-time 10 --cacert ca.pem https://localhost:%d/a https://localhost:%d/b | tail -c 1000002"):format(
      front.port, front.port))
    assert.equal(1000004 - 2, #out)
    assert.equal("/b", out:sub(-2))
    front:wait_said(1)
  end)
end)

describe("conn:sendfile over TLS", function()
  before_each(function() tls.set_up() end)
  after_each(server.cleanup)

  it("sends a file of any size, between what is written", function()
    tls.check(CHAIN .. [[
      local client, front = both(true)
      for _, size in ipairs { 0, 1, 16384, 300000, 3000000 } do
        local text = noise(size + 8, 6):sub(1, size)
        local file = assert(io.open(folder .. "/data", "w"))
        file:write(text)
        file:close()
        together(function()
          front:write("before ")
          equal(front:sendfile(folder .. "/data"), size)
          front:send(" after")
        end, function()
          equal(client:read_string(7), "before ")
          for at = 1, size, 16384 do
            local piece = text:sub(at, at + 16383)
            equal(client:read_string(#piece) == piece, true)
            client:release()
          end
          equal(client:read_string(6), " after")
        end)
      end
      close(client, front)
    ]], { seconds = 60 })
  end)
end)
