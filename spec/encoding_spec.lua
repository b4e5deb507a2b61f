-- rille.checksum and rille.encoding, over strings and slices.

local LinkBuffer = require "rille.linkbuffer"
local checksum = require "rille.checksum"
local encoding = require "rille.encoding"

-- Call fn with the bytes as a string, then as a slice; both results have to be the same.
local function both(bytes, fn)
  local buffer = LinkBuffer.new()
  buffer:write(bytes)
  buffer:flush()
  local expected, got = fn(bytes), fn(buffer:next(#bytes))
  buffer:close()
  assert.equal(expected, got)
  return expected
end

-- A bit at a time.
local function slow_crc(bytes, width, polynomial, start, is_reflected, final)
  local bit = require "bit"
  local crc = start
  for i = 1, #bytes do
    if is_reflected then
      crc = bit.bxor(crc, bytes:byte(i))
      for _ = 1, 8 do
        local low = bit.band(crc, 1)
        crc = bit.rshift(crc, 1)
        if low == 1 then crc = bit.bxor(crc, polynomial) end
      end
    else
      crc = bit.bxor(crc, bit.lshift(bytes:byte(i), width - 8))
      for _ = 1, 8 do
        local high = bit.band(bit.rshift(crc, width - 1), 1)
        crc = bit.lshift(crc, 1)
        if high == 1 then crc = bit.bxor(crc, polynomial) end
        if width < 32 then crc = bit.band(crc, 2 ^ width - 1) end
      end
    end
  end
  return bit.bxor(crc, final) % 2 ^ 32
end

local kinds = {
  ccitt = { 0x29b1, 0x1021, 0xffff, false, 0 }, xmodem = { 0x31c3, 0x1021, 0, false, 0 }, kermit = { 0x2189, 0x8408, 0, true, 0 },
  x25 = { 0x906e, 0x8408, 0xffff, true, 0xffff }, modbus = { 0x4b37, 0xa001, 0xffff, true, 0 }, arc = { 0xbb3d, 0xa001, 0, true, 0 },
  usb = { 0xb4c8, 0xa001, 0xffff, true, 0xffff },
}

local function noise(size)
  local bytes = {}
  for i = 1, size do bytes[i] = string.char(math.random(0, 255)) end
  return table.concat(bytes)
end

describe("checksums", function()
  it("have the values of their check strings", function()
    for kind, known in pairs(kinds) do
      assert.equal(known[1], both("123456789", function(x) return checksum.crc16(x, kind) end), kind)
    end
    assert.equal(0xcbf43926, both("123456789", checksum.crc32))
    assert.equal(0xe3069283, both("123456789", checksum.crc32c))
    assert.equal(0x091e01de, both("123456789", checksum.adler32))
    assert.equal(0, checksum.crc32 "")
    assert.equal(1, checksum.adler32 "")
  end)

  it("are those of a bit at a time, and go on where they stopped", function()
    for size = 0, 40 do
      local bytes, cut = noise(size), math.random(0, size)
      local first, second = bytes:sub(1, cut), bytes:sub(cut + 1)
      for kind, k in pairs(kinds) do
        local expected = slow_crc(bytes, 16, k[2], k[3], k[4], k[5])
        assert.equal(expected, checksum.crc16(bytes, kind), kind)
        assert.equal(expected, checksum.crc16(second, kind, checksum.crc16(first, kind)), kind)
      end
      for name, polynomial in pairs { crc32 = 0xedb88320, crc32c = 0x82f63b78 } do
        local expected = slow_crc(bytes, 32, polynomial, -1, true, -1)
        assert.equal(expected, checksum[name](bytes), name)
        assert.equal(expected, checksum[name](second, checksum[name](first)), name)
      end
      assert.equal(checksum.adler32(bytes), checksum.adler32(second, checksum.adler32(first)))
    end
    local long = ("\255"):rep(100000)
    assert.equal(checksum.adler32(long), checksum.adler32(long:sub(5), checksum.adler32(long:sub(1, 4))))
  end)

  it("raise for what they do not know", function()
    assert.has_error(function() checksum.crc16("x", "crc") end)
    assert.has_error(function() checksum.crc32(1) end)
    assert.has_error(function() checksum.crc32("x", -1) end)
  end)
end)

describe("encodings", function()
  it("of RFC 4648", function()
    for plain, text in pairs {
      [""] = "", f = "Zg==", fo = "Zm8=", foo = "Zm9v", foob = "Zm9vYg==", fooba = "Zm9vYmE=", foobar = "Zm9vYmFy",
    } do
      assert.equal(text, both(plain, encoding.base64_encode))
      assert.equal(plain, both(text, encoding.base64_decode))
      assert.equal((text:gsub("=", "")), encoding.base64_encode(plain, "url"))
      assert.equal(plain, encoding.base64_decode(text, "url"))
      assert.equal(plain, encoding.base64_decode(text:gsub("=", ""), "url"))
    end
    assert.equal("-_-_", encoding.base64_encode(encoding.base64_decode "+/+/", "url"))
    assert.equal("00ff7f", both("\0\255\127", encoding.hex_encode))
    assert.equal("\0\255\127", both("00fF7f", encoding.hex_decode))
  end)

  it("come back as they were", function()
    for size = 0, 70 do
      local bytes = noise(size)
      assert.equal(bytes, encoding.base64_decode(encoding.base64_encode(bytes)))
      assert.equal(bytes, encoding.base64_decode(encoding.base64_encode(bytes, "url"), "url"))
      assert.equal(bytes, encoding.hex_decode(encoding.hex_encode(bytes)))
    end
  end)

  it("are strict", function()
    for _, text in ipairs { "Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm8=Zm8=", "Zg==\n", "Zm9v ", "-_-_", "=", "====", "Zm9v=" } do
      assert.same({ nil, "invalid argument" }, { encoding.base64_decode(text) }, text)
    end
    for _, text in ipairs { "+/+/", "Z", "Zh" } do assert.is_nil((encoding.base64_decode(text, "url")), text) end
    for _, text in ipairs { "0", "0g", "0x", " 0" } do assert.is_nil((encoding.hex_decode(text)), text) end
  end)

  it("mask bytes with a key of four, from any offset", function()
    local key = "\1\2\4\128"
    for size = 0, 40 do
      local bytes = noise(size)
      for offset = 0, 5 do
        local masked = both(bytes, function(x) return encoding.mask(x, key, offset) end)
        for i = 1, size do
          local k = key:byte((offset + i - 1) % 4 + 1)
          assert.equal(require("bit").bxor(bytes:byte(i), k), masked:byte(i))
        end
      end
      local cut = math.floor(size / 2)
      assert.equal(encoding.mask(bytes, key), encoding.mask(bytes:sub(1, cut), key) .. encoding.mask(bytes:sub(cut + 1), key, cut))
    end
    local buffer = LinkBuffer.new()
    buffer:write("hello world")
    buffer:flush()
    local slice = buffer:next(11)
    assert.equal(encoding.mask("hello world", key), encoding.mask_in_place(slice, key):str())
    assert.equal("hello world", encoding.mask_in_place(slice, key):str())
    buffer:close()
    assert.has_error(function() encoding.mask("x", "abc") end)
    assert.has_error(function() encoding.mask("x", "abcd", -1) end)
    assert.has_error(function() encoding.mask_in_place("x", "abcd") end)
  end)
end)
