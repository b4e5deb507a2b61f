-- Lists as values of a rille.dict.

local rille = require "rille"
local net = require "spec.support.net"

local count = 0

-- A dict that no other spec has.
local function fresh(size)
  count = count + 1
  return rille.dict("spec of lists " .. count, { size = size or "1m" })
end

describe("lists of a dict", function()
  it("take and give at both ends", function()
    local d = fresh()
    assert.equal(1, d:rpush("list", "b"))
    assert.equal(2, d:rpush("list", 3.5))
    assert.equal(3, d:lpush("list", ("a"):rep(1000)))
    assert.equal(3, d:llen("list"))
    assert.equal(3.5, d:rpop("list"))
    assert.equal(("a"):rep(1000), d:lpop("list"))
    assert.equal("b", d:rpop("list"))
    assert.equal(0, d:llen("list"))
    assert.same({}, d:keys())
    for _, pop in ipairs { d.lpop, d.rpop } do
      assert.equal(1, select("#", pop(d, "list")))
      assert.is_nil(pop(d, "list"))
    end
  end)

  it("are queues", function()
    local d = fresh()
    for i = 1, 1000 do assert.equal(i, d:lpush("queue", i % 2 == 0 and i or tostring(i))) end
    for i = 1, 1000 do assert.equal(i % 2 == 0 and i or tostring(i), d:rpop("queue")) end
  end)

  it("give items that are longer than usual", function()
    local d = fresh()
    local text = net.noise(200000)
    d:rpush("list", text)
    d:rpush("list", "next")
    assert.is_true(d:lpop("list") == text)
    assert.equal("next", d:lpop("list"))
  end)

  it("are told from values", function()
    local d = fresh()
    d:set("value", 1)
    for _, name in ipairs { "lpush", "rpush" } do assert.same({ nil, "value not a list" }, { d[name](d, "value", 1) }) end
    for _, name in ipairs { "lpop", "rpop", "llen" } do assert.same({ nil, "value not a list" }, { d[name](d, "value") }) end
    d:rpush("list", 1)
    assert.same({ nil, "value is a list" }, { d:get("list") })
    assert.equal("exists", select(2, d:add("list", 1)))
    assert.same({ "list", "value" }, (function() local k = d:keys() table.sort(k) return k end)())
    local free = d:free_space()
    d:rpush("list", ("x"):rep(10000))
    assert.is_true(d:set("list", "a value now"))
    assert.equal("a value now", d:get("list"))
    assert.is_true(d:free_space() >= free)
  end)

  it("expire, and keep their time when they change", function()
    local d = fresh()
    d:rpush("list", 1)
    assert.equal(0, d:ttl("list"))
    d:expire("list", 0.02)
    d:rpush("list", 2)
    assert.is_true(d:ttl("list") <= 0.02)
    assert.is_true(net.poll_until(function() return d:llen("list") == 0 end))
    assert.is_nil(d:lpop("list"))
  end)

  it("take no room from others", function()
    local d = fresh("64k")
    for i = 1, 1000 do d:set("key " .. i, i) end
    local keys = #d:keys(0)
    local length, err
    for _ = 1, 1000 do
      length, err = d:rpush("list", "item")
      if not length then break end
    end
    assert.same({ nil, "no memory" }, { length, err })
    assert.is_true(#d:keys(0) >= keys)
  end)
end)
