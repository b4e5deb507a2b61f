-- Values of RESP as Lua values and back.

local LinkBuffer = require "rille.linkbuffer"
local codec = require "rille.codec"

local resp = codec.resp

-- What the codec reads, and what it leaves.
local function read(bytes, options)
  options = options or {}
  if options.strings == nil then options.strings = true end
  local list, err, left = codec.test.frames(resp(options), { bytes })
  return list[1], err, left
end

local function written(x, version)
  local out = LinkBuffer.new()
  local ok, err = resp { version = version }.encode(out, x)
  out:flush()
  local bytes = out:len() > 0 and out:next(out:len()):str() or ""
  out:close()
  if not ok then return nil, err end
  return bytes
end

describe("RESP", function()
  it("is read as Lua values", function()
    assert.equal("OK", read "+OK\r\n")
    assert.equal(12, read ":12\r\n")
    assert.equal(-12, read ":-12\r\n")
    assert.equal(7, read ":+7\r\n")
    assert.equal(2 ^ 53 - 1, read ":9007199254740991\r\n")
    assert.equal("9223372036854775807LL", tostring(read ":9223372036854775807\r\n"))
    assert.equal("-9223372036854775808LL", tostring(read ":-9223372036854775808\r\n"))
    assert.equal("abc", read "$3\r\nabc\r\n")
    assert.equal("", read "$0\r\n\r\n")
    assert.equal(1.5, read ",1.5\r\n")
    assert.equal(-math.huge, read ",-inf\r\n")
    assert.is_true(read "#t\r\n")
    assert.is_false(read "#f\r\n")
    for _, text in ipairs { "_\r\n", "$-1\r\n", "*-1\r\n" } do assert.equal(resp.null, (read(text))) end
    assert.same({ "a", 1, { "b" } }, read "*3\r\n$1\r\na\r\n:1\r\n*1\r\n+b\r\n")
    assert.same({ a = 1, b = resp.null }, read "%2\r\n$1\r\na\r\n:1\r\n+b\r\n_\r\n")
    assert.equal("ERR no", tostring(read "-ERR no\r\n"))
    assert.equal("ERR no", read "!6\r\nERR no\r\n".err)
    assert.same({ format = "txt", text = "ab" }, read "=6\r\ntxt:ab\r\n")
    assert.equal("123", read "(123\r\n".digits)
  end)

  it("says what a table is", function()
    for text, kind in pairs {
      ["*0\r\n"] = "list", ["%0\r\n"] = "map", ["~0\r\n"] = "set", [">0\r\n"] = "push", ["-E\r\n"] = "error", ["_\r\n"] = "null",
      ["=4\r\ntxt:\r\n"] = "verbatim", ["(1\r\n"] = "big", ["+x\r\n"] = "string", [":1\r\n"] = "number",
    } do
      assert.equal(kind, resp.type(read(text)), text)
    end
  end)

  it("has slices of bulk strings unless strings are wanted", function()
    local buffer = LinkBuffer.new()
    buffer:write("%1\r\n$1\r\nk\r\n*1\r\n$3\r\nabc\r\n")
    buffer:flush()
    local map = resp().decode(buffer)
    assert.equal("slice", resp.type(map.k[1]))
    assert.equal("abc", map.k[1]:str())
    buffer:close()
  end)

  it("drops attributes unless they are wanted", function()
    local bytes = "|1\r\n+ttl\r\n:5\r\n*2\r\n|1\r\n+x\r\n_\r\n:1\r\n:2\r\n"
    assert.same({ 1, 2 }, read(bytes))
    local value = read(bytes, { attributes = true })
    assert.equal("attributed", resp.type(value))
    assert.same({ ttl = 5 }, value.attributes)
    assert.same({ x = resp.null }, value.value[1].attributes)
  end)

  it("refuses values that Lua has no room for", function()
    for _, text in ipairs { ":9223372036854775808\r\n", "%1\r\n,nan\r\n:1\r\n", "*1\r\n:9999999999999999999\r\n" } do
      local value, err = read(text)
      assert.same({ nil, "invalid argument" }, { value, err }, text)
    end
  end)

  it("is written as version 2 or 3", function()
    local cases = {
      { "abc", "$3\r\nabc\r\n" }, { 5, ":5\r\n" }, { -0.5, "$4\r\n-0.5\r\n", ",-0.5\r\n" }, { true, ":1\r\n", "#t\r\n" },
      { false, ":0\r\n", "#f\r\n" }, { resp.null, "$-1\r\n", "_\r\n" }, { nil, "$-1\r\n", "_\r\n" },
      { { "a", { 1 } }, "*2\r\n$1\r\na\r\n*1\r\n:1\r\n" }, { resp.status "OK", "+OK\r\n" }, { resp.error "ERR x", "-ERR x\r\n" },
      { resp.map { a = 1 }, "*2\r\n$1\r\na\r\n:1\r\n", "%1\r\n$1\r\na\r\n:1\r\n" },
      { resp.set { 1 }, "*1\r\n:1\r\n", "~1\r\n:1\r\n" },
      { resp.push { 1 }, "*1\r\n:1\r\n", ">1\r\n:1\r\n" }, { resp.big "12", "$2\r\n12\r\n", "(12\r\n" },
      { resp.verbatim "hi", "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n" },
      { 2 ^ 60, "$21\r\n1.152921504606847e+18\r\n", ",1.152921504606847e+18\r\n" },
      { 9223372036854775807LL, ":9223372036854775807\r\n" }, -- luacheck: ignore
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], (written(case[1], 2)))
      assert.equal(case[3] or case[2], (written(case[1], 3)))
    end
  end)

  it("writes back what it has read", function()
    for _, bytes in ipairs {
      "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "~2\r\n:1\r\n#t\r\n", ">1\r\n%1\r\n$1\r\na\r\n_\r\n", "|1\r\n$1\r\na\r\n:1\r\n:2\r\n", "-ERR x\r\n",
      ",1.5\r\n", "(123\r\n", "=6\r\nmkd:ab\r\n",
    } do
      local value = read(bytes, { attributes = true })
      assert.equal(bytes, (written(value, 3)))
    end
  end)

  it("does not write what would be read otherwise", function()
    for _, value in ipairs { resp.status "a\r\nb", resp.error "a\nb", resp.big "12a" } do
      assert.same({ nil, "invalid argument" }, { written(value, 3) })
    end
    assert.same({ nil, "too large" }, { written(("x"):rep(65536)) })
    assert.has_error(function() written(print) end)
    local deep = {}
    deep[1] = deep
    assert.has_error(function() written(deep) end)
  end)
end)
