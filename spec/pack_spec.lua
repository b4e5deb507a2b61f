-- pack: slice:unpack and buf:pack against what Lua 5.4's string.pack makes of the same formats and values.

local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"

describe("binary formats", function()
  local buf

  before_each(function() buf = assert(LinkBuffer.new(64)) end)
  after_each(function() buf:close() end)

  local function bytes(s)
    buf:write(s)
    buf:flush()
    return buf:next(#s)
  end

  local function packed(fmt, ...)
    assert.is_true(buf:pack(fmt, ...))
    buf:flush()
    return buf:next(buf:len())
  end

  -- format, values, bytes
  local vectors = {
    { "b", { -1 }, "ff" },
    { "B", { 255 }, "ff" },
    { "<h", { -2 }, "feff" },
    { ">H", { 65535 }, "ffff" },
    { "<i3", { -8388608 }, "000080" },
    { ">I3", { 16777215 }, "ffffff" },
    { "<i", { -5 }, "fbffffff" },
    { ">I", { 4294967295 }, "ffffffff" },
    { "<i6", { -140737488355328 }, "000000000080" },
    { ">I6", { 281474976710655 }, "ffffffffffff" },
    { "<l", { -1 }, "ffffffffffffffff" },
    { ">L", { 1 }, "0000000000000001" },
    { "<j", { -9007199254740992 }, "000000000000e0ff" },
    { ">J", { 9007199254740992 }, "0020000000000000" },
    { "<T", { 7 }, "0700000000000000" },
    { ">i16", { -2 }, "fffffffffffffffffffffffffffffffe" },
    { "<I16", { 3 }, "03000000000000000000000000000000" },
    { "<i9", { -1 }, "ffffffffffffffffff" },
    { ">I12", { 258 }, "000000000000000000000102" },
    { "<f", { 1.5 }, "0000c03f" },
    { ">f", { -0.100000001490116119384765625 }, "bdcccccd" },
    { "<d", { 3.25 }, "0000000000000a40" },
    { ">n", { -1e300 }, "fe37e43c8800759c" },
    { "z", { "abc" }, "61626300" },
    { "s1", { "hello" }, "0568656c6c6f" },
    { ">s2", { "xy" }, "00027879" },
    { "<s", { "q" }, "010000000000000071" },
    { "c5", { "ab" }, "6162000000" },
    { "c0", { "" }, "" },
    { "<!4 b i4", { 1, 2 }, "0100000002000000" },
    { "<!8 b d", { 1, 2.5 }, "01000000000000000000000000000440" },
    { "<! b Xd b", { 1, 2 }, "010000000000000002" },
    { "<!2 b i4", { 1, 2 }, "010002000000" },
    { ">!4 s1 I4", { "ab", 9 }, "0261620000000009" },
    { "bxb", { 1, 2 }, "010002" },
    { "<i2 > i2 = c1", { 1, 2, "z" }, "010000027a" },
    { "<!4 h z i4", { 1, "a", 2 }, "0100610002000000" },
    { "<b Xi4 b", { 1, 2 }, "0102" },
    { "<!4 b Xi4 b", { 1, 2 }, "0100000002" },
    { "<!16 b i16", { 1, 2 }, "0100000000000000000000000000000002000000000000000000000000000000" },
    { "", {}, "" },
    { "  ", {}, "" },
    { "xx", {}, "0000" },
  }

  for _, vector in ipairs(vectors) do
    local fmt, values, hex = unpack(vector)
    it(("packs and unpacks %q"):format(fmt), function()
      local s = packed(fmt, unpack(values))
      assert.equal(hex, s:hex())
      local got = { s:unpack(fmt) }
      assert.equal(s:len() + 1, table.remove(got))
      assert.equal(#values, #got)
      for i, value in ipairs(values) do
        if type(value) == "string" then
          assert.equal(value, (got[i]:gsub("%z+$", "")))
        else
          assert.equal(value, got[i])
        end
      end
      for n = 0, s:len() - 1 do
        local value, err = s:sub(1, n):unpack(fmt)
        assert.is_nil(value)
        assert.equal("short", err)
      end
    end)
  end

  it("reads from a position and returns the next one", function()
    local s = bytes "\1\2\3\4\5\6"
    local a, b, at = s:unpack(">I1I2", 3)
    assert.same({ 3, 0x0405, 6 }, { a, b, at })
    assert.same({ 6, 7 }, { s:unpack("B", -1) })
    assert.same({ 7 }, { s:unpack("", 7) })
    for _, pos in ipairs { 0, 8, -7, 1.5 } do
      assert.same({ nil, "invalid argument" }, { s:unpack("B", pos) })
    end
    assert.same({ nil, "short" }, { s:unpack("B", 7) })
  end)

  it("gives integers beyond 2^53 as 64-bit cdata, and takes them", function()
    local s = packed("<jJi7I7", -2 ^ 53 - 2, 2 ^ 63, ffi.new("int64_t", -2) ^ 55, ffi.new("uint64_t", 2) ^ 55)
    local a, b, c, d = s:unpack("<jJi7I7")
    assert.is_true(ffi.istype("int64_t", a) and a == ffi.new("int64_t", -2 ^ 53) - 2)
    assert.is_true(ffi.istype("uint64_t", b) and b == ffi.new("uint64_t", 2) ^ 63)
    assert.is_true(ffi.istype("int64_t", c) and c == ffi.new("int64_t", -2) ^ 55)
    assert.is_true(ffi.istype("uint64_t", d) and d == ffi.new("uint64_t", 2) ^ 55)
    assert.equal("number", type((packed("<j", ffi.new("int64_t", 7)):unpack("<j"))))
  end)

  it("takes slices for string options", function()
    local s = bytes "slice"
    assert.equal("05736c696365" .. "736c69636500" .. "736c6963650000", packed("s1zc7", s, s, s):hex())
  end)

  it("refuses values that do not fit and writes nothing then", function()
    for _, case in ipairs {
      { "B", 256 }, { "B", -1 }, { "b", 128 }, { "b", -129 }, { "h", 2 ^ 15 }, { "I3", 2 ^ 24 }, { "J", -1 }, { "J", 2 ^ 64 },
      { "j", 2 ^ 63 }, { "i7", 2 ^ 55 }, { "B", 1.5 }, { "B", 0 / 0 }, { "j", 1 / 0 }, { "I2", ffi.new("int64_t", -1) },
      { "j", ffi.new("uint64_t", 2) ^ 63 }, { "J", ffi.new("int64_t", -1) }, { "i7", ffi.new("int64_t", 2) ^ 55 },
      { "z", "a\0b" }, { "c2", "abc" }, { "s1", ("x"):rep(256) },
    } do
      local ok, err = buf:pack("I4" .. case[1], 1, case[2])
      assert.is_nil(ok, case[1])
      assert.equal("invalid argument", err)
      assert.equal(0, buf:malloc_len())
    end
  end)

  it("refuses wide integers that do not fit into 64 bits", function()
    assert.same({ nil, "invalid argument" }, { bytes("\1\0\0\0\0\0\0\0\1"):unpack("<I9") })
    assert.same({ nil, "invalid argument" }, { bytes("\1\0\0\0\0\0\0\0\255"):unpack("<i9") })
    assert.same({ nil, "short" }, { bytes("\255\255\255\255\255\255\255\255abc"):unpack("s") })
    assert.same({ nil, "short" }, { bytes("abc"):unpack("z") })
  end)

  it("raises for a bad format and for values of a wrong type, at the caller's line", function()
    local s = bytes "abcdefgh"
    for fmt, message in pairs {
      y = "invalid format option 'y'", i0 = "integral size %(0%)", i17 = "integral size %(17%) out of limits %[1,16%]",
      c = "missing size", X = "invalid next option", Xz = "invalid next option", ["Xc1"] = "invalid next option",
      ["X "] = "invalid next option", ["!8 i3"] = "not power of 2",
    } do
      local ok, err = pcall(function() return s:unpack(fmt) end)
      assert.is_false(ok)
      assert.truthy(err:find("^[^:]*pack_spec.lua:%d+: .*" .. message), err)
    end
    for _, case in ipairs { { "B", "1" }, { "B" }, { "d", true }, { "z", 5 }, { 7 } } do
      local ok, err = pcall(function() return buf:pack(unpack(case)) end)
      assert.is_false(ok)
      assert.truthy(err:find("^[^:]*pack_spec.lua:%d+: bad argument"), err)
    end
    assert.equal(0, buf:malloc_len())
  end)

  it("takes formats with more values than Lua has locals", function()
    local values = {}
    for i = 1, 250 do values[i] = i end
    local s = packed(("B"):rep(250), unpack(values))
    values[251] = 251
    assert.same(values, { s:unpack(("B"):rep(250)) })
  end)

  it("copes with formats that are made up as it goes", function()
    local s = bytes(("x"):rep(2000))
    for i = 1, 1500 do
      local text, at = s:unpack("c" .. i)
      assert.equal(i, #text)
      assert.equal(i + 1, at)
    end
  end)
end)
