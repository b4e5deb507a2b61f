-- console: what `rille console` sends, evaluated in a task of this state. Its print and its results are the answer.

local ffi = require "ffi"

local C = require "rille.core"
local state = require "rille.state"
local task = require "rille.task"

local console = {}

local OUTPUT_MAX = 65536 -- bytes of an answer
local KEYS_MAX, DEPTH_MAX, STRING_MAX = 50, 3, 4096

local size_box = ffi.new("double[1]")

-- ---- values as text --------------------------------------------------------------------------------------------

local function text_of(value)
  local ok, text = pcall(tostring, value)
  if ok and type(text) == "string" then return text end
  return ("(%s that cannot be shown)"):format(type(value))
end

local function quoted(text)
  local cut = #text > STRING_MAX and text:sub(1, STRING_MAX) .. "..." or text
  return (("%q"):format(cut):gsub("\\\n", "\\n"))
end

local shown

local function shown_table(t, depth)
  local metatable = getmetatable(t)
  if type(metatable) == "table" and rawget(metatable, "__tostring") or metatable and type(metatable) ~= "table" then return text_of(t) end
  if depth >= DEPTH_MAX then return "{...}" end
  local parts, count = {}, #t
  for i = 1, math.min(count, KEYS_MAX) do parts[i] = shown(rawget(t, i), depth + 1) end
  for key, value in next, t do
    local is_listed = type(key) == "number" and key >= 1 and key <= count and key % 1 == 0
    if not is_listed then
      if #parts >= KEYS_MAX then
        parts[#parts + 1] = "..."
        break
      end
      local name = type(key) == "string" and key:find("^[%a_][%w_]*$") and key or ("[%s]"):format(shown(key, DEPTH_MAX))
      parts[#parts + 1] = name .. " = " .. shown(value, depth + 1)
    end
  end
  return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
end

function shown(value, depth)
  if type(value) == "string" then return quoted(value) end
  if type(value) == "table" then return shown_table(value, depth) end
  return text_of(value)
end

-- ---- running ---------------------------------------------------------------------------------------------------

-- A list of lines that stops growing.
local function add_line(out, text)
  if out.size > OUTPUT_MAX then return end
  if out.size + #text > OUTPUT_MAX then text = text:sub(1, OUTPUT_MAX - out.size) .. "\n(more was cut)" end
  out[#out + 1] = text
  out.size = out.size + #text + 1
end

local env = nil -- what the console assigns to globals stays here

local function environment(out)
  env = env or setmetatable({ rille = require "rille" }, { __index = _G })
  env.print = function(...)
    local parts = { ... }
    for i = 1, select("#", ...) do parts[i] = text_of(parts[i]) end
    add_line(out, table.concat(parts, "\t"))
  end
  return env
end

local function trace_of(err)
  if rawequal(err, task.timeout) or rawequal(err, task.cancelled) then return err end
  local lines = {}
  for line in debug.traceback(text_of(err), 2):gmatch("[^\n]+") do
    if line:find("rille/console.lua:", 1, true) then break end
    lines[#lines + 1] = line
  end
  return table.concat(lines, "\n")
end

local function collect(out, ok, ...)
  if not ok then
    local err = ...
    add_line(out, rawequal(err, task.timeout) and "it did not end in time" or text_of(err))
    return false
  end
  for i = 1, select("#", ...) do add_line(out, shown((select(i, ...)), 0)) end
  return true
end

-- An expression, or statements.
local function compile(code, out)
  local chunk = load("return " .. code, "=console", "t", environment(out))
  if chunk then return chunk end
  return load(code, "=console", "t", environment(out))
end

local function evaluate(code, seconds, out)
  local chunk, message = compile(code, out)
  if not chunk then return collect(out, false, message) end
  local is_over = false
  local function body()
    local ok = collect(out, xpcall(chunk, trace_of))
    is_over = true
    return ok
  end
  local ok = task.with_timeout(seconds, body)
  if not is_over then return collect(out, false, task.timeout) end
  return ok
end

local function answer(request, ok, out)
  local text = table.concat(out, "\n")
  C.rille_console_answer(request, ok and 1 or 0, text, #text)
end

local function run(request)
  local code = ffi.string(C.rille_console_code(request, size_box), size_box[0])
  local out = { size = 0 }
  local ok, good = pcall(evaluate, code, C.rille_console_timeout(request), out)
  if not ok then add_line(out, text_of(good)) end
  answer(request, ok and good, out)
end

-- The CONSOLE event.
function console.receive()
  local request = C.rille_console_take(state.handle)
  if request ~= nil then task.start_later(run, request) end
end

return console
