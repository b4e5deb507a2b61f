-- Replays every case of spec/conformance/linkbuffer_shared.json on the real LinkBuffer. linkbuffer_format.md beside it
-- says what the steps mean.

local bit = require "bit"
local cjson = require "cjson"
local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"

-- ---- contents --------------------------------------------------------------------------------------------------

local function lcg(n, x)
  local bytes = {}
  for i = 1, n do
    x = x * 16807 % 2147483647
    bytes[i] = string.char(math.floor(x / 256) % 256)
  end
  return table.concat(bytes)
end

local function content(spec)
  if type(spec) == "string" then return spec end
  if spec.text then return spec.text end
  if spec.hex then return (spec.hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)) end
  if spec.lcg then return lcg(spec.lcg, spec.seed) end
  if spec.rep then return content(spec.rep):rep(spec.n) end
  if spec.cat then
    local parts = {}
    for i, part in ipairs(spec.cat) do parts[i] = content(part) end
    return table.concat(parts)
  end
  local bytes = {}
  for i = 1, spec.iota do bytes[i] = string.char(((spec.from or 0) + i - 1) % 256) end
  return table.concat(bytes)
end

local function adler32(s)
  local a, b = 1, 0
  for i = 1, #s do
    a = (a + s:byte(i)) % 65521
    b = (b + a) % 65521
  end
  return b * 65536 + a
end

-- ---- steps -----------------------------------------------------------------------------------------------------

local ARGS = {
  new = 1, malloc = 2, fill = 3, malloc_ack = 2, flush = 1, malloc_len = 2, len = 2, write = 2, write_direct = 3,
  append = 2, next = 2, peek = 2, read_until = 2, skip = 2, read_string = 2, read_byte = 1, index_of = 3, slice = 3,
  release = 1, destroy = 1, view = 1, expired = 1, retain = 1, release_view = 1, mark = 1, stats = 0, ["repeat"] = 2,
}

local function read_stats()
  local stats = LinkBuffer.stats()
  return { blocks = stats.blocks_in_use, bytes = stats.bytes_in_use }
end

local World = {}
World.__index = World

local function new_world(case)
  collectgarbage()
  collectgarbage()
  return setmetatable({
    block_size = case.block_size,
    names = {}, buffers = {}, retained = {}, marks = {},
    baseline = read_stats(),
  }, World)
end

local function is_object(spec)
  return type(spec) == "table" and type(spec.from) == "string"
end

-- The data of a write: a string, the view or buffer named by {"from": name}, or whatever else a case passes by mistake.
function World:source(spec)
  if is_object(spec) then return self.names[spec.from] end
  if type(spec) == "string" or type(spec) == "table" then return content(spec) end
  return spec
end

local function as_bytes(value)
  return Slice.is(value) and value:str() or value
end

local call = {}

function call.malloc(_, b, n, opts)
  local p, err = b:malloc(n)
  if p ~= nil and opts.fill then
    local bytes = content(opts.fill == "iota" and { iota = n } or opts.fill)
    ffi.copy(p, bytes, #bytes)
  end
  return p, err
end

function call:write(b, spec) return b:write(self:source(spec)) end
function call:write_direct(b, spec, remain) return b:write_direct(self:source(spec), remain) end
function call:append(b, other) return b:append(type(other) == "string" and self.names[other] or other) end
function call.read_until(_, b, delim) return b:read_until(content(delim)) end
function call.index_of(_, b, delim, from) return b:index_of(content(delim), from) end
function call.destroy(_, b) return b:close() end

function call:slice(b, n, name)
  local taken, err = b:take(n)
  if taken then
    self.buffers[#self.buffers + 1] = taken
    self.names[name] = taken
  end
  return taken, err
end

for _, name in ipairs { "malloc_ack", "flush", "next", "peek", "skip", "read_string", "read_byte", "release" } do
  call[name] = function(_, b, n) return b[name](b, n) end
end

local NO_ERROR_KEY = { index_of = true } -- nil is a value of it

-- Compare the outcome of a call (ok, value, err of a pcall) with what the step wants.
local function check(op, opts, ok, value, err)
  if opts.any then return end
  local failure
  if not ok then failure = tostring(value)
  elseif value == nil and not (NO_ERROR_KEY[op] and err == nil) then failure = tostring(err)
  end
  if opts.error then
    assert(failure, "should have failed: " .. opts.error)
    if opts.error == "*" then return end
    if ok then assert.equal(opts.error, failure) else assert.truthy(failure:find(opts.error, 1, true), failure) end
    return
  end
  assert(not failure, failure)
  if opts.returns ~= nil then
    local want = opts.returns
    if want == cjson.null then want = nil end
    assert.equal(want, value)
  end
  if not (opts.expect or opts.expect_hex or opts.len or opts.adler32) then return end
  local bytes = as_bytes(value)
  if opts.len then assert.equal(opts.len, #bytes) end
  if opts.expect then assert(content(opts.expect) == bytes, "other bytes than expected: " .. ("%q"):format(bytes:sub(1, 60))) end
  if opts.expect_hex then assert.equal(opts.expect_hex, (bytes:gsub(".", function(c) return bit.tohex(c:byte(), 2) end))) end
  if opts.adler32 then assert.equal(opts.adler32, adler32(bytes)) end
end

local step = {}

step["repeat"] = function(self, count, steps)
  for _ = 1, count do self:run(steps) end
end

function step:new(name, opts)
  local b = assert(LinkBuffer.new(opts.block_size or self.block_size))
  self.buffers[#self.buffers + 1] = b
  self.names[name] = b
end

function step:fill(name, offset, spec)
  local bytes = content(spec)
  ffi.copy(self.names[name] + offset, bytes, #bytes)
end

function step:len(name, want) assert.equal(want, self.names[name]:len()) end
function step:malloc_len(name, want) assert.equal(want, self.names[name]:malloc_len()) end

function step:view(name, opts)
  local view = self.names[name]
  check("view", opts, pcall(view.str, view))
end

function step:expired(name)
  local view = self.names[name]
  local ok, err = pcall(view.str, view)
  assert(not ok, "still valid")
  assert.truthy(tostring(err):find("slice expired", 1, true), err)
  assert.is_false(view:is_valid())
end

function step:retain(name, opts)
  local view = self.names[name]
  local ok, value, err = pcall(view.retain, view)
  check("retain", opts, ok, value, err)
  if ok and value then self.retained[#self.retained + 1] = view end
end

function step:release_view(name)
  local view = self.names[name]
  view:release()
  for i = #self.retained, 1, -1 do
    if rawequal(self.retained[i], view) then table.remove(self.retained, i) end
  end
end

function step:mark(name) self.marks[name] = read_stats() end

function step:stats(opts)
  local now = read_stats()
  local blocks, bytes = now.blocks - self.baseline.blocks, now.bytes - self.baseline.bytes
  local mark = opts.mark and self.marks[opts.mark]
  local function at_most(value, bound) assert(not bound or value <= bound, ("%d is above %d"):format(value, bound or 0)) end
  local function at_least(value, bound) assert(not bound or value >= bound, ("%d is below %d"):format(value, bound or 0)) end
  if opts.blocks_in_use then assert.equal(opts.blocks_in_use, blocks) end
  if opts.bytes_in_use then assert.equal(opts.bytes_in_use, bytes) end
  at_most(blocks, opts.blocks_in_use_max)
  at_least(blocks, opts.blocks_in_use_min)
  at_most(bytes, opts.bytes_in_use_max)
  if mark then
    at_most(now.blocks - mark.blocks, opts.blocks_delta_max)
    at_most(now.bytes - mark.bytes, opts.bytes_delta_max)
  end
end

function World:step(line)
  local op = line[1]
  local count = assert(ARGS[op], "unknown step")
  local opts = line[count + 2] or {}
  if step[op] then
    local args = { unpack(line, 2, count + 1) }
    args[count + 1] = opts
    return step[op](self, unpack(args, 1, count + 1))
  end
  local b = self.names[line[2]]
  local a, c = line[3], line[4]
  if count == 2 then c = opts end
  local ok, value, err = pcall(call[op], self, b, a, c)
  check(op, opts, ok, value, err)
  if opts.as and ok and value ~= nil then self.names[opts.as] = value end
end

function World:run(steps)
  for i, line in ipairs(steps) do
    local ok, err = pcall(self.step, self, line)
    if not ok then
      if type(err) == "table" then err = err.message or err[1] or "assertion failed" end
      error(("step %d %s: %s"):format(i, cjson.encode(line):sub(1, 160), tostring(err)), 0)
    end
  end
end

function World:close()
  for _, b in ipairs(self.buffers) do b:close() end
  for _, view in ipairs(self.retained) do view:release() end
end

-- ---- cases -----------------------------------------------------------------------------------------------------

local here = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"
local file = assert(io.open(here .. "conformance/linkbuffer_shared.json", "rb"))
local cases = cjson.decode(file:read("*a"))
file:close()

describe("LinkBuffer conformance", function()
  it("has cases", function() assert.is_true(#cases > 300) end)

  for _, case in ipairs(cases) do
    it(case.id .. ": " .. case.why, function()
      local world = new_world(case)
      local ok, err = pcall(world.run, world, case.steps)
      world:close()
      assert(ok, err)
      assert.same(world.baseline, read_stats())
    end)
  end
end)
