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
