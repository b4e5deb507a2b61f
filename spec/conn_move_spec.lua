-- conn:move: a live connection goes over to another loop.

local server = require "spec.support.server"

-- Lines are commands. Each answer begins with the loop.
local SCRIPT = [[
local held = {}
return {
  on_prepare = function(conn) if MOVE_IN == "prepare" then say("prepare %s %s", conn:move(3 - rille.loop.id)) end end,
  on_connect = function(conn)
    say("connect")
    if MOVE_IN == "connect" then conn.ctx = { n = 1 } assert(conn:move(3 - rille.loop.id)) end
  end,
  on_move = function(conn, old)
    say("move %s", conn.id ~= old and rille.connection(old):send("x") and "ok")
    if conn.ctx and conn.ctx.raise then error("raised") end
    if conn.ctx and conn.ctx.greet then conn:write("hello from " .. rille.loop.id .. "\n") end
  end,
  on_request = function(conn)
    local line, err = conn:read_line()
    if not line then return end
    local word, arg = line:str():match("(%S+) ?(.*)")
    conn.ctx = conn.ctx or { n = 0 }
    conn.ctx.n = conn.ctx.n + 1
    local other = 3 - rille.loop.id
    if word == "where" then conn:write(("%d %d\n"):format(rille.loop.id, conn.ctx.n)) end
    if word == "move" then
      for flag in arg:gmatch("%a+") do conn.ctx[flag] = true end
      if conn.ctx.large then conn.high_water = 1e8 conn:write(("x"):rep(3000000) .. "\n") end
      if conn.ctx.times then conn:set_timeouts { idle = 0.2 } end
      if conn.ctx.rate then conn:set_rate { write = 50000 } conn:write(("x"):rep(50000) .. "\n") end
      local ok, why, message = conn:move(other)
      if not ok then return conn:write(("%s %s\n"):format(why, message)) end
      say("after %s %s %s %s", conn:is_active(), select(2, conn:write("lost")), select(2, conn:read(1)), select(2, conn:move(other)))
    end
    if word == "function" then
      conn.ctx = { f = print }
      local _, why, message = conn:move(other)
      conn:write(why .. " " .. message .. "\n")
      conn.ctx = nil
    end
    if word == "closer" then
      conn:on_close(function() say("closer") end)
      conn:write(select(2, conn:move(other)) .. "\n")
    end
    if word == "reader" then
      rille.spawn(function() conn:read(1) end)
      rille.sleep(0.01)
      conn:write(select(2, conn:move(other)) .. "\n")
    end
    if word == "task" then
      rille.spawn(function() say("task %s %s", conn:move(other)) end)
      rille.sleep(0.01)
      conn:write("on\n")
    end
    if word == "spawn" then held[1] = conn rille.after(0.02, function() say("spawned %s", conn:move(other)) end) end
    if word == "nowhere" then
      conn:write(("%s %s %s\n"):format(select(2, conn:move(3)), select(2, conn:move(0)), conn:move(rille.loop.id)))
    end
    if word == "pair" then
      local a, b = rille.pair()
      conn:write(select(2, a:move(other)) .. "\n")
      a:close() b:close()
    end
    if word == "raise" then error("raised") end
  end,
  on_disconnect = function() say("disconnect") end,
  on_close = function(_, err) say("close %s", tostring(err)) end,
}
]]

local function start(opts, where)
  opts = opts or {}
  opts.conf = opts.conf or { loops = 2 }
  return server.start((SCRIPT:gsub("MOVE_IN", ("%q"):format(where or "request"))), opts)
end

describe("conn:move", function()
  after_each(server.cleanup)

  local function line(c, text)
    c:send(text .. "\n")
    return c:receive_line()
  end

  local function has(s, text, count)
    local found = server.net.poll_until(function()
      local n = 0
      for _, said in ipairs(s:said()) do n = n + (said == text and 1 or 0) end
      return n >= (count or 1)
    end)
    assert.is_truthy(found, text .. " was not said:\n" .. s:tail())
  end

  for _, accept in ipairs { "reuseport", "shared", "balanced" } do
    it("takes a connection and its ctx there and back, accepted by " .. accept, function()
      local s = start { server = { accept = accept } }
      local c = s:connect()
      local loop = tonumber(line(c, "where"):match("^(%d)"))
      for i = 1, 10 do
        c:send("move\n")
        assert.equal(("%d %d"):format(i % 2 == 1 and 3 - loop or loop, i * 2 + 1), line(c, "where"))
      end
      has(s, "after false closed closed closed", 10)
      has(s, "move ok", 10)
      c:close()
      has(s, "close nil")
      s:wait_empty(2)
      s:stop()
      local closes, connects, disconnects = 0, 0, 0
      for _, said in ipairs(s:said()) do
        if said:find("^close") then closes = closes + 1 end
        if said == "connect" then connects = connects + 1 end
        if said == "disconnect" then disconnects = disconnects + 1 end
      end
      assert.same({ 1, 1, 1 }, { connects, disconnects, closes })
    end)
  end

  it("takes unread input and the end of the peer along", function()
    local s = start()
    local c = s:connect()
    c:send("move greet\nwhere\nmove\nwhere\nwhere\n")
    c:shutdown_write()
    local text = c:receive_all()
    assert.matches("^hello from %d\n%d 2\nhello from %d\n%d 4\n%d 5\n$", text)
    has(s, "close nil")
  end)

  it("takes unsent output along", function()
    local s = start()
    local c = s:connect { receive_buffer = 8192 }
    c:send("move large\nwhere\n")
    assert.equal(("x"):rep(3000000), c:receive_line(20))
    assert.matches("^%d 2$", c:receive_line())
  end)

  it("takes time-outs and rates along", function()
    local s = start()
    local c = s:connect()
    c:send("move times\n")
    has(s, "close timeout")
    c = s:connect()
    local started = server.net.now()
    c:send("move rate\n")
    assert.equal(50000, #c:receive_line(10))
    assert.is_true(server.net.now() - started > 0.6)
  end)

  it("moves before on_request, from on_connect", function()
    local s = start(nil, "connect")
    local c = s:connect()
    assert.matches("^%d 2$", line(c, "where"))
    assert.same({ "connect", "move ok" }, s:said())
  end)

  it("does not from on_prepare", function()
    local s = start(nil, "prepare")
    local c = s:connect()
    assert.matches("^%d 1$", line(c, "where"))
    assert.same({ "prepare nil busy", "connect" }, s:said())
  end)

  it("moves from a task when no handler runs", function()
    local s = start()
    local c = s:connect()
    local loop = line(c, "where"):match("^%d")
    c:send("spawn\n")
    has(s, "move ok")
    assert.is_not.equal(loop, line(c, "where"):match("^%d"))
  end)

  it("refuses what cannot go, and the connection goes on", function()
    local s = start()
    local c = s:connect()
    assert.matches("^invalid argument ctx: cannot serialize", line(c, "function"))
    assert.equal("on", line(c, "task"))
    has(s, "task nil busy")
    assert.equal("not found not found true", line(c, "nowhere"))
    assert.equal("not supported", line(c, "pair"))
    assert.equal("busy", line(c, "reader"))
    c:send("x") -- for that reader
    assert.matches("^%d %d$", line(c, "where"))
    assert.equal("busy", line(c, "closer"))
    assert.matches("^%d %d$", line(c, "where"))
    c:close()
    has(s, "closer")
    has(s, "close nil")
  end)

  it("ends with an error when on_move raises", function()
    local s = start { conf = { loops = 2 }, allow_errors = true }
    local c = s:connect()
    c:send("move raise\nwhere\n")
    assert.equal("", (c:receive_all()))
    has(s, "close error")
    assert.matches("on_move of conn %d+ failed: .*raised", s:log())
  end)

  it("says no when there is one loop", function()
    local s = start { conf = { loops = 1 } }
    local c = s:connect()
    assert.equal("not found nil", line(c, "move"))
  end)

  it("leaves no descriptor, no byte and no count behind, whatever the peer does meanwhile", function()
    local s = start()
    local descriptors = s:descriptors()
    for i = 1, 60 do
      local c = s:connect()
      c:send(("move\nwhere\n"):rep(i % 4 + 1))
      if i % 3 == 0 then c:reset() elseif i % 3 == 1 then c:close() else c:shutdown_write() c:receive_all() c:close() end
    end
    s:wait_empty(2)
    assert.equal(descriptors, s:descriptors())
    has(s, "connect", 1)
    local closes, connects = 0, 0
    server.net.poll_until(function()
      closes, connects = 0, 0
      for _, said in ipairs(s:said()) do
        if said:find("^close") then closes = closes + 1 end
        if said == "connect" then connects = connects + 1 end
      end
      return connects == 60 and closes == 60
    end)
    assert.same({ 60, 60 }, { connects, closes })
  end)

  it("stops in the middle of it", function()
    for _ = 1, 5 do
      local s = start()
      local clients = {}
      for i = 1, 10 do
        clients[i] = s:connect()
        clients[i]:send(("move\n"):rep(50))
      end
      s:signal("TERM")
      s:wait_exit()
      s:check_end()
      s:forget()
    end
  end)
end)
