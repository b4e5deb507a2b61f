-- Who runs what: what the status, the metrics, the list of connections and the script itself say of generations.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local server = require "spec.support.server"
local net = server.net

local SCRIPT = [[

local options = ...

rille.spawn(function() rille.retire_channel():receive() say("retires %s", tostring(rille.retiring())) end)
return {
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    if line == "hold" then
      conn:send("%d\n")
      conn:release()
      line = conn:read_line()
    end
    if line == "fail" then error("as asked") end
    conn:send("%d " .. tostring(rille.retiring()) .. "\n")
  end,
}
]]

local function script(n)
  return (SCRIPT:gsub("%%d", tostring(n)))
end

local function start(opts)
  opts = opts or {}
  opts.name = "gate"
  opts.conf = opts.conf or {}
  opts.conf.reload = opts.conf.reload or { watch = false }
  return control.start(script(1), opts)
end

local function write(text)
  server.script_path(text, "gate", true)
end

local function reload(s, ...)
  return control.rille { "reload", "--wait", "--control", s.socket, ... }
end

local function say(c, text)
  c:send(text .. "\n")
  return c:receive_line(10)
end

local function by_label(status)
  local states = {}
  for _, loop in ipairs(status.loops) do
    for _, one in ipairs(loop.states) do
      local sum = states[one.script] or { connections = 0, count = 0 }
      states[one.script] = sum
      sum.connections, sum.count = sum.connections + one.connections, sum.count + 1
      sum.phase, sum.hash, sum.generation = one.phase, one.hash, one.generation
    end
  end
  return states
end

describe("who runs what", function()
  after_each(server.cleanup)

  it("is in the status: each generation with its content, its phase and its connections", function()
    local s = start { conf = { loops = 2 } }
    local held = { s:connect(), s:connect(), s:connect() }
    for _, c in ipairs(held) do assert.equal("1", say(c, "hold")) end
    local first = by_label(control.status(s))["gate@1"]
    assert.same({ 3, 2, "serving", 1 }, { first.connections, first.count, first.phase, first.generation })
    assert.matches("^%x+$", first.hash)
    assert.equal(16, #first.hash)
    assert.is_nil(control.status(s).servers[1].last_reload)
    write(script(2))
    assert.equal(0, (reload(s)))
    local other = s:connect()
    assert.equal("2 false", say(other, "x"))
    local both = by_label(control.wait_status(s, function(one) return (by_label(one)["gate@1"] or {}).phase == "retiring" end))
    assert.equal(3, both["gate@1"].connections)
    assert.equal(1, both["gate@2"].connections)
    assert.equal("serving", both["gate@2"].phase)
    assert.equal(first.hash, both["gate@1"].hash)
    assert.not_equal(first.hash, both["gate@2"].hash)
    assert.equal(2, control.status(s).servers[1].generations)
    for _, c in ipairs(held) do assert.equal("1 true", say(c, "x")) end
    s:wait_log "gate@1: retired"
    control.wait_status(s, function(one) return one.servers[1].generations == 1 and not by_label(one)["gate@1"] end)
    assert.equal(4, by_label(control.status(s))["gate@2"].connections) -- they went over
    assert.same({ "retires true", "retires true" }, s:said())
    write(script(1))
    assert.equal(0, (reload(s)))
    assert.equal(first.hash, by_label(control.status(s))["gate@3"].hash) -- the same content
    s:stop()
  end)

  it("has the last reload of each server, and counts them, in the metrics too", function()
    local s = start { allow_errors = true, conf = { metrics = { listen = "http://127.0.0.1:0" },
      reload = { watch = false, canary = { min_requests = 1, soak = "10s" } } } }
    s:wait_listening(2)
    local function servers()
      local list = {}
      for _, one in ipairs(control.status(s).servers) do list[one.name] = one end
      return list
    end
    assert.is_not_nil(servers()["rille.monitor"])
    write(script(2))
    assert.equal(0, (reload(s, "gate")))
    local one = servers().gate
    assert.same({ 1, 0, 0 }, { one.reloads, one.failed, one.rolled_back })
    assert.same({ true, "gate@2", "" }, { one.last_reload.ok, one.last_reload.label, one.last_reload.message })
    assert.is_true(one.last_reload.seconds > 0 and math.abs(one.last_reload.at - os.time()) < 60)
    write "\nerror 'not this one'\n"
    assert.equal(1, (reload(s, "gate")))
    one = servers().gate
    assert.same({ 1, 1, 0 }, { one.reloads, one.failed, one.rolled_back })
    assert.same({ false, "gate@3" }, { one.last_reload.ok, one.last_reload.label })
    assert.matches("not this one", one.last_reload.message)
    assert.equal(2, one.generations) -- of the one that was refused the files are watched
    -- a canary whose requests fail is taken back
    local c = s:connect(nil, s.urls[1])
    assert.equal("2 false", say(c, "x"))
    write("\n" .. [[return { on_request = function(conn) conn:read_line() error("broken") end }]] .. "\n")
    local code = ("print(require('rille.reload').answer { script = 'gate', canary = 1 })")
    control.ask(s, ("eval loop=0 timeout=20000 size=%d\n%s"):format(#code, code))
    net.poll_until(function()
      local bad = s:connect(nil, s.urls[1])
      bad:send("x\n")
      bad:receive_all(10)
      return servers().gate.rolled_back == 1
    end, 20)
    one = servers().gate
    assert.same({ 1, 2, 1 }, { one.reloads, one.failed, one.rolled_back })
    local text = control.get(s.urls[2], "/metrics")
    assert.matches('\nrille_reloads_total{server="gate",result="ok"} 1\n', text)
    assert.matches('\nrille_reloads_total{server="gate",result="failed"} 2\n', text)
    assert.matches('\nrille_reload_rollbacks_total{server="gate"} 1\n', text)
    assert.matches('\nrille_generations{server="gate"} %d\n', text)
    assert.matches('\nrille_reloads_total{server="rille%.monitor",result="ok"} 0\n', text)
    s:stop()
  end)

  it("is shown by rille status and rille conns", function()
    local s = start()
    local old = s:connect()
    assert.equal("1", say(old, "hold"))
    write(script(2))
    assert.equal(0, (reload(s)))
    local new = { s:connect(), s:connect() }
    for _, c in ipairs(new) do assert.equal("2 false", say(c, "x")) end
    local code, out = control.rille { "status", "--control", s.socket }
    assert.equal(0, code)
    assert.matches("\n  gate@1 +retiring +1 ", out)
    assert.matches("\n  gate@2 +serving +2 ", out)
    assert.matches("\n  gate: 1 reloads, 0 failed, 0 of them rolled back; the last, %d+%-%d+%-%d+ %d+:%d+:%d+: gate@2 serves\n", out)
    code, out = control.rille { "conns", "--control", s.socket }
    assert.equal(0, code)
    assert.matches(" gate@1 +127%.0%.0%.1:", out)
    assert.matches(" gate@2 +127%.0%.0%.1:", out)
    code, out = control.rille { "conns", "--by", "generation", "--control", s.socket }
    assert.equal(0, code)
    assert.matches("^script +conns +youngest +mean +oldest\ngate@1 +1 .-\ngate@2 +2 .-\n$", out)
    code, out = control.rille { "conns", "--by", "generation", "--json", "--control", s.socket }
    assert.equal(0, code)
    local answer = json.decode(out)
    assert.equal(3, answer.total)
    assert.equal(0, answer.silent_loops)
    assert.equal(2, #answer.generations)
    for _, one in ipairs(answer.generations) do
      assert.equal(one.generation, one.connections)
      assert.equal("gate@" .. one.generation, one.script)
      assert.is_true(one.youngest <= one.mean_age and one.mean_age <= one.oldest)
    end
    s:stop()
  end)

  it("is asked for in one way at a time", function()
    local s = start()
    local code, _, err = control.rille { "conns", "--by", "loop", "--control", s.socket }
    assert.same({ 1, "rille: --by: got 'loop'; expected generation\n" }, { code, err })
    code, _, err = control.rille { "conns", "--by", "generation", "--limit", "3", "--control", s.socket }
    assert.equal(2, code)
    assert.matches("^rille conns: %-%-by and %-%-limit exclude each other\n", err)
    assert.matches("expected a number from 1 to 10000, or by=generation", control.ask(s, "conns by=loop\n"))
    local out
    code, out = control.rille { "conns", "--by", "generation", "--control", s.socket }
    assert.equal(0, code)
    assert.equal(1, select(2, out:gsub("\n", "")))
    s:stop()
  end)
end)

describe("rille.reload.depends, rille.retiring and rille.retire_channel", function()
  after_each(server.cleanup)

  it("make a file that is no Lua one of the script's", function()
    local data = server.write("words.txt", "one")
    local s = control.start(([[

local path = %q
assert(rille.reload.depends(path))
local missing, err = rille.reload.depends(path .. ".not")
assert(missing == nil and err == "not found", err)
local word = io.open(path):read("*a")
return function(conn) conn:read_line() conn:send(word .. "\n") end
]]):format(data))
    assert.equal("one", say(s:connect(), "x"))
    server.write("words.txt", "two")
    assert(net.poll_until(function() return say(s:connect(), "x") == "two" end, 10))
    s:stop()
  end)

  it("need a state that Rille made, or a loop", function()
    local code = [[
local rille = require "rille"
print(rille.reload.depends "/etc/hostname")
print(pcall(rille.retiring))
print(pcall(rille.retire_channel))
]]
    local path = server.write("alone.lua",
      ("package.path, package.cpath = %q .. '/lua/?.lua;' .. %q .. '/lua/?/init.lua;' .. package.path, "
      .. "%q .. '/lua/?.so;' .. package.cpath\n"):format(server.root, server.root, server.root) .. code)
    local out = server.folder() .. "/alone"
    os.execute(("%s %s >%s 2>&1"):format(os.getenv "LUAJIT" or "luajit", path, out))
    local text = server.read(out)
    assert.matches("^nil\tnot supported\nfalse\t[^\n]*rille.retiring needs a running loop", text)
    assert.matches("\nfalse\t[^\n]*rille.retire_channel needs a running loop", text)
  end)
end)
