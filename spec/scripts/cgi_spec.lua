-- scripts/cgi.lua, as a user runs it.

local server = require "spec.support.server"
local http = require "spec.support.http"

describe("scripts/cgi.lua", function()
  after_each(server.cleanup)

  local PROGRAMS = {
    show = [[printf 'Content-Type: text/x-show\r\n\r\n'
      echo "$REQUEST_METHOD $PATH_INFO $QUERY_STRING $HTTP_X_TEST.$HTTP_PROXY.$SPEC_SECRET"
      cat]],
    status = [[printf 'Status: 404 Gone\nX-More: yes\n\nnot here']],
    slow = [[sleep 60 & sleep 60]],
    headless = [[printf 'no head']],
    failing = [[exit 3]],
    large = [[printf 'A: b\n\n'; cat /dev/zero]],
  }

  local function start()
    local folder = server.folder()
    assert(os.execute(("mkdir -p '%s/bin'"):format(folder)))
    for name, code in pairs(PROGRAMS) do
      local path = server.write("bin/" .. name, "#!/bin/sh\n" .. code .. "\n")
      assert(os.execute(("chmod +x '%s'"):format(path)))
    end
    return server.run("scripts/cgi.lua", { "root=" .. folder .. "/bin", "limit=0.5" }, { listen = "http://127.0.0.1:0" })
  end

  it("hands a request to a program, and its output back", function()
    local s = start()
    local answer = http.once(s, http.request("POST", "/show/rest/x?a=1&b", { "X-Test: t", "Proxy: evil" }, "the body"))
    assert.same({ 200, "text/x-show" }, { answer.status, answer["content-type"] })
    assert.equal("POST /rest/x a=1&b t..\nthe body", answer.body)
    answer = http.once(s, http.get "/status")
    assert.same({ 404, "yes", "not here" }, { answer.status, answer["x-more"], answer.body })
  end)

  it("answers for programs that are missing, slow or broken", function()
    local s = start()
    assert.equal(404, http.once(s, http.get "/").status)
    assert.equal(404, http.once(s, http.get "/none").status)
    assert.equal(400, http.once(s, http.get "/..%2f..%2fbin").status)
    assert.equal(504, http.once(s, http.get "/slow").status)
    assert.equal(502, http.once(s, http.get "/headless").status)
    assert.equal(502, http.once(s, http.get "/failing").status)
    assert.equal(502, http.once(s, http.get "/large").status)
    assert.equal(200, http.once(s, http.get "/show").status)
  end)
end)
