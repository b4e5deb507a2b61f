-- rille.redis in a script that is reloaded: what the old generations had ends with them.

local redis = require "spec.support.redis"
local reload = require "spec.support.reload"
local server = reload.server

local SCRIPT = [[
  local r = rille.redis { url = %q, timeout = 1, connect_timeout = 1 }
  rille.spawn(function()
    local messages = r:subscribe "news"
    if not messages then return end
    for _, message in messages do say("%%s", message) end
  end)
  rille.every(0.05, function() r:incr "ticks" end)
  return function(conn)
    if not conn:read_line() then return end
    r:blpop("none", 0.01)
    local value, err = r:get "key"
    conn:write((value or err) .. "\n")
  end
  -- version %d]]

describe("rille.redis and reload", function()
  after_each(server.cleanup)

  local function ask(s)
    local c = s:connect()
    local answer = reload.ask(c, "x")
    c:close()
    return answer
  end

  local function clients_of(real)
    local _, count = redis.output("redis-cli -p %d client list", real.port):gsub("\n", "")
    return count - 1 -- this one
  end

  it("leave nothing behind, with the server there or not", function()
    local real = redis.start()
    redis.output("redis-cli -p %d set key value", real.port)
    local s = reload.start(SCRIPT:format(real.url, 0))
    for i = 1, 20 do
      assert.equal("value", ask(s))
      reload.to(s, SCRIPT:format(real.url, i))
    end
    reload.wait_retired(s)
    assert.equal("value", ask(s))
    -- for all, for messages, for BLPOP
    assert.is_truthy(server.net.poll_until(function() return clients_of(real) <= 3 end, 10))
    s:wait_state(function(state) return state.connections <= 3 end)
    local before = #s:said()
    server.net.poll_until(function() return redis.output("redis-cli -p %d publish news text", real.port):find "^1" end, 10)
    s:wait_said(before + 1)
    real.process:kill()
    for i = 21, 32 do
      assert.not_equal("value", ask(s))
      reload.to(s, SCRIPT:format(real.url, i))
    end
    reload.wait_retired(s)
    s:wait_state(function(state) return state.connections == 0 end)
  end)
end)
