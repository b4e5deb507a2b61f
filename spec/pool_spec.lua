-- Worker pools: what comes back, how many workers there are, what becomes of jobs that take too long.

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local support = require "spec.support.pool"

local check, WORK = support.check, support.WORK

describe("a call", function()
  after_each(server.cleanup)

  it("gives what the function returned, whatever that is", function()
    check [[
      equal(pool:call("work", "echo", "a"), "a")
      equal(select("#", pool:call("work", "echo")), 0)
      equal(select("#", pool:call("work", "nothing")), 0)
      equal(select("#", pool:call("work", "echo", nil, 1, nil, nil)), 4)
      equal(pool:call("work", "count", nil, nil, nil), 3)
      local a, b, c, d, e = pool:call("work", "echo", true, false, 2 ^ 60, "\0\255", { x = { 1, 2, { y = "z" } } })
      equal(a, true) equal(b, false) equal(c, 2 ^ 60) equal(d, "\0\255") equal(e.x[3].y, "z")
      equal(pool:call("work", "echo", 0x7fffffffffffffffLL), 0x7fffffffffffffffLL)
      local many = {}
      for i = 1, 200 do many[i] = i end
      local back = { pool:call("work", "echo", unpack(many)) }
      equal(#back, 200) equal(back[200], 200)
      equal(#pool:call("work", "echo", ("x"):rep(2 ^ 20)), 2 ^ 20)
      equal(pool:call("string", "upper", "lua"), "LUA")
    ]]
  end)

  it("gives the error of the function, with a traceback", function()
    local result = check([[
      local ok, err, trace = pool:call("work", "fail", "bad luck")
      equal(ok, nil)
      assert(err:find("work.lua:%d+: bad luck$"), err)
      assert(trace:find("bad luck\nstack traceback:", 1, true) and trace:find("in function 'error'", 1, true), trace)
      ok, err = pool:call("work", "fail_deep")
      assert(err:find("work.lua:%d+: attempt to index"), err)
      ok, err = pool:call("work", "fail_with", { code = 7 })
      equal(ok, nil) equal(err.code, 7)
      equal(pool:call("work", "echo", "still there"), "still there")
      equal(pool:stats().failed, 3)
    ]], nil, { errors = true })
    assert.matches("pool spec: work%.fail failed: [^\n]*bad luck\\nstack traceback", result.err)
  end)

  it("says when there is no such module or function", function()
    check [[
      local ok, err, message = pool:call("nowhere.at.all", "x")
      equal(ok, nil) equal(err, "not found")
      assert(message:find("module 'nowhere.at.all' not found:", 1, true), message)
      ok, err, message = pool:call("work", "nope")
      equal(ok, nil) equal(err, "not found") equal(message, "module work has no function 'nope'")
    ]]
  end)

  it("gives the error of a module that cannot be loaded", function()
    server.write("syntax.lua", "return {")
    server.write("needy.lua", "return require 'nowhere'")
    check([[
      local ok, err = pool:call("syntax", "x")
      assert(ok == nil and err:find("syntax.lua:1: unexpected symbol", 1, true), err)
      ok, err = pool:call("needy", "x")
      assert(ok == nil and err:find("module 'nowhere' not found", 1, true), err)
      ok, err = pool:call("syntax", "x")
      assert(ok == nil and err:find("syntax.lua:1: unexpected symbol", 1, true), err)
    ]], nil, { errors = true })
  end)

  it("says what cannot be sent, there and back", function()
    check [[
      local b = LinkBuffer.new()
      b:write "slice" b:flush()
      local loop = {} loop.loop = loop
      local cases = { print, coroutine.create(print), io.stdout, require("ffi").new("int[2]"), loop, { b:peek(3) }, { { f = print } } }
      for i, case in ipairs(cases) do
        local ok, err, message = pool:call("work", "echo", 1, case)
        equal(ok, nil) equal(err, "invalid argument")
        assert(message:find "^argument 2: ", i .. ": " .. message)
        ok, err = pool:post("work", "echo", case)
        equal(ok, nil) equal(err, "invalid argument")
      end
      local ok, err, message = pool:call("work", "closure")
      equal(ok, nil) equal(err, "invalid argument") equal(message, "result 2: cannot serialize 'function'")
      b:close()
    ]]
  end)

  it("raises when it is called wrongly", function()
    check [[
      raises("a module's name expected, got table", pool.call, pool, {}, "x")
      raises("a function's name expected, got nil", pool.post, pool, "work")
      raises("a name of 1 to 63 characters expected", rille.pool, "")
      raises("a name of 1 to 63 characters expected", rille.pool, 7)
      raises("table expected, got number", rille.pool, "other", 7)
      raises("there is no option 'size'", rille.pool, "other", { size = 3 })
      raises("option max: expected a whole number from 1 to 1024, got 0", rille.pool, "other", { max = 0 })
      raises("option on_error: expected a function", rille.pool, "other", { on_error = 1 })
      raises("max: expected a whole number from 1 to 1024, got 1.5", pool.resize, pool, 1.5)
      raises("{ timeout = seconds } expected", pool.with, pool, {})
      raises("there is no option 'limit'", pool.with, pool, { limit = 1 })
      local b = LinkBuffer.new()
      b:write "gone" b:flush()
      local s = b:next(4)
      b:release()
      raises("slice expired", pool.call, pool, "work", "echo", s)
      b:close()
    ]]
    inside.check([[
      raises("needs a running loop", rille.pool)
    ]], { how = "plain" })
  end)

  it("may not park on a worker", function()
    check([[
      local ok, err = pool:call("work", "sleep")
      assert(ok == nil and err:find("rille.sleep needs a running loop", 1, true), err)
    ]], nil, { errors = true })
  end)

  it("runs in a state that keeps its modules, on a thread that yields to loops", function()
    check([[
      equal(pool:call("work", "globals"), 1)
      equal(pool:call("work", "globals"), 2)
      assert(pool:call("work", "thread") ~= work.thread())
      equal(pool:call("work", "nice"), math.min(19, work.nice() + 5))
      equal(spec_mark, nil)
    ]], "{ max = 1 }")
  end)

  -- a limit of the address space is nothing that a sanitizer can run with
  local with_limit = (os.getenv("RILLE_CORE") or os.getenv("RILLE_LUAJIT")) and pending or it
  with_limit("is an error when it takes all memory, and no more", function()
    local folder = server.folder()
    server.write("work.lua", WORK)
    local s = server.spawn(nil, { ulimit = "-v 700000", command = { server.root .. "/bin/rille", "exec", server.write("hog.lua", ([[
      local rille = require "rille"
      package.path = %q .. "/?.lua;" .. package.path
      local pool = rille.pool("hogs", { max = 1 })
      assert(pool:call("work", "globals") == 1)
      local ok, err = pool:call("work", "hog")
      assert(ok == nil and err == "not enough memory", err)
      assert(pool:call("work", "globals") == 1)
    ]]):format(folder)) } })
    s:forget()
    assert.equal(0, s:wait_exit(), s:log())
  end)

  it("is an error when it passes the limit of its worker's memory", function()
    local result = check([[
      local ok, err, message = pool:call("work", "hoard", 1e5)
      equal(ok, nil) equal(err, "no memory")
      assert(message:find("not enough memory (the pool's memory is 12288 KiB)\nstack traceback:", 1, true), message)
      equal(pool:call("work", "globals"), 1) -- the state was not replaced: what the job had is garbage
      equal(pool:call("work", "globals"), 2)
      equal(pool:call("work", "survive"), "no memory")
      equal(pool:stats().failed, 1)
    ]], "{ max = 1, memory = 12 * 2 ^ 20 }", { errors = true })
    assert.matches("pool spec: work%.hoard failed: ", result.err)
  end)

  it("gets a new state when what others left takes too much of it", function()
    local result = check([[
      for i = 1, 200 do assert(pool:call("work", "leave", 1e5)) end
      assert(pool:call("work", "left") < 100)
      equal(pool:stats().failed, 0)
    ]], "{ max = 1, memory = 12 * 2 ^ 20 }", { errors = true })
    assert.matches("pool spec: memory %(12582912 bytes%) is used up after work.leave, %d+ bytes are in use after a collection: "
      .. "the worker's Lua state is replaced", result.err)
  end)

  it("may go on beyond any limit with memory = 0, and needs at least 4 MiB else", function()
    check([[
      assert(pool:call("work", "leave", 3e7))
      equal(pool:call("work", "left"), 1)
      local ok, err = pcall(rille.pool, "small", { memory = 1e6 })
      equal(ok, false) assert(err:find("option memory: expected 0 or at least 4194304 bytes, got 1000000", 1, true), err)
    ]], "{ max = 1, memory = 0 }")
  end)

  it("gets a new state after one without memory", function()
    check([[
      equal(pool:call("work", "globals"), 1)
      local ok, err = pool:call("work", "broken")
      equal(ok, nil) equal(err, "not enough memory")
      equal(pool:call("work", "globals"), 1)
    ]], "{ max = 1 }", { errors = true })
  end)
end)

describe("a pool", function()
  after_each(server.cleanup)

  it("has its options from the first who gives some", function()
    check [[
      assert(rille.pool() == rille.pool "default")
      assert(rille.pool "spec" == pool)
      equal(tostring(pool), "pool spec")
      equal(pool:stats().max, require("rille.core").rille_cpu_count())
      equal(rille.pool("spec", { max = 3, queue = 7 }):stats().max, 3)
      rille.pool("spec", { queue = 7 })
      rille.pool("spec", { max = 3, on_error = print })
      raises("pool 'spec' was made with other options", rille.pool, "spec", { max = 4 })
      raises("pool 'spec' was made with other options", rille.pool, "spec", { max = 3, idle_timeout = 1 })
    ]]
  end)

  it("starts workers as jobs wait, up to max", function()
    check([[
      equal(pool:stats().workers, 0)
      local tasks = {}
      for i = 1, 5 do tasks[i] = rille.spawn(function() return pool:call("work", "hold", "gate", i) end) end
      await(function() return pool:stats().busy == 3 end)
      local s = pool:stats()
      equal(s.name, "spec") equal(s.workers, 3) equal(s.idle, 0) equal(s.queued, 2) equal(s.max, 3)
      work.open "gate"
      for i = 1, 5 do equal(tasks[i]:join(), i) end
      s = pool:stats()
      equal(s.done, 5) equal(s.busy, 0) equal(s.queued, 0) equal(s.idle, 3)
      -- one that is idle is enough for one call
      for _ = 1, 10 do pool:call("work", "echo") end
      equal(pool:stats().workers, 3)
    ]], "{ max = 3 }")
  end)

  it("starts no second one below scale_threshold", function()
    check([[
      local tasks = {}
      for i = 1, 3 do tasks[i] = rille.spawn(function() return pool:call("work", "hold", "gate", i) end) end
      await(function() local s = pool:stats() return s.busy == 1 and s.queued == 2 end)
      equal(pool:stats().workers, 1)
      tasks[4] = rille.spawn(function() return pool:call("work", "hold", "gate", 4) end)
      await(function() return pool:stats().busy == 2 end)
      work.open "gate"
      for i = 1, 4 do equal(tasks[i]:join(), i) end
    ]], "{ max = 4, scale_threshold = 3 }")
  end)

  it("says when its queue is full, and then takes nothing", function()
    check([[
      local one = rille.spawn(function() return pool:call("work", "hold", "gate", 1) end)
      await(function() return pool:stats().busy == 1 end)
      local two = rille.spawn(function() return pool:call("work", "echo", 2) end)
      local three = rille.spawn(function() return pool:call("work", "echo", 3) end)
      rille.yield()
      local b = LinkBuffer.new()
      b:write "kept" b:flush()
      local ok, err = pool:call("work", "echo", b)
      equal(ok, nil) equal(err, "full") equal(b:len(), 4)
      ok, err = pool:post("work", "echo")
      equal(ok, nil) equal(err, "full")
      work.open "gate"
      equal(one:join(), 1) equal(two:join(), 2) equal(three:join(), 3)
      local back = pool:call("work", "echo", b)
      equal(back:read_string(4), "kept")
      back:close() b:close()
    ]], "{ max = 1, queue = 2 }")
  end)

  it("lets workers go that have nothing to do", function()
    check([[
      local before = threads()
      local tasks = {}
      for i = 1, 3 do tasks[i] = rille.spawn(function() return pool:call("work", "hold", "gate", i) end) end
      await(function() return pool:stats().busy == 3 end)
      equal(threads(), before + 3)
      work.open "gate"
      await(function() return pool:stats().workers == 0 end)
      await(function() return threads() == before end)
      equal(pool:call("work", "echo", "again"), "again")
    ]], "{ max = 3, idle_timeout = 0.02 }")
  end)

  it("is made larger and smaller", function()
    check([[
      local tasks = {}
      for i = 1, 4 do tasks[i] = rille.spawn(function() return pool:call("work", "hold", "gate", i) end) end
      await(function() return pool:stats().busy == 1 end)
      equal(pool:resize(4), true)
      await(function() return pool:stats().busy == 4 end)
      equal(pool:resize(2), true)
      equal(pool:stats().max, 2)
      work.open "gate"
      for i = 1, 4 do equal(tasks[i]:join(), i) end
      await(function() return pool:stats().workers == 2 end)
      equal(pool:call("work", "echo", "x"), "x")
      rille.pool("spec", { max = 1 }) -- as it was made
    ]], "{ max = 1 }")
  end)

  it("outlives none of the runs of a program, but its object does", function()
    server.write("work.lua", WORK)
    inside.check(([[
      package.path = %q .. "/?.lua;" .. package.path
      local pool
      for run = 1, 2 do
        assert(rille.run { log = { level = "warn" }, servers = { { listen = "unix:@rille-spec-" .. %d, script = {
          on_start = function()
            pool = pool or rille.pool("again", { max = 2 })
            rille.spawn(function()
              equal(pool:call("work", "globals"), 1)
              equal(pool:stats().done, 1)
              rille.shutdown()
            end)
          end,
          on_request = print,
        } } } })
      end
      pool = nil
    ]]):format(server.folder(), math.random(1e9)), { how = "plain" })
  end)
end)

describe("a job that takes too long", function()
  after_each(server.cleanup)

  it("frees its caller at a deadline, and its worker counts until it is back", function()
    check([[
      local before = clock()
      local ok, err = pool:with { timeout = 0.05 }:call("work", "hold", "gate")
      equal(ok, nil) equal(err, "timeout")
      assert(clock() - before < 2 * SLOW)
      local s = pool:stats()
      equal(s.lost, 1) equal(s.abandoned, 1) equal(s.workers, 1) equal(s.busy, 1)
      equal(#s.lost_jobs, 1) equal(s.lost_jobs[1].job, "work.hold") assert(s.lost_jobs[1].seconds >= 0.04)
      -- max is 1: nobody is left to run it
      ok, err = pool:with { timeout = 0.05 }:call("work", "echo", 1)
      equal(ok, nil) equal(err, "timeout")
      equal(pool:stats().workers, 1) equal(pool:stats().queued, 0) equal(pool:stats().abandoned, 2)
      work.open "gate"
      equal(pool:call("work", "echo", 2), 2)
      s = pool:stats()
      equal(s.lost, 0) equal(s.done, 1)
    ]], "{ max = 1 }")
  end)

  it("ends with rille.with_timeout around it", function()
    check([[
      local ok, err = rille.with_timeout(0.05, function() return pool:call("work", "hold", "gate") end)
      equal(ok, nil) equal(err, "timeout") equal(pool:stats().lost, 1)
      work.open "gate"
      equal(rille.with_timeout(5 * SLOW, pool.call, pool, "work", "echo", 3), 3)
    ]], "{ max = 1 }")
  end)

  it("is dropped when its task is cancelled, queued or running", function()
    check([[
      local s = LinkBuffer.new()
      s:write(("x"):rep(10000)) s:flush()
      local slice = s:next(10000):retain()
      s:close()
      local running = rille.spawn(function() return pool:call("work", "hold", "gate", slice) end)
      await(function() return work.is_open "in-gate" end)
      local queued = rille.spawn(function() return pool:call("work", "echo", slice) end)
      await(function() return pool:stats().queued == 1 end)
      slice:release()
      queued:cancel()
      equal(select(2, queued:join()), "cancelled")
      equal(pool:stats().queued, 0) equal(pool:stats().lost, 0)
      running:cancel()
      equal(select(2, running:join()), "cancelled")
      equal(pool:stats().lost, 1) equal(LinkBuffer.stats().blocks_in_use, 1)
      work.open "gate"
      await(function() return pool:stats().busy == 0 end)
      equal(pool:stats().abandoned, 2) equal(pool:stats().done, 0)
      await(function() return LinkBuffer.stats().blocks_in_use == 0 end)
    ]], "{ max = 1 }")
  end)

  it("tells on_error when it fails without its caller", function()
    check([[
      equal(select(2, pool:with { timeout = 0.02 }:call("work", "hold_and_fail", "gate")), "timeout")
      equal(TOLD, nil)
      work.open "gate"
      await(function() return TOLD end)
      equal(TOLD, "work.hold_and_fail") equal(pool:stats().failed, 0)
    ]], "{ max = 1, on_error = function(_, _, job) TOLD = job end }")
  end)
end)
