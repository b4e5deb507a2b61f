-- Canaries: a generation that serves some of the loops first, is judged there, and taken back by itself.

local reload = require "spec.support.reload"
local http = require "spec.support.http"
local server = reload.server
local net = server.net

local ask = reload.ask

-- Answers with the version and the loop, or fails.
local function pages(version, body)
  return ([[
    local version = %q
    local M = {}
    function M.on_request(req, res)
      %s
      return res:send(version .. " " .. rille.loop.id)
    end
    return M
  ]]):format(version, body or "") .. "\n"
end

local CANARY = { loops = 1, soak = 30, min_requests = 20, max_error_rate = 0.1, max_p99_ratio = 1000 }

local function start(source, opts)
  opts = opts or {}
  opts.listen = opts.listen or "http://127.0.0.1:0"
  opts.conf = opts.conf or { loops = 2 }
  opts.allow_errors = true
  opts.reload = opts.reload or { canary = CANARY }
  return reload.start(source, opts)
end

-- So many connections, each loop has some.
local function connect(s, count)
  local list = {}
  for i = 1, count do list[i] = s:connect() end
  return list
end

-- Begin a reload, whose report comes by the client that is returned.
local function begin(s, source, words)
  reload.put(source)
  local c = server.client.connect("unix://" .. s.socket)
  local code = ("print(require('rille.reload').answer { wait = true %s })"):format(words or "")
  c:send(("eval loop=0 timeout=120000 size=%d\n%s"):format(#code, code))
  return c
end

local function report_of(c)
  local json = require "rille.cli.json"
  local answer = json.decode((c:receive_all(60)))
  return json.decode(answer.text).reports[1]
end

-- Ask on all connections until the report is there: it, and how many answers were other than 200.
local function load_until(clients, reports, on_answer)
  local failed, asked = 0, 0
  while not net.wait(reports.fd, net.POLLIN, net.now()) do
    for _, c in ipairs(clients) do
      local answer = http.ask(c, http.get("/"))
      asked = asked + 1
      if answer.status ~= 200 then failed = failed + 1 end
      if on_answer then on_answer(answer) end
    end
    assert.is_true(asked < 200000)
  end
  return report_of(reports), failed, asked
end

describe("a canary", function()
  after_each(server.cleanup)

  it("that fails is taken back after min_requests of them, and says what it raised", function()
    local s = start(pages("v1"))
    local clients = connect(s, 20)
    for round = 1, 3 do
      local report, failed = load_until(clients, begin(s, pages("bad" .. round, "error('boom " .. round .. "')")))
      assert.is_false(report.ok)
      assert.matches("rolled back: 20 of 20 requests failed", report.message)
      assert.equal(20, failed)
      assert.equal(20, report.evidence.counts.messages)
      assert.equal(20, report.evidence.counts.errors)
      assert.equal(3, #report.evidence.faults)
      for _, fault in ipairs(report.evidence.faults) do
        assert.matches("script.lua:%d+: boom " .. round .. "\nstack traceback", fault)
      end
      for _, c in ipairs(clients) do assert.matches("^v1 ", http.ask(c, http.get("/")).body) end
      reload.wait_retired(s)
    end
    s:stop()
  end)

  it("is judged by its share of failures: few of them are let pass", function()
    local s = start(pages("v1"), {
      reload = { canary = { loops = 1, soak = 0.5, min_requests = 20, max_error_rate = 0.5, max_p99_ratio = 1000 } } })
    local clients = connect(s, 20)
    local report = load_until(clients, begin(s, pages("v2", "n = (n or 0) + 1 if n % 10 == 0 then error('rare') end")))
    assert.is_true(report.ok)
    s:stop()
  end)

  it("serves its loops alone until the soak is over, then all of them", function()
    local s = start(pages("v1"), { reload = { canary = { loops = 1, soak = 0.5, min_requests = 1e6 } } })
    local clients = connect(s, 20)
    local seen = {}
    local report = load_until(clients, begin(s, pages("v2")), function(answer) seen[answer.body] = true end)
    assert.is_true(report.ok)
    assert.is_true(seen["v2 1"])
    assert.is_true(seen["v1 2"])
    for _, c in ipairs(clients) do assert.matches("^v2 ", http.ask(c, http.get("/")).body) end
    s:stop()
  end)

  it("that is slow is taken back for its p99", function()
    local s = start(pages("v1"), { reload = { canary = { loops = 1, soak = 30, min_requests = 20, max_p99_ratio = 20 } } })
    local clients = connect(s, 20)
    local report, failed = load_until(clients, begin(s, pages("slow", "rille.sleep(0.05)")))
    assert.is_false(report.ok)
    assert.matches("p99 [%d.]+ ms is more than 20 times that of script@1", report.message)
    assert.equal(0, failed)
    s:stop()
  end)

  it("of a server with one loop is that loop, compared with the last window", function()
    local canary = { loops = 1, soak = 30, min_requests = 20, max_p99_ratio = 20 }
    local s = start(pages("v1"), { conf = { loops = 1 }, reload = { canary = canary } })
    local clients = connect(s, 10)
    -- the window of the old one is taken once a second
    local stop = net.now() + 2.5
    while net.now() < stop do
      for _, c in ipairs(clients) do http.ask(c, http.get("/")) end
    end
    local report, failed = load_until(clients, begin(s, pages("slow", "rille.sleep(0.05)")))
    assert.is_false(report.ok)
    assert.matches("p99 ", report.message)
    assert.equal(0, failed)
    report, failed = load_until(clients, begin(s, pages("bad", "error('boom')")))
    assert.is_false(report.ok)
    assert.equal(20, failed)
    for _, c in ipairs(clients) do assert.equal("v1 1", http.ask(c, http.get("/")).body) end
    s:stop()
  end)

  it("may be asked for by the command, which tells by its exit status and with the tracebacks", function()
    local s = start(pages("v1"), { reload = {} })
    local status, out, err = reload.command(s, "--canary", "1", "--soak", "0.3", "--wait")
    assert.equal("", err)
    assert.equal(0, status)
    assert.matches("^ok script@2: serves after %d+ ms\n$", out)
    reload.put(pages("bad", "error('boom')"))
    local socket, url = s.socket, s.url
    -- a load beside the command, which runs in a shell of its own
    local command = "timeout 60 %s/bin/rille reload --control %s --canary 1 --soak 30 --wait 2>&1; echo status $?"
    local pipe = io.popen(command:format(server.root, socket))
    local clients = connect({ connect = function() return server.client.connect(url) end }, 20)
    local found = net.poll_until(function()
      for _, c in ipairs(clients) do http.ask(c, http.get("/")) end
      return s:count_log("rolled back") > 0
    end, 20)
    assert.is_truthy(found)
    local text = pipe:read("*a")
    pipe:close()
    assert.matches("script@3 is not served: script@3: rolled back: %d+ of %d+ requests failed", text)
    assert.matches("it: %d+ requests, %d+ failed, p99 [%d.]+ ms; the one before: %d+ requests, 0 failed", text)
    assert.matches("script.lua:%d+: boom\n  stack traceback:", text)
    assert.matches("status 1\n$", text)
    s:stop()
  end)

  it("gives back the ctx that connections had, with the rollback", function()
    local function text(version, more)
      return ([[
        local version = %q
        local M = {}
        function M.on_request(conn)
          local line = conn:read_line()
          if not line then return end
          conn.ctx = conn.ctx or { n = 0 }
          %s
          conn.ctx.n = conn.ctx.n + 1
          conn:write(version .. " " .. conn.ctx.n .. "\n")
        end
        return M
      ]]):format(version, more or "")
    end
    local s = start(text("v1"), { listen = "tcp://127.0.0.1:0", conf = { loops = 1 }, reload = { canary = CANARY } })
    local keep, idle = connect(s, 5), connect(s, 5)
    for _, c in ipairs(keep) do assert.equal("v1 1", ask(c, "a")) end
    for _, c in ipairs(idle) do assert.equal("v1 1", ask(c, "a")) end
    local reports = begin(s, text("v2", "conn.ctx.n = conn.ctx.n + 100 if line:str() == 'fail' then error('boom') end"))
    local other = s:connect()
    assert.is_truthy(net.poll_until(function() return ask(other, "a"):find("v2", 1, true) end))
    for i = 1, 5 do assert.equal("v2 102", ask(keep[i], "a")) end
    for _ = 1, 40 do
      local c = s:connect()
      c:send("fail\n")
      pcall(c.receive_line, c) -- it is closed, or answered by the generation that serves again
      c:close()
      if s:count_log("rolled back") > 0 then break end
    end
    assert.is_false(report_of(reports).ok)
    for _, c in ipairs(keep) do assert.equal("v1 2", ask(c, "a")) end
    for _, c in ipairs(idle) do assert.equal("v1 2", ask(c, "a")) end
    s:stop()
  end)

  it("that is replaced in its soak while it breaks is rolled back first", function()
    local s = start(pages("v1"))
    local clients = connect(s, 20)
    local first = begin(s, pages("bad", "error('boom')"))
    local n = 0
    net.poll_until(function()
      for _, c in ipairs(clients) do if http.ask(c, http.get("/")).status == 500 then n = n + 1 end end
      return n > 0
    end)
    local second = begin(s, pages("v3"), ", canary = 0")
    assert.is_false(load_until(clients, first).ok)
    assert.is_true(report_of(second).ok)
    for _, c in ipairs(clients) do assert.matches("^v3 ", http.ask(c, http.get("/")).body) end
    reload.wait_retired(s)
    s:stop()
  end)

  it("lets timers of the old generation rest and go on with the rollback", function()
    local text = pages("%s", "if req.path == '/bad' then error('boom') end"):gsub("local M = {}",
      "local M = {} rille.every(0.02, function() rille.log.info('said tick ' .. version .. rille.loop.id) end)")
    local s = start(text:gsub("%%s", "v1"), { conf = { loops = 1 } })
    s:wait_said(3)
    local reports = begin(s, (text:gsub("%%s", "v2")))
    net.poll_until(function() return s:count_log("said tick v21") > 5 end)
    local c = s:connect()
    local before = s:count_log("said tick v11")
    net.poll_until(function() return s:count_log("said tick v21") > 15 end)
    assert.equal(before, s:count_log("said tick v11"))
    net.poll_until(function() return http.ask(c, http.get("/bad")).status ~= 500 or s:count_log("rolled back") > 0 end)
    assert.is_false(report_of(reports).ok)
    reload.wait_retired(s)
    local after = s:count_log("said tick v21")
    assert.is_truthy(net.poll_until(function() return s:count_log("said tick v11") > before + 10 end))
    assert.is_true(s:count_log("said tick v21") <= after + 1)
    s:stop()
  end)
end)

describe("a soak without a canary", function()
  after_each(server.cleanup)

  local GUARD = { loops = 0, min_requests = 20, max_error_rate = 0.1, max_p99_ratio = 1000 }

  it("has the new generation on all loops at once, and keeps it when it is good", function()
    local s = start(pages("v1"), { reload = { soak = 0.5, canary = GUARD } })
    local clients = connect(s, 16)
    for _, c in ipairs(clients) do assert.matches("^v1 ", http.ask(c, http.get("/")).body) end
    local from = net.now()
    assert.is_true(reload.to(s, pages("v2")).soaking) -- which came before the end of it
    local loops = {}
    for _, c in ipairs(clients) do
      local version, loop = http.ask(c, http.get("/")).body:match("^(%S+) (%d+)$")
      assert.equal("v2", version)
      loops[loop] = true
    end
    assert.same({ ["1"] = true, ["2"] = true }, loops)
    reload.wait_retired(s)
    assert.is_true(net.now() - from >= 0.5)
    assert.equal(0, s:count_log("rolled back"))
    s:stop()
  end)

  it("takes all loops back when it is bad", function()
    local s = start(pages("v1"), { reload = { soak = 30, canary = GUARD } })
    local clients = connect(s, 8)
    for round = 1, 3 do
      for _, c in ipairs(clients) do assert.matches("^v1 ", http.ask(c, http.get("/")).body) end
      local report, failed = load_until(clients, begin(s, pages("v2", "if req.path == '/' then res.status = 503 end")))
      assert.is_false(report.ok)
      assert.matches("script@" .. round + 1 .. ": rolled back: %d+ of %d+ requests failed", report.message)
      assert.is_true(failed >= 18 and failed <= 40, failed .. " failed") -- some more may be under way on the other loop
      reload.wait_retired(s)
    end
    for _, c in ipairs(clients) do assert.matches("^v1 ", http.ask(c, http.get("/")).body) end
    for _, c in ipairs(connect(s, 8)) do assert.matches("^v1 ", http.ask(c, http.get("/")).body) end
    s:stop()
  end)

  it("ends with the next version", function()
    local s = start(pages("v1"), { reload = { soak = 60, canary = GUARD } })
    local reports = begin(s, pages("v2"))
    s:wait_state(function() return http.ask(s:connect(), http.get("/")).body:find("v2", 1, true) end)
    reload.to(s, pages("v3"))
    assert.is_true(report_of(reports).ok)
    assert.matches("^v3 ", http.ask(s:connect(), http.get("/")).body)
    s:stop()
  end)
end)
