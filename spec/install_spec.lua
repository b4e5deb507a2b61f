-- Installing from a fresh clone with make and with luarocks, as a user does it, in temporary folders.

local support = require("spec.support.install")
local run, must, quote = support.run, support.must, support.quote

local ECHO = "return function(conn) conn:write(conn:next(conn:len())) end\n"

local function has_command(name)
  return (run("/", "command -v " .. name .. " >/dev/null")) == 0
end

local function contains(list, wanted)
  for _, name in ipairs(list) do
    if name == wanted then
      return true
    end
  end
  return false
end

local function lines(text)
  local _, n = text:gsub("\n", "")
  return n
end

-- An installed copy is used from a folder of its own, and everything it loads must come from its tree.
local function assert_serves(tree)
  local checkout, elsewhere = support.realpath("."), support.folder()
  support.write(elsewhere .. "/echo.lua", ECHO)
  local command = quote(tree .. "/bin/rille") .. " run echo.lua --listen tcp://127.0.0.1:0 --loops 1"
  local server = support.start(elsewhere, command)
  local port = tonumber((server:expect("127%.0%.0%.1:(%d+)")))

  assert.equal("hello over a socket", support.exchange(port, "hello over a socket"))

  -- the pid that was started is the server
  assert.matches("luajit", must("/", "readlink /proc/" .. server.pid .. "/exe"))
  local maps = must("/", "cat /proc/" .. server.pid .. "/maps")
  assert.truthy(maps:find(tree .. "/lib/lua/5.1/rille/core.so", 1, true), "the library of the installed tree is loaded")
  assert.falsy(maps:find(checkout .. "/", 1, true), "nothing of the checkout is loaded")
  assert.equal(0, server:stop())
end

describe("installing", function()
  local clone, rock_tree, prefix
  local luarocks = "luarocks --lua-version=5.1 --tree "

  setup(function()
    clone = support.folder() .. "/rille"
    must("/", "mkdir " .. clone)
    must(".", "tar --exclude=./build --exclude=./.git --exclude=core.so* -cf - . | tar -xf - -C " .. clone)
  end)

  teardown(support.cleanup)

  describe("with luarocks", function()
    setup(function()
      rock_tree = support.realpath(support.folder())
      must(clone, luarocks .. rock_tree .. " make")
    end)

    it("puts library, modules, command and default configuration into the tree", function()
      local files = support.files(rock_tree)
      local rock = "lib/luarocks/rocks-5.1/rille/dev-1/"
      for _, name in ipairs({
        "bin/rille", "lib/lua/5.1/rille/core.so", "share/lua/5.1/rille/init.lua", "share/lua/5.1/rille/cli.lua",
        rock .. "conf/rille.lua", rock .. "scripts/echo.lua", rock .. "doc/README.md",
      }) do
        assert.is_true(contains(files, name), name)
      end
    end)

    it("installs the command as it is, executable, not wrapped", function()
      assert.equal(support.read("bin/rille"), support.read(rock_tree .. "/bin/rille"))
      must("/", "test -x " .. rock_tree .. "/bin/rille")
      assert.matches("%d+%.%d+", must("/", rock_tree .. "/bin/rille --version"))
    end)

    it("makes a copy that serves without the clone", function()
      must("/", "mv " .. clone .. " " .. clone .. ".away")
      local ok, err = pcall(assert_serves, rock_tree)
      must("/", "mv " .. clone .. ".away " .. clone)
      assert(ok, err)
    end)

    it("installs a default configuration that the command accepts", function()
      must("/", rock_tree .. "/bin/rille check --conf " .. rock_tree
        .. "/lib/luarocks/rocks-5.1/rille/dev-1/conf/rille.lua")
    end)

    it("packs a rock that installs offline into another tree, and removes it without a trace", function()
      local packed, other = support.folder(), support.realpath(support.folder())
      must(packed, luarocks .. rock_tree .. " pack rille")
      must(packed, luarocks .. other .. " --only-server=/nonexistent install ./rille-dev-1.*.rock")
      assert_serves(other)

      must("/", luarocks .. other .. " remove rille")
      for _, name in ipairs(support.files(other)) do
        assert.matches("/manifest", name)
      end
      assert.equal("", must(other, "find . -name '*rille*'"))
    end)
  end)

  describe("with make install", function()
    setup(function()
      prefix = support.realpath(support.folder())
      must(clone, "make install CFLAGS=-O0 PREFIX=" .. prefix)
    end)

    it("makes a copy that serves without the clone", function()
      must("/", "mv " .. clone .. " " .. clone .. ".away")
      local ok, err = pcall(assert_serves, prefix)
      must("/", "mv " .. clone .. ".away " .. clone)
      assert(ok, err)
    end)

    it("installs a default configuration that the command accepts", function()
      must("/", prefix .. "/bin/rille check --conf " .. prefix .. "/share/rille/conf/rille.lua")
    end)

    it("makes a command that works through a symbolic link, a relative path and a path with a space", function()
      local folder = support.folder() .. "/a b"
      must("/", "mkdir '" .. folder .. "' && ln -s " .. prefix .. "/bin/rille '" .. folder .. "/r'")
      local version = must("/", prefix .. "/bin/rille --version")
      assert.equal(version, must("/", quote(folder .. "/r") .. " --version"))
      assert.equal(version, must(folder, "./r --version"))
      assert.equal(version, must(folder, "sh r --version"))
      assert.equal(version, must(folder, "sh -c 'PATH=.:$PATH; r --version'"))
    end)

    it("is undone by make uninstall, which leaves files of others alone", function()
      local mine = prefix .. "/share/lua/5.1/rille/mine.lua"
      support.write(mine, "return 1\n")
      must(clone, "make uninstall PREFIX=" .. prefix)
      assert.same({ "share/lua/5.1/rille/mine.lua" }, support.files(prefix))
    end)

    it("puts everything below DESTDIR", function()
      local destination = support.folder()
      must(clone, "make install CFLAGS=-O0 PREFIX=/opt/rille DESTDIR=" .. destination)
      assert.equal("opt\n", must(destination, "ls"))
      must(destination, "test -x opt/rille/bin/rille")
      must(clone, "make uninstall PREFIX=/opt/rille DESTDIR=" .. destination)
      assert.same({}, support.files(destination))
    end)
  end)

  describe("where something is missing", function()
    it("says in one line which headers, and what to install", function()
      local status, out, err = run(clone, "make LUA_INCDIR=/nonexistent PKG_CONFIG=false")
      assert.equal(2, status)
      assert.equal("", out)
      assert.equal(1, lines(err))
      assert.matches("luajit%.h not found: install libluajit%-5%.1%-dev", err)
    end)

    it("says in one line that the headers are those of another Lua", function()
      local headers = support.folder()
      support.write(headers .. "/lua.h", "#define LUA_VERSION_NUM\t504\n")
      local status, out, err = run(clone, "make LUA_INCDIR=" .. headers)
      assert.equal(2, status)
      assert.equal("", out)
      assert.equal(1, lines(err))
      assert.matches("LuaJIT", err)
    end)

    it("uses LuaJIT's headers where luarocks names those of PUC Lua 5.1", function()
      local headers = support.folder()
      support.write(headers .. "/lua.h", "#define LUA_VERSION_NUM\t501\n")
      must(clone, "make -n CFLAGS=-O0 LUA_INCDIR=" .. headers)
    end)

    it("says in one line that luajit is missing, or is not what RILLE_LUAJIT names", function()
      local command = support.realpath("bin/rille")
      local empty = support.folder()
      local status, _, err = run("/", "PATH=" .. empty .. " /bin/sh " .. command .. " --version")
      assert.equal(1, status)
      assert.equal(1, lines(err))
      assert.matches("^rille: luajit not found", err)

      status, _, err = run("/", "RILLE_LUAJIT=/nonexistent/luajit " .. command .. " --version")
      assert.equal(1, status)
      assert.equal(1, lines(err))
      assert.matches("/nonexistent/luajit", err)
    end)

    for _, name in ipairs({ "lua5.1", "lua5.2", "lua5.3", "lua5.4" }) do
      if has_command(name) then
        it("says in one line that " .. name .. " is the wrong Lua", function()
          local command = support.realpath("bin/rille") .. " --version"
          local status, out, err = run("/", "RILLE_LUAJIT=" .. name .. " " .. command)
          assert.equal(1, status)
          assert.equal("", out)
          assert.equal(1, lines(err))
          assert.matches("^rille: needs LuaJIT, but runs under Lua 5", err)
        end)
      end
    end
  end)
end)
