-- listener: addresses that a script listens on, from the configuration or at run time.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local scheme = require "rille.config.scheme"
local script = require "rille.script"
local state = require "rille.state"

local Listener = {}
Listener.__index = Listener

local M = {}

local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", 512)
local address_box = ffi.new("char[?]", 512)

local ACCEPT = { shared = C.RILLE_ACCEPT_SHARED, reuseport = C.RILLE_ACCEPT_REUSEPORT, balanced = C.RILLE_ACCEPT_BALANCED }
local BALANCE = {
  round_robin = C.RILLE_BALANCE_ROUND_ROBIN, random = C.RILLE_BALANCE_RANDOM,
  least_connections = C.RILLE_BALANCE_LEAST_CONNECTIONS, source_hash = C.RILLE_BALANCE_SOURCE_HASH,
}
-- Of services that speak HTTP: limits, then timeouts.
local HTTP_LIMITS = {
  head = C.RILLE_SET_HEAD, target = C.RILLE_SET_TARGET, headers = C.RILLE_SET_HEADERS, body = C.RILLE_SET_BODY,
  body_rate = C.RILLE_SET_BODY_RATE, requests = C.RILLE_SET_REQUESTS,
}
local HTTP_TIMEOUTS = { header = C.RILLE_SET_HEADER_TIME, body = C.RILLE_SET_BODY_TIME }
local SETTINGS = {
  max_input = C.RILLE_SET_MAX_INPUT, high_water = C.RILLE_SET_HIGH_WATER, nodelay = C.RILLE_SET_NODELAY,
  keepalive = C.RILLE_SET_KEEPALIVE,
}
local TIMEOUTS = {
  read = C.RILLE_SET_READ, write = C.RILLE_SET_WRITE, idle = C.RILLE_SET_IDLE, lifetime = C.RILLE_SET_LIFETIME,
  linger = C.RILLE_SET_LINGER,
}

local function set_http(service, hooks, settings)
  C.rille_service_set(service, C.RILLE_SET_HTTP, 1)
  C.rille_service_set(service, C.RILLE_SET_TUNNEL, hooks.on_tunnel and 1 or 0)
  for name, key in pairs(HTTP_LIMITS) do
    local value = settings.limits and settings.limits[name]
    if value then C.rille_service_set(service, key, value) end
  end
  for name, key in pairs(HTTP_TIMEOUTS) do
    local seconds = settings.timeouts and settings.timeouts[name]
    if seconds then C.rille_service_set(service, key, seconds * 1000) end
  end
end

-- A service: hooks and the settings of its connections. settings: { timeouts = {seconds}, limits = {bytes}, nodelay, keepalive }.
-- protocol: "stream" or "http".
function M.service(hooks, settings, protocol)
  local id = #state.services + 1
  local service = C.rille_service_new(state.handle, id, script.hook_bits(hooks))
  if service == nil then error("no memory for a service", 2) end
  for name, key in pairs(TIMEOUTS) do
    local seconds = settings.timeouts and settings.timeouts[name]
    if seconds then C.rille_service_set(service, key, seconds * 1000) end
  end
  local limits = settings.limits or {}
  for name, key in pairs(SETTINGS) do
    local value = limits[name]
    if value == nil then value = settings[name] end
    if value == true then value = 1 elseif value == false then value = 0 end
    if value then C.rille_service_set(service, key, value) end
  end
  if protocol == "http" then set_http(service, hooks, settings) end
  local on_request = hooks.on_request
  if settings.codec then on_request = require("rille.conn").framed(on_request, settings.codec) end
  state.services[id] = {
    on_request = on_request, on_prepare = hooks.on_prepare, on_connect = hooks.on_connect, on_idle = hooks.on_idle,
    on_disconnect = hooks.on_disconnect, on_close = hooks.on_close, on_tunnel = hooks.on_tunnel,
    serve = protocol == "http" and require "rille.http.serve" or require("rille.dispatch").serve,
  }
  return service
end

-- SO_REUSEPORT does not exist for Unix sockets.
local function default_accept(address)
  return address:find("^unix:") and "shared" or "reuseport"
end

-- Listen on url for the hooks. services: by protocol, those that were made already. A Listener, or nil, error, message for
-- people. group: the number of this address among those of the server, which has it on every loop; nil: it is this loop's alone.
function M.open(services, hooks, url, settings, group)
  local protocol, address = scheme.split(url, settings.protocol)
  local service = services[protocol] or M.service(hooks, settings, protocol)
  services[protocol] = service
  local options = ffi.new("rille_listen_options")
  options.backlog = settings.backlog or 0
  options.group = group or 0
  options.accept = ACCEPT[settings.accept or default_accept(address)]
  options.balance = BALANCE[settings.balance or "round_robin"]
  options.ipv6_only = settings.ipv6_only and 1 or 0
  options.receive_buffer = settings.receive_buffer or 0
  options.send_buffer = settings.send_buffer or 0
  options.max_connections = settings.limits and settings.limits.max_connections or 0
  options.mode = settings.mode or 0
  options.stays = settings.stays and 1 or 0
  if settings.device then ffi.copy(options.device, settings.device:sub(1, 15)) end
  local p = C.rille_listener_open(service, address, options, err_box, message_box, 512)
  if p == nil then return nil, errors.text[-err_box[0]], ffi.string(message_box) end
  return setmetatable({ _p = p, _run = state.services, _is_http = address ~= url }, Listener)
end

-- Its pointer, until it is closed or its run is over, which frees it.
local function held(self)
  return self._run == state.services and self._p
end

-- The URL it is bound to, with the port that was picked; nil when it is closed.
function Listener:address()
  if not held(self) then return nil, "closed" end
  local address = ffi.string(address_box, C.rille_listener_address(self._p, address_box, 512))
  return self._is_http and scheme.http(address) or address
end

-- No further connections; those it accepted go on.
function Listener:close()
  if held(self) then C.rille_listener_close(self._p) end
  self._p = nil
  return true
end

-- rille.listen(url, handler[, settings]): handler is a function, a table of hooks, or a key of the script's table.
-- A Listener, or nil, err, message.
function M.listen(url, handler, settings)
  state.need_loop("listen")
  if type(url) ~= "string" then misuse("bad argument #1 to 'listen' (an address expected, got %s)", type(url)) end
  if type(handler) == "string" then
    local key = handler
    handler = type(state.script) == "table" and state.script[key]
    if not handler then misuse("the script's table has no '%s'", key) end
  end
  local hooks, message = script.hooks_of(handler, "given to rille.listen")
  if not hooks then misuse(message) end
  settings, message = require("rille.config").server(settings or {}, "rille.listen")
  if not settings then misuse(message) end
  return M.open({}, hooks, url, settings)
end

return M
