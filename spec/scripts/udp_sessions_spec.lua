-- scripts/udp_sessions.lua, with sessions as its first lines say.

local server = require "spec.support.server"
local udp = require "spec.support.udp"

describe("scripts/udp_sessions.lua", function()
  after_each(function()
    udp.close_all()
    server.cleanup()
  end)

  it("answers with the name and a number, until bye", function()
    local s = server.start("scripts/udp_sessions.lua", { listen = "udp://127.0.0.1:0", server = { session = { idle = "60s" } } })
    local ann, bob = udp.connect(s.url), udp.connect(s.url)
    assert.equal("hello ann", ann:ask "ann")
    assert.equal("hello bob", bob:ask "bob")
    assert.equal("ann 1: hi", ann:ask "hi")
    assert.equal("ann 2: there", ann:ask "there")
    assert.equal("bob 1: hi", bob:ask "hi")
    ann:send "bye"
    assert.equal("hello ann again", ann:ask "ann again")
  end)

  it("ends after some silence", function()
    local s = server.start("scripts/udp_sessions.lua", { listen = "udp://127.0.0.1:0", server = { session = { idle = "100ms" } } })
    local c = udp.connect(s.url)
    assert.equal("hello ann", c:ask "ann")
    s:wait_log "said nothing for too long"
    assert.equal("hello again", c:ask "again")
  end)
end)
