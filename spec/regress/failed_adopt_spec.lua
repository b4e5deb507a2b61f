-- rille.adopt closed a descriptor that it could not take, which is the caller's still.

local server = require "spec.support.server"

describe("rille.adopt of a regular file", function()
  after_each(server.cleanup)

  it("fails and leaves the descriptor open", function()
    local s = server.start([[
      local ffi = require "ffi"
      ffi.cdef "int open(const char *, int); int close(int);"
      return function(conn)
        conn:skip(1)
        local fd = ffi.C.open("/dev/null", 0)
        local file = ffi.C.open(arg and arg[0] or "/etc/passwd", 0)
        local adopted, err = rille.adopt(file)
        conn:write(("%s %s %d %d\n"):format(adopted, err, ffi.C.close(file), ffi.C.close(fd)))
      end
    ]])
    local c = s:connect()
    c:send("x")
    assert.equal("nil not supported 0 0", c:receive_line())
  end)
end)
