-- rille.upstream in a server: over reloads, several loops, and at the stop.

local reload = require "spec.support.reload"
local server = require "spec.support.server"
local net = server.net

local BACKEND = [[
return function(conn)
  local line = conn:read_line()
  if line then conn:write(line:str() .. " back\n") end
end
]]

local FRONT = [[
local up = rille.upstream { targets = { %q }, keepalive_timeout = 600, health = { active = { check = "tcp://", interval = 0.02 } } }
return {
  up = up,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return end
    local answer, err = up:with(function(c)
      c:send(line:str() .. "\n")
      local said, why = c:read_line()
      if not said then return nil, why end
      return said:str()
    end)
    conn:write("%s " .. (answer or err) .. "\n")
  end,
}
]]

describe("an upstream of a server", function()
  after_each(server.cleanup)

  it("ends with its generation, and begins anew with the next one", function()
    local back = server.start(BACKEND, { name = "back" })
    local s = reload.start(FRONT:format(back.url, "one"))
    local c = s:connect()
    assert.equal("one hello back", reload.ask(c, "hello"))
    for i = 2, 4 do
      reload.to(s, FRONT:format(back.url, "version " .. i))
      assert.equal(("version %d hello back"):format(i), reload.ask(c, "hello"))
    end
    reload.wait_retired(s)
    assert.equal(0, s:count_log "left behind")
    -- one idle connection of the one that serves; checks come and go
    back:wait_state(function(state) return state.connections <= 2 end)
  end)

  it("may be used while its generation is staged, and goes on where that serves", function()
    local back = server.start(BACKEND, { name = "back" })
    local source = FRONT:format(back.url, "one"):gsub("return {", [[
return {
  on_stage = function()
    local ok, err = up:with(function(c) c:send "stage\n" return c:read_line():str() end)
    assert(ok == "stage back", err)
    local held = up:get()
  end,]], 1)
    local s = reload.start(source)
    for _ = 1, 3 do
      reload.to(s, source)
      local c = s:connect()
      assert.equal("one hello back", reload.ask(c, "hello"))
      assert.equal("1 up", (reload.eval(s, 1, [[
        local t = require("rille.state").script.up:targets()[1]
        print(t.idle + t.in_use + t.connecting .. " " .. t.state)
      ]]):match "[^\n]+"))
      c:close()
    end
    reload.wait_retired(s)
  end)

  it("goes on when another generation is taken back after a while", function()
    local back = server.start(BACKEND, { name = "back" })
    local s = reload.start(FRONT:format(back.url, "one"), { allow_errors = true,
      reload = { canary = { loops = 1, soak = 20, min_requests = 5, max_error_rate = 0.01 } } })
    local c = s:connect()
    assert.equal("one hello back", reload.ask(c, "hello"))
    local bad = FRONT:format(back.url, "two"):gsub("local line = ", "error 'bad' %0", 1)
    reload.now(s, bad, { wait = false })
    local function is_back()
      local other = s:connect()
      pcall(reload.ask, other, "hello")
      other:close()
      return s:count_log "rolled back" > 0
    end
    assert.is_true(net.poll_until(is_back, 10))
    reload.wait_retired(s)
    assert.equal("one hello back", reload.ask(c, "hello"))
    -- it is asked whether its target is up, as before
    local function checks()
      return reload.eval(s, 1, "print(require('rille.state').script.up.checker.is_cancelled)"):match "%w+"
    end
    assert.equal("false", checks())
    back:stop()
    assert.is_true(net.poll_until(function() return reload.ask(c, "hello") == "one unavailable" end, 5))
  end)

  it("serves again after a reload that is taken back", function()
    local back = server.start(BACKEND, { name = "back" })
    local s = reload.start(FRONT:format(back.url, "one"), { allow_errors = true })
    local c = s:connect()
    assert.equal("one hello back", reload.ask(c, "hello"))
    local bad = FRONT:format(back.url, "two"):gsub("on_request = ", "on_start = function() error 'no' end,\n  %0")
    local report = reload.now(s, bad)
    assert.is_false(report.ok)
    assert.equal("one hello back", reload.ask(c, "hello"))
  end)

  it("has connections of its own on each loop, and holds up no stop", function()
    local back = server.start(BACKEND, { name = "back" })
    local s = server.start(FRONT:format(back.url, "one"), { conf = { loops = 2, drain_timeout = 20 } })
    for _ = 1, 10 do
      local c = s:connect()
      assert.equal("one hello back", reload.ask(c, "hello"))
      c:close()
    end
    local began = net.now()
    s:stop()
    assert.is_true(net.now() - began < 5 * net.slow)
    back:wait_empty()
  end)
end)
