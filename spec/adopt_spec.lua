-- rille.wait and rille.adopt for every kind of descriptor that the kernel can tell the state of.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local HEAD = [[local ffi = require "ffi" ffi.cdef "]]
  .. [[int pipe(int *); int close(int); int open(const char *, int, ...); int dup(int); int eventfd(unsigned, int); ]]
  .. [[ssize_t read(int, void *, size_t); ssize_t write(int, const void *, size_t); ]]
  .. [[int timerfd_create(int, int); int timerfd_settime(int, int, const int64_t *, int64_t *); ]]
  .. [[int inotify_init1(int); int inotify_add_watch(int, const char *, uint32_t); ]]
  .. [[int posix_openpt(int); int grantpt(int); int unlockpt(int); char *ptsname(int); int spec_fcntl(int, int, ...) __asm__(\"fcntl\");" ]]
  .. [[local c = ffi.C local fds = ffi.new "int[2]" ]]
  .. [[local function terminal() local master = c.posix_openpt(258) assert(c.grantpt(master) == 0 and c.unlockpt(master) == 0) ]]
  .. [[return master, c.open(c.ptsname(master), 258) end ]]

local function check(code, options)
  server.write("mark", "")
  return inside.check(HEAD .. "local folder = " .. ("%q "):format(server.folder()) .. code, options)
end

describe("rille.wait", function()
  after_each(server.cleanup)

  it("waits for pipes", function()
    check [[
      c.pipe(fds)
      equal(select(2, rille.wait(fds[0], "r", 0.01)), "timeout")
      equal(rille.wait(fds[1], "w", 1), true)
      rille.after(0.01, function() c.write(fds[1], "x", 1) end)
      equal(rille.wait(fds[0], "r", 5), true)
      local byte = ffi.new "char[1]"
      equal(tonumber(c.read(fds[0], byte, 1)), 1)
      rille.after(0.01, function() c.close(fds[1]) end)
      equal(rille.wait(fds[0], "r", 5), true) -- the end
      equal(tonumber(c.read(fds[0], byte, 1)), 0)
      c.close(fds[0])
      c.pipe(fds)
      rille.after(0.01, function() c.close(fds[0]) end)
      equal(rille.wait(fds[1], "r", 5), true) -- nobody reads it any more
      c.close(fds[1])
    ]]
  end)

  it("waits for terminals, events, timers and changes of files", function()
    check [[
      local master, slave = terminal()
      equal(select(2, rille.wait(master, "r", 0.01)), "timeout")
      rille.after(0.01, function() c.write(slave, "x\n", 2) end)
      equal(rille.wait(master, "r", 5), true)
      rille.after(0.01, function() c.write(master, "y\n", 2) end)
      equal(rille.wait(slave, "r", 5), true)
      c.close(slave) c.close(master)

      local event = c.eventfd(0, 0)
      equal(rille.wait(event, "w", 1), true)
      rille.after(0.01, function() c.write(event, ffi.new("uint64_t[1]", 7), 8) end)
      equal(rille.wait(event, "r", 5), true)
      c.close(event)

      local timer = c.timerfd_create(1, 0)
      c.timerfd_settime(timer, 0, ffi.new("int64_t[4]", 0, 0, 0, 20000000), nil)
      equal(rille.wait(timer, "r", 5), true)
      c.close(timer)

      local notes = c.inotify_init1(0)
      assert(c.inotify_add_watch(notes, folder, 0x100) >= 0)
      rille.after(0.01, function() io.open(folder .. "/new", "w"):close() end)
      equal(rille.wait(notes, "r", 5), true)
      c.close(notes)
    ]]
  end)

  it("says that files and folders are always ready", function()
    check [[
      for _, path in ipairs { folder .. "/mark", folder } do
        local fd = c.open(path, 0)
        local ok, err = rille.wait(fd, "r", 1)
        equal(ok, nil) equal(err, "not supported")
        ok, err = rille.adopt(fd)
        equal(ok, nil) equal(err, "not supported")
        equal(c.close(fd), 0)
      end
      equal(select(2, rille.wait(9999, "r")), "invalid argument")
      equal(select(2, rille.adopt(9999)), "invalid argument")
    ]]
  end)
end)

describe("rille.adopt", function()
  after_each(server.cleanup)

  it("reads and writes the two sides of a terminal; its hang-up is the end", function()
    check [[
      local master, slave = terminal()
      local m, s = rille.adopt(master), rille.adopt(slave)
      m:send "hello\n"
      equal(s:read_line():str(), "hello")
      equal(m:read_line():str(), "hello") -- the echo
      s:send "answer\n"
      equal(m:read_line():str(), "answer")
      s:send "last words"
      s:close()
      equal(m:read_string(10), "last words")
      local piece, err = m:read()
      equal(piece, nil) equal(err, "closed")
      m:close()
      master, slave = terminal()
      m, s = rille.adopt(master), rille.adopt(slave)
      m:close()
      piece, err = s:read()
      equal(piece, nil) equal(err, "closed")
      s:close()
    ]]
  end)

  it("tells the writer of a pipe that nobody reads it any more", function()
    check [[
      c.pipe(fds)
      local to = rille.adopt(fds[1])
      to:send "x"
      c.close(fds[0])
      local ok, err
      for _ = 1, 200 do
        ok, err = to:send "y"
        if not ok then break end
        rille.sleep(0.001)
      end
      equal(ok, nil) equal(err, "closed")
      to:close()
      c.pipe(fds)
      to = rille.adopt(fds[1])
      local done
      rille.spawn(function() done = { to:write(("z"):rep(3000000)) } end)
      rille.sleep(0.01)
      equal(done, nil) -- above its high-water mark
      c.close(fds[0])
      while not done do rille.sleep(0.001) end
      equal(done[1], nil) equal(done[2], "closed")
      to:close()
    ]]
  end)

  it("reads events, timers and changes of files", function()
    check [[
      local event = rille.adopt(c.eventfd(0, 0))
      event:write_u64(5, "le") event:flush()
      equal(event:read_string(8), "\5\0\0\0\0\0\0\0")
      event:close()
      local fd = c.timerfd_create(1, 0)
      c.timerfd_settime(fd, 0, ffi.new("int64_t[4]", 0, 10000000, 0, 10000000), nil)
      local timer = rille.adopt(fd)
      for _ = 1, 3 do
        assert(timer:read(8):u64(0, "le") >= 1)
        timer:release()
      end
      timer:close()
      fd = c.inotify_init1(0)
      assert(c.inotify_add_watch(fd, folder, 0x100) >= 0)
      local notes = rille.adopt(fd)
      io.open(folder .. "/new", "w"):close()
      local head = notes:read_string(16)
      equal(head:byte(6), 1) -- IN_CREATE
      assert(notes:read_string(head:byte(13)):find "^new%z")
      notes:close()
    ]]
  end)

  it("makes what it takes private to this process, and gives it back as it is", function()
    check [[
      c.pipe(fds)
      equal(c.spec_fcntl(fds[0], 1), 0)
      local from = rille.adopt(fds[0])
      equal(c.spec_fcntl(fds[0], 1), 1) -- FD_CLOEXEC
      equal(from:detach(), fds[0])
      equal(c.close(fds[0]), 0)
      c.close(fds[1])
    ]]
  end)
end)
