-- Time and descriptors: sleep, after, every, wait, now. Each case runs in a loop of its own, in a process of its own.

local inside = require "spec.support.inside"

-- Descriptors for the pieces: pipes and their ends.
local PIPES = [[
  local ffi = require "ffi"
  ffi.cdef "int piece_pipe(int *, int) __asm__(\"pipe2\"); int piece_close(int) __asm__(\"close\");"
  ffi.cdef "long piece_write(int, const char *, size_t) __asm__(\"write\"); long piece_read(int, char *, size_t) __asm__(\"read\");"
  local close = ffi.C.piece_close
  local function pipe()
    local fds = ffi.new("int[2]")
    assert(ffi.C.piece_pipe(fds, 0x80800) == 0) -- CLOEXEC, NONBLOCK
    return fds[0], fds[1]
  end
  local function put(fd, bytes) return tonumber(ffi.C.piece_write(fd, bytes, #bytes)) end
  local function take(fd)
    local room = ffi.new("char[100]")
    local n = tonumber(ffi.C.piece_read(fd, room, 100))
    return ffi.string(room, n > 0 and n or 0)
  end
]]

describe("rille.sleep", function()
  after_each(inside.cleanup)

  it("is never early, and not much late", function()
    inside.check [[
      local spinner = rille.spawn(function() while true do rille.yield() end end) -- many short turns
      local worst = 0
      for i = 1, 60 do
        local s = i % 7 / 1000
        local from = clock()
        rille.sleep(s)
        local took = clock() - from
        if took < s then error(("slept %.6f of %.6f s"):format(took, s)) end
        if took - s > worst then worst = took - s end
      end
      if worst > 0.2 * SLOW then error("late by " .. worst) end
      spinner:cancel()
    ]]
  end)

  it("wakes in the order of the times", function()
    local r = inside.check [[
      local list = {}
      local tasks = {}
      for i, ms in ipairs { 30, 10, 20, 0, 10 } do
        tasks[i] = rille.spawn(function()
          rille.sleep(ms / 1000)
          list[#list + 1] = ms .. "/" .. i
        end)
      end
      for _, t in ipairs(tasks) do t:join() end
      print(table.concat(list, " "))
    ]]
    assert.equal("0/4 10/2 10/5 20/3 30/1\n", r.out)
  end)

  it("counts from the call, not from the beginning of the turn", function()
    inside.check [[
      rille.sleep(0.001)
      local till = clock() + 0.02
      while clock() < till do end
      local from = clock()
      rille.sleep(0.01)
      if clock() - from < 0.0099 then error("slept " .. clock() - from) end
    ]]
  end)

  it("takes 0, fractions and times without end", function()
    inside.check [[
      rille.sleep(0)
      rille.sleep(1e-9)
      local t = rille.spawn(rille.sleep, math.huge)
      local u = rille.spawn(rille.sleep, 1e12)
      rille.sleep(0.01)
      equal(t:is_done(), false) equal(u:is_done(), false)
      t:cancel() u:cancel()
      t:join() u:join()
    ]]
  end)

  it("raises for what is no time, at the caller's line", function()
    inside.check [[
      for _, s in ipairs { -1, 0/0, -0.001, "x", {}, true } do
        local err = raises("bad argument to 'sleep' (seconds, 0 or more, expected, got", function()
          rille.sleep(s)
        end)
        equal(err:match(":(%d+):"), "4")
      end
      raises("bad argument to 'sleep'", function() rille.sleep() end)
    ]]
  end)

  it("holds 10,000 tasks at once", function()
    inside.check [[
      local woken = 0
      local tasks = {}
      local from = clock()
      for i = 1, 10000 do
        tasks[i] = rille.spawn(function()
          rille.sleep(0.2 + i % 100 / 1000)
          woken = woken + 1
        end)
      end
      turns(2)
      equal(rille.loop.stats().watches, 10000)
      for i = 1, 10000 do tasks[i]:join() end
      equal(woken, 10000)
      equal(rille.loop.stats().watches, 0)
      local took = clock() - from
      if took > 5 * SLOW then error("took " .. took) end
    ]]
  end)
end)

describe("rille.after", function()
  after_each(inside.cleanup)

  it("calls a function once, in a task of its own that may park", function()
    inside.check [[
      local from, calls, took = clock(), 0
      local timer = rille.after(0.01, function(...)
        equal(select("#", ...), 0)
        took = clock() - from
        rille.sleep(0.005)
        calls = calls + 1
      end)
      rille.sleep(0.05)
      equal(calls, 1)
      if took < 0.01 then error("early: " .. took) end
      equal(timer:cancel(), false)
    ]]
  end)

  it("can be cancelled before", function()
    inside.check [[
      local timer = rille.after(0.005, function() error "called" end)
      equal(timer:cancel(), true)
      equal(timer:cancel(), false)
      rille.sleep(0.02)
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("can be cancelled in the turn in which it is due", function()
    inside.check [[
      local second
      rille.after(0.01, function() equal(second:cancel(), true) end)
      second = rille.after(0.01, function() error "called" end)
      local till = clock() + 0.02
      while clock() < till do end
      rille.sleep(0.01)
    ]]
  end)

  it("logs an error of the function", function()
    local r = inside.check([[
      local function fails() error "in the timer" end
      rille.after(0, fails)
      rille.sleep(0.01)
    ]], { errors = true })
    assert.truthy(r.err:find("timer failed: [^\n]*:2: in the timer"))
    assert.truthy(r.err:find("traceback", 1, true))
  end)

  it("raises for wrong arguments, at the caller's line", function()
    inside.check [[
      for _, name in ipairs { "after", "every" } do
        local err = raises("bad argument #2 to '" .. name .. "' (function expected, got nil)", function()
          rille[name](1)
        end)
        equal(err:match(":(%d+):"), "4")
        err = raises("bad argument to '" .. name .. "' (seconds, 0 or more, expected, got nil)", function()
          rille[name](nil, print)
        end)
        equal(err:match(":(%d+):"), "8")
      end
    ]]
  end)
end)

describe("rille.every", function()
  after_each(inside.cleanup)

  it("calls again and again, until it is cancelled", function()
    inside.check [[
      local calls, timer = 0
      timer = rille.every(0.002, function()
        calls = calls + 1
        if calls == 5 then equal(timer:cancel(), true) end
      end)
      local limit = clock() + 5 * SLOW
      while calls < 5 and clock() < limit do rille.sleep(0.002) end
      rille.sleep(0.02)
      equal(calls, 5)
      equal(timer:cancel(), false)
      equal(rille.loop.stats().watches, 0)
    ]]
  end)

  it("waits for the function: its calls never overlap", function()
    inside.check [[
      local running, calls, last = 0, 0
      local timer = rille.every(0.001, function()
        running = running + 1
        equal(running, 1)
        if last and clock() - last < 0.001 then error "no pause between" end
        rille.sleep(0.01)
        last = clock()
        running = running - 1
        calls = calls + 1
      end)
      local limit = clock() + 5 * SLOW
      while calls < 4 and clock() < limit do rille.sleep(0.002) end
      equal(calls, 4)
      timer:cancel()
    ]]
  end)

  it("goes on after an error, which is logged", function()
    local r = inside.check([[
      local calls = 0
      local timer = rille.every(0.001, function()
        calls = calls + 1
        error "again"
      end)
      local limit = clock() + 5 * SLOW
      while calls < 3 and clock() < limit do rille.sleep(0.001) end
      timer:cancel()
      equal(calls >= 3, true)
    ]], { errors = true })
    local _, times = r.err:gsub("timer failed", "")
    assert.truthy(times >= 3)
  end)

  it("takes 0 for as often as there is a turn, without starving others", function()
    inside.check [[
      local calls = 0
      local timer = rille.every(0, function() calls = calls + 1 end)
      rille.sleep(0.02)
      timer:cancel()
      equal(calls > 1, true)
    ]]
  end)

  it("ends with the loop", function()
    inside.check [[
      rille.every(0.001, function() end)
      rille.every(0.001, function() rille.sleep(60) end)
      rille.sleep(0.01)
    ]]
  end)
end)

describe("rille.wait", function()
  after_each(inside.cleanup)

  it("parks until a pipe is readable", function()
    inside.check(PIPES .. [[
      local r, w = pipe()
      local got
      local t = rille.spawn(function()
        local ok, err = rille.wait(r, "r")
        return ok, err, take(r)
      end)
      turns(3)
      equal(t:is_done(), false)
      put(w, "hello")
      local ok, err, text = t:join()
      equal(ok, true) equal(err, nil) equal(text, "hello")
      close(r) close(w)
    ]])
  end)

  it("parks until a pipe is writable", function()
    inside.check(PIPES .. [[
      local r, w = pipe()
      equal(rille.wait(w, "w"), true)
      local chunk = ("x"):rep(4096)
      while put(w, chunk) > 0 do end
      local t = rille.spawn(function() return rille.wait(w, "w") end)
      turns(3)
      equal(t:is_done(), false)
      local room = ffi.new("char[65536]")
      ffi.C.piece_read(r, room, 65536)
      equal(t:join(), true)
      equal(rille.wait(w, "rw"), true)
      close(r) close(w)
    ]])
  end)

  it("reports the end of a pipe as ready", function()
    inside.check(PIPES .. [[
      local r, w = pipe()
      local t = rille.spawn(function() return rille.wait(r, "r", 5 * SLOW) end)
      turns(2)
      close(w)
      equal(t:join(), true) equal(take(r), "")
      close(r)
    ]])
  end)

  it("gives nil, \"timeout\" after the time, not before", function()
    inside.check(PIPES .. [[
      local r, w = pipe()
      local from = clock()
      local ok, err = rille.wait(r, "r", 0.01)
      if clock() - from < 0.01 then error "early" end
      equal(ok, nil) equal(err, "timeout")
      ok, err = rille.wait(r, "r", 0)
      equal(ok, nil) equal(err, "timeout")
      put(w, "x")
      equal(rille.wait(r, "r", 0.01), true)
      equal(rille.wait(r, "r"), true)
      equal(rille.loop.stats().watches, 0)
      close(r) close(w)
    ]])
  end)

  it("is one task's at a time: the second gets \"busy\"", function()
    inside.check(PIPES .. [[
      local r, w = pipe()
      local t = rille.spawn(function() return rille.wait(r, "r") end)
      turns(2)
      local ok, err = rille.wait(r, "r", 1)
      equal(ok, nil) equal(err, "busy")
      put(w, "x")
      equal(t:join(), true)
      equal(rille.wait(r, "r", 1), true)
      close(r) close(w)
    ]])
  end)

  it("gives an error for what cannot be waited for", function()
    inside.check(PIPES .. [[
      local ok, err = rille.wait(-1, "r")
      equal(ok, nil) equal(err, "invalid argument")
      ok, err = rille.wait(9999, "r")
      equal(ok, nil) equal(err, "invalid argument")
      ok, err = rille.adopt(9999)
      equal(ok, nil) equal(err, "invalid argument")
      raises("bad argument to 'wait'", function() rille.wait(0, "x") end)
      raises("bad argument to 'wait'", function() rille.wait("0", "r") end)
      raises("bad argument to 'wait'", function() rille.wait(0.5, "r") end)
      raises("bad argument #1 to 'adopt'", function() rille.adopt(1.5) end)
      raises("bad argument #1 to 'adopt'", function() rille.adopt("1") end)
      raises("bad argument to 'wait' (seconds", function() rille.wait(0, "r", "soon") end)
      equal(rille.loop.stats().watches, 0)
    ]])
  end)
end)

describe("rille.now", function()
  after_each(inside.cleanup)

  it("is that of the turn; rille.time is that of the moment, since 1970", function()
    inside.check [[
      rille.yield()
      local now, time = rille.now(), rille.time()
      local till = clock() + 0.01
      while clock() < till do end
      equal(rille.now(), now)
      if rille.time() - time < 0.009 then error "time stands still" end
      if math.abs(rille.time() - os.time()) > 2 then error "not since 1970" end
      rille.yield()
      if rille.now() - now < 0.01 then error "now stands still" end
      if math.abs(rille.now() - clock()) > 1 * SLOW then error "another clock" end
    ]]
  end)

  it("works without a loop", function()
    local r = inside.run([[
      local a = rille.now()
      local till = clock() + 0.002
      while clock() < till do end
      assert(rille.now() - a >= 0.002)
      assert(math.abs(rille.time() - os.time()) < 2)
    ]], { how = "plain" })
    assert.equal(0, r.status, r.err)
  end)
end)
