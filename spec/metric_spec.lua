-- rille.metric: what scripts count, alone in a program and over loops and workers, and how it is printed.

local inside = require "spec.support.inside"
local control = require "spec.support.control"
local server = require "spec.support.server"

local check = inside.check

describe("rille.metric", function()
  after_each(server.cleanup)

  it("counts without a loop", function()
    check([[
      local c = rille.metric.counter("a_total")
      equal(c:inc(), true) c:inc(2) c:inc(0.5) c:inc(0)
      equal(c:value(), 3.5)
      local g = rille.metric.gauge("b")
      g:set(5) g:inc() g:inc(2) g:dec() g:dec(0.5)
      equal(g:value(), 6.5)
      g:set(-1)
      equal(g:value(), -1)
      local h = rille.metric.histogram("c_seconds", { buckets = { 1, 2, 5 } })
      for _, v in ipairs { 0.5, 1, 1.5, 7 } do h:observe(v) end
      local count, sum = h:value()
      equal(count, 4) equal(sum, 10)
      equal(tostring(c), "counter a_total")
    ]], { how = "plain" })
  end)

  it("keeps a series for each combination of label values", function()
    check([[
      local c = rille.metric.counter("a_total", { labels = { "method", "code" } })
      c:inc(1, "GET", 200) c:inc(1, "GET", "200") c:inc(2, "POST", 404) c:inc(1, "GET", true)
      equal(c:value("GET", "200"), 2) equal(c:value("POST", 404), 2) equal(c:value("GET", "true"), 1) equal(c:value("x", "y"), 0)
      local get = c:with("GET", 200)
      get:inc() get:inc(4)
      equal(c:value("GET", 200), 7) equal(get:value(), 7)
      local one = rille.metric.gauge("b", { labels = { "name" } })
      one:set(3, "x") one:inc(1, "x") one:dec(nil, "y")
      equal(one:value("x"), 4) equal(one:value("y"), -1)
      local three = rille.metric.counter("c_total", { labels = { "a", "b", "c" } })
      three:inc(1, 1, 2, 3) three:inc(1, "1", "2", "3")
      equal(three:value(1, 2, 3), 2)
      local h = rille.metric.histogram("d", { labels = { "x" } })
      h:observe(0.2, "y")
      equal((h:value("y")), 1)
    ]], { how = "plain" })
  end)

  it("is one by its name", function()
    check([[
      local m = rille.metric
      local a = m.counter("a_total", { help = "some" })
      equal(m.counter("a_total"), a)
      raises('"a_total" is there already', m.gauge, "a_total")
      raises('"a_total" is there already', m.counter, "a_total", { labels = { "x" } })
      m.histogram("h", { buckets = { 1, 2 } })
      raises('"h" is there already', m.histogram, "h", { buckets = { 1, 3 } })
      raises('"h_sum" is there already', m.counter, "h_sum")
      m.counter("k_count")
      raises('"k" is there already', m.histogram, "k")
    ]], { how = "plain" })
  end)

  it("raises for what is no metric", function()
    check([[
      local m = rille.metric
      for _, name in ipairs { "", "1a", "a-b", "a b", "\195\164", ("x"):rep(201) } do raises("bad name", m.counter, name) end
      raises("rille_ is for", m.counter, "rille_x")
      raises("string expected, got nil", m.gauge)
      raises("table expected", m.gauge, "x", 5)
      raises("no option 'lables'", m.gauge, "x", { lables = {} })
      raises("no option 'buckets'", m.gauge, "x", { buckets = {} })
      raises("help is a string", m.gauge, "x", { help = 1 })
      for _, label in ipairs { "", "1", "a:b", "__a", 5 } do raises("bad label", m.gauge, "x", { labels = { label } }) end
      raises("bad label a", m.gauge, "x", { labels = { "a", "a" } })
      raises("bad label le", m.histogram, "x", { labels = { "le" } })
      raises("9 labels", m.gauge, "x", { labels = { "a", "b", "c", "d", "e", "f", "g", "h", "i" } })
      for _, buckets in ipairs { {}, { 2, 1 }, { 1, 1 }, { 0 / 0 }, { 1 / 0 }, { "x" }, 5 } do
        raises("rising numbers", m.histogram, "x", { buckets = buckets })
      end
      local c, l = m.counter("c_total"), m.counter("l_total", { labels = { "x" } })
      for _, n in ipairs { -1, 0 / 0, 1 / 0, "1" } do raises("a counter goes up only", c.inc, c, n) end
      raises("finite number", m.gauge("g").set, m.gauge("g"), 0 / 0)
      raises("got 0 label values, expected 1 (x)", l.inc, l)
      raises("got 2 label values, expected 1 (x)", l.inc, l, 1, "a", "b")
      raises("got 1 label values, expected 0", c.inc, c, 1, "a")
      raises("label 'x' is a table", l.inc, l, 1, {})
      equal(c:value(), 0)
    ]], { how = "plain" })
  end)

  it("has a limit of names and of series", function()
    check([[
      local C = require "rille.core"
      C.rille_metric_limit(3, 2)
      local a = rille.metric.counter("a_total", { labels = { "x" } })
      a:inc(1, "one") a:inc(1, "two")
      local ok, err = a:inc(1, "three")
      equal(ok, nil) equal(err, "full")
      equal(a:inc(1, "one"), true)
      ok, err = a:with("four")
      equal(ok, nil) equal(err, "full")
      rille.metric.counter("b_total") rille.metric.counter("c_total")
      ok, err = rille.metric.counter("d_total")
      equal(ok, nil) equal(err, "full")
    ]], { how = "plain" })
  end)

  it("adds up what all loops and workers count", function()
    server.write("count.lua", [[
      local rille = require "rille"
      local hits = rille.metric.counter("worked_total")
      return { one = function() hits:inc() return true end }
    ]])
    local s = control.start([[

local hits = rille.metric.counter("hits_total", { help = "of\nclients \\ all" , labels = { "word" } })
local open = rille.metric.gauge("open_now")
local size = rille.metric.histogram("line_bytes", { buckets = { 4, 8 } })
return {
  on_connect = function() open:inc() end,
  on_close = function() open:dec() end,
  on_request = function(conn)
    local line = conn:read_line():str()
    hits:inc(1, line)
    size:observe(#line)
    if line == "work" then assert(rille.pool("jobs"):call("count", "one")) end
    conn:write("ok\n")
  end,
}
]], { conf = { loops = 2 }, server = { accept = "balanced" }, limits = { max_connections = 0 } })
    for i = 1, 8 do
      local c = s:connect()
      assert.equal("ok\n", c:exchange("a\"b\\\n", 3))
      assert.equal("ok\n", c:exchange("work\n", 3))
      if i > 3 then c:close() end
    end
    control.wait_status(s, function(status) return status.total.connections == 3 end)
    local text = control.ask(s, "metrics\n")
    local function has(line) assert.truthy(("\n" .. text):find("\n" .. line .. "\n", 1, true), line .. " is not in\n" .. text) end
    has '# HELP hits_total of\\nclients \\\\ all'
    has "# TYPE hits_total counter"
    has 'hits_total{word="a\\"b\\\\"} 8'
    has 'hits_total{word="work"} 8'
    has "# TYPE open_now gauge"
    has "open_now 3"
    has 'line_bytes_bucket{le="4"} 16'
    has 'line_bytes_bucket{le="+Inf"} 16'
    has "line_bytes_sum 64"
    has "line_bytes_count 16"
    has "worked_total 8"
    has 'rille_pool_done_total{pool="jobs"} 8'
    has 'rille_log_lines_total{level="error"} 0'
    local status = control.status(s)
    for _, loop in ipairs(status.loops) do
      has(('rille_loop_accepted_total{loop="%d"} 4'):format(loop.id))
      has(('rille_loop_messages_total{loop="%d"} 8'):format(loop.id))
      has(('rille_loop_received_bytes_total{loop="%d"} %d'):format(loop.id, loop.bytes_in))
    end
    -- each line is a comment or a sample, each metric has its type, none comes twice
    local types, seen = {}, {}
    for line in text:gmatch("[^\n]+") do
      local name, kind = line:match("^# TYPE ([%a_:][%w_:]*) (%l+)$")
      if name then
        assert.is_nil(types[name], name)
        types[name] = kind
      elseif line:sub(1, 1) ~= "#" then
        local sample, labels, value = line:match("^([%a_:][%w_:]*)(%b{}) (%S+)$")
        if not sample then sample, value = line:match("^([%a_:][%w_:]*) (%S+)$") end
        assert.truthy(tonumber(value), line)
        assert.truthy(types[sample] or types[sample:gsub("_%l+$", "")], line)
        assert.is_nil(seen[sample .. (labels or "")], line)
        seen[sample .. (labels or "")] = true
      end
    end
  end)
end)

describe("metrics in the configuration", function()
  after_each(server.cleanup)

  local SLOW = [[

return function(req, res)
  if req.path == "/slow" then rille.sleep(1) end
  if req.path == "/stall" then local t = rille.time() while rille.time() - t < 1.5 do end end
  res:send("done\n")
end
]]

  local function start(conf)
    local path = server.script_path(SLOW, "pages")
    conf.metrics = { listen = "http://127.0.0.1:0" }
    conf.servers = { { listen = "http://127.0.0.1:0", script = path, accept = "balanced" } }
    local s = control.start(SLOW, { listen = "http://127.0.0.1:0", conf = conf })
    s:wait_listening(2)
    for line in s:log():gmatch("[^\n]+") do
      local url = line:match('listening on ([^"]+)"')
      if url and line:find("rille.monitor@1", 1, true) then s.monitor = url elseif url then s.page = url end
    end
    return s
  end

  it("serves /metrics and /healthz", function()
    local s = start { loops = 2 }
    local answer = control.get(s.monitor, "/healthz")
    assert.matches("^HTTP/1%.1 200 OK\r\n.*\r\n\r\nok\n$", answer)
    assert.matches("done", control.get(s.page, "/"))
    answer = control.get(s.monitor, "/metrics")
    assert.matches("^HTTP/1%.1 200 OK\r\n", answer)
    assert.matches("\r\nContent%-Type: text/plain; version=0%.0%.4; charset=utf%-8\r\n", answer)
    assert.matches("\nrille_up 1\n", answer)
    assert.matches('\nrille_loop_connections{loop="2"} %d+\n', answer)
    assert.matches("^HTTP/1%.1 404 ", control.get(s.monitor, "/"))
    local c = server.client.connect(s.monitor)
    c:send("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert.matches("^HTTP/1%.1 405 .*Allow: GET, HEAD", c:receive_all(5))
  end)

  it("says 503 while it drains, and ends nevertheless", function()
    local s = start {}
    local c = server.client.connect(s.page)
    c:send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    control.wait_status(s, function(status) return status.total.messages == 1 end)
    s:signal("TERM")
    s:wait_log("draining")
    assert.matches("^HTTP/1%.1 503 .*draining\n$", control.get(s.monitor, "/healthz"))
    assert.matches("done\n$", c:receive_all(10))
    assert.equal(0, s:wait_exit(10))
    s:forget()
    s:check_end()
  end)

  it("says 503 while another loop is stalled", function()
    local s = start { loops = 2, stall_after = "100ms" }
    local clients = {}
    local function stall(i)
      clients[i] = server.client.connect(s.page)
      clients[i]:send("GET /stall HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    end
    stall(1) -- loop 1 or 2
    s:wait_log("is stalled", 10)
    if s:log():find("loop 1 is stalled", 1, true) then
      clients[1]:receive_all(10)
      stall(2)
      s:wait_log("loop 2 is stalled", 10)
    end
    assert.matches("^HTTP/1%.1 503 .*a loop is stalled\n$", control.get(s.monitor, "/healthz"))
    clients[#clients]:receive_all(10)
  end)

  it("offers its handlers to scripts", function()
    local s = control.start([[

local monitor = require "rille.monitor"
local hits = rille.metric.counter("mounted_total")
return function(req, res)
  hits:inc()
  if req.path == "/numbers" then return monitor.metrics(req, res) end
  return monitor.healthz(req, res)
end
]], { listen = "http://127.0.0.1:0" })
    assert.matches("\nmounted_total 1\n", control.get(s.url, "/numbers"))
    assert.matches("\r\n\r\nok\n$", control.get(s.url, "/"))
  end)
end)
