-- LinkBuffer: what its Lua side adds to the conformance cases: types, errors, scalars, statistics, garbage, loading.

local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"

local garbage_of = require "spec.support.garbage"

describe("LinkBuffer", function()
  local buf

  before_each(function() buf = assert(LinkBuffer.new()) end)
  after_each(function() buf:close() end)

  local function fill(text)
    assert.is_true(buf:write(text))
    assert.is_true(buf:flush())
  end

  -- The error of fn, which must stand at a line of this file.
  local function raised(fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok, "should have raised")
    assert.truthy(tostring(err):find("^[^:]*linkbuffer_spec.lua:%d+: "), err)
    return err
  end

  it("is made with a block size", function()
    for _, size in ipairs { 1, 64, 4096, 5000, 8 * 1024 * 1024 } do
      local b = assert(LinkBuffer.new(size))
      assert.is_true(b:write(("x"):rep(1000)))
      assert.is_true(b:close())
    end
    for _, size in ipairs { 0, -1, 0.5, 8 * 1024 * 1024 + 1, 2 ^ 60, 0 / 0, 1 / 0 } do
      assert.same({ nil, "invalid argument" }, { LinkBuffer.new(size) })
    end
    raised(LinkBuffer.new, "4096")
    raised(function() return LinkBuffer.new({}) end)
  end)

  it("knows itself", function()
    assert.is_true(LinkBuffer.is(buf))
    for _, other in pairs { "x", 5, {}, true, ffi.new("int[1]"), LinkBuffer } do assert.is_false(LinkBuffer.is(other)) end
    assert.is_false(LinkBuffer.is(nil))
    fill "hello"
    assert.equal(5, #buf)
    assert.equal("LinkBuffer (5 bytes readable, 0 unflushed)", tostring(buf))
  end)

  it("returns true from calls that have nothing else to say", function()
    fill "hello"
    for _, value in ipairs {
      buf:write "x", buf:write_direct("y", 1), buf:malloc_ack(1), buf:flush(), buf:skip(2), buf:append(LinkBuffer.new()),
      buf:write_u8(1), buf:write_byte(1), buf:write_varint(300), buf:pack("b", 1), buf:release(), buf:close(), buf:close(),
    } do
      assert.is_true(value)
    end
  end)

  it("reads strings within and across blocks", function()
    local b = LinkBuffer.new(16)
    for i = 1, 8 do b:write(("%d"):format(i):rep(16)) end
    b:flush()
    assert.equal(("1"):rep(10), b:read_string(10))
    assert.equal(("1"):rep(6) .. ("2"):rep(16) .. "33", b:read_string(24))
    assert.equal("", b:read_string(0))
    assert.same({ nil, "short" }, { b:read_string(1000) })
    assert.same({ nil, "short" }, { b:read_string(2 ^ 50) })
    assert.same({ nil, "invalid argument" }, { b:read_string(-1) })
    assert.same({ nil, "invalid argument" }, { b:read_string(1.5) })
    assert.equal(128 - 34, b:len())
    b:close()
    assert.same({ nil, "closed" }, { b:read_string(1) })
  end)

  it("tells no match from a wrong call", function()
    fill "a,b"
    assert.equal(1, buf:index_of(","))
    assert.equal(1, buf:index_of(",", 1))
    assert.equal(1, select("#", buf:index_of(";")))
    assert.is_nil(buf:index_of(";"))
    assert.is_nil(buf:index_of(",", 2))
    assert.is_nil(buf:index_of(",", 2 ^ 40))
    assert.same({ nil, "invalid argument" }, { buf:index_of("") })
    assert.same({ nil, "invalid argument" }, { buf:index_of(",", -1) })
    assert.same({ nil, "invalid argument" }, { buf:read_until("") })
    assert.same({ nil, "short" }, { buf:read_until(";") })
  end)

  it("takes delimiters with zeros and of any length", function()
    local long = ("0123456789"):rep(1000)
    local b = LinkBuffer.new(64)
    b:write("a\0b" .. long:sub(1, -2) .. "x" .. long .. "\0\0")
    b:flush()
    assert.equal(1, b:index_of("\0"))
    assert.equal(1, b:index_of("\0b"))
    assert.equal(3 + #long, b:index_of(long))
    assert.equal(3 + 2 * #long, b:index_of("\0\0"))
    assert.equal(3 + 2 * #long, b:read_until(long):len())
    b:close()
  end)

  it("writes strings, slices and buffers", function()
    fill(("0123456789"):rep(1000))
    local other = LinkBuffer.new()
    local small, large = buf:next(10), buf:next(5000)
    assert.is_true(other:write(small))
    assert.is_true(other:write(large))
    assert.is_true(other:write(buf))
    assert.is_true(other:write("end"))
    other:flush()
    assert.equal(4990, buf:len())
    buf:close()
    assert.equal(("0123456789"):rep(1000) .. "end", other:read_string(10003))
    other:close()
  end)

  it("moves blocks and bytes between buffers without copying them", function()
    fill(("x"):rep(4096 * 20))
    local before = LinkBuffer.stats()
    local taken = buf:take(4096 * 10)
    local other = LinkBuffer.new()
    assert.is_true(other:append(buf))
    assert.equal(0, buf:len())
    local after = LinkBuffer.stats()
    assert.equal(before.blocks_in_use, after.blocks_in_use)
    assert.equal(before.buffers_in_use + 2, after.buffers_in_use)
    assert.equal(("x"):rep(4096 * 10), taken:read_string(4096 * 10))
    assert.equal(("x"):rep(4096 * 10), other:read_string(4096 * 10))
    fill "usable"
    assert.equal("usable", buf:read_string(6))
    taken:close()
    other:close()
  end)

  it("refuses to write to what take returned", function()
    fill "hello"
    local taken = buf:take(5)
    for _, call in ipairs {
      function() return taken:write "x" end, function() return taken:malloc(1) end, function() return taken:flush() end,
      function() return taken:append(buf) end, function() return taken:write_direct("x", 0) end,
      function() return taken:write_u32(1) end, function() return taken:pack("b", 1) end,
      function() return taken:malloc_ack(0) end, function() return taken:write_varint(1) end,
    } do
      assert.same({ nil, "read only" }, { call() })
    end
    assert.equal("hello", taken:read_string(5))
    taken:close()
  end)

  it("gives all blocks of a taken buffer back when that is read and released", function()
    local before = LinkBuffer.stats().blocks_in_use
    fill "hello"
    local taken = buf:take(5)
    buf:close()
    assert.equal("hello", taken:next(5):str())
    taken:release()
    assert.equal(before, LinkBuffer.stats().blocks_in_use)
    assert.equal(0, taken:len())
    taken:close()
  end)

  it("returns closed after close", function()
    fill "hello"
    local s = buf:peek(5)
    buf:close()
    assert.is_false(s:is_valid())
    assert.equal(0, buf:len())
    assert.equal(0, buf:malloc_len())
    for _, call in ipairs {
      function() return buf:next(1) end, function() return buf:peek(1) end, function() return buf:skip(1) end,
      function() return buf:read_until "x" end, function() return buf:index_of "x" end, function() return buf:take(1) end,
      function() return buf:read_string(1) end, function() return buf:read_byte() end, function() return buf:malloc(1) end,
      function() return buf:malloc_ack(1) end, function() return buf:write "x" end, function() return buf:flush() end,
      function() return buf:write_direct("x", 0) end, function() return buf:append(LinkBuffer.new()) end,
      function() return buf:write_u16(1) end, function() return buf:write_f64(1) end, function() return buf:pack("b", 1) end,
      function() return LinkBuffer.new():write(buf) end, function() return LinkBuffer.new():append(buf) end,
      function() return buf:next(0) end, function() return buf:take(0) end,
    } do
      assert.same({ nil, "closed" }, { call() })
    end
    assert.is_true(buf:release())
  end)

  it("says too large before it allocates", function()
    local before = LinkBuffer.stats().bytes_in_use
    for _, size in ipairs { 2 ^ 30 + 1, 2 ^ 47, 2 ^ 53 - 1, 2 ^ 60 } do
      assert.same({ nil, "too large" }, { buf:malloc(size) })
    end
    assert.equal(before, LinkBuffer.stats().bytes_in_use)
  end)

  it("keeps memory of malloc until flush", function()
    local p = buf:malloc(5)
    ffi.copy(p, "hel", 3)
    buf:write "!"
    ffi.copy(p + 3, "lo", 2)
    buf:write_direct(",", 1)
    assert.equal(7, buf:malloc_len())
    assert.equal(0, buf:len())
    buf:flush()
    assert.equal("hello,!", buf:read_string(7))
    assert.is_not_nil(buf:malloc(0))
  end)

  describe("scalars", function()
    local function hex(name, ...)
      assert.is_true(buf[name](buf, ...))
      buf:flush()
      return buf:next(buf:len()):hex()
    end

    it("are written in both orders", function()
      assert.equal("ff", hex("write_u8", 255))
      assert.equal("ff", hex("write_i8", -1))
      assert.equal("80", hex("write_byte", 128))
      assert.equal("0102", hex("write_u16", 0x0102))
      assert.equal("0201", hex("write_u16", 0x0102, "le"))
      assert.equal("fffe", hex("write_i16", -2))
      assert.equal("feff", hex("write_i16", -2, "le"))
      assert.equal("010203", hex("write_u24", 0x010203))
      assert.equal("800000", hex("write_i24", -2 ^ 23))
      assert.equal("000080", hex("write_i24", -2 ^ 23, "le"))
      assert.equal("fffefdfc", hex("write_u32", 0xfffefdfc))
      assert.equal("fcfdfeff", hex("write_u32", 0xfffefdfc, "le"))
      assert.equal("80000000", hex("write_i32", -2 ^ 31, "be"))
      assert.equal("001fffffffffffff", hex("write_u53", 2 ^ 53 - 1))
      assert.equal("0020000000000000", hex("write_u64", 2 ^ 53))
      assert.equal("8000000000000000", hex("write_u64", 2 ^ 63))
      assert.equal("efcdab8967452301", hex("write_u64", 0x0123456789abcdefULL, "le"))
      assert.equal("ffffffffffffffff", hex("write_i64", -1))
      assert.equal("fffffffffffffffe", hex("write_i64", -2LL))
      assert.equal("7fffffffffffffff", hex("write_i64", 0x7fffffffffffffffULL))
      assert.equal("3fc00000", hex("write_f32", 1.5))
      assert.equal("0000c03f", hex("write_f32", 1.5, "le"))
      assert.equal("c002000000000000", hex("write_f64", -2.25))
      assert.equal("00000000000002c0", hex("write_f64", -2.25, "le"))
    end)

    it("come back from slices", function()
      for name, values in pairs {
        u8 = { 0, 255 }, i8 = { -128, 127 }, u16 = { 0, 65535 }, i16 = { -32768, 32767 }, u24 = { 0, 2 ^ 24 - 1 },
        i24 = { -2 ^ 23, 2 ^ 23 - 1 }, u32 = { 0, 2 ^ 32 - 1 }, i32 = { -2 ^ 31, 2 ^ 31 - 1 }, u53 = { 0, 2 ^ 53 - 1 },
        f32 = { 1.5, -1 / 0 }, f64 = { 0.1, -1e300 },
      } do
        for _, value in ipairs(values) do
          for _, order in ipairs { "be", "le" } do
            assert.is_true(buf["write_" .. name](buf, value, order))
            buf:flush()
            local s = buf:next(buf:len())
            assert.equal(value, s[name](s, 0, order))
          end
        end
      end
    end)

    it("that do not fit are refused", function()
      for name, values in pairs {
        write_u8 = { -1, 256, 0.5, 0 / 0, 1 / 0 }, write_byte = { -1, 256 }, write_i8 = { -129, 128 },
        write_u16 = { 65536 }, write_i16 = { 32768 }, write_u24 = { 2 ^ 24 }, write_i24 = { 2 ^ 23 }, write_u32 = { 2 ^ 32 },
        write_i32 = { 2 ^ 31, -2 ^ 31 - 1 }, write_u53 = { 2 ^ 53, -1 }, write_u64 = { -1, 2 ^ 64, 0.5, 0 / 0, -1LL },
        write_i64 = { 2 ^ 63, -2 ^ 64, 0.5, 0 / 0, 2 ^ 63 + 0ULL }, write_varint = { -1, 0.5, -1LL, 2 ^ 64, 1 / 0 },
      } do
        for _, value in ipairs(values) do
          assert.same({ nil, "invalid argument" }, { buf[name](buf, value) })
        end
      end
      assert.equal(0, buf:malloc_len())
    end)

    it("are variable integers too", function()
      for value, want in pairs {
        [0] = "00", [127] = "7f", [128] = "8001", [300] = "ac02", [2 ^ 32 - 1] = "ffffffff0f", [2 ^ 53] = "8080808080808010",
      } do
        assert.equal(want, hex("write_varint", value))
      end
      assert.equal("ffffffffffffffffff01", hex("write_varint", 0xffffffffffffffffULL))
      for _, value in ipairs { 0, 1, 127, 128, 16383, 16384, 2 ^ 28, 2 ^ 35 - 1, 2 ^ 49, 2 ^ 53 - 1 } do
        buf:write_varint(value)
        buf:flush()
        assert.equal(value, (buf:next(buf:len()):varint(0)))
      end
    end)
  end)

  it("raises for arguments of a wrong type, at the caller's line, and stays whole", function()
    fill "hello"
    for _, name in ipairs { "next", "peek", "skip", "read_string", "take", "malloc", "malloc_ack", "write_u8", "write_f64" } do
      for _, wrong in ipairs { "1", {}, true, ffi.new("int[1]") } do
        assert.truthy(raised(function() return buf[name](buf, wrong) end):find("bad argument #1 to '", 1, true))
      end
      raised(function() return buf[name](buf) end)
      raised(function() return buf[name](nil, 1) end)
    end
    for _, name in ipairs { "write", "write_direct", "append", "read_until", "index_of", "write_u64", "write_varint" } do
      for _, wrong in ipairs { {}, true, ffi.new("int[1]") } do
        assert.truthy(raised(function() return buf[name](buf, wrong) end):find("bad argument #1 to '", 1, true))
      end
      raised(function() return buf[name](buf) end)
      raised(function() return buf[name](nil, "x") end)
    end
    for _, name in ipairs { "len", "malloc_len", "release", "close", "flush", "read_byte" } do
      raised(function() return buf[name](nil) end)
    end
    raised(function() return buf:index_of("x", "0") end)
    raised(function() return buf:write_direct("x", "0") end)
    raised(function() return buf:write_u16(1, "big") end)
    assert.equal(5, buf:len())
    assert.equal(0, buf:malloc_len())
  end)

  it("is freed by the collector", function()
    collectgarbage()
    collectgarbage()
    local before = LinkBuffer.stats()
    local function make()
      for _ = 1, 100 do
        local b = LinkBuffer.new()
        b:write "hello"
        b:flush()
        b:take(3)
        b:next(1)
      end
    end
    make()
    collectgarbage()
    collectgarbage()
    local after = LinkBuffer.stats()
    assert.equal(before.buffers_in_use, after.buffers_in_use)
    assert.equal(before.blocks_in_use, after.blocks_in_use)
  end)

  it("makes no garbage in its hot calls", function()
    local line = ("x"):rep(64)
    local copy = LinkBuffer.new()
    local function use(n)
      local sum = 0
      for _ = 1, n do
        buf:write(line)
        buf:write_u32(7)
        buf:pack(">I2", 3)
        buf:flush()
        sum = sum + buf:peek(4):byte(1) + buf:index_of("x") + buf:len()
        sum = sum + buf:next(64):byte(2)
        sum = sum + buf:read_byte()
        copy:write(buf:read_until("\7"))
        copy:flush()
        copy:skip(3)
        copy:release()
        buf:skip(2)
        buf:release()
      end
      return sum
    end
    assert.is_true(garbage_of(use) < 1)
    copy:close()
  end)

  describe("loading", function()
    -- What a fresh luajit says to a chunk: its output, stderr included.
    local function run(env, chunk)
      local file = assert(io.popen(("env %s luajit -e %q 2>&1"):format(env, chunk)))
      local output = file:read("*a")
      file:close()
      return output
    end

    local here = io.popen("pwd"):read("*l")
    local tree = ("LUA_PATH='%s/lua/?.lua;%s/lua/?/init.lua;;'"):format(here, here)

    it("survives that a test runner drops the modules", function()
      local anchored = package.loaded["rille.linkbuffer"]
      for name in pairs(package.loaded) do
        if name:find("^rille%.") then package.loaded[name] = nil end
      end
      assert.is_true(rawequal(anchored, require "rille.linkbuffer"))
      assert.is_true(rawequal(Slice, require "rille.slice"))
      assert.equal("hi", require("rille.linkbuffer").new():malloc(2) and "hi")
    end)

    it("names the places when there is no library", function()
      local output = run(tree .. " RILLE_CORE=/nowhere/core.so", "require 'rille.linkbuffer'")
      assert.truthy(output:find("rille: core.so not found (looked at /nowhere/core.so): run make", 1, true), output)
    end)

    it("says what is wrong with a library that is not its own", function()
      local output = run(tree .. " RILLE_CORE=/bin/true", "require 'rille.linkbuffer'")
      assert.truthy(output:find("rille: ", 1, true) and output:find("/bin/true", 1, true), output)
    end)

    it("says that it needs LuaJIT", function()
      local output = run(tree, "package.preload.ffi = function() error('no ffi') end require 'rille.core'")
      assert.truthy(output:find("rille needs LuaJIT", 1, true), output)
    end)
  end)
end)
