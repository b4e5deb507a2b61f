-- Which callbacks a connection sees, and in what order: one row a way to live and end. "prepare connect request disconnect close:ERR".

local server = require "spec.support.server"

-- The client's first line is a program: words that say in which callback what is done, "request=close" say. What on_prepare does, which
-- runs before anything is read, is an option.
local SCRIPT = [[
local options = ...
local function act(conn, how)
  if how == "close" then conn:close() end
  if how == "abort" then conn:abort() end
  if how == "raise" then error("expected") end
  if how == "false" then return false end
  if how == "sleep" then rille.sleep(0.05) end
  if how == "sleepclose" then conn:close() rille.sleep(0.05) end
  if how == "shutdown" then conn:shutdown("write") end
  if how == "twice" then conn:close() conn:abort() conn:close() end
  if how == "spawn" then rille.spawn(function() rille.sleep(0.02) conn:close() end) rille.sleep(0.05) end
  if how == "idle" then conn:set_timeouts { idle = 0.02 } end
  if how == "lifetime" then conn:set_timeouts { lifetime = 0.02 } end
  if how == "detach" then local other = rille.adopt(conn:detach()) other:close() end
  if how == "post" then rille.connection(conn.id):close() end
  if how == "closer" then conn:on_close(function(c, err) c.seen[#c.seen + 1] = "closer" end) end
end

local function note(conn, what)
  conn.seen = conn.seen or {}
  table.insert(conn.seen, what)
  return act(conn, options[what] or conn.plan and conn.plan[what])
end

return {
  on_prepare = function(conn) return note(conn, "prepare") end,
  on_connect = function(conn)
    note(conn, "connect")
    if not options.blind then
      local line = conn:read_line()
      conn.plan = {}
      for what, how in (line and line:str() or ""):gmatch("(%w+)=(%w+)") do conn.plan[what] = how end
      if conn.plan.connect then act(conn, conn.plan.connect) end
    end
  end,
  on_request = function(conn)
    note(conn, "request")
    conn:skip(conn:len())
  end,
  on_idle = function(conn) note(conn, "idle") conn:close() end,
  on_disconnect = function(conn) note(conn, "disconnect") end,
  on_close = function(conn, err)
    table.insert(conn.seen, "close:" .. tostring(err))
    say("%s", table.concat(conn.seen, " "))
    act(conn, options.close or conn.plan and conn.plan.close)
  end,
}
]]

-- the client's line; what it does then (nil: it waits for the end); what the script sees
local ROWS = {
  { "", "finish", "prepare connect disconnect close:nil" },
  { "", "request finish", "prepare connect request disconnect close:nil" },
  { "", "request both finish", "prepare connect request disconnect close:nil" },
  { "", "request close", "prepare connect request disconnect close:nil" },
  { "", "request reset", "prepare connect request disconnect close:reset" },
  { "connect=close", nil, "prepare connect close:nil" },
  { "connect=abort", nil, "prepare connect close:nil" },
  { "connect=raise", nil, "prepare connect close:error" },
  { "connect=twice", nil, "prepare connect close:nil" },
  { "connect=spawn", nil, "prepare connect close:nil" },
  { "connect=post", nil, "prepare connect close:nil" },
  { "connect=detach", nil, "prepare connect close:nil" },
  { "connect=lifetime", nil, "prepare connect close:timeout" },
  { "connect=idle", nil, "prepare connect idle close:nil" },
  { "connect=shutdown", "finish", "prepare connect disconnect close:nil" },
  { "connect=sleep", "request finish", "prepare connect request disconnect close:nil" },
  { "connect=sleep", "finish", "prepare connect disconnect close:nil" },
  { "request=close", "request", "prepare connect request close:nil" },
  { "request=abort", "request", "prepare connect request close:nil" },
  { "request=raise", "request", "prepare connect request close:error" },
  { "request=twice", "request", "prepare connect request close:nil" },
  { "request=spawn", "request", "prepare connect request close:nil" },
  { "request=post", "request", "prepare connect request close:nil" },
  { "request=detach", "request", "prepare connect request close:nil" },
  { "request=sleep", "request finish", "prepare connect request disconnect close:nil" },
  { "request=closer", "request finish", "prepare connect request disconnect closer close:nil" },
  { "disconnect=close", "finish", "prepare connect disconnect close:nil" },
  { "disconnect=abort", "finish", "prepare connect disconnect close:nil" },
  { "disconnect=raise", "finish", "prepare connect disconnect close:error" },
  { "disconnect=sleep", "finish", "prepare connect disconnect close:nil" },
  { "disconnect=closer", "finish", "prepare connect disconnect closer close:nil" },
  { "close=close", "finish", "prepare connect disconnect close:nil" },
  { "close=raise", "finish", "prepare connect disconnect close:nil" },
  { "close=sleep", "request finish", "prepare connect request disconnect close:nil" },
}

-- What on_prepare does
local PREPARED = {
  { "false", "prepare close:nil" },
  { "close", "prepare close:nil" },
  { "abort", "prepare close:nil" },
  { "raise", "prepare close:error" },
  { "sleepclose", "prepare close:nil" },
  { "sleep", "prepare connect request disconnect close:nil" },
}

local function act(c, what)
  for word in what:gmatch("%w+") do
    if word == "request" then
      c:send("x")
    elseif word == "finish" then
      c:shutdown_write()
    elseif word == "close" or word == "reset" then
      return c[word](c)
    end
  end
end

describe("the callbacks of a connection", function()
  after_each(server.cleanup)

  it("come once and in order, however it ends", function()
    local s = server.start(SCRIPT, { allow_errors = true })
    for i, row in ipairs(ROWS) do
      local c = s:connect()
      c:send(row[1] .. "\n")
      if row[2] then act(c, row[2]) end
      local said = s:wait_said(i)
      assert.equal(row[3], said[i], ("row %d: %s, %s"):format(i, row[1], tostring(row[2])))
      if c.fd then c:close() end
    end
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal(#ROWS, #s:said())
  end)

  for _, row in ipairs(PREPARED) do
    it(("are %s when on_prepare does this: %s"):format(row[2], row[1]), function()
      local s = server.start(SCRIPT, { allow_errors = true, options = { prepare = row[1], blind = true } })
      for i = 1, 4 do
        local c = server.client.try_connect(s.url) -- it may be aborted before this returns
        if c and (i % 2 == 0 or row[1] == "sleep") then pcall(c.send, c, "x") end
        if c then c:shutdown_write() end
        assert.equal(row[2], s:wait_said(i)[i])
        if c then c:close() end
      end
      s:wait_state(function(state) return state.connections == 0 end)
      assert.equal(4, #s:said())
    end)
  end

  it("end with a shutdown", function()
    local s = server.start(SCRIPT, { options = { blind = true } })
    local idle, fresh = s:connect(), s:connect()
    idle:send("x")
    s:wait_state(function(state) return state.messages == 1 and state.accepted == 2 end)
    s:stop()
    local said = s:said()
    table.sort(said)
    assert.same({ "prepare connect close:shutdown", "prepare connect request close:shutdown" }, said)
    fresh:close()
  end)
end)
