-- The template of spec/NAME_spec.lua.

return [=[
-- `rille test` runs this in a loop, together with the server it talks to.

local testing = require "rille.testing"

describe("{{name}}", function()
  local server

  before_each(function()
    server = testing.serve("scripts/{{name}}.lua", { protocol = "http", options = { greeting = "Hello, spec!" } })
  end)

  after_each(function()
    server:close()
  end)

  it("greets", function()
    local response = assert(server:get("/"))
    assert.equal(200, response.status)
    assert.equal("Hello, spec!\n", response.body)
  end)

  it("greets in JSON", function()
    local response = assert(server:get("/json"))
    assert.equal(200, response.status)
    assert.matches("^application/json", response.headers["content-type"])
    assert.equal('{"greeting":"Hello, spec!"}', response.body)
  end)

  it("has nothing else", function()
    assert.equal(404, assert(server:get("/nothing")).status)
    assert.equal(404, assert(server:post("/", "a body")).status)
  end)
end)
]=]
