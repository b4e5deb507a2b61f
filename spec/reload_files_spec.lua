-- rille.reload.files: which ways of changing a file are noticed, which are not, and what watching takes.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

-- In front of each piece: a folder of its own, the calls of on_change in a channel, and a file "fence", written to show that nothing
-- else is on the way: its change comes last.
local HEAD = [[do local f = require "ffi" f.cdef "int unsetenv(const char *);" f.C.unsetenv "LD_PRELOAD" end ]]
  .. [[local files = require "rille.reload.files" local folder = FOLDER local box = folder .. "/box/" ]]
  .. [[local ffi = require "ffi" ]]
  .. [[local function sh(line) equal(os.execute("cd " .. box .. " && " .. line), 0) end ]]
  .. [[os.execute("mkdir " .. box) ]]
  .. [[local function put(name, text, mode) local f = assert(io.open(name:sub(1, 1) == "/" and name or box .. name, mode or "w")) ]]
  .. [[f:write(text) f:close() end ]]
  .. [[local calls = rille.channel(1000) ]]
  .. [[local function on_change(keys, paths) local k = {} for key in pairs(keys) do k[#k + 1] = key end table.sort(k) ]]
  .. [[for i, path in ipairs(paths) do paths[i] = path:gsub("^" .. box:gsub("%p", "%%%0"), "") end ]]
  .. [[calls:send(table.concat(k, " ") .. ": " .. table.concat(paths, " ")) end ]]
  .. [[local function watch(options) put("fence", "0") local w = files.watch(on_change, options) ]]
  .. [[w:set("fence", { box .. "fence" }) return w end ]]
  .. [[local function expect(want) local got = calls:receive(5 * SLOW) equal(got, want) end ]]
  .. [[local fences = 0 local function nothing() fences = fences + 1 put("fence", "fence" .. fences) expect "fence: fence" end ]]
  .. [[local function await(fn) local stop = clock() + 5 * SLOW while not fn() do ]]
  .. [[if clock() > stop then error("it never came about", 2) end rille.sleep(0.002) end end ]]

local function check(code, options)
  server.write("mark", "")
  return inside.check(HEAD:gsub("FOLDER", ("%q"):format(server.folder())) .. code, options)
end

describe("rille.reload.files", function()
  after_each(server.cleanup)

  it("notices files that are written, appended to, replaced, deleted and made again", function()
    check [[
      put("app.lua", "1") put("lib.lua", "1")
      local w = watch()
      w:set("app", { box .. "app.lua", box .. "lib.lua" })
      put("app.lua", "2") expect "app: app.lua"
      put("lib.lua", "more", "a") expect "app: lib.lua"
      put("app.lua.new", "3") os.rename(box .. "app.lua.new", box .. "app.lua") expect "app: app.lua"
      os.remove(box .. "app.lua") expect "app: app.lua"
      put("app.lua", "4") expect "app: app.lua"
      sh "rm app.lua && echo 5 > app.lua" expect "app: app.lua"
      sh "ln lib.lua other && mv other app.lua" expect "app: app.lua"
      sh "rm app.lua; truncate -s 0 app.lua lib.lua" expect "app: app.lua lib.lua"
      put("app.lua", "6") put("lib.lua", "6") expect "app: app.lua lib.lua"
      nothing()
      w:close()
    ]]
  end)

  it("tells once of what editors do to save a file", function()
    check [[
      put("app.lua", "1")
      local w = watch { quiet = 0.2 }
      w:set("app", { box .. "app.lua" })
      -- vim: is the folder writable; a swap file; the old one becomes a backup; a new one is written
      sh "touch .app.lua.swp 4913 && rm 4913 && mv app.lua app.lua~ && echo vim > app.lua && chmod 644 app.lua && rm app.lua~ .app.lua.swp"
      expect "app: app.lua"
      -- emacs: a lock that is a dangling link, an auto-save file, a backup
      sh "ln -s me@host.1:2 .#app.lua && echo x > '#app.lua#' && cp app.lua app.lua~ && echo emacs > app.lua && rm .#app.lua '#app.lua#'"
      expect "app: app.lua"
      -- others: written beside, then renamed
      sh "echo atomic > .app.lua.tmp && sync .app.lua.tmp && mv .app.lua.tmp app.lua"
      expect "app: app.lua"
      nothing()
      w:close()
    ]]
  end)

  it("says nothing when the content is what it was", function()
    check [[
      put("app.lua", "1") put("gone.lua", "1")
      local w = watch { quiet = 0.3, longest = 3 }
      w:set("app", { box .. "app.lua", box .. "gone.lua" }, { box .. "never.lua" })
      sh "touch app.lua" nothing()
      sh "chmod 600 app.lua" nothing()
      sh "cp app.lua new && mv new app.lua" nothing()
      put("app.lua", "2") put("app.lua", "1") nothing()
      sh "mv gone.lua elsewhere && mv elsewhere gone.lua" nothing()
      put("never.lua", "x") os.remove(box .. "never.lua") nothing()
      sh "mkdir never.lua" nothing()
      put("app.lua", "3") expect "app: app.lua"
      w:close()
    ]]
  end)

  it("looks again at what cannot be opened while descriptors are short", function()
    check [[
      put("app.lua", "1") put("new.lua", "2")
      local w = watch()
      w:set("app", { box .. "app.lua" })
      local taken, one = {}, nil
      repeat one = io.open("/dev/null") taken[#taken + 1] = one until not one
      os.rename(box .. "new.lua", box .. "app.lua")
      rille.sleep(0.3)
      equal(calls:len(), 0)
      for _, f in ipairs(taken) do f:close() end
      expect "app: app.lua"
      w:close()
    ]]
  end)

  it("waits until a writer has closed the file, but not for ever", function()
    check [[
      put("app.lua", "1")
      local w = watch { quiet = 0.02, longest = 0.6 * SLOW }
      w:set("app", { box .. "app.lua" })
      local f = io.open(box .. "app.lua", "w")
      f:write "half " f:flush()
      rille.sleep(0.2)
      equal(calls:len(), 0)
      f:write "whole" f:close()
      expect "app: app.lua"
      nothing()
      f = io.open(box .. "app.lua", "a")
      f:write "left open" f:flush()
      expect "app: app.lua"
      f:close()
      nothing()
      w:close()
    ]]
  end)

  it("tells once of a burst, and again and again of writing that does not end", function()
    check [[
      put("app.lua", "1") put("lib.lua", "1")
      local w = watch { quiet = 0.1 * SLOW, longest = 2 * SLOW }
      w:set("app", { box .. "app.lua", box .. "lib.lua" })
      for i = 1, 50 do put(i % 2 == 0 and "app.lua" or "lib.lua", "burst " .. i) rille.sleep(0.001) end
      expect "app: app.lua lib.lua"
      nothing()
      w:close()
      w = watch { quiet = 0.2 * SLOW, longest = 0.4 * SLOW }
      w:set("app", { box .. "app.lua" })
      local i, stop = 0, false
      local writer = rille.spawn(function() while not stop do i = i + 1 put("app.lua", "on " .. i) rille.sleep(0.005) end end)
      for _ = 1, 3 do expect "app: app.lua" end
      stop = true
      writer:join()
      w:close()
    ]]
  end)

  it("follows files and folders that are links, and links that flip", function()
    check [[
      -- as Kubernetes mounts a ConfigMap
      sh "mkdir ..2024_1 && echo 1 > ..2024_1/app.lua && ln -s ..2024_1 ..data && ln -s ..data/app.lua app.lua"
      sh "mkdir -p releases/1/lib releases/2/lib && echo 1 > releases/1/lib/x.lua && echo 2 > releases/2/lib/x.lua"
      sh "ln -s releases/1 current"
      local w = watch()
      w:set("map", { box .. "app.lua" })
      w:set("deploy", { box .. "current/lib/x.lua" })
      for i = 2, 4 do
        sh(("mkdir ..2024_%d && echo %d > ..2024_%d/app.lua && ln -s ..2024_%d ..data_tmp && mv -T ..data_tmp ..data && rm -r ..2024_%d")
          :format(i, i, i, i, i - 1))
        expect "map: app.lua"
      end
      sh "echo 5 > ..2024_4/app.lua" expect "map: app.lua"
      sh "ln -sfn releases/2 current" expect "deploy: current/lib/x.lua"
      sh "echo 3 > releases/2/lib/x.lua" expect "deploy: current/lib/x.lua"
      sh "echo old > releases/1/lib/x.lua" nothing()
      sh("rm current && ln -s " .. box .. "releases/1 current") expect "deploy: current/lib/x.lua"
      sh "rm releases/1/lib/x.lua && ln -s ../../2/lib/../lib/./x.lua releases/1/lib/x.lua" expect "deploy: current/lib/x.lua"
      sh "echo 4 > releases/2/lib/x.lua" expect "deploy: current/lib/x.lua"
      -- a circle is a file that is not there
      sh "rm current && ln -s current current" expect "deploy: current/lib/x.lua"
      sh "rm current && ln -s releases/2 current" expect "deploy: current/lib/x.lua"
      nothing()
      w:close()
    ]]
  end)

  it("notices files that were missing, in folders that were missing", function()
    check [[
      put("app.lua", "1")
      local w = watch()
      w:set("app", { box .. "app.lua" }, { box .. "a/b/x.lua", box .. "a/x.lua", box .. "y.lua" })
      sh "mkdir -p a/b && echo 1 > a/b/x.lua" expect "app: a/b/x.lua"
      sh "echo 2 > a/b/x.lua" expect "app: a/b/x.lua"
      sh "rm -r a" expect "app: a/b/x.lua"
      sh "mkdir a" rille.sleep(0.1) sh "mkdir a/b" rille.sleep(0.1) nothing()
      put("a/b/x.lua", "3") expect "app: a/b/x.lua"
      put("a/x.lua", "1") expect "app: a/x.lua"
      put("y.lua", "1") expect "app: y.lua"
      for i = 1, 30 do
        sh(("rm -r a && mkdir -p a/b && echo deep%d > a/b/x.lua && echo also%d > a/x.lua"):format(i, i))
        expect "app: a/b/x.lua a/x.lua"
      end
      nothing()
      w:close()
    ]]
  end)

  it("keeps up with folders that are deleted, made again, moved away and back", function()
    check [[
      sh "mkdir -p one/two && echo 1 > one/two/x.lua"
      local w = watch { quiet = 0.1 }
      w:set("x", { box .. "one/two/x.lua" })
      sh "mv one away" expect "x: one/two/x.lua"
      sh "echo 2 > away/two/x.lua" nothing()
      sh "mv away one" expect "x: one/two/x.lua"
      sh "echo 3 > one/two/x.lua" expect "x: one/two/x.lua"
      sh "mv one away && mkdir -p one/two && echo 4 > one/two/x.lua" expect "x: one/two/x.lua"
      sh "echo 5 > away/two/x.lua" nothing()
      sh "echo 6 > one/two/x.lua" expect "x: one/two/x.lua"
      sh "rm -r one" expect "x: one/two/x.lua"
      sh "mkdir -p one/two" nothing()
      put("one/two/x.lua", "7") expect "x: one/two/x.lua"
      sh "mv one away2 && mv away2 one" nothing()
      put("one/two/x.lua", "8") expect "x: one/two/x.lua"
      w:close()
    ]]
  end)

  it("takes relative paths from the folder the process is in", function()
    check [[
      sh "mkdir sub && echo 1 > sub/x.lua"
      ffi.cdef "int spec_chdir(const char *) __asm__(\"chdir\");"
      local root = io.popen("pwd"):read()
      ffi.C.spec_chdir(box .. "sub")
      local w = watch()
      w:set("x", { "x.lua" }, { "./lib/../y.lua", "../sub/z.lua" })
      ffi.C.spec_chdir(root)
      put("sub/x.lua", "2") expect "x: x.lua"
      put("sub/z.lua", "2") expect "x: ../sub/z.lua"
      put("sub/y.lua", "2") nothing() -- there is no lib
      sh "mkdir sub/lib" expect "x: ./lib/../y.lua"
      w:close()
    ]]
  end)

  it("tells all keys that share a file in one call, each of what it knew", function()
    check [[
      put("app.lua", "1") put("lib.lua", "1")
      local w = watch()
      w:set(1, { box .. "app.lua", box .. "lib.lua" })
      w:set(2, { box .. "lib.lua" })
      put("lib.lua", "2") expect "1 2: lib.lua"
      put("app.lua", "2") expect "1: app.lua"
      w:remove(1) w:remove(1) w:remove "nobody"
      put("app.lua", "3") nothing()
      put("lib.lua", "3") expect "2: lib.lua"
      w:set(2, { box .. "app.lua" })
      put("lib.lua", "4") nothing()
      put("app.lua", "4") expect "2: app.lua"
      local stats = w:stats()
      equal(stats.files, 2) equal(stats.polled, 0)
      w:close() w:close()
      w:set(3, { box .. "app.lua" })
      equal(w:stats().files, 0)
    ]]
  end)

  it("makes one call at a time, keeps what comes meanwhile, and survives errors", function()
    check([[
      put("app.lua", "1") put("lib.lua", "1")
      local running, gate = 0, rille.channel(0)
      local w = files.watch(function(keys, paths)
        running = running + 1
        equal(running, 1)
        on_change(keys, paths)
        gate:receive(5 * SLOW)
        running = running - 1
        error "the coordinator's own"
      end)
      w:set("app", { box .. "app.lua", box .. "lib.lua" })
      put("app.lua", "2") expect "app: app.lua"
      put("app.lua", "3") rille.sleep(0.2) put("lib.lua", "3") rille.sleep(0.2)
      equal(calls:len(), 0)
      gate:send(true) expect "app: app.lua lib.lua"
      -- what was changed while it was loaded is not taken for loaded
      put("lib.lua", "4")
      w:set("app", { box .. "app.lua", box .. "lib.lua" })
      gate:send(true) expect "app: lib.lua"
      w:close()
      gate:send(true)
      put("lib.lua", "5") rille.sleep(0.2)
      equal(calls:len(), 0)
      -- closed by what it calls
      local other
      other = files.watch(function() calls:send "closing" other:close() end)
      other:set("app", { box .. "app.lua" })
      put("app.lua", "6") expect "closing"
      put("app.lua", "7") rille.sleep(0.1)
      equal(calls:len(), 0)
    ]], { errors = true })
  end)

  it("knows what came while it was loaded", function()
    check [[
      put("old.lua", "1")
      local w = watch()
      -- found missing, and there by the time it is said
      put("late.lua", "1")
      w:set("late", { box .. "old.lua" }, { box .. "late.lua" })
      expect "late: late.lua"
      w:set("late", { box .. "old.lua", box .. "late.lua" }, {})
      nothing()
      w:close()
    ]]
  end)

  it("does not grow", function()
    check([[
      for i = 1, 20 do sh(("mkdir d%d && echo 1 > d%d/x.lua"):format(i, i)) end
      local w = watch()
      local function watches()
        local count = 0
        for line in io.lines("/proc/self/fdinfo/" .. w.folders.fd) do if line:find "^inotify" then count = count + 1 end end
        return count
      end
      local first = watches()
      local function set(i)
        local path = box .. "d" .. i % 20 + 1
        w:set("app" .. i % 3, { path .. "/x.lua" }, { path .. "/y.lua", path .. "/none/z.lua", box .. "no" .. i })
      end
      for i = 1, 1000 do set(i) end
      collectgarbage() collectgarbage()
      local memory = collectgarbage "count"
      for i = 1, 10000 do set(i) if i % 100 == 0 then rille.yield() end end
      collectgarbage() collectgarbage()
      assert(collectgarbage "count" < memory + 200, collectgarbage "count" - memory)
      equal(watches(), first + 3) equal(w:stats().folders, first + 3)
      for i = 0, 2 do w:remove("app" .. i) end
      equal(watches(), first) equal(w:stats().files, 1)
      nothing()
      w:remove "fence"
      equal(watches(), 0)
      w:close()
    ]], { seconds = 60 })
  end)

  it("looks at everything again when events were lost", function()
    check([[
      put("app.lua", "1") sh "mkdir busy"
      local limit = tonumber(io.open("/proc/sys/fs/inotify/max_queued_events"):read())
      local w = watch()
      w:set("app", { box .. "app.lua", box .. "busy/x" }, { box .. "a/b.lua" })
      nothing()
      -- in one turn, so that nobody takes events meanwhile
      for i = 1, limit / 3 + 10 do local name = box .. "busy/" .. i % 7 put(name, "") os.remove(name) end
      put("app.lua", "2") sh "mkdir a && echo 1 > a/b.lua"
      expect "app: a/b.lua app.lua"
      put("a/b.lua", "2") expect "app: a/b.lua"
      w:close()
    ]], { seconds = 60 })
  end)

  -- Others share the user's limits, so it is the answer of the kernel that is replaced: fake(name, fn).
  local FAKE = [[
      local C = require "rille.core"
      local folders, instead = require "rille.reload.folders", {}
      for i = 1, 50 do
        local name = debug.getupvalue(folders.new, i)
        if name == "C" then
          debug.setupvalue(folders.new, i, setmetatable({}, { __index = function(_, key) return instead[key] or C[key] end }))
          break
        end
      end
  ]]

  it("looks at files once a second when there is no inotify instance, and says so once", function()
    local result = check(FAKE .. [[
      put("app.lua", "1") sh "mkdir sub && echo 1 > sub/x.lua"
      instead.rille_file_watch_new = function(err) err[0] = C.RILLE_ERR_TOO_MANY_FILES return nil end
      local w = watch { quiet = 0.02 }
      w:set("app", { box .. "app.lua", box .. "sub/x.lua" }, { box .. "y.lua" })
      equal(w:stats().polled, 4)
      nothing()
      put("app.lua", "2") expect "app: app.lua"
      sh "touch sub/x.lua; echo 1 > y.lua" expect "app: y.lua"
      sh "mv sub away" expect "app: sub/x.lua"
      sh "mv away sub" expect "app: sub/x.lua"
      nothing()
      w:close()
    ]], { seconds = 60 })
    local _, count = result.err:gsub("no inotify instance %(too many open files%): .* fs.inotify.max_user_instances", "")
    assert.equal(1, count)
  end)

  it("looks at those once a second for which there is no watch left, until there is one", function()
    local result = check(FAKE .. [[
      put("app.lua", "1") sh "mkdir sub sub2 && echo 1 > sub/x.lua && echo 1 > sub2/x.lua"
      local is_full = true
      instead.rille_file_watch_add = function(handle, path, all)
        if is_full and path:find "/sub2?$" then return C.RILLE_ERR_FULL end
        return C.rille_file_watch_add(handle, path, all)
      end
      local w = watch()
      w:set("app", { box .. "app.lua", box .. "sub/x.lua", box .. "sub2/x.lua" })
      equal(w:stats().polled, 2)
      sh "echo 2 > sub/x.lua" expect "app: sub/x.lua"
      sh "echo 2 > app.lua" expect "app: app.lua"
      is_full = false
      sh "echo 3 > sub/x.lua && echo 3 > sub2/x.lua" expect "app: sub/x.lua sub2/x.lua"
      equal(w:stats().polled, 0)
      sh "echo 4 > sub/x.lua" expect "app: sub/x.lua"
      nothing()
      w:close()
    ]], { seconds = 60 })
    local _, count = result.err:gsub("fs.inotify.max_user_watches is used up", "")
    assert.equal(1, count)
  end)

  it("watches what can be watched of a way with folders that may not be read", function()
    check [[
      sh "mkdir -p home/app && echo 1 > home/app/x.lua && chmod 311 home"
      local w = watch()
      w:set("app", { box .. "home/app/x.lua" })
      sh "echo 2 > home/app/x.lua" expect "app: home/app/x.lua"
      sh "mv home/app home/away" expect "app: home/app/x.lua"
      sh "mv home/away home/app" expect "app: home/app/x.lua"
      sh "chmod 755 home"
      w:close()
    ]]
  end)

  it("ends up knowing what is there, whatever was done to files, folders and links meanwhile", function()
    server.write("chaos.lua", [[
      local ffi = require "ffi"
      ffi.cdef "int mkdir(const char *, unsigned); int symlink(const char *, const char *); int usleep(unsigned);"
      math.randomseed(tonumber(arg[1]))
      local random, names = math.random, { "a", "b", "c" }
      local function name() return names[random(3)] end
      local function path() return random(2) == 1 and name() or name() .. "/" .. name() end
      for i = 1, tonumber(arg[2]) do
        local what, p = random(20), path()
        if what <= 6 then ffi.C.mkdir(p, 493)
        elseif what <= 8 then os.rename(p, path())
        elseif what == 9 then ffi.C.symlink(random(2) == 1 and "../" .. path() or name(), p)
        elseif what == 10 then os.remove(p)
        elseif what == 11 and random(4) == 1 then os.execute("rm -rf " .. name())
        else
          local f = io.open(p .. "/x", "w")
          if f then f:write(arg[1], i) f:close() end
        end
        if i % 10 == 0 then ffi.C.usleep(random(0, 2000)) end
      end
    ]])
    local result = check([[
      local w = watch { quiet = 0.005, longest = 0.02 }
      local list = {}
      for _, a in ipairs { "a", "b", "c" } do for _, b in ipairs { "", "/a", "/b", "/c" } do for _, c in ipairs { "", "/x", "/c/x" } do
        list[#list + 1] = box .. a .. b .. c
      end end end
      w:set("app", {}, list)
      local C, count, found = require "rille.core", 0, 0
      for seed = 1, 8 do
        local process = assert(rille.process.spawn { "luajit", folder .. "/chaos.lua", seed .. "", "400", cwd = box, stderr = "null" })
        process:wait(20 * SLOW)
        -- the fence comes last
        fences = fences + 1 put("fence", "fence" .. fences)
        repeat local got = assert(calls:receive(5 * SLOW)) count = count + 1 until got:find "fence"
        for full, entry in pairs(w.entries) do
          local content = C.rille_file_mark_read(ffi.new "rille_file_mark", full)
          if content > 0 then found = found + 1 end
          for _, known in pairs(entry.users) do
            if known ~= content then error(("seed %d: %s: knows %.0f, is %.0f"):format(seed, full, known, content)) end
          end
        end
      end
      w:close()
      print(found, count)
    ]], { seconds = 100 })
    local found, count = result.out:match "(%d+)\t(%d+)"
    assert.truthy(tonumber(found) > 8 and tonumber(count) > 16, result.out)
  end)

  it("does no work for other files of the folder", function()
    check([[
      put("app.lua", "1")
      ffi.cdef "long spec_clock(void) __asm__(\"clock\");"
      local w = watch()
      w:set("app", { box .. "app.lua" })
      local go, stop = box .. "go", box .. "stop"
      os.execute(("cd %s && (touch go; i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i > log$((i%%100)); done) &"):format(box))
      await(function() local f = io.open(go) if f then f:close() end return f end)
      local before, start = ffi.C.spec_clock(), clock()
      rille.sleep(1)
      local share = tonumber(ffi.C.spec_clock() - before) / 1e6 / (clock() - start)
      assert(share < 0.25, share)
      equal(calls:len(), 0)
      put("app.lua", "2") expect "app: app.lua"
      put(stop, "")
      w:close()
    ]], { seconds = 60 })
  end)

  it("raises when it is called wrongly", function()
    check [[
      raises("bad argument #1 to 'watch' (function expected, got nil)", files.watch)
      raises("watch: quiet: seconds above 0", files.watch, print, { quiet = 0 })
      raises("watch: longest: seconds above 0", files.watch, print, { longest = "1" })
      local w = watch()
      raises("set: a key expected", w.set, w, nil, {})
      raises("set: paths: a list of paths expected, got nil", w.set, w, 1)
      raises("set: paths: entry 2 is no path", w.set, w, 1, { "a", "" })
      raises("set: missing: entry 1 is no path", w.set, w, 1, {}, { 7 })
      equal(w:stats().files, 1)
    ]]
    inside.check([[
      raises("needs a running loop", require("rille.reload.files").watch, print)
    ]], { how = "plain" })
  end)
end)
