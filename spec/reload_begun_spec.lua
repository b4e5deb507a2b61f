-- What a script begins at its top level and in its hooks: timers, tasks, addresses; before, during and after a reload.

local reload = require "spec.support.reload"
local server = reload.server
local net = server.net
local ask = reload.ask
local lines = reload.lines
local commands = reload.commands

describe("what a script begins", function()
  after_each(server.cleanup)

  -- ---- timers and tasks ---------------------------------------------------------------------------------------

  -- Says its version at each tick of what the top level has begun.
  local BEGUN = [[
    rille.every(0.02, function() rille.log.info("said every %s", version) end)
    rille.after(0.01, function() rille.log.info("said after %s", version) end)
    rille.spawn(function()
      rille.log.info("said task %s", version)
      while true do rille.sleep(0.02) rille.log.info("said loop %s", version) end
    end)
  ]]

  local function count(list, what)
    local n = 0
    for _, text in ipairs(list) do
      if text == what then n = n + 1 end
    end
    return n
  end

  it("starts the timers and tasks of the top level once, after the commit, and ends the old ones", function()
    local s = reload.start(lines("v1", BEGUN), { allow_errors = true })
    s:wait_said(10)
    local watches = s:state().watches
    for i = 2, 5 do
      reload.now(s, lines("bad" .. i, BEGUN .. "function M.selftest() rille.sleep(0.1) return false end"))
      reload.now(s, lines("bad" .. i, BEGUN .. "function M.on_start() return false end"))
      reload.to(s, lines("v" .. i, BEGUN))
      reload.wait_retired(s)
      local before = #s:said()
      s:wait_said(before + 10)
      for at, text in ipairs(s:said()) do
        if at > before + 2 then assert.matches("v" .. i .. "$", text) end
      end
      assert.equal(1, count(s:said(), "task v" .. i))
      assert.equal(1, count(s:said(), "after v" .. i))
    end
    for _, text in ipairs(s:said()) do assert.not_matches("bad", text) end
    s:wait_state(function(state) return state.watches == watches end)
    s:stop()
  end)

  it("lets `every` of the old generation rest in a soak, and go on after a rollback", function()
    local s = reload.start(lines("v1", BEGUN), { allow_errors = true })
    s:wait_said(5)
    local bad = BEGUN .. "function M.on_connect() rille.log.info('said soaks') end"
    reload.put(lines("v2", bad))
    reload.now(s, nil, { canary = 1, soak = 60 })
    local from = #s:said()
    s:wait_said(from + 10)
    for at, text in ipairs(s:said()) do
      if at > from + 1 and text:find("every") then assert.equal("every v2", text) end
    end
    -- another version ends the soak, a bad one leaves the one before it
    reload.now(s, "local x = = 1\nreturn x\n")
    s:stop()
  end)

  -- ---- addresses ----------------------------------------------------------------------------------------------

  it("hands over an address of rille.listen, or closes it", function()
    local path = "unix://" .. server.folder() .. "/extra.sock"
    local function with(version, listens)
      return lines(version, listens and ([[
        rille.listen(%q, { on_request = function(conn) local line = conn:read_line()
          if line then conn:write(version .. " extra " .. line:str() .. "\n") end end })
      ]]):format(path) or "")
    end
    local s = reload.start(with("v1", true))
    local c = s:connect(nil, path)
    assert.equal("v1 extra a", ask(c, "a"))
    for i = 2, 4 do
      reload.to(s, with("v" .. i, true))
      assert.equal(("v%d extra b"):format(i), ask(s:connect(nil, path), "b"))
    end
    reload.to(s, with("v5", false))
    assert.is_truthy(net.poll_until(function()
      local other = server.client.try_connect(path)
      if other then other:close() end
      return not other
    end))
    reload.to(s, with("v6", true))
    assert.equal("v6 extra b", ask(s:connect(nil, path), "b"))
    s:stop()
  end)

  it("lets on_stage and selftest start tasks and timers of their own, and wait for them", function()
    local text = [[
      local ticks, warm = 0, 0
      rille.spawn(function() rille.log.info("said top %s", version) end)
      function M.on_stage()
        local task = rille.spawn(function() rille.sleep(0.01) return 5 end)
        warm = task:join()
      end
      function M.selftest()
        rille.after(0.01, function() ticks = ticks + 1 end)
        rille.sleep(0.1)
        assert(ticks == 1 and warm == 5)
      end
      function commands.warm() return warm end
    ]]
    local s = reload.start(commands("v1"))
    reload.to(s, commands("v2", text))
    assert.equal("v2 5", ask(s:connect(), "warm"))
    assert.same({ "top v2" }, s:wait_said(1))
    s:stop()
  end)

  it("opens no address of rille.listen for a selftest", function()
    local path = server.folder() .. "/extra.sock"
    local text = ([[
      rille.listen("unix://%s", { on_request = function(conn) local line = conn:read_line()
        if line then conn:write(version .. " " .. line:str() .. "\n") end end })
      function M.selftest() rille.sleep(0.1) end
    ]]):format(path)
    local s = reload.start(lines("v1", text))
    for i = 2, 3 do
      reload.to(s, lines("v" .. i, text))
      assert.equal(("v%d x"):format(i), ask(s:connect(nil, "unix://" .. path), "x"))
    end
    s:stop()
  end)
end)
