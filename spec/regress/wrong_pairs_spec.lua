-- LuaJIT of 2022, which Debian 12 has, compiles walks over tables wrongly: one ended early, or a pointer was cut to 32 bits and the
-- server crashed. lua/rille/pairs.lua keeps pairs() and next() out of compiled code there.

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local net = require "spec.support.net"

-- How many walks of walk() came to their end. A compiled walk inside another, and the interpreter in between: when LuaJIT has tried the
-- outer one for so long that it gives up, which is after 38,000 to 44,000 rounds, that ends after one of its two keys.
local WALK = [[
local inner = { 1 }
local outer = { a = inner, b = inner }
local function leave(...) for _ = 1, 100 do end end
local function walk()
  local whole = 0
  for _ = 1, 100000 do
    leave()
    local count = 0
    for _, t in pairs(outer) do
      for _ in pairs(t) do end
      count = count + 1
    end
    if count == 2 then whole = whole + 1 end
  end
  return whole
end
]]
local WHOLE = "100000"

-- What LuaJIT does, the one that runs servers, without Rille.
local function is_wrong()
  local file = server.write("stock.lua", WALK .. "print(walk())")
  local pipe = assert(io.popen((os.getenv "RILLE_LUAJIT" or "luajit") .. " " .. file))
  local out = pipe:read("*a")
  pipe:close()
  return out ~= WHOLE .. "\n"
end

describe("a walk over a table", function()
  after_each(inside.cleanup)

  it("is LuaJIT's own affair unless it gets walks wrong", function()
    local result = inside.check([[
      local mended = not require("rille.pairs").is_stock
      equal(mended, jit.version:find("2.1.0-beta", 1, true) ~= nil)
      equal(pcall(string.dump, pairs), mended) -- LuaJIT's are no Lua
      equal(pairs {}, next)
      io.write(tostring(mended))
    ]])
    if is_wrong() then assert.equal("true", result.out) end
  end)

  it("comes to its end in a handler and in a worker", function()
    local module = server.write("walker.lua", WALK .. "return { walk = walk }")
    local s = server.start(([[
      package.path = %q .. package.path
      local rille = require "rille"
      %s
      return function(conn)
        local how = conn:read_line():str()
        conn:write(tostring(how == "here" and walk() or rille.pool("p"):call("walker", "walk")) .. "\n")
      end
    ]]):format(module:match("^(.*/)") .. "?.lua;", WALK), { name = "walks" })
    local client = s:connect()
    for _, how in ipairs { "here", "worker" } do
      client:send(how .. "\n")
      assert.equal(WHOLE, client:receive_line(20 * net.slow))
    end
  end)

  it("comes to its end in a program that loads the library", function()
    assert.equal(WHOLE, inside.check(WALK .. "io.write(walk())", { how = "plain", seconds = 30 }).out)
    assert.equal(WHOLE, inside.check(WALK .. "io.write(walk())", { seconds = 30 }).out)
  end)

  it("stays mended when a test runner puts back the globals as they were before a file", function()
    local file = server.write("runner.lua", ([[
      package.path = %q .. package.path
      local real_next, real_pairs = next, pairs
      local is_stock = require("rille.pairs").is_stock
      next, pairs = real_next, real_pairs
      package.loaded["rille.pairs"] = nil
      require "rille.pairs"
      print((next == real_next) == is_stock, (pairs == real_pairs) == is_stock, pairs {} == next)
    ]]):format(server.root .. "/lua/?.lua;" .. server.root .. "/lua/?/init.lua;"))
    local pipe = assert(io.popen((os.getenv "RILLE_LUAJIT" or "luajit") .. " " .. file))
    assert.equal("true\ttrue\ttrue\n", pipe:read("*a"))
    pipe:close()
  end)

  it("is what it was otherwise", function()
    inside.check([[
      local ffi = require "ffi"
      local function same(list, want)
        local got = {}
        for key, value in pairs(list) do got[#got + 1] = tostring(key) .. "=" .. tostring(value) end
        table.sort(got)
        equal(table.concat(got, " "), want)
      end
      same({}, "")
      same({ 1, 2, nil, 4, x = false, [true] = "t" }, "1=1 2=2 4=4 true=t x=false")

      equal(select("#", pairs({})), 3)
      equal(select("#", next({})), 1)
      equal(next({}), nil)
      local key, value = next({ 7 }, nil, "surplus")
      equal(key, 1) equal(value, 7)
      equal(next({ 7 }, 1), nil)
      local seen = 0
      for i in next, { 1, 2, 3 } do seen = seen + i end
      equal(seen, 6)

      local t = {}
      for i = 1, 1000 do t[i], t["k" .. i] = i, i end
      for k in pairs(t) do t[k] = nil end -- the only change that is allowed on the way
      equal(next(t), nil)

      local function line_of(fn)
        local ok, err = pcall(fn)
        equal(ok, false)
        return (err:gsub("^.-:%d+: ", "HERE: "))
      end
      equal(line_of(function() for _ in pairs(nil) do end end), "HERE: bad argument #1 to 'pairs' (table expected, got nil)")
      equal(line_of(function() local x = next(5) return x end), "HERE: bad argument #1 to 'next' (table expected, got number)")
      equal(line_of(function() local x = next({}, "x") return x end), "invalid key to 'next'")

      -- what is no table may say how it is walked, and park in there
      local Pair = ffi.metatype("struct { int a, b; }", {
        __pairs = function(self)
          rille.yield()
          return function(_, k)
            if not k then return "a", self.a end
            if k == "a" then return "b", self.b end
          end, self, nil
        end,
      })
      same(Pair(3, 4), "a=3 b=4")

      seen = 0
      local ok = table.foreach == nil or table.foreach({ a = 1, b = 2 }, function(_, v) seen = seen + v end)
      equal(ok == true or seen == 3, true)
    ]])
  end)
end)
