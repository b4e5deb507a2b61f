-- stream: jobs of a worker pool that read and write while they run, pool:stream. One task of the loop feeds the job's input, another one
-- passes its output on; both park while there is nothing to do. The worker's side is job_stream.lua.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local pool = require "rille.pool"
local state = require "rille.state"
local task = require "rille.task"
local next_token = require "rille.token"

local text = errors.text

local LIMIT = 256 * 1024
local LIMIT_MAX = 2 ^ 30

local stream = {}

local err_box = ffi.new("int[1]")
local streams = {} -- by token
local last_token = 0

-- ---- one stream ------------------------------------------------------------------------------------------------

local Stream = {}
Stream.__index = Stream

-- p: a rille_pool *. nil when there is no memory.
function stream.new(p, limit)
  last_token = next_token(last_token, streams)
  local s = C.rille_stream_new(p, state.handle, last_token, limit)
  if s == nil then return nil end
  local self = setmetatable({ token = last_token, s = ffi.gc(s, C.rille_stream_close), run = state.services,
    waiting = { false, false }, limit = limit }, Stream)
  streams[last_token] = self
  return self
end

function Stream:close()
  streams[self.token] = nil
  if self.s then C.rille_stream_close(ffi.gc(self.s, nil)) end
  self.s = false
end

local function forget(arg)
  arg.self.waiting[arg.side] = false
end

-- Park until the other side has done something; side: 1 input, 2 output.
local function park(self, side)
  self.waiting[side] = task.current()
  task.park(forget, { self = self, side = side })
end

local function wake(self, side)
  local fiber = self.waiting[side]
  self.waiting[side] = false
  if fiber then task.wake(fiber) end
end

-- The STREAM event. on_event: of one that goes by other rules, http/errand.lua's.
function stream.event(token, side)
  local self = streams[token]
  if not self then return end
  if self.on_event then return self:on_event(side) end
  wake(self, side + 1)
end

function stream.reset()
  streams = {}
end

local function code_of(err)
  return errors.code[err] or C.RILLE_ERR_CLOSED
end

-- ---- input -----------------------------------------------------------------------------------------------------

function Stream:put(x)
  local code
  if type(x) == "string" then
    code = C.rille_stream_feed(self.s, x, #x)
  elseif Slice.is(x) then
    if x.cell_.epoch ~= x.epoch_ then misuse("pool:stream: the input gave a slice that has expired") end
    code = C.rille_stream_feed_view(self.s, x.base_, x.size_, x.cell_, x.block_, x.epoch_)
  elseif LinkBuffer.is(x) then
    code = C.rille_stream_feed_buffer(self.s, x)
  else
    misuse("pool:stream: the input gave a %s; a string, slice or LinkBuffer, or nil at its end, was expected", type(x))
  end
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- A source or sink raised, or was cancelled before its time: the job hears of it.
local function guard(self, tell, ok, err)
  if ok then return end
  if self.s and not self.is_done then tell(self.s, C.RILLE_ERR_ERROR) end
  error(err, 0)
end

-- How much may be fed now; it parks until that is something. Where the worker keeps up, others run after each `limit` bytes all the same.
local function room_for(self)
  local room = C.rille_stream_room(self.s)
  if room > 0 and C.rille_stream_put(self.s) - self.fed >= self.limit then
    task.yield()
    self.fed = C.rille_stream_put(self.s)
    room = C.rille_stream_room(self.s)
  end
  while room == 0 do
    park(self, 1)
    room = C.rille_stream_room(self.s)
  end
  return room
end

-- The task that feeds the job: source(room) -> what to feed, or nil[, err] at the end.
local function feed(self, source, after)
  while true do
    local room = room_for(self)
    local x, err = source(room)
    if not self.s then return end -- it went on after it was cancelled
    if x == nil then return C.rille_stream_end(self.s, code_of(err)) end
    local ok, why = self:put(x)
    if after then after() end
    if not ok then return C.rille_stream_end(self.s, code_of(why)) end
  end
end

-- ---- output ----------------------------------------------------------------------------------------------------

-- The task that passes on what the job wrote: sink() takes what is there; nil, err ends it.
local function pass_on(self, sink)
  while true do
    if C.rille_stream_ready(self.s) > 0 then
      local ok, err = sink()
      if not self.s then return end
      if not ok then return C.rille_stream_refuse(self.s, code_of(err)) end
    elseif self.is_done then
      return
    else
      park(self, 2)
    end
  end
end

-- ---- where it comes from, where it goes ------------------------------------------------------------------------

local function is_conn(x)
  return type(x) == "table" and rawget(x, "_slot") ~= nil and type(x.read) == "function"
end

local function need_bytes(conn)
  if conn._p and C.rille_conn_is_http(conn._p) == 1 then
    misuse("pool:stream: the connection speaks HTTP; give functions: input = function() return req:read() end")
  end
  return conn
end

-- source(room) and what to do when it was taken
local function source_of(x)
  if x == nil then return function() end end
  if type(x) == "function" then return x end
  if is_conn(x) then
    local conn = need_bytes(x)
    return function(room) return conn:read(room) end, function() conn:release() end
  end
  if type(x) ~= "string" and not LinkBuffer.is(x) and not Slice.is(x) then
    misuse("pool:stream: input: a connection, function, LinkBuffer, slice or string expected, got %s", type(x))
  end
  return function()
    local once = x
    x = nil
    return once
  end
end

-- The output of a connection gets the blocks; then this waits as a write does.
function stream.to_conn(self, conn)
  return function()
    if not conn._p then return nil, "closed" end
    local out = C.rille_conn_output(conn._p, err_box)
    if out == nil then return nil, text[-err_box[0]] end
    local code = C.rille_stream_drain(self.s, out)
    if code ~= 0 then return nil, text[-code] end
    return conn:write ""
  end
end

local function drained(self, into, sink)
  local code = C.rille_stream_drain(self.s, into)
  if code ~= 0 then return nil, text[-code] end
  into:flush()
  return sink(into)
end

local function sink_of(self, x)
  if x == nil then x = LinkBuffer.new() end
  if is_conn(x) then return stream.to_conn(self, need_bytes(x)) end
  if LinkBuffer.is(x) then return function() return drained(self, x, function() return true end) end end
  if type(x) ~= "function" then
    misuse("pool:stream: output: a connection, function or LinkBuffer expected, got %s", type(x))
  end
  return function()
    local part = LinkBuffer.new()
    local ok, err = drained(self, part, function(buffer)
      local go, why = x(buffer)
      if go == nil and why ~= nil then return nil, why end
      return true
    end)
    part:close()
    return ok, err
  end
end

-- ---- pool:stream -----------------------------------------------------------------------------------------------

local OPTIONS = { input = true, output = true, limit = true }

local function read_options(opts)
  if is_conn(opts) then return { input = opts, output = opts } end
  if type(opts) ~= "table" then
    misuse("bad argument #3 to 'stream' (a connection or { input =, output = } expected, got %s)", type(opts))
  end
  for key in pairs(opts) do
    if not OPTIONS[key] then misuse("pool:stream: there is no option '%s'; there are input, output, limit", tostring(key)) end
  end
  local limit = opts.limit
  if limit ~= nil and (type(limit) ~= "number" or not (limit >= 1 and limit <= LIMIT_MAX) or limit % 1 ~= 0) then
    misuse("pool:stream: option limit: expected bytes from 1 to %d, got %s", LIMIT_MAX, tostring(limit))
  end
  return opts
end

local function join(feeder, drainer)
  drainer:join()
  feeder:join()
end

-- The job is over, or its caller is. Its results, when all it wrote was passed on.
local function finish(self, feeder, drainer, ok, ...)
  self.is_done = true
  feeder:cancel()
  if ok then
    local is_joined, err
    wake(self, 2)
    is_joined, err = pcall(join, feeder, drainer)
    if is_joined then return ... end
    drainer:cancel()
    error(err, 0)
  end
  C.rille_stream_abort(self.s, C.RILLE_ERR_CANCELLED)
  drainer:cancel()
  error(..., 0)
end

-- as pool.run, between two tasks that are given: source and sink. Used by offload.lua too.
function stream.run(self, source, after, sink, runner, ...)
  self.is_done, self.fed = false, 0
  local drainer = task.spawn(function() guard(self, C.rille_stream_refuse, pcall(pass_on, self, sink)) end)
  local feeder = task.spawn(function() guard(self, C.rille_stream_end, pcall(feed, self, source, after)) end)
  return finish(self, feeder, drainer, pcall(runner, ...))
end

local function closing(self, ok, ...)
  self:close()
  if not ok then error(..., 0) end
  return ...
end

-- Call function fn of a module on a worker as pool:call does, with an input and an output in front of its other arguments, which it
-- reads and writes while the loop goes on. opts: a connection for both, or { input =, output =, limit = }. Parks until the function has
-- returned and its output was passed on; its results, or nil, err, message.
function pool.Pool:stream(module, fn, opts, ...)
  if not task.current() then misuse("pool:stream needs a task: use rille.spawn, a handler, or `rille exec`") end
  opts = read_options(opts)
  local source, after = source_of(opts.input)
  local self_stream = stream.new(pool.pointer_of(self._core, "pool"), opts.limit or LIMIT)
  if not self_stream then return nil, "no memory" end
  local sink = sink_of(self_stream, opts.output)
  return closing(self_stream, pcall(stream.run, self_stream, source, after, sink, pool.run, self, "stream",
    self_stream.s, module, fn, ...))
end

return stream
