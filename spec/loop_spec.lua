-- The loop under many connections at once, under greedy ones, and on its way to the end.

local server = require "spec.support.server"
local net, client = server.net, server.client

local ECHO = [[
return function(conn) conn:write(conn:next(conn:len())) end
]]

-- Burns processor time in a handler: spin(seconds) returns the clock's time at its end.
local SPIN = [[
local C = require "rille.core"
local function spin(seconds)
  local stop = C.rille_now() + seconds
  local now
  repeat now = C.rille_now() until now >= stop
  return now
end
]]

-- A server that is stopped with much left to do.
local FLOODED = { conf = { drain_timeout = 0.05 } }

local function exists(path)
  return os.rename(path, path) == true
end

local function connect_many(s, count)
  net.raise_descriptor_limit()
  local clients = {}
  for i = 1, count do clients[i] = s:connect() end
  return clients
end

describe("loop: many connections", function()
  after_each(server.cleanup)

  it("sleeps when there is nothing to do", function()
    local s = server.start(ECHO)
    local clients = connect_many(s, 100)
    for i = 1, 100 do clients[i]:send("x") end
    for i = 1, 100 do clients[i]:receive(1) end
    s:wait_state(function(state) return state.connections == 100 end)
    net.nap(1100) -- past the second after which it tidies up
    local cpu, turns = s:cpu(), s:state().turns
    net.nap(200)
    assert.is_true(s:state().turns - turns < 10)
    assert.is_true(s:cpu() - cpu <= 0.02)
  end)

  it("serves a thousand that are ready at once in the time their handlers take", function()
    local COUNT, WORK = 1000, 20e-6
    local s = server.start(SPIN .. [[
      local options = ...
      local served, from, sum = 0, nil, 0
      return function(conn)
        local word = conn:read_string(conn:len())
        if word == "hold" then
          say("held")
          conn:read_line(1) -- only to park until the rest is there
        end
        local began = C.rille_now()
        from = from or began
        local ended = spin(options.work)
        sum = sum + (ended - began)
        served = served + 1
        if served == options.count then say("%.6f %.6f", ended - from, sum) end
      end
    ]], { options = { count = COUNT, work = WORK } })
    local clients = connect_many(s, COUNT)
    s:wait_state(function(state) return state.connections == COUNT end)
    s:signal("STOP")
    for i = 1, COUNT do clients[i]:send("x") end
    s:signal("CONT")
    local took, sum = s:wait_said(1)[1]:match("(%S+) (%S+)")
    took, sum = tonumber(took), tonumber(sum)
    assert.is_true(sum >= COUNT * WORK)
    if not net.is_sanitized then
      assert.is_true(took < 1.5 * sum, ("all took %.1f ms, their handlers %.1f ms"):format(took * 1e3, sum * 1e3))
    end
  end)

  it("answers the first of a large batch before the last was handled", function()
    local COUNT = 600
    local s = server.start(SPIN .. [[
      local served = 0
      return function(conn)
        conn:read_string(conn:len())
        spin(100e-6)
        served = served + 1
        if served % 600 == 0 then say("last") end
        conn:write("x")
      end
    ]])
    local clients = connect_many(s, COUNT)
    s:wait_state(function(state) return state.connections == COUNT end)
    for round = 1, 2 do -- in the first the loop learns how many there are
      s:signal("STOP")
      for i = 1, COUNT do clients[i]:send("x") end
      s:signal("CONT")
      local first
      while not first do
        for i = 1, COUNT do
          if net.wait(clients[i].fd, net.POLLIN, 0) then
            first = net.now()
            break
          end
        end
      end
      assert.equal(round - 1, #s:said())
      s:wait_said(round)
      assert.is_true(net.now() - first > 0.02)
      for i = 1, COUNT do clients[i]:receive(1) end
    end
  end)

  it("does not let one flooding client delay the others past its share", function()
    local s = server.start(SPIN .. [[
      return function(conn)
        local line = conn:read_line()
        if line == "ping" then conn:write("pong\n") else spin(20e-6) end
      end
    ]], FLOODED)
    local flood, c = s:connect(), s:connect()
    local bytes, at = ("x\n"):rep(200000), 0
    local waits = {}
    for i = 1, 30 do
      at = at + assert(flood:try_send(bytes, at))
      local started = net.now()
      c:send("ping\n")
      assert.equal("pong", c:receive_line())
      waits[i] = net.now() - started
    end
    assert.is_true(s:state().messages < 200000) -- it was still at it
    table.sort(waits)
    assert.is_true(waits[15] < 0.006 * net.slow, ("median %.1f ms"):format(waits[15] * 1e3))
    assert.is_true(waits[27] < 0.03 * net.slow, ("nine of ten within %.1f ms"):format(waits[27] * 1e3))
  end)

  it("holds a handler that reads in a loop to its share, too", function()
    local s = server.start(SPIN .. [[
      return function(conn)
        while true do
          local line = conn:read_line()
          if not line then return end
          if line == "ping" then conn:write("pong\n") else spin(20e-6) end
          conn:release()
        end
      end
    ]], FLOODED)
    local flood, c = s:connect(), s:connect()
    local bytes, at = ("x\n"):rep(200000), 0
    local waits = {}
    for i = 1, 30 do
      at = at + assert(flood:try_send(bytes, at))
      local started = net.now()
      c:send("ping\n")
      assert.equal("pong", c:receive_line())
      waits[i] = net.now() - started
    end
    table.sort(waits)
    assert.is_true(waits[15] < 0.006 * net.slow, ("median %.1f ms"):format(waits[15] * 1e3))
  end)

  it("holds slow handlers to their connection's share", function()
    local s = server.start(SPIN .. [[
      return function(conn)
        local line = conn:read_line()
        if line == "ping" then conn:write("pong\n") else spin(2e-3) end
      end
    ]], FLOODED)
    local flood, c = s:connect(), s:connect()
    flood:send(("x\n"):rep(1000)) -- two seconds of work
    s:wait_state(function(state) return state.messages > 0 end)
    local waits = {}
    for i = 1, 10 do
      local started = net.now()
      c:send("ping\n")
      assert.equal("pong", c:receive_line())
      waits[i] = net.now() - started
    end
    assert.is_true(s:state().messages < 1000)
    table.sort(waits)
    assert.is_true(waits[5] < 0.02 * net.slow, ("median %.1f ms"):format(waits[5] * 1e3))
    flood:reset()
  end)

  it("serves others while one connection streams as fast as it can", function()
    local s = server.start(ECHO)
    local stream, c = s:connect(), s:connect()
    local bytes, at, taken = ("x"):rep(1000000), 0, 0
    local waits = {}
    for i = 1, 50 do
      at = (at + assert(stream:try_send(bytes, at))) % #bytes
      taken = taken + #(stream:receive_some(0) or "")
      local started = net.now()
      c:send("ping")
      assert.equal("ping", c:receive(4))
      waits[i] = net.now() - started
    end
    assert.is_true(taken > 1000000)
    table.sort(waits)
    assert.is_true(waits[25] < 0.02 * net.slow, ("median %.1f ms"):format(waits[25] * 1e3))
  end)

  it("lets others run at rille.yield", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line()
        if line == "ping" then return conn:write("pong\n") end
        say("busy")
        while conn:len() == 0 do rille.yield() end
        conn:write("done " .. conn:read_line() .. "\n")
      end
    ]])
    local busy, c = s:connect(), s:connect()
    busy:send("x\n")
    s:wait_log("said busy")
    for _ = 1, 100 do
      c:send("ping\n")
      assert.equal("pong", c:receive_line())
    end
    busy:send("now\n")
    assert.equal("done now", busy:receive_line())
  end)

  it("leaks nothing in storms of five thousand connections", function()
    local COUNT = net.is_sanitized and 500 or 5000
    local s = server.start(ECHO)
    local c = s:connect()
    c:send("x")
    c:receive(1)
    local descriptors = s:descriptors()
    local clients = connect_many(s, COUNT)
    for i = 1, COUNT do clients[i]:send("hello") end
    for i = 1, COUNT do
      assert.equal("hello", clients[i]:receive(5))
      if i % 2 == 0 then clients[i]:reset() else clients[i]:close() end
    end
    local first = s:wait_state(function(state) return state.connections == 1 and state.accepted == COUNT + 1 end)
    assert.equal(0, first.blocks)
    assert.equal(0, first.buffers)
    local rss = s:rss()
    for _ = 1, 3 do
      for i = 1, COUNT do
        local d = s:connect()
        d:send("bye")
        if i % 3 == 0 then d:reset() else d:close() end
      end
    end
    local last = s:wait_state(function(state) return state.connections == 1 and state.accepted == 4 * COUNT + 1 end, 10)
    assert.equal(0, last.blocks)
    assert.equal(0, last.buffers)
    assert.equal(descriptors, s:descriptors())
    if not net.is_sanitized then assert.is_true(s:rss() < rss + 4 * 1024 * 1024) end
    assert.equal(0, last.failures)
  end)
end)

describe("loop: the end", function()
  after_each(server.cleanup)

  local SLOW = [[
    return {
      on_request = function(conn)
        local line = conn:read_line():str()
        say("begin %s", line)
        local ok, err = pcall(rille.sleep, tonumber(line))
        conn:write("done " .. line .. "\n")
        say("end %s %s", line, ok and "slept" or tostring(err))
      end,
      on_close = function(_, err) say("close %s", tostring(err)) end,
    }
  ]]

  it("drains busy connections at SIGTERM, lets idle ones go and takes no new ones", function()
    local s = server.start(SLOW)
    local idle, busy = s:connect(), s:connect()
    s:wait_state(function(state) return state.connections == 2 end)
    busy:send("0.3\n")
    s:wait_log("said begin")
    local started = net.now()
    s:signal("TERM")
    assert.same({ "", "closed" }, { idle:receive_all() })
    assert.is_true(net.now() - started < 0.25 * net.slow)
    assert.is_nil((client.try_connect(s.url)))
    assert.same({ "done 0.3\n", "closed" }, { busy:receive_all() })
    assert.equal(0, s:wait_exit(2))
    s:forget()
    s:check_end()
    local said = s:said()
    assert.same({ "begin 0.3", "close shutdown", "end 0.3 slept", "close shutdown" }, said)
  end)

  it("answers what had arrived before the signal, in the accept queue too", function()
    local s = server.start(SPIN .. [[
      return function(conn)
        local line = conn:read_line():str()
        if line == "hold" then
          conn:send("holding\n")
          spin(0.3)
        end
        conn:write("answer " .. line .. "\n")
      end
    ]])
    local waiting = s:connect()
    waiting:send("first\n")
    assert.equal("answer first", waiting:receive_line())
    local hold = s:connect()
    hold:send("hold\n")
    assert.equal("holding", hold:receive_line())
    waiting:send("second\n")
    local new = s:connect()
    new:send("new\n")
    s:signal("TERM")
    assert.equal("answer hold", hold:receive_line())
    assert.equal("answer second\n", (waiting:receive_all()))
    assert.equal("answer new\n", (new:receive_all()))
    assert.equal(0, s:wait_exit(2))
    s:forget()
    s:check_end()
  end)

  it("stops at once at a second signal", function()
    local s = server.start(SLOW)
    local c = s:connect()
    c:send("60\n")
    s:wait_log("said begin")
    s:signal("TERM")
    s:wait_log("stopping: draining connections")
    local started = net.now()
    s:signal("INT")
    assert.equal(0, s:wait_exit(3))
    assert.is_true(net.now() - started < 0.5 * net.slow)
    s:forget()
    s:check_end()
    assert.same({ "begin 60", "end 60 cancelled", "close shutdown" }, s:said())
  end)

  it("aborts what is left when the drain time is over, and says so", function()
    local s = server.start(SLOW, { conf = { drain_timeout = 0.2 } })
    local c, d = s:connect(), s:connect()
    c:send("60\n")
    d:send("70\n")
    s:wait_said(2)
    local started = net.now()
    s:signal("TERM")
    assert.equal(0, s:wait_exit(3))
    local took = net.now() - started
    assert.is_true(took >= 0.19 and took < 0.2 + 0.5 * net.slow, took)
    s:forget()
    s:check_end()
    s:wait_log("level=warn[^\n]*aborting 2 connections that have not finished")
    assert.equal(2, s:count_log("said close shutdown"))
    assert.equal(2, s:count_log("cancelled"))
  end)

  it("ends handlers that are parked in every way", function()
    local s = server.start([[
      local ways = {
        sleep = function() rille.sleep(60) end,
        read = function(conn) conn:read_line() end,
        write = function(conn) repeat until not conn:write(("x"):rep(100000)) end,
        flush = function(conn) repeat until not conn:send(("x"):rep(100000)) end,
        channel = function() rille.channel():receive() end,
        semaphore = function() rille.semaphore(0):acquire() end,
        join = function() rille.spawn(rille.sleep, 60):join() end,
        pair = function() local a = rille.pair(); a:read(1) end,
        with_timeout = function() rille.with_timeout(50, rille.sleep, 60) end,
      }
      return {
        on_request = function(conn)
          local name = conn:read_line():str()
          conn:send("ok\n")
          conn.ctx = name
          ways[name](conn)
        end,
        on_close = function(conn, err) say("close %s", tostring(err)) end,
      }
    ]], { conf = { drain_timeout = 0.1 } })
    local ways = { "sleep", "read", "write", "flush", "channel", "semaphore", "join", "pair", "with_timeout" }
    for _, way in ipairs(ways) do
      local c = s:connect { receive_buffer = 8192 }
      c:send(way .. "\n")
      assert.equal("ok", c:receive_line())
    end
    s:stop(5)
    assert.equal(#ways, s:count_log("said close"))
  end)

  it("stops while clients keep coming", function()
    local s = server.start(ECHO, { conf = { drain_timeout = 1 } })
    local clients = connect_many(s, 200)
    for i = 1, 200 do clients[i]:send("x") end
    s:signal("TERM")
    for i = 1, 200 do pcall(clients[i].send, clients[i], ("y"):rep(1000)) end
    assert.equal(0, s:wait_exit(5))
    s:forget()
    s:check_end()
  end)

  it("stops before it has started", function()
    local s = server.spawn([[
      return { on_start = function() say("starting"); rille.sleep(60) end, on_request = function() end }
    ]], { conf = { drain_timeout = 0.2 }, allow_errors = true })
    s:wait_log("said starting")
    s:signal("TERM")
    assert.is_truthy(s:wait_exit(3))
    s:forget()
  end)

  it("runs on_shutdown functions, last added first, and waits for them", function()
    local s = server.start([[
      rille.on_shutdown(function() rille.sleep(0.05); say("first") end)
      rille.on_shutdown(function() error("broken hook") end)
      rille.on_shutdown(function() say("last") end)
      return function() end
    ]], { allow_errors = true })
    s:stop()
    assert.same({ "last", "first" }, s:said())
    assert.equal(1, s:count_log("broken hook"))
  end)

  it("can be asked for by a script", function()
    local s = server.start([[
      return function(conn)
        conn:read_line()
        rille.shutdown()
        conn:write("bye\n")
      end
    ]])
    local c = s:connect()
    c:send("x\n")
    assert.equal("bye\n", (c:receive_all()))
    assert.equal(0, s:wait_exit(3))
    s:forget()
    s:check_end()
  end)
end)

describe("loop: other signals", function()
  after_each(server.cleanup)

  it("SIGQUIT writes the loop's state and goes on", function()
    local s = server.start(ECHO)
    local c = s:connect()
    c:send("hello")
    c:receive(5)
    local state = s:state()
    assert.equal(1, state.connections)
    assert.equal(1, state.accepted)
    assert.equal(1, state.messages)
    assert.equal(5, state.bytes_in)
    assert.equal(5, state.bytes_out)
    assert.equal(0, state.failures)
    c:send("again")
    assert.equal("again", c:receive(5))
  end)

  it("SIGUSR1 opens the log file again", function()
    local path = server.folder() .. "/log"
    local s = server.start([[
      return function(conn) say("%s", conn:read_line()) conn:write("ok\n") end
    ]], { log_file = path })
    local c = s:connect()
    c:send("one\n")
    c:receive_line()
    assert.matches("said one", server.read(path))
    assert(os.rename(path, path .. ".1"))
    c:send("two\n")
    c:receive_line()
    s:signal("USR1")
    assert.is_truthy(net.poll_until(function() return exists(path) end))
    c:send("three\n")
    c:receive_line()
    assert.matches("said two", server.read(path .. ".1"))
    assert.is_nil(server.read(path .. ".1"):find("said three", 1, true))
    assert.matches("said three", server.read(path))
  end)

  it("SIGUSR2 is ignored", function()
    local s = server.start(ECHO, { log_level = "debug" })
    s:signal("USR2")
    s:wait_log("level=debug msg=\"SIGUSR2: ignored\"")
    local c = s:connect()
    c:send("hello")
    assert.equal("hello", c:receive(5))
  end)

  it("SIGHUP and a client that breaks the pipe do not end it", function()
    local s = server.start(ECHO)
    s:signal("HUP")
    s:signal(13)
    local c = s:connect()
    c:send("hello")
    assert.equal("hello", c:receive(5))
  end)
end)
