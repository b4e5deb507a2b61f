-- config: the configuration of a file or of a program, checked against defaults.lua, as server.lua reads it: every default filled in,
-- seconds and bytes as numbers, servers[i].listen a list. A message is one line: file, line, key, what is wrong, what is expected.

local check = require "rille.config.check"
local defaults = require "rille.defaults"
local loaded = require "rille.config.loaded"
local locate = require "rille.config.locate"
local names = require "rille.config.names"
local paths = require "rille.config.paths"
local scheme = require "rille.config.scheme"
local units = require "rille.config.units"

local config = {}

-- What rille.listen takes beside its address and handler.
local setting_keys = {}
local NO_SETTINGS = { name = true, reload = true } -- of a server as a whole
for _, entry in ipairs(defaults.top) do
  for _, key in ipairs(entry.name == "servers" and entry.keys or {}) do
    if key.name == "accept" then
      key = setmetatable({ values = { "reuseport", "shared", "balanced", "single" } }, { __index = key })
    end
    if not key.required and not NO_SETTINGS[key.name] then setting_keys[#setting_keys + 1] = key end
  end
end

local function message_of(where, path, problem, line)
  local name = check.name_of(path)
  local place = line and ("%s:%d"):format(where, line) or where
  return name == "" and ("%s: %s"):format(place, problem) or ("%s: %s: %s"):format(place, name, problem)
end

local MEMORY_MIN = 4 * 2 ^ 20 -- what a small script and the library take, twice

local DATAGRAM_KEYS = { "session", "multicast", "broadcast" }

-- Of a server over datagrams, on so many loops of so many processes: what would lose or double them.
local function check_spread(server, loops, processes)
  if loops * processes == 1 then return end
  local is_for_all = server.multicast or server.broadcast
  if is_for_all and server.accept == "reuseport" then
    return { "accept" }, 'got "reuseport"; each loop would get a copy of a multicast or broadcast: expected "shared" or "balanced"'
  end
  if not server.session then return end
  for _, url in ipairs(server.listen or {}) do
    local accept = server.accept or ((url:find("^unix") or is_for_all) and "shared" or "reuseport")
    if accept == "shared" and processes > 1 then
      return { "session" }, ('accept = "shared" at %s cannot keep a peer in one process; set accept = "reuseport", or '
        .. 'processes = 1'):format(url)
    elseif accept == "shared" then
      return { "session" }, ('accept = "shared" at %s cannot keep a peer on one loop; set accept = "balanced" and '
        .. 'balance = "source_hash", or loops = 1'):format(url)
    elseif accept == "balanced" and processes > 1 then
      return { "session" }, 'accept = "balanced" cannot keep a peer in one process; set accept = "reuseport", or processes = 1'
    elseif accept == "balanced" and server.balance ~= "source_hash" then
      return { "session" }, ('balance = "%s" cannot keep a peer on one loop; set balance = "source_hash"'):format(server.balance)
    end
  end
end

-- Whether its addresses are of datagrams, or path, problem.
local function check_datagrams(server, loops, processes)
  local of_datagrams, of_streams
  for _, url in ipairs(server.listen or {}) do
    if scheme.is_datagram(url) then of_datagrams = url else of_streams = url end
  end
  if of_datagrams and of_streams then
    return { "listen" }, ("%s and %s: one script handles datagrams or connections; make two servers"):format(
      of_streams, of_datagrams)
  end
  if of_datagrams and server.codec then return { "codec" }, ("excludes %s: a datagram is a frame"):format(of_datagrams) end
  if of_datagrams and server.protocol == "http" then
    return { "protocol" }, ('got "http"; %s has no connections to speak it over'):format(of_datagrams)
  end
  for _, key in ipairs(DATAGRAM_KEYS) do
    if of_streams and server[key] then return { key }, ("is for datagrams; %s has none"):format(of_streams) end
  end
  if of_datagrams and server.balance == "script" then
    return { "balance" }, ('got "script"; on_balance is for connections, %s has none'):format(of_datagrams)
  end
  if of_datagrams then return check_spread(server, loops, processes) end
end

-- The workers load the script and the codec by themselves.
local function check_offload(server)
  if not server.offload then return end
  for _, url in ipairs(server.listen or {}) do
    if scheme.is_datagram(url) then return { "offload" }, "is not for datagrams; call rille.pool from the handler" end
  end
  if server.concurrency > 1 then return { "offload" }, "excludes concurrency: what runs on workers keeps its order" end
  if type(server.script) ~= "string" then return { "offload" }, "needs a script that is a path or a module name" end
  if type(server.codec) == "table" and server.codec.decode then
    return { "offload" }, "excludes a codec that is loaded already; decode in on_request"
  end
end

-- Bytes that a frame of this codec may take; 0: nobody has said.
local function largest_frame(codec)
  local codecs = require "rille.codec"
  if codecs.is_spec(codec) then codec = codecs.of(codec) end
  return codecs.is_framing(codec) and codec:largest() or 0
end

-- Files are read, so that what is wrong with them is said before anything starts.
local function check_tls(server)
  local is_http = server.protocol == "http"
  for _, url in ipairs(server.listen or {}) do
    local protocol, _, is_tls = scheme.split(url, server.protocol)
    is_http = is_http or protocol == "http"
    if is_tls and not server.tls then
      return { "listen" }, ('%s needs tls = { certificate = "FILE", key = "FILE" }'):format(url)
    end
  end
  if not server.tls then return end
  local path, problem = require("rille.tls").problem(server.tls, "stream")
  if not path and is_http then path, problem = require("rille.tls").problem(server.tls, "http") end
  if path then return { "tls", unpack(path) }, problem end
end

-- Of the top level or of a server.
local function check_reload(reload)
  if reload.longest >= reload.quiet then return end
  return { "reload", "longest" }, ("got %s; expected at least quiet, %s"):format(reload.longest, reload.quiet)
end

local function is_small(memory)
  return memory > 0 and memory < MEMORY_MIN
end

local function small_memory(memory)
  return ("got %s; expected 0 or a size from 4m to 1024g"):format(check.shown(memory))
end

-- What no single key of a server can tell: the path below the server of what is wrong, problem.
local function check_server(server, loops, processes)
  local limits = server.limits
  if is_small(limits.memory) then return { "limits", "memory" }, small_memory(limits.memory) end
  if limits.low_water and limits.low_water > limits.high_water then
    return { "limits", "low_water" }, ("got %d; expected at most high_water, %d"):format(limits.low_water, limits.high_water)
  end
  local path, problem = check_offload(server)
  if path then return path, problem end
  path, problem = check_datagrams(server, loops, processes)
  if not path then path, problem = check_tls(server) end
  if path then return path, problem end
  if server.concurrency > 1 and not server.codec then
    return { "concurrency" }, ("got %d; it needs a codec, which makes frames"):format(server.concurrency)
  end
  if not server.codec then return end
  local largest = largest_frame(server.codec)
  if largest > limits.max_input then
    return { "codec" }, ("a frame may have %d bytes, more than limits.max_input, %d; raise that, or lower the codec's max"):format(
      largest, limits.max_input)
  end
  if server.protocol == "http" then return { "codec" }, 'excludes protocol = "http"; keep one of them' end
  for _, url in ipairs(server.listen or {}) do
    if scheme.split(url) == "http" then return { "codec" }, ("excludes %s, which speaks HTTP; keep one of them"):format(url) end
  end
end

-- A name is not another server's, be it given or after its script.
local function check_names(servers)
  for i, server in ipairs(servers) do
    for k, other in ipairs(server.name and servers or {}) do
      if other.name == server.name and k < i then
        return { "servers", i, "name" }, ('got "%s"; that is servers[%d]'):format(server.name, k)
      elseif not other.name and names.of(other) == server.name then
        return { "servers", i, "name" }, ('got "%s"; so is servers[%d] called, after its script: give it a name as well'):format(
          server.name, k)
      end
    end
  end
end

-- Servers of DNS, and words that stand between spaces for C.
local function check_dns(dns)
  for i, server in ipairs(dns.servers) do
    local has_port = server:find("^[^:]*:%d+$") or server:find("^%[.*%]:%d+$")
    local url = has_port and server or (server:find("^[^%[].*:") and "[" .. server .. "]" or server) .. ":53"
    local C = require "rille.core"
    local is_name = not url:find("^[%d.]+:") and not url:find("^%[")
    if is_name or require("rille.config.address")("udp://" .. url) or C.rille_address_needs_lookup("udp://" .. url) == 1 then
      return { "servers", i }, ('got %s; expected an address such as "192.0.2.1", "127.0.0.1:5353" or "[::1]:53"'):format(
        check.shown(server))
    end
    dns.servers[i] = url
  end
  for i, domain in ipairs(dns.search or {}) do
    if domain == "" or domain:find("[%s%c]") or #domain > 255 then
      return { "search", i }, ('got %s; expected a domain such as "example.com"'):format(check.shown(domain))
    end
  end
end

local dict_keys
for _, entry in ipairs(defaults.top) do
  if entry.name == "dicts" then dict_keys = entry.keys end
end

local CONVERT = { bytes = units.bytes, seconds = units.seconds }

-- A dict is in memory or in a store, and has the keys of one of them.
local function check_dict(dict)
  for _, entry in ipairs(dict_keys) do
    local name, default = entry.name, entry.default
    if name ~= "store" and (name == "size") == (dict.store ~= nil) then
      if default ~= nil then default = CONVERT[entry.type](default) end
      if dict[name] ~= nil and dict[name] ~= default then
        return { name }, dict.store and "is of a dict in memory; this one has a store" or "is of a dict with a store; add store"
      end
      dict[name] = nil
    end
  end
end

local function check_dicts(dicts)
  for name, dict in pairs(dicts) do
    local path, problem = check_dict(dict)
    if path then return { "dicts", name, unpack(path) }, problem end
  end
end

-- What no single key can tell.
local function check_together(conf)
  for name, one in pairs(conf.pools) do
    if is_small(one.memory) then return { "pools", name, "memory" }, small_memory(one.memory) end
  end
  if conf.workers and is_small(conf.workers.memory) then return { "workers", "memory" }, small_memory(conf.workers.memory) end
  local path, problem = check_dns(conf.dns)
  if path then return { "dns", unpack(path) }, problem end
  path, problem = check_dicts(conf.dicts)
  if path then return path, problem end
  path, problem = check_reload(conf.reload)
  if not path then path, problem = check_names(conf.servers) end
  if path then return path, problem end
  if conf.pools.io then return { "pools", "io" }, "is the pool of rille.fs; set io" end
  if conf.log.file and conf.log.to then return { "log", "to" }, "excludes log.file; keep one of them" end
  for i, server in ipairs(conf.servers) do
    path, problem = check_reload(server.reload)
    if not path then path, problem = check_server(server, conf.loops, conf.processes) end
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
  if server and settings.limits and settings.limits.memory then
    path, problem = { "limits", "memory" }, "is of a whole Lua state; set it at the server in the configuration"
  end
  if server and not path then path, problem = check_server(server, 1, 1) end
  if path then return nil, message_of(where, path, problem) end
  return server
end

-- A section of the top level by itself, given in a call. The normalized table, or nil, message.
function config.section(name, given, where)
  local keys
  for _, entry in ipairs(defaults.top) do
    if entry.name == name then keys = entry.keys end
  end
  local section, path, problem = check.run(given, keys, { is_library = true })
  if section and name == "dns" then path, problem = check_dns(section) end
  if path then return nil, message_of(where, { name, unpack(path) }, problem) end
  return section
end

-- What is wrong between the keys of a checked configuration whose values were replaced since; nil: nothing.
function config.problem(conf, where)
  local path, problem = check_together(conf)
  return path and message_of(where, path, problem)
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

-- Run the source. What it returned, or nil, message; then the other files that it has loaded.
local function evaluate(source, file)
  -- a first line for the shell; its end stays, so that lines keep their numbers
  local chunk, message = load(source:gsub("^#[^\n]*", "", 1), "@" .. file, "t", setmetatable({}, { __index = _G }))
  if not chunk then return nil, one_line(message, file) end
  local ok, value, files = loaded.call(chunk)
  if not ok then return nil, one_line(value, file), files end
  if type(value) ~= "table" then
    return nil, ("%s: returned %s; expected a table: return { servers = { ... } }"):format(file, check.shown(value)), files
  end
  return value, nil, files
end

-- The configuration in a file. The normalized table, or nil, message, the other files that it has loaded.
function config.load(file)
  local source, given, message, files
  source, message = read(file)
  if not source then return nil, message end
  given, message, files = evaluate(source, file)
  if not given then return nil, message, files end
  local conf, path, problem = check.run(given, defaults.top, { folder = paths.folder(file) })
  if conf then path, problem = check_together(conf) end
  if conf and not path then path, problem = need_servers(conf) end
  if path then return nil, message_of(file, path, problem, locate(source, path)), files end
  conf.loaded = { from = file, files = files, texts = loaded.texts { file, unpack(files) } } -- for a reload
  conf.file = paths.real(file) -- for `rille status --conf`
  return conf
end

return config
