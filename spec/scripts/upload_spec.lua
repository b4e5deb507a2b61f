-- scripts/upload.lua, as a user runs it.

local server = require "spec.support.server"
local http = require "spec.support.http"

describe("scripts/upload.lua", function()
  after_each(server.cleanup)

  local function start()
    local folder = server.folder()
    assert(os.execute(("mkdir -p '%s/files/.hidden' '%s/files/folder'"):format(folder, folder)))
    return server.run("scripts/upload.lua", { "root=" .. folder .. "/files/" }, { listen = "http://127.0.0.1:0" }), folder .. "/files/"
  end

  local function names(folder)
    local p = io.popen(("ls -A '%s'"):format(folder))
    local list = p:read("*a"):gsub("\n", " ")
    p:close()
    return list
  end

  it("stores what is put, and gives it back", function()
    local s, folder = start()
    local c = s:connect()
    for _, size in ipairs { 0, 10, 100000, 1000000 } do
      local body = server.net.noise(size)
      assert.equal(size == 0 and 201 or 200, http.ask(c, http.request("PUT", "/a%20b.bin", nil, body)).status)
      assert.is_true(server.read(folder .. "a b.bin") == body)
      assert.is_true(http.ask(c, http.get "/a%20b.bin").body == body)
    end
    local chunked = "PUT /c HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" .. http.chunked { "some ", "text" }
    assert.equal(201, http.ask(c, chunked).status)
    assert.equal("some text", server.read(folder .. "c"))
    assert.equal(200, http.ask(c, http.request("DELETE", "/c")).status)
    assert.equal(404, http.ask(c, http.request("DELETE", "/c")).status)
    assert.equal(404, http.ask(c, http.get "/c").status)
    assert.equal(".hidden a b.bin folder ", names(folder))
  end)

  it("keeps what was there when an upload breaks off", function()
    local s, folder = start()
    server.write("files/x", "old")
    for i = 1, 10 do
      local c = s:connect()
      c:send("PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 500000\r\n\r\n" .. server.net.noise(i * 40000))
      if i % 2 == 0 then c:reset() else c:close() end
    end
    s:wait_state(function(state) return state.connections == 0 end)
    assert.equal("old", server.read(folder .. "x"))
    assert.equal(".hidden folder x ", names(folder))
  end)

  it("refuses what is no file of the folder", function()
    local s, folder = start()
    for _, target in ipairs { "/", "/.x", "/folder/x", "/%2e%2e%2fx", "/folder%2fx" } do
      local status = http.once(s, http.request("PUT", target, nil, "x")).status
      assert.truthy(status == 404 or status == 400, target .. " " .. status)
    end
    assert.equal(409, http.once(s, http.request("PUT", "/folder", nil, "x")).status)
    assert.equal(405, http.once(s, http.post("/x", "x")).status)
    assert.equal(413, http.once(s, "PUT /large HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n").status)
    assert.falsy(names(folder):find "large")
  end)
end)
