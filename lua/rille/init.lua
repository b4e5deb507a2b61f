-- rille: what a script or program gets from require "rille". docs/script.md describes each name.

local ffi = require "ffi"

local C = require "rille.core"
require "rille.pairs" -- first: before what walks
local binding = require "rille.binding"
local channel = require "rille.channel"
local checksum = require "rille.checksum"
local chunk = require "rille.chunk"
local cidr = require "rille.cidr"
local codec = require "rille.codec"
local conn = require "rille.conn"
local dial = require "rille.dial"
require "rille.dial_pool"
local dict = require "rille.dict"
local encoding = require "rille.encoding"
local errors = require "rille.errors"
local fs = require "rille.fs"
local generation = require "rille.generation"
local leaks = require "rille.leaks"
local listener = require "rille.listener"
local log = require "rille.log"
local loop = require "rille.loop"
local metric = require "rille.metric"
local misuse = require "rille.misuse"
local mux = require "rille.mux"
local pool = require "rille.pool"
local post = require "rille.post"
local process = require "rille.process"
local redis = require "rille.redis"
local resolve = require "rille.resolve"
local select_conns = require "rille.select"
local semaphore = require "rille.semaphore"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"
local topic = require "rille.topic"
local udp = require "rille.udp"
local upstream = require "rille.upstream"

local rille = {
  version = ffi.string(C.rille_version()),
  log = log,
  loop = loop,
  errors = errors,
  metric = metric,
  cancelled = task.cancelled,
  timeout = task.timeout,

  spawn = task.spawn,
  yield = task.yield,
  with_timeout = task.with_timeout,
  sleep = timer.sleep,
  after = timer.after,
  every = timer.every,
  wait = timer.wait,
  semaphore = semaphore,
  channel = channel,
  checksum = checksum,
  cidr = cidr.of,
  codec = codec,
  bind = binding.bind,
  bound = binding.bound,
  dial = dial.dial,
  dialer = dial.dialer_of,
  dict = dict.of,
  encoding = encoding,
  fs = fs,
  http = { client = function(opts) return require "rille.http.client"(opts) end },
  leaks = leaks,
  listen = listener.listen,
  lookup = binding.lookup,
  mux = mux.new,
  pool = pool.get,
  post = post.call,
  process = process,
  reload = { depends = chunk.depends },
  connection = post.connection,
  retiring = generation.retiring,
  retire_channel = generation.retire_channel,
  redis = redis,
  resolve = resolve.resolve,
  resolver_stats = resolve.stats,
  select = select_conns,
  tls_hello = require "rille.tls_hello",
  topic = topic.open,
  unbind = binding.unbind,
  udp = udp.open,
  upstream = upstream.new,
  proxy_header = require("rille.conn_proxy").header,
}

-- Seconds of a clock that only goes forward, as of the beginning of this turn.
function rille.now()
  local clock = state.clock
  return clock and clock.now or C.rille_now()
end

-- Seconds since 1970.
function rille.time()
  return C.rille_time()
end

local err_box = ffi.new("int[1]")
local pair_box = ffi.new("rille_conn *[2]")

-- A connection over a descriptor (socket, pipe, tty), which is the loop's from now on. nil, err: it is still the caller's.
function rille.adopt(fd)
  state.need_loop("adopt")
  if type(fd) ~= "number" or fd % 1 ~= 0 then
    misuse("bad argument #1 to 'adopt' (a descriptor number expected, got %s)", tostring(fd))
  end
  local p = C.rille_conn_adopt(state.default_service, fd, err_box)
  if p == nil then return nil, errors.text[-err_box[0]] end
  return conn.own(p)
end

-- Two connections, each the other's peer.
function rille.pair()
  state.need_loop("pair")
  local code = C.rille_conn_pair(state.default_service, pair_box)
  if code ~= 0 then return nil, errors.text[-code] end
  return conn.own(pair_box[0]), conn.own(pair_box[1])
end

-- fn() is called in a task when a shutdown begins, last added first; the loop waits for it, as long as the drain lasts.
function rille.on_shutdown(fn)
  state.need_loop("on_shutdown")
  if type(fn) ~= "function" then misuse("bad argument #1 to 'on_shutdown' (function expected, got %s)", type(fn)) end
  state.shutdown_hooks[#state.shutdown_hooks + 1] = fn
end

-- Begin to stop: no further connections; those there are have `timeout` seconds (the configured drain_timeout) to finish.
function rille.shutdown(timeout)
  local running = state.need_loop("shutdown")
  C.rille_loop_shutdown(running, timeout and timer.seconds(timeout, "shutdown") or -1)
end

-- The server of `rille run` inside this program: servers = { { listen =, script = function, table, path or module } }, and
-- every other key of the configuration. Returns true after a shutdown, or nil, message.
function rille.run(conf)
  local checked, message = require("rille.config").check(conf, "rille.run")
  if not checked then return nil, message end
  return require("rille.server").run_inside(checked)
end

return rille
