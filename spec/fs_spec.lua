-- rille.fs: files without blocking the loop: what is read and written, in which order, and what becomes of it when nobody waits.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

-- In front of each piece: a folder of its own, and what it takes to block a worker: a FIFO that the pool's Lua jobs open.
-- a sanitizer is for this process alone: not all programs run under it
local HEAD = [[do local f = require "ffi" f.cdef "int unsetenv(const char *);" f.C.unsetenv "LD_PRELOAD" end ]]
  .. [[local fs = rille.fs local LinkBuffer = require "rille.linkbuffer" local folder = FOLDER ]]
  .. [[local function failed(want, ok, err, message) equal(ok, nil) equal(err, want) ]]
  .. [[if type(message) ~= "string" or message == "" then error("no message", 2) end return message end ]]
  .. [[local function slurp(name) local f = assert(io.open(name, "rb")) local x = f:read("*a") f:close() return x end ]]
  .. [[local function names() local l = {} for n in io.popen("ls -A " .. folder .. "/box"):lines() do l[#l + 1] = n end ]]
  .. [[return table.concat(l, " ") end ]]
  .. [[os.execute("mkdir " .. folder .. "/box") local box = folder .. "/box/" ]]
  -- all workers of the pool are busy until the file "go" is there
  .. [[local function hold(n) local tasks = {} for i = 1, n do tasks[i] = rille.spawn(function() ]]
  .. [[return rille.pool("io"):call("os", "execute", "until [ -e " .. folder .. "/go ]; do sleep 0.01; done") end) end ]]
  .. [[repeat rille.sleep(0.002) until rille.pool("io"):stats().busy == n ]]
  .. [[return function() assert(io.open(folder .. "/go", "w")):close() for i = 1, n do tasks[i]:join() end ]]
  .. [[os.remove(folder .. "/go") end end ]]

local function check(code, options)
  server.write("mark", "")
  return inside.check(HEAD:gsub("FOLDER", ("%q"):format(server.folder())) .. code, options)
end

describe("rille.fs", function()
  after_each(server.cleanup)

  it("reads whole files, those too that do not know their size", function()
    check [[
      for _, size in ipairs { 0, 1, 4095, 4096, 4097, 100000, 3000000 } do
        local want = ("0123456789"):rep(size / 10 + 1):sub(1, size)
        local f = assert(io.open(box .. "x", "wb")) f:write(want) f:close()
        assert(fs.read_file(box .. "x") == want)
        assert(fs.read_file(box .. "x", size) == want)
        if size > 0 then
          local message = failed("too large", fs.read_file(box .. "x", size - 1))
          assert(message:find("/box/x has more than " .. size - 1 .. " bytes", 1, true), message)
        end
      end
      assert(fs.read_file("/proc/self/status"):find "Threads:")
      failed("too large", fs.read_file("/proc/self/status", 100))
      failed("too large", fs.read_file("/dev/zero"))
      equal(fs.read_file("/dev/null"), "")
    ]]
  end)

  it("names what is wrong", function()
    check [[
      assert(failed("not found", fs.read_file(box .. "nope")):find("cannot open .*/box/nope: No such file"))
      failed("invalid argument", fs.read_file(box))
      failed("invalid argument", fs.open(box))
      failed("invalid argument", fs.write_file(box, "x"))
      failed("invalid argument", fs.read_file("a\0b"))
      failed("invalid argument", fs.read_file(("x"):rep(5000)))
      failed("invalid argument", fs.read_file(("x"):rep(1000)))
      failed("not found", fs.read_file(folder .. "/mark/x"))
      failed("not found", fs.read_file "")
      os.execute("mkfifo " .. box .. "fifo")
      failed("not supported", fs.read_file(box .. "fifo"))
      failed("not supported", fs.open(box .. "fifo"))
      failed("not supported", fs.write_file(box .. "fifo", "x"))
      failed("exists", fs.open(folder .. "/mark", "x"))
      failed("exists", fs.mkdir(box))
      failed("exists", fs.remove(box))
      failed("not found", fs.mkdir(box .. "a/b"))
      failed("not found", fs.mkdir(folder .. "/mark/b", { parents = true }))
      failed("not found", fs.list(box .. "nope"))
      failed("not found", fs.rename(box .. "nope", box .. "other"))
      failed("full", fs.write_file("/dev/full", "x", { atomic = false }))
      local f = assert(fs.open(folder .. "/mark", "r"))
      failed("invalid argument", f:write "x")
      failed("invalid argument", f:seek("set", -1))
      f:close()
    ]]
  end)

  it("raises when it is called wrongly", function()
    check [[
      raises("a path expected, got nil", fs.read_file)
      raises("a path expected, got table", fs.write_file, {}, "x")
      raises("a string, slice or LinkBuffer expected, got nil", fs.write_file, "x")
      raises("there is no option 'sink'", fs.write_file, "x", "y", { sink = true })
      raises("permission bits", fs.write_file, "x", "y", { mode = "0999" })
      raises("permission bits", fs.mkdir, "x", { mode = 99999 })
      raises('one of "r", "r+"', fs.open, "x", "rw")
      raises("atomic is for", fs.open, "x", "a", { atomic = true })
      raises("max: bytes", fs.read_file, "x", -1)
      raises("seconds, 0 or more", fs.stat, "x", { timeout = -1 })
      local f = assert(fs.open(folder .. "/mark"))
      raises("commit is for files", f.commit, f)
      raises("bad argument #1 to 'read'", f.read, f, 0)
      raises("bad argument #1 to 'seek'", f.seek, f, "here")
      raises("bad argument #1 to 'write'", f.write, f, 7)
      f:close()
      local b = LinkBuffer.new()
      b:write "gone" b:flush()
      local s = b:next(4)
      b:release() b:close()
      raises("slice expired", fs.write_file, box .. "x", s)
    ]]
    inside.check([[
      raises("needs a running loop", rille.fs.read_file, "x")
    ]], { how = "plain" })
  end)

  it("replaces files as a whole, or as it is told", function()
    check [[
      for _, atomic in ipairs { true, false } do
        for _, size in ipairs { 0, 10, 2 ^ 20, 2 ^ 20 + 1, 3500000 } do
          local text = ("x"):rep(size)
          equal(fs.write_file(box .. "x", text, { atomic = atomic, sync = false }), true)
          assert(slurp(box .. "x") == text)
        end
      end
      equal(names(), "x")
      equal(fs.write_file(box .. "x", "", { mode = "0640" }), true)
      equal(fs.stat(box .. "x").mode, 416)
      equal(fs.write_file(box .. "x", "again"), true)
      equal(fs.stat(box .. "x").mode, 416) -- it is kept
      local inode = fs.stat(box .. "x").inode
      fs.write_file(box .. "x", "same", { atomic = false })
      equal(fs.stat(box .. "x").inode, inode)
      fs.append(box .. "x", " and") fs.append(box .. "x", " more", { sync = true })
      equal(slurp(box .. "x"), "same and more")
      fs.append(box .. "new", "made", { mode = 384 })
      equal(slurp(box .. "new"), "made") equal(fs.stat(box .. "new").mode, 384)
    ]]
  end)

  it("writes slices and LinkBuffers without a copy, and leaves them as they are", function()
    check [[
      local b = LinkBuffer.new()
      b:write(("abc"):rep(100000)) b:flush()
      equal(fs.write_file(box .. "x", b), true)
      equal(b:len(), 300000)
      local s = b:peek(300000)
      equal(fs.append(box .. "x", s), true)
      assert(slurp(box .. "x") == ("abc"):rep(200000))
      local f = assert(fs.open(box .. "y", "w"))
      f:write(b:next(3)) f:write(b) f:write "end"
      equal(f:close(), true)
      assert(slurp(box .. "y") == ("abc"):rep(100000) .. "end")
      b:close()
    ]]
  end)

  it("reads and writes open files in pieces", function()
    check [[
      local f = assert(fs.open(box .. "x", "w+"))
      equal(f:write "hello world", true)
      equal(f:seek("set", 6), 6)
      local s = f:read(3)
      equal(s:str(), "wor") assert(s:is_valid())
      local rest = f:read(100)
      equal(rest:str(), "ld") rest:release()
      equal(s:str(), "wor") s:release()
      equal(select("#", f:read(1)), 1) equal(f:read(1), nil)
      equal(f:seek("end", -5), 6) equal(f:seek "cur", 6) equal(f:seek(), 6)
      equal(f:read_all(), "world")
      failed("too large", (function() f:seek "set" return f:read_all(10) end)())
      equal(f:truncate(4), true) equal(f:stat().size, 4) equal(f:stat().type, "file")
      equal(f:sync(), true)
      equal(tostring(f), "file " .. box .. "x")
      equal(f:close(), true) equal(f:close(), true)
      equal(tostring(f), "file " .. box .. "x (closed)")
      for _, name in ipairs { "read", "read_all", "seek", "sync", "stat" } do failed("closed", f[name](f)) end
      failed("closed", f:write "x")
      failed("closed", f:truncate(1))
      local a = assert(fs.open(box .. "x", "a+"))
      a:write "more" a:seek "set"
      equal(a:read_all(), "hellmore")
      a:close()
    ]]
  end)

  it("keeps the calls for one file in order, whoever makes them", function()
    check [[
      local f = assert(fs.open(box .. "x", "w"))
      local tasks, want = {}, {}
      for i = 1, 200 do
        want[i] = ("%d "):format(i):rep(i % 7 == 0 and 300000 or 1)
        tasks[i] = rille.spawn(function() assert(f:write(want[i])) end)
      end
      for _, t in ipairs(tasks) do assert(not select(2, t:join())) end
      equal(f:close(), true)
      assert(slurp(box .. "x") == table.concat(want))
    ]]
  end)

  it("tells about folders and what is in them", function()
    check [[
      equal(fs.mkdir(box .. "a/b//c/", { parents = true }), true)
      equal(fs.mkdir(box .. "a/b/c", { parents = true }), true)
      equal(fs.mkdir(box .. "private", { mode = "0700" }), true)
      equal(fs.stat(box .. "private").mode, 448)
      fs.write_file(box .. "z\n1", "12345")
      os.execute("ln -s nowhere " .. box .. "link")
      os.execute("mkfifo " .. box .. "pipe")
      local list, types = fs.list(box)
      equal(table.concat(list, ","), "a,link,pipe,private,z\n1")
      equal(table.concat(types, ","), "directory,link,other,directory,file")
      equal(#fs.list(box .. "private"), 0)
      local s = fs.stat(box .. "z\n1")
      equal(s.type, "file") equal(s.size, 5) equal(s.links, 1)
      assert(math.abs(s.modified - rille.time()) < 100 and s.modified % 1 >= 0)
      failed("not found", fs.stat(box .. "link"))
      equal(fs.stat(box .. "link", { follow = false }).type, "link")
      equal(fs.exists(box .. "link"), false) equal(fs.exists(box .. "a"), true)
      equal(fs.rename(box .. "z\n1", box .. "y"), true)
      equal(fs.remove(box .. "y"), true) equal(fs.remove(box .. "link"), true) equal(fs.remove(box .. "private"), true)
      failed("exists", fs.remove(box .. "a"))
      for i = 1, 3000 do assert(io.open(box .. "a/file" .. i, "w")):close() end
      local many = fs.list(box .. "a")
      equal(#many, 3001) equal(many[1], "b") equal(many[2], "file1") equal(many[3], "file10")
    ]]
  end)

  it("makes a file that is written bit by bit appear as a whole, or not at all", function()
    check [[
      fs.write_file(box .. "x", "old")
      local f = assert(fs.open(box .. "x", "w", { atomic = true }))
      f:write "new " f:write "text"
      equal(slurp(box .. "x"), "old")
      equal(f:commit(), true)
      equal(slurp(box .. "x"), "new text")
      equal(f:close(), true) failed("closed", f:commit())
      f = assert(fs.open(box .. "x", "w", { atomic = true }))
      f:write "never" f:close()
      equal(slurp(box .. "x"), "new text") equal(names(), "x")
      f = assert(fs.open(box .. "y", "w", { atomic = true }))
      f:write "never"
      equal(#fs.list(box), 2)
      f = nil
      for _ = 1, 3 do collectgarbage() end
      equal(names(), "x")
      failed("not found", fs.open(box .. "no/where", "w", { atomic = true }))
    ]]
  end)

  it("gives up at its time limit, and does what was begun", function()
    check [[
      local go = hold(4)
      failed("timeout", fs.write_file(box .. "x", "late", { timeout = 0.02 }))
      equal(rille.with_timeout(0.02, fs.read_file, box .. "x"), nil)
      failed("timeout", fs.open(box .. "y", "w", { timeout = 0.02 }))
      equal(rille.pool("io"):stats().abandoned, 3) equal(rille.pool("io"):stats().queued, 0)
      go()
      equal(names(), "") -- what had not begun was taken back
      local f = assert(fs.open(box .. "z", "w", { timeout = 0.02 }))
      go = hold(4)
      failed("timeout", f:write "a")
      failed("timeout", f:sync())
      go()
      f:set_timeout(0)
      equal(f:write "b", true) equal(f:close(), true)
      equal(slurp(box .. "z"), "b")
    ]]
  end)

  it("survives tasks that are cancelled at any moment", function()
    check([[
      local x = ("x"):rep(300000)
      math.randomseed(1)
      local file = assert(fs.open(box .. "shared", "w+"))
      local function work(i)
        if i % 5 == 0 then return fs.write_file(box .. "x" .. i, x, { sync = false }) end
        if i % 5 == 1 then
          local f = assert(fs.open(box .. "y" .. i, "w", { atomic = true }))
          f:write(x) f:write(x) f:commit { sync = false }
        end
        if i % 5 == 2 then return fs.read_file("/proc/self/status") end
        if i % 5 == 3 then file:write(x) file:seek("set", 0) local s = file:read(1000) if s then s:release() end end
        if i % 5 == 4 then return fs.list(box) end
      end
      for i = 1, 400 do
        local t = rille.spawn(work, i)
        for _ = 1, math.random(0, 3) do rille.yield() end
        if i % 2 == 0 then rille.sleep(0.0005) end
        t:cancel()
      end
      file:close()
      repeat rille.sleep(0.002) local s = rille.pool("io"):stats() until s.busy + s.queued == 0
      rille.sleep(0.01)
      for _ = 1, 3 do collectgarbage() end
      for _, name in ipairs(fs.list(box)) do
        assert(name:find "^[xys]", name)
        if name:find "^x" then equal(fs.stat(box .. name).size, 300000) end
      end
    ]], { seconds = 60 })
  end)

  it("leaves nothing of what is under way at the end", function()
    local result = check [[
      local go = hold(4)
      for i = 1, 20 do
        rille.spawn(fs.read_file, folder .. "/mark")
        rille.spawn(fs.write_file, box .. i, ("x"):rep(100000))
      end
      local f
      rille.spawn(function() f = fs.open(folder .. "/mark") f:read(10) end)
      rille.sleep(0.01)
      io.open(folder .. "/go", "w"):close()
    ]]
    assert.equal(0, result.status)
  end)

  it("is bounded by io.queue and io.workers", function()
    local code = [[
      local conf = require("rille.config").defaults()
      conf.io.workers, conf.io.queue = 2, 3
      return require("rille.server").run_task(conf, "spec@1", function()
        local go = hold(2)
        local tasks, full = {}, 0
        for i = 1, 20 do tasks[i] = rille.spawn(function() return fs.stat "/" end) end
        rille.yield()
        equal(rille.pool("io"):stats().queued, 3)
        go()
        for i = 1, 20 do
          local ok, err = tasks[i]:join()
          if not ok then equal(err, "full") full = full + 1 end
        end
        equal(full, 17) equal(rille.pool("io"):stats().max, 2)
      end)
    ]]
    code = HEAD:gsub("FOLDER", ("%q"):format(server.folder())) .. code
    inside.check(code, { how = "plain" })
  end)

  it("does not keep other connections waiting while a large file is read and written", function()
    local s = server.start([[
      local rille = require "rille"
      local fs = rille.fs
      return function(conn)
        local line = conn:read_line():str()
        if line == "ping" then return conn:write "pong\n" end
        local path = line
        local from, to = assert(fs.open(path)), assert(fs.open(path .. ".copy", "w"))
        local total = 0
        while true do
          local piece = from:read(2 ^ 20)
          if not piece then break end
          total = total + #piece
          assert(to:write(piece))
          piece:release()
        end
        from:close() to:close()
        assert(#fs.read_file(path) == total)
        conn:write(("copied %d\n"):format(total))
      end
    ]])
    local path = server.folder() .. "/large"
    assert(os.execute(("head -c 16777216 /dev/zero > '%s'"):format(path)))
    local copier, other = s:connect(), s:connect()
    copier:send(path .. "\n")
    for _ = 1, 20 do
      other:send "ping\n"
      assert.equal("pong", other:receive_line())
    end
    assert.equal("copied 16777216", copier:receive_line(20))
    s:wait_state(function(state) return state.slices == 0 end)
  end)
end)
