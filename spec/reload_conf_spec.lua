-- The configuration is loaded again while its servers serve: servers come, go and change, the others never notice.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local redis = require "spec.support.redis"
local server = require "spec.support.server"
local net = server.net

-- Says who it is to those who connect, and in front of each line it echoes.
local SCRIPT = [[
local options = ...
return {
  on_connect = function(conn) conn:write(options.say .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return end
    if line:str() == "options" then
      conn:write(("%s %s\n"):format(conn:option("nodelay"), conn:option("keepalive") and conn:option("keepalive_idle")))
      return
    end
    local seconds = tonumber(line:str():match("^sleep (.*)"))
    if seconds then require("rille").sleep(seconds) end
    conn:write(options.say .. ":" .. line:str() .. "\n")
  end,
  on_retire = function() require("rille").log.info("said retire " .. options.say) end,
}
]]

local numbers = 0

-- An abstract address of nobody else's.
local function name_of(what)
  numbers = numbers + 1
  return ("unix:@rille-spec-%d-%d-%s"):format(net.C.net_getpid and net.C.net_getpid() or math.random(2 ^ 31), numbers, what)
end

local function one(say, listen, more)
  local s = { name = say, script = server.folder() .. "/who.lua", listen = listen, options = { say = say } }
  for key, value in pairs(more or {}) do s[key] = value end
  return s
end

local function lua_of(value)
  if type(value) ~= "table" then return type(value) == "string" and ("%q"):format(value) or tostring(value) end
  local parts = {}
  for k, v in pairs(value) do parts[#parts + 1] = ("[%s] = %s"):format(lua_of(k), lua_of(v)) end
  table.sort(parts)
  return "{ " .. table.concat(parts, ", ") .. " }"
end

local socket

local function write_conf(servers, more)
  local conf = { servers = servers, control = { path = socket }, reload = { watch = false } }
  for key, value in pairs(more or {}) do conf[key] = value end
  return server.write("conf.lua", "return " .. lua_of(conf) .. "\n")
end

-- A server with these servers and further keys.
local function start(servers, more, opts)
  opts = opts or {}
  server.write("who.lua", SCRIPT)
  socket = server.folder() .. "/control.sock"
  local count = 0
  for _, s in ipairs(servers) do count = count + (type(s.listen) == "table" and #s.listen or 1) end
  local path = write_conf(servers, more)
  local command = { server.root .. "/bin/rille", "run", "--conf", path }
  for _, word in ipairs(opts.words or {}) do command[#command + 1] = word end
  local s = server.spawn(nil, { command = command, allow_errors = opts.allow_errors })
  s:wait_listening(count)
  return s
end

-- `rille reload`: the report, the exit status, stderr.
local function reload(words)
  local code, out, err = control.rille { "reload", "--json", "--control", socket, unpack(words or {}) }
  return json.decode(out) or {}, code, err
end

local function greeting(url)
  local c, why = server.client.try_connect(url)
  if not c then return nil, why end
  local line = c:receive_line()
  return line, c
end

-- Exchanges lines all the time: stop() fails when one was not answered as it has to be.
local function load_on(url, say, count)
  local clients = {}
  for i = 1, count do
    clients[i] = server.client.connect(url)
    assert.equal(say, clients[i]:receive_line())
  end
  local sent = 0
  return function()
    for _, c in ipairs(clients) do
      sent = sent + 1
      c:send(("m%d\n"):format(sent))
      assert.equal(("%s:m%d"):format(say, sent), c:receive_line())
    end
  end
end

describe("a configuration that is loaded again", function()
  after_each(server.cleanup)

  it("adds a server and takes one away, and the others do not notice", function()
    local a, b, c = name_of("a"), name_of("b"), name_of("c")
    local s = start { one("a", a), one("b", b) }
    local exchange = load_on(a, "a", 10)
    exchange()
    local idle = server.client.connect(b)
    assert.equal("b", idle:receive_line())
    local busy = server.client.connect(b)
    busy:receive_line()
    busy:send("sleep 0.5\n")
    net.nap(50)
    write_conf { one("a", a), one("c", c) }
    s:signal("HUP")
    assert.equal("", idle:receive_all()) -- as at a stop
    exchange()
    assert.equal("b:sleep 0.5", busy:receive_line()) -- what was under way is answered
    assert.equal("", busy:receive_all())
    s:wait_log("said retire b")
    s:wait_log("b@1: retired")
    assert.is_true(net.poll_until(function() return greeting(c) == "c" end))
    assert.is_nil((greeting(b)))
    exchange()
  end)

  it("tells what it has done, and changes servers in place", function()
    local a, b, c = name_of("a"), name_of("b"), name_of("c")
    start { one("a", a), one("b", b) }
    local exchange = load_on(b, "b", 4)
    write_conf { one("a", { a, c }, { options = { say = "A" } }), one("b", b) }
    local answer, code = reload()
    assert.equal(0, code)
    assert.same({ "listen", "options.say" }, answer.conf.changed[1].what)
    assert.equal(2, #answer.reports)
    for _, url in ipairs { a, c } do assert.equal("A", (greeting(url))) end
    exchange()
    write_conf { one("a", { c }, { options = { say = "A2" } }), one("b", b) }
    assert.equal(0, select(2, reload()))
    assert.equal("A2", (greeting(c)))
    assert.is_true(net.poll_until(function() return not greeting(a) end))
    write_conf { one("b", b) }
    assert.same({ "a" }, reload().conf.removed)
    assert.is_true(net.poll_until(function() return not greeting(c) end))
    write_conf { one("b", b), one("a", { a, c }) }
    assert.same({ "a" }, reload().conf.added)
    for _, url in ipairs { a, c } do assert.equal("a", (greeting(url))) end
    exchange()
  end)

  it("that is bad changes nothing, be it wrong or endless", function()
    local a = name_of("a")
    local s = start({ one("a", a) }, { reload = { stage_timeout = "500ms", watch = false } }, { allow_errors = true })
    local exchange = load_on(a, "a", 2)
    write_conf { one("a", a, { options = { say = "A" }, nonsense = 1 }) }
    local answer, code = reload()
    assert.equal(1, code)
    assert.matches("conf%.lua.*nonsense", answer.conf.message)
    server.write("conf.lua", "while true do end\n")
    local err
    code, err = select(1, control.rille { "reload", "--control", socket }), server.read(server.folder() .. "/.err")
    assert.equal(1, code)
    assert.matches("^rille: the configuration is not reloaded: .*conf%.lua: it did not load within 0%.5 s [^\n]*\n$", err)
    assert.equal("a", (greeting(a)))
    assert.equal(0, s:count_log("a@2"))
    exchange()
    s:forget() -- a thread that was written off is still in its loop
    s:kill()
  end)

  it("names what needs a restart, and does the rest", function()
    local a = name_of("a")
    local s = start { one("a", a) }
    write_conf({ one("a", a, { options = { say = "A" } }) }, { loops = 2, log = { level = "debug" }, dicts = { d = { size = "1m" } },
      pools = { p = { max = 3 } }, workers = 2, drain_timeout = "10s", stall_after = "2s" })
    local code, out, err = control.rille { "reload", "--control", socket }
    assert.same({ 0, "rille: warning: loops: not changed: needs a restart\n" }, { code, err })
    assert.matches('conf log.level: "info" %-> "debug" at once\n', out)
    assert.matches("conf server a: options.say\n", out)
    assert.matches("ok a@2: serves after", out)
    assert.equal("A", (greeting(a)))
    local status = json.decode((select(2, control.rille { "status", "--json", "--control", socket })))
    local pools = {}
    for _, pool in ipairs(status.pools) do pools[pool.name] = pool.max end
    assert.same({ 3, 2, "d" }, { pools.p, pools.default, status.dicts[1].name })
    -- the next time it is still refused, and nothing else is to be done
    local answer = reload()
    assert.same({ "loops" }, { answer.conf.refused[1].key, (answer.conf.refused[2] or {}).key })
    assert.same({}, answer.conf.changed)
    write_conf({ one("a", a, { options = { say = "A" } }) }, { workers = 5, pools = { p = { max = 1 } }, dicts = { d = { size = "1m" } } })
    assert.equal(0, select(2, reload()))
    status = json.decode((select(2, control.rille { "status", "--json", "--control", socket })))
    for _, pool in ipairs(status.pools) do pools[pool.name] = pool.max end
    assert.same({ 1, 5 }, { pools.p, pools.default })
    assert.is_true(s:count_log("configuration: loops: not changed: needs a restart") >= 2)
  end)

  it("brings dicts with a store, and topics with a bridge, by new Lua states", function()
    local store = redis.start()
    server.write("shared.lua", [[
      local rille = require "rille"
      return function(conn)
        local line = conn:read_line()
        if not line then return conn:close() end
        local n, err = rille.dict("d"):incr("n", 1, 0)
        conn:write(("%s %s %s\n"):format(n or err, tostring(rille.dict "d"), rille.topic("t"):stats().bridge and "bridged" or "alone"))
      end
    ]])
    local a = name_of "a"
    local shared = one("a", a)
    shared.script = server.folder() .. "/shared.lua"
    start({ shared }, { dicts = { here = {} } })
    local more = { dicts = { here = {}, d = { store = store.url, timeout = 5 } }, topics = { t = { bridge = store.url } } }
    write_conf({ shared }, more)
    local _, code, err = reload()
    assert.equal(0, code, err)
    local c = server.client.connect(a):send "x\n"
    assert.equal("1 dict 'd' bridged", c:receive_line())
    assert.equal("n1", redis.output("redis-cli -p %d get rille:d:n", store.port):match "%S+")
    c:send "x\n"
    assert.equal("2 dict 'd' bridged", c:receive_line())
  end)

  it("refuses an address that is busy, and has changed nothing", function()
    local a, other = name_of("a"), name_of("other")
    start({ one("a", a) }, nil, { allow_errors = true })
    local busy = server.start(server.folder() .. "/who.lua", { listen = "tcp://127.0.0.1:0", options = { say = "x" } })
    write_conf { one("a", a, { options = { say = "A" } }), one("b", { other, busy.url }) }
    local answer, code = reload()
    assert.equal(1, code)
    assert.matches("^server b: cannot listen on " .. busy.url:gsub("%p", "%%%0") .. ": address in use", answer.conf.message)
    assert.equal("a", (greeting(a)))
    assert.is_nil((greeting(other)))
    write_conf { one("a", a, { options = { say = "A" } }), one("b", other) }
    assert.equal(0, select(2, reload()))
    assert.equal("b", (greeting(other)))
  end)

  it("says which server does not come up; the others do", function()
    local a, b, c = name_of("a"), name_of("b"), name_of("c")
    local s = start({ one("a", a), one("b", b) }, nil, { allow_errors = true })
    local broken = server.write("broken.lua", "error('no luck')\n")
    write_conf { one("a", a, { script = broken }), one("b", b, { options = { say = "B" } }), one("c", c, { script = broken }) }
    local answer, code = reload()
    assert.equal(1, code)
    local ok = {}
    for _, report in ipairs(answer.reports) do ok[report.label:match("^[^@]+")] = report.ok end
    assert.same({ a = false, b = true, c = false }, ok)
    assert.same({ "a", "B" }, { (greeting(a)), (greeting(b)) })
    assert.is_nil((greeting(c)))
    server.write("broken.lua", SCRIPT)
    assert.equal(0, select(2, reload()))
    assert.same({ "a", "B", "c" }, { (greeting(a)), (greeting(b)), (greeting(c)) })
    assert.equal(s:count_log("said retire a"), 1)
  end)

  it("lets addresses go from one server to another, of which no client is refused", function()
    local urls = { name_of("1"), name_of("2"), name_of("3") }
    start { one("a", { urls[1], urls[2] }), one("b", urls[3]) }
    local exchange = load_on(urls[1], "a", 3)
    local orders = {
      { one("a", { urls[1] }), one("b", { urls[3], urls[2] }) }, -- one moves
      { one("a", { urls[1], urls[3] }), one("b", { urls[2] }) }, -- one moves back
      { one("b", { urls[3], urls[2] }), one("a", { urls[1] }) },
      { one("a", { urls[1], urls[2] }), one("b", { urls[3] }) },
      { one("a", { urls[1], urls[3] }), one("b", { urls[2] }) }, -- they change places
      { one("a", { urls[1] }), one("c", { urls[3] }), one("b", { urls[2] }) }, -- to one that comes
      { one("a", { urls[1], urls[3] }), one("b", { urls[2] }) }, -- from one that goes
    }
    local answered = 0
    for _, servers in ipairs(orders) do
      write_conf(servers)
      local _, code = reload()
      assert.equal(0, code)
      for _, s in ipairs(servers) do
        for _, url in ipairs(s.listen) do
          assert.equal(s.name, (greeting(url)))
          answered = answered + 1
        end
      end
      exchange()
    end
    assert.equal(21, answered)
  end)

  it("tells listeners that stay what they are to be", function()
    server.write("who.lua", SCRIPT)
    local s = start { one("a", "tcp://127.0.0.1:0") }
    local function set(more)
      write_conf { one("a", "tcp://127.0.0.1:0", more) }
      assert.equal(0, select(2, reload()))
    end
    local function is_let_in(from)
      local c = server.client.try_connect(s.url, { source = ("tcp://%s:0"):format(from) })
      return c ~= nil and (pcall(c.receive_line, c))
    end
    assert.is_true(is_let_in("127.0.0.1"))
    set { deny = { "127.0.0.2/32" } }
    assert.same({ true, false }, { is_let_in("127.0.0.1"), is_let_in("127.0.0.2") })
    set { allow = { "127.0.0.2/32" } }
    assert.same({ false, true }, { is_let_in("127.0.0.1"), is_let_in("127.0.0.2") })
    set { limits = { max_connections_per_address = 1 } }
    local first = server.client.connect(s.url)
    assert.equal("a", first:receive_line())
    assert.is_false(is_let_in("127.0.0.1"))
    set {}
    assert.is_true(is_let_in("127.0.0.1"))
    local function options()
      local _, c = greeting(s.url)
      c:send("options\n")
      return c:receive_line()
    end
    assert.equal("true false", options())
    set { nodelay = false, keepalive = 77, backlog = 7 }
    assert.equal("false 77", options())
    local listing = io.popen(("ss -Hltn sport = :%d 2>/dev/null"):format(s.port)):read("*a")
    if listing ~= "" then assert.equal("7", listing:match("^%S+%s+%d+%s+(%d+)")) end
    set {}
    assert.equal("true false", options())
  end)

  it("is noticed when its file changes, or one that it loads", function()
    local a, b = name_of("a"), name_of("b")
    server.write("say.lua", "return 'one'\n")
    server.write("who.lua", SCRIPT)
    socket = server.folder() .. "/control.sock"
    local function text(listen)
      local one_server = "{ name = 'x', script = %q, listen = %s, options = { say = dofile(%q) } }"
      return ("return { control = { path = %q }, servers = { " .. one_server .. " } }\n"):format(socket,
        server.folder() .. "/who.lua", lua_of(listen), server.folder() .. "/say.lua")
    end
    local path = server.write("conf.lua", text { a })
    local s = server.spawn(nil, { command = { server.root .. "/bin/rille", "run", "--conf", path } })
    s:wait_listening(1)
    server.write("say.lua", "return 'two'\n")
    assert.is_true(net.poll_until(function() return greeting(a) == "two" end, 10))
    server.write("conf.lua", text { a, b })
    assert.is_true(net.poll_until(function() return greeting(b) == "two" end, 10))
    server.write("say.lua", "return 'three'\n")
    assert.is_true(net.poll_until(function() return greeting(a) == "three" end, 10))
  end)

  it("is not taken for changed while descriptors are short", function()
    local a = name_of("a")
    server.write("who.lua", SCRIPT)
    socket = server.folder() .. "/control.sock"
    local function text(say)
      return ("return { control = { path = %q }, servers = { { script = %q, listen = %q, options = { say = %q } } } }\n"):format(socket,
        server.folder() .. "/who.lua", a, say)
    end
    local path = server.write("conf.lua", text "one")
    local s = server.spawn(nil, { command = { server.root .. "/bin/rille", "run", "--conf", path }, ulimit = "-n 40" })
    s:wait_listening(1)
    local clients = {}
    for i = 1, 60 do clients[i] = server.client.connect(a) end
    s:wait_log("cannot accept on")
    server.write("conf.lua", text "two")
    net.nap(500) -- it has looked, several times
    server.write("conf.lua", text "one")
    for _, c in ipairs(clients) do c:close() end
    server.write("conf.lua", text "two")
    assert.is_true(net.poll_until(function() return greeting(a) == "two" end, 10))
    assert.equal(0, s:count_log("level=error"))
  end)

  it("brings servers to every loop, in each way that connections come to them, and takes them away", function()
    server.write("who.lua", SCRIPT)
    local a, holder = name_of("a"), server.start(server.folder() .. "/who.lua", { options = { say = "x" } })
    local url = holder.url
    holder:stop()
    start({ one("a", a) }, { loops = 3 })
    local exchange = load_on(a, "a", 6)
    for _, accept in ipairs { "balanced", "shared", "reuseport", "balanced" } do
      write_conf({ one("a", a), one("b", url, { accept = accept }) }, { loops = 3 })
      assert.equal(0, select(2, reload()))
      for _ = 1, 20 do assert.equal("b", (greeting(url))) end
      exchange()
      write_conf({ one("a", a) }, { loops = 3 })
      assert.equal(0, select(2, reload()))
      assert.is_true(net.poll_until(function() return not server.client.try_connect(url) end))
      exchange()
    end
  end)

  it("reaches every process, which report one by one", function()
    local a = "tcp://127.0.0.1:0"
    local s = start({ one("a", a) }, { processes = 2 }, { allow_errors = true })
    a = s.url
    local exchange = load_on(a, "a", 4)
    write_conf({ one("a", "tcp://127.0.0.1:0"), one("b", "tcp://127.0.0.1:0") }, { processes = 2 })
    local answer, code = reload()
    assert.same({ 0, 2 }, { code, #answer.processes })
    for _, one_process in ipairs(answer.processes) do assert.same({ "b" }, one_process.conf.added) end
    exchange()
    write_conf({ one("a", "tcp://127.0.0.1:0", { options = { say = "A" } }), one("c", name_of("c")) }, { processes = 2 })
    answer, code = reload()
    assert.equal(1, code)
    assert.matches("needs a restart: 2 processes", answer.processes[1].conf.message)
    write_conf({ one("a", "tcp://127.0.0.1:0", { options = { say = "A" } }) }, { processes = 2 })
    s:signal("HUP")
    assert.is_true(net.poll_until(function()
      for _ = 1, 8 do
        if greeting(a) ~= "A" then return false end
      end
      return true
    end, 10))
    -- the address goes, in both
    write_conf({ one("z", "tcp://127.0.0.2:0") }, { processes = 2 })
    assert.equal(0, select(2, reload()))
    assert.is_true(net.poll_until(function() return not server.client.try_connect(a) end))
  end)
end)
