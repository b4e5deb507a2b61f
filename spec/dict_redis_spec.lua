-- A dict that a redis-server keeps, from two Rille processes: the same methods, and what becomes of them when the server goes and comes
-- back.

local cluster = require "spec.support.cluster"
local inside = require "spec.support.inside"
local redis = require "spec.support.redis"
local tls = require "spec.support.tls"

local net, server = cluster.net, cluster.server

local function conf(store, more)
  local dict = { store = store.url, timeout = 1 * net.slow }
  for key, value in pairs(more or {}) do dict[key] = value end
  return { dicts = { d = dict } }
end

-- A store, and so many processes with the dict d in it.
local function start(count, more)
  local store, nodes = cluster.store(), {}
  for i = 1, count do nodes[i] = cluster.node(conf(store, more)) end
  return store, unpack(nodes)
end

local D = "local d = rille.dict 'd' "

describe("a dict in a store", function()
  after_each(server.cleanup)

  it("is the same in two processes, with types, flags and times", function()
    local _, a, b = start(2)
    for _, one in ipairs {
      { "'text'", "'text'" }, { "''", "''" }, { "42", "42" }, { "-0.1", "-0.1" }, { "1/3", tostring(1 / 3) }, { "2^53", tostring(2 ^ 53) },
      { "true", "true" }, { "false", "false" }, { "1/0", "inf" }, { "'n5'", "'n5'" },
    } do
      assert.equal("true nil false", a:ask(D .. "return d:set('k', " .. one[1] .. ")"))
      assert.equal(one[2], b:ask(D .. "return d:get 'k'"))
    end
    assert.equal("true", b:ask(D .. "d:set('k', 1/3) return d:get('k') == 1/3"))
    assert.equal("-inf", b:ask(D .. "d:set('k', -0) return 1 / d:get('k')"))
    assert.equal("true nil false", a:ask(D .. "return d:set('k', 5, 100, 4294967295)"))
    assert.equal("5 4294967295", b:ask(D .. "return d:get 'k'"))
    assert.equal("6 nil false", b:ask(D .. "return d:incr('k', 1)"))
    assert.equal("6 4294967295", a:ask(D .. "return d:get 'k'"))
    assert.equal("true", a:ask(D .. "local t = d:ttl 'k' return t > 90 and t <= 100"))
    assert.equal("nil", a:ask(D .. "return d:get 'none'"))
  end)

  it("answers as one in memory does", function()
    local store = redis.start()
    inside.check(([[
      local here = rille.dict("here", { size = "64k" })
      local there = rille.dict("there", { store = "%s", timeout = 5 })
      local function text(...)
        local out = {}
        for i = 1, select("#", ...) do
          local x = select(i, ...)
          if type(x) == "table" then table.sort(x) x = table.concat(x, ",") end
          out[i] = tostring(x)
        end
        return table.concat(out, " "):match "^(nil [^n].-) nil$" or table.concat(out, " ")
      end
      for _, call in ipairs {
        { "get", "k" }, { "set", "k", "v" }, { "add", "k", 1 }, { "replace", "none", 1 }, { "replace", "k", 7 }, { "get", "k" },
        { "incr", "k", 1.5 }, { "incr", "none", 1 }, { "incr", "new", 2, 40 }, { "incr", "new", 1 }, { "ttl", "k" }, { "ttl", "none" },
        { "expire", "none", 1 }, { "expire", "k", 0 }, { "touch", "k" }, { "touch", "none" }, { "touch", "none", 3 }, { "touch", "k", 0 },
        { "set", "text", "abc", nil, 9 }, { "get", "text" }, { "incr", "text", 1 }, { "lpush", "text", 1 }, { "lpop", "text" },
        { "llen", "text" },
        { "rpush", "list", "a" }, { "rpush", "list", 2 }, { "lpush", "list", 0.5 }, { "llen", "list" }, { "get", "list" },
        { "incr", "list", 1 }, { "lpop", "list" }, { "rpop", "list" }, { "rpop", "list" }, { "rpop", "list" }, { "llen", "list" },
        { "add", "yes", true }, { "incr", "yes", 1 }, { "delete", "yes" }, { "delete", "yes" }, { "set", "k", nil }, { "get", "k" },
        { "incr", "x", 1, 0.1 }, { "incr", "x", 0.2 }, { "incr", "big", 1, 2 ^ 60 }, { "keys" }, { "keys", 0 },
      } do
        local name = table.remove(call, 1)
        local count = name == "set" and 4 or #call
        local got, expected = text(there[name](there, unpack(call, 1, count))), text(here[name](here, unpack(call, 1, count)))
        equal(name .. ": " .. got, name .. ": " .. expected)
      end
      for _, call in ipairs {
        { "get", false }, { "get", "" }, { "get", ("k"):rep(65536) }, { "set", "k", {} }, { "add", "k" }, { "set", "k", 1, -1 },
        { "set", "k", 1, "x" }, { "set", "k", 1, 0, 1.5 }, { "incr", "k" }, { "incr", "k", 1, "x" }, { "incr", "k", 1, nil, 5 },
        { "expire", "k" }, { "lpush", "k", true }, { "keys", -1 },
      } do
        local name = table.remove(call, 1)
        local results = {}
        for i, dict in ipairs { here, there } do results[i] = { pcall(dict[name], dict, unpack(call, 1, 4)) } end
        local was_fine, expected, is_fine, got = results[1][1], results[1][2], results[2][1], results[2][2]
        equal(name .. tostring(is_fine), name .. tostring(was_fine)) equal(got, expected)
      end
      equal(#there:keys(1), 1)
      for i = 1, 1500 do there:set("many" .. i, i) end
      equal(#there:keys(0) > 1500, true)
      equal(there:flush(), true)
      equal(#there:keys(), 0)
      equal(text(there:capacity()), "nil not supported")
      equal(tostring(there), "dict 'there'")
      there:set("brief", 1, 0.05)
      rille.sleep(0.2)
      equal(there:get "brief", nil)
      equal(text(there:set("large", ("x"):rep(2 ^ 24))), "nil too large false")
    ]]):format(store.url), { seconds = 60 })
  end)

  it("has exact counters, with a time to live from the first", function()
    local _, a, b = start(2)
    local count = [[local d = rille.dict 'd' local tasks = {}
      for i = 1, 20 do tasks[i] = rille.spawn(function() for _ = 1, 100 do assert(d:incr('n', 1, 0, 60)) end end) end
      for i = 1, 20 do tasks[i]:join() end return 'done']]
    local one, other = a:connect(), b:connect()
    one:send(count:gsub("\n", " ") .. "\n")
    other:send(count:gsub("\n", " ") .. "\n")
    assert.matches("done", one:receive_line(60))
    assert.matches("done", other:receive_line(60))
    assert.equal("4000", a:ask(D .. "return d:get 'n'"))
    assert.equal("true", b:ask(D .. "local t = d:ttl 'n' return t > 0 and t <= 60"))
  end)

  it("leaves alone what is not its own", function()
    local store, a, b = start(2)
    b:ask("return rille.dict('other[x]*', { store = '" .. store.url .. "' }):set('k', 1)")
    a:ask(D .. "return d:set('k', 1)")
    redis.output("redis-cli -p %d set rille:d:strange plain", store.port)
    redis.output("redis-cli -p %d hset rille:d:hash a 1", store.port)
    assert.equal("nil 'invalid argument'", a:ask(D .. "return d:get 'strange'"))
    assert.matches("^nil 'value is a list'", a:ask(D .. "return d:get 'hash'"))
    assert.equal("true", a:ask(D .. "return d:flush()"))
    assert.equal("{}", a:ask(D .. "return d:keys()"))
  end)

  it("says so where nothing can park, and for what cannot be", function()
    local store = redis.start()
    local out = inside.run(([[
      local rille = require "rille"
      local d = rille.dict("x", { store = "%s" })
      print((select(2, pcall(d.get, d, "k"))))
      print((select(2, pcall(rille.dict, "x", { store = "%s", prefix = "other" }))))
      print((select(2, pcall(rille.dict, "x", { size = "1m" }))))
      print((select(2, pcall(rille.dict, "y", { store = "http://x" }))))
      print((select(2, pcall(rille.dict, "y", { store = "%s", sise = 1 }))))
      rille.dict("z", { size = "64k" })
      print((select(2, pcall(rille.dict, "z", { store = "%s" }))))
    ]]):format(store.url, store.url, store.url, store.url), { how = "plain" }).out
    assert.matches("dict 'x': get asks its store and parks: call it in a task on a loop", out, 1, true)
    assert.matches("dict 'x' is in another store already", out, 1, true)
    assert.matches("dict 'x' is in a store, and has no size", out, 1, true)
    assert.matches('dicts.store: got "http://x"; expected a URL such as "redis://', out, 1, true)
    assert.matches("dicts.sise: unknown key; did you mean 'size'?", out, 1, true)
    assert.matches("dict 'z' is in memory already, and not in a store", out, 1, true)
  end)

  it("is asked over TLS, with a password, in a database", function()
    tls.set_up()
    local port = server.net.free_port()
    redis.start("--tls-port", tostring(port), "--tls-cert-file", tls.file "site.pem", "--tls-key-file", tls.file "site.key",
      "--tls-ca-cert-file", tls.file "ca.pem", "--tls-auth-clients", "no", "--requirepass", "secret")
    inside.check(([[
      local function of(name, url, more)
        local options = { store = url:format(%d), timeout = 5, prefix = "p:", ca = "%s" }
        for key, value in pairs(more or {}) do options[key] = value end
        return rille.dict(name, options)
      end
      equal(of("a", "rediss://:secret@localhost:%%d/3"):set("k", 1), true)
      equal(of("b", "rediss://:secret@localhost:%%d/3", { cache = 60 }):get "k", 1)
      equal(of("c", "rediss://:secret@localhost:%%d/4"):get "k", nil)
      local v, err = of("d", "rediss://:wrong@localhost:%%d"):get "k"
      equal(v, nil) equal(err, "permission denied")
      v, err = of("e", "rediss://localhost:%%d"):incr("k", 1)
      equal(v, nil) equal(err, "permission denied")
    ]]):format(port, tls.file "ca.pem"), { seconds = 30 })
  end)

  it("is the same for the processes of one server", function()
    local store = cluster.store()
    local s = server.start([[
      local d = require("rille").dict "d"
      return function(req, res) res:send(("%s\n"):format(tostring(d:incr("n", 1, 0)))) end
    ]], { listen = "http://127.0.0.1:0", conf = { processes = 2, dicts = { d = { store = store.url } } } })
    for i = 1, 20 do
      local c = s:connect():send "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
      assert.matches("\r\n\r\n" .. i .. "\n$", (c:receive_all(10)))
    end
    assert.equal(0, s:count_log "share nothing")
  end)

  it("is no other dict for a worker", function()
    local a = cluster.node(conf(cluster.store()), { allow_errors = true })
    server.write("spec_stored.lua", "local rille = require 'rille' return { get = function() return rille.dict('d'):get 'k' end }")
    local got = a:ask("package.path = '" .. server.folder() .. "/?.lua;' .. package.path "
      .. "local _, err = rille.pool():call('spec_stored', 'get') return err")
    assert.matches("is in a store, which the handlers of a server alone can ask", got, 1, true)
  end)

  it("survives its server, and says what is wrong meanwhile", function()
    local store, a, b = start(2, { timeout = 0.5 * net.slow })
    a:ask(D .. "return d:set('k', 1)")
    b:ask(D .. "return d:get 'k'")
    store.kill()
    for _, node in ipairs { a, b } do
      for _, call in ipairs { "d:get 'k'", "d:set('k', 2)", "d:incr('n', 1, 0)", "d:keys()", "d:flush()", "d:lpop 'l'", "d:ttl 'k'" } do
        local got = node:ask(D .. "return " .. call)
        assert.truthy(got:find "^nil 'refused'" or got:find "^nil 'closed'" or got:find "^nil 'reset'", got)
      end
    end
    store.revive()
    for _, node in ipairs { a, b } do node:await(D .. "return d:incr('again', 1, 0) and true or false", "true", 20) end
    assert.equal("2", a:ask(D .. "return d:get 'again'"))
  end)

  it("does not hang with a server that hangs", function()
    local store, a = start(1, { timeout = 0.3 * net.slow })
    a:ask(D .. "return d:set('k', 1)")
    store.process:signal "STOP"
    local before = net.now()
    assert.equal("nil 'timeout' nil", a:ask(D .. "return d:get 'k'"))
    assert.equal("nil 'timeout' false nil", a:ask(D .. "return d:incr('n', 1, 0)"))
    assert.is_true(net.now() - before < 5 * net.slow)
    store.process:signal "CONT"
    a:await(D .. "return d:get 'k'", "1")
  end)

  it("is out of memory when its server is", function()
    local store, a = start(1)
    a:ask(D .. "return d:set('n', 1)")
    redis.output("redis-cli -p %d config set maxmemory 1", store.port)
    assert.matches("^nil 'no memory' false 'OOM", a:ask(D .. "return d:set('k', 'v')"))
    assert.matches("^nil 'no memory' false", a:ask(D .. "return d:incr('n', 1)"))
    assert.matches("^nil 'no memory'", a:ask(D .. "return d:rpush('l', 1)"))
    assert.equal("1", a:ask(D .. "return d:get 'n'"))
  end)

  describe("with a cache", function()
    local CACHED = D .. "return d:get 'k'"

    local function commands(store)
      return tonumber(redis.output("redis-cli -p %d info commandstats", store.port):match "cmdstat_get:calls=(%d+)") or 0
    end

    -- Until reads of the node do not come to the server.
    local function warm(store, node)
      assert.is_true(net.poll_until(function()
        node:ask(CACHED)
        local before = commands(store)
        node:ask(CACHED)
        return commands(store) == before
      end, 20))
    end

    it("reads from memory what nobody has changed, and hears of changes", function()
      local store, a, b = start(2, { cache = 600 })
      a:ask(D .. "return d:set('k', 0)")
      warm(store, b)
      warm(store, a)
      for i = 1, 20 do
        a:ask(D .. "return d:set('k', " .. i .. ")")
        assert.equal(tostring(i), a:ask(CACHED)) -- who writes reads it at once
        b:await(CACHED, tostring(i))
      end
      a:ask(D .. "return d:delete 'k'")
      b:await(CACHED, "nil")
      redis.output("redis-cli -p %d set rille:d:k sx", store.port)
      b:await(CACHED, "'x'")
      redis.output("redis-cli -p %d flushall", store.port)
      b:await(CACHED, "nil")
      a:ask(D .. "return d:set('k', 'brief', 0.3)")
      b:await(CACHED, "'brief'")
      b:await(CACHED, "nil")
    end)

    it("does not use it without its server, nor what is from before", function()
      local store, a, b = start(2, { cache = 600, timeout = 0.5 * net.slow })
      a:ask(D .. "return d:set('k', 'old')")
      warm(store, b)
      store.kill()
      assert.is_true(net.poll_until(function() return b:ask(CACHED):find "^nil 'refused'" ~= nil end, 10))
      store.revive()
      redis.output("redis-cli -p %d set rille:d:k snew", store.port)
      b:await(CACHED, "'new'", 20)
      warm(store, b)
      a:await(D .. "return d:set('k', 'newer')", "true nil false", 20)
      b:await(CACHED, "'newer'")
    end)

    it("notices a server that says nothing any more", function()
      local store, a = start(1, { cache = 600, timeout = 0.3 * net.slow })
      a:ask(D .. "return d:set('k', 1)")
      warm(store, a)
      store.process:signal "STOP"
      assert.is_true(net.poll_until(function() return a:ask(CACHED) == "nil 'timeout' nil" end, 20))
      store.process:signal "CONT"
      a:await(CACHED, "1", 20)
    end)

    it("keeps no more than its size", function()
      local store, a = start(1, { cache = 600, cache_size = 8192 })
      a:ask(D .. "return d:set('k', ('x'):rep(5000))")
      a:ask(D .. "for i = 1, 100 do d:set('k' .. i, i) end")
      for _ = 1, 2 do a:ask(D .. "for i = 1, 100 do assert(d:get('k' .. i) == i) end") end
      local before = commands(store)
      a:ask(CACHED)
      a:ask(CACHED)
      assert.equal(before + 2, commands(store))
    end)
  end)

  it("goes along in a ctx, and ends with its generation", function()
    local reload = require "spec.support.reload"
    local store = cluster.store()
    local SOURCE = [[
      local rille = require "rille"
      return {
        on_connect = function(conn) conn.ctx = { d = rille.dict("e", { store = "%s", prefix = "p:" }) } end,
        on_request = function(conn)
          local line = conn:read_line()
          if not line then return conn:close() end
          conn:write(("%d %s\n"):format(tostring(conn.ctx.d:incr("n", 1, 0))))
        end,
      }
    ]]
    local s = reload.start((SOURCE:gsub("%%s", store.url, 1):gsub("%%d", "1")))
    local c = s:connect():send "x\n"
    assert.matches("^1 1", c:receive_line(10))
    reload.to(s, (SOURCE:gsub("%%s", store.url, 1):gsub("%%d", "2")))
    c:send "x\n"
    assert.matches("^2 2", c:receive_line(10))
    assert.is_true(net.poll_until(function()
      local list = redis.output("redis-cli -p %d client list", store.port)
      return select(2, list:gsub(" addr=", "")) <= 2 -- redis-cli's own, and that of the generation that serves
    end, 10))
  end)
end)
