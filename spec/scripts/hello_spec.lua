-- scripts/hello.lua, as a user runs it.

local http = require "spec.support.http"
local server = http.server

describe("scripts/hello.lua", function()
  after_each(server.cleanup)

  local function run(listen)
    return server.run("scripts/hello.lua", nil, { listen = listen or "http://127.0.0.1:0" })
  end

  it("answers every request with a greeting", function()
    local s = run()
    local c = s:connect()
    for _, text in ipairs { http.get(), http.get "/any/path?q=1", http.post("/", "a body"), http.request("DELETE", "/x") } do
      local answer = http.ask(c, text)
      assert.same({ 200, "Hello, World!", "text/plain; charset=utf-8" }, { answer.status, answer.body, answer["content-type"] })
    end
    assert.equal("13", http.ask(c, http.request("HEAD", "/"))["content-length"])
  end)

  it("answers many clients at once, each many times", function()
    local s = run()
    local clients = {}
    for i = 1, 100 do
      clients[i] = s:connect()
      clients[i]:send(http.get():rep(20))
    end
    for i = 100, 1, -1 do
      for _ = 1, 20 do assert.equal("Hello, World!", http.answer(clients[i]).body) end
    end
  end)
end)
