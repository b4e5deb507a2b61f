-- job_conn: a connection as on_request sees it on a worker: the reading and writing methods over a stream, and little else. One job is as
-- many messages as there are.

local C = require "rille.core"
local codec_of = require("rille.codec").resolve
local log = require "rille.log"
local job_stream = require "rille.job_stream"
local script = require "rille.script"

local job_conn = {}

local Conn = {}
for _, part in ipairs { job_stream.Reader, job_stream.Writer } do
  for name, method in pairs(part) do
    if type(method) == "function" then Conn[name] = method end
  end
end
Conn.__index = Conn

-- It is closed when on_request has returned and what it wrote is sent.
function Conn:close()
  self._how = self._how or "closed"
  return true
end

-- It ends with RST.
function Conn:abort()
  self._how = "abort"
  return true
end

function Conn:peer()
  return self._peer
end

function Conn:is_active()
  return self._s and not self._how and C.rille_stream_writable(self._s) == 0 or false
end

function Conn:__tostring()
  return ("conn %d %s"):format(self.id, self._peer or "?")
end

-- ---- scripts ---------------------------------------------------------------------------------------------------

local handlers, codecs = {}, {} -- by what names them: a path, or all that it is loaded with

local function framed(on_request, codec)
  return function(conn)
    local frame, err = codec.decode(conn)
    if frame ~= nil then return on_request(conn, frame) end
    if err then
      log.warn("conn %d sent a bad frame: %s", conn.id, err)
      conn:close()
    end
  end
end

local function handler_of(plan, key)
  local handler = handlers[key]
  if handler then return handler end
  local hooks, message = script.load(plan.path, plan.options)
  if not hooks then error(message, 0) end
  handler = hooks.on_request
  if plan.codec then
    codecs[key] = assert(codec_of(plan.codec))
    handler = framed(handler, codecs[key])
  end
  handlers[key] = handler
  return handler
end

local function on_raise(err)
  return debug.traceback(tostring(err), 2)
end
job_conn.Conn, job_conn.on_raise, job_conn.handler_of = Conn, on_raise, handler_of -- for http/job.lua

-- Call on_request as long as it consumes something. How far it has seen, counted from the connection's first byte, how the connection is
-- to end (nil: it goes on), and ctx.
function job_conn.serve(input, _, plan, id, peer, ctx)
  local s = input._s
  local conn = setmetatable({ _s = s, id = id, _peer = peer, ctx = ctx }, Conn)
  job_stream.add(conn)
  local on_request = handler_of(plan, plan.path)
  conn._codec = codecs[plan.path]
  local seen
  repeat
    local at = C.rille_stream_consumed(s)
    seen = at + C.rille_linkbuffer_len(C.rille_stream_input(s))
    if seen == at then break end
    local ok, trace = xpcall(on_request, on_raise, conn)
    if not ok then
      log.record("error", trace:match("^[^\n]-:%d+:") or plan.path, id, "%s: on_request of conn %d failed: %s", plan.label, id, trace)
      return seen, "error"
    end
    conn:release()
  until conn._how or C.rille_stream_consumed(s) == at
  return seen, conn._how, conn.ctx
end

return job_conn
