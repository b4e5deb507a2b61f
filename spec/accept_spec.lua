-- Who is let in, and to which loop: allow and deny, limits by source, running out of descriptors, on_balance, pinned loops.

local server = require "spec.support.server"
local net = server.net

-- Says on which loop it was accepted, then echoes. A line "stats" is answered with what the listeners of all addresses of this loop count.
local WHERE = [[
local rille = require "rille"
local listeners
return {
  on_start = function(server) listeners = server.listeners end,
  on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    if line ~= "stats" then return conn:write(line:str() .. "\n") end
    local sum = {}
    for _, l in ipairs(listeners) do
      for name, value in pairs(l:stats()) do sum[name] = (sum[name] or 0) + value end
    end
    conn:write(("list=%d address=%d shed=%d connections=%d accepted=%d\n"):format(sum.refused_by_list, sum.refused_by_address, sum.shed,
      sum.connections, sum.accepted))
  end,
}
]]

local function stats(c)
  c:send("stats\n")
  local found = {}
  for name, value in c:receive_line():gmatch("(%w+)=(%d+)") do found[name] = tonumber(value) end
  return found
end

local function from(n) return { source = ("tcp://127.0.0.%d:0"):format(n) } end

-- A client that has been let in; its loop is c.loop.
local function let_in(s, options, url)
  local c = s:connect(options, url)
  c.loop = tonumber(c:receive_line())
  return c
end

-- The same, as soon as a place for it is free.
local function let_in_soon(s, options)
  local c = net.poll_until(function()
    local one = server.client.try_connect(s.url, options)
    return one and pcall(one.receive_line, one) and one
  end)
  assert.truthy(c, "it is never let in")
  return c
end

-- It is refused, with RST.
local function refused(s, options, url)
  local c, why = server.client.try_connect(url or s.url, options)
  if not c then return assert.matches("RESET", why) end
  local bytes, how = c:receive_all()
  assert.same({ "", "reset" }, { bytes, how })
end

describe("allow and deny", function()
  after_each(server.cleanup)

  it("let in whom they name, deny before allow, on every loop", function()
    for _, accept in ipairs { "reuseport", "shared", "balanced" } do
      local s = server.start(WHERE, { conf = { loops = 2 }, server = {
        accept = accept, allow = { "127.0.0.0/30", "127.0.0.9" }, deny = { "127.0.0.2" } } })
      for _ = 1, 5 do
        refused(s, from(2))
        refused(s, from(4))
      end
      let_in(s, from(9))
      let_in(s, from(3))
      local c = let_in(s, from(1))
      c:send("x\n")
      assert.equal("x", c:receive_line())
      s:wait_log("level=warn[^\n]*refused 127.0.0.2:%d+ on " .. s.url:gsub("%p", "%%%0") .. ": by allow and deny")
    end
  end)

  it("are for each family its own, and see an IPv4 peer of an IPv6 socket", function()
    local s = server.start(WHERE, { listen = "tcp://:0", server = { deny = { "127.0.0.2" }, allow = { "127.0.0.0/8" } } })
    let_in(s, from(1), "tcp://127.0.0.1:" .. s.port)
    refused(s, from(2), "tcp://127.0.0.1:" .. s.port)
    refused(s, nil, "tcp://[::1]:" .. s.port)
  end)

  it("do not concern unix sockets", function()
    local s = server.start(WHERE, { listen = "unix://" .. server.folder() .. "/sock", server = { allow = { "10.0.0.0/8" } } })
    let_in(s)
  end)

  it("count whom they refuse", function()
    local s = server.start(WHERE, { server = { deny = "127.0.0.2" } })
    for _ = 1, 20 do refused(s, from(2)) end
    local found = stats(let_in(s))
    assert.equal(20, found.list)
    assert.equal(1, found.connections)
    assert.equal(1, found.accepted)
    assert.is_true(s:state().accepted == 1)
  end)
end)

describe("max_connections_per_address", function()
  after_each(server.cleanup)

  for _, accept in ipairs { "reuseport", "shared", "balanced" } do
    it("holds over all loops and addresses of a server, " .. accept, function()
      local s = server.start(WHERE, { conf = { loops = 2 }, server = { accept = accept },
        listen = { "tcp://127.0.0.1:0", "tcp://127.0.0.1:0" }, limits = { max_connections_per_address = 4 } })
      local clients = {}
      for i = 1, 4 do clients[i] = let_in(s, from(2), s.urls[i % 2 + 1]) end
      for i = 1, 6 do refused(s, from(2), s.urls[i % 2 + 1]) end
      let_in(s, from(3)) -- another source
      s:wait_log("refused 127.0.0.2:%d+ on [^\n]*: max_connections_per_address reached")
      for _ = 1, 30 do -- places are given back
        table.remove(clients, 1):close()
        table.insert(clients, let_in_soon(s, from(2)))
      end
      for _, c in ipairs(clients) do c:close() end
      for i = 1, 4 do clients[i] = let_in_soon(s, from(2)) end
      refused(s, from(2))
    end)
  end

  it("counts a /64 of IPv6 as one, and servers apart", function()
    local script = server.script_path(WHERE)
    local limits = { max_connections_per_address = 1 }
    local s = server.spawn(nil, { command = { server.root .. "/bin/rille", "run", "--conf", server.write("two.lua", ([[
      return { servers = {
        { listen = "tcp://[::1]:0", script = %q, limits = { max_connections_per_address = %d } },
        { listen = "tcp://[::1]:0", script = %q, limits = { max_connections_per_address = %d } },
      } }]]):format(script, limits.max_connections_per_address, script, limits.max_connections_per_address)) } })
    s:wait_listening(2)
    let_in(s, nil, s.urls[1])
    let_in(s, nil, s.urls[2])
    refused(s, nil, s.urls[1])
    refused(s, nil, s.urls[2])
  end)

  it("leaves each address its own max_connections", function()
    for _, loops in ipairs { 1, 2 } do
      local s = server.start(WHERE, { conf = { loops = loops }, listen = { "tcp://127.0.0.1:0", "tcp://127.0.0.1:0" },
        limits = { max_connections = 1, max_connections_per_address = 3 } })
      let_in(s, nil, s.urls[1])
      local c = let_in(s, nil, s.urls[2])
      local waits = s:connect(nil, s.urls[2])
      waits:receives_nothing(0.05)
      c:close()
      assert.matches("^[12]$", waits:receive_line())
    end
  end)

  it("survives a storm, and counts right afterwards", function()
    local s = server.start(WHERE, { conf = { loops = 2 }, limits = { max_connections_per_address = 3, max_connections = 50 } })
    for round = 1, 20 do
      local clients = {}
      for i = 1, 40 do
        clients[i] = server.client.try_connect(s.url, from(i % 20 + 2))
        if clients[i] and (i + round) % 3 == 0 then clients[i]:reset() end
      end
      for _, c in pairs(clients) do c:close() end
    end
    for n = 2, 21 do
      for _ = 1, 2 do let_in_soon(s, from(n)) end
    end
    let_in_soon(s, from(2))
    refused(s, from(2))
  end)
end)

describe("out of descriptors", function()
  after_each(server.cleanup)

  it("lets connections wait for shed_after, then ends them", function()
    local s = server.start(WHERE, { ulimit = "-n 40", limits = { shed_after = "300ms" } })
    local clients, served, ended = {}, {}, 0
    local started = net.now()
    for i = 1, 80 do clients[i] = s:connect() end
    s:wait_log("cannot accept on")
    s:wait_log("closed a connection to " .. s.url:gsub("%p", "%%%0") .. " unserved: Too many open files")
    assert.is_true(net.now() - started >= 0.28)
    for _, c in ipairs(clients) do
      local got, bytes = pcall(c.receive_some, c)
      if got and bytes and #bytes > 0 then served[#served + 1] = c else ended = ended + 1 end
    end
    assert.is_true(#served >= 15 and #served < 40, #served .. " were served")
    assert.equal(80, #served + ended)
    assert.equal(ended, stats(served[1]).shed)
    -- later ones are told at once, and it costs nothing to wait for them
    for _ = 1, 5 do assert.same({ "", "closed" }, { s:connect():receive_all() }) end
    local cpu, turns = s:cpu(), s:state().turns
    net.nap(200)
    assert.is_true(s:cpu() - cpu <= 0.04 * net.slow)
    assert.is_true(s:state().turns - turns < 50)
    for i = 2, #served do served[i]:close() end
    net.poll_until(function() return stats(served[1]).connections == 1 end)
    for _ = 1, 10 do let_in(s) end
  end)

  it("never ends them with shed_after = 0", function()
    local s = server.start(WHERE, { ulimit = "-n 40", limits = { shed_after = 0 } })
    local clients = {}
    for i = 1, 50 do clients[i] = s:connect() end
    s:wait_log("cannot accept on")
    s:wait_log("next try in 320 ms")
    assert.equal(0, s:count_log("unserved"))
    local last = clients[50]
    last:receives_nothing(0.01)
    for i = 1, 30 do clients[i]:close() end
    assert.equal("1", last:receive_line())
  end)
end)

describe("on_balance", function()
  after_each(server.cleanup)

  local function start(hook, opts)
    opts = opts or {}
    return server.start(([[
      local rille = require "rille"
      return {
        on_balance = %s,
        on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
        on_request = function(conn) conn:write(conn:next(conn:len())) end,
      }
    ]]):format(hook), { conf = { loops = opts.loops or 3 }, server = { accept = "balanced", balance = "script" }, limits = opts.limits,
      listen = opts.listen, allow_errors = opts.allow_errors })
  end

  it("says which loop serves a connection", function()
    local s = start("function(peer) return tonumber(peer:match('^127%.0%.0%.(%d+):%d+$')) end")
    for loop = 1, 3 do
      for _ = 1, 5 do assert.equal(loop, let_in(s, from(loop)).loop) end
    end
  end)

  it("gets the load of each loop", function()
    local s = start([[function(_, loads)
      assert(#loads == 3)
      local least = 1
      for i = 2, 3 do if loads[i] < loads[least] then least = i end end
      return least
    end]])
    local counts = { 0, 0, 0 }
    for _ = 1, 12 do
      local loop = let_in(s).loop
      counts[loop] = counts[loop] + 1
    end
    table.sort(counts)
    assert.is_true(counts[1] >= 3 and counts[3] <= 5, table.concat(counts, " ")) -- the one that is asked for counts on the first
  end)

  it("leaves a connection to the next loop with nil", function()
    local s = start("function() end")
    local counts = { 0, 0, 0 }
    for _ = 1, 12 do
      local loop = let_in(s).loop
      counts[loop] = counts[loop] + 1
    end
    assert.same({ 4, 4, 4 }, counts)
  end)

  it("loses nothing when it is wrong, raises or parks", function()
    for _, hook in ipairs {
      "function() return 4 end", "function() return 0 end", "function() return -1 end", "function() return 1.5 end",
      "function() return 0/0 end", "function() return 'two' end", "function() return {} end", "function() return true end",
      "function() error('on purpose') end", "function() rille.sleep(0.05) return 2 end",
    } do
      local s = start(hook, { allow_errors = true })
      local counts = { 0, 0, 0 }
      for _ = 1, 6 do
        local c = let_in(s)
        counts[c.loop] = counts[c.loop] + 1
        c:send("hello")
        assert.equal("hello", c:receive(5))
      end
      assert.same({ 2, 2, 2 }, counts, hook)
      s:wait_log(hook:find("error") and "on_balance failed[^\n]*on purpose" or hook:find("rille") and "on_balance has not answered at once"
        or "on_balance returned .*; expected nil or a loop from 1 to 3")
    end
  end)

  it("keeps max_connections and serves what came before a stop", function()
    local name = "unix:@rille-spec-balance-" .. net.C.net_getpid()
    local s = start("function() return 2 end", { limits = { max_connections = 3 }, listen = name })
    local clients = {}
    for i = 1, 3 do clients[i] = let_in(s) end
    local more = s:connect()
    more:receives_nothing(0.1)
    clients[1]:close()
    assert.equal("2", more:receive_line())

    s = start("function() return 2 end", { loops = 2 })
    s:signal("STOP")
    for i = 1, 200 do clients[i] = s:connect() clients[i]:send("x") end
    s:signal("CONT")
    s:signal("TERM")
    for i = 1, 200 do
      assert.matches("^[12]$", clients[i]:receive_line())
      assert.equal("x", clients[i]:receive(1))
      clients[i]:close()
    end
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)

  it("has to be there when the configuration asks for it", function()
    local s = server.spawn(WHERE, { conf = { loops = 2 }, server = { accept = "balanced", balance = "script" } })
    assert.equal(1, s:wait_exit())
    assert.matches('balance = "script" needs a function on_balance in the table that the script returns', s:log())
    s:forget()
  end)
end)

describe("pin", function()
  after_each(server.cleanup)

  -- The processors that the threads of a process may use, by the thread's name.
  local function masks(s)
    local found = {}
    for path in io.popen(("ls -d /proc/%d/task/*"):format(s.pid)):lines() do
      local name = server.read(path .. "/comm"):match("^[^\n]*")
      found[name] = server.read(path .. "/status"):match("Cpus_allowed_list:%s*(%S+)")
    end
    return found
  end

  local cpus = {}
  for cpu in io.popen("taskset -cp $$ | sed 's/.*: //'"):read("*l"):gmatch("[^,]+") do
    local first, last = cpu:match("^(%d+)%-(%d+)$")
    for n = tonumber(first or cpu), tonumber(last or cpu) do cpus[#cpus + 1] = n end
  end

  local POOLED = [[
local rille = require "rille"
return function(conn)
  conn:release()
  conn:write(rille.pool():call("string", "rep", "x", 3) .. rille.pool():stats().max)
end
]]

  it("keeps each loop on a processor, and nothing else", function()
    local loops = #cpus + 1
    local s = server.start(POOLED, { conf = { loops = loops, pin = true } })
    local c = s:connect()
    c:send("go")
    local answer = c:receive_some()
    local found = masks(s)
    for i = 1, loops do assert.equal(tostring(cpus[(i - 1) % #cpus + 1]), found["rille-loop-" .. i]) end
    local own = server.read("/proc/self/status"):match("Cpus_allowed_list:%s*(%S+)")
    local others = 0
    for name, mask in pairs(found) do
      if not name:find("^rille%-loop") then
        others = others + 1
        assert.equal(own, mask, name)
      end
    end
    assert.is_true(others >= 2, "there is no worker among the threads")
    assert.matches("^xxx%d+$", answer)
    assert.is_true(tonumber(answer:match("%d+")) == require("rille.core").rille_cpu_count())
  end)

  it("takes a list of processors, and names one that cannot be used", function()
    local last = cpus[#cpus]
    local s = server.start(WHERE, { conf = { loops = 2, pin = { last, cpus[1] } } })
    local found = masks(s)
    assert.equal(tostring(last), found["rille-loop-1"])
    assert.equal(tostring(cpus[1]), found["rille-loop-2"])
    local bad = server.spawn(WHERE, { conf = { loops = 2, pin = { cpus[1], 1000 } } })
    assert.equal(1, bad:wait_exit())
    assert.matches("pin%[2%]: processor 1000 is none that this process may use", bad:log())
    bad:forget()
  end)

  it("is checked with the configuration", function()
    local config = require "rille.config"
    local function problem_of(pin) return select(2, config.check({ pin = pin, servers = {} }, "rille.run")) end
    assert.matches("^rille.run: pin: got 5; expected true, or a list of processor numbers from 0 to 1023", problem_of(5))
    assert.matches("^rille.run: pin: is empty", problem_of {})
    assert.matches("^rille.run: pin%[2%]: got 1024; expected", problem_of { 0, 1024 })
    assert.matches("^rille.run: pin%[1%]: got %-1; expected", problem_of { -1 })
    assert.matches('^rille.run: pin: has a key "a"; expected', problem_of { 0, a = 1 })
  end)

  it("gives the thread of a program back", function()
    local file = server.write("app.lua", [[
      local rille = require "rille"
      local function mask() return io.open("/proc/thread-self/status"):read("*a"):match("Cpus_allowed_list:%s*(%S+)") end
      local before, inside = mask(), nil
      assert(rille.run { pin = true, log = { level = "warn" }, servers = { { listen = "tcp://127.0.0.1:0", script = {
        on_start = function() inside = mask() rille.shutdown(0) end, on_request = print } } } })
      print(before == mask(), inside)
    ]])
    local p = io.popen(("LUA_PATH='%s/lua/?.lua;%s/lua/?/init.lua;;' timeout 20 %s %s 2>&1"):format(server.root, server.root,
      os.getenv("RILLE_LUAJIT") or "luajit", file))
    assert.equal(("true\t%d\n"):format(cpus[1]), p:read("*a"))
    p:close()
  end)
end)
