-- monitor: /metrics and /healthz over HTTP: what `metrics = { listen = ... }` of the configuration serves, and handlers to be mounted
-- elsewhere.

local ffi = require "ffi"

local C = require "rille.core"
local conn = require "rille.conn"
local errors = require "rille.errors"
local state = require "rille.state"

local monitor = {}

local HEALTH = {
  [C.RILLE_HEALTH_SERVING] = "ok", [C.RILLE_HEALTH_STARTING] = "starting", [C.RILLE_HEALTH_DRAINING] = "draining",
  [C.RILLE_HEALTH_STALLED] = "a loop is stalled",
}
local ANSWER_MAX = 64 * 1024 * 1024
local ANSWER_TIME = 5 -- seconds; the control thread gives loops one

ffi.cdef 'int rille_monitor_close(int fd) __asm__("close");'

-- The whole text that the control thread answers with. nil, err.
local function ask(request)
  local fd = C.rille_control_ask(request, #request)
  if fd < 0 then return nil, errors.text[-fd] end
  local err_box = ffi.new("int[1]")
  local p = C.rille_conn_adopt(state.default_service, fd, err_box)
  if p == nil then
    ffi.C.rille_monitor_close(fd)
    return nil, errors.text[-err_box[0]]
  end
  local source = conn.own(p)
  source:set_timeouts { read = ANSWER_TIME, idle = 0, lifetime = 0, write = 0 }
  local parts, size = {}, 0
  while size < ANSWER_MAX do
    local piece, err = source:read()
    if not piece then
      source:close()
      if err ~= "closed" or size == 0 then return nil, err end
      return table.concat(parts)
    end
    parts[#parts + 1] = piece:str()
    size = size + piece:len()
    source:release()
  end
  source:abort()
  return nil, "too large"
end

-- The statistics of the process and the metrics of scripts as text for Prometheus. Parks. nil, err: "busy" (too many ask at once),
-- "timeout", "shutdown".
function monitor.text()
  state.need_loop("monitor.text")
  return ask("metrics\n")
end

-- A handler: the same as an answer; 503 when it cannot be had.
function monitor.metrics(_, res)
  local text, err = monitor.text()
  res:header("Cache-Control", "no-store")
  if not text then
    res.status = 503
    res:header("Content-Type", "text/plain; charset=utf-8")
    return res:send(err .. "\n")
  end
  res:header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
  return res:send(text)
end

-- "serving", and otherwise why not: "starting", "draining" or "a loop is stalled".
function monitor.health()
  local health = C.rille_control_health()
  return health == C.RILLE_HEALTH_SERVING, HEALTH[health]
end

-- A handler: 200 while every loop serves, else 503 and why.
function monitor.healthz(_, res)
  local is_good, why = monitor.health()
  res.status = is_good and 200 or 503
  res:header("Content-Type", "text/plain; charset=utf-8")
  res:header("Cache-Control", "no-store")
  return res:send(why .. "\n")
end

local pages = { ["/metrics"] = monitor.metrics, ["/healthz"] = monitor.healthz }

-- What `metrics` of the configuration serves.
function monitor.on_request(req, res)
  local page = pages[tostring(req.path)]
  if not page then
    res.status = 404
    return res:send("not found: there are /metrics and /healthz\n")
  end
  if req.method ~= "GET" and req.method ~= "HEAD" then
    res.status = 405
    res:header("Allow", "GET, HEAD")
    return res:send("only GET and HEAD\n")
  end
  return page(req, res)
end

return monitor
