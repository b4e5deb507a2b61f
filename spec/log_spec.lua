-- log: what a script's log call writes, seen through the queue.

local log = require "rille.log"

local function lines()
  local all = {}
  for line in log.take do
    all[#all + 1] = line
  end
  return all
end

local function only_line()
  local all = lines()
  assert.equal(1, #all)
  return all[1]
end

-- the text between the quotes of msg
local function only_message()
  return only_line():match(' msg="(.-)"$')
end

describe("rille.log", function()
  before_each(function()
    assert.is_true(log.configure { level = "debug", to = "queue" })
    log.set_rate(0)
    lines()
  end)

  teardown(function()
    log.set_context(nil, nil)
    log.set_rate(10)
    log.configure {}
  end)

  it("writes one line with time, level and message", function()
    log.info("hello")
    assert.matches('^time=%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ level=info msg="hello"$', only_line())
    for _, level in ipairs { "debug", "info", "warn", "error" } do
      log[level]("x")
      assert.matches("level=" .. level .. " ", only_line())
    end
  end)

  it("formats as string.format does", function()
    log.info("%d of %s, %5.1f%%", 3, "four", 75)
    assert.equal("3 of four,  75.0%", only_message())
  end)

  it("takes the text as it is when nothing follows", function()
    log.info("100%d %s %")
    assert.equal("100%d %s %", only_message())
  end)

  it("prints any value for %s and as the text", function()
    local named = setmetatable({}, { __tostring = function() return "named" end })
    log.info("%s %s %s %s", nil, true, named, 1)
    assert.equal("nil true named 1", only_message())
    log.info(named)
    assert.equal("named", only_message())
    log.info(nil)
    assert.equal("nil", only_message())
    log.info()
    assert.equal("nil", only_message())
    log.info(42)
    assert.equal("42", only_message())
  end)

  it("prints 64-bit numbers", function()
    log.info("%s", 2LL ^ 40)
    assert.equal("1099511627776LL", only_message())
  end)

  it("never raises, whatever the arguments", function()
    log.info("%d items", "x")
    assert.matches("^%%d items %(not formatted: ", only_message())
    log.info("%s and %s", 1)
    assert.matches("^%%s and %%s %(not formatted: ", only_message())
    log.info("%y", 1)
    assert.matches("^%%y %(not formatted: ", only_message())
    log.info({}, 1)
    assert.matches("^table: 0x%x+ %(not formatted: ", only_message())
    local broken = setmetatable({}, { __tostring = function() error("broken") end })
    log.info(broken)
    assert.matches("^table %(.*broken%)$", only_message())
    log.info("%s", broken)
    assert.matches("^%%s %(not formatted: .*broken", only_message())
    log.info(setmetatable({}, { __tostring = function() return 5 end }))
    assert.equal("table", only_message())
    log.info("%s", setmetatable({}, { __tostring = function() error(broken) end }))
    assert.matches("^%%s %(not formatted: table %(.*broken%)%)$", only_message())
  end)

  it("keeps a traceback on one line", function()
    log.error("%s", debug.traceback("oops"))
    local line = only_line()
    assert.matches("oops\\nstack traceback:\\n\\t", line)
    assert.is_nil(line:find("[\n\t]"))
  end)

  it("escapes quotes, control characters and bytes that are no UTF-8", function()
    log.info('say "x" \\ \0 \27[1m \255 ü')
    assert.equal('say \\"x\\" \\\\ \\x00 \\x1b[1m \\xff ü', only_line():match(' msg="(.*)"$'))
  end)

  it("cuts a long message and marks it", function()
    log.info(("x"):rep(100000))
    local line = only_line()
    assert.is_true(#line < 8192)
    assert.matches('xxx…"$', line)
  end)

  it("carries the context of the state", function()
    log.set_context("echo@3", 2)
    collectgarbage()
    log.info("x")
    assert.matches('msg="x" loop=2 script=echo@3$', only_line())
    log.set_context(nil, nil)
    log.info("x")
    assert.matches('msg="x"$', only_line())
  end)

  it("writes JSON", function()
    assert.is_true(log.configure { level = "debug", format = "json", to = "queue" })
    log.set_context("echo@3", 2)
    log.warn('a "b"\n\1\255')
    log.set_context(nil, nil)
    local line = only_line()
    assert.matches('^{"time":"[%d%-]+T[%d:%.]+Z","level":"warn",', line)
    assert.equal('"msg":"a \\"b\\"\\n\\u0001\\\\xff","loop":2,"script":"echo@3"}', line:match('"msg".*$'))
  end)

  it("formats nothing at a level that is off", function()
    log.set_level("warn")
    assert.equal("warn", log.level())
    local asked = 0
    local value = setmetatable({}, { __tostring = function() asked = asked + 1 return "x" end })
    log.debug("%s", value)
    log.info(value)
    assert.equal(0, asked)
    assert.same({}, lines())
    assert.is_false(log.is_enabled("info"))
    assert.is_true(log.is_enabled("error"))
    log.warn("%s", value)
    assert.equal(1, asked)
    log.set_level("off")
    log.error("x")
    assert.equal(1, #lines())
  end)

  it("limits each calling line, not the whole script", function()
    log.set_rate(2)
    local before = log.counts()
    for _ = 1, 50 do
      log.info("one")
      log.info("two")
    end
    local after = log.counts()
    local count = { one = 0, two = 0 }
    for _, line in ipairs(lines()) do
      local name = line:match('msg="(%a+)"')
      count[name] = count[name] + 1
    end
    -- two a second; the loop may see a second end
    assert.is_true(count.one >= 2 and count.one <= 4)
    assert.is_true(count.two >= 2 and count.two <= 4)
    assert.equal(100 - count.one - count.two, after.suppressed - before.suppressed)
    assert.equal(count.one + count.two, after.info - before.info)
  end)

  it("logs in the name of a line further up, or of a place with a name", function()
    log.set_rate(1)
    local function print_to_log(text) log.record("info", 1, nil, "%s", text) end
    for _ = 1, 20 do
      print_to_log("one")
      print_to_log("two")
      log.record("error", "on_request of x", 12, "three")
      log.record("error", "on_request of y", 13, "four")
    end
    local first = {}
    for _, line in ipairs(lines()) do
      local name = line:match('msg="(%a+)"')
      first[name] = first[name] or line
    end
    assert.matches('msg="one"$', first.one)
    assert.matches('msg="two"$', first.two)
    assert.matches('msg="three" conn=12$', first.three)
    assert.matches('msg="four" conn=13$', first.four)
    log.set_rate(0)
    log.info("x")
    assert.matches('msg="x"$', only_line())
  end)

  it("works from a coroutine that calls it last", function()
    local co = coroutine.create(function(...) return log.info(...) end)
    assert.is_true(coroutine.resume(co, "from %s", "below"))
    assert.equal("from below", only_message())
  end)

  it("does not keep the sources of chunks for ever", function()
    collectgarbage()
    local before = collectgarbage("count")
    for i = 1, 20000 do
      loadstring("local log = ... log.info('x')", "=chunk" .. i .. ("y"):rep(500))(log)
      if i % 100 == 0 then lines() end
    end
    collectgarbage()
    collectgarbage()
    assert.is_true(collectgarbage("count") - before < 8 * 1024)
  end)

  it("writes to a file and opens it again after a rotation", function()
    local path = os.tmpname()
    finally(function()
      os.remove(path)
      os.remove(path .. ".1")
    end)
    local function read(name)
      local file = assert(io.open(name))
      local text = file:read("*a")
      file:close()
      return text
    end
    assert.is_true(log.configure { file = path })
    log.debug("too low")
    log.info("first")
    assert(os.rename(path, path .. ".1"))
    log.info("second")
    assert.is_true(log.reopen())
    log.info("third")
    assert.matches('msg="first"\n[^\n]*msg="second"\n$', read(path .. ".1"))
    assert.matches('^[^\n]*msg="third"\n$', read(path))
  end)

  it("says why a file cannot be opened and goes on", function()
    local ok, err = log.configure { file = "/no/such/place/log" }
    assert.is_nil(ok)
    assert.equal("not found", err)
    log.debug("still")
    assert.equal("still", only_message())
  end)

  it("raises at the caller on a wrong option", function()
    local _, err = pcall(function() log.set_level("loud") end)
    local line = debug.getinfo(1, "l").currentline - 1
    assert.equal(line .. ': log level is loud; expected "debug", "info", "warn", "error" or "off"',
      err:match(":(%d+: .*)"))
  end)

  it("refuses unknown options", function()
    assert.error_matches(function() log.configure { level = "loud" } end, "log level is loud")
    assert.error_matches(function() log.configure { format = "xml" } end, "log format is xml")
    assert.error_matches(function() log.configure { to = "nowhere" } end, "log to is nowhere")
    assert.error_matches(function() log.configure { file = 5 } end, "log file is 5")
    assert.error_matches(function() log.configure { file = "a\0b" } end, "expected a path")
  end)
end)
