-- Races of the ways a connection ends: every callback is called once, in order, and nothing is left. RILLE_ROUNDS connections each.

local ffi = require "ffi"

local server = require "spec.support.server"
local net = server.net

local ROUNDS = tonumber(os.getenv("RILLE_ROUNDS")) or 100
local AT_A_TIME = 16
local SCRIPT = "spec/support/close_race_script.lua"
local LUAJIT = os.getenv("RILLE_LUAJIT") or "luajit"

-- The names in the script: the spec does not run it, it has no loop.
local RACES = {}
for name in server.read(server.root .. "/" .. SCRIPT):match("local RACES = {(.-)\n}"):gmatch('"([^"]+)"') do
  RACES[#RACES + 1] = name
end

-- What the client of a race does, as soon as its line is sent.
local function leave(race, c)
  if race == "reset" then return c:reset() end
  if race == "close" then return c:close() end
  if race == "half_close" or race:find("^disconnect") or race:find("^close") or math.random(3) == 1 then
    c:shutdown_write()
  elseif math.random(4) == 1 then
    return math.random(2) == 1 and c:reset() or c:close()
  elseif race:find("shutdown") then
    c:shutdown_write()
  end
end

-- Some may find the server gone already.
local function say(c, text)
  pcall(c.send, c, text)
end

local function run(race, url, rounds)
  while rounds > 0 do
    local clients = {}
    for _ = 1, math.min(AT_A_TIME, rounds) do
      local c, why = server.client.try_connect(url)
      if not c then assert.equal("ECONNRESET", why, race) end -- accepted, and aborted before the client looked
      clients[#clients + 1] = c
      if c and math.random(5) > 1 then say(c, "go\n") end
      rounds = rounds - 1
    end
    for _, c in ipairs(clients) do
      if math.random(4) == 1 then net.nap(1) end
      leave(race, c)
    end
    for _, c in ipairs(clients) do
      if c.fd then
        if not race:find("%s") or math.random(2) == 1 then c:shutdown_write() end
        net.wait(c.fd, net.POLLIN, net.deadline(0.01))
        c:close()
      end
    end
  end
end

local function read_counts(s, url)
  local c = s:connect(nil, url)
  c:send("report\n")
  local by_race = {}
  for line in function() return c:receive_line() end do
    if line == "end" then break end
    local race, prepare, connect, disconnect, close, wrong = line:match("^(.-): (%d+) (%d+) (%d+) (%d+) (%d+)")
    if race then
      by_race[race] = { prepare = tonumber(prepare), connect = tonumber(connect), disconnect = tonumber(disconnect),
        close = tonumber(close), wrong = tonumber(wrong) }
    end
  end
  c:close()
  return by_race
end

describe("the races of a connection's end", function()
  after_each(server.cleanup)

  it(("call each callback once, in order, and leave nothing, %d rounds of each"):format(ROUNDS), function()
    local listen = {}
    for i = 1, #RACES + 1 do listen[i] = "tcp://127.0.0.1:0" end
    local s = server.start(SCRIPT, { listen = listen, conf = { loops = 2 }, allow_errors = true, timeouts = { linger = 0.2 } })
    local url = s.urls[#listen]
    for i, race in ipairs(RACES) do run(race, s.urls[i], ROUNDS) end
    local counts
    net.poll_until(function()
      counts = read_counts(s, url)
      for _, one in pairs(counts) do
        if one.close < one.prepare or one.prepare < ROUNDS then return false end
      end
      return true
    end, 20)
    for _, race in ipairs(RACES) do
      local one = counts[race]
      assert.same({ race, ROUNDS, ROUNDS, 0 }, { race, one.prepare, one.close, one.wrong }, race)
      assert.is_true(one.connect <= ROUNDS and one.disconnect <= one.connect, race)
      if race:find("^prepare") and race ~= "prepare close" and race ~= "prepare abort" then assert.equal(0, one.connect, race) end
      if not race:find("^prepare") then assert.equal(ROUNDS, one.connect, race) end
    end
    assert.equal(0, s:count_log("level=error msg=\"[^\"]*a second on_"))
    for line in s:log():gmatch("[^\n]*level=error[^\n]*") do assert.matches("expected: ", line) end
    s:wait_empty(2)
  end)

  it(("end well with a shutdown meanwhile, %d rounds"):format(ROUNDS), function()
    local fd = net.C.net_socket(net.AF_INET, 1, 0)
    local _, address, size = net.parse("tcp://127.0.0.1:0")
    assert(net.C.net_bind(fd, address, size) == 0)
    net.C.net_getsockname(fd, address, ffi.new("unsigned[1]", size))
    local url = ("tcp://127.0.0.1:%d"):format(math.floor(address.port / 256) + address.port % 256 * 256)
    net.C.net_close(fd)
    local process = server.spawn(nil, { command = { LUAJIT, server.root .. "/spec/support/shutdown_race.lua", url, tostring(ROUNDS),
      server.root } })
    process:forget()
    local deadline = net.deadline(60 + ROUNDS * 0.5)
    while not process:has_exited() and net.now() < deadline do
      local clients = {}
      for i = 1, 8 do clients[i] = server.client.try_connect(url) end
      for i = 1, 8 do
        if clients[i] then say(clients[i], i == 5 and "shutdown\n" or "go\n") end
      end
      for i = 1, 8 do
        if clients[i] then leave(({ "reset", "half_close", "close", "wait" })[math.random(4)], clients[i]) end
      end
      for i = 1, 8 do
        if clients[i] and clients[i].fd then
          net.wait(clients[i].fd, net.POLLIN, net.deadline(0.005))
          clients[i]:close()
        end
      end
    end
    assert.equal(0, process:wait_exit(1), process:tail())
    local runs, last = 0, nil
    for prepare, close, wrong in process:log():gmatch("(%d+) (%d+) (%d+)\n") do
      runs = runs + 1
      assert.equal(prepare, close, process:tail())
      assert.equal("0", wrong, process:tail())
      last = tonumber(prepare)
    end
    assert.equal(ROUNDS, runs, process:tail())
    assert.is_true(last > ROUNDS)
    assert.not_matches("level=error", process:log())
    assert.not_matches("wrong:", process:log())
  end)
end)
