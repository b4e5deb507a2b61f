-- rille.bind and rille.lookup: keys of connections, from one loop and from several, through every end of a connection.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local server = require "spec.support.server"

local ROUNDS = tonumber(os.getenv "RILLE_ROUNDS") or 1000

-- Each line is a command; its answer begins with "=". A key is bound to the connection that asks.
local DESK = [[
local core = require "rille.core"
local commands = {}
function commands.bind(conn, key) return rille.bind(key, conn) end
function commands.unbind(conn, key) return rille.unbind(key, conn) end
function commands.bound(conn, n) return rille.bound(conn, tonumber(n)) end
function commands.send(_, key, text)
  local one, err = rille.lookup(key)
  if not one then return nil, err end
  return one:send(text .. "\n")
end
function commands.whose(_, key)
  local one = rille.lookup(key)
  return one and ("%.0f"):format(one.id)
end
function commands.id(conn) return ("%.0f"):format(conn.id) end
function commands.count() return core.rille_binding_count() end
function commands.close(conn) conn:close() end
function commands.abort(conn) conn:abort() end
function commands.shut(conn) return conn:shutdown "write" end
function commands.fail() error "as it should" end
function commands.move(conn, loop)
  conn:write("= true\n")
  assert(conn:move(tonumber(loop)))
end
return {
  on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local what, key, text = line:str():match("^(%S+) ?(%S*) ?(.*)$")
    local results = { commands[what](conn, key, text) }
    if what == "move" then return end
    conn:write("= " .. tostring(results[1]) .. (results[2] and " " .. results[2] or "") .. "\n")
  end,
}
]]

local function start(loops, opts)
  opts = opts or {}
  opts.conf = { loops = loops, limits = opts.bindings and { bindings = opts.bindings } }
  opts.server = { accept = loops > 1 and "balanced" or nil }
  return server.start(DESK, opts)
end

local function enter(s)
  local c = s:connect()
  c.loop = tonumber(c:receive_line())
  return c
end

local function ask(c, line)
  c:send(line .. "\n")
  return (assert(c:receive_line()):match("^= (.*)$"))
end

local function wait_count(c, want)
  assert(net.poll_until(function() return ask(c, "count") == tostring(want) end), "count is " .. ask(c, "count"))
end

describe("rille.bind", function()
  after_each(server.cleanup)

  it("finds a connection of any loop by its key", function()
    local s = start(3)
    local conns = {}
    for i = 1, 6 do
      conns[i] = enter(s)
      assert.equal("true", ask(conns[i], "bind device:" .. i))
    end
    for i, c in ipairs(conns) do
      local to = i % #conns + 1
      assert.equal("true", ask(c, ("send device:%d from %d"):format(to, i)))
      assert.equal("from " .. i, conns[to]:receive_line())
    end
    assert.equal("nil not found", ask(conns[1], "send device:7 x"))
    assert.equal(ask(conns[2], "id"), ask(conns[5], "whose device:2"))
    s:stop()
  end)

  it("gives a key to whoever binds it last, and the end of the one before changes nothing", function()
    local s = start(2)
    local watcher, old, new = enter(s), enter(s), enter(s)
    assert.equal("true", ask(old, "bind device:1"))
    assert.equal("true", ask(old, "bind device:1"))
    assert.equal("device:1", ask(old, "bound"))
    assert.equal("true", ask(new, "bind device:1"))
    assert.equal("nil", ask(old, "bound"))
    assert.equal("device:1", ask(new, "bound"))
    assert.equal("1", ask(watcher, "count"))
    assert.equal(ask(new, "id"), ask(watcher, "whose device:1"))
    assert.equal("false", ask(old, "unbind device:1"))
    assert.equal("true", ask(old, "bind own"))
    old:close()
    wait_count(watcher, 1)
    assert.equal(ask(new, "id"), ask(watcher, "whose device:1"))
    assert.equal("true", ask(new, "unbind device:1"))
    assert.equal("nil", ask(watcher, "whose device:1"))
    assert.equal("false", ask(new, "unbind device:1"))
    assert.equal("0", ask(watcher, "count"))
    s:stop()
  end)

  it("forgets a connection with every way to end", function()
    local s = start(2, { allow_errors = true })
    local watcher = enter(s)
    for _, way in ipairs { "close", "abort", "fail" } do
      local c = enter(s)
      assert.equal("true", ask(c, "bind a"))
      assert.equal("true", ask(c, "bind b"))
      c:send(way .. "\n")
      wait_count(watcher, 0)
      c:close()
    end
    for _, way in ipairs { "close", "reset" } do
      local c = enter(s)
      ask(c, "bind a")
      c[way](c)
      wait_count(watcher, 0)
    end
    s:stop()
  end)

  it("tells which keys are a connection's, in the order of binding", function()
    local s = start(2)
    local c, other = enter(s), enter(s)
    assert.equal("nil", ask(c, "bound"))
    local crowd = {}
    for i = 1, 40 do -- so that tables grow meanwhile
      assert.equal("true", ask(c, "bind key" .. i))
      crowd[i] = enter(s)
      assert.equal("true", ask(crowd[i], "bind crowd" .. i))
    end
    assert.equal("true", ask(c, "bind key3"))
    assert.equal("true", ask(other, "bind key1"))
    assert.equal("true", ask(c, "unbind key2"))
    for _ = 1, 2 do
      for i = 1, 38 do assert.equal("key" .. i + 2, ask(c, "bound " .. i)) end
      assert.equal("nil", ask(c, "bound 39"))
      assert.equal("nil", ask(c, "bound 1000000"))
      assert.equal("true", ask(c, "move " .. 3 - c.loop)) -- and there
    end
    s:stop()
  end)

  it("goes along to another loop", function()
    local s = start(2)
    local c, watcher = enter(s), enter(s)
    ask(c, "bind roamer")
    ask(c, "bind lost")
    ask(watcher, "bind lost")
    local before = ask(c, "id")
    assert.equal("true", ask(c, "move " .. 3 - c.loop))
    local after = ask(c, "id")
    assert.not_equal(before, after)
    assert.equal(after, ask(watcher, "whose roamer"))
    assert.equal(ask(watcher, "id"), ask(watcher, "whose lost"))
    assert.equal("true", ask(watcher, "send roamer hello"))
    assert.equal("hello", c:receive_line())
    c:close()
    wait_count(watcher, 1)
    s:stop()
  end)

  it("has limits: keys of a connection, of the process, bytes of a key", function()
    local s = start(1, { bindings = 70 })
    local a, b = enter(s), enter(s)
    for i = 1, 64 do assert.equal("true", ask(a, "bind key" .. i)) end
    assert.equal("nil full", ask(a, "bind one-more"))
    assert.equal("true", ask(b, "bind key1")) -- a's note of it is worth nothing now
    assert.equal("true", ask(a, "bind one-more"))
    for i = 1, 5 do assert.equal("true", ask(b, "bind b" .. i)) end
    assert.equal("nil full", ask(b, "bind b6"))
    assert.equal("70", ask(b, "count"))
    a:close()
    wait_count(b, 6)
    assert.equal("true", ask(b, "bind b6"))
    s:stop()
    inside.check [[
      local a, b = rille.pair()
      raises("a string expected, got number", rille.bind, 7, a)
      raises("a key of 1 to 255 bytes expected, got 0", rille.bind, "", a)
      raises("a key of 1 to 255 bytes expected, got 256", rille.lookup, ("x"):rep(256))
      raises("a connection of this loop expected, got string", rille.bind, "x", "y")
      raises("a connection of this loop expected, got string", rille.bound, "y")
      raises("a whole number from 1 expected, got 0", rille.bound, a, 0)
      raises("a whole number from 1 expected, got 1.5", rille.bound, a, 1.5)
      equal(rille.bind("a\0b", a), true)
      equal(rille.bound(a), "a\0b")
      equal(rille.lookup("a\0b").id, a.id)
      equal(select(2, rille.lookup "a"), "not found")
      a:close()
      equal(select(2, rille.lookup "a\0b"), "not found")
      equal(select(2, rille.bind("x", a)), "closed")
      equal(rille.bound(a), nil)
      b:close()
    ]]
  end)

  it("survives connections that end, move and rebind one key on all loops at once", function()
    local s = start(3)
    local watcher = enter(s)
    local conns = {}
    for i = 1, ROUNDS do
      local slot = i % 8 + 1
      if conns[slot] then
        if i % 3 == 0 then conns[slot]:reset() else conns[slot]:close() end
      end
      local c = enter(s)
      conns[slot] = c
      c:send(("bind shared\nbind own:%d\n%ssend shared x\n"):format(slot, i % 5 == 0 and "move " .. i % 3 + 1 .. "\n" or ""))
    end
    for _, c in pairs(conns) do c:close() end
    wait_count(watcher, 0)
    s:stop()
  end)
end)
