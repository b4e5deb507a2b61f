-- offload: servers whose on_request runs on the workers of a pool, servers[i].offload. The loop keeps the connection: it feeds what comes
-- to a stream and sends what the worker wrote. A connection is at one worker at a time, so its answers are in order. The worker's side is
-- job_conn.lua.

local C = require "rille.core"
local log = require "rille.log"
local pool = require "rille.pool"
local serve_http = require("rille.http.errand").serve
local state = require "rille.state"
local stream = require "rille.stream"
local timer = require "rille.timer"

local offload = {}

local RETRY_S = 0.01 -- when the pool's queue is full

local function forget(conn)
  local session = rawget(conn, "_offload")
  if session then session:close() end
  rawset(conn, "_offload", nil)
end

-- What has come goes to the stream before the job begins, so that there is something for it.
local function feed_first(self, conn)
  local room = C.rille_stream_room(self.s)
  if room == 0 or conn:len() == 0 then return end
  self:put(conn:read(room))
  conn:release()
end

-- The source of the stream: what comes while the job runs. A time-out of a read is no end.
local function source_of(conn)
  return function(room)
    local slice, err
    repeat slice, err = conn:read(room) until slice or err ~= "timeout"
    return slice, err
  end, function() conn:release() end
end

-- Run jobs until one has seen everything there is. False: the connection is to end; why says how.
local function run_jobs(self, conn, plan)
  repeat
    feed_first(self, conn)
    local source, after = source_of(conn)
    local seen, how, ctx = stream.run(self, source, after, stream.to_conn(self, conn), pool.run, plan.pool(), "offload", self.s,
      "rille.job_conn", "serve", plan.job, conn.id, conn:peer(), rawget(conn, "ctx"))
    if not seen and how == "full" then
      timer.sleep(RETRY_S)
      seen = -1
    elseif not seen then
      return false, "error"
    elseif how then
      return false, how
    elseif ctx ~= nil then
      conn.ctx = ctx
    end
    if not conn._p then return false, "closed" end
  until C.rille_stream_put(self.s) <= seen
  return true
end

-- The on_request that stands in for the script's.
local function serve(conn, plan)
  local self = rawget(conn, "_offload") or stream.new(plan.pointer(), plan.limit)
  if not self then error("no memory for a stream", 0) end
  local is_new = not rawget(conn, "_offload")
  conn._offload = self -- pins, so that what is left of a message stays
  if is_new then conn:on_close(forget) end
  local ok, how = run_jobs(self, conn, plan)
  if ok and C.rille_stream_left(self.s) < plan.limit then return end
  if ok then
    log.warn("%s: max_input (%d bytes) reached, and on_request of conn %d takes none of it: closing", state.label, plan.limit, conn.id)
  end
  if conn._p and how == "error" then return C.rille_conn_raise(conn._p) end
  conn:close()
end

-- The hooks of a script with another on_request. server: its configuration; path: of the script.
function offload.wrap(hooks, server, path)
  local name = server.offload ~= "pool" and server.offload or nil
  local job = { path = path, options = server.options, codec = server.codec, label = state.label }
  local plan = {
    limit = server.limits.max_input,
    job = job,
    bytes = require("string.buffer").encode(job),
    idle = {}, -- streams of requests that are over
    pool = function() return pool.get(name) end,
    pointer = function() return pool.pointer_of(pool.get(name)._core, "pool") end,
  }
  local out = {}
  for key, value in pairs(hooks) do out[key] = value end
  out.on_request = function(conn, res)
    if res then return serve_http(conn, res, plan) end
    return serve(conn, plan)
  end
  return out
end

return offload
