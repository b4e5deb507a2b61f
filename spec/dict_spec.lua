-- rille.dict: memory that all Lua states of a process share. It needs no loop; what several do at once has servers of its own.

local LinkBuffer = require "rille.linkbuffer"
local rille = require "rille"
local server = require "spec.support.server"
local net = server.net

local now = require("rille.core").rille_now

local count = 0

-- A dict that no other spec has.
local function fresh(size)
  count = count + 1
  return rille.dict("spec " .. count, { size = size or "1m" })
end

-- The error that fn raises, without the place, which has to be in this file.
local function raised(fn, ...)
  local ok, err = pcall(fn, ...)
  assert.is_false(ok)
  local message = err:match("dict_spec%.lua:%d+: (.*)$")
  assert.truthy(message, "it points elsewhere: " .. err)
  return message
end

local function wait_until_gone(d, key)
  assert.is_true(net.poll_until(function() return d:get(key) == nil end))
end

local function slice_of(text)
  local buf = LinkBuffer.new()
  buf:write(text)
  buf:flush()
  return buf:next(#text), buf
end

describe("a dict", function()
  after_each(server.cleanup)

  describe("keeps", function()
    it("strings, numbers and booleans as they are", function()
      local d = fresh()
      for _, value in ipairs { "", "text", "a\0b\255", ("x"):rep(70000), 0, -0.1, 2 ^ 53, 1e308, math.huge, true, false } do
        assert.same({ true, nil, false, n = 3 }, { n = 3, d:set("key", value) })
        assert.equal(value, (d:get("key")))
      end
      d:set("nan", 0 / 0)
      local nan = d:get("nan")
      assert.is_true(nan ~= nan)
      assert.equal(-math.huge, 1 / (function() d:set("key", -0.0) return d:get("key") end)())
    end)

    it("values of every length around the size of its cells", function()
      local d = fresh()
      local bytes = net.noise(2000)
      for key_size = 1, 300, 23 do
        local key = ("k"):rep(key_size)
        for size = 0, 700 do
          d:set(key, bytes:sub(1, size))
          if d:get(key) ~= bytes:sub(1, size) then error(("%d bytes under a key of %d"):format(size, key_size)) end
        end
        for size = 700, 0, -7 do
          d:set(key, bytes:sub(-size))
          if d:get(key) ~= bytes:sub(-size) then error(("%d bytes under a key of %d"):format(size, key_size)) end
        end
      end
    end)

    it("any bytes as keys, up to 65535 of them", function()
      local d = fresh()
      local keys = { "\0", "\0\0", "a", "a\0", "a\0b", ("k"):rep(65534), ("k"):rep(65535) }
      for i, key in ipairs(keys) do assert(d:set(key, i)) end
      for i, key in ipairs(keys) do assert.equal(i, d:get(key)) end
      local found = d:keys()
      table.sort(found)
      assert.same(keys, found)
    end)

    it("flags beside a value", function()
      local d = fresh()
      d:set("key", "v", 0, 4294967295)
      assert.same({ "v", 4294967295 }, { d:get("key") })
      d:set("key", "v")
      assert.equal(1, select("#", d:get("key")))
      d:set("key", false, 0, 5)
      assert.same({ false, 5 }, { d:get("key") })
      d:set("long", ("v"):rep(100000), 0, 6)
      assert.equal(6, select(2, d:get("long")))
    end)

    it("what it was given as a slice, and finds it by one, without making a string of it", function()
      local d = fresh()
      local key = slice_of "the key"
      local value = slice_of(("value"):rep(1000))
      assert(d:set(key, value))
      assert.equal(("value"):rep(1000), d:get("the key"))
      assert.equal(("value"):rep(1000), d:get(key))
      assert.equal(1, d:rpush("list", key))
      assert.equal("the key", d:lpop("list"))
      assert.is_true(d:delete(key))
      assert.is_nil(d:get("the key"))
      local gone, buf = slice_of "gone"
      buf:close()
      assert.matches("slice expired", raised(function() d:get(gone) end))
      assert.matches("slice expired", raised(function() d:set("key", gone) end))
    end)
  end)

  it("tells what is not there by nil alone", function()
    local d = fresh()
    assert.equal(1, select("#", d:get("key")))
    assert.is_nil(d:get("key"))
  end)

  it("removes with delete, and with set of nil", function()
    local d = fresh()
    d:set("key", 1)
    assert.is_true(d:delete("key"))
    assert.is_nil(d:get("key"))
    d:set("key", 1)
    assert.is_true(d:set("key", nil))
    assert.is_nil(d:get("key"))
    assert.is_true(d:delete("key"))
  end)

  it("adds only what is not there, replaces only what is", function()
    local d = fresh()
    assert.same({ nil, "not found", false, n = 3 }, { n = 3, d:replace("key", 1) })
    assert.is_nil(d:get("key"))
    assert.is_true(d:add("key", 1))
    assert.same({ nil, "exists", false, n = 3 }, { n = 3, d:add("key", 2) })
    assert.equal(1, d:get("key"))
    assert.is_true(d:replace("key", 3))
    assert.equal(3, d:get("key"))
    d:set("short", 1, 0.001)
    wait_until_gone(d, "short")
    assert.equal("not found", select(2, d:replace("short", 1)))
    assert.is_true(d:add("short", 1))
  end)

  describe("incr", function()
    it("adds to a number, of any sign and size", function()
      local d = fresh()
      d:set("n", 1)
      assert.equal(3, d:incr("n", 2))
      assert.equal(-7.5, d:incr("n", -10.5))
      assert.equal(-7.5, d:get("n"))
    end)

    it("says when there is none", function()
      local d = fresh()
      assert.same({ nil, "not found", false, n = 3 }, { n = 3, d:incr("n", 1) })
      for _, value in ipairs { "1", true, "text" } do
        d:set("n", value)
        assert.same({ nil, "not a number", false, n = 3 }, { n = 3, d:incr("n", 1) })
        assert.same({ nil, "not a number", false, n = 3 }, { n = 3, d:incr("n", 1, 0) })
        assert.equal(value, d:get("n"))
      end
      d:delete("n")
      d:rpush("n", 1)
      assert.equal("not a number", select(2, d:incr("n", 1)))
    end)

    it("begins at init, for init_ttl seconds", function()
      local d = fresh()
      assert.same({ 12, nil, false, n = 3 }, { n = 3, d:incr("n", 2, 10) })
      assert.equal(14, d:incr("n", 2, 10))
      assert.equal(0, d:ttl("n"))
      assert.equal(1, d:incr("short", 1, 0, 0.02))
      assert.equal(2, d:incr("short", 1, 0, 1000)) -- the time of a number that is there stays
      assert.is_true(d:ttl("short") <= 0.02)
      wait_until_gone(d, "short")
      assert.equal(1, d:incr("short", 1, 0, "5m"))
      assert.is_true(d:ttl("short") > 299)
    end)
  end)

  describe("forgets", function()
    it("what has expired, and not before", function()
      local d = fresh()
      local from = now()
      d:set("key", "v", 0.02)
      d:set("other", "v")
      wait_until_gone(d, "key")
      assert.is_true(now() - from >= 0.02)
      assert.equal("v", d:get("other"))
      assert.same({ "other" }, d:keys())
      d:set("key", 1, 1e-7)
      wait_until_gone(d, "key")
    end)

    it("says how long it is to go", function()
      local d = fresh()
      d:set("key", 1, 100)
      local left = d:ttl("key")
      assert.is_true(left > 99 and left <= 100)
      d:set("key", 1)
      assert.equal(0, d:ttl("key"))
      assert.same({ nil, "not found" }, { d:ttl("none") })
      d:set("key", 1, math.huge)
      assert.equal(0, d:ttl("key"))
    end)

    it("at another time when told so by expire and touch", function()
      local d = fresh()
      d:set("key", 1)
      assert.is_true(d:expire("key", 50))
      assert.is_true(d:ttl("key") > 49)
      assert.is_true(d:touch("key"))
      assert.is_true(d:ttl("key") > 49)
      assert.is_true(d:touch("key", "2h"))
      assert.is_true(d:ttl("key") > 7199)
      assert.is_true(d:expire("key", 0))
      assert.equal(0, d:ttl("key"))
      assert.is_true(d:expire("key", 0.001))
      wait_until_gone(d, "key")
      assert.same({ nil, "not found" }, { d:expire("key", 1) })
      assert.same({ nil, "not found" }, { d:touch("key") })
    end)

    it("everything with flush, and has all its room again", function()
      local d = fresh()
      local free = d:free_space()
      for i = 1, 3000 do d:set("key " .. i, ("v"):rep(i % 200), i % 7) end
      d:rpush("list", "item")
      assert.is_true(d:free_space() < free)
      d:flush()
      assert.same({}, d:keys(0))
      assert.is_nil(d:get("key 1"))
      assert.equal(free, d:free_space())
    end)
  end)

  describe("that is full", function()
    it("loses what was not used for longest, and says so", function()
      local d = fresh("256k")
      local forced, last = false, 0
      for i = 1, 10000 do
        local ok, err, others = d:set("key " .. i, ("v"):rep(100))
        assert.is_true(ok)
        assert.is_nil(err)
        forced, last = others, i
        if forced then break end
        if i % 10 == 0 then assert.truthy(d:get("key 1")) end -- this one is used
      end
      assert.is_true(forced)
      assert.is_true(last > 800, "it was full with " .. last)
      for i = last + 1, last + 1000 do
        d:set("key " .. i, ("v"):rep(100))
        assert.truthy(d:get("key 1"))
      end
      assert.is_nil(d:get("key 2"))
      assert.equal(("v"):rep(100), (d:get("key " .. last + 1000)))
    end)

    it("uses what was set aside for it, all of it and no more", function()
      for _, size in ipairs { 16384, 65536, 2 ^ 20, 5000000 } do
        local d = fresh(size)
        assert.equal(size, d:capacity())
        assert.is_true(d:free_space() <= size and d:free_space() >= size * 0.75)
        for i = 1, size / 64 do d:incr("counter of " .. i, 1, 0) end
        -- a counter takes 128 bytes, and the table 2 to 4
        local kept = #d:keys(0)
        assert.is_true(kept * 128 <= size and kept * 128 >= size * 0.75, ("%d counters in %d bytes"):format(kept, size))
      end
    end)

    it("does not take more memory than its size from the system", function()
      local s = server.start([[
local d = rille.dict("d", { size = "32m" })
return function(conn)
  conn:release()
  for i = 1, 100000 do d:set("key " .. i, ("v"):rep(i % 1000)) end
  collectgarbage() collectgarbage()
  conn:write("done\n")
end
]], {})
      local c = s:connect()
      c:send("go")
      assert.equal("done", c:receive_line())
      local before = s:rss()
      for _ = 1, 5 do
        c:send("go")
        assert.equal("done", c:receive_line())
      end
      assert.is_true(s:rss() - before < 4 * 2 ^ 20, ("%.0f more bytes"):format(s:rss() - before))
      local most = net.has_sanitized_servers and 180 or 60
      assert.is_true(s:rss() < most * 2 ^ 20, ("%.0f bytes"):format(s:rss()))
    end)

    it("has room for a value of nearly its size after many small ones, and the other way round", function()
      local d = fresh("1m")
      local large = net.noise(900000)
      for _ = 1, 3 do
        for i = 1, 9000 do d:set("key " .. i, i) end
        local ok, _, forced = d:set("large", large)
        assert.is_true(ok)
        assert.is_true(forced)
        assert.is_true(d:get("large") == large)
      end
      for i = 1, 9000 do assert(d:set("key " .. i, i)) end
      assert.is_true(#d:keys(0) > 7000)
    end)

    it("refuses a value beyond its size, and keeps what it has", function()
      local d = fresh("64k")
      for i = 1, 100 do d:set("key " .. i, i) end
      d:set("key", "old")
      local large = ("v"):rep(65536)
      assert.same({ nil, "no memory", false, n = 3 }, { n = 3, d:set("key", large) })
      assert.same({ nil, "no memory", false, n = 3 }, { n = 3, d:add("other", large) })
      assert.same({ nil, "no memory" }, { d:rpush("list", large) })
      assert.equal("old", d:get("key"))
      assert.equal(101, #d:keys())
    end)

    it("gives the room of what has expired before it takes any other", function()
      local d = fresh("256k")
      for i = 1, 500 do d:set("kept " .. i, i) end -- they are the oldest: without the others' room they would go
      for round = 1, 20 do
        for i = 1, 600 do d:set(("short %d %d"):format(round, i), i, 0.001) end
        assert.is_true(net.poll_until(function() return #d:keys(0) <= 500 end))
      end
      local kept = 0
      for i = 1, 500 do kept = kept + (d:get("kept " .. i) and 1 or 0) end
      assert.is_true(kept >= 490, ("%d of 500"):format(kept)) -- it does not look everywhere for each need
    end)

    it("has the same room after a long time of any sizes", function()
      local d = fresh("300k")
      local free = d:free_space()
      math.randomseed(7)
      for _ = 1, 20000 do
        local size = math.random(100) == 1 and math.random(50000) or math.random(300)
        assert(d:set("key " .. math.random(2000), ("v"):rep(size), math.random(3) == 1 and 0.001 or 0))
      end
      assert.is_true(d:free_space() < free / 4)
      d:flush()
      assert.equal(free, d:free_space())
    end)
  end)

  it("lists its keys, as many as it is asked for", function()
    local d = fresh()
    local all = {}
    for i = 1, 2000 do
      all[i] = ("%04d"):format(i)
      d:set(all[i], i)
    end
    assert.equal(1024, #d:keys())
    assert.equal(10, #d:keys(10))
    local found = d:keys(0)
    table.sort(found)
    assert.same(all, found)
  end)

  it("lists keys longer than it has room for at once", function()
    local d = fresh("4m")
    for i = 1, 30 do d:set(("k"):rep(60000) .. i, i) end
    assert.equal(30, #d:keys())
  end)

  describe("by name", function()
    it("is the same everywhere, and has one size", function()
      local d = rille.dict("spec of names", { size = "64k" })
      d:set("key", 1)
      assert.equal(1, rille.dict("spec of names"):get("key"))
      assert.equal(1, rille.dict("spec of names", { size = 65536 }):get("key"))
      assert.equal(1, rille.dict("spec of names", {}):get("key"))
      assert.equal("dict 'spec of names' has 65536 bytes already, not 131072: give the same size everywhere, or none",
        raised(function() rille.dict("spec of names", { size = "128k" }) end))
      assert.equal("dict 'spec of names'", tostring(d))
    end)

    it("has 16 MiB without a size", function()
      assert.equal(2 ^ 24, rille.dict("spec of the default"):capacity())
    end)

    it("is refused when it is none", function()
      assert.equal("bad argument #1 to 'dict' (a string expected, got nil)", raised(function() rille.dict() end))
      assert.equal("bad argument #2 to 'dict' (a table expected, got string)", raised(function() rille.dict("x", "1m") end))
      assert.equal("bad argument #2 to 'dict': unknown key 'sise'; expected size, or store",
        raised(function() rille.dict("x", { sise = 1 }) end))
      for _, size in ipairs { "lots", 1.5, true, -1, "1k", 1e15 } do
        assert.matches("size", raised(function() rille.dict("x", { size = size }) end))
      end
      for _, name in ipairs { "", "a\0b", ("n"):rep(256) } do
        assert.matches("bad name", raised(function() rille.dict(name) end))
      end
      local d, err = rille.dict("spec of the largest", { size = "256g" })
      if not d then assert.equal("no memory", err) end
    end)
  end)

  it("raises at the caller's line for what it cannot take", function()
    local d = fresh()
    local calls = {
      get = {}, set = { 1 }, add = { 1 }, replace = { 1 }, delete = {}, incr = { 1 }, ttl = {}, expire = { 1 }, touch = {},
      lpush = { 1 }, rpush = { 1 }, lpop = {}, rpop = {}, llen = {},
    }
    for name, more in pairs(calls) do
      for _, key in ipairs { 1, true, {}, false } do
        assert.equal(("bad key to '%s' (a string or a slice expected, got %s)"):format(name, type(key)),
          raised(function() d[name](d, key, unpack(more)) end))
      end
      assert.equal(("bad key to '%s' (a string or a slice expected, got nil)"):format(name), raised(function() d[name](d) end))
      assert.equal(("bad key to '%s' (1 to 65535 bytes expected, got 0)"):format(name), raised(function() d[name](d, "") end))
      assert.matches("got 65536%)$", raised(function() d[name](d, ("k"):rep(65536)) end))
    end
    for _, value in ipairs { {}, print, coroutine.create(print), require("ffi").new("int[1]") } do
      assert.matches("^bad value to 'set' %(a string, slice, number or boolean expected, or nil", raised(function() d:set("k", value) end))
      assert.matches("^bad value to 'lpush'", raised(function() d:lpush("k", value) end))
    end
    assert.matches("^bad value to 'add' %(a string, slice, number or boolean expected, got nil", raised(function() d:add("k", nil) end))
    assert.matches("^bad value to 'replace'", raised(function() d:replace("k", nil) end))
    assert.matches("^bad value type to 'rpush'", raised(function() d:rpush("k", true) end))
    assert.matches("^bad value type to 'rpush'", raised(function() d:rpush("k", nil) end))
    for _, exptime in ipairs { -1, "soon", {}, 0 / 0 } do
      assert.matches("^bad \"exptime\" argument to 'set'", raised(function() d:set("k", 1, exptime) end))
      assert.matches("^bad \"exptime\" argument to 'expire'", raised(function() d:expire("k", exptime) end))
      assert.matches("^bad \"exptime\" argument to 'incr'", raised(function() d:incr("k", 1, 1, exptime) end))
    end
    assert.matches("exptime", raised(function() d:expire("k") end))
    for _, flags in ipairs { -1, 0.5, 2 ^ 32, "1" } do
      assert.matches("^bad \"flags\" argument", raised(function() d:set("k", 1, 0, flags) end))
    end
    assert.equal("bad \"value\" argument to 'incr' (a number expected, got string)", raised(function() d:incr("k", "1") end))
    assert.equal("bad \"init\" argument to 'incr' (a number expected, got string)", raised(function() d:incr("k", 1, "1") end))
    assert.matches("^must provide \"init\"", raised(function() d:incr("k", 1, nil, 5) end))
    assert.matches("^bad argument #1 to 'keys'", raised(function() d:keys(-1) end))
    assert.same({}, d:keys())
  end)

  describe("of a server", function()
    it("is the same on all loops: what two add at once is the exact sum", function()
      local s = server.start([[
local d = rille.dict("counts")
return function(conn)
  local line = conn:read_line()
  if not line then return conn:close() end
  if line == "sum" then return conn:write(("%.0f %.0f\n"):format(d:get("sum"), d:get("loop " .. rille.loop.id))) end
  for i = 1, 1000 do
    d:incr("sum", 1, 0)
    d:incr("loop " .. rille.loop.id, 1, 0)
    if i % 100 == 0 then rille.yield() end
  end
  conn:write("done\n")
end
]], { conf = { loops = 2, dicts = { counts = { size = "64k" } } }, server = { accept = "balanced" } })
      local clients = {}
      for i = 1, 8 do clients[i] = s:connect() end
      for _ = 1, 5 do
        for i = 1, 8 do clients[i]:send("go\n") end
        for i = 1, 8 do assert.equal("done", clients[i]:receive_line()) end
      end
      for i = 1, 2 do
        clients[i]:send("sum\n")
        assert.equal("40000 20000", clients[i]:receive_line())
      end
    end)

    it("is there before its scripts, with the size of the configuration", function()
      local s = server.start([[
local d = rille.dict("early")
say("%d %d", d:capacity(), rille.dict("other"):capacity())
local ok, err = pcall(rille.dict, "early", { size = "1m" })
say("%s %s", tostring(ok), err:match("dict 'early' has.*"))
return print
]], { conf = { dicts = { early = { size = "64k" }, other = {} } } })
      assert.same({ "65536 16777216",
        "false dict 'early' has 65536 bytes already, not 1048576: give the same size everywhere, or none" }, s:wait_said(2))
    end)

    it("is shared by its servers' scripts, and hands values from one connection to the next", function()
      local s = server.start([[
local d = rille.dict("box")
return function(conn)
  local line = conn:read_line()
  if not line then return conn:close() end
  local old = d:get("last")
  d:set("last", line) -- a slice
  conn:write((old or "nothing") .. "\n")
end
]], { conf = { loops = 2 }, server = { accept = "balanced" } })
      local last = "nothing"
      for i = 1, 6 do
        local c = s:connect()
        c:send(("line %d\n"):format(i))
        assert.equal(last, c:receive_line())
        last = ("line %d"):format(i)
      end
    end)
  end)
end)
