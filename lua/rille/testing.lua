-- testing: servers and clients for specs that run under `rille test`. serve() brings up a handler on a free port of this very loop,
-- connect() is a client of it, request() speaks HTTP to it. docs/testing.md describes each name.

local ffi = require "ffi"

local C = require "rille.core"
local boot = require "rille.boot"
local config = require "rille.config"
local http = require "rille.testing.http"
local listener = require "rille.listener"
local misuse = require "rille.misuse"
local problem_of = require "rille.config.address"
local rille = require "rille"
local scheme = require "rille.config.scheme"
local script = require "rille.script"
local state = require "rille.state"

-- under names of their own: specs may declare the same functions
ffi.cdef [[
int rille_testing_socket(int family, int type, int protocol) __asm__("socket");
int rille_testing_connect(int fd, const char *address, unsigned size) __asm__("connect");
int rille_testing_getsockopt(int fd, int level, int name, int *value, unsigned *size) __asm__("getsockopt");
int rille_testing_inet_pton(int family, const char *text, char *ip) __asm__("inet_pton");
int rille_testing_close(int fd) __asm__("close");
]]

local AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
local SOCK_STREAM_NONBLOCK_CLOEXEC = 1 + 0x800 + 0x80000
local SOL_SOCKET, SO_ERROR, EINPROGRESS = 1, 4, 115
local TIMEOUT = 5 -- seconds; a spec that waits for what never comes is to fail, not to hang

local testing = {}

-- ---- a client --------------------------------------------------------------------------------------------------

local function u16(n, is_big)
  local high, low = math.floor(n / 256), n % 256
  if is_big or ffi.abi("be") then return string.char(high, low) end
  return string.char(low, high)
end

local function ip_bytes(family, text)
  local room = ffi.new("char[16]")
  if ffi.C.rille_testing_inet_pton(family, text, room) == 1 then return ffi.string(room, family == AF_INET and 4 or 16) end
end

-- The family and the bytes of the sockaddr of a URL; nil, message.
local function address_of(url)
  local message = problem_of(url)
  if message then return nil, message end
  local name = url:match("^unix:(@.+)$") or url:match("^unix://(/.+)$")
  -- an abstract name begins with a NUL, a path ends with one
  if name then return AF_UNIX, u16(AF_UNIX) .. (name:byte() == 64 and "\0" .. name:sub(2) or name .. "\0") end
  local _, tcp = scheme.split(url)
  local host, port = tcp:match("([^/]+):(%d+)$")
  local ip = host and ip_bytes(AF_INET, host)
  if ip then return AF_INET, u16(AF_INET) .. u16(port, true) .. ip .. ("\0"):rep(8) end
  ip = host and ip_bytes(AF_INET6, host:match("^%[(.*)%]$") or "")
  if ip then return AF_INET6, u16(AF_INET6) .. u16(port, true) .. ("\0"):rep(4) .. ip .. ("\0"):rep(4) end
  return nil, ("bad address \"%s\": testing.connect looks no names up; expected tcp://127.0.0.1:port, tcp://[::1]:port, unix:///path "
    .. "or unix:@name"):format(url)
end

local function text_of(errno)
  return rille.errors.text[-C.rille_err_from_errno(errno)]
end

-- Park until a connect that has begun is through: true, or nil, err.
local function finish_connect(fd)
  local ok, err = rille.wait(fd, "w", TIMEOUT)
  if not ok then return nil, err end
  local errno, size = ffi.new("int[1]"), ffi.new("unsigned[1]", 4)
  ffi.C.rille_testing_getsockopt(fd, SOL_SOCKET, SO_ERROR, errno, size)
  if errno[0] ~= 0 then return nil, text_of(errno[0]) end
  return true
end

-- True, or nil, err.
local function connect(fd, address)
  if ffi.C.rille_testing_connect(fd, address, #address) == 0 then return true end
  local errno = ffi.errno()
  if errno == EINPROGRESS then return finish_connect(fd) end
  return nil, text_of(errno)
end

local function open(family, address)
  local fd = ffi.C.rille_testing_socket(family, SOCK_STREAM_NONBLOCK_CLOEXEC, 0)
  if fd < 0 then return nil, text_of(ffi.errno()) end
  local client
  local is_calm, ok, err = pcall(connect, fd, address) -- a cancelled task leaves no descriptor behind
  if is_calm and ok then client, err = rille.adopt(fd) end
  if not client then ffi.C.rille_testing_close(fd) end
  if not is_calm then error(ok, 0) end
  return client, err
end

-- A connection to url. nil, err; for an address that is none also a sentence.
function testing.connect(url)
  state.need_loop("testing.connect")
  if type(url) ~= "string" then misuse("bad argument #1 to 'connect' (an address expected, got %s)", type(url)) end
  local family, address = address_of(url)
  if not family then return nil, "bad address", address end
  local client, err = open(family, address)
  if not client then return nil, err end
  client:set_timeouts { read = TIMEOUT, write = TIMEOUT }
  return client
end

-- ---- a server --------------------------------------------------------------------------------------------------

local Server = {}
Server.__index = Server

-- The hooks of a handler. Raises at the caller's line: a spec cannot go on without its server.
local function hooks_of(handler, options)
  if type(handler) ~= "string" then
    if type(handler) ~= "function" and type(handler) ~= "table" then
      misuse("bad argument #1 to 'serve' (a function, a table of callbacks or the path of a script expected, got %s)", type(handler))
    end
    local hooks, message = script.hooks_of(handler, "given to testing.serve")
    if not hooks then misuse(message) end
    return hooks
  end
  local path, message = script.find(handler)
  if not path then misuse(message) end
  local folder = path:match("^(.*/)") or "./"
  if package.path:sub(1, #folder + 5) ~= folder .. "?.lua" then boot.look_beside(path) end
  local hooks, why = script.load(path, options)
  if not hooks then misuse(why) end
  return hooks
end

-- on_start, which rille.listen does not call.
local function start(self, hooks)
  if not hooks.on_start then return end
  local ok, go = pcall(hooks.on_start, {
    addresses = { self.address }, listeners = { listener.view(self._listener) }, loop = state.loop_id,
    loops = state.loop_count, label = state.label,
  })
  if ok and go ~= false then return end
  self:close()
  if not ok then error(go, 0) end
  misuse("on_start returned false: not starting")
end

-- Serve a handler on a free port of the loopback interface. settings: what a server has in a configuration.
function testing.serve(handler, settings)
  state.need_loop("testing.serve")
  if settings ~= nil and type(settings) ~= "table" then
    misuse("bad argument #2 to 'serve' (a table of settings expected, got %s)", type(settings))
  end
  local checked, message = config.server(settings or {}, "testing.serve")
  if not checked then misuse(message) end
  local hooks = hooks_of(handler, checked.options)
  local url = checked.protocol == "http" and "http://127.0.0.1:0" or "tcp://127.0.0.1:0"
  local opened, _, why = rille.listen(url, hooks, settings)
  if not opened then misuse("testing.serve: %s", why) end
  local self = setmetatable({ address = opened:address(), _listener = opened, _script = hooks, _before = state.script }, Server)
  state.script = hooks -- where keys given to conn:on_request are looked up
  start(self, hooks)
  return self
end

function Server:connect()
  return testing.connect(self.address)
end

-- Nobody is let in any more; who was, stays.
function Server:close()
  self._listener:close()
  if state.script == self._script then state.script = self._before end
  return true
end

-- ---- HTTP ------------------------------------------------------------------------------------------------------

-- One request over a connection of its own: { status =, reason =, headers =, body =, trailers = }, or nil and a sentence.
function Server:request(request)
  http.check(request)
  local response
  local client, err = self:connect()
  if client then
    client:set_timeouts { read = 0, write = 0 } -- there is one for all of it
    response, err = rille.with_timeout(request.timeout or TIMEOUT, http.exchange, client, request, self.address:match("^%w+://(.*)$"))
    client:close()
  end
  if response then return response end
  return nil, ("%s %s: %s"):format(request.method or "GET", request.path or "/", err)
end

function Server:get(path, headers)
  return self:request { path = path, headers = headers }
end

function Server:post(path, body, headers)
  return self:request { method = "POST", path = path, body = body or "", headers = headers }
end

return testing
