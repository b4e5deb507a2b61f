-- scripts/device_gateway.lua: devices over TCP, their backend, and commands for them over HTTP.

local http = require "spec.support.http"
local inside = require "spec.support.inside"
local server = http.server
local net = server.net

local BACKEND = [[
return function(req, res)
  local body = req:body():str()
  if body == "slow" then rille.sleep(0.3) end
  if body == "never" then rille.sleep(3) end
  if body == "bad" then res.status = 500 end
  if body == "large" then return res:send(("x"):rep(5000)) end
  if body:find "^bytes" then return res:send(("x"):rep(4000)) end
  res:send(req.path .. " says " .. body)
end
]]

local function frame(kind, id, bytes)
  local size = #bytes + 5
  local rest = string.char(math.floor(id / 2 ^ 24) % 256, math.floor(id / 65536) % 256, math.floor(id / 256) % 256, id % 256)
  return string.char(math.floor(size / 256), size % 256) .. kind .. rest .. bytes
end

-- The next frame: its kind, id and bytes.
local function receive(c, seconds)
  local a, b = c:receive(2, seconds):byte(1, 2)
  local body = c:receive(a * 256 + b, seconds)
  local i, j, k, l = body:byte(2, 5)
  return body:sub(1, 1), ((i * 256 + j) * 256 + k) * 256 + l, body:sub(6)
end

local gateway, backend, commands

-- timeouts: of the devices' connections
local function start(timeouts, options)
  backend = server.start(BACKEND, { listen = "http://127.0.0.1:0", name = "backend" })
  options = options or {}
  options.backend, options.commands = options.backend or backend.url, "http://127.0.0.1:0"
  gateway = server.start("scripts/device_gateway.lua", {
    options = options, timeouts = timeouts, conf = { loops = 2 },
    server = { codec = { "length_field", length = 2, max = "4k" }, concurrency = 16, ordered = false },
  })
  commands = {} -- with port 0 each loop has one of its own
  for url in gateway:log():gmatch('msg="commands at ([^"]+)"') do commands[#commands + 1] = url end
  assert.equal(2, #commands)
end

local function device(key, options)
  local c = gateway:connect(options)
  c:send(frame("H", 0, key))
  return c
end

-- Send a command from one of the loops; the connection on which its answer will come.
local function send(loop, key, bytes)
  local c = gateway:connect(nil, commands[loop])
  c:send(http.post("/devices/" .. key, bytes))
  return c
end

local function answer(c, seconds)
  local a = http.answer(c, "POST", seconds)
  c:close()
  return a.status, a.body
end

-- A device that is known: a command went there and back.
local function known(key, options)
  local c = device(key, options)
  local status
  net.poll_until(function()
    local asked = send(1, key, "hello")
    if not c.ready then
      c.ready = net.wait(c.fd, net.POLLIN, net.deadline(0.05))
      if not c.ready then
        status = answer(asked)
        return false
      end
    end
    local kind, id, bytes = receive(c)
    assert.equal("C", kind)
    c:send(frame("C", id, "I am " .. bytes))
    status = answer(asked)
    return status == 200
  end)
  assert.equal(200, status)
  return c
end

local function is_ended(c)
  local _, err = c:receive_all()
  assert.is_true(err == "closed" or err == "reset")
end

describe("scripts/device_gateway.lua", function()
  after_each(server.cleanup)

  it("hands requests to the backend, and answers by id as answers come", function()
    start()
    local c = device "sensor-7"
    c:send(frame("R", 1, "slow") .. frame("R", 2, "a") .. frame("R", 4294967295, ""))
    local seen = {}
    for i = 1, 3 do
      local kind, id, bytes = receive(c)
      assert.equal("R", kind)
      seen[i], seen[id] = id, bytes
    end
    assert.equal(1, seen[3]) -- the slow one held up nobody
    assert.equal("/devices/sensor-7 says slow", seen[seen[3]])
    assert.equal("/devices/sensor-7 says ", seen[4294967295])
    c:send_slowly(frame("R", 9, "b"))
    assert.same({ "R", 9, "/devices/sensor-7 says b" }, { receive(c) })
  end)

  it("says why there is no answer", function()
    start(nil, { deadline = 0.5 })
    local c = device "a"
    local function why(bytes)
      c:send(frame("R", 5, bytes))
      local kind, id, text = receive(c)
      assert.same({ "E", 5 }, { kind, id })
      return text
    end
    assert.equal("status 500", why "bad")
    assert.equal("no whole answer", why "large")
    assert.equal("timeout", why "never")
    backend:stop()
    assert.equal("refused", why "x")
    c:send(frame("P", 0, "")) -- and the device is still there
    c:receives_nothing(0.1)
  end)

  it("sends commands from any loop to the device that has the key, and brings back the answer", function()
    start(nil, { deadline = 1 })
    local devices = {}
    for i = 1, 8 do devices[i] = known("d" .. i) end
    for i = 1, 8 do
      for loop = 1, 2 do
        local asked = send(loop, "d" .. i, "do " .. i)
        local kind, id, bytes = receive(devices[i])
        assert.same({ "C", "do " .. i }, { kind, bytes })
        local other = devices[i % 8 + 1]
        other:send(frame("C", id, "not I")) -- not its command
        asked:receives_nothing(0.02)
        devices[i]:send(frame("C", id, "done") .. frame("C", id, "twice"))
        assert.same({ 200, "done" }, { answer(asked) })
      end
    end
    assert.equal(404, (answer(send(1, "nobody", "x"))))
    assert.equal(404, http.answer(gateway:connect(nil, commands[1]):send(http.get("/devices/d1")), "GET").status)
    assert.equal(404, http.answer(gateway:connect(nil, commands[1]):send(http.post("/x", "y")), "POST").status)
    -- silence
    local asked = send(2, "d1", "x")
    local _, id = receive(devices[1])
    assert.equal(504, (answer(asked)))
    devices[1]:send(frame("C", id, "too late"))
    asked = send(2, "d1", "y")
    _, id = receive(devices[1])
    devices[1]:send(frame("C", id, "in time"))
    assert.same({ 200, "in time" }, { answer(asked) })
    -- one that goes in the middle
    asked = send(1, "d2", "x")
    receive(devices[2])
    devices[2]:reset()
    assert.equal(504, (answer(asked)))
    assert.equal(404, (answer(send(1, "d2", "x"))))
  end)

  it("gives a key to the connection that came last", function()
    start()
    local old, new = known "d", known "d"
    local asked = send(1, "d", "x")
    local _, id = receive(new)
    new:send(frame("C", id, "new"))
    assert.same({ 200, "new" }, { answer(asked) })
    old:send(frame("P", 0, ""))
    is_ended(old) -- who it was is another one now
    asked = send(2, "d", "x")
    _, id = receive(new)
    new:send(frame("C", id, "still"))
    assert.same({ 200, "still" }, { answer(asked) })
  end)

  it("ends the connection of who sends what is no frame of a device", function()
    start()
    local hello = frame("H", 0, "bad")
    for _, bytes in ipairs {
      "\0\0", "\0\1H", frame("R", 1, "before its name"), frame("H", 0, ""), frame("H", 0, "a b"), frame("H", 0, ("k"):rep(65)),
      hello .. hello, hello .. frame("X", 0, ""), hello .. "\16\0", "\255\255", hello .. "\0\3R12",
    } do
      local c = gateway:connect()
      c:send(bytes)
      is_ended(c)
    end
    for _, bytes in ipairs { "", "\0", hello .. "\0\9R" } do -- in the middle of one
      local c = gateway:connect()
      c:send(bytes)
      c:shutdown_write()
      is_ended(c)
    end
    known "good"
    gateway:wait_state(function(state) return state.connections <= 1 end, 5, 2)
  end)

  it("asks silent devices whether they are there", function()
    start { idle = 0.3 }
    local alive, dead = device "alive", device "dead"
    for _ = 1, 3 do
      assert.same({ "P", 0, "" }, { receive(alive, 5) })
      alive:send(frame("P", 0, ""))
    end
    assert.same({ "P", 0, "" }, { receive(dead, 5) })
    is_ended(dead)
  end)

  it("answers who has closed its side, and lets go who does not read", function()
    start({ idle = 30, write = 0.5 }, { deadline = 0.5 })
    local half = known "half"
    half:send(frame("R", 1, "slow"))
    half:shutdown_write()
    assert.same({ "R", 1, "/devices/half says slow" }, { receive(half) })
    is_ended(half)
    -- what it asks for is answered until nothing more goes out, then nothing more is read, and then it is gone
    local lazy = known("lazy", { receive_buffer = 4096 })
    local many = frame("R", 1, "bytes"):rep(2000)
    pcall(lazy.send, lazy, many, 1)
    net.poll_until(function() return answer(send(1, "lazy", "x")) == 404 end, 20)
    assert.equal(404, (answer(send(1, "lazy", "x"))))
    known "other"
  end)

  it("keeps its devices over a reload", function()
    start()
    local c = known "d"
    gateway:signal "HUP"
    gateway:wait_log "device_gateway@2"
    net.poll_until(function() return gateway:count_log "commands at" == 4 end)
    commands = {}
    for url in gateway:log():gmatch('msg="commands at ([^"]+)"') do commands[#commands + 1] = url end
    local asked = gateway:connect(nil, commands[3])
    asked:send(http.post("/devices/d", "x"))
    local _, id = receive(c)
    c:send(frame("C", id, "still here") .. frame("R", 3, "y"))
    assert.same({ 200, "still here" }, { answer(asked) })
    assert.same({ "R", 3, "/devices/d says y" }, { receive(c) })
  end)

  it("serves 500 devices, each command once", function()
    start()
    local load = ("printf '+500\\n2\\n' | timeout 60 %s/bin/rille exec %s/bench/devices_load.lua %s %s %d"):format(server.root,
      server.root, gateway.url, table.concat(commands, ","), math.floor(400 / net.slow))
    local out = inside.command({ "sh", "-c", load }, 70)
    assert.equal(0, out.status, out.out)
    local sent = tonumber(out.out:match '"sent":(%d+)')
    assert.truthy(sent and sent > 0, out.out)
    for _, what in ipairs { "answered", "received" } do
      assert.equal(sent, tonumber(out.out:match('"' .. what .. '":(%d+)')), out.out)
    end
    gateway:wait_state(function(state) return state.connections == 0 end, 10, 2)
  end)
end)
