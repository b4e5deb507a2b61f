-- What goes over from a Lua state that fails to the one that takes its place, and what comes for it meanwhile: sockets for datagrams,
-- connections from other loops, descriptors that were passed.

local server = require "spec.support.server"
local systemd = require "spec.support.systemd"
local udp = require "spec.support.udp"
local net = server.net

local function cleanup()
  udp.close_all()
  systemd.cleanup()
  server.cleanup()
end

-- Answers with the loop and what came; "fail" breaks the state.
local DATAGRAMS = [[
local function serve(dgram, send)
  local text = dgram:str()
  if text == "park" then rille.sleep(1) end
  if text == "fail" then require("rille.state").inbox = nil return end
  send(("%d %s"):format(rille.loop.id, text))
end
if (...).sessions then
  return { on_request = function(conn, dgram) serve(dgram, function(answer) conn:send(answer) end) end }
end
return { on_request = function(dgram) serve(dgram, function(answer) dgram:reply(answer) end) end }
]]

-- Each line is a command.
local LINES = [[
local commands = {}
function commands.where(conn) conn:write(rille.loop.id .. "\n") end
function commands.move(conn) conn:move(3 - rille.loop.id) end
function commands.fail(conn) conn:write("soon\n") require("rille.state").inbox = nil end
return {
  on_move = function(conn) conn:write("moved\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if line then commands[line:str()](conn) end
  end,
}
]]

local function start(script, opts)
  opts.allow_errors, opts.allow_failures = true, true
  return server.start(script, opts)
end

local function ask(client, line)
  client:send(line .. "\n")
  return client:receive_line()
end

-- Say it again until there is an answer: what a state had when it failed is lost.
local function ask_again(client, bytes)
  local answer
  net.poll_until(function()
    client:try_send(bytes)
    answer = client:try_receive(0.05)
    return answer
  end, 10)
  return answer
end

local function wait_served_again(s, count)
  net.poll_until(function() return s:count_log("a new Lua state serves") >= count end, 10)
  assert.equal(count, s:count_log("a new Lua state serves"))
end

describe("of a state that is replaced", function()
  after_each(cleanup)

  for _, accept in ipairs { "shared", "reuseport", "balanced" } do
    for _, session in ipairs(accept == "shared" and { false } or { false, {} }) do
      local name = ("the socket for datagrams goes over, %s%s"):format(accept, session and ", with sessions" or "")
      it(name, function()
        local s = start(DATAGRAMS, {
          listen = "udp://127.0.0.1:0", conf = { loops = 2 },
          options = { sessions = session ~= false },
          server = { accept = accept, session = session or nil, balance = session and "source_hash" or nil },
        })
        local clients = {}
        for i = 1, 8 do
          clients[i] = udp.connect(s.urls[1])
          assert.matches("^%d x$", clients[i]:ask("x"))
          if i > 4 then clients[i]:send("park") end
        end
        for round = 1, 2 do
          clients[1]:send("fail")
          wait_served_again(s, round)
          for i = 1, 4 do assert.matches("^%d %d$", ask_again(clients[i], tostring(round))) end
          assert.matches("^%d new$", ask_again(udp.connect(s.urls[1]), "new"))
        end
      end)
    end
  end

  it("a socket that joined groups of multicast goes over with them", function()
    for _, loops in ipairs { 1, 2 } do
      local s = start(DATAGRAMS, {
        listen = "udp://127.0.0.1:0", conf = { loops = loops },
        options = {}, server = { multicast = { groups = { "239.1.2.3" }, interface = "lo" } },
      })
      local client = udp.connect(s.urls[1])
      client:send("fail")
      wait_served_again(s, 1)
      assert.matches("^%d x$", ask_again(client, "x"))
      assert.equal(0, s:count_log("cannot be started again"))
      s:stop(5)
    end
  end)

  it("a Unix socket for datagrams and one of rille.listen go over", function()
    local folder = server.folder()
    local s = start([[
      local options = ...
      local function answer(dgram)
        if dgram:str() == "fail" then require("rille.state").inbox = nil return end
        dgram:reply("got " .. dgram:str())
      end
      return {
        on_start = function() assert(rille.listen("unixgram://" .. options.path, answer)) end,
        on_request = answer,
      }
]], { listen = "unixgram://" .. folder .. "/one.sock", server = { options = { path = folder .. "/two.sock" } } })
    for round = 1, 2 do
      udp.connect("unixgram://" .. folder .. "/two.sock"):send("fail")
      wait_served_again(s, round)
      assert.equal("got x", ask_again(udp.connect("unixgram://" .. folder .. "/one.sock"), "x"))
      assert.equal("got x", ask_again(udp.connect("unixgram://" .. folder .. "/two.sock"), "x"))
    end
    s:stop(5)
  end)

  -- The second failure in a row: the next state comes only after a while.
  local function fail_twice_on(s, loop)
    for round = 1, 2 do
      local client
      net.poll_until(function()
        client = s:connect()
        local ok, at = pcall(ask, client, "where")
        if ok and at == tostring(loop) then return true end
        client:close()
      end, 10)
      assert.equal("soon", ask(client, "fail"))
      if round == 1 then wait_served_again(s, 1) end
    end
    net.poll_until(function() return s:count_log("the Lua state is replaced") == 2 end, 10)
  end

  it("a connection that is moved to it while there is none ends, or is the next one's", function()
    local s = start(LINES, { conf = { loops = 2 }, server = { accept = "balanced" } })
    local movers = {}
    net.poll_until(function()
      local client = s:connect()
      if ask(client, "where") == "1" then movers[#movers + 1] = client else client:close() end
      return #movers == 4
    end, 10)
    fail_twice_on(s, 2)
    for _, client in ipairs(movers) do
      client:send("move\n")
      local ok, line = pcall(client.receive_line, client)
      assert.is_true(not ok or line == "moved" or line == "" or line == nil, tostring(line))
      client:close()
    end
    wait_served_again(s, 2)
    s:wait_empty(2)
    s:stop(5)
  end)

  it("who waits at a server that is full is served by the next one", function()
    local s = start(LINES, { server = { limits = { max_connections = 1 } } })
    for round = 1, 3 do
      local client = s:connect()
      assert.equal("1", ask(client, "where"))
      local waiting = s:connect()
      waiting:send("where\n")
      s:wait_log("max_connections %(1%) reached")
      client:send("fail\n")
      assert.equal("1", waiting:receive_line())
      waiting:close()
      wait_served_again(s, round)
    end
    s:wait_empty(1)
  end)

  it("counts by source do not include what went with it", function()
    local s = start(LINES, { conf = { loops = 2 }, server = { limits = { max_connections_per_address = 2 } } })
    -- As many as there may be, once those before are off the count.
    local function pair()
      local one, other
      net.poll_until(function()
        if one then one:close() end
        if other then other:close() end
        one, other = nil, nil
        return pcall(function()
          one, other = s:connect(), s:connect()
          assert(ask(one, "where"):match("%d") and ask(other, "where"):match("%d"))
        end)
      end, 10)
      return one, other
    end
    for round = 1, 4 do
      local one, other = pair()
      assert.matches("%d", ask(other, "where"))
      if round == 4 then break end
      assert.equal("soon", ask(one, "fail"))
      wait_served_again(s, round)
      one:close()
      other:close()
    end
  end)

  it("a listener of rille.listen goes over, to the lists and limits that the next one gives it", function()
    local closed = server.start("scripts/echo.lua")
    closed:stop()
    local url = closed.url
    local function configure(text) return server.write("inner.lua", "return { " .. text .. " }") end
    local options = { url = url, settings = configure "deny = { '127.0.0.2' }, limits = { max_connections_per_address = 2 }" }
    local s = start([[
      local options = ...
      local function serve(conn)
        local line = conn:read_line()
        if line == "fail" then conn:write("soon\n") require("rille.state").inbox = nil return end
        if line then conn:write(line .. "\n") end
      end
      return {
        on_start = function() assert(rille.listen(options.url, serve, load(io.open(options.settings):read "*a")())) end,
        on_request = serve,
      }
    ]], { server = { options = options } })
    local function try(n)
      local client = server.client.try_connect(url, { source = ("tcp://127.0.0.%d:0"):format(n) })
      local ok, answer = pcall(function() return ask(client, "x") end)
      return ok and answer == "x" and client or nil
    end
    local replaced = 0
    local function replace(text)
      configure(text)
      assert.equal("soon", ask(s:connect(), "fail"))
      replaced = replaced + 1
      wait_served_again(s, replaced)
    end
    -- Of these sources so many in a row are let in.
    local function check(expected)
      for n, most in pairs(expected) do
        local count = 0
        while count < 5 and try(n) do count = count + 1 end
        assert.equal(most, count, ("127.0.0.%d after %d"):format(n, replaced))
      end
    end
    check { [1] = 2, [2] = 0, [3] = 2 }
    replace "deny = { '127.0.0.3' }, limits = { max_connections_per_address = 3 }"
    check { [1] = 3, [2] = 3, [3] = 0 }
    replace "allow = { '127.0.0.2' }"
    check { [1] = 0, [2] = 5, [3] = 0 }
    replace "limits = { max_connections_per_address = 1 }"
    check { [1] = 1, [2] = 1, [3] = 1 }
    replace ""
    check { [1] = 5, [2] = 5, [3] = 5 }
    s:stop(5)
  end)

  for _, accept in ipairs { "shared", "balanced" } do
    it("a descriptor that was passed goes over, " .. accept, function()
      local fd = systemd.socket("tcp://127.0.0.1:0")
      local s = start(LINES, {
        listen = "fd:web", passed = { fd }, wrap = systemd.wrap(nil, 1, "web"), conf = { loops = 2 }, server = { accept = accept },
      })
      for round = 1, 3 do
        assert.equal("soon", ask(s:connect(), "fail"))
        wait_served_again(s, round)
        assert.matches("^%d$", ask(s:connect(), "where"))
      end
      s:stop(5)
    end)
  end

  it("the stop comes while the next one starts", function()
    local flag = server.folder() .. "/slow"
    local s = start([[
      local options = ...
      return {
        on_start = function()
          local file = io.open(options.flag)
          if file then file:close() say("slow") rille.sleep(0.3) end
        end,
        on_request = function() require("rille.state").inbox = nil end,
      }
]], { listen = "udp://127.0.0.1:0", server = { options = { flag = flag } } })
    server.write("slow", "")
    udp.connect(s.urls[1]):send("x")
    s:wait_said(1)
    s:stop(5)
  end)
end)
