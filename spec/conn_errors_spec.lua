-- What becomes of errors that a script raises, and of its misuse of a connection.

local server = require "spec.support.server"

describe("conn: errors of a handler", function()
  after_each(server.cleanup)

  it("are logged with traceback, script, file, line and generation, and end that connection alone", function()
    local s = server.start([[
      local function helper(conn)
        local missing
        return missing.field
      end
      return {
        on_request = function(conn)
          local line = conn:read_line():str()
          conn:write("before " .. line .. "\n")
          if line == "boom" then local x = helper(conn) end
        end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { name = "gateway", allow_errors = true })
    local other = s:connect()
    other:send("one\n")
    assert.equal("before one", other:receive_line())
    local c = s:connect()
    c:send("boom\nmore\n")
    local text, how = c:receive_all()
    assert.same({ "before boom\n", "closed" }, { text, how })
    s:wait_log("said close error")
    local record = s:log():match("[^\n]*level=error[^\n]*")
    assert.matches("script=gateway@1", record)
    assert.matches("gateway%.lua:3: attempt to index local 'missing'", record)
    assert.matches("stack traceback:", record)
    assert.matches("gateway%.lua:9: in function", record) -- the caller, too
    assert.matches("on_request", record)
    other:send("two\n")
    assert.equal("before two", other:receive_line())
    assert.equal(1, s:count_log("level=error"))
  end)

  it("in every hook leave the server alive, and on_close comes once", function()
    for _, hook in ipairs { "on_prepare", "on_connect", "on_request", "on_disconnect", "on_close" } do
      local s = server.start(([[
        local hooks = {
          on_request = function(conn) conn:write(conn:next(conn:len())) end,
          on_close = function(_, err) say("close %%s", tostring(err)) end,
        }
        local hook, before = %q, nil
        before = hooks[hook]
        local first = true
        hooks[hook] = function(...)
          if before then before(...) end
          if first then
            first = false
            error("in " .. hook)
          end
        end
        return hooks
      ]]):format(hook), { allow_errors = true })
      local c = s:connect()
      pcall(c.send, c, "x")
      if hook == "on_disconnect" or hook == "on_close" then c:receive(1) end
      if hook ~= "on_disconnect" and hook ~= "on_close" then c:receive_all() end
      c:close()
      s:wait_log("level=error[^\n]*in " .. hook)
      s:wait_log("said close")
      c = s:connect()
      c:send("alive")
      assert.equal("alive", c:receive(5))
      assert.equal(1, s:count_log("level=error"))
      assert.equal(1, s:count_log("said close"))
      server.cleanup()
    end
  end)

  it("may be any value", function()
    local s = server.start([[
      local values = { "text", { 1 }, nil, false, setmetatable({}, { __tostring = function() error("no") end }) }
      local i = 0
      return function(conn)
        i = i + 1
        if i <= 5 then error(values[i], 0) end
        conn:write(conn:next(conn:len()))
      end
    ]], { allow_errors = true })
    for _ = 1, 5 do
      local c = s:connect()
      c:send("x")
      c:receive_all()
    end
    local c = s:connect()
    c:send("alive")
    assert.equal("alive", c:receive(5))
    assert.equal(5, s:count_log("level=error"))
  end)

  it("raise `slice expired` for a slice kept too long", function()
    local s = server.start([[
      local kept
      return {
        on_request = function(conn)
          local slice = conn:next(conn:len())
          if slice == "keep" then
            kept = slice
            conn:write("kept")
          elseif slice == "release" then
            conn:release()
            conn:write(tostring(slice:is_valid()) .. tostring(slice:len()))
          elseif slice == "write" then
            conn:write(kept)
          else
            conn:write(tostring(kept))
          end
        end,
      }
    ]], { allow_errors = true })
    local c = s:connect()
    c:send("keep")
    assert.equal("kept", c:receive(4))
    for i, word in ipairs { "use", "release", "write" } do
      local d = s:connect()
      d:send(word)
      assert.equal("", (d:receive_all()))
      assert.equal(i, s:count_log("slice expired"))
      assert.equal(i, s:count_log("script%.lua:%d+: slice expired"))
    end
    c:send("keep")
    assert.equal("kept", c:receive(4))
  end)

  it("raise for misuse at the script's line", function()
    local s = server.start([[
      local calls = {
        function(conn) conn:write({}) end,
        function(conn) conn:next("x") end,
        function(conn) conn:read_until(5) end,
        function(conn) conn:shutdown("read") end,
        function(conn) conn:set_timeouts { idel = 5 } end,
        function(conn) conn:set_timeouts { idle = -5 } end,
        function(conn) conn:on_close(5) end,
        function(conn) conn.high_water = -1 end,
        function(conn) conn:on_request("no such key") end,
      }
      return function(conn)
        conn:read_string(conn:len())
        for i, fn in ipairs(calls) do
          local ok, err = pcall(fn, conn)
          conn:write(tostring(ok) .. " " .. tostring(err):match("[^/]*$") .. "\n")
        end
      end
    ]])
    local c = s:connect()
    c:send("x")
    for i = 1, 9 do assert.matches("^false script%.lua:" .. 1 + i .. ": ", c:receive_line()) end
  end)
end)
