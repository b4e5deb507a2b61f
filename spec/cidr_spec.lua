-- rille.cidr: which texts are networks, and which addresses are in them. The model is plain: bits compared one by one.

local rille = require "rille"
local cidr = require "rille.cidr"
local config = require "rille.config"

local function contains(networks, address)
  return (rille.cidr(networks):contains(address))
end

describe("rille.cidr", function()
  it("finds addresses in networks of both families", function()
    local list = { "10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::1", "0.0.0.0/32" }
    for address, expected in pairs {
      ["10.0.0.0"] = true, ["10.255.255.255"] = true, ["9.255.255.255"] = false, ["11.0.0.0"] = false,
      ["192.0.2.7"] = true, ["192.0.2.6"] = false, ["192.0.2.8"] = false, ["0.0.0.0"] = true, ["0.0.0.1"] = false,
      ["2001:db8::"] = true, ["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"] = true, ["2001:db9::"] = false, ["fe80::1"] = true,
      ["fe80::2"] = false, ["::"] = false,
    } do
      assert.equal(expected, contains(list, address), address)
    end
  end)

  it("takes addresses as conn:peer() writes them", function()
    assert.is_true(contains({ "127.0.0.0/8" }, "127.0.0.1:5000"))
    assert.is_true(contains({ "::1" }, "[::1]:5000"))
    assert.is_true(contains({ "::1" }, "[::1]"))
    assert.is_false(contains({ "::/0", "0.0.0.0/0" }, "unix:"))
    assert.is_true(contains("10.0.0.0/8", "10.1.1.1"))
    assert.is_false(contains({}, "10.1.1.1"))
  end)

  it("takes an IPv4 address written as IPv6 for what it means", function()
    assert.is_true(contains({ "10.0.0.0/8" }, "::ffff:10.1.2.3"))
    assert.is_true(contains({ "::ffff:10.0.0.0/104" }, "10.1.2.3"))
    assert.is_true(contains({ "::ffff:10.1.2.3" }, "10.1.2.3"))
    assert.is_false(contains({ "::/0" }, "10.1.2.3"))
    assert.is_false(contains({ "0.0.0.0/0" }, "::1"))
    assert.is_true(contains({ "::/0" }, "::1"))
  end)

  it("says what is no address", function()
    for _, text in ipairs { "", "10.0.0", "10.0.0.0/8", "[::1", "[::1]x", "host", "10.0.0.1:80:90", "1\0", ("1"):rep(200) } do
      assert.same({ nil, "bad address" }, { rille.cidr{ "10.0.0.0/8" }:contains(text) }, text)
    end
  end)

  it("says what is no network, in one line that names it", function()
    for text, message in pairs {
      ["10.0.0.1/8"] = '"10.0.0.1/8" has bits behind its prefix; expected "10.0.0.0/8"',
      ["2001:db8::1/32"] = '"2001:db8::1/32" has bits behind its prefix; expected "2001:db8::/32"',
      ["::ffff:10.0.0.1/104"] = '"::ffff:10.0.0.1/104" has bits behind its prefix; expected "10.0.0.0/8"',
      ["1.2.3.255/31"] = '"1.2.3.255/31" has bits behind its prefix; expected "1.2.3.254/31"',
    } do
      assert.equal(message, cidr.problem(text))
    end
    for _, text in ipairs {
      "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/8 ", " 10.0.0.0/8", "10.0.0.0/8/8", "10/8",
      "10.0.0.256", "::/129", "::1%lo", "localhost", "10.0.0.0/0x8", "::ffff:0:0/95", ("1"):rep(1000), "1\n2", "1\0",
    } do
      assert.matches('^".*" is no network; expected one such as ', cidr.problem(text))
    end
    for _, text in ipairs { "0.0.0.0/0", "::/0", "1.2.3.4/32", "::1/128", "::ffff:0:0/96" } do assert.is_nil(cidr.problem(text)) end
  end)

  it("raises for a list that is none, at the caller's line", function()
    for _, bad in ipairs { { "10.0.0.0/8", "nonsense" }, { 5 }, 5 } do
      local ok, message = pcall(rille.cidr, bad)
      assert.is_false(ok)
      assert.matches("^spec/cidr_spec.lua:%d+: bad argument #1 to 'cidr'", (message:gsub("^[^\n]*/spec/", "spec/")))
    end
    assert.has_error(function() rille.cidr{}:contains(5) end)
  end)

  it("agrees with a comparison bit by bit, for networks that nest and touch", function()
    math.randomseed(7)
    local function value(bytes) return ((bytes[1] * 256 + bytes[2]) * 256 + bytes[3]) * 256 + bytes[4] end
    for _ = 1, 30 do
      local networks, model = {}, {}
      for i = 1, math.random(1, 60) do
        local bits = math.random(20, 32)
        local size = 2 ^ (32 - bits)
        local base = math.floor((value { 10, 0, math.random(0, 15), math.random(0, 255) }) / size) * size
        model[i] = { first = base, last = base + size - 1 }
        networks[i] = ("%d.%d.%d.%d/%d"):format(math.floor(base / 2 ^ 24), math.floor(base / 65536) % 256,
          math.floor(base / 256) % 256, base % 256, bits)
      end
      local list = rille.cidr(networks)
      for _ = 1, 300 do
        local bytes = { 10, 0, math.random(0, 16), math.random(0, 255) }
        local expected, n = false, value(bytes)
        for _, one in ipairs(model) do expected = expected or (n >= one.first and n <= one.last) end
        assert.equal(expected, list:contains(table.concat(bytes, ".")))
      end
    end
  end)

  it("holds 4096 networks", function()
    local networks = {}
    for i = 0, 4095 do networks[#networks + 1] = ("10.%d.%d.0/24"):format(math.floor(i / 128), i % 128 * 2) end
    local list = rille.cidr(networks)
    for i = 0, 4095, 7 do
      local a, b = math.floor(i / 128), i % 128 * 2
      assert.is_true(list:contains(("10.%d.%d.9"):format(a, b)))
      assert.is_false(list:contains(("10.%d.%d.9"):format(a, b + 1)))
    end
  end)
end)

describe("allow and deny", function()
  local function problem_of(settings)
    local ok, message = config.server(settings, "rille.listen")
    assert.is_nil(ok)
    return message
  end

  it("are checked with the configuration, and name the entry", function()
    assert.equal('rille.listen: allow[2]: "10.0.0.1/8" has bits behind its prefix; expected "10.0.0.0/8"',
      problem_of { allow = { "10.0.0.0/8", "10.0.0.1/8" } })
    assert.matches('^rille.listen: deny: "x" is no network', problem_of { deny = "x" })
    assert.matches("^rille.listen: deny%[1%]: got 5; expected a network", problem_of { deny = { 5 } })
    assert.matches("^rille.listen: allow: has a key \"a\"; expected", problem_of { allow = { a = "::/0" } })
    local many = {}
    for i = 1, 4097 do many[i] = "::1" end
    assert.equal("rille.listen: allow: has 4097 networks; expected at most 4096", problem_of { allow = many })
    assert.same({ "10.0.0.0/8" }, config.server({ allow = "10.0.0.0/8" }, "x").allow)
  end)
end)
