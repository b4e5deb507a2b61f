-- Worker pools in servers with several loops: what crosses, what is posted, and what is left at the end.

local server = require "spec.support.server"
local support = require "spec.support.pool"
local net = server.net

local check, WORK = support.check, support.WORK

describe("what crosses without a copy", function()
  after_each(server.cleanup)

  it("is a slice, retained or not, there and back", function()
    check [[
      local b = LinkBuffer.new()
      b:write(("x"):rep(100000)) b:flush()
      local s = b:next(100000):retain()
      b:close()
      local at, size = work.address(s)
      local there, there_size = pool:call("work", "address", s)
      equal(there, at) equal(there_size, size)
      equal(pool:call("work", "address", s:sub(11, 20)), at + 10)
      local back = pool:call("work", "echo", s)
      equal(work.address(back), at)
      s:release()
      equal(back:len(), 100000) equal(back:byte(1), 120)
      back:release()
      equal(LinkBuffer.stats().blocks_in_use, 0)
      local cut = pool:call("work", "cut", 5000)
      equal(cut:len(), 4998)
      cut:release()
    ]]
  end)

  it("is the job's until it returns", function()
    check([[
      local b = LinkBuffer.new()
      b:write "for a while" b:flush()
      local s = b:next(11)
      equal(pool:call("work", "keep", s), "for a while")
      local ok, err = pool:call("work", "look")
      equal(ok, false) assert(err:find("slice expired", 1, true), err)
      equal(s:str(), "for a while")
      b:close()
    ]], "{ max = 1 }")
  end)

  it("is what a LinkBuffer holds", function()
    check [[
      local b = LinkBuffer.new()
      b:write(("x"):rep(10000)) b:write(("y"):rep(10000)) b:flush()
      local at = work.address(b:peek(1))
      local there, size = pool:call("work", "front", b)
      equal(there, at) equal(size, 20000)
      equal(b:len(), 0)
      b:write "hello" b:flush()
      local out, word = pool:call("work", "upper", b)
      equal(word, "done") equal(out:read_string(5), "HELLO") equal(b:len(), 0)
      out:close()
      b:write "there and back" b:flush()
      local part = b:take(5)
      local first, second = pool:call("work", "echo", part, b)
      equal(first:read_string(5), "there") equal(second:read_string(9), " and back")
      first:close() second:close() part:close() b:close()
      local ok, err = pool:call("work", "echo", b)
      equal(ok, nil) equal(err, "closed")
    ]]
  end)
end)

describe("a posted job", function()
  after_each(server.cleanup)

  it("runs without its caller", function()
    check [[
      equal(pool:post("work", "open", "posted"), true)
      await(function() return work.is_open "posted" end)
      await(function() return pool:stats().done == 1 end)
    ]]
  end)

  it("tells on_error what went wrong", function()
    check([[
      assert(pool:post("work", "fail", "first"))
      assert(pool:post("work", "nope"))
      assert(pool:post("nowhere", "x"))
      await(function() return TOLD and #TOLD == 3 end)
      assert(TOLD[1].err:find("work.lua:%d+: first$"), TOLD[1].err)
      assert(TOLD[1].trace:find("stack traceback:", 1, true), TOLD[1].trace)
      equal(TOLD[1].job, "work.fail")
      equal(TOLD[2].err, "not found") equal(TOLD[2].trace, "module work has no function 'nope'") equal(TOLD[2].job, "work.nope")
      equal(TOLD[3].err, "not found")
    ]], "{ max = 1, on_error = function(err, trace, job) TOLD = TOLD or {} TOLD[#TOLD + 1] = { err = err, trace = trace, job = job } end }")
  end)

  it("has its error told however many come back at once", function()
    check([[
      local N = 6000 -- a mailbox has room for 4096
      for _ = 1, N do assert(pool:post("work", "fail")) end
      local stop = clock() + 20 * SLOW -- the loop is away until the workers have to wait for it
      while pool:stats().failed <= 4096 and clock() < stop do end
      assert(pool:stats().failed < N)
      await(function() return COUNT == N end)
      equal(pool:stats().failed, N)
    ]], "{ max = 2, queue = 10000, on_error = function() COUNT = (COUNT or 0) + 1 end }", { seconds = 60 })
  end)

  it("has its errors in the log without on_error", function()
    local result = check([[
      assert(pool:post("work", "fail", "silently?"))
      assert(pool:post("work", "nope"))
      await(function() return pool:stats().failed == 2 end)
      rille.sleep(0.02)
    ]], nil, { errors = true })
    assert.matches("spec@1: pool spec: work%.fail failed: [^\n]*silently%?\\nstack traceback", result.err)
    assert.matches("spec@1: pool spec: work%.nope failed: module work has no function 'nope'", result.err)
  end)

  it("still runs at the end, while there is time", function()
    check([[
      for i = 1, 20 do assert(pool:post("work", "open", "post" .. i)) end
    ]], "{ max = 1 }")
    for i = 1, 20 do assert.truthy(io.open(server.folder() .. "/post" .. i)) end
  end)
end)

describe("pools of a server", function()
  after_each(server.cleanup)

  -- "call N", "post", "hold", ...: a line a command.
  local SCRIPT = [[
local rille = require "rille"
local pool = rille.pool("shared", { max = 3, queue = 100000 })
local commands = {}
function commands.echo(text) return pool:call("work", "echo", text) end
function commands.many(text)
  local tasks, sum = {}, 0
  for i = 1, tonumber(text) do tasks[i] = rille.spawn(pool.call, pool, "work", "echo", i) end
  for i = 1, #tasks do sum = sum + assert(tasks[i]:join()) end
  return sum
end
function commands.hold(text) return pool:call("work", "hold", text) end
function commands.late(text) return pool:with { timeout = 0.02 }:call("work", "hold", text) end
function commands.post(text) return pool:post("work", "say", text) end
function commands.where() return rille.loop.id end
return {
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local name, text = line:str():match("^(%S+) ?(.*)$")
    local ok, err = commands[name](text)
    conn:write(tostring(ok) .. (err and " " .. tostring(err) or "") .. "\n")
  end,
}
]]

  local function start(opts)
    server.write("work.lua", WORK)
    opts = opts or {}
    opts.conf, opts.server = { loops = 2 }, { accept = "balanced" }
    return server.start(SCRIPT, opts)
  end

  local function ask(c, line, seconds)
    c:send(line .. "\n")
    return c:receive_line(seconds)
  end

  it("serve thousands of calls from two loops", function()
    local s = start()
    local one, two = s:connect { timeout = 30 }, s:connect { timeout = 30 }
    assert.are_not.equal(ask(one, "where"), ask(two, "where"))
    for _ = 1, 3 do
      one:send "many 3000\n"
      two:send "many 3000\n"
      assert.equal("4501500", one:receive_line(30))
      assert.equal("4501500", two:receive_line(30))
    end
    assert.equal("hello", ask(one, "echo hello"))
    local names = io.popen(("cat /proc/%d/task/*/comm"):format(s.pid)):read("*a")
    assert.matches("rille%-pool%-shar\n", names)
    s:state()
    s:wait_log("pool shared: %d of 3 workers, %d busy, 0 lost; jobs: 0 queued, 18001 done, 0 failed, 0 abandoned")
  end)

  it("find the modules of each server's own folder", function()
    server.write("work.lua", WORK)
    local names = { "a", "b", "c", "d", "e", "f" } -- more than a worker keeps states
    local servers = {}
    for i, name in ipairs(names) do
      os.execute(("mkdir %s/%s"):format(server.folder(), name))
      server.write(name .. "/mine.lua", ("return { name = function() return %q end }"):format(name))
      local path = server.write(name .. "/script.lua", [[
        local rille = require "rille"
        return function(conn)
          conn:release()
          conn:write(rille.pool("both", { max = 1 }):call("mine", "name") .. "\n")
        end
      ]])
      servers[i] = ("{ script = %q, listen = 'tcp://127.0.0.1:0' }"):format(path)
    end
    local conf = server.write("both.lua", "return { servers = { " .. table.concat(servers, ", ") .. " } }")
    local s = server.spawn(nil, { command = { server.root .. "/bin/rille", "run", "--conf", conf } })
    s:wait_listening(#names)
    local clients = {}
    for i, url in ipairs(s.urls) do clients[i] = s:connect(nil, url) end
    for _ = 1, 3 do
      for i, name in ipairs(names) do assert.equal(name, ask(clients[i], "x")) end
    end
  end)

  it("are sized by the configuration, for good", function()
    local s = server.start([[
      local sized = rille.pool("sized"):stats()
      say("%d %d", rille.pool():stats().max, sized.max)
      say("%s", tostring(pcall(rille.pool, "sized", { max = 4 })))
      return function() end
    ]], { conf = { workers = 7, pools = { sized = { max = 3 } } } })
    assert.same({ "7 3", "false" }, s:wait_said(2))
  end)

  it("end with the server, with jobs queued and running", function()
    local s = start()
    local clients = {}
    for i = 1, 10 do
      clients[i] = s:connect()
      clients[i]:send "hold gate\n"
    end
    net.poll_until(function() return io.open(server.folder() .. "/in-gate") end)
    s:signal "TERM"
    s:wait_log "stopping: draining"
    s:signal "TERM"
    s:wait_log "stopping at once"
    server.write("gate", "")
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)

  it("name a worker that does not come back", function()
    local s = start()
    local c = s:connect()
    assert.equal("nil timeout", ask(c, "late gate"))
    s:state()
    s:wait_log "pool shared: a worker is lost to work.hold for %d+%.%d s"
    c:close()
    s:signal "TERM"
    assert.equal(0, s:wait_exit())
    assert.matches("pool shared: a worker does not come back from work.hold after %d+%.%d s: left behind", s:log())
    s:forget()
  end)

  it("run what was posted before the end", function()
    local s = start()
    local c = s:connect()
    for i = 1, 20 do assert.equal("true", ask(c, "post number" .. i)) end
    s:signal "TERM"
    c:close()
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
    assert.equal(20, s:count_log "said number%d+")
  end)
end)
