-- rille.upstream: targets that go down and come back, by what requests say and by what checks say.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local HEAD = [[local function echo(name, url) return assert(rille.listen(url or "tcp://127.0.0.1:0", function(c) ]]
  .. [[c:skip(c:len()) c:write(name or "x") end)) end ]]
  .. [[local function ask(c) c:send "?" local b, err = c:read_string(1) return b, err end ]]
  .. [[local function connections() return rille.loop.stats().connections end ]]
  .. [[local function wait(what, fn) local till = clock() + 5 * SLOW repeat local v = fn() if v then return v end ]]
  .. [[rille.sleep(0.005) until clock() > till error("never: " .. what, 2) end ]]
  .. [[local function shut(l) local url = l:address() l:close() rille.sleep(0.01) return url end ]]
  .. [[local function state_of(up, i) return up:targets()[i or 1].state end ]]

local function check(code, options)
  return inside.check(HEAD .. code, options)
end

describe("the health of upstreams", function()
  after_each(server.cleanup)

  it("takes a target down after failures in a row, and lets one request look after a while", function()
    check [=[
      local url = shut(echo())
      local up = rille.upstream { targets = { url }, retry = { attempts = 1 },
        health = { passive = { failures = 3, cooldown = 0.1 } } }
      for _ = 1, 3 do equal(select(2, up:with(ask)), "refused") end
      equal(state_of(up), "down")
      local _, err, message = up:with(ask)
      equal(err, "unavailable")
      assert(message:find("none of 1 targets is up (" .. url .. ": cannot connect to", 1, true), message)
      equal(up:targets()[1].requests, 0) equal(up:targets()[1].failures, 3)
      -- it is still dead: one looks, the others are told at once, and it is down for as long again
      rille.sleep(0.12)
      local first = rille.spawn(up.with, up, ask)
      rille.yield()
      equal(select(2, first:join()), "refused")
      equal(select(2, up:with(ask)), "unavailable")
      equal(up:targets()[1].failures, 4)
      -- it is back
      local l = echo("x", url)
      wait("it is tried again", function() return up:with(ask) == "x" end)
      equal(state_of(up), "up")
      up:close() l:close()
    ]=]
  end)

  it("lets one request at a time through to a target that may be back", function()
    check [=[
      local refuse, served = true, 0
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c)
        c:skip(c:len())
        if refuse then return c:abort() end
        served = served + 1
        rille.sleep(0.05)
        c:write "x"
      end))
      local up = rille.upstream { targets = { l:address() }, queue = 10, health = { passive = { failures = 1, cooldown = 0.02 } } }
      equal(select(2, up:with(ask)), "reset")
      equal(state_of(up), "down")
      refuse = false
      rille.sleep(0.03)
      local tasks = {}
      for i = 1, 5 do tasks[i] = rille.spawn(up.with, up, ask) end
      wait("it is served", function() return served > 0 end)
      equal(served, 1) equal(state_of(up), "probing") equal(up:stats().waiting, 4)
      for i = 1, 5 do equal(tasks[i]:join(), "x") end
      equal(state_of(up), "up")
      -- failures that lie apart, or with a success between, are not in a row
      up:close()
      up = rille.upstream { targets = { l:address() }, health = { passive = { failures = 2, within = 0.05 } } }
      for _ = 1, 3 do
        refuse = true equal(select(2, up:with(ask)), "reset")
        refuse = false equal(up:with(ask), "x")
      end
      equal(state_of(up), "up")
      refuse = true
      up:with(ask) rille.sleep(0.06) up:with(ask)
      equal(state_of(up), "up")
      up:with(ask)
      equal(state_of(up), "down")
      up:close() l:close()
    ]=]
  end)

  it("gives up a probe whose connection is lost or cancelled", function()
    check [=[
      local refuse = true
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c)
        c:skip(c:len())
        if refuse then return c:abort() end
        c:write "x"
      end))
      local up = rille.upstream { targets = { l:address() }, health = { passive = { failures = 1, cooldown = 0.02 } } }
      up:with(ask)
      refuse = false
      rille.sleep(0.03)
      local task = rille.spawn(up.with, up, function() rille.sleep(10) end)
      wait("it runs", function() return up:stats().in_use == 1 end)
      task:cancel()
      equal(select(2, task:join()), "cancelled")
      wait("another one may look", function() return up:with(ask) == "x" end)
      equal(state_of(up), "up")
      up:close() l:close()
    ]=]
  end)

  it("uses backups when no other target is up, and only then", function()
    check [=[
      local a, b = echo "a", echo "b"
      local up = rille.upstream { targets = { a:address(), { url = b:address(), backup = true } }, keepalive = 0,
        health = { passive = { failures = 1, cooldown = 0.05 } } }
      for _ = 1, 4 do equal(up:with(ask), "a") end
      local url = shut(a)
      for _ = 1, 4 do equal(up:with(ask), "b") end
      a = echo("a", url)
      wait("it is back", function() return up:with(ask) == "a" end)
      equal(up:with(ask), "a")
      up:close() a:close() b:close()
    ]=]
  end)

  it("counts time-outs, and panics where it is told to", function()
    check [=[
      local l = assert(rille.listen("tcp://127.0.0.1:0", function(c) c:skip(c:len()) end))
      local up = rille.upstream { targets = { l:address() }, panic = true, health = { passive = { failures = 2, cooldown = 60 } } }
      for _ = 1, 2 do equal(select(2, up:with(ask, { timeout = 0.02 })), "timeout") end
      equal(state_of(up), "down") equal(up:targets()[1].last_error, "timeout") equal(up:targets()[1].in_use, 0)
      equal(select(2, up:with(ask, { timeout = 0.02 })), "timeout")
      up:close() l:close()
      wait("all over", function() return connections() == 0 end)
    ]=]
  end)

  it("asks targets itself: by connecting, over HTTP, by a function", function()
    check([=[
      local status, hosts = 200, {}
      local function http(c)
        local head = c:read_until "\r\n\r\n"
        if not head then return end
        hosts[#hosts + 1] = head:str():match "^(GET %S+) HTTP/1.1\r\nHost: ([^\r]*)"
          and table.concat({ head:str():match "^GET (%S+) HTTP/1.1\r\nHost: ([^\r]*)" }, " ")
        c:write(("HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n"):format(status)) c:close()
      end
      local l = assert(rille.listen("tcp://127.0.0.1:0", http))
      local active = { check = "http://example.org/health", interval = 0.01, rise = 2, fall = 2, timeout = 1 * SLOW }
      local up = rille.upstream { targets = { l:address() }, health = { active = active } }
      wait("it is asked", function() return #hosts >= 3 end)
      equal(hosts[1], "/health example.org") equal(state_of(up), "up")
      status = 503
      wait("it is down", function() return state_of(up) == "down" end)
      equal(up:targets()[1].last_error, "status 503")
      equal(select(2, up:with(ask)), "unavailable")
      status = 301
      wait("it is up", function() return state_of(up) == "up" end)
      up:close()
      -- on another port of the same host; the target itself is not there
      local dead = shut(echo())
      active.check = "http://:" .. l:address():match ":(%d+)$" .. "/"
      up = rille.upstream { targets = { dead }, health = { active = active } }
      rille.sleep(0.1)
      equal(state_of(up), "up") equal(hosts[#hosts], "/ 127.0.0.1")
      up:close()
      active.check = "tcp://"
      up = rille.upstream { targets = { dead }, health = { active = active } }
      wait("it is down", function() return state_of(up) == "down" end)
      local back = echo("x", dead)
      wait("it is up", function() return state_of(up) == "up" end)
      equal(up:with(ask), "x")
      up:close() back:close()
      local answer, calls = true, 0
      active.check = function(c, target)
        equal(target.url, l:address()) assert(c:is_active())
        calls = calls + 1
        if answer == "raise" then error "odd" end
        if answer == "hang" then rille.sleep(60) end
        return answer, "so so"
      end
      active.timeout = 0.05
      up = rille.upstream { targets = { l:address() }, health = { active = active } }
      wait("it is asked", function() return calls > 2 end)
      for _, one in ipairs { false, "raise", "hang" } do
        answer = one
        wait("it is down", function() return state_of(up) == "down" end)
        answer = true
        wait("it is up", function() return state_of(up) == "up" end)
      end
      answer = "hang"
      rille.sleep(0.03)
      up:close() l:close()
      wait("all over", function() return connections() == 0 end)
    ]=], { errors = true })
  end)
end)
