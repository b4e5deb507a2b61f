-- The files of a generation: every Lua state of it runs the code that the first one read, and what was read or looked for is known.
-- States are made here, in this process, on loops that do not run; then real servers whose files change under them.

local ffi = require "ffi"

local C = require "rille.core"
local chunk = require "rille.chunk"
require "rille.vm" -- says where the library is
local server = require "spec.support.server"
local net = server.net

local message_box = ffi.new("char[?]", 65536)
local err_box = ffi.new("int[1]")

local loop

-- Run code in a new Lua state of Rille's, with the set installed: what it returned, as a string. keep: the state lives on.
local function run(set, code, keep)
  local source = ([[
    package.path, package.cpath = %q, %q
    local chunk = require "rille.chunk"
    if %s then chunk.install(%s) end
    local folder = %q
    local function code() %s
    end
    local ok, result = pcall(code)
    if ok and %s then return function() end end
    return nil, tostring(result)
  ]]):format(package.path, package.cpath, set and "true" or "false", set and set.id or 0, server.folder() .. "/", code,
    tostring(keep or false))
  local g = C.rille_generation_new(1, 1, "spec@1", err_box)
  local state = C.rille_state_new(loop, g, 0, source, "", 0, message_box, 65536)
  C.rille_generation_release(g)
  if state == nil then return ffi.string(message_box) end
end

-- The same in this Lua state, with LuaJIT's own functions.
local function stock(code)
  local path, cpath, loaded = package.path, package.cpath, {}
  for name in pairs(package.loaded) do loaded[name] = true end
  local ok, result = pcall(assert(loadstring("local folder = ...\n" .. code)), server.folder() .. "/")
  package.path, package.cpath = path, cpath
  for name in pairs(package.loaded) do
    if not loaded[name] then package.loaded[name] = nil end
  end
  return tostring(result), ok
end

local LOOK_HERE = 'package.path = folder .. "?.lua;" .. folder .. "?/init.lua"; package.cpath = folder .. "?.so"\n'

local function new_set()
  return assert(chunk.new("spec"))
end

local function names(list)
  local found = {}
  for i, path in ipairs(list) do found[i] = path:sub(#server.folder() + 2) end
  table.sort(found)
  return table.concat(found, " ")
end

describe("the files of a generation", function()
  before_each(function() loop = C.rille_loop_new(1, err_box) end)

  after_each(function()
    C.rille_loop_free(loop)
    server.cleanup()
  end)

  it("are compiled once, however they change", function()
    local set = new_set()
    server.write("one.lua", "return 'first'")
    assert.equal("first", run(set, LOOK_HERE .. "return require 'one'"))
    server.write("one.lua", "return 'second'")
    assert.equal("first", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("second", run(new_set(), LOOK_HERE .. "return require 'one'"))
  end)

  it("are there for other states when they are gone", function()
    local set = new_set()
    local path = server.write("one.lua", "return ...")
    assert.equal("one", run(set, LOOK_HERE .. "return require 'one'"))
    os.remove(path)
    assert.equal("one", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("7", run(set, "return loadfile(folder .. 'one.lua')(7)"))
    assert.equal("nil", run(set, "return dofile(folder .. 'one.lua')"))
  end)

  it("keep their names and lines in tracebacks", function()
    local set = new_set()
    server.write("one.lua", "local function deep(x)\n  error('oops ' .. x)\nend\nreturn { go = function(x)\n  deep(x)\n  return 1\nend }")
    for _ = 1, 2 do
      local trace = run(set, LOOK_HERE .. "return select(2, xpcall(require 'one'.go, debug.traceback, 5))")
      assert.matches("/one%.lua:2: oops 5", trace)
      assert.matches("/one%.lua:2: in function 'deep'", trace)
      assert.matches("/one%.lua:5: in function <.*/one%.lua:4>", trace)
    end
  end)

  it("are described", function()
    local set = new_set()
    local path = server.write("one.lua", "return 1")
    run(set, LOOK_HERE .. "return require 'one'")
    local files = set:files()
    assert.equal(1, #files)
    local one = files[1]
    assert.same({ path, path, "lua", 8 }, { one.path, one.absolute, one.kind, one.size })
    assert.matches("^%x+$", one.hash)
    assert.equal(16, #one.hash)
    assert.is_true(one.inode > 0 and one.mtime > 1e9 and one.bytecode > 8)
    assert.same(one, set:find(path))
    assert.is_nil(set:find(path .. "x"))
    assert.same({ 1, 0, one.bytecode }, { set:count() })
  end)

  it("have a path from the root on", function()
    local set = new_set()
    run(set, "return loadfile('./no/such.lua') or loadfile('nor/this.lua') or loadfile('spec/support/garbage.lua')")
    assert.equal("spec/support/garbage.lua", set:files()[1].path)
    assert.equal(server.root .. "/spec/support/garbage.lua", set:files()[1].absolute)
    local misses = set:misses()
    table.sort(misses)
    assert.same({ server.root .. "/no/such.lua", server.root .. "/nor/this.lua" }, misses)
  end)

  it("have a hash of what is in them, in the order of their paths", function()
    server.write("a.lua", "return 1")
    server.write("b.lua", "return 2")
    local function hash_of(code)
      local set = new_set()
      run(set, LOOK_HERE .. code)
      return set:hash()
    end
    local both = hash_of "require 'a' require 'b'"
    assert.matches("^%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x%x$", both)
    assert.equal(both, hash_of "require 'b' require 'a' pcall(require, 'c')")
    assert.not_equal(both, hash_of "require 'a'")
    server.write("b.lua", "return 3")
    assert.not_equal(both, hash_of "require 'a' require 'b'")
    server.write("a.lua", "return 2")
    server.write("b.lua", "return 1")
    assert.not_equal(both, hash_of "require 'a' require 'b'")
  end)

  it("have the hash of SipHash-2-4", function()
    local set = new_set()
    local bytes = {}
    for i = 0, 14 do bytes[i + 1] = string.char(i) end
    local path = server.write("data", table.concat(bytes))
    assert.equal(0, C.rille_chunks_note(set.p, path, C.RILLE_CHUNK_DATA))
    assert.equal("a129ca6149be45e5", set:find(path).hash) -- of the paper's appendix
  end)

  it("may be larger than what is read at once", function()
    local function hash_of(text)
      local set = new_set()
      local path = server.write("large.lua", text)
      assert.equal(0, C.rille_chunks_note(set.p, path, C.RILLE_CHUNK_DATA))
      local noted = set:find(path)
      assert.equal(#text, noted.size)
      run(set, "return loadfile(folder .. 'large.lua')")
      assert.equal(noted.hash, set:find(path).hash) -- in pieces and as a whole
      assert.equal("lua", set:find(path).kind)
      return noted.hash
    end
    local text = ("-- some text\n"):rep(20000)
    assert.not_equal(hash_of(text), hash_of(text .. " "))
    hash_of((" "):rep(65536 * 2))
  end)

  it("know what changed", function()
    local set = new_set()
    local path = server.write("one.lua", "return 1")
    run(set, LOOK_HERE .. "require 'one' pcall(require, 'two')")
    assert.is_nil(set:changed())
    server.write("one.lua", "return 1") -- touched
    assert.is_nil(set:changed())
    server.write("one.lua", "return 2")
    assert.equal(path, set:changed())
    server.write("one.lua", "return 1")
    assert.is_nil(set:changed())
    local two = server.write("two.lua", "return 1")
    assert.equal(two, set:changed())
    os.remove(two)
    os.remove(path)
    assert.equal(path, set:changed())
  end)
end)

describe("which file a module is", function()
  before_each(function() loop = C.rille_loop_new(1, err_box) end)

  after_each(function()
    C.rille_loop_free(loop)
    server.cleanup()
  end)

  it("is decided once, with what was not there", function()
    local set = new_set()
    server.folder()
    os.execute("mkdir " .. server.folder() .. "/one")
    server.write("one/init.lua", "return 'in a folder'")
    assert.equal("in a folder", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("one.lua", names(set:misses()))
    server.write("one.lua", "return 'came later'")
    assert.equal("in a folder", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("came later", run(set, "return dofile(folder .. 'one.lua')")) -- by its path it is there
    assert.equal("in a folder", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("one.lua", names(set:misses()))
  end)

  it("is open as long as none was found", function()
    local set = new_set()
    assert.matches("module 'one' not found", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("one.lua one.so one/init.lua", names(set:misses()))
    local version = set:version()
    server.write("one.lua", "return 'there'")
    assert.equal("there", run(set, LOOK_HERE .. "return require 'one'"))
    assert.equal("one.so one/init.lua", names(set:misses()))
    assert.is_true(set:version() > version)
  end)

  it("may be another by another package.path", function()
    local set = new_set()
    os.execute("mkdir " .. server.folder() .. "/a " .. server.folder() .. "/b")
    server.write("a/one.lua", "return 'a'")
    server.write("b/one.lua", "return 'b'")
    local code = [[
      package.path = folder .. "a/?.lua;" .. folder .. "b/?.lua"
      local first = require "one"
      package.loaded.one = nil
      package.path = folder .. "b/?.lua;" .. folder .. "a/?.lua"
      return first .. require "one" ]]
    assert.equal("ab", run(set, code))
    assert.equal("ab", run(set, code))
    assert.equal(2, (set:count()))
  end)

  it("may be found later, by code that runs in a handler", function()
    local set = new_set()
    server.write("one.lua", "return function() return require 'two' end")
    local path = server.write("two.lua", "return 'first'")
    assert.equal("first", run(set, LOOK_HERE .. "return require 'one' ()"))
    os.remove(path)
    assert.equal("first", run(set, LOOK_HERE .. "return require 'one' ()"))
  end)

  it("may be a module in C", function()
    local set = new_set()
    server.write("clib.so", "this is no library")
    local said = run(set, LOOK_HERE .. "return require 'clib'")
    assert.equal(stock(LOOK_HERE .. "return require 'clib'"), said)
    assert.equal("module", set:find(server.folder() .. "/clib.so").kind)
    run(set, LOOK_HERE .. "return require 'clib.part'")
    assert.equal("clib.lua clib/init.lua clib/part.lua clib/part.so clib/part/init.lua", names(set:misses()))
  end)
end)

describe("loading", function()
  before_each(function() loop = C.rille_loop_new(1, err_box) end)

  after_each(function()
    C.rille_loop_free(loop)
    server.cleanup()
  end)

  -- What LuaJIT's own functions do is what a script gets: at first, and from what was kept.
  local function same(code)
    local set = new_set()
    local expected = stock(code)
    assert.equal(expected, run(set, code))
    assert.equal(expected, run(set, code))
    return expected, set
  end

  local SHOW = "local function show(...) local t = { n = select('#', ...), ... } for i = 1, t.n do t[i] = tostring(t[i]) end " ..
    "return table.concat(t, '|') end\n"

  it("says what is wrong as LuaJIT does", function()
    server.write("bad.lua", "x = 1\ny = = 2\n")
    os.execute("mkdir " .. server.folder() .. "/dir.lua")
    assert.matches("bad%.lua:2: unexpected symbol near '='", same(LOOK_HERE .. "return require 'bad'"))
    assert.matches("^module 'no%.such' not found:\n\tno field", same(LOOK_HERE .. "return require 'no.such'"))
    assert.matches("cannot read .*: Is a directory", same(LOOK_HERE .. "return require 'dir'"))
    assert.matches("'package.path' must be a string", same("package.path = nil return require 'x'"))
    assert.matches("no file '3'", same("package.path = 3 return require 'x'"))
    assert.matches("'package.cpath' must be a string", same("package.path, package.cpath = '', nil return require 'x'"))
    assert.matches("^nil|.*bad%.lua:2:", same(SHOW .. "return show(loadfile(folder .. 'bad.lua'))"))
    assert.matches("^nil|cannot open .*: No such file", same(SHOW .. "return show(loadfile(folder .. 'no.lua'))"))
    assert.matches("^nil|cannot read .*: Is a directory", same(SHOW .. "return show(loadfile(folder))"))
    assert.matches("^cannot open .*: No such file", same("return dofile(folder .. 'no.lua')"))
    assert.matches("bad%.lua:2:", same("return dofile(folder .. 'bad.lua')"))
    assert.matches("string expected, got table", same(SHOW .. "return show(pcall(loadfile, {}))"))
  end)

  it("gives functions the arguments and environment that LuaJIT gives them", function()
    server.write("one.lua", "return { n = select('#', ...), name = ..., x = x, t = type(_G) }")
    server.write("two.lua", "#!/usr/bin/env luajit\nreturn 1, nil, ...")
    server.write("none.lua", "")
    same(LOOK_HERE .. SHOW .. "local one = require 'one' return show(one.n, one.name, one.x, one.t, package.loaded.one == one)")
    same(LOOK_HERE .. SHOW .. "return show(require 'none', package.loaded.none)")
    same(SHOW .. "return show(loadfile(folder .. 'two.lua')(3, 4))")
    same(SHOW .. "return show(dofile(folder .. 'two.lua'))")
    same(SHOW .. "local t = loadfile(folder .. 'one.lua', nil, { select = select, x = 4 })() return show(t.x, t.n)")
    assert.equal("1|nil", same(SHOW .. "return show(loadfile(folder .. 'two.lua', 't')())"))
    assert.matches("wrong mode", same(SHOW .. "return show(loadfile(folder .. 'two.lua', 'b'))"))
  end)

  it("takes bytecode", function()
    server.write("one.lua", string.dump(loadstring("return 5", "=mine")))
    assert.equal("5", same(LOOK_HERE .. "return require 'one'"))
    assert.matches("wrong mode", same(SHOW .. "return show(loadfile(folder .. 'one.lua', 't'))"))
    same(SHOW .. "return show(loadfile(folder .. 'one.lua', 'bt')())")
  end)

  it("keeps what a constant can be", function()
    server.write("one.lua", [[return tostring(1LL) .. tostring(2i) .. tostring(0x1p60) .. #({ 1, 2, { a = 3, [4] = "x\0y" } })[3][4] ..
      tostring(-0.0) .. tostring(1e300 * 1e10)]])
    same(LOOK_HERE .. "return require 'one'")
  end)

  it("raises again for a file that raised, and reads again what does not compile", function()
    local set = new_set()
    server.write("one.lua", "error('always')")
    local path = server.write("two.lua", "= = =")
    local code = LOOK_HERE .. "return select(2, pcall(require, 'one')) .. select(2, pcall(require, 'two'))"
    assert.equal(stock(code), run(set, code))
    assert.equal("broken", set:find(path).kind)
    local hash = set:hash()
    server.write("two.lua", "return 2")
    assert.equal(path, set:changed())
    assert.equal("2", run(set, LOOK_HERE .. "return require 'two'"))
    assert.equal("lua", set:find(path).kind)
    assert.not_equal(hash, set:hash())
    assert.is_nil(set:changed())
  end)

  it("notes what a script depends on", function()
    local set = new_set()
    local path = server.write("data.txt", "some data")
    assert.equal("true", run(set, "return require 'rille.chunk'.depends(folder .. 'data.txt')"))
    assert.equal("data", set:find(path).kind)
    assert.equal("not found", run(set, "return select(2, require 'rille.chunk'.depends(folder .. 'none.txt'))"))
    assert.equal("none.txt", names(set:misses()))
    assert.equal("invalid argument", run(set, "return select(2, require 'rille.chunk'.depends(''))"))
    assert.matches("string expected, got nil", run(set, "return require 'rille.chunk'.depends()"))
    server.write("data.txt", "other data")
    assert.equal(path, set:changed())
  end)

  it("has an end", function()
    local set = new_set()
    server.write("x", "")
    for i = 1, C.RILLE_CHUNK_FILES_MAX do -- one file, spelled so that each path is another
      local spelled = ("%05d"):format(i):gsub("%d", function(digit) return "/" .. ("./"):rep(tonumber(digit)) end)
      assert.equal(0, C.rille_chunks_note(set.p, server.folder() .. spelled .. "x", C.RILLE_CHUNK_DATA))
    end
    server.write("one.lua", "return 1")
    local said = run(set, "return select(2, loadfile(folder .. 'one.lua'))")
    assert.matches("cannot keep .*/one%.lua: full: a generation has at most 10000 files", said)
    assert.equal(C.RILLE_CHUNK_FILES_MAX, (set:count()))
    assert.matches("error loading module 'one' from file .*cannot keep", run(set, LOOK_HERE .. "return require 'one'"))
    for i = 1, C.RILLE_CHUNK_MISSES_MAX + 10 do C.rille_chunks_note_miss(set.p, "/no/" .. i) end
    assert.equal(C.RILLE_CHUNK_MISSES_MAX, select(2, set:count()))
  end)
end)

describe("a set", function()
  before_each(function() loop = C.rille_loop_new(1, err_box) end)

  after_each(function()
    if loop then C.rille_loop_free(loop) end
    server.cleanup()
  end)

  it("lives as long as a state has it", function()
    local set = new_set()
    local id = set.id
    assert.is_nil(run(set, "return 1", true))
    set:release()
    set:release()
    local again = chunk.find(id)
    assert.equal("spec", again.label)
    again:release()
    C.rille_loop_free(loop)
    loop = nil
    assert.same({ nil, "not found" }, { chunk.find(id) })
  end)

  it("is not installed when it is gone, nor twice, nor in a program's own state", function()
    local set = new_set()
    assert.matches("there is one already", run(set, "chunk.install(" .. set.id .. ")"))
    set:release()
    assert.matches("the generation is over", run({ id = set.id }, "return 1", true))
    assert.has_error(function() chunk.install(1) end, "chunk.install: this Lua state is not one of Rille's")
  end)

  it("does nothing to states without one", function()
    server.write("one.lua", "return 1")
    assert.equal("1", run(nil, LOOK_HERE .. "return require 'one'"))
    server.write("one.lua", "return 2")
    assert.equal("2", run(nil, LOOK_HERE .. "return require 'one'"))
    assert.equal("not supported", run(nil, "return select(2, chunk.depends('x'))"))
  end)

  it("may be used until the state is closed", function()
    local set = new_set()
    local path = server.write("seen", "")
    server.write("one.lua", "return 'one'")
    run(set, LOOK_HERE .. ([[
      local function seal() local p = newproxy(true) getmetatable(p).__gc = function()
        local file = io.open(%q, "a")
        file:write(tostring(require "one") .. tostring(dofile(folder .. "one.lua")) .. "\n")
        file:close()
        package.loaded.one = nil
      end return p end
      for i = 1, 3 do _G["p" .. i] = seal() end ]]):format(path), true)
    C.rille_loop_free(loop)
    loop = nil
    assert.equal("oneone\noneone\noneone\n", server.read(path))
  end)
end)

describe("the library's own files", function()
  before_each(function() loop = C.rille_loop_new(1, err_box) end)

  after_each(function()
    C.rille_loop_free(loop)
    server.cleanup()
  end)

  it("are compiled once in a process and belong to no generation", function()
    local set = new_set()
    run(set, "return require 'rille.boot'")
    local library = C.rille_chunks_library()
    local count = C.rille_chunks_count(library)
    assert.is_true(count > 30)
    assert.equal("nil", run(set, "return package.searchpath('x', '') or require('rille.boot').none"))
    assert.equal(count, C.rille_chunks_count(library))
    assert.same({ 0, 0, 0 }, { set:count() })
    assert.equal(0, C.rille_chunks_misses(library))
  end)

  it("are found whatever package.path is, in front of what is called the same", function()
    local set = new_set()
    os.execute("mkdir " .. server.folder() .. "/rille")
    server.write("rille/cidr.lua", "return 'not this'")
    server.write("rille/mine.lua", "return 'this'")
    assert.equal("table", run(set, LOOK_HERE .. "return type(require 'rille.cidr')"))
    assert.equal("this", run(set, LOOK_HERE .. "return require 'rille.mine'"))
    assert.equal("rille/mine.lua", names { set:files()[1].path })
  end)
end)

describe("a server whose files change", function()
  after_each(server.cleanup)

  local function ask(s, line)
    local client = s:connect()
    client:send(line .. "\n")
    local said = client:receive_line()
    client:close()
    return said
  end

  it("runs the same code on every loop and worker", function()
    server.write("late.lua", "return { version = function() return 'late one' end }")
    local s = server.start([[
      local rille = require "rille"
      return function(conn)
        local line = conn:read_line()
        if not line then return end
        local what = line:str()
        local said = what == "pool" and rille.pool("p"):call("late", "version") or require("late").version()
        conn:write(rille.loop.id .. " " .. tostring(said) .. "\n")
      end ]], { name = "chunk", conf = {
      loops = 3, servers = { { listen = "tcp://127.0.0.1:0", script = server.folder() .. "/chunk.lua", accept = "balanced" } },
    } })
    local first = ask(s, "here")
    assert.matches("late one", first)
    server.write("late.lua", "return { version = function() return 'late two' end }")
    local seen = {}
    net.poll_until(function()
      local loop_id, said = ask(s, "here"):match("^(%d) (.*)$")
      assert.equal("late one", said)
      seen[loop_id] = true
      return seen["1"] and seen["2"] and seen["3"]
    end, 10)
    assert.same({ ["1"] = true, ["2"] = true, ["3"] = true }, seen)
    assert.matches("late one", ask(s, "pool"))
    s:stop()
  end)

  it("runs it in a state that replaces another, though the file is gone", function()
    local s = server.start([[
      return function(conn)
        local line = conn:read_line()
        if not line then return end
        if line:str() == "fail" then require("rille.state").inbox = nil end
        conn:write("version one\n")
      end ]], { name = "gone", allow_errors = true, allow_failures = true })
    assert.equal("version one", ask(s, "hello"))
    os.remove(server.folder() .. "/gone.lua")
    local client = s:connect()
    client:send("fail\n")
    s:wait_log("a new Lua state serves")
    client:close()
    assert.equal("version one", ask(s, "hello"))
    s:stop()
  end)
end)
