-- rille.upstream: targets that are names, whose addresses change.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local HEAD = [[local serve_dns = require("spec.support.dns").serve ]]
  .. [[local function echo(name, url) return assert(rille.listen(url or "tcp://127.0.0.1:0", function(c) ]]
  .. [[c:skip(c:len()) c:write(name or "x") end)) end ]]
  .. [[local function ask(c) c:send "?" local b, err = c:read_string(1) return b, err end ]]
  .. [[local function port(l) return l:address():match ":(%d+)$" end ]]
  .. [[local function wait(what, fn) local till = clock() + 8 * SLOW repeat local v = fn() if v then return v end ]]
  .. [[rille.sleep(0.005) until clock() > till error("never: " .. what, 2) end ]]
  .. [[local function urls(up) local list = {} for i, t in ipairs(up:targets()) do if t.state ~= "draining" then ]]
  .. [[list[#list + 1] = t.url .. (t.backup and " backup" or "") .. (t.weight > 1 and " " .. t.weight or "") end end ]]
  .. [[return table.concat(list, ", ") end ]]
  .. [[local function with_dns(d) return { dns = { servers = { d.address }, search = {}, hosts = "", tries = 1, ]]
  .. [[timeout = 0.2 * SLOW } } end ]]

local function check(code, options)
  return inside.check(HEAD .. code, options)
end

describe("names of upstreams", function()
  after_each(server.cleanup)

  it("are followed as their addresses change, by their TTL", function()
    check [=[
      local b = echo "b"
      local a = echo("a", "tcp://127.0.0.2:" .. port(b))
      local answer = { { "pool.test", "A", 1, "127.0.0.1" } }
      local d = serve_dns(function(name, kind) return kind == "A" and answer or {} end)
      local name = "tcp://pool.test:" .. port(b)
      local up = rille.upstream { targets = { { url = name, dns = "A" } }, dial = with_dns(d), ttl_min = 0.05 }
      equal(up:with(ask), "b") -- the first one waits for the answer
      equal(d.asked["pool.test A"], 1)
      equal(up:targets()[1].from, name)
      local held = up:get()
      answer = { { "pool.test", "A", 1, "127.0.0.2" } }
      wait("the other address", function() return up:with(ask) == "a" end)
      equal(urls(up), "tcp://127.0.0.2:" .. port(b))
      equal(ask(held), "b") -- drained, not cut
      up:put(held)
      wait("the old one has left", function() return #up:targets() == 1 end)
      -- both
      answer = { { "pool.test", "A", 1, "127.0.0.1" }, { "pool.test", "A", 1, "127.0.0.2" } }
      wait("both", function() return #up:targets() == 2 end)
      -- DNS fails: what was known stays, and is asked for again
      local before = d.asked["pool.test A"]
      answer = { rcode = 2 }
      wait("it is asked in vain", function() return d.asked["pool.test A"] > before end)
      rille.sleep(0.1)
      equal(#up:targets(), 2) assert(up:with(ask))
      -- static ones beside it, and names that leave
      assert(up:add("tcp://127.0.0.3:1"))
      equal(#up:targets(), 3)
      assert(up:remove(name))
      equal(urls(up), "tcp://127.0.0.3:1")
      up:close() d.close() a:close() b:close()
    ]=]
  end)

  it("have ports, weights and priorities of SRV records", function()
    check [=[
      local a, b, c = echo "a", echo "b", echo "c"
      local d = serve_dns(function(name, kind)
        if kind == "SRV" then
          return { { name, "SRV", 60, { 1, 5, port(a) + 0, "one.test" } }, { name, "SRV", 60, { 1, 0, port(b) + 0, "two.test" } },
            { name, "SRV", 60, { 9, 1, port(c) + 0, "three.test" } } }
        end
        return kind == "A" and { { name, "A", 60, "127.0.0.1" } } or {}
      end)
      local up = rille.upstream { targets = { { url = "tcp://_echo._tcp.test", dns = "SRV" } }, balance = "weighted", dial = with_dns(d) }
      local count = { a = 0, b = 0, c = 0 }
      for _ = 1, 60 do
        local x = up:with(ask)
        count[x] = count[x] + 1
      end
      equal(count.a, 50) equal(count.b, 10)
      equal(urls(up), ("tcp://one.test:%s 5, tcp://two.test:%s, tcp://three.test:%s backup"):format(port(a), port(b), port(c)))
      equal(d.asked["_echo._tcp.test SRV"], 1)
      up:close() d.close() a:close() b:close() c:close()
    ]=]
  end)

  it("have addresses of the family alone that their scheme names", function()
    check [=[
      local l = echo()
      local d = serve_dns(function(name, kind)
        return { { name, kind, 60, kind == "A" and "127.0.0.1" or "0:0:0:0:0:0:0:1" } }
      end)
      local function targets_of(scheme)
        local up = rille.upstream { targets = { { url = ("%s://both.test:%s"):format(scheme, port(l)), dns = true } }, dial = with_dns(d) }
        up:with(ask)
        local list = urls(up)
        up:close()
        return list
      end
      equal(targets_of "tcp4", "tcp4://127.0.0.1:" .. port(l))
      equal(targets_of "tcp6", "tcp6://[::1]:" .. port(l))
      raises("dns: an address of AAAA is none of tcp4://both.test:1", rille.upstream,
        { targets = { { url = "tcp4://both.test:1", dns = "AAAA" } } })
      d.close() l:close()
    ]=]
  end)

  it("say what is wrong when they have never had an address, and recover", function()
    check [=[
      local l = echo()
      local is_there = false
      local d = serve_dns(function(name, kind)
        if not is_there then return { rcode = 3 } end
        return kind == "A" and { { name, "A", 0, "127.0.0.1" } } or {}
      end)
      local up = rille.upstream { targets = { { url = "tcp://late.test:" .. port(l), dns = true } }, dial = with_dns(d), ttl_max = 0.05,
        ttl_min = 0.05 }
      local tasks = {}
      for i = 1, 5 do tasks[i] = rille.spawn(up.with, up, ask) end
      for i = 1, 5 do equal(select(2, tasks[i]:join()), "unavailable") end
      local _, _, message = up:with(ask)
      equal(message, "upstream: there are no targets (cannot look up late.test: not found)")
      is_there = true
      wait("it is found", function() return up:with(ask) == "x" end)
      up:close()
      -- closed, or told otherwise, while the question is under way
      local slow = serve_dns(function(name, kind) return { delay = 0.05, { name, kind, 1, "127.0.0.1" } } end)
      up = rille.upstream { targets = { { url = "tcp://slow.test:" .. port(l), dns = "A" } }, dial = with_dns(slow) }
      local task = rille.spawn(up.with, up, ask)
      rille.sleep(0.01)
      up:set_targets { l:address() }
      equal(up:with(ask), "x")
      equal(task:join(), "x")
      up:set_targets { { url = "tcp://slower.test:" .. port(l), dns = "A" } }
      task = rille.spawn(up.with, up, ask)
      rille.sleep(0.01)
      up:close()
      equal(select(2, task:join()), "closed")
      slow.close() d.close() l:close()
    ]=]
  end)
end)
