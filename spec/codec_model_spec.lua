-- The framings in C beside models of them (spec/support/codec_model.lua): the same frames from every random input, whole, cut at each place
-- and byte by byte. `make model COUNT=1000000` compares more; a failure names the seed (SEED=... makes the same inputs).

local ffi = require "ffi"

local model = require "support.codec_model"

local seed = tonumber(os.getenv "SEED") or os.time() % 2 ^ 31
local count = tonumber(os.getenv "COUNT") or 100000
local BATCH = 10000

local tool = ((os.getenv "RILLE_CORE" or ""):match "^(.*/build/%w+)/core%.so$" or "build") .. "/spec/codec_tool"

local random = math.random
local KINDS = { delimiter = 1, fixed = 2, length_field = 3, netstring = 4, varint = 5, resp = 6 }
local SETS = { { "\n", "\r\n" }, { "\r\n" }, { "ab" }, { "a", "ab" }, { "aa", "b" }, { "aba", "ba", "c" }, { "aab", "ab" } }
local WIDTHS = { 1, 2, 3, 4, 8 }

-- ---- inputs ----------------------------------------------------------------------------------------------------

local function pick(list) return list[random(#list)] end

local function letters(alphabet, most)
  local out = {}
  for i = 1, random(0, most) do
    local at = random(#alphabet)
    out[i] = alphabet:sub(at, at)
  end
  return table.concat(out)
end

local function several(make, most)
  local out = {}
  for i = 1, random(most) do out[i] = make() end
  return table.concat(out)
end

-- A byte more, less or another one here and there.
local function spoil(s)
  if random(3) > 1 or s == "" then return s end
  local at = random(#s)
  local middle = random(3) == 1 and "" or string.char(pick { 0, 10, 13, 48, 58, 127, 128, 255, random(0, 255) })
  return s:sub(1, at - 1) .. middle .. s:sub(at + random(0, 1))
end

local function number(value, width, little)
  local bytes = {}
  for i = width, 1, -1 do
    bytes[i] = string.char(value % 256)
    value = math.floor(value / 256)
  end
  local s = table.concat(bytes)
  return little and s:reverse() or s
end

local make = {}

function make.delimiter() return { bytes = letters("aaabbc\r\n", 24) } end

function make.fixed() return { bytes = letters("xyz", 24) } end

function make.length_field(o)
  return { bytes = several(function()
    local value = random(8) == 1 and pick { 0, 255, 65535, 2 ^ 31, 2 ^ 32 - 1 } or random(0, 8)
    return letters("o", 0) .. ("o"):rep(o.offset) .. number(value, o.width, o.little) .. letters("body", math.min(value, 12))
  end, 4) }
end

function make.netstring()
  return { bytes = several(function()
    local body = letters("b:,1", 8)
    return pick { "", "", "", "0", "1" } .. #body .. ":" .. body .. ","
  end, 4) }
end

function make.varint()
  return { bytes = several(function()
    local body = letters("b\0\128", 8)
    local over = random(6) == 1 and ("\128"):rep(random(10)) .. "\0" or ""
    return (over ~= "" and string.char(128 + #body) .. over:sub(2) or string.char(#body)) .. body
  end, 4) }
end

local function resp_value(depth)
  local n = random(0, 3)
  local function values(most) return (("x"):rep(most):gsub("x", function() return resp_value(depth + 1) end)) end
  local kind = depth > 3 and random(9) or random(15)
  if kind == 1 then return "+" .. letters("ok", 4) .. "\r\n" end
  if kind == 2 then return "-" .. letters("ERR ", 4) .. "\r\n" end
  if kind == 3 then return ":" .. pick { "", "-", "+" } .. random(0, 999) .. "\r\n" end
  if kind == 4 then return pick { "_", "#t", "#f", "$-1", "*-1", "$?", ";1", "." } .. "\r\n" end
  if kind == 5 then return "," .. pick { "1.5", "-1", "inf", "-inf", "nan", "1e5", ".5", "1.", "e", "", "1e", "+.e1" } .. "\r\n" end
  if kind == 6 then return "(" .. pick { "123", "-5", "+", "" } .. "\r\n" end
  if kind == 7 then return "=" .. n + 4 .. "\r\ntxt:" .. ("v"):rep(n) .. "\r\n" end
  if kind <= 9 then return pick { "$", "!" } .. n .. "\r\n" .. ("\r"):rep(n) .. "\r\n" end
  if kind <= 11 then return "*" .. n .. "\r\n" .. values(n) end
  if kind == 12 then return pick { "~", ">" } .. n .. "\r\n" .. values(n) end
  if kind == 13 then return "%" .. n .. "\r\n" .. values(2 * n) end
  if kind == 14 then return "|" .. n .. "\r\n" .. values(2 * n + 1) end
  return pick { "*", "$", "%" } .. pick { "1000", "99999999999999999999", "007", "-2", "" } .. "\r\n"
end

function make.resp() return { bytes = several(function() return resp_value(0) end, 2):sub(1, 60) } end

local names = {}
for name in pairs(KINDS) do names[#names + 1] = name end
table.sort(names)

local function options(kind)
  local set, width = random(#SETS), pick(WIDTHS)
  local o = {
    kind = kind, max = random(3, 14), width = width, little = random(2) == 1, keeps = random(4) == 1, offset = random(0, 3),
    adjustment = random(3) == 1 and random(-6, 6) or 0, strip = random(0, 8), depth = random(3), set = set, delimiters = SETS[set],
  }
  if kind == "resp" then o.max = random(4, 60) end
  if kind == "length_field" then o.max = o.offset + width + random(0, 10) end
  return o
end

local function next_input()
  local o = options(pick(names))
  local bytes = make[o.kind](o).bytes
  if o.kind ~= "resp" and o.kind ~= "fixed" and random(8) == 1 then
    o.inner = pick { "varint", "netstring" }
    o.strip = o.offset + o.width
    if o.kind ~= "length_field" then
      local body = letters("\0\1\0021:,x", 6) .. make[o.inner](o).bytes
      bytes = o.kind == "netstring" and #body .. ":" .. body .. "," or o.kind == "varint" and string.char(#body) .. body or bytes
      o.max = o.max + 20
    end
  end
  o.strip = math.min(o.strip, o.max)
  return spoil(bytes), o
end

-- ---- comparing -------------------------------------------------------------------------------------------------

local function header(bytes, o)
  return ffi.string(ffi.new("int32_t[12]", #bytes, KINDS[o.kind], o.max, o.width, o.little and 1 or 0, o.keeps and 1 or 0, o.offset,
    o.adjustment, o.strip, o.depth, o.set - 1, o.inner and KINDS[o.inner] or 0), 48)
end

local function expected(bytes, o)
  local list, err, left = model.decode(bytes, o)
  local out = {}
  for i, body in ipairs(list) do
    out[i] = "[" .. body:gsub("[^!-$&-Z\\-~]", function(c) return ("%%%02X"):format(c:byte()) end)
  end
  return table.concat(out) .. " " .. (err or "ok"), left
end

local function differences(n)
  local name = os.tmpname()
  local file, asked = assert(io.open(name, "wb")), {}
  for i = 1, n do
    local bytes, o = next_input()
    asked[i] = { bytes, o }
    file:write(header(bytes, o), bytes)
  end
  file:close()
  local found, i = {}, 0
  local answers = assert(io.popen(tool .. " <" .. name))
  for answer in answers:lines() do
    i = i + 1
    local bytes, o = asked[i][1], asked[i][2]
    local frames, left = expected(bytes, o)
    -- in a chain, what is left of an outer frame is not the model's to say
    local is_same = left and answer == frames .. " " .. left or not left and answer:match("^(.*) %d+$") == frames
    if not is_same and #found < 5 then
      found[#found + 1] = ("%s of %q\nmax %d, width %d, offset %d, adjustment %d, strip %d, depth %d, set %d, inner %s\n"
        .. "  tool:  %s\n  model: %s %s\n"):format(o.kind, bytes, o.max, o.width, o.offset, o.adjustment, o.strip, o.depth, o.set,
          tostring(o.inner), answer, frames, tostring(left))
    end
  end
  answers:close()
  os.remove(name)
  assert(i == n, ("%s answered %d of %d inputs (seed %d): is it built (make c-tests)?"):format(tool, i, n, seed))
  return table.concat(found, "\n")
end

describe("framings", function()
  it("find what their models find, however the bytes are cut", function()
    print(("%d random inputs, seed %d"):format(count, seed))
    math.randomseed(seed)
    for from = 1, count, BATCH do
      assert.are.equal("", differences(math.min(BATCH, count - from + 1)), "seed " .. seed)
    end
  end)
end)
