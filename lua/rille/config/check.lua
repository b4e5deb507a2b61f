-- check: a configuration table against defaults.lua. What is wrong is raised as { path =, problem = }; config.lua makes a line of it.

local near = require "rille.config.near"
local paths = require "rille.config.paths"
local units = require "rille.config.units"

local check = {}

local SHOWN_MAX = 60   -- bytes of a value in a message
local NESTING_MAX = 90 -- of options: what carries them into the script's state takes 100

-- ---- messages --------------------------------------------------------------------------------------------------

local function printable(text)
  return (text:gsub("[%c\127]", function(c) return ("\\%d"):format(c:byte()) end))
end

-- Without the password of a URL.
local function without_password(text)
  return (text:gsub("^(%a+://[^/@:]*:)[^@]*@", "%1...@"):gsub("([?&]password=)[^&]*", "%1..."))
end

-- A value as a message shows it: on one line and short.
local function shown(value)
  if type(value) == "string" then
    value = without_password(value)
    local text = value:sub(1, SHOWN_MAX)
    return '"' .. printable(text) .. (#value > SHOWN_MAX and '..."' or '"')
  end
  if type(value) == "number" or type(value) == "boolean" then return tostring(value) end
  return value == nil and "nothing" or "a " .. type(value)
end
check.shown = shown

-- { "servers", 1, "limits" } as servers[1].limits
function check.name_of(path)
  local text = ""
  for _, key in ipairs(path) do
    if type(key) == "string" and key:find("^[%a_][%w_]*$") then
      text = text .. (text == "" and "" or ".") .. key
    else
      text = ("%s[%s]"):format(text, shown(key))
    end
  end
  return text
end

local function fail(path, problem, ...)
  if select("#", ...) > 0 then problem = problem:format(...) end
  error({ path = path, problem = problem }, 0)
end

local function refuse(path, value, expected)
  fail(path, "got %s; expected %s", shown(value), expected)
end

local function below(path, key)
  local longer = { unpack(path) }
  longer[#longer + 1] = key
  return longer
end

-- ---- single values ---------------------------------------------------------------------------------------------

local function quoted_list(values)
  local list = {}
  for i, v in ipairs(values) do list[i] = '"' .. v .. '"' end
  local last = table.remove(list)
  return table.concat(list, ", ") .. " or " .. last
end

local function in_bounds(number, entry, convert)
  return number and number >= convert(entry.min) and number <= convert(entry.max)
end

-- check, path to read or value that stays the same: value, path of the key, its entry in defaults, context
local types = {}

function types.count(value, path, entry)
  if type(value) == "number" and value % 1 == 0 and in_bounds(value, entry, tonumber) then return value end
  refuse(path, value, ("a whole number from %s to %s"):format(entry.min, entry.max))
end

function types.seconds(value, path, entry)
  local seconds = units.seconds(value)
  if in_bounds(seconds, entry, units.seconds) then return seconds end
  refuse(path, value, ('a time from %s to %s: seconds, or a string such as "250ms", "2s", "5m", "1h"'):format(
    entry.min, entry.max))
end

-- Seconds, or math.huge for "none".
function types.deadline(value, path, entry)
  if value == "none" then return math.huge end
  local seconds = units.seconds(value)
  if in_bounds(seconds, entry, units.seconds) then return seconds end
  refuse(path, value, ('a time from %s to %s, or "none"'):format(entry.min, entry.max))
end

function types.number(value, path, entry)
  if type(value) == "number" and in_bounds(value, entry, tonumber) then return value end
  refuse(path, value, ("a number from %s to %s"):format(entry.min, entry.max))
end

function types.bytes(value, path, entry)
  local bytes = units.bytes(value)
  if bytes and bytes % 1 == 0 and in_bounds(bytes, entry, units.bytes) then return bytes end
  refuse(path, value, ('a size from %s to %s: bytes, or a string such as "64k", "1m"'):format(entry.min, entry.max))
end

types["boolean"] = function(value, path)
  if type(value) == "boolean" then return value end
  refuse(path, value, "true or false")
end

-- A function belongs to the program that made it; the threads of a server have Lua states of their own.
types["function"] = function(value, path, _, context)
  if not context.is_library then fail(path, "only rille.run, in a program, takes a function") end
  if type(value) == "function" then return value end
  refuse(path, value, "a function")
end

function types.string(value, path, entry)
  if type(value) == "string" and #value >= entry.min and #value <= entry.max and not value:find("%c") then return value end
  refuse(path, value, ("a string of %d to %d bytes"):format(entry.min, entry.max))
end

function types.name(value, path, entry)
  if type(value) == "string" and #value >= entry.min and #value <= entry.max and value:find("^[%w_.-]+$") then return value end
  refuse(path, value, ('a name of %d to %d letters, digits, "_", "." and "-"'):format(entry.min, entry.max))
end

-- The name of a pool; or true, for that which is meant without one.
function types.pool(value, path)
  if type(value) == "boolean" then return value end
  if type(value) == "string" and value ~= "io" and #value >= 1 and #value <= 63 and not value:find("%c") then return value end
  refuse(path, value, "true, false or the name of a pool (of 1 to 63 bytes, not \"io\")")
end

function types.enum(value, path, entry)
  for _, one in ipairs(entry.values) do
    if value == one then return value end
  end
  refuse(path, value, quoted_list(entry.values))
end

function types.loops(value, path, entry)
  if value == "auto" then return math.min(require("rille.core").rille_cpu_count(), entry.max) end
  if type(value) == "number" and value % 1 == 0 and in_bounds(value, entry, tonumber) then return value end
  refuse(path, value, ('a whole number from %d to %d, or "auto"'):format(entry.min, entry.max))
end

local PROCESSORS = 1024 -- numbers the kernel's sets of processors have room for

-- Whether this process may use them is known when the loops start.
function types.pin(value, path)
  if type(value) == "boolean" then return value end
  local expected = ("true, or a list of processor numbers from 0 to %d"):format(PROCESSORS - 1)
  if type(value) ~= "table" then refuse(path, value, expected) end
  local list = {}
  for i, cpu in ipairs(value) do
    if type(cpu) ~= "number" or cpu % 1 ~= 0 or cpu < 0 or cpu >= PROCESSORS then refuse(below(path, i), cpu, expected) end
    list[i] = cpu
  end
  for key in pairs(value) do
    if not list[key] then fail(path, "has a key %s; expected %s", shown(key), expected) end
  end
  if #list == 0 then fail(path, "is empty; expected %s", expected) end
  return list
end

-- "0660" is octal, as chmod has it; a number is what Lua makes of it.
function types.mode(value, path)
  local bits = value
  if type(value) == "string" then bits = value:find("^[0-7]+$") and #value <= 4 and tonumber(value, 8) or nil end
  if type(bits) == "number" and bits % 1 == 0 and bits >= 0 and bits <= 511 then return bits end
  refuse(path, value, 'permission bits as an octal string such as "0660"')
end

function types.lines(value, path)
  if type(value) == "string" then return { value } end
  if type(value) ~= "table" then refuse(path, value, "a string or a list of strings") end
  local lines = {}
  for i, line in ipairs(value) do
    if type(line) ~= "string" then refuse(below(path, i), line, "a string") end
    lines[i] = line
  end
  return lines
end

local function path_of_file(value, path, context)
  if type(value) ~= "string" or value == "" or value:find("%z") then refuse(path, value, "a path") end
  return context.folder and paths.join(context.folder, value) or value
end

function types.file(value, path, _, context)
  return path_of_file(value, path, context)
end

-- What begins with dashes is a text.
function types.pem(value, path, _, context)
  if type(value) == "string" and value:find("-----BEGIN", 1, true) then return value end
  return path_of_file(value, path, context)
end

function types.redis(value, path)
  if type(value) == "string" and require("rille.redis.url").parse(value) then return value end
  refuse(path, value, 'a URL such as "redis://127.0.0.1:6379/0", "rediss://HOST" or "unix:/PATH"')
end

-- They need not be there.
function types.files(value, path, entry, context)
  if type(value) == "string" then value = { value } end
  if type(value) ~= "table" then refuse(path, value, "a path or a list of paths") end
  if #value > entry.max then fail(path, "has %d paths; expected at most %d", #value, entry.max) end
  local list = {}
  for i, one in ipairs(value) do list[i] = path_of_file(one, below(path, i), context) end
  for key in pairs(value) do
    if not list[key] then fail(path, "has a key %s; expected a path or a list of paths", shown(key)) end
  end
  return list
end

function types.templates(value, path, _, context)
  if type(value) ~= "string" then refuse(path, value, 'a string such as "lib/?.lua;lib/?/init.lua"') end
  return context.folder and paths.join_templates(context.folder, value) or value
end

-- ---- what servers are made of ----------------------------------------------------------------------------------

local function address(value, path)
  if type(value) ~= "string" then refuse(path, value, 'a URL such as "tcp://127.0.0.1:7000"') end
  local message = require("rille.config.address")(value)
  if message then fail(path, "%s", message) end
  return value
end

function types.addresses(value, path)
  if type(value) == "string" then return { address(value, path) } end
  local expected = 'a URL such as "tcp://127.0.0.1:7000", or a list of such'
  if type(value) ~= "table" then refuse(path, value, expected) end
  local list = {}
  for i, url in ipairs(value) do list[i] = address(url, below(path, i)) end
  for key in pairs(value) do
    if not list[key] then fail(path, "has a key %s; expected %s", shown(key), expected) end
  end
  if #list == 0 then fail(path, "is empty; expected %s", expected) end
  return list
end

local function network(value, path)
  if type(value) ~= "string" then refuse(path, value, 'a network such as "10.0.0.0/8" or "2001:db8::/32"') end
  local message = require("rille.cidr").problem(value)
  if message then fail(path, "%s", message) end
  return value
end

function types.networks(value, path, entry)
  if type(value) == "string" then return { network(value, path) } end
  local expected = 'a network such as "10.0.0.0/8", or a list of such'
  if type(value) ~= "table" then refuse(path, value, expected) end
  if #value > entry.max then fail(path, "has %d networks; expected at most %d", #value, entry.max) end
  local list = {}
  for i, one in ipairs(value) do list[i] = network(one, below(path, i)) end
  for key in pairs(value) do
    if not list[key] then fail(path, "has a key %s; expected %s", shown(key), expected) end
  end
  return list
end

function types.script(value, path, _, context)
  if context.is_library and (type(value) == "function" or type(value) == "table") then return value end
  if type(value) ~= "string" or value == "" or value:find("%z") then
    refuse(path, value, context.is_library and "a function, a table of hooks, a path or a module name"
      or "a path or a module name")
  end
  local is_path = value:find("/", 1, true) or value:find("%.lua$")
  if not is_path or not context.folder then return value end
  local file = paths.join(context.folder, value)
  local f = io.open(file)
  if not f then
    fail(path, "cannot open %s (a relative path starts at the configuration's folder)", shown(file))
  end
  f:close()
  return file
end

-- In a library the module belongs to the program that is running; in a server each script's state loads its own.
function types.codec(value, path, _, context)
  local codecs = require "rille.codec"
  if codecs.is_spec(value) then
    local made, keys, problem = codecs.of(value)
    if made then return context.is_library and made or value end
    for _, key in ipairs(keys) do path = below(path, key) end
    fail(path, "%s", problem)
  end
  local codec = value
  if context.is_library and type(value) == "string" then
    local ok, module = pcall(require, value)
    if not ok then fail(path, "%s", (tostring(module):match("^[^\n]*"):gsub(":$", ""))) end
    codec = module
  elseif type(value) == "string" and value ~= "" then
    return value
  end
  if context.is_library and type(codec) == "table" and type(codec.decode) == "function" then return codec end
  refuse(path, value, context.is_library and "a table with a function decode, or a module that returns one"
    or 'a framing such as "line" or { "line", max = "4k" }, or the name of a module')
end

local PLAIN = { string = true, number = true, boolean = true }

local function need_plain(value, path, depth)
  if type(value) ~= "table" then
    if not PLAIN[type(value)] then fail(path, "is a %s; options are plain data", type(value)) end
    return
  end
  if depth > NESTING_MAX then fail(path, "is a table in itself, or nested deeper than %d", NESTING_MAX) end
  for key, one in pairs(value) do
    if not PLAIN[type(key)] then fail(path, "has a %s as a key; options are plain data", type(key)) end
    need_plain(one, below(path, key), depth + 1)
  end
end

function types.options(value, path, _, context)
  if type(value) ~= "table" then refuse(path, value, "a table") end
  if context.is_library then return value end
  local ok, problem = pcall(need_plain, value, path, 1)
  if ok then return value end
  -- a table in itself has a path as long as the nesting: its own name says enough
  if #problem.path > NESTING_MAX then problem.path = path end
  error(problem, 0)
end

-- ---- tables ----------------------------------------------------------------------------------------------------

local function names_of(keys)
  local names = {}
  for i, entry in ipairs(keys) do names[i] = entry.name end
  return names
end

local function has_name(name, keys)
  for _, entry in ipairs(keys) do
    if entry.name == name then return true end
  end
end

local MEMBER = { list = "[1].", map = ".NAME." }

-- Where below these keys a name belongs, as text: "limits.max_input"; nil.
local function place_of(name, keys, prefix)
  for _, entry in ipairs(keys) do
    if entry.name == name and prefix ~= "" then return prefix .. name end
    if entry.keys then
      local place = place_of(name, entry.keys, prefix .. entry.name .. (MEMBER[entry.type] or "."))
      if place then return place end
    end
  end
end

local function refuse_key(key, keys, path, context)
  local at = below(path, key)
  if type(key) ~= "string" then fail(at, "a value without a name; expected one of %s", table.concat(names_of(keys), ", ")) end
  local is_top = has_name(key, context.keys) -- then that one is meant, not one of the same name further down
  local meant = near(key, names_of(keys)) or not is_top and place_of(key, keys, "")
  if meant then fail(at, "unknown key; did you mean '%s'?", meant) end
  local place = is_top and key or place_of(key, context.keys, "") or near(key, names_of(context.keys))
  if place then fail(at, "unknown key here; at the top level there is '%s'", place) end
  fail(at, "unknown key; expected one of %s", table.concat(names_of(keys), ", "))
end

local function need_known_keys(given, keys, path, context)
  local known, unknown = {}, {}
  for _, entry in ipairs(keys) do known[entry.name] = true end
  for key in pairs(given) do
    if not known[key] then unknown[#unknown + 1] = key end
  end
  -- the same one each time
  table.sort(unknown, function(a, b) return tostring(a) < tostring(b) end)
  if #unknown > 0 then refuse_key(unknown[1], keys, path, context) end
end

-- inherited: values that stand in for the defaults
local function table_of(given, keys, path, context, inherited)
  if type(given) ~= "table" then refuse(path, given, "a table") end
  need_known_keys(given, keys, path, context)
  local out = {}
  context.out = context.out or out
  for _, entry in ipairs(keys) do
    local value, at = given[entry.name], below(path, entry.name)
    if value == nil and inherited then
      out[entry.name] = inherited[entry.name]
    else
      if value == nil then value = entry.default end
      if value == nil and entry.required then
        fail(path, "has no '%s'; add %s", entry.name, entry.about)
      end
      if entry.keys and value == nil and not entry.optional and entry.type ~= "workers" then value = {} end
      if value ~= nil then out[entry.name] = types[entry.type](value, at, entry, context, inherited and inherited[entry.name]) end
    end
  end
  return out
end

function types.table(value, path, entry, context, inherited)
  if entry.switch and type(value) == "boolean" then value = { [entry.switch] = value } end
  return table_of(value, entry.keys, path, context, entry.inherits and context.out[entry.inherits] or inherited)
end

function types.workers(value, path, entry, context)
  if type(value) == "number" then value = { max = value } end
  if type(value) ~= "table" then refuse(path, value, "a whole number of workers, or a table") end
  return table_of(value, entry.keys, path, context)
end

function types.list(value, path, entry, context)
  if type(value) ~= "table" then refuse(path, value, "a list of tables") end
  local list = {}
  for i, one in ipairs(value) do list[i] = table_of(one, entry.keys, below(path, i), context) end
  for key in pairs(value) do
    if not list[key] then fail(path, "expected a list of tables: %s = { { ... }, { ... } }", entry.name) end
  end
  if #list > entry.max then fail(path, "has %d tables; expected at most %d", #list, entry.max) end
  return list
end

-- entry.max bounds the names, in bytes.
function types.map(value, path, entry, context)
  if type(value) ~= "table" then refuse(path, value, "a table of tables") end
  local map = {}
  for name, one in pairs(value) do
    if type(name) ~= "string" or #name < 1 or #name > entry.max or name:find("%c") then
      fail(below(path, name), "not a name; expected %s = { NAME = { ... } }, NAME of 1 to %d bytes", entry.name, entry.max)
    end
    map[name] = table_of(one, entry.keys, below(path, name), context)
  end
  return map
end

-- ---- the face --------------------------------------------------------------------------------------------------

-- given by the keys of defaults.lua. The normalized table; or nil, path, problem.
-- context: is_library; folder of relative paths (nil: they stay as they are); out, whose tables others inherit from (nil: the
-- result). keys is set here.
function check.run(given, keys, context)
  context.keys = keys
  local ok, result = pcall(table_of, given, keys, {}, context)
  if ok then return result end
  if type(result) ~= "table" then error(result, 0) end
  return nil, result.path, result.problem
end

return check
