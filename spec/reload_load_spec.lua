-- Reloads while connections are served: no request fails and no connection is closed but by a canary that is bad, and what generations
-- took comes back. RILLE_ROUNDS: more of it.

local load = require "spec.support.load"
local reload = require "spec.support.reload"
local json = require "rille.cli.json"
local server = reload.server
local net = server.net

local ROUNDS = tonumber(os.getenv "RILLE_ROUNDS")
local CONNECTIONS = net.is_sanitized and 30 or 200

-- Serves HTTP and lines.
local function version(v, body)
  return ([[
    local M = {}
    local version = %q
    local function serve(conn, res)
      %s
      if res then return res:send("ok " .. version) end
      local line = conn:read_line()
      if line then conn:write("ok " .. version .. "\n") end
    end
    M.on_request = serve
    %s
    return M
  ]]):format(v, body and body.serve or "", body and body.top or "") .. "\n"
end

local function begin(s, source, words)
  reload.put(source)
  local c = server.client.connect("unix://" .. s.socket)
  local code = ("print(require('rille.reload').answer { wait = true %s })"):format(words or "")
  c:send(("eval loop=0 timeout=120000 size=%d\n%s"):format(#code, code))
  return c
end

local function finish(c)
  local answer = json.decode((c:receive_all(60)))
  c:close()
  return json.decode(answer.text).reports[1]
end

-- What the n-th reload is: the text, words for the request, what it has to come to.
local function nth(n)
  local kind = n % 10
  if kind == 2 then return "local x = = 1\nreturn x\n", nil, false end
  if kind == 4 then return version("top", { top = "error('top')" }), nil, false end
  if kind == 6 then return version("test", { top = "function M.selftest() error('test') end" }), nil, false end
  if kind == 8 then return version("bad", { serve = "error('bad')" }), ", canary = 1, soak = 0.5", nil end
  return version("v" .. n), nil, true
end

-- The longest turn of a loop so far, ms.
local function longest_turn(s)
  local longest = 0
  for id = 1, 2 do
    longest = math.max(longest, tonumber(reload.eval(s, id, "print(rille.loop.stats().longest_turn * 1000)")) or 0)
  end
  return longest
end

local function note(...)
  if ROUNDS then io.stderr:write(("reload_load: %s\n"):format(string.format(...))) end
end

describe("reloads under load", function()
  after_each(server.cleanup)

  it("fail no request and close no connection, but those of a bad canary", function()
    local s = reload.start(version("v0"), {
      listen = { "http://127.0.0.1:0", "tcp://127.0.0.1:0" }, allow_errors = true, conf = { loops = 2 },
      reload = { canary = { loops = 0, min_requests = 20, max_p99_ratio = 1000, max_error_rate = 0.01 } },
    })
    local counts = {}
    local third = math.floor(CONNECTIONS / 3)
    local loads = {
      load.new(counts, "http", s.urls[1], third), load.new(counts, "pipelined", s.urls[1], third),
      load.new(counts, "lines", s.urls[2], CONNECTIONS - 2 * third),
    }
    local rounds, rolled_back, allowed = ROUNDS and 200 or 20, 0, 0
    for n = 1, rounds do
      local text, words, want = nth(n)
      local failed, closed = counts.failed, counts.closed
      local reports = begin(s, text, words)
      while not net.wait(reports.fd, net.POLLIN, net.now()) do load.step(loads) end
      local report = finish(reports)
      for _ = 1, 3 do load.step(loads) end
      load.settle(loads)
      failed, closed = counts.failed - failed, counts.closed - closed
      if want == nil then
        assert.is_false(report.ok)
        assert.matches("rolled back", report.message)
        rolled_back = rolled_back + 1
        allowed = allowed + failed + closed
        if failed + closed > 20 then
          error(("%d failed, %d closed by the bad canary: %s"):format(failed, closed, report.message), 0)
        end
      else
        assert.equal(want, report.ok)
        if failed + closed > 0 then
          error(("round %d: %d failed, %d closed: %s\n%s"):format(n, failed, closed, tostring(counts.bad), s:tail()), 0)
        end
      end
    end
    note("%d reloads, %d answers, %d rolled back, which cost %d answers or connections; longest turn %.1f ms", rounds, counts.answers,
      rolled_back, allowed, longest_turn(s))
    -- alone on its cores it has to be at most 20 ms
    if not net.is_sanitized then assert.is_true(longest_turn(s) < (ROUNDS and 20 or 200)) end
    reload.wait_retired(s)
    s:stop()
  end)

  -- The least of some readings: the last state may be being closed.
  local function settled_rss(s)
    local least = math.huge
    for _ = 1, 10 do
      least = math.min(least, s:rss())
      net.nap(100)
    end
    return least
  end

  -- So many threads that stage at most: each has some megabytes as long as it is there, and how many there are is chance.
  local function limit_staging(s, count)
    reload.eval(s, 0, ([[
      local ffi, C = require "ffi", require "rille.core"
      local pool = C.rille_pool_open("staging", ffi.new("rille_pool_options", -1, -1, -1, -1, -1), ffi.new "int[1]")
      C.rille_pool_resize(pool, %d)
      C.rille_pool_release(pool)
    ]]):format(count))
  end

  -- RSS after so many reloads of a text against that after the first ones.
  local function growth(s, text, warm, rounds)
    local threads = s:threads()
    local function go(n)
      limit_staging(s, 4)
      for i = 1, n do reload.to(s, (text:gsub("NUMBER", tostring(i)))) end
      reload.wait_retired(s)
      limit_staging(s, 1)
      assert.is_true(net.poll_until(function() return s:threads() <= threads + 1 end))
    end
    go(warm)
    local before, began = settled_rss(s), net.now()
    go(rounds)
    local seconds, grown = net.now() - began, settled_rss(s) - before
    note("%d reloads: RSS %.1f MB after the first %d, %+.2f MB; %.1f ms each", rounds, before / 1e6, warm, grown / 1e6,
      seconds * 1e3 / rounds)
    return grown
  end

  it("give back the memory, timers and tasks of the old ones", function()
    local text = version("v", { top = [[
      local big = {}
      for i = 1, 65536 do big[i] = i + 0.5 end
      M.big = function() return big end
      for i = 1, 10 do
        rille.every(60, function() end)
        rille.spawn(function() rille.sleep(1e5) end)
      end
      -- NUMBER
    ]] })
    local s = reload.start(text, { conf = { drain_timeout = 1 } })
    local state = s:wait_state(function(state) return state.watches == 20 end)
    local grown = growth(s, text, 10, ROUNDS and 1000 or 60)
    s:wait_state(function(now) return now.watches == state.watches end)
    if not net.is_sanitized then assert.is_true(grown < 2e6 * (ROUNDS and 1 or 4)) end
    s:stop()
  end)

  it("leave nothing of FFI types, metatypes and patched libraries", function()
    local text = version("v", { top = [[
      local ffi = require "ffi"
      ffi.cdef "typedef struct { int x, y; } point_NUMBER; typedef struct same { double d; } same;"
      local point = ffi.metatype("point_NUMBER", { __index = { sum = function(p) return p.x + p.y end } })
      ffi.metatype("same", { __index = { twice = function(p) return p.d * 2 end } })
      function string.patched(text) return text .. NUMBER end
      local Class = {}
      Class.__index = Class
      local objects = {}
      for i = 1, 100 do objects[i] = setmetatable({ point = point(i, i) }, Class) end
      function M.selftest() assert(objects[3].point:sum() == 6 and ("x"):patched() == "x" .. NUMBER and ffi.new("same", 4):twice() == 8) end
    ]] })
    local s = reload.start((text:gsub("NUMBER", "0")))
    local grown = growth(s, text, ROUNDS and 1000 or 20, ROUNDS and 9000 or 150)
    if not net.is_sanitized then assert.is_true(grown < (ROUNDS and 0.5e6 or 2e6)) end
    s:stop()
  end)
end)
