-- The configuration: what it accepts, what it makes of it, and what it says when something is wrong.

local config = require "rille.config"
local defaults = require "rille.defaults"

local folder

local function sh(command)
  assert(os.execute(command) == 0, command)
end

-- Write a file below the temporary folder; its path.
local function write(name, text)
  local path = folder .. "/" .. name
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  return path
end

-- Load a configuration of this text; what config.load returned, with the folder's name taken out of a message.
local function load_text(text, name)
  local conf, message = config.load(write(name or "conf/rille.lua", text))
  if conf then conf.loaded = nil end -- what a reload needs
  return conf, message and message:gsub(folder:gsub("%p", "%%%0") .. "/", "")
end

-- The message for a configuration that must not be accepted; it is one line.
local function problem(text)
  local conf, message = load_text(text)
  assert.is_nil(conf)
  assert.not_matches("\n", message)
  return message
end

local function problem_in_server(text)
  return problem('return { servers = { { listen = "tcp://127.0.0.1:0", script = "gateway",\n' .. text .. "\n} } }")
end

-- The first (and only) server of a configuration that is accepted.
local function server_with(text)
  local conf, message = load_text('return { servers = { { listen = ":0", script = "gateway",\n' .. text .. "\n} } }")
  assert.is_nil(message)
  return conf.servers[1]
end

describe("the configuration", function()
  setup(function()
    local p = io.popen("mktemp -d")
    folder = p:read("*l")
    p:close()
    sh("mkdir " .. folder .. "/conf " .. folder .. "/scripts")
    write("scripts/echo.lua", "return function() end\n")
  end)

  teardown(function() sh("rm -rf " .. folder) end)

  describe("of a file", function()
    it("has every default filled in, in seconds and bytes", function()
      local conf, message = load_text('return { servers = { { listen = "tcp://127.0.0.1:7000", script = "gateway" } } }')
      assert.is_nil(message)
      local timeouts = { read = 0, write = 60, idle = 75, lifetime = 0, linger = 2, handshake = 10, header = 10, body = 60 }
      local reload = {
        watch = true, quiet = 0.05, longest = 0.5, depends = {}, stage_timeout = 5, isolate = false, soak = 0, max_generations = 8,
        canary = { loops = 0, soak = 10, max_error_rate = 0.01, max_p99_ratio = 1.5, min_requests = 100 },
        drain = { policy = "migrate", deadline = math.huge, jitter = 0 },
      }
      assert.same({
        loops = 1, processes = 1, drain_timeout = 30, dev = false, log = { level = "info", format = "logfmt" },
        limits = { pipes = 256, turn_time = 0.001, processes = 256, bindings = 1048576 }, io = { workers = 4, queue = 4096, timeout = 60 },
        dial = { timeout = 10, max = 10000 },
        dns = { servers = {}, timeout = 2, tries = 3, cache = 1000, negative = 60, hosts = "/etc/hosts", resolv_conf = "/etc/resolv.conf" },
        timeouts = timeouts, reload = reload, dicts = {}, topics = {}, pools = {}, workers_timeout = 2,
        debug = { leaks = "off", sample = 100, turns = false },
        stall_after = 1, control = { enabled = true }, metrics = { max = 1000, series = 1000 }, file = folder .. "/conf/rille.lua",
        servers = { {
          listen = { "tcp://127.0.0.1:7000" }, script = "gateway", options = {}, timeouts = timeouts,
          limits = {
            memory = 2 ^ 30,
            read_rate = 0, write_rate = 0,
            max_input = 2 ^ 20, high_water = 2 ^ 20, max_connections = 0, head = 16384, target = 8192, headers = 100,
            max_connections_per_address = 0, shed_after = 5,
            body = 2 ^ 20, body_rate = 1024, requests = 0, max_datagram = 65536, max_handlers = 4096, send_queue = 1024,
          },
          protocol = "stream", balance = "round_robin", concurrency = 1, ordered = true,
          nodelay = true, keepalive = 0, backlog = 0, ipv6_only = false, receive_buffer = 0, send_buffer = 0,
          broadcast = false, reload = reload,
        } },
      }, conf)
    end)

    it("is accepted as it comes with Rille", function()
      local conf = assert(config.load("conf/rille.lua"))
      assert.same({ "http://127.0.0.1:8080" }, conf.servers[1].listen)
      assert.equal("scripts/hello.lua", conf.servers[1].script)
    end)

    it("sizes worker pools, by a number or a table", function()
      local conf = assert(load_text('return { workers = 3, servers = { { listen = ":0", script = "gateway", offload = "pool" } } }'))
      assert.same({ max = 3, scale_threshold = 1, queue = 1024, idle_timeout = 60, memory = 2 ^ 30 }, conf.workers)
      assert.equal("pool", conf.servers[1].offload)
      conf = assert(load_text([[return { workers = { max = 2, queue = 5 }, pools = { images = { max = 8, idle_timeout = "5m" } },
        workers_timeout = "500ms", servers = { { listen = ":0", script = "gateway" } } }]]))
      assert.equal(5, conf.workers.queue)
      assert.equal(300, conf.pools.images.idle_timeout)
      assert.equal(0.5, conf.workers_timeout)
      assert.matches("workers%.memory: got 1048576; expected 0 or a size from 4m to 1024g",
        problem 'return { workers = { memory = "1m" } }')
      assert.matches("pools%.small%.memory: got 5; expected 0 or a size from 4m to 1024g",
        problem 'return { pools = { small = { memory = 5 } } }')
      assert.matches("workers%.max: got 0; expected a whole number from 1 to 1024", problem "return { workers = 0 }")
      assert.matches("workers: got \"many\"; expected a whole number of workers, or a table", problem 'return { workers = "many" }')
      assert.matches("pools%.images%.mox: unknown key; did you mean 'max'", problem "return { pools = { images = { mox = 1 } } }")
    end)

    it("is Lua: it may compute, and read the environment", function()
      local conf = assert(load_text([[
        local servers = {}
        for i = 1, 3 do servers[i] = { listen = "unix:@" .. i, script = "gateway" } end
        return { servers = servers, path = os.getenv("HOME") and "/lib/?.lua" }]]))
      assert.equal(3, #conf.servers)
      assert.same({ "unix:@3" }, conf.servers[3].listen)
    end)

    it("keeps its globals to itself, and may begin with a line for the shell", function()
      assert(load_text('#!/usr/bin/env rille\nspill = 1 return { servers = { { listen = ":0", script = "gateway" } } }'))
      assert.is_nil(rawget(_G, "spill"))
    end)

    it("names files relative to its own folder", function()
      local conf = assert(load_text([[return {
        path = "lib/?.lua;/usr/lib/?.lua", cpath = "../lib/?.so",
        log = { file = "rille.log" },
        servers = { { listen = ":0", script = "../scripts/echo.lua" } },
      }]]))
      assert.equal(folder .. "/scripts/echo.lua", conf.servers[1].script)
      assert.equal(folder .. "/conf/rille.log", conf.log.file)
      assert.equal(folder .. "/conf/lib/?.lua;/usr/lib/?.lua", conf.path)
      assert.equal(folder .. "/lib/?.so", conf.cpath)
    end)

    it("finds files beside the folder that a symbolic link names", function()
      sh(("mkdir -p %s/etc && ln -s ../conf %s/etc/conf"):format(folder, folder))
      write("conf/linked.lua", 'return { servers = { { listen = ":0", script = "../scripts/echo.lua" } } }')
      local conf = assert(config.load(folder .. "/etc/conf/linked.lua"))
      assert(io.open(conf.servers[1].script)):close()
    end)
  end)

  describe("takes", function()
    it("times as seconds or with ms, s, m, h", function()
      local timeouts = server_with('timeouts = { read = 1.5, write = "250ms", idle = "2s", lifetime = "5m", linger = "1h" }').timeouts
      assert.same({ read = 1.5, write = 0.25, idle = 2, lifetime = 300, linger = 3600, handshake = 10, header = 10, body = 60 }, timeouts)
    end)

    it("sizes as bytes or with k, m, g", function()
      local limits = server_with('limits = { max_input = "64k", high_water = "1G" }').limits
      assert.equal(65536, limits.max_input)
      assert.equal(2 ^ 30, limits.high_water)
      assert.equal(1536, server_with('limits = { max_input = "1.5k" }').limits.max_input)
      assert.equal(100, server_with("limits = { max_input = 100 }").limits.max_input)
    end)

    it("true and false for what can be switched off", function()
      local function control_of(text)
        return assert(load_text('return { control = ' .. text .. ', servers = { { listen = ":0", script = "a" } } }')).control
      end
      assert.same({ enabled = false }, control_of "false")
      assert.same({ enabled = true }, control_of "true")
      assert.same({ enabled = true, path = folder .. "/run/x.sock" }, control_of '{ path = "../run/x.sock" }')
      assert.matches("control: got 5; expected a table", problem("return { control = 5 }"), 1, true)
    end)

    it("time-outs at the top for all servers, each of which may have its own", function()
      local conf = assert(load_text([[return { timeouts = { idle = "5s", read = 1 }, servers = {
        { listen = ":0", script = "a", timeouts = { idle = 0 } }, { listen = ":0", script = "b" } } }]]))
      assert.same({ read = 1, write = 60, idle = 0, lifetime = 0, linger = 2, handshake = 10, header = 10, body = 60 },
        conf.servers[1].timeouts)
      assert.same({ read = 1, write = 60, idle = 5, lifetime = 0, linger = 2, handshake = 10, header = 10, body = 60 },
        conf.servers[2].timeouts)
    end)

    it("names of servers, which no two have", function()
      assert.equal("a.B_c-1", server_with('name = "a.B_c-1"').name)
      for _, text in ipairs { '""', '"a b"', '"a@1"', "5", '"' .. ("x"):rep(49) .. '"' } do
        assert.matches('^conf/rille.lua:2: servers%[1%].name: got .*; expected a name of 1 to 48 letters, digits, "_", "%." and "%-"$',
          problem_in_server("name = " .. text))
      end
      assert.equal('conf/rille.lua:2: servers[2].name: got "a"; that is servers[1]', problem(
        'return { servers = { { name = "a", listen = ":0", script = "x" },\n{ name = "a", listen = ":0", script = "y" } } }'))
      assert.equal('conf/rille.lua:1: servers[1].name: got "y"; so is servers[2] called, after its script: give it a name as well',
        problem('return { servers = { { name = "y", listen = ":0", script = "x" },\n{ listen = ":0", script = "y" } } }'))
    end)

    it("how scripts are loaded again, at the top and for a server, which inherits each value", function()
      local conf, message = load_text([[return { reload = { quiet = "1s", longest = "2s", canary = { loops = 1, max_error_rate = 0.5 } },
        servers = {
          { listen = ":0", script = "a", reload = { watch = false, depends = "x/y.json", canary = { soak = "1m" },
            drain = { policy = "close", deadline = "5m", jitter = "10s" } } },
          { listen = ":0", script = "b", reload = { drain = { deadline = "none" } } },
        } }]])
      assert.is_nil(message)
      local a, b = conf.servers[1].reload, conf.servers[2].reload
      assert.same({ false, 1, 2 }, { a.watch, a.quiet, a.longest })
      assert.same({ loops = 1, soak = 60, max_error_rate = 0.5, max_p99_ratio = 1.5, min_requests = 100 }, a.canary)
      assert.same({ policy = "close", deadline = 300, jitter = 10 }, a.drain)
      assert.same({ folder .. "/conf/x/y.json" }, a.depends)
      assert.same(conf.reload, b)
      conf = assert(load_text([[return { reload = { canary = { loops = 1, soak = "10s", max_error_rate = 0.01, max_p99_ratio = 1.5,
        min_requests = 100 } }, servers = { { listen = ":0", script = "a" } } }]]))
      assert.equal(1, conf.servers[1].reload.canary.loops)
    end)

    it("one address or many", function()
      assert.same({ ":0" }, server_with("").listen)
      assert.same({ "tcp://[::1]:1", "unix:///tmp/x" }, server_with('listen = { "tcp://[::1]:1", "unix:///tmp/x" }').listen)
    end)

    it("permission bits in octal", function()
      assert.equal(tonumber("660", 8), server_with('mode = "0660"').mode)
      assert.equal(tonumber("600", 8), server_with('mode = "600"').mode)
      assert.matches('servers%[1%].mode: got 660; expected permission bits as an octal string such as "0660"',
        problem_in_server("mode = 660"))
      assert.matches("got \"0888\"", problem_in_server('mode = "0888"'))
    end)

    it('loops = "auto" as the number of processors', function()
      local cpus = tonumber(io.popen("nproc"):read("*a"))
      assert.equal(cpus, load_text('return { loops = "auto", servers = { { listen = ":0", script = "a" } } }').loops)
      for _, loops in ipairs { "257", "0", '"many"', "1.5" } do
        assert.equal(("conf/rille.lua:2: loops: got %s; expected a whole number from 1 to 256, or \"auto\""):format(loops),
          problem('return { servers = { { listen = ":0", script = "a" } },\nloops = ' .. loops .. " }"))
      end
    end)

    it("dicts by their names", function()
      local rest = ', servers = { { listen = ":0", script = "a" } } }'
      local conf = assert(load_text('return { dicts = { limits = { size = "1m" }, ["my sessions"] = {} }' .. rest))
      assert.same({ limits = { size = 2 ^ 20 }, ["my sessions"] = { size = 2 ^ 24 } }, conf.dicts)
      for text, expected in pairs {
        ['{ a = { size = "1k" } }'] =
          'dicts.a.size: got "1k"; expected a size from 16k to 256g: bytes, or a string such as "64k", "1m"',
        ['{ a = "1m" }'] = 'dicts.a: got "1m"; expected a table',
        ["{ a = { sise = 1 } }"] = "dicts.a.sise: unknown key; did you mean 'size'?",
        ["{ { size = 1 } }"] = "dicts[1]: not a name; expected dicts = { NAME = { ... } }, NAME of 1 to 255 bytes",
        ["1"] = "dicts: got 1; expected a table of tables",
        ['{ a = { store = "http://x" } }'] = 'dicts.a.store: got "http://x"; expected a URL such as "redis://127.0.0.1:6379/0", '
          .. '"rediss://HOST" or "unix:/PATH"',
        ['{ a = { store = "http://me:secret@x" } }'] = 'dicts.a.store: got "http://me:...@x"; expected a URL such as '
          .. '"redis://127.0.0.1:6379/0", "rediss://HOST" or "unix:/PATH"',
        ['{ a = { store = "redis://x", size = "1m" } }'] = "dicts.a.size: is of a dict in memory; this one has a store",
        ["{ a = { cache = 5 } }"] = "dicts.a.cache: is of a dict with a store; add store",
      } do
        assert.equal("conf/rille.lua:2: " .. expected, problem("return {\ndicts = " .. text .. rest))
      end
      assert.equal("conf/rille.lua:1: size: unknown key; did you mean 'dicts.NAME.size'?", problem('return { size = "1m"' .. rest))
    end)

    it("plain data as options", function()
      local options = { a = 1, b = "x", c = { true, { d = 0.5 } } }
      assert.same(options, server_with('options = { a = 1, b = "x", c = { true, { d = 0.5 } } }').options)
      assert.equal("conf/rille.lua:3: servers[1].options.db.connect: is a function; options are plain data",
        problem_in_server("options = { db = {\nconnect = print } }"))
      assert.matches("options: is a table in itself", problem(
        'local t = {} t.t = t return { servers = { { listen = ":0", script = "a", options = t } } }'))
    end)

    it("a banner of one line or more", function()
      local rest = ', servers = { { listen = ":0", script = "a" } } }'
      assert.same({ "hi" }, load_text('return { banner = "hi"' .. rest).banner)
      assert.same({ "a", "b" }, load_text('return { banner = { "a", "b" }' .. rest).banner)
    end)
  end)

  describe("refuses, in one line with file and line,", function()
    it("unknown keys, with the one that may be meant", function()
      assert.equal("conf/rille.lua:2: servers[1].lisen: unknown key; did you mean 'listen'?",
        problem('return { servers = { {\n  lisen = ":0", script = "a" } } }'))
      assert.equal("conf/rille.lua:1: sevrers: unknown key; did you mean 'servers'?", problem("return { sevrers = {} }"))
      assert.equal("conf/rille.lua:3: servers[1].limits.max_inptu: unknown key; did you mean 'max_input'?",
        problem_in_server("limits = {\nmax_inptu = 1 }"))
    end)

    it("keys in the wrong place, with the right one", function()
      assert.equal("conf/rille.lua:2: servers[1].max_input: unknown key; did you mean 'limits.max_input'?",
        problem_in_server("max_input = 1"))
      assert.equal("conf/rille.lua:1: listen: unknown key; did you mean 'servers[1].listen'?",
        problem('return { listen = ":0" }'))
      assert.equal("conf/rille.lua:2: servers[1].loops: unknown key here; at the top level there is 'loops'",
        problem_in_server("loops = 1"))
      assert.equal("conf/rille.lua:2: servers[1].turn_time: unknown key here; at the top level there is 'limits.turn_time'",
        problem_in_server("turn_time = 1"))
    end)

    it("keys that are like no other, with those there are", function()
      assert.matches("^conf/rille.lua:1: zzzzzz: unknown key; expected one of loops, processes, user, drain_timeout, ",
        problem("return { zzzzzz = 1 }"))
    end)

    it("values of a wrong type or out of bounds, with what is expected", function()
      local time = ': seconds, or a string such as "250ms", "2s", "5m", "1h"'
      local size = ': bytes, or a string such as "64k", "1m"'
      for text, expected in pairs {
        ['timeouts = { idle = "soon" }'] = 'timeouts.idle: got "soon"; expected a time from 0 to 1000h' .. time,
        ["timeouts = { idle = -1 }"] = "timeouts.idle: got -1; expected a time from 0 to 1000h" .. time,
        ["timeouts = { idle = 0/0 }"] = "timeouts.idle: got nan; expected a time from 0 to 1000h" .. time,
        ['timeouts = { idle = "30" }'] = 'timeouts.idle: got "30"; expected a time from 0 to 1000h' .. time,
        ["timeouts = 5"] = "timeouts: got 5; expected a table",
        ["limits = { max_input = 0 }"] = "limits.max_input: got 0; expected a size from 1 to 1g" .. size,
        ['limits = { max_input = "2g" }'] = 'limits.max_input: got "2g"; expected a size from 1 to 1g' .. size,
        ["limits = { max_input = 1.5 }"] = "limits.max_input: got 1.5; expected a size from 1 to 1g" .. size,
        ["limits = { max_connections = 1e9 }"] =
          "limits.max_connections: got 1000000000; expected a whole number from 0 to 1048576",
        ['nodelay = "yes"'] = 'nodelay: got "yes"; expected true or false',
        ["script = print"] = "script: got a function; expected a path or a module name",
        ["codec = {}"] = [[codec: got a table; expected a framing such as "line" or { "line", max = "4k" }, or the name of a module]],
        ['codec = { "lines" }'] = 'codec[1]: got "lines"; expected one of "chain", "delimiter", "fixed", "length_field", "line", '
          .. '"netstring", "resp", "varint"',
        ['codec = { "line", max = 0 }'] = "codec.max: got 0; expected a size from 1 to 1073741824" .. size,
        ['codec = { "line", maximum = 1 }'] = "codec.maximum: unknown option; line takes max, eol",
        ['codec = { "delimiter", "" }'] = 'codec[2]: got ""; expected a string of 1 to 64 bytes',
        ['codec = "fixed"'] = "codec: needs a size, as in { 16 }",
        ['codec = { "chain", { "length_field", length = 5 }, { "varint" } }'] = "codec[2].length: got 5; expected 1, 2, 3, 4 or 8",
        ['codec = { "chain", { "resp" }, { "varint" } }'] = "codec[2]: resp makes values; it has to be the last one",
        ['codec = { "length_field", max = 2 }'] = "codec.max: got 2; expected at least offset + length, 4",
        ['codec = { "netstring", max = "2m" }'] = "codec: a frame may have 2097164 bytes, more than limits.max_input, 1048576; "
          .. "raise that, or lower the codec's max",
        ["options = 1"] = "options: got 1; expected a table",
        ['device = ""'] = 'device: got ""; expected a string of 1 to 15 bytes',
        ["reload = 5"] = "reload: got 5; expected a table",
        ["reload = { watch = 1 }"] = "reload.watch: got 1; expected true or false",
        ["reload = { isolate = 1 }"] = "reload.isolate: got 1; expected true or false",
        ["reload = { stage_timeout = 0 }"] = "reload.stage_timeout: got 0; expected a time from 100ms to 1h" .. time,
        ["reload = { max_generations = 1 }"] = "reload.max_generations: got 1; expected a whole number from 2 to 64",
        ['reload = { quiet = "2m" }'] = 'reload.quiet: got "2m"; expected a time from 0 to 1m' .. time,
        ['reload = { longest = "11m" }'] = 'reload.longest: got "11m"; expected a time from 0 to 10m' .. time,
        ['reload = { longest = "10ms" }'] = "reload.longest: got 0.01; expected at least quiet, 0.05",
        ["reload = { soak = -1 }"] = "reload.soak: got -1; expected a time from 0 to 1000h" .. time,
        ["reload = { depends = 5 }"] = "reload.depends: got 5; expected a path or a list of paths",
        ['reload = { depends = { "a", "" } }'] = 'reload.depends[2]: got ""; expected a path',
        ['reload = { depends = { a = "b" } }'] = 'reload.depends: has a key "a"; expected a path or a list of paths',
        ["reload = { canary = 1 }"] = "reload.canary: got 1; expected a table",
        ["reload = { canary = { loops = 257 } }"] = "reload.canary.loops: got 257; expected a whole number from 0 to 256",
        ["reload = { canary = { soak = {} } }"] = "reload.canary.soak: got a table; expected a time from 0 to 1000h" .. time,
        ["reload = { canary = { max_error_rate = 1.5 } }"] = "reload.canary.max_error_rate: got 1.5; expected a number from 0 to 1",
        ["reload = { canary = { max_error_rate = 0/0 } }"] = "reload.canary.max_error_rate: got nan; expected a number from 0 to 1",
        ["reload = { canary = { max_p99_ratio = 0 } }"] = "reload.canary.max_p99_ratio: got 0; expected a number from 1 to 1000",
        ["reload = { canary = { min_requests = 0.5 } }"] =
          "reload.canary.min_requests: got 0.5; expected a whole number from 0 to 1073741824",
        ["reload = { canary = { lops = 1 } }"] = "reload.canary.lops: unknown key; did you mean 'loops'?",
        ['reload = { drain = { policy = "drop" } }'] = 'reload.drain.policy: got "drop"; expected "stay", "migrate" or "close"',
        ['reload = { drain = { deadline = "never" } }'] = 'reload.drain.deadline: got "never"; expected a time from 0 to 1000h, or "none"',
        ["reload = { drain = { jitter = true } }"] = "reload.drain.jitter: got true; expected a time from 0 to 1000h" .. time,
        ["listen = {}"] = 'listen: is empty; expected a URL such as "tcp://127.0.0.1:7000", or a list of such',
        ["listen = 7000"] = 'listen: got 7000; expected a URL such as "tcp://127.0.0.1:7000", or a list of such',
      } do
        assert.equal("conf/rille.lua:2: servers[1]." .. expected, problem_in_server(text))
      end
      assert.equal("conf/rille.lua:1: reload.longest: got 0.01; expected at least quiet, 0.05",
        problem('return { reload = { longest = 0.01 }, servers = { { listen = ":0", script = "a" } } }'))
      assert.equal('conf/rille.lua:1: log.level: got "loud"; expected "debug", "info", "warn", "error" or "off"',
        problem('return { log = { level = "loud" } }'))
      assert.equal("conf/rille.lua:1: log.to: only rille.run, in a program, takes a function",
        problem("return { log = { to = print } }"))
    end)

    it("addresses that cannot be listened on", function()
      assert.matches('^conf/rille.lua:2: servers%[1%].listen: bad address "tpc://127.0.0.1:1": unknown scheme; expected http, https, tls',
        problem_in_server('listen = "tpc://127.0.0.1:1"'))
      assert.matches('^conf/rille.lua:3: servers%[1%].listen%[2%]: bad address "tcp://127.0.0.1:99999"',
        problem_in_server('listen = { ":0",\n"tcp://127.0.0.1:99999" }'))
    end)

    it("scripts that are not there", function()
      assert.equal('conf/rille.lua:2: servers[1].script: cannot open "scripts/no.lua" '
        .. "(a relative path starts at the configuration's folder)", (problem_in_server('script = "../scripts/no.lua"')
        :gsub(folder:gsub("%p", "%%%0") .. "/", "")))
    end)

    it("servers without an address or a script, or none at all", function()
      assert.matches("^conf/rille.lua:2: servers%[2%]: has no 'listen'; add where: ", problem(
        'return { servers = { { listen = ":0", script = "a" },\n{ script = "a" } } }'))
      assert.matches("^conf/rille.lua:1: servers%[1%]: has no 'script'; add ", problem('return { servers = { { listen = ":0" } } }'))
      assert.matches("^conf/rille.lua: has no servers; add servers = ", problem("return {}"))
      assert.equal("conf/rille.lua:1: servers: expected a list of tables: servers = { { ... }, { ... } }",
        problem('return { servers = { listen = ":0", script = "a" } }'))
    end)

    it("a file that is not Lua, fails, returns something else or is not there", function()
      assert.equal("conf/rille.lua:2: '}' expected (to close '{' at line 1) near 'b'", problem("return { a = 1\nb = 2 }"))
      assert.equal("conf/rille.lua:2: attempt to index global 'nothing' (a nil value)", problem("\nlocal x = nothing.x"))
      assert.equal("conf/rille.lua:1: module 'no.such' not found", problem('require "no.such"'))
      assert.equal("conf/rille.lua: a message without a place", problem('error("a message without a place\\nand more", 0)'))
      assert.equal("conf/rille.lua: returned nothing; expected a table: return { servers = { ... } }", problem("local x"))
      assert.equal("conf/rille.lua: returned 5; expected a table: return { servers = { ... } }", problem("return 5"))
      local _, message = config.load("no/such.lua")
      assert.equal("cannot open no/such.lua: No such file or directory", message)
      _, message = config.load("spec")
      assert.equal("cannot read spec: Is a directory", message)
      assert.matches("^conf/rille.lua: ", problem(string.dump(function() return {} end)))
    end)

    it("with the whole name of a file whose path is long", function()
      local long = ("deep/"):rep(20)
      sh("mkdir -p " .. folder .. "/" .. long)
      local _, message = load_text("return {", long .. "c.lua")
      assert.matches("^" .. long .. "c.lua:1: ", message)
      _, message = load_text("nothing()", long .. "c.lua")
      assert.matches("^" .. long .. "c.lua:1: attempt to call", message)
    end)

    it("and shows what it found on one line, short", function()
      local message = problem_in_server('nodelay = "a\\nb' .. ("x"):rep(500) .. '"')
      assert.matches('got "a\\10bxxx', message, 1, true)
      assert.is_true(#message < 160)
    end)
  end)

  describe("says the line of a key", function()
    -- text of a configuration in which the key of the message stands at the line that has a comment "here"
    local function assert_found(text, key)
      local expected, at = nil, 0
      for line in (text .. "\n"):gmatch("([^\n]*)\n") do
        at = at + 1
        if line:find("here", 1, true) then expected = at end
      end
      local message = problem(text)
      assert.equal(("conf/rille.lua:%d: %s"):format(expected, key), message:match("^[^:]*:%d*: [^:]*"))
    end

    it("behind comments, long strings and other keys of the same name", function()
      assert_found([==[
--[[ a comment
     idle = 1 ]]
local text = [=[
  idle = ]=] -- idle = 3
return {
  banner = 'it\'s { "idle = 5"',
  timeouts = { idle = 5 },
  servers = {
    { listen = ":0", script = "a", timeouts = { idle = 6 } };
    { listen = ":0", script = "b", options = { f = (function() local a, b = 1, 2 if a then return b end end)() },
      timeouts = {
        ["idle"] = "no", -- here
      },
    },
  },
}]==], "servers[2].timeouts.idle")
    end)

    it("in tables that have names of their own", function()
      assert_found([[
local limits = {
  max_input = {}, -- here
}
local server = { listen = ":0", script = "a", limits = limits }
return { servers = { server } }]], "servers[1].limits.max_input")
    end)

    it("in tables that are filled later", function()
      assert_found([[
local conf = { servers = {}, log = { level = "info" } }
conf.servers[1] = { listen = ":0", script = "a" }
conf.servers[2] = {
  listen = ":0",
  script = "b",
  nodelay = 1, -- here
}
return conf]], "servers[2].nodelay")
      assert_found([[
local conf = { log = { level = "info" } }
conf.log.level = 7 -- here
return conf]], "log.level")
    end)

    it("in tables from a function, when its name stands there once", function()
      assert_found([[
local function server(port)
  return {
    listen = ":" .. port, script = "a",
    nodelay = 1, -- here
  }
end
return { servers = { server(1), server(2) } }]], "servers[1].nodelay")
    end)

    it("and only the file where it cannot be found", function()
      assert.matches("^conf/rille.lua: servers%[1%].nodelay: got 1; ", problem([[
local server = { listen = ":0", script = "a" }
server["no" .. "delay"] = 1
return { servers = { server } }]]))
    end)
  end)

  describe("of a program", function()
    local function echo() end

    it("may have functions and tables of hooks as scripts", function()
      local hooks = { on_request = echo }
      local conf = assert(config.check({ servers = { { listen = ":0", script = echo }, { listen = ":0", script = hooks } } },
        "rille.run"))
      assert.equal(echo, conf.servers[1].script)
      assert.equal(hooks, conf.servers[2].script)
    end)

    it("may have any options, and a codec as a table or a module", function()
      local codec = { decode = echo }
      package.loaded["codec.of.this.spec"] = codec
      local options = { f = echo }
      local conf = assert(config.check({ servers = {
        { listen = ":0", script = echo, codec = codec, options = options },
        { listen = ":0", script = echo, codec = "codec.of.this.spec" },
      } }, "rille.run"))
      assert.equal(codec, conf.servers[1].codec)
      assert.equal(codec, conf.servers[2].codec)
      assert.equal(options, conf.servers[1].options)
      package.loaded["codec.of.this.spec"] = nil
      local _, message = config.check({ servers = { { listen = ":0", script = echo, codec = "codec.of.nobody" } } }, "rille.run")
      assert.equal("rille.run: servers[1].codec: module 'codec.of.nobody' not found", message)
    end)

    it("leaves paths as they are", function()
      local conf = assert(config.check({ servers = { { listen = ":0", script = "../x.lua" } } }, "rille.run"))
      assert.equal("../x.lua", conf.servers[1].script)
    end)

    it("is refused with the name of the function that was called", function()
      local function message_for(given)
        local conf, message = config.check(given, "rille.run")
        assert.is_nil(conf)
        return message
      end
      assert.equal("rille.run: servers[1].script: got 5; expected a function, a table of hooks, a path or a module name",
        message_for { servers = { { listen = ":0", script = 5 } } })
      assert.matches("^rille.run: has no servers; ", message_for {})
      assert.equal("rille.run: got nothing; expected a table", message_for(nil))
      assert.equal("rille.run: got \"x\"; expected a table", message_for("x"))
    end)

    it("may have its log lines in a function, or in a file", function()
      local conf = assert(config.check({ servers = { { listen = ":0", script = echo } }, log = { to = echo } }, "rille.run"))
      assert.equal(echo, conf.log.to)
      local _, message = config.check({ servers = { { listen = ":0", script = echo } }, log = { to = echo, file = "x" } },
        "rille.run")
      assert.equal("rille.run: log.to: excludes log.file; keep one of them", message)
    end)

    it("is not changed by the check", function()
      local given = { servers = { { listen = ":0", script = echo } } }
      assert(config.check(given, "rille.run"))
      assert.same({ servers = { { listen = ":0", script = echo } } }, given)
    end)
  end)

  describe("of rille.listen", function()
    it("has the settings of a server", function()
      local settings = assert(config.server({ limits = { max_input = "4k" }, timeouts = { idle = 1 } }, "rille.listen"))
      assert.equal(4096, settings.limits.max_input)
      assert.same({ read = 0, write = 60, idle = 1, lifetime = 0, linger = 2, handshake = 10, header = 10, body = 60 }, settings.timeouts)
      assert.is_true(settings.nodelay)
    end)

    it("is refused when two keys exclude each other", function()
      local settings, message = config.server({ codec = { decode = print }, protocol = "http" }, "rille.listen")
      assert.is_nil(settings)
      assert.equal('rille.listen: codec: excludes protocol = "http"; keep one of them', message)
      assert.equal("conf/rille.lua:2: servers[1].codec: excludes http://:0, which speaks HTTP; keep one of them",
        problem_in_server 'codec = "lines", listen = "http://:0"')
      assert.equal("conf/rille.lua:2: servers[1].concurrency: got 4; it needs a codec, which makes frames",
        problem_in_server "concurrency = 4")
      assert.equal("conf/rille.lua:2: servers[1].limits.low_water: got 200; expected at most high_water, 100",
        problem_in_server "limits = { high_water = 100, low_water = 200 }")
    end)

    it("is refused with the key that is wrong", function()
      local settings, message = config.server({ nodelay = 1 }, "rille.listen")
      assert.is_nil(settings)
      assert.equal("rille.listen: nodelay: got 1; expected true or false", message)
      for _, key in ipairs { "name", "reload" } do
        assert.matches("^rille.listen: " .. key .. ": unknown key", select(2, config.server({ [key] = {} }, "rille.listen")))
      end
      assert.matches("^rille.listen: listen: unknown key", select(2, config.server({ listen = ":0" }, "rille.listen")))
    end)
  end)

  describe("is documented:", function()
    local page

    setup(function()
      local f = assert(io.open("docs/conf.md"))
      page = f:read("*a")
      f:close()
    end)

    local function text_of(value)
      if value == nil then return "none" end
      if type(value) == "string" then return ('`"%s"`'):format(value) end
      if type(value) == "table" then return "`{}`" end
      return ("`%s`"):format(tostring(value))
    end

    local function bounds_of(entry)
      if entry.values then return ('`"%s"`'):format(table.concat(entry.values, '"`, `"')) end
      if entry.min then return ("%s to %s"):format(entry.min, entry.max) end
      if entry.max then return ("at most %s"):format(entry.max) end
      return ""
    end

    -- The row of a key as it stands in docs/conf.md.
    local function row_of(entry)
      local default = entry.required and "needed" or entry.inherits and "the top level's"
        or entry.keys and "" or text_of(entry.default)
      return ("| `%s` | %s | %s | %s | %s |"):format(entry.name, entry.type, default, bounds_of(entry), entry.about)
    end

    local function each_key(keys, visit)
      for _, entry in ipairs(keys) do
        visit(entry)
        if entry.keys then each_key(entry.keys, visit) end
      end
    end

    it("every key with its type, default, bounds and meaning stands in docs/conf.md", function()
      local missing = {}
      each_key(defaults.top, function(entry)
        local row = row_of(entry)
        if not page:find(row, 1, true) then missing[#missing + 1] = row end
      end)
      assert.equal("", table.concat(missing, "\n"))
    end)

    it("no key that is not one stands in its tables", function()
      local rows, strangers = {}, {}
      each_key(defaults.top, function(entry) rows[row_of(entry)] = true end)
      for row in page:gmatch("\n(| `[%w_]+` |[^\n]*)") do
        if not rows[row] then strangers[#strangers + 1] = row end
      end
      assert.equal("", table.concat(strangers, "\n"))
    end)

    it("its examples are accepted", function()
      local count = 0
      for text in page:gmatch("```lua\n(.-)```") do
        if text:find("^%-%- conf/") then
          count = count + 1
          local _, message = load_text(text)
          assert.is_nil(message)
        end
      end
      assert.is_true(count > 0)
    end)
  end)
end)
