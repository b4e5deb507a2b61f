-- args: what stands on the command line, by a table that says what may.

local near = require "rille.config.near"

local args = {}

local function names_of(options)
  local names = {}
  for name in pairs(options) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- argv from index first on. spec:
--   options     by name: { value = "FILE" } takes one, { value = "URL", many = true } any number, {} none
--   short       names of options by their letters: { e = "eval" } makes -e CODE mean --eval CODE
--   positional  how many arguments beside options there may be
--   stops       what follows the last positional belongs to somebody else: it becomes `rest`
--   rest        what follows "--" becomes `rest`
-- A table of option values by name, the positional arguments as list part, and rest; or nil, message for a usage error.
-- --help and -h give { help = true }.
function args.parse(argv, first, spec)
  local out, i = {}, first
  local function take_rest(from)
    out.rest = {}
    for k = from, #argv do out.rest[#out.rest + 1] = argv[k] end
    return out
  end
  while i <= #argv do
    local arg = argv[i]
    local name, value = arg:match("^%-%-([%w-]+)=(.*)$")
    name = name or arg:match("^%-%-([%w-]+)$") or spec.short and spec.short[arg:match("^%-(%a)$")]
    if arg == "-h" or arg == "--help" then return { help = true } end
    if arg == "--" and spec.rest then return take_rest(i + 1) end
    if arg:sub(1, 1) == "-" and arg ~= "-" then
      local option = spec.options[name]
      if not option then
        local meant = name and near(name, names_of(spec.options))
        return nil, ("unknown option '%s'%s"):format(arg:match("^[^=]*"), meant and ("; did you mean '--%s'?"):format(meant) or "")
      end
      if option.value and not value then
        i = i + 1
        value = argv[i]
        if not value or value:sub(1, 2) == "--" then return nil, ("--%s needs a value: --%s %s"):format(name, name, option.value) end
      elseif value and not option.value then
        return nil, ("--%s takes no value"):format(name)
      end
      if option.many then
        out[name] = out[name] or {}
        table.insert(out[name], value)
      elseif out[name] ~= nil then
        return nil, ("--%s is given twice"):format(name)
      else
        out[name] = value or true
      end
    else
      if #out >= spec.positional then return nil, ("surplus argument '%s'"):format(arg) end
      out[#out + 1] = arg
      if spec.stops and #out == spec.positional then return take_rest(i + 1) end
    end
    i = i + 1
  end
  return out
end

-- A number as somebody writes one, and which is written back the same: not "007", "1e3" or "0x10", which may be names.
local function number_of(text)
  if not (text:find("^%-?%d+$") or text:find("^%-?%d+%.%d+$")) or text:find("^%-?0%d") then return nil end
  local n = tonumber(text)
  return math.abs(n) <= 2 ^ 53 and n or nil
end

-- The list of key=value arguments as a table of options: true, false and numbers become what they look like, all else is a
-- string. Or nil, message.
function args.options(list)
  local options = {}
  for _, text in ipairs(list or {}) do
    local key, value = text:match("^([^=]+)=(.*)$")
    if not key then return nil, ("option '%s': expected key=value"):format(text) end
    if value == "true" or value == "false" then
      options[key] = value == "true"
    else
      options[key] = number_of(value) or value
    end
  end
  return options
end

return args
