-- slice: views of bytes, compared with what Lua's strings do.

local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"

local garbage_of = require "spec.support.garbage"

describe("slice", function()
  local buf

  before_each(function() buf = assert(LinkBuffer.new()) end)
  after_each(function() buf:close() end)

  local function slice(text)
    buf:write(text)
    buf:flush()
    return buf:next(#text)
  end

  -- The error of fn, which must stand at a line of this file.
  local function raised(fn, ...)
    local ok, err = pcall(fn, ...)
    assert.is_false(ok, "should have raised")
    assert.truthy(tostring(err):find("^[^:]*slice_spec.lua:%d+: "), err)
    return err
  end

  describe("as a string", function()
    it("has length and bytes", function()
      local s = slice "hello"
      assert.equal(5, s:len())
      assert.equal(5, #s)
      assert.equal("hello", s:str())
      assert.equal("hello", tostring(s))
      assert.is_true(Slice.is(s))
      for _, other in pairs { "hello", 5, {}, buf, ffi.new("int[1]"), false } do assert.is_false(Slice.is(other)) end
      assert.is_false(Slice.is(nil))
      local p, n = s:ptr()
      assert.equal("hello", ffi.string(p, n))
    end)

    it("gives bytes as string.byte does", function()
      local text = "a\0\255z"
      local s = slice(text)
      for i = -6, 6 do
        assert.equal((text:byte(i)), (s:byte(i)))
        for j = -6, 6 do assert.same({ text:byte(i, j) }, { s:byte(i, j) }) end
      end
      assert.equal(97, s:byte())
    end)

    it("cuts as string.sub does", function()
      for _, text in ipairs { "", "a", "hello" } do
        local s = slice(text)
        for i = -8, 8 do
          assert.equal(text:sub(i), s:sub(i):str())
          for j = -8, 8 do assert.equal(text:sub(i, j), s:sub(i, j):str()) end
        end
      end
      assert.equal("ell", slice("hello"):sub(2.9, 4.2):str())
    end)

    it("finds text as a plain string.find does", function()
      local text = "abababb.a"
      local s = slice(text)
      for _, part in ipairs { "a", "ab", "abb", ".", ".a", "x", "abababb.a", "abababb.ab" } do
        for init = -11, 11 do
          assert.same({ text:find(part, init, true) }, { s:find(part, init) })
          assert.same({ text:find(part, init, true) }, { s:find(slice(part), init) })
        end
      end
      for init = -11, 10 do assert.same({ text:find("", init, true) }, { s:find("", init) }) end
      assert.is_nil(s:find("", 11))
    end)

    it("compares with strings and slices, in both orders", function()
      local words = { "", "a", "a\0", "ab", "abc", "b", "\255" }
      for _, a in ipairs(words) do
        for _, b in ipairs(words) do
          local x, y = slice(a), slice(b)
          for _, pair in ipairs { { x, y }, { x, b }, { a, y } } do
            assert.equal(a == b, pair[1] == pair[2])
            assert.equal(a ~= b, pair[1] ~= pair[2])
            assert.equal(a < b, pair[1] < pair[2])
            assert.equal(a <= b, pair[1] <= pair[2])
          end
        end
      end
    end)

    it("equals nothing that is no string", function()
      local s = slice "5"
      for _, other in ipairs { 5, true, {}, buf, ffi.new("int", 5) } do
        assert.is_false(s == other)
        assert.is_false(other == s)
        assert.is_true(s ~= other)
      end
      assert.is_false(s == nil)
      assert.is_false(nil == s)
      assert.is_true(s ~= nil)
      raised(function() return s < 5 end)
      raised(function() return nil < s end)
    end)

    it("concatenates with strings, numbers and slices", function()
      local s = slice "b"
      assert.equal("ab", "a" .. s)
      assert.equal("bc", s .. "c")
      assert.equal("bb", s .. s)
      assert.equal("b1", s .. 1)
      assert.equal("1b", 1 .. s)
      raised(function() return s .. {} end)
      raised(function() return nil .. s end)
    end)

    it("turns into numbers as tonumber does", function()
      for _, text in ipairs {
        "0", "7", "-7", "007", "123456789012345", "-123456789012345", "1234567890123456", "99999999999999999999",
        "1.5", "-1e3", "0x10", " 12 ", "12 ", "", "-", "+1", "+", "--1", "1-", "a", "1a", "ff", "nan", "1\0", "\n",
      } do
        local s = slice(text)
        local want, got = tonumber(text), s:tonumber()
        assert.is_true(want == got or want ~= want and got ~= got, text)
        for _, base in ipairs { 16, 36, 2 } do assert.equal(tonumber(text, base), s:tonumber(base)) end
      end
    end)

    it("shows itself in hex", function()
      assert.equal("00ff61", slice("\0\255a"):hex())
      assert.equal("00ff", slice("\0\255a"):hex(2))
      assert.equal("", slice("abc"):hex(0))
      assert.equal("616263", slice("abc"):hex(100))
    end)
  end)

  describe("scalars", function()
    it("reads them from any offset in both orders", function()
      local s = slice "\255\1\2\3\4\5\6\7\128"
      assert.equal(255, s:u8())
      assert.equal(-1, s:i8(0))
      assert.equal(0x0102, s:u16(1))
      assert.equal(0x0201, s:u16(1, "le"))
      assert.equal(-0xFF, s:i16(0))
      assert.equal(0x01FF, s:i16(0, "le"))
      assert.equal(0xFF0102, s:u24(0))
      assert.equal(0x0201FF, s:u24(0, "le"))
      assert.equal(0xFF0102 - 2 ^ 24, s:i24(0))
      assert.equal(-0x800000 + 0x0706, s:i24(6, "le"))
      assert.equal(0xFF010203, s:u32(0))
      assert.equal(0x80070605, s:u32(5, "le"))
      assert.equal(0xFF010203 - 2 ^ 32, s:i32(0))
      assert.equal(0x05060780, s:i32(5, "be"))
      assert.is_true(s:u64(1) == 0x0102030405060780ULL)
      assert.is_true(s:u64(1, "le") == 0x8007060504030201ULL)
      assert.is_true(s:i64(1, "le") == 0x8007060504030201LL)
      assert.is_true(ffi.istype("uint64_t", s:u64(0)))
      assert.is_true(ffi.istype("int64_t", s:i64(0)))
    end)

    it("reads floats", function()
      assert.equal(1.5, slice("\63\192\0\0"):f32(0))
      assert.equal(1.5, slice("x\0\0\192\63"):f32(1, "le"))
      assert.equal(-2.25, slice("\192\2\0\0\0\0\0\0"):f64(0))
      assert.equal(-2.25, slice("\0\0\0\0\0\0\2\192"):f64(0, "le"))
    end)

    it("reads 53 bits into a number", function()
      assert.equal(2 ^ 53 - 1, slice("\0\31\255\255\255\255\255\255"):u53(0))
      assert.same({ nil, "too large" }, { slice("\0\32\0\0\0\0\0\0"):u53(0) })
      assert.equal(1, slice("\1\0\0\0\0\0\0\0"):u53(0, "le"))
    end)

    it("says when an offset is beyond the end or wrong", function()
      local s = slice "\0\0\0\0\0\0\0\0"
      for name, size in pairs {
        u8 = 1, i8 = 1, u16 = 2, i16 = 2, u24 = 3, i24 = 3, u32 = 4, i32 = 4, u53 = 8, u64 = 8, i64 = 8, f32 = 4, f64 = 8,
      } do
        assert.is_not_nil((s[name](s, 8 - size)))
        assert.same({ nil, "short" }, { s[name](s, 9 - size) })
        assert.same({ nil, "short" }, { s[name](s, 2 ^ 53) })
        assert.same({ nil, "invalid argument" }, { s[name](s, -1) })
        assert.same({ nil, "invalid argument" }, { s[name](s, 0.5) })
        raised(function() return s[name](s, "0") end)
      end
      assert.truthy(raised(function() return s:u16(0, "big") end):find("le", 1, true))
    end)

    it("reads varints", function()
      for hex, value in pairs {
        ["00"] = 0, ["01"] = 1, ["7f"] = 127, ["8001"] = 128, ["ac02"] = 300, ["8080808008"] = 2 ^ 31,
        ["ffffffffffffff0f"] = 2 ^ 53 - 1, ["8000"] = 0, ["ffffffff0f"] = 2 ^ 32 - 1, ["ffffffffffff7f"] = 2 ^ 49 - 1,
      } do
        local text = hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)
        local got, at = slice("?" .. text .. "!"):varint(1)
        assert.equal(value, got)
        assert.equal("number", type(got))
        assert.equal(1 + #text, at)
        for n = 0, #text - 1 do assert.same({ nil, "short" }, { slice(text:sub(1, n)):varint(0) }) end
      end
      local value, at = slice("\128\128\128\128\128\128\128\16"):varint()
      assert.is_true(ffi.istype("uint64_t", value) and value == 0x20000000000000ULL)
      assert.equal(8, at)
      value, at = slice("\255\255\255\255\255\255\255\255\255\1"):varint()
      assert.is_true(value == 0xffffffffffffffffULL)
      assert.equal(10, at)
      assert.same({ nil, "invalid argument" }, { slice("\255\255\255\255\255\255\255\255\255\2"):varint() })
      assert.same({ nil, "invalid argument" }, { slice("\255\255\255\255\255\255\255\255\255\255\1"):varint() })
      assert.same({ nil, "invalid argument" }, { slice("\1"):varint(-1) })
    end)
  end)

  describe("life", function()
    it("ends with release and with close", function()
      for _, stop in ipairs { "release", "close" } do
        local b = LinkBuffer.new()
        b:write "hello"
        b:flush()
        local s = b:next(5)
        local cut = s:sub(2, 3)
        assert.is_true(s:is_valid())
        b[stop](b)
        assert.is_false(s:is_valid())
        assert.is_false(cut:is_valid())
        for _, use in ipairs {
          function() return s:len() end, function() return #s end, function() return s:str() end,
          function() return tostring(s) end, function() return s:byte(1) end, function() return s:sub(1, 1) end,
          function() return s:find("e") end, function() return slice("x"):find(s) end, function() return s:tonumber() end,
          function() return s:hex() end, function() return s:ptr() end, function() return s:u8(0) end,
          function() return s:u16(0) end, function() return s:f64(0) end, function() return s:varint(0) end,
          function() return s:unpack("B") end, function() return s == "hello" end, function() return "hello" == s end,
          function() return s < "x" end, function() return s .. "x" end, function() return s:retain() end,
          function() return buf:write(s) end, function() return buf:write_direct(s, 0) end,
          function() return buf:pack("z", s) end, function() return cut:len() end,
        } do
          assert.truthy(raised(use):find("slice expired", 1, true))
        end
        assert.is_false(s == nil)
        assert.is_true(s:release())
        b:close()
      end
      assert.equal(0, buf:malloc_len())
    end)

    it("goes on while retained, with what was cut from it", function()
      local before = LinkBuffer.stats()
      local s = slice("hello"):retain()
      local cut = s:sub(2, 3)
      buf:close()
      assert.equal("hello", s:str())
      assert.equal("el", cut:str())
      assert.is_true(cut:release()) -- borrowed: nothing to release
      assert.equal("hello", s:str())
      assert.equal(before.slices_retained + 1, LinkBuffer.stats().slices_retained)
      assert.is_true(rawequal(s, s:retain()))
      s:release()
      assert.is_true(s:is_valid())
      s:release()
      assert.is_false(s:is_valid())
      assert.is_false(cut:is_valid())
      s:release()
      local after = LinkBuffer.stats()
      assert.equal(before.slices_retained, after.slices_retained)
      assert.equal(before.blocks_in_use, after.blocks_in_use)
      assert.equal(before.slices_leaked, after.slices_leaked)
    end)

    it("of a retained cut does not depend on its owner", function()
      local s = slice("hello"):retain()
      local cut = s:sub(2, 3):retain()
      s:release()
      assert.is_false(s:is_valid())
      assert.equal("el", cut:str())
      cut:release()
    end)

    it("goes on as well without any bytes", function()
      local before = LinkBuffer.stats()
      local empty, kept = Slice.empty(), {}
      for i = 1, 100 do
        kept[i] = Slice.empty():retain()
        assert.is_true(kept[i]:is_valid())
        assert.equal(before.slices_retained + i, LinkBuffer.stats().slices_retained)
      end
      for i = 1, 100 do
        kept[i]:release()
        assert.is_false(kept[i]:is_valid())
      end
      assert.is_true(empty:release())
      assert.equal("", empty:str())
      local after = LinkBuffer.stats()
      assert.equal(before.slices_retained, after.slices_retained)
      assert.equal(before.slices_leaked, after.slices_leaked)
    end)

    it("ends with the collector when nobody released it, and counts as leaked", function()
      local before = LinkBuffer.stats()
      local function forget() assert.is_true(slice("hello"):retain():is_valid()) end
      forget()
      buf:close()
      collectgarbage()
      collectgarbage()
      local after = LinkBuffer.stats()
      assert.equal(before.blocks_in_use, after.blocks_in_use)
      assert.equal(before.slices_retained, after.slices_retained)
      assert.equal(before.slices_leaked + 1, after.slices_leaked)
    end)

    it("tells where retained slices were made", function()
      local leaks = require "rille.leaks"
      finally(function() leaks.level("off") end)
      collectgarbage()
      collectgarbage()
      leaks.level("all")
      local function of_slices()
        local list = {}
        for _, one in ipairs(leaks.report()) do
          if one.kind:find("slice", 1, true) then list[#list + 1] = one end
        end
        return list
      end
      assert.same({}, of_slices())
      local s = slice("hello"):retain()
      local found = of_slices()
      assert.equal(1, #found)
      assert.same({ "slice", 1 }, { found[1].kind, found[1].count })
      assert.truthy(found[1].place:find("slice_spec.lua:", 1, true))
      assert.truthy(found[1].traceback:find("slice_spec.lua:", 1, true))
      s:release()
      assert.same({}, of_slices())
      local function lose() assert.is_true(slice("lost"):retain():is_valid()) end
      lose()
      collectgarbage()
      collectgarbage()
      found = of_slices()
      assert.equal(1, #found)
      assert.same({ "freed slice", 1 }, { found[1].kind, found[1].count })
      assert.truthy(found[1].place:find("slice_spec.lua:", 1, true))
    end)

    it("passes to another owner by a copy in C", function()
      local C = require "rille.core"
      local box = ffi.new("rille_slice[1]")
      local s = slice "hello"
      assert.equal(0, C.rille_slice_copy(s, box))
      local own = Slice.adopt(box)
      buf:close()
      assert.is_false(s:is_valid())
      assert.equal("hello", own:str())
      own:release()
      assert.is_false(own:is_valid())
    end)

    it("of the whole range of a slice is that very slice", function()
      local s = slice "hello"
      assert.is_true(rawequal(s, s:sub(1)))
      assert.is_true(rawequal(s, s:sub(-5, 5)))
    end)
  end)

  it("raises for arguments of a wrong type, at the caller's line", function()
    local s = slice "hello"
    for _, use in ipairs {
      function() return s:byte("1") end, function() return s:sub("1") end, function() return s:sub(1, "2") end,
      function() return s:sub() end, function() return s:find(5) end, function() return s:find() end,
      function() return s:find("l", "1") end, function() return s:hex("x") end, function() return s:unpack("B", "1") end,
      function() return s:unpack() end, function() return s:varint("0") end, function() return s:u8({}) end,
    } do
      assert.truthy(raised(use):find("bad argument", 1, true))
    end
  end)

  it("makes no garbage when it does not escape", function()
    local s = slice(("GET / HTTP/1.1\r\n"):rep(64))
    local function use(n)
      local sum = 0
      for i = 1, n do
        local cut = s:sub(i % 900 + 1, i % 900 + 20)
        local a, b = cut:unpack(">I2B")
        sum = sum + cut:byte(3) + cut:u32(4) + cut:u16(2, "le") + #cut + a + b
        sum = sum + cut:find("T") -- last: the JIT compiler has to build what is looked at again after a call to C
        if s:sub(i % 900 + 1, i % 900 + 9) == "no string" then sum = sum + 1 end
      end
      return sum
    end
    assert.is_true(garbage_of(use) < 1)
  end)
end)
