-- config: the configuration of a file or of a program, checked against defaults.lua, as server.lua reads it: every default filled in,
-- seconds and bytes as numbers, servers[i].listen a list. A message is one line: file, line, key, what is wrong, what is expected.

local check = require "rille.config.check"
local defaults = require "rille.defaults"
local locate = require "rille.config.locate"
local paths = require "rille.config.paths"
local scheme = require "rille.config.scheme"

local config = {}

-- What rille.listen takes beside its address and handler.
local setting_keys = {}
for _, entry in ipairs(defaults.top) do
  for _, key in ipairs(entry.name == "servers" and entry.keys or {}) do
    if not key.required then setting_keys[#setting_keys + 1] = key end
  end
end

local function message_of(where, path, problem, line)
  local name = check.name_of(path)
  local place = line and ("%s:%d"):format(where, line) or where
  return name == "" and ("%s: %s"):format(place, problem) or ("%s: %s: %s"):format(place, name, problem)
end

-- What no single key of a server can tell: the path below the server of what is wrong, problem.
local function check_server(server)
  if not server.codec then return end
  if server.protocol == "http" then return { "codec" }, 'excludes protocol = "http"; keep one of them' end
  for _, url in ipairs(server.listen or {}) do
    if scheme.split(url) == "http" then return { "codec" }, ("excludes %s, which speaks HTTP; keep one of them"):format(url) end
  end
end

-- What no single key can tell.
local function check_together(conf)
  if conf.log.file and conf.log.to then return { "log", "to" }, "excludes log.file; keep one of them" end
  for i, server in ipairs(conf.servers) do
    local path, problem = check_server(server)
    if path then return { "servers", i, unpack(path) }, problem end
  end
end

local function need_servers(conf)
  if #conf.servers == 0 then
    return {}, 'has no servers; add servers = { { listen = "tcp://127.0.0.1:7000", script = "echo.lua" } }'
  end
end

-- ---- a table of the program ------------------------------------------------------------------------------------

-- The configuration of a program: scripts may be functions or tables of hooks, relative paths start at the current folder.
-- where names the caller in messages. Without it the table is the command's own, and servers may be empty.
-- The normalized table, or nil, message.
function config.check(given, where)
  local context = { is_library = where ~= nil }
  local conf, path, problem = check.run(given, defaults.top, context)
  if conf then path, problem = check_together(conf) end
  if conf and not path and where then path, problem = need_servers(conf) end
  if path then return nil, message_of(where or "configuration", path, problem) end
  return conf
end

-- The settings of rille.listen: what a server has beside listen and script. Defaults are those of this library, not of the
-- configuration that runs. The normalized table, or nil, message.
function config.server(settings, where)
  local context = { is_library = true, out = config.defaults() }
  local server, path, problem = check.run(settings, setting_keys, context)
  if server then path, problem = check_server(server) end
  if path then return nil, message_of(where, path, problem) end
  return server
end

-- The configuration of a run without servers.
function config.defaults()
  return assert(config.check({ servers = {} }))
end

-- One value of the command line as the key at path takes it: the value, or nil, problem.
function config.value(path, value)
  local given = { servers = {} }
  local at = given
  for i = 1, #path - 1 do
    at[path[i]] = at[path[i]] or {}
    at = at[path[i]]
  end
  at[path[#path]] = value
  local conf, _, problem = check.run(given, defaults.top, {})
  if not conf then return nil, problem end
  for _, key in ipairs(path) do conf = conf[key] end
  return conf
end

-- ---- a file ----------------------------------------------------------------------------------------------------

local function read(file)
  local f, message = io.open(file, "rb")
  if not f then return nil, "cannot open " .. message end
  local source, why = f:read("*a")
  f:close()
  if not source then return nil, ("cannot read %s: %s"):format(file, why) end
  return source
end

-- Lua's message as one line with the whole name of the file, which Lua shortens from the left when it is long.
local function one_line(message, file)
  local line = tostring(message):match("^[^\n]*"):gsub(":$", "")
  local tail, rest = line:match("^%.%.%.(.-)(:%d+: .*)$")
  if tail and file:sub(-#tail) == tail then line = file .. rest end
  return line:find(file, 1, true) and line or ("%s: %s"):format(file, line)
end

-- Run the source. What it returned, or nil, message.
local function evaluate(source, file)
  -- a first line for the shell; its end stays, so that lines keep their numbers
  local chunk, message = load(source:gsub("^#[^\n]*", "", 1), "@" .. file, "t", setmetatable({}, { __index = _G }))
  if not chunk then return nil, one_line(message, file) end
  local ok, value = pcall(chunk)
  if not ok then return nil, one_line(value, file) end
  if type(value) ~= "table" then
    return nil, ("%s: returned %s; expected a table: return { servers = { ... } }"):format(file, check.shown(value))
  end
  return value
end

-- The configuration in a file. The normalized table, or nil, message.
function config.load(file)
  local source, given, message
  source, message = read(file)
  if not source then return nil, message end
  given, message = evaluate(source, file)
  if not given then return nil, message end
  local conf, path, problem = check.run(given, defaults.top, { folder = paths.folder(file) })
  if conf then path, problem = check_together(conf) end
  if conf and not path then path, problem = need_servers(conf) end
  if path then return nil, message_of(file, path, problem, locate(source, path)) end
  conf.file = paths.real(file) -- for `rille status --conf`
  return conf
end

return config
