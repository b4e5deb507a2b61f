-- codec: how bytes become frames. rille.codec.line{ max = 1000 } and the others make codecs whose frames are found in C; a
-- configuration names them, codec = { "line", max = 1000 }. docs/codec.md describes each.

local C = require "rille.core"
local chain = require "rille.codec.chain"
local errors = require "rille.errors"
local framing = require "rille.codec.framing"
local misuse = require "rille.misuse"
local options = require "rille.codec.options"
local resp_value = require "rille.codec.resp_value"
local test = require "rille.codec.test"

local codec = { test = test }

local framings = {}
for _, name in ipairs { "delimiter", "fixed", "length_field", "line", "netstring", "resp", "varint" } do
  framings[name] = require("rille.codec." .. name)
end

-- ---- making ----------------------------------------------------------------------------------------------------

local function build(one, values)
  local kind, core = one.core(values)
  core.kind = C["RILLE_CODEC_" .. kind]
  core.max = core.max or values.max
  core.is_named = core.is_named or values.is_named and 1 or 0
  local parse, print_value
  if one.values then parse, print_value = one.values(values) end
  local self = framing.new(one.name, core, parse, print_value)
  for _, text in ipairs(one.delimiters and one.delimiters(values) or {}) do
    local code = C.rille_codec_add_delimiter(self._p, text, #text)
    if code ~= 0 then error(errors.text[-code], 0) end
  end
  return self
end

local function describe(name, key, problem)
  if key == nil then return ("rille.codec.%s: %s"):format(name, problem) end
  if type(key) == "number" then return ("rille.codec.%s: [%d]: %s"):format(name, key, problem) end
  return ("rille.codec.%s: %s: %s"):format(name, tostring(key), problem)
end

-- rille.codec.NAME{ options }; of one value that stands by number, that value alone.
local function constructor(one)
  return function(given)
    if given == nil then given = {} end
    if one.list and type(given) ~= "table" then given = { given } end
    if type(given) ~= "table" then misuse("rille.codec.%s takes a table of options, not a %s", one.name, type(given)) end
    local values, key, problem = options.check(one, given)
    if not values then misuse("%s", describe(one.name, key, problem)) end
    return build(one, values)
  end
end

for name, one in pairs(framings) do codec[name] = constructor(one) end

-- Frames in frames, the outermost codec first.
function codec.chain(members)
  if type(members) ~= "table" then misuse("rille.codec.chain takes a list of codecs, not a %s", type(members)) end
  local at, problem = chain.problem(members)
  if problem then misuse("%s", describe("chain", at, problem)) end
  return chain.new({ unpack(members) })
end

-- The constructor of resp also holds what its values are made with.
local make_resp = codec.resp
codec.resp = setmetatable({}, { __call = function(_, given) return make_resp(given) end, __index = resp_value })

-- ---- configurations --------------------------------------------------------------------------------------------

-- Whether it is "line" or { "line", ... }.
function codec.is_spec(x)
  if type(x) == "table" then return type(x[1]) == "string" end
  return framings[x] ~= nil or x == "chain"
end

local function split(spec)
  if type(spec) == "string" then return spec, {} end
  local given = {}
  for key, value in pairs(spec) do
    if type(key) ~= "number" then given[key] = value end
  end
  for i = 2, #spec do given[i - 1] = spec[i] end
  return spec[1], given
end

local function names()
  local list = { '"chain"' }
  for name in pairs(framings) do list[#list + 1] = '"' .. name .. '"' end
  table.sort(list)
  return table.concat(list, ", ")
end

-- The key of a specification for a key of its options.
local function outside(key)
  return type(key) == "number" and key + 1 or key
end

local function chain_of(given)
  local members = {}
  for key in pairs(given) do
    if type(key) ~= "number" then return nil, { key }, "unknown option; chain takes a list of codecs" end
  end
  for i, one in ipairs(given) do
    if not codec.is_spec(one) then return nil, { i + 1 }, 'expected a codec such as { "varint" }' end
    local member, path, problem = codec.of(one)
    if not member then return nil, { i + 1, unpack(path) }, problem end
    members[i] = member
  end
  local at, problem = chain.problem(members)
  if problem then return nil, { outside(at) }, problem end
  return chain.new(members)
end

-- The codec that a configuration names. nil, the keys to what is wrong, problem.
function codec.of(spec)
  local name, given = split(spec)
  if name == "chain" then return chain_of(given) end
  local one = framings[name]
  if not one then return nil, { 1 }, ('got "%s"; expected one of %s'):format(name, names()) end
  local values, key, problem = options.check(one, given)
  if not values then return nil, { outside(key) }, problem end
  return build(one, values)
end

-- The codec of a server: named as above, or a module. nil, message.
function codec.resolve(x)
  if codec.is_spec(x) then
    local self, _, problem = codec.of(x)
    return self, problem
  end
  local ok, module = pcall(require, x)
  if not ok or type(module) ~= "table" or type(module.decode) ~= "function" then
    return nil, ("codec %s: it has to be a module that returns a table with a function 'decode'"):format(x)
  end
  return module
end

codec.is_framing = framing.is

return codec
