-- control: how `rille status` and its like find the server that is meant, and ask it.

local ffi = require "ffi"

local json = require "rille.cli.json"
local tree = require "rille.cli.tree"

local control = {}

local TIMEOUT_MS = 5000
local HELLO_MS = 1000
local PROCESSES_MAX = 64 -- of one server

-- The options with which a server is chosen.
control.options = { pid = { value = "N" }, control = { value = "PATH" }, conf = { value = "FILE" } }

control.help = [[
Which server: without one of these, the only one of this user that runs.

  --pid N          its process, or one of several
  --control PATH   its control socket
  --conf FILE      the configuration it was started with
]]

-- The answer to a request as text; nil, err.
local function call(path, request, timeout_ms)
  local C, errors = require "rille.core", require "rille.errors"
  local size, err = ffi.new("double[1]"), ffi.new("int[1]")
  local p = C.rille_control_call(path, request, #request, timeout_ms, size, err)
  if p == nil then return nil, errors.text[-err[0]] end
  local text = ffi.string(p, size[0])
  C.rille_control_free(p)
  return text
end

-- ---- which server ----------------------------------------------------------------------------------------------

local function quoted(text)
  return (text:gsub("[%*%?%[\\]", "\\%0"))
end

-- Where servers put their sockets when nobody says otherwise.
local function folders()
  local list = { "/tmp" }
  local own = os.getenv("XDG_RUNTIME_DIR")
  if own and own:sub(1, 1) == "/" and own ~= "/tmp" then table.insert(list, 1, own) end
  return list
end

-- Who answers at a path is added to a list.
local function greet(found, path)
  local text = call(path, "hello\n", HELLO_MS)
  local hello = text and json.decode(text)
  if hello and hello.pid then
    found[#found + 1] = { path = path, pid = hello.pid, server = hello.server, conf = hello.conf }
  end
end

-- The processes that answer: { { path =, pid =, server =, conf = } ... }; server is the parent where there are several.
local function running(name)
  local found = {}
  for _, folder in ipairs(folders()) do
    for _, path in ipairs(tree.matches(("%s/rille-%s.sock"):format(quoted(folder), name))) do greet(found, path) end
  end
  return found
end

-- Those for which a field has this value.
local function with(list, field, value)
  local found = {}
  for _, one in ipairs(list) do
    if one[field] == value then found[#found + 1] = one end
  end
  return found
end

local function the_only(found, none, is_any)
  if #found == 0 then return nil, none end
  if #found == 1 or is_any and #with(found, "server", found[1].server) == #found then return found[1].path end
  local pids = {}
  for i, one in ipairs(found) do pids[i] = ("%d"):format(one.pid) end
  table.sort(pids)
  return nil, ("%d processes answer: choose one with --pid: %s"):format(#found, table.concat(pids, ", ", 1, math.min(#pids, 10)))
end

-- The processes of a server that was told where its socket is: each has added its number.
local function path_of_numbers(path, processes, is_any)
  local found, paths = {}, {}
  for i = 1, processes do greet(found, ("%s.%d"):format(path, i)) end
  local only = the_only(found, nil, is_any)
  if only or #found == 0 then return only or path .. ".1" end
  for i, one in ipairs(found) do paths[i] = one.path end
  return nil, ("%d processes answer: choose one with --control: %s"):format(#found, table.concat(paths, ", ", 1, math.min(#paths, 10)))
end

local function path_of_conf(file, is_any)
  local settings, message = require("rille.config").load(file)
  if not settings then return nil, message end
  if not settings.control.enabled then return nil, ("%s: control = false: such a server has no control socket"):format(file) end
  local path = settings.control.path
  if path and settings.processes > 1 then return path_of_numbers(path, settings.processes, is_any) end
  if path then return path end
  return the_only(with(running("*"), "conf", settings.file), ("no server with the configuration %s runs"):format(file), is_any)
end

-- The path of the control socket that is meant. nil, message; false, message for a wrong call.
local function path_of(given, is_any)
  local count = 0
  for name in pairs(control.options) do
    if given[name] then count = count + 1 end
  end
  if count > 1 then return false, "--pid, --control and --conf exclude each other" end
  if given.control then return given.control end
  if given.conf then return path_of_conf(given.conf, is_any) end
  if given.pid then
    if not given.pid:find("^%d+$") then return nil, ("--pid: got '%s'; expected a number"):format(given.pid) end
    local found = running(given.pid)
    if #found == 0 then found = with(running("*"), "server", tonumber(given.pid)) end
    return the_only(found, ("no server with pid %s answers"):format(given.pid), is_any)
  end
  return the_only(running("*"), "no server of this user runs, or its control socket is elsewhere: name that with --control PATH", is_any)
end

-- ---- asking ----------------------------------------------------------------------------------------------------

-- Ask the server that the command line means; is_any: any of its processes. The answer as a table, and as text; or nil (false), message.
function control.ask(given, request, timeout_ms, is_any)
  local path, message = path_of(given, is_any)
  if not path then return path, message end
  local text, err = call(path, request, timeout_ms or TIMEOUT_MS)
  if not text then return nil, ("no answer from %s: %s"):format(path, err) end
  local answer
  answer, message = json.decode(text)
  if type(answer) ~= "table" then return nil, message or "the answer is no table" end
  if answer.error then return nil, answer.error end
  return answer, text
end

-- Ask every process of the server that the command line means, one after the other: a list of { pid =, answer =, message = }; or nil
-- (false), message.
function control.ask_all(given, request, timeout_ms)
  local path, message = path_of(given, true)
  if not path then return path, message end
  local list = {}
  greet(list, path)
  local base = path:match("^(.*)%.%d+$") or path
  local first = list[1]
  if not first or first.server ~= first.pid then
    local found = {}
    for i = 1, PROCESSES_MAX do greet(found, ("%s.%d"):format(base, i)) end
    if #found == 0 then found = running("*") end
    list = first and with(found, "server", first.server) or with(found, "server", found[1] and found[1].server)
  end
  if #list == 0 then list = { { path = path } } end
  for _, one in ipairs(list) do one.answer, one.message = control.ask({ control = one.path }, request, timeout_ms) end
  return list
end

-- A request of more than one call to the same server: its path is looked for once.
function control.bind(given)
  local path, message = path_of(given)
  if not path then return path, message end
  return { control = path }
end

-- ---- for people ------------------------------------------------------------------------------------------------

-- 12345678 as 11.8 MiB
function control.bytes(n)
  for _, unit in ipairs { "B", "KiB", "MiB", "GiB" } do
    if n < 1024 or unit == "GiB" then return (n < 10 and unit ~= "B" and "%.1f %s" or "%.0f %s"):format(n, unit) end
    n = n / 1024
  end
end

-- Seconds, short.
function control.span(s)
  if s < 0.001 then return ("%.0f us"):format(s * 1e6) end
  if s < 1 then return ("%.1f ms"):format(s * 1e3) end
  if s < 120 then return ("%.1f s"):format(s) end
  if s < 7200 then return ("%.0f min"):format(s / 60) end
  return s < 172800 and ("%.1f h"):format(s / 3600) or ("%.1f d"):format(s / 86400)
end

return control
