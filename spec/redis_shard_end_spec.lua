-- rille.redis.shard at a stop and at a reload: clients get what is under way, and nobody waits for a server that is silent.

local redis = require "spec.support.redis"
local server = require "spec.support.server"

local command, fake, start = redis.command, redis.fake, redis.proxy

describe("rille.redis.shard", function()
  after_each(server.cleanup)

  local function answers(c, sent, expected)
    c:send(sent)
    assert.equal(expected, c:receive(#expected))
  end

  it("answers what is under way when it is stopped", function()
    local slow = fake "rille.sleep(0.3) conn:write '$1\\r\\nv\\r\\n'"
    local s = start { slow, slow }
    local c, idle = s:connect(), s:connect()
    answers(idle, command "PING", "+PONG\r\n")
    c:send(command("GET", "a"):rep(2) .. command("MGET", "a", "b") .. command("DEL", "a") .. command "PING")
    s:wait_state(function(state) return state.connections == 4 end)
    s:signal "TERM"
    assert.same({ "", "closed" }, { idle:receive_all() })
    assert.same({ ("$1\r\nv\r\n"):rep(2) .. "*2\r\n$-1\r\n$-1\r\n" .. "$1\r\nv\r\n+PONG\r\n", "closed" }, { c:receive_all() })
    assert.equal(0, s:wait_exit(10))
    s:check_end()
    s:forget()
  end)

  it("does not wait for a silent server longer than a command may take, when it is stopped", function()
    local s = start({ fake "" }, "timeout=0.5")
    local c = s:connect()
    c:send(command("GET", "a"))
    s:wait_state(function(state) return state.connections == 2 end)
    s:signal "TERM"
    local text = c:receive_all()
    assert.truthy(text:find "^%-ERR shard 1 %(redis://127.0.0.1:%d+%): timeout\r\n$", text)
    assert.equal(0, s:wait_exit(10))
    s:check_end()
    s:forget()
  end)

  it("gives a silent server up for clients of an old generation too", function()
    local silent = fake "if frame[2] == 'a' then conn:write '+OK\\r\\n' end"
    local s = server.start(([[
      -- a version of it
      return rille.redis.shard { shards = { %q }, timeout = 0.3 }
    ]]):format(silent))
    local c = s:connect()
    answers(c, command("GET", "a"), "+OK\r\n")
    s:signal "HUP"
    s:wait_log "@2: serves"
    for _ = 1, 2 do
      c:send(command("GET", "b"))
      assert.truthy(c:receive_line():find "^%-ERR shard 1 .*: timeout")
      answers(c, command("GET", "a"), "+OK\r\n")
    end
  end)
end)
