-- Closing a descriptor takes it out of epoll only when nobody else has the open file: after the close of an adopted
-- connection that the script had duplicated, the loop span on events of nobody.

local inside = require "spec.support.inside"

describe("an adopted descriptor with a duplicate", function()
  after_each(inside.cleanup)

  it("is out of the loop once the connection is closed", function()
    inside.check([[
      local ffi = require "ffi"
      ffi.cdef "int dup(int); int close(int); int socketpair(int, int, int, int *); long write(int, const char *, size_t);"
      local ends = ffi.new("int[2]")
      equal(ffi.C.socketpair(1, 1, 0, ends), 0)
      local kept = ffi.C.dup(ends[0])
      local conn = assert(rille.adopt(ends[0]))
      conn:close()
      rille.sleep(0.02)
      ffi.C.write(ends[1], "x", 1)
      local before = rille.loop.stats().turns
      rille.sleep(0.2)
      local count = rille.loop.stats().turns - before
      assert(count < 100, count .. " turns")
      ffi.C.close(kept)
      ffi.C.close(ends[1])
    ]])
  end)
end)
