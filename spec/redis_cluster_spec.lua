-- rille.redis with cluster = true: servers that redirect, move, and disagree; and Debian's redis-server with cluster-enabled.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local redis = require "spec.support.redis"
local server = require "spec.support.server"

-- Nodes in Lua: node(fn) listens; fn(words, conn) answers a command with the bytes of a reply, nil: with what is in its table.
local HEAD = [[
local null = rille.redis.null
local function fails(err, ...)
  local v, why, message = ...
  if v ~= nil or why ~= err then
    error(("got %s %s %s, expected %s"):format(tostring(v), tostring(why), tostring(message), err), 2)
  end
  return message
end
local nodes, asked = {}, 0
local map
local function bulk(s) return ("$%d\r\n%s\r\n"):format(#s, s) end
local function port_of(n) return tonumber(nodes[n].listener:address():match ":(%d+)$") end
local function slots()
  local out = { ("*%d\r\n"):format(#map) }
  for _, one in ipairs(map) do
    out[#out + 1] = ("*3\r\n:%d\r\n:%d\r\n*2\r\n%s:%d\r\n"):format(one[1], one[2], bulk "127.0.0.1", port_of(one[3]))
  end
  return table.concat(out)
end
local function node(fn)
  local self = { log = {} }
  self.listener = assert(rille.listen("tcp://127.0.0.1:0", function(conn, words)
    local text = table.concat(words, " ")
    self.log[#self.log + 1] = text
    if text == "CLUSTER SLOTS" then
      asked = asked + 1
      return conn:write(slots())
    end
    return conn:write(fn(words, conn) or "+OK\r\n")
  end, { codec = { "resp", strings = true } }))
  nodes[#nodes + 1] = self
  return self
end
local function url_of(n) return "redis://127.0.0.1:" .. port_of(n) end
local function client() return rille.redis { url = { url_of(1) }, cluster = true, protocol = 2, timeout = 2 } end
]]

local function check(code, options) return inside.check(HEAD:gsub("\n", " ") .. code, options) end

describe("rille.redis in a cluster", function()
  after_each(server.cleanup)

  it("asks the server that has the slot", function()
    check [[
      for n = 1, 2 do node(function() return "$1\r\n" .. n .. "\r\n" end) end
      map = { { 0, 8191, 1 }, { 8192, 16383, 2 } }
      local r = client()
      equal(r:get "foo", "2") -- slot 12182
      equal(r:get "bar", "1") -- 5061
      equal(r:call("EVAL", "return 1", 1, "{foo}x"), "2")
      equal(r:set("{bar}foo", "x"), "1")
      local results = assert(r:pipeline(function(p) p:get "foo" p:get "bar" p:get "foo" end))
      equal(table.concat(results), "212")
      equal(asked, 1)
      equal(r:stats().connections, 2)
      r:close()
      fails("closed", r:get "foo")
    ]]
  end)

  it("follows MOVED, and fetches the map again", function()
    check [[
      node(function(words) if words[2] == "foo" then return ("-MOVED 12182 127.0.0.1:%d\r\n"):format(port_of(2)) end end)
      node(function() return "$1\r\n2\r\n" end)
      map = { { 0, 16383, 1 } }
      local r = client()
      equal(r:get "foo", "2")
      equal(r:get "foo", "2")
      equal(#nodes[1].log, 2) -- CLUSTER SLOTS, and the one that was moved
      rille.sleep(1.1)
      local results = r:pipeline(function(p) p:get "foo" p:get "bar" end)
      equal(results[1], "2")
      map = { { 0, 16383, 2 } }
      nodes[2].log = {}
      r.nodes.slots[12182] = r.nodes.slots[0] -- as if it had not heard
      equal(r:get "foo", "2")
      while asked < 2 do rille.yield() end
      r:close()
    ]]
  end)

  it("follows MOVED with commands that wait, and with transactions", function()
    check [[
      local moved = "-MOVED 12182 127.0.0.1:%d\r\n"
      node(function(words) if (words[2] or words[1]):find "foo" then return moved:format(port_of(2)) end end)
      node(function(words)
        if words[1] == "BLPOP" then return "*2\r\n$3\r\nfoo\r\n$1\r\n2\r\n" end
        if words[1] == "EXEC" then return "*1\r\n$1\r\n2\r\n" end
      end)
      map = { { 0, 16383, 1 } }
      local r, calls = client(), 0
      equal(r:blpop("foo", 1)[2], "2")
      r.nodes.slots[12182] = r.nodes.slots[0] -- as if it had not heard
      local done = assert(r:transaction(function(t) calls = calls + 1 t:set("foo", 1) end, "foo"))
      equal(done[1], "2") equal(calls, 1)
      r:close()
    ]]
  end)

  it("follows ASK for one command, with ASKING in front", function()
    check [[
      node(function() return ("-ASK 12182 127.0.0.1:%d\r\n"):format(port_of(2)) end)
      node(function(words) if words[1] ~= "ASKING" then return "$1\r\n2\r\n" end end)
      map = { { 0, 16383, 1 } }
      local r = client()
      for _ = 1, 2 do equal(r:get "foo", "2") end
      equal(table.concat(nodes[2].log, ","), "ASKING,GET foo,ASKING,GET foo")
      equal(#nodes[1].log, 3)
      r:close()
    ]]
  end)

  it("does not go in circles, and says what it cannot do", function()
    check [[
      for n = 1, 2 do node(function() return ("-MOVED 12182 127.0.0.1:%d\r\n"):format(port_of(3 - n)) end) end
      map = { { 0, 100, 1 }, { 12182, 12182, 1 } }
      local r = client()
      assert(fails("error", r:get "foo"):find "^MOVED")
      fails("unavailable", r:get "bar")
      equal(#nodes[1].log + #nodes[2].log < 12, true)
      r:close()
      map = {}
      fails("unavailable", client():get "foo")
      for _, text in ipairs { "+OK\r\n", "*1\r\n:1\r\n", "*1\r\n*3\r\n:0\r\n:99999\r\n*2\r\n+x\r\n:1\r\n", "-ERR no cluster\r\n",
          "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$-1\r\n:1\r\n" } do
        slots = function() return text end
        local v, err = client():get "foo"
        assert(v == nil and (err == "unavailable" or err == "error"), text)
      end
      for _, text in ipairs { "-MOVED\r\n", "-MOVED x y\r\n", "-MOVED 1 127.0.0.1:99999\r\n", "-MOVED 1 :1\r\n" } do
        slots = function() return ("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n%s:%d\r\n"):format(bulk "127.0.0.1", port_of(3)) end
        if not nodes[3] then node(function() return nodes[3].text end) end
        nodes[3].text = text
        assert(fails("error", client():get "foo"):find "^MOVED")
      end
    ]]
  end)

  it("works with real servers", function()
    local list, bus = {}, {}
    for i = 1, 2 do
      bus[i] = server.net.free_port() -- what it is otherwise may be no port
      list[i] = redis.start("--cluster-enabled", "yes", "--cluster-config-file", "nodes" .. i .. ".conf", "--appendonly", "no",
        "--cluster-port", tostring(bus[i]))
    end
    local function cli(i, ...) return (redis.output("redis-cli -p %d %s", list[i].port, table.concat({ ... }, " "))) end
    cli(1, "cluster", "addslotsrange", 0, 8191)
    cli(2, "cluster", "addslotsrange", 8192, 16383)
    cli(1, "cluster", "meet", "127.0.0.1", list[2].port, bus[2])
    assert.is_true(net.poll_until(function()
      return cli(1, "cluster", "info"):find "cluster_state:ok" and cli(2, "cluster", "info"):find "cluster_state:ok" and true
    end, 30))
    check(([[
      local r = rille.redis { url = "%s", cluster = true }
      for i = 1, 100 do equal(r:set("k" .. i, i), "OK") end
      local values = assert(r:pipeline(function(p) for i = 1, 100 do p:get("k" .. i) end end))
      for i = 1, 100 do equal(values[i], tostring(i)) end
      assert(fails("error", r:mget("k1", "k2", "k3")):find "^CROSSSLOT")
      equal(table.concat(assert(r:transaction(function(t) t:set("{t}a", 1) t:incr "{t}a" end, "{t}a"))), "OK2")
      r:lpush("q", "x")
      equal(r:blpop("q", 1)[2], "x")
      equal(r:script "return KEYS[1]" { "k7" }, "k7")
      local sub = assert(r:subscribe "news")
      while r:publish("news", "x") < 1 and not sub.queue:receive(0.05) do rille.sleep(0.01) end
      sub:close()
      r:close()
    ]]):format(list[1].url))
  end)
end)
