-- Jobs that read and write while they run: pool:stream.

local server = require "spec.support.server"
local support = require "spec.support.pool"

local WORK = [[
local M = {}
function M.copy(input, output)
  local n = 0
  while true do
    local s, err = input:read()
    if not s then return n, err end
    n = n + s:len()
    local ok, why = output:write(s)
    if not ok then return n, "write: " .. why end
    input:release()
  end
end
function M.count(input) local n = 0 for s in function() return (input:read()) end do n = n + s:len() input:release() end return n end
function M.upper(input, output, prefix)
  local lines = 0
  while true do
    local line = input:read_line()
    if not line then return lines end
    lines = lines + 1
    output:write(prefix .. line:str():upper() .. "\n")
    input:release()
  end
end
function M.first(input, output) output:write(input:read_until(";")) return input:len() end
function M.partial(input) local s, err, rest = input:next(100) return s, err, rest and rest:str() end
function M.hoard(input) while true do local s, err = input:read() if not s then return err end end end
function M.long(input) input:peek(1) return input:next(2 ^ 20) end -- when what is fed has come
function M.flood(_, output)
  local n = 0
  while true do
    local ok, err = output:send(("z"):rep(10000))
    if not ok then return n, err end
    n = n + 1
  end
end
function M.fail(input, output) output:write "before " input:read() error "on purpose" end
function M.keep(input) KEPT = input return true end
function M.kept() return KEPT:read() end
function M.numbers(_, output) output:write_u16(258) output:write_varint(300) output:pack(">I4", 7) end
return M
]]

local function check(code, opts, options)
  server.write("swork.lua", WORK)
  return support.check(code, opts, options)
end

describe("a streaming job", function()
  after_each(server.cleanup)

  it("reads and writes what it is given", function()
    check [[
      local out = LinkBuffer.new()
      equal(pool:stream("swork", "upper", { input = "one\r\ntwo\n", output = out }, "> "), 2)
      equal(out:read_string(out:len()), "> ONE\n> TWO\n")
      local from = LinkBuffer.new()
      from:write(("x"):rep(100000)) from:flush()
      equal(pool:stream("swork", "copy", { input = from, output = out }), 100000)
      equal(from:len(), 0) equal(out:len(), 100000)
      pool:stream("swork", "numbers", { output = out })
      out:skip(100000)
      equal(out:read_string(out:len()), "\1\2\172\2\0\0\0\7")
      from:close() out:close()
    ]]
  end)

  it("takes its input from a function, and gives its output to one, as they come", function()
    check [[
      local fed, got, most = 0, 0, 0
      local n = pool:stream("swork", "copy", {
        limit = 65536,
        input = function(room)
          if fed == 2 ^ 24 then return nil end
          fed = fed + 4096
          most = math.max(most, fed - got)
          return ("y"):rep(4096)
        end,
        output = function(part) got = got + part:len() end,
      })
      equal(n, 2 ^ 24) equal(got, 2 ^ 24)
      assert(most <= 4 * 65536, most) -- the limit each way, and what is being passed on
    ]]
  end)

  it("lets others run, however fast it takes what a function gives", function()
    check [[
      local ticks, fed, done = 0, 0, false
      local ticker = rille.spawn(function() while not done do rille.yield() ticks = ticks + 1 end end)
      local bytes = ("y"):rep(4096)
      local n = pool:stream("swork", "count", {
        limit = 65536,
        input = function()
          if fed == 2 ^ 24 then return nil end
          fed = fed + 4096
          return bytes
        end,
      })
      done = true
      ticker:join()
      equal(n, 2 ^ 24)
      assert(ticks >= 2 ^ 24 / 65536 - 1, ticks)
    ]]
  end)

  it("does not run ahead of an output that nobody takes", function()
    check [[
      local gate, taken = rille.semaphore(0), 0
      local task = rille.spawn(function()
        return pool:stream("swork", "flood", { limit = 65536, output = function(part)
          taken = taken + part:len()
          gate:acquire()
          return nil, "closed"
        end })
      end)
      await(function() return taken > 0 end)
      rille.sleep(0.05)
      assert(taken < 2 ^ 18, taken)
      gate:release()
      local n, err = task:join()
      equal(err, "closed") assert(n < 100, n)
    ]]
  end)

  it("speaks to a connection", function()
    check [[
      local a, z = rille.pair()
      local SIZE = 3 * 2 ^ 20
      rille.spawn(function()
        for i = 1, SIZE / 65536 do z:write(string.char(i):rep(65536)) end
        z:shutdown "write"
      end)
      local job = rille.spawn(function() return pool:stream("swork", "copy", a) end)
      for i = 1, SIZE / 65536 do
        local s = z:next(65536)
        equal(s:byte(1), i) equal(s:byte(-1), i)
        z:release()
      end
      local n, err = job:join()
      equal(n, SIZE) equal(err, "closed")
      equal(a:is_active(), false)
      a:close() z:close()
    ]]
  end)

  it("leaves to a connection what came after it", function()
    check [[
      local a, z = rille.pair()
      z:send "first;"
      equal(pool:stream("swork", "first", a), 0)
      equal(z:read_string(6), "first;")
      z:send "second"
      equal(a:read_string(6), "second")
      a:close() z:close()
    ]]
  end)

  it("hears of a connection that is reset, in both directions", function()
    check [[
      local a, z = rille.pair()
      local job = rille.spawn(function() return pool:stream("swork", "flood", a) end)
      z:read() z:abort()
      local n, err = job:join()
      assert(n and n < 2000, n) assert(err == "closed" or err == "reset", err)
      a:close()
    ]]
  end)

  it("has limits", function()
    check [[
      local s, err, rest = pool:stream("swork", "long", { limit = 1000, input = ("x"):rep(5000) })
      equal(s, nil) equal(err, "too large") equal(rest:len(), 5000)
      rest:release()
      local source = function() return ("x"):rep(500) end
      equal(pool:stream("swork", "hoard", { limit = 10000, input = source }), "too large")
      local a, b, c = pool:stream("swork", "partial", { input = "short" })
      equal(a, nil) equal(b, "closed") equal(c, "short")
    ]]
  end)

  it("gives its error to the caller, and its output before", function()
    check([[
      local out = LinkBuffer.new()
      local ok, err, trace = pool:stream("swork", "fail", { input = "x", output = out })
      equal(ok, nil) assert(err:find("swork.lua:%d+: on purpose$"), err)
      assert(trace:find("stack traceback", 1, true))
      equal(out:read_string(out:len()), "before ")
      out:close()
      equal(pool:stream("swork", "keep", {}), true)
      local s, why = pool:call("swork", "kept")
      equal(s, nil) equal(why, "closed")
    ]], "{ max = 1 }", { errors = true })
  end)

  it("ends with its deadline, or its caller, and frees the worker", function()
    check([[
      local a, z = rille.pair()
      local n, err = pool:with({ timeout = 0.05 }):stream("swork", "copy", a)
      equal(n, nil) equal(err, "timeout")
      await(function() return pool:stats().busy == 0 end)
      local task = rille.spawn(function() pool:stream("swork", "copy", a) end)
      await(function() return pool:stats().busy == 1 end)
      task:cancel()
      task:join()
      await(function() return pool:stats().busy == 0 end)
      z:send "still mine"
      equal(a:read_string(10), "still mine")
      a:close() z:close()
    ]], "{ max = 1 }")
  end)

  it("ends when its source or sink raises", function()
    check([[
      local n, err = pool:stream("swork", "copy", { input = function() error "no source" end })
      equal(n, 0) equal(err, "error")
      n, err = pool:stream("swork", "flood", { output = function() error "no sink" end })
      equal(err, "error")
      raises("there is no option 'inpt'", pool.stream, pool, "swork", "copy", { inpt = 1 })
      raises("bad argument #3 to 'stream'", pool.stream, pool, "swork", "copy")
      raises("input: a connection, function, LinkBuffer, slice or string expected, got number", pool.stream, pool, "swork", "copy",
        { input = 5 })
    ]], nil, { errors = true })
  end)

  it("is told of the end of the run", function()
    check [[
      local a = rille.pair()
      KEEP = a
      rille.spawn(function() pool:stream("swork", "copy", a) end)
      await(function() return pool:stats().busy == 1 end)
    ]]
  end)

  it("runs many at a time", function()
    check([[
      local tasks = {}
      for i = 1, 24 do
        tasks[i] = rille.spawn(function()
          local fed, got = 0, 0
          local n = pool:stream("swork", "copy", {
            limit = 5000,
            input = function(room) fed = fed + 1 if fed <= 300 then return ("x"):rep(1 + (fed * i) % 3000) end end,
            output = function(part) got = got + part:len() end,
          })
          equal(n, got)
          return got
        end)
      end
      for i = 1, 24 do
        local want = 0
        for k = 1, 300 do want = want + 1 + (k * i) % 3000 end
        equal(tasks[i]:join(), want)
      end
    ]], "{ max = 4 }", { seconds = 40 })
  end)
end)
