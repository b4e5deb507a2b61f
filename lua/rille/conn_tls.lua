-- conn_tls: conn:starttls, conn:tls, and on_certificate of a script.

local C = require "rille.core"
local ffi = require "ffi"

local errors = require "rille.errors"
local gone = require("rille.conn_read").gone
local misuse = require "rille.misuse"
local script = require "rille.script"
local state = require "rille.state"
local task = require "rille.task"
local tls = require "rille.tls"
local units = require "rille.config.units"

local text = errors.text
local PARK = C.RILLE_PARK

local HANDSHAKE = 10 -- seconds

local Conn = {}
local M = { methods = Conn }

local info_box = ffi.new("rille_tls_info[1]")
local question = ffi.new("rille_tls_question[1]")

local waiting = {} -- by slot; the fiber that waits for the end of a handshake

-- ---- parking ---------------------------------------------------------------------------------------------------

local function cancel(slot)
  waiting[slot] = false
end

-- Park until the handshake is over. 0, or the error.
function M.wait(self)
  local p = self._p
  local code = p and C.rille_conn_tls_result(p) or C.RILLE_ERR_CLOSED
  while code == PARK do
    local slot = self._slot
    waiting[slot] = task.current()
    task.park(cancel, slot)
    p = self._p
    code = p and C.rille_conn_tls_result(p) or C.RILLE_ERR_CLOSED
  end
  return code
end

-- The connection in the slot is over; see conn_read.lua.
function M.forget(slot)
  local fiber = waiting[slot]
  waiting[slot] = false
  if fiber then task.wake(fiber) end
end

function M.reset()
  waiting = {}
end

-- ---- on_certificate --------------------------------------------------------------------------------------------

-- What a hook returned: a name, a handle or nil, whether it refuses. Raises for what is none of these.
local function read_answer(answer, name, service)
  if answer == nil or answer == true then return name, nil, 0 end
  if answer == false then return "", nil, 1 end
  if type(answer) == "string" then return answer, nil, 0 end
  if type(answer) ~= "table" then
    error(("on_certificate returned a %s; expected a name, a table with certificate and key, nil, or false"):format(type(answer)), 0)
  end
  local handle, problem = tls.chosen(answer, service.tls or {}, service.is_http and "http" or "stream")
  if not handle then error(("on_certificate: %s: %s"):format(table.concat(problem.path, "."), problem.text), 0) end
  return "", handle, 0
end

local function decide(slot)
  if C.rille_tls_ask(state.loop, slot, question) == 0 then return end
  local ticket, name, peer = question[0].ticket, ffi.string(question[0].name), ffi.string(question[0].peer)
  local service = state.services[question[0].service]
  local ok, wanted, handle, refuses = xpcall(function()
    return read_answer(service.on_certificate(name ~= "" and name or nil, peer), name, service)
  end, function(err)
    if rawequal(err, task.cancelled) then return false end
    return debug.traceback(tostring(err), 2)
  end)
  if not ok then
    if wanted then script.report("on_certificate", nil, wanted) end
    wanted, handle, refuses = "", nil, 1
  end
  C.rille_tls_answer(state.loop, slot, ticket, wanted, handle, refuses)
end

-- The TLS event.
function M.event(slot, arg)
  if arg == C.RILLE_TLS_ASKS then return task.call(decide, slot) end
  local fiber = waiting[slot]
  if not fiber then return end
  waiting[slot] = false
  return task.resume(fiber)
end

-- ---- methods ---------------------------------------------------------------------------------------------------

local SERVER = { certificate = "string", key = "string", certificates = "table", ca = "string", client = "string",
  min_version = "string", ciphers = "string", alpn = "table", session_tickets = "boolean", ocsp = "string", ktls = "boolean",
  offload = "boolean or string", names = "table", role = "string", timeout = "number or string" }
local CLIENT = { certificate = "string", key = "string", ca = "string", verify = "boolean", fingerprint = "string",
  min_version = "string", ciphers = "string", alpn = "table", ktls = "boolean", offload = "boolean or string", resume = "boolean",
  name = "string", role = "string",
  timeout = "number or string" }

local function check_options(opts, known, role, what)
  for key, value in pairs(opts) do
    local kind = known[key]
    if not kind then misuse("%s has no option '%s' for a %s", what, tostring(key), role) end
    if not kind:find(type(value), 1, true) then misuse("%s: %s is a %s, not a %s", what, key, kind, type(value)) end
  end
end

-- What a dial is told of TLS; what: who is told.
function M.check_client(opts, what)
  check_options(opts, CLIENT, "client", what)
  if opts.role and opts.role ~= "client" then misuse("%s: role is \"client\", not %s", what, opts.role) end
end

local function seconds_of(opts)
  if opts.timeout == nil then return HANDSHAKE end
  return units.seconds(opts.timeout) or misuse("starttls: timeout is a number of seconds, or a string such as \"5s\"")
end

-- The handle of what a call asks for. nil, problem.
local function rules_of(self, opts)
  if opts.role == "client" then
    check_options(opts, CLIENT, "client", "starttls")
    if opts.verify ~= false and not opts.fingerprint and not opts.name then
      misuse("starttls: name, of the server, is missing: nothing to compare its certificate with (verify = false does not)")
    end
    return tls.client(opts)
  end
  check_options(opts, SERVER, "server", "starttls")
  if opts.certificate or opts.certificates then return tls.server(opts) end
  local service = state.services[C.rille_conn_service(self._p)]
  if not service.tls_handle then misuse("starttls: certificate and key are missing, and the server's configuration has no tls") end
  return service.tls_handle
end

-- Begin, with options that are a table, and wait. origin: where a server is, by which its sessions are found; "": none is kept.
local function start(self, opts, origin)
  local role = opts.role or "server"
  if role ~= "server" and role ~= "client" then
    misuse("starttls: role is \"server\" or \"client\", not %s", tostring(role))
  end
  if not self._p then return gone(self) end
  local timeout = seconds_of(opts)
  local handle, problem = rules_of(self, opts)
  if not handle then return nil, "bad certificate", ("%s: %s"):format(table.concat(problem.path, "."), problem.text) end
  local ok, err = self:flush()
  if not ok then return nil, err end
  local code = C.rille_conn_starttls(self._p, handle, role == "client" and opts.name or "", origin, timeout * 1000)
  if code == PARK then code = M.wait(self) end
  if code == 0 then return true end
  local why = self._p and ffi.string(C.rille_conn_tls_failure(self._p)) or ""
  return nil, text[-code], why ~= "" and why or nil
end

-- Speak TLS from here on: as a server ({ role = "server" }, the default), or as a client ({ role = "client", name = "example.org" }).
-- True; or nil, err, why, and the connection is closed.
function Conn:starttls(opts)
  if opts ~= nil and type(opts) ~= "table" then misuse("bad argument #1 to 'starttls' (table expected, got %s)", type(opts)) end
  return start(self, opts or {}, self:peer() or "")
end

-- As a client of a server that was dialed at `origin`.
function M.dialed(self, opts, origin)
  return start(self, opts, origin)
end

local function lines_of(names)
  local list = {}
  for line in names:gmatch("[^\n]+") do list[#list + 1] = line end
  return list
end

local function peer_of(i)
  if i.has_peer == 0 then return nil end
  return {
    subject = ffi.string(i.subject), issuer = ffi.string(i.issuer), names = lines_of(ffi.string(i.names)),
    fingerprint = ffi.string(i.fingerprint), not_after = i.not_after,
  }
end

local function text_or_nil(chars)
  local value = ffi.string(chars)
  return value ~= "" and value or nil
end

-- What was agreed on, a new table; nil for a connection without TLS.
function Conn:tls()
  local p = self._p
  if not p or C.rille_conn_tls_info(p, info_box) == 0 then return nil end
  local i = info_box[0]
  return {
    version = ffi.string(i.version), cipher = ffi.string(i.cipher), alpn = text_or_nil(i.alpn), sni = text_or_nil(i.sni),
    resumed = i.resumed ~= 0, peer = peer_of(i), ktls = { send = i.ktls_send ~= 0, receive = i.ktls_receive ~= 0 },
  }
end

return M
