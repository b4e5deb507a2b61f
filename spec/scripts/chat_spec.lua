-- scripts/chat.lua, as a user runs it.

local server = require "spec.support.server"

local function enter(s, name)
  local c = s:connect()
  assert.equal("your name? ", c:receive(11))
  c:send(name .. "\n")
  return c
end

describe("scripts/chat.lua", function()
  after_each(server.cleanup)

  it("has at most 30 lines", function()
    local count = 0
    for _ in io.lines("scripts/chat.lua") do count = count + 1 end
    assert.is_true(count <= 30, count .. " lines")
  end)

  for _, loops in ipairs { "1", "3" } do
    it("lets everybody hear everybody, with " .. loops .. " loops", function()
      local s = server.run("scripts/chat.lua", nil, { words = { "--loops", loops } })
      local names, people = { "ann", "bob", "eve", "joe", "kim" }, {}
      for i, name in ipairs(names) do
        people[i] = enter(s, name)
        for k = 1, i do assert.equal(("* %s is here, %d in the room"):format(name, i), people[k]:receive_line()) end
      end
      for i, name in ipairs(names) do
        people[i]:send("hello from " .. name .. "\n")
        for k = 1, #people do assert.equal(("%s: hello from %s"):format(name, name), people[k]:receive_line()) end
      end
      people[1]:close()
      for k = 2, #people do assert.equal("* ann has left", people[k]:receive_line()) end
      people[2]:reset()
      for k = 3, #people do assert.equal("* bob has left", people[k]:receive_line()) end
    end)
  end

  it("takes the name of the room as an option", function()
    local one = server.run("scripts/chat.lua", { "room=moon" })
    local c = enter(one, "ann")
    assert.equal("* ann is here, 1 in the room", c:receive_line())
  end)

  it("lets go who says no name, or too long a line", function()
    local s = server.run "scripts/chat.lua"
    local ann = enter(s, "ann")
    assert.equal("* ann is here, 1 in the room", ann:receive_line())
    assert.same({ "", "closed" }, { enter(s, ("x"):rep(30)):receive_all() })
    local quiet = s:connect()
    assert.equal("your name? ", quiet:receive(11))
    quiet:close()
    local bob = enter(s, "bob")
    assert.equal("* bob is here, 2 in the room", bob:receive_line())
    bob:send(("x"):rep(1001) .. "\n")
    assert.same({ "", "closed" }, { bob:receive_all() })
    assert.equal("* bob is here, 2 in the room", ann:receive_line())
    assert.equal("* bob has left", ann:receive_line())
  end)
end)
