-- scripts/json_api.lua, as a user runs it.

local server = require "spec.support.server"
local http = require "spec.support.http"
local cjson = require "cjson"

describe("scripts/json_api.lua", function()
  after_each(server.cleanup)

  local s, c

  local function start()
    s = server.run("scripts/json_api.lua", nil, { listen = "http://127.0.0.1:0" })
    c = s:connect()
  end

  -- Status, the value in the body (nil without one), the answer.
  local function ask(method, target, body)
    local answer = http.ask(c, http.request(method, target, nil, body))
    if answer.body == "" then return answer.status, nil, answer end
    assert.equal("application/json", answer["content-type"])
    return answer.status, cjson.decode(answer.body), answer
  end

  local function first_two(a, b) return { a, b } end

  it("keeps, changes and forgets notes", function()
    start()
    assert.same({ 200, {} }, first_two(ask("GET", "/notes")))
    local status, note, answer = ask("POST", "/notes", '{"text":"milk","other":1}')
    assert.same({ 201, { text = "milk" }, "/notes/1" }, { status, note, answer.location })
    assert.equal("/notes/2", select(3, ask("POST", "/notes", '{"text":"\\u00e9"}')).location)
    local _, all = ask("GET", "/notes")
    assert.same({ ["1"] = { text = "milk" }, ["2"] = { text = "\195\169" } }, all)
    assert.same({ 200, { text = "bread" } }, first_two(ask("PUT", "/notes/1", '{"text":"bread"}')))
    assert.same({ 200, { text = "bread" } }, first_two(ask("GET", "/notes/1")))
    assert.equal(204, (ask("DELETE", "/notes/1")))
    assert.equal(404, (ask("GET", "/notes/1")))
    assert.equal(404, (ask("DELETE", "/notes/1")))
    assert.equal(404, (ask("PUT", "/notes/1", '{"text":"x"}')))
    assert.equal("/notes/3", select(3, ask("POST", "/notes", '{"text":""}')).location)
  end)

  it("says what is wrong with a note", function()
    start()
    for _, body in ipairs { "", "{", "null", "false", "[]", "1", '{"text":1}', '{"txt":"a"}', '{"text":"a"} x' } do
      local status, problem = ask("POST", "/notes", body)
      assert.equal(400, status, body)
      assert.equal("string", type(problem.error))
    end
    assert.same({ 200, {} }, first_two(ask("GET", "/notes")))
  end)

  it("knows its paths and methods", function()
    start()
    ask("POST", "/notes", '{"text":"milk"}')
    for _, path in ipairs { "/", "/notes/", "/notes/x", "/notes/1/2", "/notes/01", "/note" } do
      assert.equal(404, (ask("GET", path)), path)
    end
    local status, _, answer = ask("DELETE", "/notes")
    assert.same({ 405, "GET, HEAD, POST" }, { status, answer.allow })
    status, _, answer = ask("POST", "/notes/1", "{}")
    assert.same({ 405, "GET, HEAD, PUT, DELETE" }, { status, answer.allow })
    assert.equal(200, (ask("HEAD", "/notes/1")))
  end)

  it("leaves a body that is too large to the server, without an error of its own", function()
    start()
    c:send("POST /notes HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
    c:send("200000\r\n" .. ("x"):rep(0x180000))
    assert.equal(413, http.answer(c, "POST").status)
  end)
end)
