-- scripts/static_files.lua, as a user runs it.

local server = require "spec.support.server"
local http = require "spec.support.http"

describe("scripts/static_files.lua", function()
  after_each(server.cleanup)

  -- A server for the folder "public", and a secret beside it.
  local function start(root)
    local folder = server.folder()
    assert(os.execute(("mkdir -p '%s/public/sub' '%s/public/.git'"):format(folder, folder)))
    server.write("secret.txt", "secret")
    server.write("public/index.html", "<p>home</p>")
    server.write("public/a b.txt", "text")
    server.write("public/sub/index.html", "<p>sub</p>")
    server.write("public/.git/config", "hidden")
    server.write("public/large.bin", server.net.noise(3000000))
    return server.run("scripts/static_files.lua", { "root=" .. folder .. (root or "/public") }, { listen = "http://127.0.0.1:0" })
  end

  local function get(s, target, fields)
    local answer = http.once(s, http.get(target, fields))
    return answer.status, answer.body, answer["content-type"]
  end

  it("sends files with their type, and index.html for a folder", function()
    local s = start "/public/"
    local html = "text/html; charset=utf-8"
    assert.same({ 200, "<p>home</p>", html }, { get(s, "/") })
    assert.same({ 200, "<p>home</p>", html }, { get(s, "/index.html?x=y") })
    assert.same({ 200, "<p>sub</p>", html }, { get(s, "/sub/") })
    assert.same({ 200, "text", "text/plain; charset=utf-8" }, { get(s, "/a%20b.txt") })
    local _, body = get(s, "/large.bin")
    assert.is_true(body == server.net.noise(3000000))
  end)

  it("answers 404 for what is not there, and for folders by themselves", function()
    local s = start()
    for _, target in ipairs { "/nope", "/sub", "/a", "/index.html/", "/sub/nope", "/large.bin%00", "/%2e%2e%2fpublic" } do
      local status = get(s, target)
      assert.truthy(status == 404 or status == 400, target .. " " .. status)
    end
    assert.equal(404, (get(s, "/nope")))
    assert.equal(404, (get(s, "/sub")))
  end)

  it("does not leave its folder, nor show what begins with a dot", function()
    local s = start()
    for _, target in ipairs { "/../secret.txt", "/%2e%2e/secret.txt", "/sub/../../secret.txt", "/sub%2f..%2f..%2fsecret.txt",
      "//../secret.txt", "/..%5csecret.txt", "/.git/config", "/sub/../.git/config", "/%2egit/config", "/...//secret.txt" } do
      local status, body = get(s, target)
      assert.truthy(status == 404 or status == 400, target .. " " .. status)
      assert.falsy(body:find("secret") or body:find("hidden"))
    end
  end)

  it("answers HEAD, conditions and ranges", function()
    local s = start()
    local head = http.once(s, http.request("HEAD", "/large.bin"))
    assert.same({ 200, "3000000", "" }, { head.status, head["content-length"], head.body })
    local status, part = get(s, "/large.bin", { "If-Modified-Since: " .. head["last-modified"] })
    assert.same({ 304, "" }, { status, part })
    status, part = get(s, "/large.bin", { "Range: bytes=1000000-1000009" })
    assert.same({ 206, server.net.noise(3000000):sub(1000001, 1000010) }, { status, part })
    assert.equal(416, (get(s, "/large.bin", { "Range: bytes=3000000-" })))
  end)

  it("takes GET and HEAD only", function()
    local s = start()
    for _, method in ipairs { "POST", "PUT", "DELETE", "OPTIONS" } do
      local answer = http.once(s, http.request(method, "/index.html"))
      assert.same({ 405, "GET, HEAD" }, { answer.status, answer.allow })
    end
  end)

  it("goes on when a client leaves in the middle of a file", function()
    local s = start()
    for _ = 1, 5 do
      local c = s:connect { receive_buffer = 4096 }
      c:send(http.get "/large.bin")
      c:receive(1000)
      c:reset()
    end
    assert.equal(200, (get(s, "/")))
    s:wait_state(function(state) return state.connections == 0 end)
  end)
end)
