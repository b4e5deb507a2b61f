-- listener: addresses that a script listens on, from the configuration or at run time.

local ffi = require "ffi"

local C = require "rille.core"
local cidr = require "rille.cidr"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local resolve = require "rille.resolve"
local scheme = require "rille.config.scheme"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"
local tls = require "rille.tls"

local Listener = {}
Listener.__index = Listener

local M = {}

local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", 512)
local address_box = ffi.new("char[?]", 512)

local stats_box = ffi.new("rille_listener_stats[1]")

local ACCEPT = {
  shared = C.RILLE_ACCEPT_SHARED, reuseport = C.RILLE_ACCEPT_REUSEPORT, balanced = C.RILLE_ACCEPT_BALANCED,
  single = C.RILLE_ACCEPT_SINGLE,
}
local BALANCE = {
  round_robin = C.RILLE_BALANCE_ROUND_ROBIN, random = C.RILLE_BALANCE_RANDOM,
  least_connections = C.RILLE_BALANCE_LEAST_CONNECTIONS, source_hash = C.RILLE_BALANCE_SOURCE_HASH,
  script = C.RILLE_BALANCE_SCRIPT,
}
-- Of services that speak HTTP: limits, then timeouts.
local HTTP_LIMITS = {
  head = C.RILLE_SET_HEAD, target = C.RILLE_SET_TARGET, headers = C.RILLE_SET_HEADERS, body = C.RILLE_SET_BODY,
  body_rate = C.RILLE_SET_BODY_RATE, requests = C.RILLE_SET_REQUESTS,
}
local HTTP_TIMEOUTS = { header = C.RILLE_SET_HEADER_TIME, body = C.RILLE_SET_BODY_TIME }
local SETTINGS = {
  max_input = C.RILLE_SET_MAX_INPUT, high_water = C.RILLE_SET_HIGH_WATER, low_water = C.RILLE_SET_LOW_WATER,
  read_rate = C.RILLE_SET_READ_RATE, write_rate = C.RILLE_SET_WRITE_RATE, nodelay = C.RILLE_SET_NODELAY,
  keepalive = C.RILLE_SET_KEEPALIVE,
}
local TIMEOUTS = {
  read = C.RILLE_SET_READ, write = C.RILLE_SET_WRITE, idle = C.RILLE_SET_IDLE, lifetime = C.RILLE_SET_LIFETIME,
  linger = C.RILLE_SET_LINGER, handshake = C.RILLE_SET_HANDSHAKE,
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

-- Certificates and rules; listeners whose connections start it by themselves have them too.
local function set_tls(service, hooks, rules, protocol, is_tls)
  local handle, problem = tls.server(rules, protocol)
  if not handle then error(("tls.%s: %s"):format(table.concat(problem.path, "."), problem.text), 0) end
  C.rille_service_set_tls(service, handle, is_tls and 1 or 0, hooks.on_certificate and 1 or 0)
  return handle
end

local function without_codec(settings)
  local copy = {}
  for key, value in pairs(settings) do
    if key ~= "codec" then copy[key] = value end
  end
  return copy
end

-- A service: hooks and the settings of its connections. settings: { timeouts = {seconds}, limits = {bytes}, nodelay, keepalive }.
-- protocol: "stream" or "http". is_tls: connections begin with TLS.
function M.service(hooks, settings, protocol, is_tls)
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
  local handle = settings.tls and set_tls(service, hooks, settings.tls, protocol, is_tls)
  local on_request = hooks.on_request
  local conn, metatable = require "rille.conn", nil
  if settings.codec then
    local is_ordered
    on_request, is_ordered = conn.framed(on_request, settings.codec, settings)
    metatable = is_ordered and conn.ordered
    if settings.codec._p and C.rille_service_set_codec(service, settings.codec._p) ~= 0 then
      error("a frame may be larger than limits.max_input", 2)
    end
  end
  state.services[id] = {
    codec = settings.codec, on_request = on_request, on_prepare = hooks.on_prepare, on_connect = hooks.on_connect, on_idle = hooks.on_idle,
    on_disconnect = hooks.on_disconnect, on_close = hooks.on_close, on_tunnel = hooks.on_tunnel,
    on_certificate = hooks.on_certificate, tls = settings.tls, tls_handle = handle or nil, is_http = protocol == "http",
    on_balance = hooks.on_balance, on_move = hooks.on_move, metatable = metatable,
    on_datagram = protocol == "datagram" and on_request or nil,
    serve = protocol == "http" and require "rille.http.serve" or require("rille.dispatch").serve,
    twin = protocol == "stream" and function() return M.service(hooks, without_codec(settings), "http") end or nil,
  }
  return service
end

-- Of datagrams: max_datagram, what handlers may have at a time, and so on.
local function set_datagram_options(options, settings)
  local limits, session = settings.limits or {}, settings.session
  options.max_datagram = limits.max_datagram or 65536
  options.max_datagrams = limits.max_handlers or 4096
  options.send_queue = limits.send_queue or 1024
  options.broadcast = settings.broadcast and 1 or 0
  -- each socket of a reuseport would get a copy
  if not settings.accept and (settings.multicast or settings.broadcast) then options.accept = ACCEPT.shared end
  if not session then return end
  options.session_max = session.max
  options.session_queue = session.queue
  options.session_idle_ms = session.idle * 1000
end

-- What the core has to know of an address with these settings.
function M.options(settings)
  local options = ffi.new("rille_listen_options")
  options.backlog = settings.backlog or 0
  options.accept = settings.accept and ACCEPT[settings.accept] or C.RILLE_ACCEPT_DEFAULT
  options.balance = BALANCE[settings.balance or "round_robin"]
  options.ipv6_only = settings.ipv6_only and 1 or 0
  options.receive_buffer = settings.receive_buffer or 0
  options.send_buffer = settings.send_buffer or 0
  options.mode = settings.mode or 0
  options.stays = settings.stays and 1 or 0
  if settings.device then ffi.copy(options.device, settings.device:sub(1, 15)) end
  set_datagram_options(options, settings)
  return options
end

-- What is let in. The lists that were made, which have to be kept until the C side has taken references; nil, message when one cannot be.
local function set_admission(options, settings)
  local limits, lists = settings.limits or {}, {}
  for _, name in ipairs { "allow", "deny" } do
    local networks = settings[name]
    if networks and #networks > 0 then
      local list, message = cidr.compile(networks)
      if not list then return nil, message end
      lists[name], options[name] = list, list
    end
  end
  local proxy = settings.proxy
  if proxy then
    local list, message = cidr.compile(proxy.trusted)
    if not list then return nil, message end
    lists.trusted, options.trusted = list, list
    options.proxy = proxy.accept == "optional" and C.RILLE_PROXY_OPTIONAL or C.RILLE_PROXY_REQUIRED
    options.proxy_ms, options.proxy_max = math.ceil(proxy.timeout * 1000), proxy.max
  end
  options.max_connections = limits.max_connections or 0
  options.max_per_address = limits.max_connections_per_address or 0
  options.shed_after_ms = math.ceil((limits.shed_after or 0) * 1000)
  return lists
end

-- The state it is for does not come up. One of the configuration that was taken over from the state before stays open, for the next try.
function M.give_up(listener, group)
  if not group or C.rille_state_is_renewed(state.handle) == 0 then listener:close() end
end

local pending = {} -- what a script that is being staged listens on, once it is on its loop

local function staged(services, hooks, url, settings)
  local self = setmetatable({ _url = url }, Listener)
  pending[#pending + 1] = { self = self, services = services, hooks = hooks, url = url, settings = settings }
  return self
end

-- The state has come to its loop. True, or nil, message.
function M.open_staged()
  local list = pending
  pending = {}
  for _, one in ipairs(list) do
    if not one.self._is_over then
      local opened, _, message = M.open(one.services, one.hooks, one.url, one.settings)
      if not opened then return nil, message end
      for key, value in pairs(opened) do one.self[key] = value end
    end
  end
  return true
end

-- Listen on url for the hooks. services: by protocol, those that were made already. A Listener, or nil, error, message for people.
-- group: the number of this address among those of the configuration, which every loop has; nil: it is opened at run time.
-- server: addresses with the same number count their sources together; nil: this one alone.
function M.open(services, hooks, url, settings, group, server)
  if state.is_staged then return staged(services, hooks, url, settings) end
  local protocol, address, is_tls = scheme.split(url, settings.protocol)
  if is_tls and not settings.tls then
    return nil, "invalid argument", ("cannot listen on %s: tls is missing, with its certificate and key"):format(url)
  end
  local kind = is_tls and protocol .. " over TLS" or protocol
  local service = services[kind] or M.service(hooks, settings, protocol, is_tls)
  services[kind] = service
  local options = M.options(settings)
  options.group = group or 0
  -- two calls with port 0 mean two ports, unless the script says otherwise
  if not settings.accept and not group and address:find(":0+$") then options.accept = C.RILLE_ACCEPT_SINGLE end
  options.server = server or 0
  local lists, problem = set_admission(options, settings)
  if not lists then return nil, "bad address", problem end
  local p = C.rille_listener_open(service, address, options, err_box, message_box, 512)
  if p == nil then return nil, errors.text[-err_box[0]], ffi.string(message_box) end
  local self = setmetatable({ _p = p, _run = state.services, _scheme = scheme.name(url), _lists = lists }, Listener)
  if protocol == "datagram" and settings.multicast then
    local message = require("rille.udp").join_all(C.rille_listener_udp(p), settings.multicast)
    if message then
      M.give_up(self, group)
      return nil, "system error", ("cannot listen on %s: %s"):format(url, message)
    end
  end
  return self
end

-- Its pointer, until it is closed or its run is over, which frees it.
local function held(self)
  return self._run == state.services and self._p
end

-- The URL it is bound to, with the port that was picked; nil when it is closed.
function Listener:address()
  if self._url and not self._p and not self._is_over then return self._url end -- not bound before it is committed
  if not held(self) then return nil, "closed" end
  local address = ffi.string(address_box, C.rille_listener_address(self._p, address_box, 512))
  return self._scheme and scheme.named(address, self._scheme) or address
end

-- What it has done on this loop, a new table of numbers (of datagrams those of docs/udp.md); nil when it is closed.
function Listener:stats()
  if not held(self) then return nil, "closed" end
  local datagrams = C.rille_listener_udp(self._p)
  if datagrams ~= nil then return require("rille.udp").stats(datagrams) end
  C.rille_listener_stats_read(self._p, stats_box)
  local s = stats_box[0]
  return {
    accepted = s.accepted, connections = s.connections, refused_by_list = s.refused_by_list,
    refused_by_address = s.refused_by_address, shed = s.shed,
  }
end

-- No further connections on this loop; those it accepted go on.
function Listener:close()
  if held(self) then C.rille_listener_close_by(state.handle, self._p) end
  self._p, self._is_over = nil, true
  return true
end

local View = { address = Listener.address, stats = Listener.stats }
View.__index = View

-- A listener without close.
function M.view(listener)
  return setmetatable({ _p = listener._p, _run = listener._run, _scheme = listener._scheme }, View)
end

-- The URL with the address in place of a name. nil, err, message.
local function without_name(url, settings)
  local _, address = scheme.split(url, settings.protocol)
  if not task.current() or C.rille_address_needs_lookup(address) == 0 then return url end
  local found, err, message = resolve.numeric(address)
  if not found then return nil, err, message end
  return scheme.name(url) and scheme.named(found, scheme.name(url)) or found
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
  local err
  url, err, message = without_name(url, settings)
  if not url then return nil, err, message end
  return M.open({}, hooks, url, settings)
end

return M
