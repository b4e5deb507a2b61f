-- Reloads that come by themselves, when files change.

local reload = require "spec.support.reload"
local server = reload.server
local net = server.net
local ask = reload.ask
local lines = reload.lines

describe("a reload by itself", function()
  after_each(server.cleanup)

  it("comes when a module appears that was missing", function()
    local s = reload.start(lines("v1"), { allow_errors = true, reload = { watch = true } })
    local c = s:connect()
    reload.put(lines("v2", "version = require('later')"))
    s:wait_log("not reloaded: [^\n]*later")
    assert.equal("v1 a", ask(c, "a"))
    server.write("later.lua", "return 'later'")
    assert.is_truthy(net.poll_until(function() return ask(c, "b") == "later b" end, 10))
    s:stop()
  end)

  it("comes within a second of a change, however the file is changed", function()
    local one = server.write("app1.lua", lines("v1"):gsub("^", "local rille = require 'rille' "))
    local two = server.write("app2.lua", lines("v2"):gsub("^", "local rille = require 'rille' "))
    local link = server.folder() .. "/current.lua"
    os.execute(("ln -s app1.lua %s"):format(link))
    local s = reload.start(link, { reload = { watch = true } })
    local c = s:connect()
    local function expect(version)
      local from = net.now()
      local found = net.poll_until(function() return ask(c, "x") == version .. " x" end, 10)
      if not found then error(version .. " is not served:\n" .. s:tail(), 0) end
      if not net.is_sanitized then assert.is_true(net.now() - from < 1 * net.slow * 3) end
      return net.now() - from
    end
    expect("v1")
    os.execute(("ln -s app2.lua %s.new && mv -T %s.new %s"):format(link, link, link))
    expect("v2")
    os.execute(("ln -sfn app1.lua %s"):format(link))
    expect("v1")
    server.write("app1.lua", lines("written"):gsub("^", "local rille = require 'rille' "))
    expect("written")
    local new = server.write("app1.lua.tmp", lines("renamed"):gsub("^", "local rille = require 'rille' "))
    os.rename(new, one)
    expect("renamed")
    assert(two)
    s:stop()
  end)

  -- 50 versions one after the other: how long that took, and the longest time without one, in seconds.
  local function write_burst(round)
    local from, gap = net.now(), 0
    local last = from
    for i = 1, 50 do
      server.write("app1.lua", lines(("round%d.%d"):format(round, i)):gsub("^", "local rille = require 'rille' "))
      local now = net.now()
      gap, last = math.max(gap, now - last), now
      while net.now() < from + i * 0.0015 do end
    end
    return last - from, gap
  end

  it("is one for 50 writes within 100 ms", function()
    local app = server.write("app1.lua", lines("v1"):gsub("^", "local rille = require 'rille' "))
    local s = reload.start(app, { reload = { watch = true }, allow_errors = true }) -- one that takes too long may be read half
    local c = s:connect()
    local measured, tries = 0, 0
    local function reloads() return s:count_log("serves; ") + s:count_log("not reloaded") end
    while measured < 20 and tries < 60 do
      tries = tries + 1
      local before = reloads()
      local seconds, gap = write_burst(tries)
      local want = ("round%d.50 x"):format(tries)
      if not net.poll_until(function() return ask(c, "x") == want end, 10) then error(want .. " is not served:\n" .. s:tail(), 0) end
      net.nap(150) -- three times the silence after which there would be another one
      if seconds <= 0.1 and gap <= 0.03 then
        measured = measured + 1
        assert.equal(1, reloads() - before, ("%.3f s, at most %.3f s between two"):format(seconds, gap))
      end
    end
    assert.is_true(net.is_sanitized or measured > 0, "this machine cannot write 50 times within 100 ms")
    s:stop()
  end)
end)
