-- conf: the configuration that the arguments of `rille run` and `rille check` stand for.

local args = require "rille.cli.args"
local config = require "rille.config"
local tree = require "rille.cli.tree"

local M = {}

-- Options of the command line that stand for a key of the configuration.
local KEYS = { loops = { "loops" }, processes = { "processes" }, ["log-level"] = { "log", "level" }, ["log-format"] = { "log", "format" } }

local function set(conf, path, value)
  for i = 1, #path - 1 do conf = conf[path[i]] end
  conf[path[#path]] = value
end

-- Change conf by what the command line says: true, or nil, message. It holds for what a reload reads as well.
function M.override(conf, given)
  conf.overrides = { dev = given.dev }
  if given.dev then
    conf.dev = true
    conf.log.level = "debug"
  end
  for _, name in ipairs { "loops", "processes", "log-level", "log-format" } do
    local text = given[name]
    if text then
      conf.overrides[name] = text
      local value, problem = config.value(KEYS[name], tonumber(text) or text)
      if value == nil then return nil, ("--%s: %s"):format(name, problem) end
      set(conf, KEYS[name], value)
    end
  end
  return true
end

-- The configuration of one script. listen: a list of URLs; protocol: nil for what these say. conf, or nil, message.
function M.of_script(script, listen, rest, protocol)
  local options, message = args.options(rest)
  if not options then return nil, message end
  for _, url in ipairs(listen) do
    local problem = require("rille.config.address")(url)
    if problem then return nil, "--listen: " .. problem end
  end
  if protocol and protocol ~= "stream" and protocol ~= "http" then
    return nil, ('--protocol: got "%s"; expected "stream" or "http"'):format(protocol)
  end
  return config.check { servers = { { listen = listen, script = script, options = options, protocol = protocol } } }
end

-- The configuration of a file; of the default one when file is nil. conf, path of the file; or nil, message.
function M.of_file(file)
  local message
  if not file then
    file, message = tree.configuration()
    if not file then return nil, message end
  end
  local conf
  conf, message = config.load(file)
  if not conf then return nil, message end
  return conf, file
end

return M
