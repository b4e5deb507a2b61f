-- Topic names and filters of MQTT: what may be written, and that the tree finds what a plain comparison finds.

local filter = require "rille.mqtt.filter"

-- Section 4.7, word by word: does a filter match a name?
local function matches(what, name)
  local a, b = {}, {}
  for level in (what .. "/"):gmatch("(.-)/") do a[#a + 1] = level end
  for level in (name .. "/"):gmatch("(.-)/") do b[#b + 1] = level end
  if name:sub(1, 1) == "$" and (a[1] == "#" or a[1] == "+") then return false end
  for i, level in ipairs(a) do
    if level == "#" then return #b >= i - 1 end
    if not b[i] or (level ~= "+" and level ~= b[i]) then return false end
  end
  return #a == #b
end

local function sorted(set)
  local list = {}
  for key in pairs(set) do list[#list + 1] = key end
  table.sort(list)
  return list
end

local WORDS = { "a", "b", "", "$x", "long level" }

local function some_name(words)
  local levels = {}
  for i = 1, math.random(4) do levels[i] = words[math.random(#words)] end
  local name = table.concat(levels, "/")
  return name == "" and "a" or name
end

local function some_filter()
  local name = some_name { "a", "b", "", "$x", "+", "+", "long level" }
  if math.random(3) == 1 then name = name == "" and "#" or name .. "/#" end
  if math.random(10) == 1 then return "#" end
  return name
end

describe("topic filters", function()
  it("may have wildcards where the standard lets them", function()
    for _, good in ipairs { "#", "+", "a", "/", "//", "a/#", "a/+/b", "+/+", "/+", "+/#", "$SYS/#", " ", "a//b" } do
      assert.is_true(filter.is_filter(good), good)
    end
    for _, bad in ipairs { "", "a#", "#/a", "a/#/b", "a+", "+a", "a/b+", "##", "++", "a\0", "a/#b", "#+" } do
      assert.is_false(filter.is_filter(bad), bad)
    end
  end)

  it("are no names of topics when they have", function()
    for _, good in ipairs { "a", "/", "a/b", "$SYS/x", " " } do assert.is_true(filter.is_name(good), good) end
    for _, bad in ipairs { "", "#", "a/+", "a#", "a\0" } do assert.is_false(filter.is_name(bad), bad) end
    assert.same({ 1, 2, 3, 3 }, { filter.levels "a", filter.levels "a/b", filter.levels "//", filter.levels "a//b" })
  end)

  it("match as in the examples of section 4.7", function()
    local tree = filter.tree()
    for _, what in ipairs { "sport/tennis/player1/#", "sport/#", "#", "sport/tennis/+", "sport/+", "+/+", "/+", "+", "$SYS/#",
      "+/monitor/Clients" } do
      tree:add(what, what, 0)
    end
    local function found(name)
      local set = {}
      tree:match(name, set)
      return sorted(set)
    end
    assert.same({ "#", "sport/#", "sport/tennis/+", "sport/tennis/player1/#" }, found "sport/tennis/player1")
    assert.same({ "#", "sport/#", "sport/tennis/player1/#" }, found "sport/tennis/player1/ranking")
    assert.same({ "#", "+", "sport/#" }, found "sport")
    assert.same({ "#", "+/+", "sport/#", "sport/+" }, found "sport/")
    assert.same({ "#", "+/+", "/+" }, found "/finance")
    assert.same({ "$SYS/#" }, found "$SYS/monitor/Clients")
  end)

  it("are found in the tree as one by one, after any additions and removals", function()
    for seed = 1, 60 do
      math.randomseed(seed)
      local tree, all, count = filter.tree(), {}, 0
      for step = 1, 60 do
        local what, who = some_filter(), math.random(4)
        local key = what .. "\0" .. who
        if math.random(3) == 1 then
          tree:remove(what, who)
          if all[key] then count = count - 1 end
          all[key] = nil
        else
          local qos = math.random(0, 1)
          tree:add(what, who, qos)
          if not all[key] then count = count + 1 end
          all[key] = { what = what, who = who, qos = qos }
        end
        local name = some_name(WORDS)
        local found, want = {}, {}
        tree:match(name, found)
        for _, one in pairs(all) do
          if matches(one.what, name) then want[one.who] = math.max(want[one.who] or 0, one.qos) end
        end
        assert.same(want, found, ("seed %d, step %d, %s"):format(seed, step, name))
        assert.equal(count, tree.count)
      end
      for _, one in pairs(all) do tree:remove(one.what, one.who) end
      assert.same({ {}, 0 }, { tree.root, tree.count }) -- nothing is left behind
    end
  end)

  it("find names in a tree of names", function()
    for seed = 1, 60 do
      math.randomseed(seed)
      local tree, all = filter.tree(), {}
      for _ = 1, 40 do
        local name = some_name(WORDS)
        if math.random(4) == 1 then
          tree:remove(name, true)
          all[name] = nil
        else
          tree:add(name, true, 0)
          all[name] = true
        end
        local what = some_filter()
        local found, want = {}, {}
        tree:names(what, function(one)
          assert.is_nil(found[one])
          found[one] = true
        end)
        for one in pairs(all) do
          if matches(what, one) then want[one] = true end
        end
        assert.same(sorted(want), sorted(found), ("seed %d, %s"):format(seed, what))
      end
    end
  end)
end)
