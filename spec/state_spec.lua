-- A Lua state that cannot go on: its memory is used up, or it fails outside of every handler. Another takes its place; its own
-- connections end, nobody else's do.

local server = require "spec.support.server"
local net = server.net

-- One line is one command.
local SCRIPT = [[
local kept, started = {}, rille.now()
rille.every(0.01, function() started = started end)
local commands = {
  keep = function(conn, n) for i = 1, tonumber(n) do kept[#kept + 1] = { tostring(i), i } end; conn:write(#kept .. "\n") end,
  blow = function(conn) local s = ("x"):rep(1e6); while true do s = s .. s end end,
  survive = function(conn)
    local ok, err = pcall(function() local s = ("x"):rep(1e6); while true do s = s .. s end end)
    conn:write(tostring(ok) .. " " .. tostring(err):match("not enough.*$") .. "\n")
  end,
  count = function(conn) conn:write(#kept .. "\n") end,
  fail = function(conn) conn:write("soon\n"); require("rille.state").inbox = nil end,
  replaced = function(conn) conn:write(rille.loop.stats().replaced .. " " .. rille.loop.id .. "\n") end,
}
return { on_request = function(conn)
  local line = conn:read_line()
  if not line then return end
  local name, argument = line:str():match("^(%w+) ?(.*)$")
  commands[name](conn, argument)
end }
]]

local ECHO = [[
return function(conn) conn:write(conn:next(conn:len())) end
]]

local function ask(client, line)
  client:send(line .. "\n")
  return client:receive_line()
end

-- Two servers on each loop: the one that fails and an echo. memory: of the first.
local function start(options)
  options = options or {}
  local echo = server.script_path(ECHO, "echo")
  return server.start(options.script or SCRIPT, {
    allow_errors = true, allow_failures = true, name = "victim",
    conf = {
      loops = options.loops or 1, reload = options.reload,
      servers = {
        { listen = options.listen or "tcp://127.0.0.1:0", script = server.script_path(options.script or SCRIPT, "victim"),
          limits = { memory = options.memory or "24m" }, accept = options.accept, options = options.options },
        { listen = "tcp://127.0.0.1:0", script = echo, accept = "shared" },
      },
    },
  })
end

local function both(s)
  s:wait_listening(2)
  return s:connect(), s:connect(nil, s.urls[2])
end

-- Keep tables until the state has no room for them.
local function fill(client)
  for _ = 1, 100 do
    client:try_send("keep 20000\n")
    local ok, line = pcall(client.receive_line, client)
    if not ok or not line or line == "" then return end
  end
  error("the memory was never used up", 0)
end

describe("a Lua state", function()
  after_each(server.cleanup)

  it("whose memory is used up is replaced, and nobody else notices", function()
    local s = start()
    local victim, other = both(s)
    local bystander = s:connect()
    assert.equal("0", ask(bystander, "count"))
    fill(victim)
    assert.equal("", bystander:receive_all()) -- of the same state: it ends
    assert.equal("hello", other:exchange("hello"))
    s:wait_log("limits.memory %(25165824 bytes%) is used up: the Lua state is replaced, %d connections? closed")
    s:wait_log("victim@1: a new Lua state serves")
    assert.equal("0", ask(s:connect(), "count"))
    assert.equal("1 1", ask(s:connect(), "replaced"))
    assert.equal(1, s:count_log("listening on [^\n]*" .. s.port))
  end)

  it("is replaced again and again without leaving anything", function()
    local s = start { memory = "12m" }
    both(s)
    local descriptors
    for round = 1, 4 do
      local client
      net.poll_until(function()
        client = s:connect()
        local ok, line = pcall(ask, client, "count")
        return ok and line == "0"
      end, 10)
      fill(client)
      local seen = s:wait_state(function(state) return state.replaced >= round and state.connections <= 1 end, 10)
      assert.equal(round, seen.replaced)
      if round == 2 then descriptors = s:descriptors() end
    end
    net.poll_until(function() return s:descriptors() <= descriptors end)
    assert.is_true(s:descriptors() <= descriptors)
    local most = net.has_sanitized_servers and 256 or 64
    assert.is_true(s:rss() < most * 2 ^ 20, "RSS " .. s:rss())
  end)

  it("goes on when one handler alone asked for too much", function()
    local s = start()
    local victim = both(s)
    local bystander = s:connect()
    victim:send("blow\n")
    assert.equal("", victim:receive_all())
    s:wait_log("not enough memory %(limits.memory is 24576 KiB%)")
    s:wait_log("limits.memory %(%d+ bytes%) was reached; %d+ bytes are in use after a collection")
    assert.equal("0", ask(bystander, "count"))
    assert.equal("false not enough memory (limits.memory is 24576 KiB)", ask(bystander, "survive"))
    assert.equal("0 1", ask(bystander, "replaced"))
  end)

  it("that fails outside of every handler is replaced", function()
    local s = start()
    local victim, other = both(s)
    local bystander = s:connect()
    assert.equal("soon", ask(victim, "fail"))
    assert.equal("", bystander:receive_all())
    s:wait_log("victim@1: dispatcher failed: ")
    s:wait_log("victim@1: its dispatcher failed: the Lua state is replaced, 2 connections closed")
    assert.equal("1 1", ask(s:connect(), "replaced"))
    assert.equal("hello", other:exchange("hello"))
  end)

  for _, accept in ipairs { "reuseport", "balanced" } do
    it("of one loop leaves the other loops alone, " .. accept, function()
      local s = start { loops = 2, accept = accept }
      both(s)
      local clients = {}
      net.poll_until(function()
        local c = s:connect()
        clients[tonumber(ask(c, "replaced"):match(" (%d)$"))] = c
        return clients[1] and clients[2]
      end)
      fill(clients[2])
      s:wait_log("a new Lua state serves")
      assert.equal("0 1", ask(clients[1], "replaced"))
      local counts = {}
      net.poll_until(function()
        local replaced, loop = ask(s:connect(), "replaced"):match("^(%d) (%d)$")
        counts[loop] = replaced
        return counts["1"] and counts["2"]
      end)
      assert.same({ ["1"] = "0", ["2"] = "1" }, counts)
    end)
  end

  it("hands over what its script listens on at run time, and on a Unix path", function()
    local path = server.folder() .. "/victim.sock"
    local s = start { listen = "unix://" .. path, options = { path = path .. "2" }, script = [[
      local options = ...
      return {
        on_start = function()
          rille.listen("unix://" .. options.path, function(conn) conn:write(conn:next(conn:len())) end)
        end,
        on_request = function(conn) conn:next(conn:len()); conn:write("soon"); require("rille.state").inbox = nil end,
      }
]] }
    s:wait_listening(2)
    assert.equal("soon", s:connect():exchange("x", 4))
    s:wait_log("a new Lua state serves")
    assert.equal("hello", s:connect(nil, "unix://" .. path .. "2"):exchange("hello"))
    assert.equal("soon", s:connect():exchange("x", 4))
  end)

  it("whose script does not come up again is tried later, and holds up nobody", function()
    local flag = server.folder() .. "/broken"
    local s = start { options = { flag = flag }, script = [[
      local options = ...
      local file = io.open(options.flag)
      if file then file:close(); error("the flag is up", 0) end
      return { on_request = function(conn)
        conn:next(conn:len())
        conn:write("soon")
        require("rille.state").inbox = nil
      end }
]] }
    local victim, other = both(s)
    server.write("broken", "")
    assert.equal("soon", victim:exchange("x", 4))
    s:wait_log("victim@1: cannot be started again: script [^\n]* failed: the flag is up[^\n]*next try in %d+ ms")
    assert.equal("hello", other:exchange("hello"))
    local waiting = s:connect() -- in the queue of the listener, which stays open
    os.remove(flag)
    s:wait_log("a new Lua state serves")
    assert.equal("soon", waiting:exchange("x", 4))
  end)

  it("is loaded again where that holds up nobody, and given up for a while after reload.stage_timeout", function()
    local go, flag = server.folder() .. "/go", server.folder() .. "/broken"
    local s = start { options = { flag = flag, go = go }, reload = { stage_timeout = 2 * net.slow }, script = [[
      local options = ...
      require("ffi").cdef "int usleep(unsigned);"
      local function is_there(path)
        local file = io.open(path)
        if file then file:close() end
        return file
      end
      while is_there(options.flag) and not is_there(options.go) do require("ffi").C.usleep(1000) end
      return { on_request = function(conn)
        conn:next(conn:len())
        conn:write("soon")
        require("rille.state").inbox = nil
      end }
]] }
    local victim, other = both(s)
    server.write("broken", "")
    assert.equal("soon", victim:exchange("x", 4))
    s:wait_log("the Lua state is replaced")
    for _ = 1, 50 do assert.equal("hello", other:exchange("hello")) end
    assert.equal(0, s:count_log("a new Lua state serves"))
    s:wait_log("cannot be started again: it did not come up within %g+ s %(reload.stage_timeout%); next try in %d+ ms", 20)
    server.write("go", "")
    s:wait_log("a new Lua state serves", 10)
    assert.equal("soon", s:connect():exchange("x", 4))
  end)

  it("that is broken does not hold up the end", function()
    local flag = server.folder() .. "/broken"
    local s = start { options = { flag = flag }, script = [[
      local options = ...
      return {
        on_start = function()
          local file = io.open(options.flag)
          if file then file:close(); return false end
        end,
        on_request = function(conn) conn:next(conn:len()); conn:write("soon"); require("rille.state").inbox = nil end,
      }
]] }
    local victim = both(s)
    server.write("broken", "")
    assert.equal("soon", victim:exchange("x", 4))
    s:wait_log("on_start returned false: not starting")
    s:stop(5)
  end)

  it("may have a limit within bounds, and only as a whole", function()
    local s = server.spawn(ECHO, { limits = { memory = "1m" } })
    assert.equal(1, s:wait_exit())
    s:forget()
    assert.matches("servers%[1%]%.limits%.memory: got 1048576; expected 0 or a size from 4m to 1024g", s:log())
    local t = server.spawn([[
      rille.listen("tcp://127.0.0.1:0", print, { limits = { memory = "64m" } })
      return print
]], { allow_errors = true })
    assert.equal(1, t:wait_exit())
    t:forget()
    assert.matches("limits.memory: is of a whole Lua state; set it at the server in the configuration", t:log())
  end)
end)
