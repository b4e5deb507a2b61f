-- scripts/tcp_lb.lua, as a user runs it, with servers that come and go behind it.

local client = require "spec.support.client"
local server = require "spec.support.server"
local tls = require "spec.support.tls"
local net = server.net

local INTERVAL = 0.2

-- A server that says its name for each line.
local function backend(name, listen, more)
  local opts = { name = name, listen = listen }
  for key, value in pairs(more or {}) do opts[key] = value end
  return server.start(([[
    return function(conn)
      local line = conn:read_line()
      if line then conn:write(%q .. " " .. conn:peer() .. " " .. line:str() .. "\n") end
    end
  ]]):format(name), opts)
end

local function balancer(words)
  words[#words + 1] = "interval=" .. INTERVAL
  return server.run("scripts/tcp_lb.lua", words)
end

-- One connection and what it is told; nil when that fails in whatever way.
local function ask(url)
  local c = client.try_connect(url)
  if not c then return nil end
  local ok, line = pcall(function() return c:send("hello\n"):receive_line() end)
  c:close()
  return ok and line or nil
end

-- So many connections at once, each of which asks: how many were answered, and who answered how often.
local function ask_all(url, count, meanwhile)
  local list, good, by = {}, 0, {}
  for i = 1, count do list[i] = client.try_connect(url) end
  for i = 1, count do
    if list[i] then pcall(list[i].send, list[i], "hello\n") end
    if meanwhile and i == math.floor(count / 2) then meanwhile() end
  end
  for i = 1, count do
    local ok, line = pcall(function() return list[i]:receive_line() end)
    if ok then
      good = good + 1
      local name = line:match "^%S+"
      by[name] = (by[name] or 0) + 1
    end
    if list[i] then list[i]:close() end
  end
  return good, by
end

local function kill(s)
  s:forget()
  s:kill()
end

describe("scripts/tcp_lb.lua", function()
  after_each(server.cleanup)

  it("spreads connections", function()
    local a, b = backend "a", backend "b"
    local s = balancer { "to=" .. a.url .. "," .. b.url }
    local good, by = ask_all(s.url, 40)
    assert.equal(40, good)
    assert.is_true(by.a >= 10 and by.b >= 10, ("%s %s"):format(by.a, by.b))
    s:wait_empty()
  end)

  it("loses only what is on its way when one of two servers dies, and uses it again when it is back", function()
    local a, b = backend "a", backend "b"
    local s = balancer { "to=" .. a.url .. "," .. b.url }
    local in_flight = 20
    local lost = 0
    for round = 1, 30 do
      local good = ask_all(s.url, in_flight, round == 10 and function() kill(a) end or nil)
      if round == 10 then lost = in_flight - good else assert.equal(in_flight, good, ("round %d: %s"):format(round, s:tail())) end
    end
    assert.is_true(lost < in_flight)
    local again = backend("a", a.url)
    local began = net.now()
    assert.is_truthy(net.poll_until(function() return (ask(s.url) or ""):find "^a" end))
    assert.is_true(net.now() - began < (3 * INTERVAL + 1) * net.slow)
    kill(b)
    assert.is_truthy(net.poll_until(function() return (ask(s.url) or ""):find "^a" end))
    for _ = 1, 20 do assert.matches("^a ", ask(s.url)) end
    again:stop()
  end)

  it("fails only while no server is there", function()
    local a = backend "a"
    local url = a.url
    local s = balancer { "to=" .. url }
    for _ = 1, 3 do
      assert.matches("^a ", ask(s.url))
      kill(a)
      for _ = 1, 20 do assert.is_nil(ask(s.url)) end
      a = backend("a", url)
      local began = net.now()
      assert.is_truthy(net.poll_until(function() return ask(s.url) end))
      assert.is_true(net.now() - began < (3 * INTERVAL + 1) * net.slow)
      for _ = 1, 20 do assert.matches("^a ", ask(s.url)) end
    end
  end)

  it("tells servers who the client is", function()
    local a = backend("a", nil, { server = { proxy = { accept = "required", trusted = { "127.0.0.1" } } } })
    local s = balancer { "to=" .. a.url, "proxy=2" }
    local c = s:connect(nil)
    c:send "hello\n"
    local seen = c:receive_line():match "^%S+ (%S+)"
    assert.matches("^127%.0%.0%.1:%d+$", seen)
    local from = server.client.connect(s.url, { source = "tcp://127.0.0.9:0" })
    from:send "hello\n"
    assert.matches("^a 127%.0%.0%.9:", from:receive_line())
  end)

  it("passes TLS on by the name that is asked for", function()
    tls.authority "ca"
    local words, ports = {}, {}
    for _, name in ipairs { "one", "two", "rest" } do
      local certificate, key = tls.certificate(name, "ca", ("DNS:%s.test,DNS:x.%s.test"):format(name, name))
      local s = backend(name, "tls://127.0.0.1:0", { server = { tls = { certificate = certificate, key = key } } })
      ports[name] = s.url:match "([%d.]+:%d+)$"
    end
    words[1] = ("names=one.test=%s *.two.test=%s"):format(ports.one, ports.two)
    words[2] = "to=" .. ports.rest
    local s = balancer(words)
    for name, who in pairs { ["one.test"] = "one", ["x.two.test"] = "two", ["rest.test"] = "rest" } do
      local said, problem = tls.talk(s.port, "-servername " .. name .. " -verify_hostname " .. name .. " -verify_return_error")
      assert.matches("^" .. who .. " ", said, nil, nil, problem)
    end
    -- and what is no TLS goes to the others, which speak nothing else: not to one with a name
    assert.is_nil(ask(s.url))
    -- a client that says half a hello and waits holds up nobody
    local c = s:connect()
    c:send "\22\3\1\1"
    assert.matches("^one ", (tls.talk(s.port, "-servername one.test")))
  end)

  it("ends TLS where it listens at tls://, and goes by the same names", function()
    tls.authority "ca"
    local certificate, key = tls.certificate("lb", "ca", "DNS:one.test,DNS:other.test")
    local one, rest = backend "one", backend "rest"
    local s = server.start(server.root .. "/scripts/tcp_lb.lua", {
      listen = "tls://127.0.0.1:0", server = { tls = { certificate = certificate, key = key } },
      options = { names = "one.test=" .. one.url, to = rest.url, interval = INTERVAL },
    })
    for name, who in pairs { ["one.test"] = "one", ["other.test"] = "rest" } do
      local said, problem = tls.talk(s.port, "-servername " .. name .. " -verify_hostname " .. name .. " -verify_return_error")
      assert.matches("^" .. who .. " ", said, nil, nil, problem)
    end
    s:wait_empty()
  end)
end)
