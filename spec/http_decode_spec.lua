-- The decoders of HTTP requests beside a model of them (spec/support/http_model.lua): the same answer to every random request,
-- whole and cut. `make model COUNT=1000000` compares more; a failure names the seed (SEED=... makes the same requests).

local ffi = require "ffi"

local model = require "support.http_model"
local requests = require "support.http_requests"

local seed = tonumber(os.getenv "SEED") or os.time() % 2 ^ 31
local count = tonumber(os.getenv "COUNT") or 100000
local BATCH = 10000

-- beside the library that is tested
local tool = ((os.getenv "RILLE_CORE" or ""):match "^(.*/build/%w+)/core%.so$" or "build") .. "/spec/http_decode_tool"

local function header(bytes, limits, cut_seed)
  return ffi.string(ffi.new("uint32_t[6]", #bytes, limits.head, limits.target, limits.headers, limits.extra, cut_seed), 24)
end

local function quoted(bytes) return (("%q"):format(bytes):gsub("\r", "\\r"):gsub("%z", "\\0"):gsub("\\\n", "\\n")) end

-- The requests that the tool answers otherwise than the model, as text.
local function differences(n, flag)
  local name = os.tmpname()
  local file, asked = assert(io.open(name, "wb")), {}
  for i = 1, n do
    local bytes, limits = requests.next()
    asked[i] = { bytes, limits }
    file:write(header(bytes, limits, i), bytes)
  end
  file:close()
  local found, i = {}, 0
  local answers = assert(io.popen(tool .. " " .. flag .. " <" .. name))
  for answer in answers:lines() do
    i = i + 1
    local bytes, limits = asked[i][1], asked[i][2]
    local expected = model.decode(bytes, limits)
    if answer ~= expected and #found < 10 then
      found[#found + 1] = ("%s\nhead %d, target %d, headers %d, extra %d\n  tool:  %s\n  model: %s\n"):format(
        quoted(bytes), limits.head, limits.target, limits.headers, limits.extra, answer, expected)
    end
  end
  answers:close()
  os.remove(name)
  assert(i == n, ("%s answered %d of %d requests (seed %d): is it built (make c-tests)?"):format(tool, i, n, seed))
  return table.concat(found, "\n")
end

describe("decoding of requests", function()
  setup(function()
    print(("%d random requests, seed %d"):format(count, seed))
    math.randomseed(seed)
  end)

  it("is that of the model", function()
    for from = 1, count, BATCH do
      assert.are.equal("", differences(math.min(BATCH, count - from + 1), ""), "seed " .. seed)
    end
  end)

  it("does not depend on how the bytes are cut", function()
    assert.are.equal("", differences(math.ceil(count / 50), "--cuts"), "seed " .. seed)
  end)
end)
