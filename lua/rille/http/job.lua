-- job: on_request(req, res) on a worker. req and res are those of a loop in all that concerns the heads; bodies come and go by the
-- stream of the job, and what would park makes the worker's thread wait. core/errand.c does the rest, errand.lua is the loop's side.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local job_conn = require "rille.job_conn"
local job_stream = require "rille.job_stream"
local log = require "rille.log"
local misuse = require "rille.misuse"
local request = require "rille.http.request"
local response = require "rille.http.response"

local istype = ffi.istype
local slice_t, buffer_t = Slice.type, LinkBuffer.type
local text = errors.text
local check_code = response.check_code
local END, EXPIRED = C.RILLE_HTTP_END, C.RILLE_ERR_EXPIRED
local PIECE, WHOLE = C.RILLE_ERRAND_PIECE, C.RILLE_ERRAND_WHOLE

local PUBLISH_SIZE = 65536 -- what was written goes to the loop when it is so much

local job = {}

-- ---- req -------------------------------------------------------------------------------------------------------

local Req = {}

-- The stream; nil when the connection is over for the handler. Raises when it has returned.
local function stream_of(self)
  return request.live(self) and self[1]._s
end

-- The body, or what read() has left of it, in one piece. Waits until all of it is there.
function Req:body()
  local s = stream_of(self)
  if not s then return nil, "closed" end
  local whole = rawget(self, "whole")
  if whole then return whole end
  local code = C.rille_errand_ask(s, WHOLE)
  if code < 0 then return nil, text[-code] end
  local buffer = C.rille_stream_input(s)
  local n = C.rille_linkbuffer_len(buffer)
  whole = n > 0 and LinkBuffer.next(buffer, n) or Slice.empty()
  rawset(self, "whole", whole)
  return whole
end

-- The next piece of the body, 1 to max bytes; nil at its end. Expires at the next call.
function Req:read(max)
  if max ~= nil and type(max) ~= "number" then
    misuse("bad argument #1 to 'read' (a number of bytes expected, got %s)", type(max))
  end
  local s = stream_of(self)
  if not s then return nil, "closed" end
  if max and not (max >= 1) then return nil, "invalid argument" end
  C.rille_stream_give_back(s)
  local n = C.rille_stream_front(s)
  if n == 0 then
    local code = C.rille_errand_ask(s, PIECE)
    if code == END then return nil end
    if code ~= 0 then return nil, text[-code] end
    n = C.rille_stream_front(s)
  end
  return LinkBuffer.next(C.rille_stream_input(s), max and max < n and math.floor(max) or n)
end

-- ---- res -------------------------------------------------------------------------------------------------------

local Res = {}

-- How many bytes x has, which are still there.
local function size_of(x, what)
  if type(x) == "string" then return #x end
  if istype(slice_t, x) then
    if x.cell_.epoch ~= x.epoch_ then check_code(EXPIRED) end
    return x.size_
  end
  if istype(buffer_t, x) then
    local code = C.rille_linkbuffer_skip(x, 0)
    if code ~= 0 then return nil, text[-code] end
    return C.rille_linkbuffer_len(x)
  end
  misuse("bad argument #1 to '%s' (a string, slice or LinkBuffer expected, got %s)", what, type(x))
end

-- Behind the head, which says how much comes: if it does not, the connection cannot go on.
local function put(self, s, x)
  local buffer = C.rille_stream_output(s)
  local ok, err = LinkBuffer.write(buffer, x)
  if not ok then
    self[1]._how = "abort"
    C.rille_errand_close(s)
    return nil, err
  end
  if C.rille_linkbuffer_malloc_len(buffer) < PUBLISH_SIZE then return true end
  local code = C.rille_errand_flush(s)
  if code ~= 0 then return nil, text[-code] end
  return true
end

local function answer(self, x, what, begin)
  if not response.live(self) then return nil, "closed" end
  local s = self[1]._s
  local size, err = size_of(x, what)
  if not size then return nil, err end
  local code = begin(s, size)
  if code == 0 then return size == 0 or put(self, s, x) end
  if code == END then return true end
  check_code(code)
  return nil, text[-code]
end

local send, write = C.rille_errand_send, C.rille_errand_write

-- The whole answer, with its Content-Length.
function Res:send(x)
  return answer(self, x == nil and "" or x, "send", send)
end

-- A piece of it.
function Res:write(x)
  return answer(self, x, "write", write)
end

-- What was written goes to the loop; waits while that has more than the limit of the stream.
function Res:flush()
  if not response.live(self) then return nil, "closed" end
  local code = C.rille_errand_flush(self[1]._s)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- The loop sends it.
function Res:file(path, options)
  if type(path) ~= "string" then misuse("bad argument #1 to 'file' (a path expected, got %s)", type(path)) end
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #2 to 'file' (a table expected, got %s)", type(options))
  end
  local p = response.live(self)
  if not p then return nil, "closed" end
  local kind = options and options.type
  if kind ~= nil and type(kind) ~= "string" then
    misuse("the type of a file is a string such as \"text/html\", not a %s", type(kind))
  end
  if path:find("%z") then return nil, "not found" end
  local code = C.rille_errand_file(self[1]._s, path, kind)
  check_code(code)
  if code ~= 0 then return nil, text[-code] end
  return true
end

function Res:upgrade(protocol) -- luacheck: ignore 212
  if protocol ~= nil and type(protocol) ~= "string" then
    misuse("bad argument #1 to 'upgrade' (a protocol's name expected, got %s)", type(protocol))
  end
  misuse("res:upgrade is not for a handler on a worker (offload): serve what leaves HTTP without offload")
end

-- ---- conn ------------------------------------------------------------------------------------------------------

local Conn = { peer = job_conn.Conn.peer, __tostring = job_conn.Conn.__tostring }
Conn.__index = Conn

-- Without an answer that was not sent yet.
function Conn:close()
  if not self._p then return true end
  self._how = self._how or "closed"
  C.rille_errand_close(self._s)
  return true
end

-- It ends with RST.
function Conn:abort()
  if not self._p then return true end
  self._how = "abort"
  C.rille_errand_close(self._s)
  return true
end

function Conn:is_active()
  return self._p and not self._how and C.rille_stream_writable(self._s) == 0 or false
end

-- What was read of the body is let go.
function Conn:release()
  if self._p then C.rille_stream_give_back(self._s) end
  return true
end

local function busy()
  return nil, "busy"
end

for _, part in ipairs { job_stream.Reader, job_stream.Writer } do
  for name, method in pairs(part) do
    if type(method) == "function" and not Conn[name] then Conn[name] = busy end -- its bytes belong to HTTP
  end
end

-- ---- on_request ------------------------------------------------------------------------------------------------

local req_metatable, res_metatable = request.with(Req), response.with(Res)
local plans = {} -- by the bytes they come as

local function plan_of(bytes)
  local plan = plans[bytes]
  if not plan then
    plan = require("string.buffer").decode(bytes)
    plans[bytes] = plan
  end
  return plan
end

-- True, how the connection is to end (nil: it goes on), ctx, and of a handler that raised a traceback.
function job.serve(input, _, bytes, id, peer, ctx)
  local s, plan = input._s, plan_of(bytes)
  local handler = job_conn.handler_of(plan, bytes)
  local conn = setmetatable({ _s = s, _p = C.rille_errand_conn(s), _serial = 1, id = id, _peer = peer, ctx = ctx }, Conn)
  local ok, trace = xpcall(handler, job_conn.on_raise, setmetatable({ conn, 1 }, req_metatable),
    setmetatable({ conn, 1 }, res_metatable))
  conn._serial, conn._p, conn._s = 2, false, false
  C.rille_errand_leave(s)
  if ok then return true, conn._how, conn.ctx end
  if trace:find("^not enough memory\n") then error("not enough memory", 0) end -- the VM's own: it is not to be trusted any more
  log.record("error", trace:match("^[^\n]-:%d+:") or plan.path, id, "%s: on_request of conn %d failed: %s", plan.label, id, trace)
  return true, "error", nil, trace
end

return job
