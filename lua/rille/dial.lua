-- dial: connections that a script opens. core/dialer.c looks names up and connects; a dialed connection is one that the
-- script reads by itself, until it has an on_request. docs/dial.md describes it.

local ffi = require "ffi"

local C = require "rille.core"
local conn = require "rille.conn"
local conn_tls = require "rille.conn_tls"
local errors = require "rille.errors"
local listener = require "rille.listener"
local misuse = require "rille.misuse"
local resolve = require "rille.resolve"
local scheme = require "rille.config.scheme"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local text = errors.text
local PARK = C.RILLE_PARK

local M = {}

local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", 1024)

local URL_MAX = 511

local conf = { timeout = 10, max = 10000 } -- `dial` of the configuration

function M.set_defaults(settings)
  if settings then conf = settings end
end

-- ---- options ---------------------------------------------------------------------------------------------------

local KINDS = { timeout = "number", bind = "string", nodelay = "boolean", keepalive = "number", max = "number", dns = "table",
  tls = "table", max_input = "number", pool = "string" }

local function check(opts, what)
  if type(opts) ~= "table" then misuse("bad argument to '%s' (a table expected, got %s)", what, type(opts)) end
  for key, value in pairs(opts) do
    local kind = KINDS[key]
    if not kind then misuse("rille.%s has no option '%s': docs/dial.md lists them", what, tostring(key)) end
    local is_switch = key == "keepalive" and value == false or key == "pool" and value == true
    if type(value) ~= kind and not is_switch then
      misuse("rille.%s: %s is a %s, got %s", what, key, kind, type(value))
    end
  end
  if opts.timeout then timer.seconds(opts.timeout, what) end
  if opts.tls then conn_tls.check_client(opts.tls, ("rille.%s: tls"):format(what)) end
  local max, keepalive, max_input = opts.max, opts.keepalive or 1, opts.max_input or 1
  if max and not (max >= 1 and max % 1 == 0) then misuse("rille.%s: max is a whole number from 1, got %s", what, tostring(max)) end
  if not (max_input >= 1 and max_input <= 2 ^ 30 and max_input % 1 == 0) then
    misuse("rille.%s: max_input takes bytes from 1 to %d, got %s", what, 2 ^ 30, tostring(max_input))
  end
  if not (keepalive >= 1 and keepalive <= 32767) then
    misuse("rille.%s: keepalive takes seconds from 1 to 32767, or false, got %s", what, tostring(keepalive))
  end
end

-- "127.0.0.1", "[::1]:4000" as a URL, whose port may be the kernel's choice.
local function bound(address)
  if address:find("://", 1, true) or address:find("^unix") then return address end
  if address:find(":", 1, true) and address:sub(1, 1) ~= "[" and not address:find("^[^:]*:%d+$") then
    address = "[" .. address .. "]"
  end
  if not address:find(":%d+$") or address:find("%]$") then address = address .. ":0" end
  return "tcp://" .. address
end

local SERVICES_MAX = 256 -- each stays until the end of the state

local services, service_count = {}, 0 -- by max_input; of connections that may take more, or less, than those of other origin

-- The service whose connections hold so many bytes of input; nil: there are too many.
local function service_of(max_input)
  if not max_input then return state.default_service end
  local service = services[max_input]
  if not service and service_count < SERVICES_MAX then
    service = listener.service({}, { timeouts = { linger = 2 }, limits = { max_input = max_input } })
    services[max_input], service_count = service, service_count + 1
  end
  return service
end

local Dialer = {}
Dialer.__index = Dialer

local function make(opts)
  local self = setmetatable({ open = 0, max = opts.max, opts = opts }, Dialer)
  local options = ffi.new("rille_dial_options")
  self.dns = resolve.checked(opts.dns, "rille.dialer")
  self.bind = opts.bind and bound(opts.bind) or ""
  options.resolver = self.dns.options
  options.bind = self.bind
  options.timeout_ms = (opts.timeout or conf.timeout) * 1000
  options.max = conf.max
  options.nodelay = opts.nodelay == false and 0 or 1
  options.keepalive_s = opts.keepalive or 0
  self.options = options
  return self
end

-- rille.dialer([opts]): opts for every dial of it, and how many of its connections may be there at once.
function M.dialer_of(opts)
  state.need_loop("dialer")
  if opts ~= nil then check(opts, "dialer") end
  if opts and opts.pool then misuse("rille.dialer: pool is an option of rille.dial; rille.upstream keeps connections with options") end
  return make(opts or {})
end

M.from_pool = nil -- (url, opts): the same with the option pool; dial_pool.lua sets it

function M.timeout_of(opts)
  return opts.timeout or conf.timeout
end

-- ---- connecting ------------------------------------------------------------------------------------------------

-- What a URL's scheme asks for beyond a connection.
local ABOVE = { wss = "WebSocket client", ws = "WebSocket client" }
local CLIENTS = { http = "rille.http.client", https = "rille.http.client" }

-- As much of a URL as a message holds, on one line.
local function shown(url)
  return (url:sub(1, 120):gsub("%c", "?"))
end

local function refused(url)
  local name = (url:match("^(%a[%w]*):") or ""):lower()
  if CLIENTS[name] and url:find("://", 1, true) then
    return ("cannot dial %s: %s:// is not for dialing: %s makes requests"):format(shown(url), name, CLIENTS[name])
  end
  if ABOVE[name] and url:find("://", 1, true) then
    return ("cannot dial %s: %s:// is not supported: there is no %s yet"):format(shown(url), name, ABOVE[name])
  end
end

local function failed(url, code, message)
  if message == "" then message = text[-code] end
  if not message:find(shown(url), 1, true) then message = ("cannot dial %s: %s"):format(shown(url), message) end
  return nil, text[-code], message
end

-- A connection, whose place is counted until it is over.
local function take(self, p)
  if not self.max then return conn.own(p) end
  self.open = self.open + 1
  return conn.own(p, self)
end

local function open(self, url)
  local service = service_of(self.opts.max_input)
  if not service then return nil, "full", ("cannot dial %s: %d values of max_input are in use"):format(shown(url), SERVICES_MAX) end
  local token = resolve.new_token()
  local id = C.rille_dial_start(state.handle, url, self.options, token, message_box, 1024)
  if id < 0 then return failed(url, id, ffi.string(message_box)) end
  local p = C.rille_dial_take(service, id, err_box, message_box, 1024)
  if p == nil and err_box[0] == PARK then
    self.pending = (self.pending or 0) + 1
    local ok, err = pcall(resolve.await, id, token)
    self.pending = self.pending - 1
    if not ok then error(err, 0) end
    p = C.rille_dial_take(service, id, err_box, message_box, 1024)
  end
  if p == nil then return failed(url, err_box[0], ffi.string(message_box)) end
  return take(self, p)
end

-- Datagrams have no connection to wait for: a socket that is connected.
local function open_datagrams(self, url)
  local udp = require "rille.udp"
  local address, err, message = resolve.numeric(url, self.dns)
  if not address then return nil, err, message end
  local options = self.opts.bind and { self.bind:gsub("^tcp", "udp", 1) } or {}
  local socket
  socket, err, message = udp.open(options[1])
  if not socket then return nil, err, message end
  local ok
  ok, err, message = socket:connect(address)
  if ok then return socket end
  socket:close()
  return nil, err, message
end

-- Of an address of TCP: the host, without the dot that may end a whole name, which certificates have not; nil.
local function host_of(address)
  local rest = address:gsub("^tcp[46]?://", "")
  if rest:find("^unix:") then return nil end
  return rest:match("^%[(.-)%]") or rest:match("^([^:/]-)%.?:")
end

-- The same with TLS on it: the name that the certificate is to have is the host's, unless opts.tls.name is another.
local function open_tls(self, url)
  local address = url:gsub("^tls:", "tcp:")
  local c, err, message = open(self, address)
  if not c then return nil, err, message end
  local options = { role = "client", name = host_of(address), timeout = self.opts.timeout or conf.timeout }
  for key, value in pairs(self.opts.tls or {}) do options[key] = value end
  local is_through, ok
  is_through, ok, err, message = task.protect(conn_tls.dialed, c, options, address:lower())
  if is_through and ok then return c end
  c:abort()
  if not is_through then error(ok, 0) end -- cancelled, most often
  return nil, err, ("cannot dial %s: %s"):format(shown(url), message or err)
end

-- A connection; or nil, err, message.
function Dialer:dial(url)
  resolve.need_task("dial")
  if type(url) ~= "string" then misuse("bad argument #1 to 'dial' (an address expected, got %s)", type(url)) end
  if #url > URL_MAX or url:find("%z") then
    return nil, "bad address", ("cannot dial %s: an address has at most %d bytes, none of them 0"):format(shown(url), URL_MAX)
  end
  if url:find("^%a*%u%a*[46]?:") then url = url:gsub("^%a+", string.lower) end -- of schemes any letters will do
  local problem = refused(url)
  if problem then return nil, "not supported", problem end
  if self.max and self.open + (self.pending or 0) >= self.max then
    return nil, "full", ("cannot dial %s: %d connections of this dialer are open"):format(shown(url), self.max)
  end
  if scheme.is_datagram(url) then return open_datagrams(self, url) end
  if self.opts.tls or url:find("^tls://") then return open_tls(self, url) end
  return open(self, url)
end

-- One of its connections is over; conn.lua calls this.
function Dialer:left()
  self.open = self.open - 1
end

-- { open =, pending = }: connections of a dialer that has a max, and connects under way.
function Dialer:stats()
  return { open = self.open, pending = self.pending or 0 }
end

local plain -- the dialer without options

-- rille.dial(url[, opts])
function M.dial(url, opts)
  if opts == nil then
    plain = plain or make {}
    return plain:dial(url)
  end
  check(opts, "dial")
  if opts.max then misuse("rille.dial: max is for the connections of a rille.dialer") end
  if opts.pool then
    resolve.need_task("dial")
    if type(url) ~= "string" then misuse("bad argument #1 to 'dial' (an address expected, got %s)", type(url)) end
    return M.from_pool(url, opts)
  end
  return make(opts):dial(url)
end

function M.reset()
  plain, services, service_count = nil, {}, 0
end

return M
