-- res:file of what is not in the page cache: workers read it, and the loop goes on.

local http = require "spec.support.http"
local server, net = http.server, http.net

local ffi = require "ffi"
ffi.cdef [[
int spec_open(const char *, int) __asm__("open");
int spec_close(int) __asm__("close");
int spec_fsync(int) __asm__("fsync");
int spec_fadvise(int, int64_t, int64_t, int) __asm__("posix_fadvise");
]]

local DONT_NEED = 4

-- Whether the file system lets go of it.
local function make_cold(path)
  local fd = ffi.C.spec_open(path, 0)
  assert(fd >= 0 and ffi.C.spec_fsync(fd) == 0 and ffi.C.spec_fadvise(fd, 0, 0, DONT_NEED) == 0)
  ffi.C.spec_close(fd)
end

local CODE = [[
  if req.path == "/done" then return res:send(tostring(require("rille").pool("io"):stats().done)) end
  local ok, err = res:file(%q .. req.path)
  if not ok and not res:is_sent() then res.status = 404 res:send(err) end
]]

describe("res:file of a cold file", function()
  after_each(server.cleanup)

  it("gives the same bytes, and ranges of them", function()
    local content = net.noise(700000)
    local path = server.write("cold", content)
    local s = http.start("return function(req, res)\n" .. CODE:format(server.folder()) .. "\nend\n")
    for _ = 1, 3 do
      make_cold(path)
      local answer = http.once(s, http.get "/cold")
      assert.equal(200, answer.status)
      assert.is_true(answer.body == content)
      make_cold(path)
      answer = http.once(s, http.get("/cold", { "Range: bytes=300000-500000" }))
      assert.equal(206, answer.status)
      assert.is_true(answer.body == content:sub(300001, 500001))
    end
    assert.equal(404, http.once(s, http.get "/none").status)
  end)

  it("survives clients that leave while a worker reads", function()
    local path = server.write("cold", net.noise(3000000))
    local s = http.start("return function(req, res)\n" .. CODE:format(server.folder()) .. "\nend\n")
    for i = 1, 30 do
      if i % 3 == 1 then make_cold(path) end
      local c = s:connect { receive_buffer = 4096 }
      c:send(http.get "/cold")
      if i % 2 == 0 then c:receive(1000) end
      c:reset()
    end
    assert.equal(200, http.once(s, http.get "/cold").status)
    s:wait_state(function(state) return state.connections == 0 end)
  end)
end)
