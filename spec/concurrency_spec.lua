-- Frames of one connection handled by several tasks: order, bounds, ends.

local server = require "spec.support.server"
local net = server.net

-- Lines are frames: "NAME MS [WORDS]": the handler sleeps, then answers with the name. say()s when it starts.
local SCRIPT = [[
local LinkBuffer = require "rille.linkbuffer"
local codec = {}
function codec.decode(conn)
  local at = conn:index_of("\n")
  if not at then return nil end
  local line = conn:next(at + 1)
  if line:sub(1, 3):str() == "bad" then return nil, "no such frame" end
  return line
end

local running, most = 0, 0

local function handle(conn, frame)
  local name, ms, how = frame:str():match("(%S+) (%d+) ?(%S*)")
  running = running + 1
  most = math.max(most, running)
  if ms == "0" and how == "" then
    conn:write(name .. "\n")
  else
    conn:write(name .. ":")
    rille.sleep(tonumber(ms) / 1000)
    if how == "raise" then running = running - 1 error("raised") end
    if how == "close" then running = running - 1 return conn:close() end
    if how == "flush" then conn:flush() say("flushed %s", name) end
    if how == "large" then
      local b = LinkBuffer.new()
      b:write(("l"):rep(100000))
      b:flush()
      conn:write(b)
      conn:append(b)
    end
    if how == "typed" then
      conn:write_u16(0x4142)
      conn:pack(">I1", 67)
      local p = conn:malloc(3)
      p[0], p[1] = 68, 69
      conn:malloc_ack(conn:malloc_len() - 1)
    end
    if how == "swamp" then for _ = 1, 100 do assert(conn:write(("s"):rep(1000))) end say("swamped %s", name) end
    assert(frame:is_valid() and frame:str():match("%S+") == name)
    conn:write(name .. "\n")
  end
  running = running - 1
end

return {
  codec = codec,
  on_connect = function(conn)
    local n, ordered = CONCURRENCY
    conn:on_request(handle, codec, { concurrency = n, ordered = ordered })
  end,
  on_request = function() end,
  on_disconnect = function() say("disconnect %d", running) end,
  on_close = function(_, err) say("close %s %d most %d", tostring(err), running, most) end,
}
]]

local function start(n, ordered, opts)
  return server.start((SCRIPT:gsub("CONCURRENCY", ("%d, %s"):format(n, ordered))), opts)
end

describe("concurrency", function()
  after_each(server.cleanup)

  it("handles frames at the same time and answers in their order", function()
    local s = start(8, true)
    local c = s:connect()
    local started = net.now()
    c:send("a 200\nb 100\nc 0\nd 150\ne 50\nf 0\n")
    for _, name in ipairs { "a:a", "b:b", "c", "d:d", "e:e", "f" } do assert.equal(name, c:receive_line()) end
    assert.is_true(net.now() - started < 0.2 + 0.25 * net.slow)
  end)

  it("answers as handlers are done when order does not matter", function()
    local s = start(8, false)
    local c = s:connect()
    c:send("a 300\nb 150\nc 0\n")
    assert.equal("a:b:c", c:receive_line())
    assert.equal("b", c:receive_line())
    assert.equal("a", c:receive_line())
  end)

  it("lets the head write through at once", function()
    local s = start(4, true)
    local c = s:connect()
    c:send("a 300\nb 0\n")
    assert.equal("a:", c:receive(2))
    assert.equal("a\nb\n", c:receive(4))
  end)

  it("has no more under way than allowed", function()
    for _, ordered in ipairs { true, false } do
      local s = start(3, ordered)
      local c = s:connect()
      local text = {}
      for i = 1, 40 do text[i] = i .. " " .. (i % 4) * 5 .. "\n" end
      c:send(table.concat(text))
      local total = {}
      for i = 1, 40 do total[i] = c:receive_line() end
      if ordered then
        for i = 1, 40 do assert.equal(i % 4 == 0 and tostring(i) or i .. ":" .. i, total[i]) end
      end
      c:shutdown_write()
      c:receive_all()
      assert.same({ "disconnect 0", "close nil 0 most 3" }, s:wait_said(2))
    end
  end)

  it("answers all frames of a peer that has ended its side", function()
    local s = start(8, true)
    local c = s:connect()
    c:send("a 100\nb 50\nc 0\n")
    c:shutdown_write()
    assert.equal("a:a\nb:b\nc\n", (c:receive_all()))
    assert.equal("close nil 0 most 3", s:wait_said(2)[2])
  end)

  it("takes every way to write, and links what is large", function()
    local s = start(8, true)
    local c = s:connect()
    c:send("a 100\nb 1 typed\nc 1 large\nd 1 flush\n")
    assert.equal("a:a", c:receive_line())
    assert.equal("b:ABCDEb", c:receive_line())
    assert.is_true("c:" .. ("l"):rep(200000) .. "c" == c:receive_line())
    assert.equal("d:d", c:receive_line())
    assert.equal("flushed d", s:wait_said(1)[1])
  end)

  it("ends in order when a handler raises or closes: what came before is answered, what comes after is not", function()
    for _, how in ipairs { "raise", "close", "bad" } do
      local s = start(8, true, { allow_errors = true })
      local c = s:connect()
      local second = how == "bad" and "bad frame\n" or "b 10 " .. how .. "\n"
      c:send("a 100\n" .. second .. "c 20\nd 0\ne 200\n")
      local text, ended = c:receive_all()
      assert.equal(how == "bad" and "a:a\n" or "a:a\nb:", text, how)
      assert.equal("closed", ended)
      local err = how == "raise" and "error" or "nil"
      assert.matches("^close " .. err .. " 0", s:wait_said(1)[1])
      if how == "raise" then assert.matches("on_request of conn %d+ failed: .*script.lua:%d+: raised", s:log()) end
      c:close()
      c = s:connect() -- the others are served as ever
      c:send("x 5\ny 0\n")
      assert.equal("x:x\ny\n", c:receive(6))
      c:close()
      s:stop()
    end
  end)

  it("ends at once when a handler raises and order does not matter", function()
    local s = start(8, false, { allow_errors = true })
    local c = s:connect()
    c:send("a 300\nb 10 raise\n")
    assert.equal("a:b:", (c:receive_all()))
    assert.matches("^close error 0", s:wait_said(1)[1])
  end)

  it("counts what is held towards high_water, and parks who writes more", function()
    local s = start(4, true, { limits = { high_water = 20000 } })
    local c = s:connect()
    c:send("a 300\nb 1 swamp\nc 1 swamp\n")
    assert.equal("a:", c:receive(2))
    assert.equal(0, #s:said()) -- both are parked at the mark
    assert.equal("a", c:receive_line())
    assert.equal("b:" .. ("s"):rep(100000) .. "b", c:receive_line())
    assert.equal("c:" .. ("s"):rep(100000) .. "c", c:receive_line())
    assert.equal(2, #s:wait_said(2))
  end)

  it("leaves nothing behind when the peer breaks off", function()
    local s = start(16, true, { limits = { high_water = 20000 }, allow_errors = true })
    for i = 1, 20 do
      local c = s:connect()
      c:send(("a %d\nb 1 swamp\nc 5\nd 1 large\ne 3\n"):format(i % 5 * 10 + 1))
      if i % 2 == 0 then c:receive(2) end
      c:reset()
    end
    s:wait_state(function(state) return state.connections == 0 end)
  end)

  it("stops with the server, whose handlers finish", function()
    local s = start(8, true)
    local c = s:connect()
    c:send("a 200\nb 100\n")
    assert.equal("a:", c:receive(2))
    s:signal("TERM")
    assert.equal("a\nb:b\n", (c:receive_all()))
    s:wait_exit()
    s:check_end()
    s:forget()
  end)

  it("is cancelled at the end of patience", function()
    local s = start(8, true, { conf = { drain_timeout = 0.1 } })
    local c = s:connect()
    c:send("a 60000\nb 60000\n")
    assert.equal("a:", c:receive(2))
    s:signal("TERM")
    c:receive_all()
    s:wait_exit()
    assert.matches("^close shutdown", s:said()[1])
    s:check_end()
    s:forget()
  end)

  it("comes from the configuration", function()
    server.write("lines.lua", [[
      return { decode = function(conn)
        local at = conn:index_of("\n")
        return at and { line = conn:next(at + 1), at = at }
      end }
    ]])
    local s = server.start([[
      return function(conn, frame)
        local ms = frame.line:sub(1, frame.at):tonumber()
        rille.sleep(ms / 1000)
        conn:write(frame.line)
      end
    ]], { server = { codec = "lines", concurrency = 4, ordered = false } })
    local c = s:connect()
    c:send("200\n100\n1\n")
    assert.equal("1", c:receive_line())
    assert.equal("100", c:receive_line())
    assert.equal("200", c:receive_line())
  end)

  it("leaves a connection what others are: for keys, topics, rille.select and rille.mux", function()
    local s = server.start([[
      local topic = rille.topic "all"
      return function(conn, frame)
        assert(rille.bind("key", conn))
        assert(topic:subscribe(conn))
        local ready, err = rille.select({ conn }, 0)
        rille.mux(conn)
        rille.lookup("key"):send(tostring(ready or err) .. "\n")
        topic:publish "published\n"
      end
    ]], { server = { codec = "line", concurrency = 4 } })
    local c = s:connect()
    c:send("go\n")
    assert.equal("timeout", c:receive_line())
    assert.equal("published", c:receive_line())
  end)

  it("makes no garbage that piles up", function()
    local s = start(8, true)
    local c = s:connect()
    local text = {}
    for i = 1, 1000 do text[i] = i .. " 0\n" end
    text = table.concat(text)
    for _ = 1, 20 do
      c:send(text)
      for _ = 1, 1000 do c:receive_line() end
    end
    assert.is_true(s:state().lua_bytes < 4e6)
  end)
end)
