-- What lies between two configurations, and which of it a running server can take over.

local config = require "rille.config"
local defaults = require "rille.defaults"
local diff = require "rille.config.diff"
local names = require "rille.config.names"
local scheme = require "rille.config.scheme"

local function checked(given)
  given.servers = given.servers or { { listen = ":1", script = "a" } }
  return assert(config.check(given))
end

local function between(old, new)
  return diff(checked(old), checked(new))
end

local function between_servers(old, new)
  return between({ servers = old }, { servers = new })
end

local function keys_of(list)
  local keys = {}
  for i, one in ipairs(list) do keys[i] = one.key end
  return keys
end

-- { ["log.level"] = "log" } of what changes outside of servers, and of what cannot change its reason.
local function said(list, field)
  local out = {}
  for _, one in ipairs(list) do out[one.key] = one[field] end
  return out
end

-- Which old server each new one is, by position; 0: none.
local function matched(old, new)
  old, new = checked { servers = old }, checked { servers = new }
  local d = diff(old, new)
  local positions = {}
  for k, server in ipairs(new.servers) do
    positions[k] = 0
    for _, list in ipairs { d.changed, d.same } do
      for _, one in ipairs(list) do
        for i, before in ipairs(one.new == server and old.servers or {}) do
          if one.old == before then positions[k] = i end
        end
      end
    end
  end
  return positions, d
end

describe("the difference of two configurations", function()
  it("is nothing when they say the same", function()
    local function given()
      return {
        loops = 2, path = "x/?.lua", dicts = { a = { size = "1m" } }, workers = 3, pin = { 0, 1 }, log = { level = "warn" },
        servers = {
          { listen = { ":1", "unix:@x" }, script = "a", options = { list = { 1, { 2 } } }, deny = { "10.0.0.0/8" } },
          { listen = "udp://:1", script = "a", session = {} },
        },
      }
    end
    local d = between(given(), given())
    assert.is_true(diff.is_empty(d))
    assert.same({}, diff.report(d))
    assert.same({ "a#1", "a#2" }, keys_of(d.same))
    assert.is_false(diff.is_empty(between({}, { loops = 2 })))
  end)

  it("says for every key how a new value comes to a server that runs", function()
    local known, missing = diff.says, {}
    local function walk(keys, path, given)
      for _, entry in ipairs(keys) do
        local name, live = path .. entry.name, given
        if live == nil then live = entry.live end
        local is_leaf = not entry.keys or entry.type == "map" or entry.type == "workers"
        if is_leaf and live == nil or live ~= nil and live ~= false and not known[live] then missing[#missing + 1] = name end
        local inherited
        if entry.type == "table" then inherited = live end
        if entry.keys then walk(entry.keys, name .. ".", inherited) end
      end
    end
    walk(defaults.top, "")
    assert.same({}, missing)
  end)

  describe("outside of servers", function()
    it("names what changes live, and how", function()
      local d = between({}, {
        log = { level = "debug", format = "json", file = "x.log" }, drain_timeout = 1, stall_after = 2, workers_timeout = 3,
        limits = { turn_time = 0.5, processes = 1 }, metrics = { max = 1, series = 2 }, io = { workers = 9 },
        reload = { watch = false, canary = { loops = 1 } }, banner = "hello",
      })
      assert.same({
        ["log.level"] = "log", ["log.format"] = "log", ["log.file"] = "log", drain_timeout = "loops", stall_after = "process",
        workers_timeout = "process", ["limits.turn_time"] = "loops", ["limits.processes"] = "process", ["metrics.max"] = "process",
        ["metrics.series"] = "process", ["io.workers"] = "pools", ["reload.watch"] = "reload", ["reload.canary.loops"] = "reload",
        banner = "start",
      }, said(d.live, "how"))
      assert.same({}, d.refused)
      assert.same({ "reload.watch", "reload.canary.loops" }, d.changed[1].what)
      assert.same({ reload = true }, d.changed[1].how)
    end)

    it("names what needs a restart", function()
      local d = between({}, {
        loops = 4, processes = 2, user = "nobody", pin = true, control = { path = "x.sock" }, metrics = { listen = "http://:9" },
        io = { queue = 5 },
      })
      local refused = said(d.refused, "why")
      local why = "needs a restart"
      assert.same({
        loops = why, processes = why, user = why, pin = why, ["control.path"] = why, ["metrics.listen"] = why, ["io.queue"] = why,
      }, refused)
      assert.same({ "a" }, keys_of(d.same))
      assert.equal("control.enabled", between({}, { control = false }).refused[1].key)
    end)

    it("adds dicts and pools, keeps those that are gone, and sizes pools", function()
      local d = between({ dicts = { a = {}, b = {}, c = {} }, pools = { x = { max = 1 }, z = { max = 1 } } }, {
        dicts = { a = {}, b = { size = "1m" }, d = {} }, pools = { x = { max = 2, queue = 1 }, y = {} }, workers = 2,
      })
      assert.same({
        ["dicts.c"] = "stays", ["dicts.d"] = "dicts", ["pools.x.max"] = "pools", ["pools.y"] = "pools", ["pools.z"] = "stays",
        workers = "pools",
      }, said(d.live, "how"))
      assert.same({ ["dicts.b.size"] = "needs a restart", ["pools.x.queue"] = "needs a restart" }, said(d.refused, "why"))
      assert.same({ "a" }, keys_of(d.same))
      assert.same({ workers = "stays" }, said(between({ workers = 1 }, {}).live, "how"))
      assert.same({ ["workers.max"] = "pools" }, said(between({ workers = 1 }, { workers = 2 }).live, "how"))
    end)

    it("makes new generations of every server where their states are made from it", function()
      for _, given in ipairs { { path = "x/?.lua" }, { cpath = "x/?.so" }, { dev = true }, { io = { timeout = 1 } } } do
        local d = between({}, given)
        assert.equal("generation", d.live[1].how)
        assert.same({ d.live[1].key }, d.changed[1].what)
        assert.same({ generation = true }, d.changed[1].how)
      end
    end)

    it("changes time-outs in the servers that have them from there", function()
      local servers = {
        { listen = ":1", script = "a" }, { listen = ":2", script = "b", timeouts = { idle = 5, linger = 5 } },
      }
      local d = between({ servers = servers }, { servers = servers, timeouts = { idle = 9 } })
      assert.same({ ["timeouts.idle"] = "servers" }, said(d.live, "how"))
      assert.same({ "a" }, keys_of(d.changed))
      assert.same({ "timeouts.idle" }, d.changed[1].what)
      -- connections that scripts make themselves have this one, whatever their server says
      d = between({ servers = servers }, { servers = servers, timeouts = { linger = 9 } })
      assert.same({ "a", "b" }, keys_of(d.changed))
      assert.same({ "timeouts.linger" }, d.changed[1].what)
    end)
  end)

  describe("knows a server again", function()
    local function server(listen, script, name)
      return { listen = listen, script = script, name = name }
    end

    it("by its name, wherever it is and whatever else it is", function()
      assert.same({ 2, 1 }, (matched({ server(":1", "a", "x"), server(":2", "b", "y") },
        { server(":1", "a", "y"), server(":2", "b", "x") })))
    end)

    it("by its addresses and script, at another position and under another name", function()
      assert.same({ 2, 0, 1 }, (matched({ server(":1", "a"), server(":2", "a") },
        { server(":2", "a", "new"), server(":3", "a"), server(":1", "a") })))
    end)

    it("by an address that stays, with another script", function()
      assert.same({ 2, 1 }, (matched({ server({ ":1", ":2" }, "a", "x"), server(":3", "b") },
        { server({ ":3", ":4" }, "c"), server({ ":1" }, "d", "y") })))
      -- by most of them
      assert.same({ 2 }, (matched({ server(":1", "a"), server({ ":2", ":3" }, "a") }, { server({ ":1", ":2", ":3" }, "a") })))
    end)

    it("by its script, at the same position first", function()
      assert.same({ 1, 2 }, (matched({ server(":1", "a"), server(":2", "a") }, { server(":3", "a"), server(":4", "a") })))
      assert.same({ 0, 1 }, (matched({ server(":1", "a") }, { server(":3", "b"), server(":4", "a") })))
    end)

    it("not by its script when both have names and no address is common", function()
      local positions, d = matched({ server(":1", "a", "x") }, { server(":2", "a", "y") })
      assert.same({ 0 }, positions)
      assert.same({ "x" }, d.removed)
      assert.equal("y", d.added[1].name)
    end)

    it("by one way of writing an address as by another", function()
      for url, canonical in pairs {
        [":7"] = "tcp://[::]:7", ["tcp://:7"] = "tcp://[::]:7", ["TCP://:07"] = "tcp://[::]:7", ["localhost:7"] = "tcp://127.0.0.1:7",
        ["http://localhost"] = "tcp://127.0.0.1:80", ["tcp4://:7"] = "tcp://0.0.0.0:7", ["tcp6://:7"] = "tcp6://[::]:7",
        ["tcp6://localhost:7"] = "tcp://[::1]:7", ["tcp6://[::1]:7"] = "tcp://[::1]:7", ["Udp://:7"] = "udp://[::]:7",
        ["unix:///run/x"] = "unix:/run/x", ["unix:@x"] = "unix:@x", ["unixgram:@x"] = "unixgram:@x", ["fd:web"] = "fd:web",
      } do
        assert.equal(canonical, scheme.canonical(url))
      end
      local d = between_servers({ server(":7", "a") }, { server("tcp://[::]:7", "a") })
      assert.is_true(diff.is_empty(d))
    end)
  end)

  describe("of servers", function()
    it("lists those that come and go, by keys of their own", function()
      local d = between_servers(
        { { listen = ":1", script = "x/a.lua" }, { listen = ":2", script = "x/a.lua" }, { listen = ":3", script = "b" } },
        { { listen = ":3", script = "b" }, { listen = ":4", script = "c" } })
      assert.same({ "a#1", "a#2" }, d.removed)
      assert.same({ ":4" }, d.added[1].listen)
      assert.same({ "b" }, keys_of(d.same))
      assert.same({ "app", "a", "n" }, names.keys { { script = print }, { script = "x/a.lua" }, { script = "a", name = "n" } })
    end)

    it("names what changes, down to the single option", function()
      local d = between_servers(
        { { listen = ":1", script = "a", options = { x = 1, db = { host = "h", port = 1 }, list = { 1 }, gone = true } } },
        { { listen = ":1", script = "b", name = "n", codec = "c", limits = { body = 1 }, protocol = "stream",
          options = { x = 1, db = { host = "i", port = 1 }, list = { 1, 2 } } } })
      assert.same({ "name", "script", "options.db.host", "options.gone", "options.list", "codec", "limits.body" }, d.changed[1].what)
      assert.same({ generation = true }, d.changed[1].how)
      assert.equal("a", d.changed[1].key)
      assert.equal("b", d.changed[1].new.script)
      assert.is_nil(d.changed[1].listen)
    end)

    it("opens and closes addresses, and keeps the others", function()
      local d = between_servers({ { listen = { ":1", ":2", "unix:@a" }, script = "a" } },
        { { listen = { "unix:@a", ":3", "tcp://[::]:1" }, script = "a" } })
      local change = d.changed[1]
      assert.same({ added = { ":3" }, removed = { ":2" }, kept = { "unix:@a", "tcp://[::]:1" } }, change.listen)
      assert.same({ "listen" }, change.what)
      assert.same({ listen = true }, change.how)
      -- two with a free port are two
      d = between_servers({ { listen = { ":0", ":0" }, script = "a" } }, { { listen = ":0", script = "a" } })
      assert.same({ added = {}, removed = { ":0" }, kept = { ":0" } }, d.changed[1].listen)
    end)

    it("speaks another protocol at an address that stays", function()
      local d = between_servers({ { listen = "tcp://127.0.0.1:80", script = "a" } }, { { listen = "http://127.0.0.1", script = "a" } })
      assert.same({ "listen" }, d.changed[1].what)
      assert.same({ generation = true }, d.changed[1].how)
      assert.same({ added = {}, removed = {}, kept = { "http://127.0.0.1" } }, d.changed[1].listen)
      d = between_servers({ { listen = ":1", script = "a" } }, { { listen = ":1", script = "a", protocol = "http" } })
      assert.same({ generation = true }, d.changed[1].how)
    end)

    it("names addresses that go from one to another", function()
      local d = between_servers({ { name = "a", listen = { ":1", ":2" }, script = "a" }, { name = "b", listen = ":3", script = "b" } },
        { { name = "b", listen = { ":3", ":2" }, script = "b" }, { name = "a", listen = ":1", script = "a" } })
      assert.same({ { address = ":2", from = "a", to = "b" } }, d.moved)
      assert.equal(":2: goes from server a to b", diff.report(d)[3])
    end)

    it("refuses what belongs to a socket that stays, and takes it with new addresses", function()
      local sockets = {
        accept = "shared", balance = "random", ipv6_only = true, receive_buffer = 9999, send_buffer = 9999, mode = "0660", device = "lo",
      }
      for key, value in pairs(sockets) do
        local d = between_servers({ { listen = { ":1", ":2" }, script = "a" } },
          { { listen = { ":3", ":2" }, script = "a", [key] = value } })
        assert.same({ ["servers[1]." .. key] = "needs a restart: :2 stays open" }, said(d.refused, "why"))
        assert.same({ "listen" }, d.changed[1].what)
        d = between_servers({ { listen = ":1", script = "a" } }, { { listen = ":3", script = "a", [key] = value } })
        assert.same({}, d.refused)
        assert.same({ "listen", key }, d.changed[1].what)
        assert.same({ listen = true, generation = true }, d.changed[1].how)
      end
      local d = between_servers({ { listen = "udp://:1", script = "a" } },
        { { listen = "udp://:1", script = "a", broadcast = true, multicast = { groups = "239.1.2.3" }, session = { max = 5 } } })
      assert.same({ "servers[1].multicast.groups", "servers[1].broadcast" }, keys_of(d.refused))
      assert.same({ "session.idle", "session.max", "session.queue" }, d.changed[1].what)
    end)

    it("takes what a listener that goes over is told anew", function()
      local settings = {
        allow = "10.0.0.0/8", deny = "10.0.0.0/8", nodelay = false, keepalive = 9, backlog = 9,
        limits = { max_connections_per_address = 5 },
      }
      for key, value in pairs(settings) do
        local d = between_servers({ { listen = ":1", script = "a" } }, { { listen = ":1", script = "a", [key] = value } })
        assert.same({}, d.refused)
        assert.same({ generation = true }, d.changed[1].how)
      end
    end)

    it("compares scripts and options of a program, whatever they are", function()
      local function one() end
      local knot = {}
      knot.knot = knot
      local function with(script, options)
        return assert(config.check({ servers = { { listen = ":1", script = script, options = options } } }, "rille.run"))
      end
      local same_knot = { knot = {} }
      same_knot.knot.knot = same_knot
      assert.is_true(diff.is_empty(diff(with(one, knot), with(one, knot))))
      assert.is_true(diff.is_empty(diff(with(one, knot), with(one, same_knot))))
      local d = diff(with(one, { knot = knot, box = 1LL, f = one }),
        with({ on_request = one }, { knot = { knot = {} }, box = 1LL, f = one }))
      assert.same({ "script", "options.box", "options.knot.knot.knot" }, d.changed[1].what)
    end)
  end)

  describe("is told", function()
    it("in lines for people, without the values of options", function()
      local d = between(
        { loops = 2, dicts = { old = {} }, servers = { { listen = ":1", script = "a", options = { password = "secret" } },
          { listen = ":2", script = "b" } } },
        { loops = 4, pin = { 0 }, log = { level = "debug" }, dicts = { new = {} }, drain_timeout = "10s",
          reload = { drain = { deadline = "1m" } }, servers = {
            { listen = { ":1", ":3" }, script = "a", options = { password = "hidden" }, mode = "0600" },
            { listen = ":4", script = "c" } } })
      assert.same({
        "loops: 2 -> 4 needs a restart",
        "pin: needs a restart",
        "servers[1].mode: none -> 384 needs a restart: :1 stays open",
        "drain_timeout: 30 -> 10 at once",
        'log.level: "info" -> "debug" at once',
        "dicts.new: added at once",
        "dicts.old: stays until a restart",
        "reload.drain.deadline: none -> 60 at once",
        "server c: added at :4",
        "server b: removed",
        "server a: listen, options.password, reload.drain.deadline (+:3)",
      }, diff.report(d))
    end)

    it("for dicts that Lua states have to know of, with new ones", function()
      local servers = { { listen = ":1", script = "a" } }
      local d = diff(checked { servers = servers }, checked { servers = servers, dicts = { d = { store = "redis://x" }, here = {} } })
      assert.same({ ["dicts.d"] = "dicts", ["dicts.here"] = "dicts" }, said(d.live, "how"))
      assert.same({ "dicts.d" }, d.changed[1].what)
      assert.is_true(d.changed[1].how.generation)
    end)

    it("as the configuration that holds then, so that what was refused is named again the next time", function()
      local old = checked { loops = 2, dicts = { old = {}, same = {} }, servers = { { listen = ":1", script = "a" } } }
      local new = checked { loops = 4, pin = true, dicts = { same = { size = "1m" } }, log = { level = "warn" },
        servers = { { listen = ":2", script = "b" }, { listen = { ":1", ":3" }, script = "a", receive_buffer = 5, send_buffer = 9 } } }
      local d = diff(old, new)
      local result = diff.result(new, d)
      assert.same({ 2, nil, "warn", 0, 0 }, { result.loops, result.pin, result.log.level, result.servers[2].receive_buffer,
        result.servers[2].send_buffer })
      assert.same({ old = { size = 2 ^ 24 }, same = { size = 2 ^ 24 } }, result.dicts)
      assert.same({ 4, true, 5 }, { new.loops, new.pin, new.servers[2].receive_buffer })
      local again = diff(result, new)
      assert.same(keys_of(d.refused), keys_of(again.refused))
      assert.same({ ["dicts.old"] = "stays" }, said(again.live, "how"))
      assert.same({ {}, {}, {} }, { again.added, again.removed, again.changed })
      assert.is_nil(config.problem(result, "x.lua"))
      -- a dict stays where it is
      for _, pair in ipairs { { {}, { store = "redis://x", cache = 5 } }, { { store = "redis://x", cache = 5 }, {} } } do
        local before, after = checked { dicts = { d = pair[1] } }, checked { dicts = { d = pair[2] } }
        local difference = diff(before, after)
        assert.same(before.dicts, diff.result(after, difference).dicts)
        assert.same({}, difference.live)
      end
      -- what is good with one loop is not with those there are
      new = checked { servers = { { listen = "udp://:1", script = "a", session = {}, accept = "shared" } } }
      assert.matches("^x.lua: servers%[1%].session: accept = \"shared\" at udp://:1 cannot keep a peer on one loop",
        config.problem(diff.result(new, diff(old, new)), "x.lua"))
    end)
  end)
end)
