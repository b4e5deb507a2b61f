-- place: the line of a script that something comes from, as text. Lines of the library itself are passed over.

local getinfo = debug.getinfo

local place = {}

local LIBRARY = getinfo(1, "S").source:match("^(.*/)[^/]*$") or "@rille/"

-- By function: what is known of it, false for one that is no script's.
local known = setmetatable({}, { __mode = "k" })
-- By source, kept by its functions: texts by line. What a function is called differs from caller to caller, its place does not, so each
-- line keeps the text it got first.
local sources = setmetatable({}, { __mode = "v" })

-- The function of a frame, or false.
local function script_of(fn)
  local one = known[fn]
  if one ~= nil then return one end
  local info = getinfo(fn, "S")
  local is_script = info.what ~= "C" and info.source:sub(1, #LIBRARY) ~= LIBRARY
  if is_script then
    local texts = sources[info.source] or {}
    sources[info.source] = texts
    one = { what = info.what, source = info.short_src, first = info.linedefined, texts = texts }
  end
  one = one or false
  known[fn] = one
  return one
end

local function text_of(one, line, name)
  local text = one.texts[line]
  if text then return text end
  if name == "_on_request" then name = "on_request" end -- as dispatch.lua calls it
  local where = one.what == "main" and "in main chunk" or name and ("in function '%s'"):format(name)
    or ("in function <%s:%d>"):format(one.source, one.first)
  text = ("%s:%d %s"):format(one.source, line, where)
  one.texts[line] = text
  return text
end

-- Where the script called the library: level counts as that of debug.getinfo in the caller. nil when no line of a script stands there,
-- which is so below a tail call.
function place.of_caller(level)
  level = level + 1
  local info = getinfo(level, "fln")
  while info do
    local one = script_of(info.func)
    if one then return text_of(one, info.currentline, info.name) end
    level = level + 1
    info = getinfo(level, "fln")
  end
end

-- Where a coroutine that is suspended stands; nil when that is in the library alone.
function place.of_coroutine(co)
  local level = 0
  local info = getinfo(co, level, "fln")
  while info do
    local one = script_of(info.func)
    if one then return text_of(one, info.currentline, info.name) end
    level = level + 1
    info = getinfo(co, level, "fln")
  end
end

-- Where a function stands; nil for one of the library.
function place.of_function(fn)
  local one = type(fn) == "function" and script_of(fn)
  return one and ("%s:%d the function"):format(one.source, one.first) or nil
end

-- The same for what a fiber works on: a connection's handler, or the function of a task or a timer.
function place.of_fiber(fiber)
  local work = fiber.a
  if type(work) ~= "table" then return place.of_function(fiber.fn) end
  return place.of_function(rawget(work, "_on_request")) or place.of_function(rawget(work, "fn")) or place.of_function(fiber.fn)
end

return place
