-- ssl: LuaSec's shape over conn:starttls: ssl.wrap(socket, params), dohandshake, and then what a socket has.

local misuse = require "rille.misuse"
local options = require "rille.compat.socket.options"
local stream = require "rille.compat.socket.stream"
local tcp = require "rille.compat.socket.tcp"
local text_of = require "rille.compat.socket.texts"
local timeouts = require "rille.compat.socket.timeouts"

local ssl = { _VERSION = "1.2.0 (rille.compat)" }

local HANDSHAKE = 10 -- seconds, where the socket has no time-out

-- ---- parameters ------------------------------------------------------------------------------------------------

local VERSIONS = { any = false, sslv23 = false, tlsv1_2 = "1.2", tlsv1_3 = "1.3" }

-- What would be less safe without it.
local REFUSED = { "capath", "password", "dane" }

local function has(value, word)
  if type(value) ~= "table" then return value == word end
  for _, one in ipairs(value) do
    if one == word then return true end
  end
  return false
end

local function version_of(params)
  if params.protocol ~= nil and VERSIONS[params.protocol] == nil then
    return nil, ("invalid protocol (%s)"):format(tostring(params.protocol))
  end
  return VERSIONS[params.protocol or "any"] or has(params.options, "no_tlsv1_2") and "1.3" or false
end

local function client_rules(rules, params)
  rules.role, rules.verify = "client", has(params.verify, "peer")
  return rules
end

local function server_rules(rules, params)
  rules.role = "server"
  if has(params.verify, "fail_if_no_peer_cert") then
    rules.client = "required"
  elseif has(params.verify, "peer") then
    rules.client = "optional"
  end
  return rules
end

-- A context: options for starttls of what is in a table for LuaSec. Or nil, err.
function ssl.newcontext(params)
  if type(params) ~= "table" then misuse("bad argument #1 to 'newcontext' (a table of parameters expected, got %s)", type(params)) end
  for _, name in ipairs(REFUSED) do
    if params[name] then return nil, ("%s is not supported by rille.compat"):format(name) end
  end
  if params.mode ~= "client" and params.mode ~= "server" then
    return nil, ("invalid mode (%s)"):format(tostring(params.mode))
  end
  local version, err = version_of(params)
  if version == nil then return nil, err end
  local alpn = params.alpn
  if type(alpn) == "function" then return nil, "alpn as a function is not supported by rille.compat" end
  local rules = {
    certificate = params.certificate, key = params.key, ca = params.cafile, ciphers = params.ciphers, min_version = version or nil,
    alpn = type(alpn) == "string" and { alpn } or alpn,
  }
  return { rules = (params.mode == "client" and client_rules or server_rules)(rules, params) }
end

-- ---- objects ---------------------------------------------------------------------------------------------------

local Secure = {}
for _, part in ipairs { stream.methods, options.methods } do
  for name, method in pairs(part) do Secure[name] = method end
end
for _, name in ipairs { "close", "shutdown", "getsockname", "getpeername", "getfamily", "_look", "_leave" } do
  Secure[name] = tcp.methods[name]
end

local metatable = {
  __index = Secure,
  __tostring = function() return "SSL connection" end,
}

-- socket: a client of rille.compat.socket, which is not to be used any more. params: a table, or a context. Nothing is said to the peer
-- before dohandshake. Or nil, err.
function ssl.wrap(socket, params)
  local context = params
  if type(params) ~= "table" or not params.rules then
    local err
    context, err = ssl.newcontext(params)
    if not context then return nil, err end
  end
  local conn = type(socket) == "table" and socket._conn
  if not conn then misuse("bad argument #1 to 'wrap' (a connected socket of rille.compat.socket expected)") end
  local self = setmetatable({ _context = context, _host = socket._host, _kind = "client", _scheme = socket._scheme }, metatable)
  self._block, self._total = socket._block, socket._total
  stream.take(self, conn)
  socket._conn, socket._is_closed = nil, true
  return self
end

-- The name of the server that is wanted: it is sent, and with verify compared with the certificate. Without: what connect was given.
function Secure:sni(name)
  self._host = name
  return true
end

local function rules_of(self)
  local rules, limit = {}, timeouts.left(self, timeouts.begin(self))
  for key, value in pairs(self._context.rules) do rules[key] = value end
  if rules.role == "client" then rules.name = self._host end
  rules.timeout = limit and limit > 0 and limit or HANDSHAKE
  return rules
end

-- True; or false, err, why. What fails closes the connection.
function Secure:dohandshake()
  timeouts.need_task("dohandshake")
  local conn = self._conn
  if not conn or self._is_closed then return false, "closed" end
  if self._is_secure then return true end
  local rules = rules_of(self)
  if rules.verify and not rules.name then
    return false, "certificate verify failed", "there is no name to compare the certificate with: call sni(name) before"
  end
  local ok, err, why = conn:starttls(rules)
  if not ok then return false, text_of(err), why end
  self._is_secure = true
  return true
end

-- What is received or sent before dohandshake begins with it.
local function secure(self)
  if self._is_secure then return true end
  return self:dohandshake()
end

function Secure:send(data, i, j)
  local ok, err = secure(self)
  if not ok then return nil, err, 0 end
  return stream.methods.send(self, data, i, j)
end

function Secure:receive(pattern, prefix)
  local ok, err = secure(self)
  if not ok then return nil, err, prefix or "" end
  return stream.methods.receive(self, pattern, prefix)
end

-- What was agreed on: a table with protocol, cipher; or one of these.
function Secure:info(field)
  local tls = self._conn and self._conn:tls()
  if not tls then return nil, "closed" end
  local info = { protocol = tls.version, cipher = tls.cipher, compression = false }
  if field then return info[field] end
  return info
end

function Secure:getalpn()
  local tls = self._conn and self._conn:tls()
  return tls and tls.alpn
end

function Secure:getsniname()
  local tls = self._conn and self._conn:tls()
  return tls and tls.sni
end

-- What a poll would have to wait for: here nothing ever.
function Secure.want()
  return "nothing"
end

return ssl
