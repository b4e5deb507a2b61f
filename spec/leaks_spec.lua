-- The leak detector: a script that leaks each kind of thing on purpose is asked from outside who made it.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local server = require "spec.support.server"
local net = server.net

-- Each word that comes leaks one thing, at the line that is marked with it.
local LEAKY = [[

local LinkBuffer = require "rille.linkbuffer"
local kept = {}
local gate = rille.semaphore(0)

local function keep(x) kept[#kept + 1] = x end

local function wait_long()      -- function of tasks
  rille.sleep(1000)
end

local function tick() end       -- function of timers

local function lose(buffer)
  buffer:next(1):retain()       -- lose
end

local leak = {}

function leak.buffer()
  keep(LinkBuffer.new())        -- buffer
end

function leak.slice()
  local buffer = LinkBuffer.new()
  buffer:write("x")
  buffer:flush()
  keep(buffer:next(1):retain()) -- slice
  buffer:close()
end

function leak.lose()
  local buffer = LinkBuffer.new()
  buffer:write("x")
  buffer:flush()
  lose(buffer)
  buffer:close()
  collectgarbage()
  collectgarbage()
end

function leak.task()
  rille.spawn(wait_long)        -- task
end

function leak.timer()
  rille.after(1000, tick)       -- timer
end

function leak.subscribe(conn)
  rille.topic("news"):subscribe(conn) -- subscribe
end

function leak.unsubscribe(conn)
  rille.topic("news"):unsubscribe(conn)
end

function leak.release()
  for i = #kept, 1, -1 do
    local x = table.remove(kept)
    if LinkBuffer.is(x) then x:close() else x:release() end
  end
end

function leak.stall()
  local started = rille.time()
  while rille.time() < started + 1.5 do end
end

function leak.park(conn)
  conn:write("parked\n")
  gate:acquire()                -- park
end

rille.on_shutdown(function()
  leak.release()
  gate:release(10)
end)

return function(conn)
  local line = conn:read_line()
  if not line then return conn:close() end
  local word, count = line:str():match("^(%a+) (%d+)$")
  for _ = 1, tonumber(count) do leak[word](conn) end
  conn:write("done\n")
end
]]

-- The number of the line that is marked.
local function line_of(mark)
  local number = 0
  for line in (server.read(server.script_path(LEAKY, "marked")) .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    if line:find("-- " .. mark .. "$") then return number end
  end
  error("no line is marked " .. mark)
end

-- Two loops with two servers of the same script.
local function start(conf)
  local script = server.script_path(LEAKY, "leaky")
  local one = { listen = "tcp://127.0.0.1:0", script = script, accept = "balanced" }
  conf.loops = conf.loops or 2
  conf.servers = { one, one }
  local s = control.start(LEAKY, { name = "leaky", conf = conf })
  s:wait_listening(2)
  return s
end

-- Connections to either server, as balancing has it to either loop.
local function connect(s)
  local all = {}
  for i = 1, 4 do all[i] = s:connect(nil, s.urls[i % 2 + 1]) end
  return all
end

local function tell(c, word, count)
  assert.equal("done\n", c:exchange(("%s %d\n"):format(word, count or 1), 5))
end

-- The server ends, and so many slices are what the collector had to free.
local function stop(s, lost)
  s:forget()
  s:signal("TERM")
  assert.equal(0, s:wait_exit(10))
  assert.matches(("stopped: 0 blocks, 0 retained slices, %d leaked slices, 0 buffers left"):format(lost), s:log())
end

local function rille(s, ...)
  return control.rille { "leaks", "--control", s.socket, ... }
end

local function list(s, ...)
  local code, out, err = rille(s, "--json", ...)
  assert.same({ 0, "" }, { code, err })
  return assert(json.decode(out))
end

-- The one of a kind; nil when there is none.
local function of_kind(found, kind)
  local one
  for _, place in ipairs(found.places) do
    if place.kind == kind then
      assert.is_nil(one, "a second one of kind " .. kind)
      one = place
    end
  end
  return one
end

local function assert_place(found, kind, count, mark)
  local one = of_kind(found, kind)
  assert.is_table(one, "none of kind " .. kind)
  assert.equal(count, one.count, kind)
  assert.matches(("leaky%%.lua:%d "):format(line_of(mark)), one.place)
  assert.equal("leaky@1", one.generation)
  return one
end

describe("rille leaks", function()
  after_each(server.cleanup)

  it("names the line and the count of each kind, over all loops and servers", function()
    local s = start { debug = { leaks = "all" } }
    for _, c in ipairs(connect(s)) do
      for count, word in ipairs { "buffer", "slice", "task", "timer", "lose", "subscribe" } do tell(c, word, count) end
    end
    local parked = s:connect()
    assert.equal("parked\n", parked:exchange("park 1\n", 7))
    local found = list(s)
    assert.same({ "all", 0, 0 }, { found.level, found.silent, found.more })
    assert_place(found, "buffer", 4, "buffer")
    local slice = assert_place(found, "slice", 8, "slice")
    assert.matches("leaky%.lua:" .. line_of "slice", slice.traceback)
    assert.is_true(slice.youngest >= 0 and slice.youngest <= slice.oldest and slice.oldest < 60)
    local task = assert_place(found, "task", 12, "task")
    assert.matches("leaky%.lua:" .. line_of "function of tasks" + 1, task.parked)
    assert_place(found, "timer", 16, "timer")
    assert_place(found, "freed slice", 20, "lose")
    assert_place(found, "subscription", 4, "subscribe") -- each has subscribed once, however often it asked
    assert_place(found, "handler", 1, "park")
    assert.equal(20, found.places[1].count)
    assert.same({ 8, 20 }, { found.slices, found.slices_freed })

    local code, out = rille(s)
    assert.equal(0, code)
    assert.matches("^level all; in the process: 8 retained slices, 20 freed by the collector", out)
    assert.matches("\nfreed slice +20 +%S+ %S+ +%S+ %S+ +leaky@1 +%S*leaky%.lua:" .. line_of "lose" .. " in function 'lose'\n", out)
    local one, two = list(s, "--loop", "1"), list(s, "--loop", "2")
    assert.equal(12, of_kind(one, "task").count + of_kind(two, "task").count)
    stop(s, 20)
  end)

  it("forgets what is given back", function()
    local s = start { loops = 1, debug = { leaks = "all" } }
    local c = s:connect()
    tell(c, "slice", 3)
    tell(c, "buffer", 2)
    tell(c, "subscribe")
    local found = list(s)
    assert_place(found, "slice", 3, "slice")
    assert_place(found, "subscription", 1, "subscribe")
    tell(c, "release")
    tell(c, "unsubscribe")
    assert.same({}, list(s).places)
    tell(c, "subscribe")
    assert_place(list(s), "subscription", 1, "subscribe")
    c:close()
    assert.is_true(net.poll_until(function() return #list(s).places == 0 end, 10))
  end)

  it("records nothing when it is off, and knows tasks and timers by their functions", function()
    local s = start { loops = 1 }
    local c = s:connect()
    for _, word in ipairs { "buffer", "slice", "task", "timer", "subscribe" } do tell(c, word, 2) end
    local found = list(s)
    assert.equal("off", found.level)
    assert.equal(2, #found.places)
    local task = assert_place(found, "task", 2, "function of tasks")
    assert_place(found, "timer", 2, "function of timers")
    assert.is_nil(task.oldest)
    assert.equal(2, found.slices)
    tell(c, "lose", 3)
    assert.equal(3, list(s).slices_freed)
    assert.not_matches("the collector freed it", s:log())
    stop(s, 3)
  end)

  it("is switched while the server runs, on every loop", function()
    local s = start {}
    local all = connect(s)
    for _, c in ipairs(all) do tell(c, "slice") tell(c, "timer") end
    assert.same({ 0, "level all\n", "" }, { rille(s, "--level", "all") })
    for _, c in ipairs(all) do tell(c, "slice", 2) tell(c, "timer", 2) end
    local found = list(s)
    assert.equal("all", found.level)
    assert_place(found, "slice", 8, "slice")
    assert_place(found, "timer", 12, "timer") -- the others of that function, too
    assert.same({ 0, "level off\n", "" }, { rille(s, "--level", "off") })
    found = list(s)
    assert.is_nil(of_kind(found, "slice"))
    assert_place(found, "timer", 12, "function of timers")
  end)

  it("counts a sample as the whole", function()
    local s = start { loops = 1, debug = { leaks = "sample", sample = 1000 } }
    assert.equal(0, (rille(s, "--level", "sample", "--sample", "10")))
    local c = s:connect()
    tell(c, "slice", 2000)
    tell(c, "task", 1200) -- more than a state looks at in one go
    local found = list(s)
    assert.same({ "sample", 10 }, { found.level, found.sample })
    local slice = of_kind(found, "slice")
    assert.matches("leaky%.lua:" .. line_of "slice", slice.place)
    assert.is_true(slice.estimated)
    assert.is_true(slice.count > 1000 and slice.count < 4000, "estimated " .. slice.count)
    assert.equal(0, slice.count % 10)
    assert.equal(1200, of_kind(found, "task").count)
    local _, out = rille(s)
    assert.matches("^level sample %(1 in 10%);", out)
    assert.matches("\nslice +~%d+ ", out)
  end)

  it("leaves out what is younger than asked for", function()
    local s = start { loops = 1, debug = { leaks = "all" } }
    local c = s:connect()
    tell(c, "slice", 2)
    assert.same({}, list(s, "--older", "1h").places)
    assert.is_true(net.poll_until(function() return #list(s, "--older", "10ms").places == 1 end, 10))
    tell(c, "buffer")
    assert.same({}, list(s, "--older", "5m").places)
  end)

  it("logs freed slices with their place, the more seldom the more there are", function()
    local s = start { loops = 1, debug = { leaks = "all" } }
    tell(s:connect(), "lose", 40)
    s:wait_log(("leaky@1: a retained slice was not released, the collector freed it; retained at [^ ]*leaky%%.lua:%d in function 'lose'; "
      .. "32 so far"):format(line_of "lose"))
    local _, lines = s:log():gsub("the collector freed it", "")
    assert.equal(6, lines)
    stop(s, 40)
  end)

  it("says which loops did not answer, and does not wait for them", function()
    local s = start { loops = 2, stall_after = 0.2 }
    local all = connect(s)
    for _, c in ipairs(all) do tell(c, "task") end
    local started = net.now()
    all[1]:send("stall 3\n")
    s:wait_log("is stalled", 10)
    local found = list(s)
    assert.is_true(net.now() - started < 4, "it waited for the loop")
    assert.is_true(found.silent >= 1)
    local task = of_kind(found, "task")
    assert.is_true(task.count >= 1 and task.count < 4)
    assert.matches("\n1 loops or Lua states did not answer\n", select(2, rille(s)))
    s:wait_log("goes on", 20)
  end)

  it("gives its level to a Lua state that takes the place of another", function()
    local s = control.start([[

return function(conn)
  local line = conn:read_line():str()
  if line == "break" then require("rille.state").inbox = nil end
  local rest = rille.topic("news"):subscribe(conn) -- some line
  conn:write("done\n")
end
]], { name = "victim", allow_errors = true, allow_failures = true })
    assert.equal(0, (rille(s, "--level", "all")))
    local c = s:connect()
    c:send("break\n")
    c:receive_all(10)
    s:wait_log("the Lua state is replaced", 10)
    local again = net.poll_until(function()
      local other = s:connect()
      local ok, answer = pcall(other.exchange, other, "x\n", 5)
      return ok and answer == "done\n" and other
    end, 10)
    assert.is_truthy(again)
    local found = list(s)
    assert.equal("all", found.level)
    assert.equal(1, #found.places)
    assert.same({ "subscription", "victim@1" }, { found.places[1].kind, found.places[1].generation })
  end)

  it("says what is wrong with a call", function()
    local s = start { loops = 1 }
    local function wrong(status, message, ...)
      local code, out, err = rille(s, ...)
      assert.same({ status, "" }, { code, out })
      assert.equal(message, err:match("^[^\n]*"))
    end
    wrong(1, "rille: there is no loop 7", "--loop", "7")
    wrong(1, "rille: --loop: got 'x'; expected a whole number from 1 to 256", "--loop", "x")
    wrong(1, "rille: --older: got 'soon'; expected seconds, or a string such as 250ms, 60s, 5m, 1h", "--older", "soon")
    wrong(1, "rille: --level: got 'most'; expected off, sample or all", "--level", "most")
    wrong(1, "rille: --sample: got '0'; expected a whole number from 1 to 1000000", "--level", "sample", "--sample", "0")
    wrong(2, "rille leaks: --sample goes with --level sample", "--sample", "10")
  end)
end)

describe("code for all Lua states of a loop", function()
  after_each(server.cleanup)

  local function ask(s, code)
    return json.decode(control.ask(s, ("eval loop=1 timeout=500 size=%d state=*\n%s"):format(#code, code)))
  end

  it("is answered by each of them", function()
    local s = start { loops = 1 }
    local answer = ask(s, "n = (n or 0) + 1 print('n', n)")
    assert.same({ states = {
      { ok = true, script = "leaky@1", text = "n\t1" }, { ok = true, script = "leaky@1", text = "n\t1" },
    } }, answer)
    for _, one in ipairs(ask(s, "local _ = error('as asked')").states) do
      assert.is_false(one.ok)
      assert.matches("^console:1: as asked", one.text)
    end
    answer = ask(s, "rille.sleep(100)")
    assert.equal(2, #answer.states)
    assert.equal("it did not end in time", answer.states[2].text)
  end)

  it("ends with the server, or the one who asked", function()
    local s = start {}
    local request = "eval loop=2 timeout=60000 size=16 state=*\nrille.sleep(600)"
    local patient, other = server.client.connect("unix://" .. s.socket), server.client.connect("unix://" .. s.socket)
    other:send(request)
    patient:send(request)
    net.poll_until(function() return control.status(s).loops[2].timers >= 4 end, 10)
    other:close()
    assert.equal(0, control.status(s).total.errors)
    s:stop(10)
  end)
end)

describe("rille.leaks", function()
  after_each(server.cleanup)

  it("reports to a script, and refuses what is no level", function()
    local inside = require "spec.support.inside"
    inside.check [[
      local rille = require "rille"
      local leaks = rille.leaks
      assert(leaks.level() == "off")
      assert(leaks.level("sample", 5) == "sample" and select(2, leaks.level()) == 5)
      assert(not pcall(leaks.level, "some"))
      assert(select(2, pcall(leaks.level, "sample", 0.5)):find("a whole number from 1 to 1000000 expected, got 0.5", 1, true))
      assert(leaks.level("all") == "all")
      local before = rille.now()
      rille.sleep(0.01)
      local timer = rille.every(10, function() end)
      assert(#leaks.report(before) == 0)
      local one = leaks.report()[1]
      assert(one.kind == "timer" and one.count == 1 and one.oldest >= 0 and one.place:find("in main chunk", 1, true), one.place)
      timer:cancel()
      assert(#leaks.report() == 0)
      -- a tail call leaves no line of its own: the function is what is known
      local function start() return rille.spawn(function() rille.sleep(10) end) end
      local task = start()
      assert(leaks.report()[1].kind == "task" and leaks.report()[1].place:find(":%d+ in main chunk"))
      task:cancel()
      rille.yield()
      assert(#leaks.report() == 0)
      leaks.level("off")
    ]]
  end)
end)
