-- forwarder: answers questions from its cache, and asks other servers for what is not in it. The cache is in C (core/dns_cache.c), one for
-- each Lua state: a question it has an answer to costs one call, and makes no garbage. Equal questions under way are asked once.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local message = require "rille.dns.message"
local misuse = require "rille.misuse"
local settings = require "rille.dns.settings"
local state = require "rille.state"
local task = require "rille.task"
local upstream = require "rille.dns.upstream"

local tonumber, to_string = tonumber, ffi.string
local istype, cast = ffi.istype, ffi.cast
local slice_t = Slice.type
local bytes_t, text_t = ffi.typeof("const uint8_t *"), ffi.typeof("const char *")
local query_t = ffi.typeof("rille_dns_query")
local QUERY_SIZE = ffi.sizeof(query_t)
local FORMERR, SERVFAIL = C.RILLE_DNS_FORMERR, C.RILLE_DNS_SERVFAIL

local Forwarder = {}
Forwarder.__index = Forwarder

-- Answers on their way out, and what the message asks that is being looked at: used up before anything parks.
local out = ffi.new("uint8_t[?]", C.RILLE_DNS_MESSAGE_MAX + 1)
local out_text = cast(text_t, out)
local query = query_t()
local stats_box = ffi.new("rille_dns_stats[1]")

local function now()
  local clock = state.clock
  return clock and clock.now or C.rille_now()
end

-- ---- asking ----------------------------------------------------------------------------------------------------

-- One server after the other, from the one that answered last. The message, or nil.
local function ask(self, asked)
  local servers, first = self._servers, self._first
  for try = 0, #servers * self._tries - 1 do
    local index = (first - 1 + try) % #servers + 1
    self._counts.asked = self._counts.asked + 1
    local answer = upstream.ask(servers[index], asked, self._timeout, self._counts)
    if answer then
      self._first = index
      return answer
    end
    self._counts.failed = self._counts.failed + 1
  end
end

local function wake_all(flight)
  for _, fiber in ipairs(flight.waiting) do
    if fiber then task.wake(fiber, true) end
  end
end

-- The task of a question under way; what happens to it happens to all that wait for the answer.
local function fly(self, key, flight)
  local ok, answer = pcall(ask, self, flight.query)
  self._flights[key] = nil
  self._pending = self._pending - 1
  if ok and answer then
    flight.answer = answer
    C.rille_dns_cache_store(self._cache, flight.query, answer, #answer, now())
  else
    C.rille_dns_cache_fail(self._cache, flight.query, self._failure_ttl, now())
  end
  wake_all(flight)
  if not ok then error(answer, 0) end
end

local function forget(arg)
  arg.self._waiting = arg.self._waiting - 1
  arg.flight.waiting[arg.place] = false
end

-- The flight of what `query` asks, one that is under way if there is one; nil: there are too many.
local function board(self)
  local key = to_string(query.key, query.key_size)
  local flight = self._flights[key]
  if self._waiting >= self._max_waiting then return nil end
  if flight then
    self._counts.joined = self._counts.joined + 1
    return flight
  end
  if self._pending >= self._max_pending then return nil end
  local asked = query_t()
  ffi.copy(asked, query, QUERY_SIZE)
  flight = { query = asked, waiting = {}, answer = nil }
  self._flights[key] = flight
  self._pending = self._pending + 1
  task.spawn(fly, self, key, flight)
  return flight
end

-- Parks until the flight is over; anchor: what must not be collected meanwhile.
local function wait(self, flight, anchor)
  local waiting = flight.waiting
  local place = #waiting + 1
  waiting[place] = task.current()
  self._waiting = self._waiting + 1
  task.park(forget, { self = self, flight = flight, place = place, anchor = anchor })
  self._waiting = self._waiting - 1
end

-- The answer to a question that is not in the cache is put into `out`: its size. bytes have to stay what they are meanwhile.
local function fetch(self, bytes, size, is_stream, anchor)
  local flight = board(self)
  if not flight then
    self._counts.full = self._counts.full + 1
    return C.rille_dns_error(query, bytes, SERVFAIL, out)
  end
  wait(self, flight, anchor)
  local answer = flight.answer
  if not answer then
    local used = C.rille_dns_cache_serve(self._cache, bytes, size, is_stream, now(), query, out)
    if used ~= 0 then return used end
  end
  C.rille_dns_query_read(bytes, size, query) -- others have used it
  query.is_stream = is_stream
  if not answer then return C.rille_dns_error(query, bytes, SERVFAIL, out) end
  return C.rille_dns_reply(self._cache, query, bytes, answer, #answer, out)
end

jit.off(fetch) -- else traces begin with questions that are not in the cache, and leave, with objects, for those that are

local function resolve(self, bytes, size, is_stream, anchor)
  local used = C.rille_dns_cache_serve(self._cache, bytes, size, is_stream, now(), query, out)
  if used == 0 then return fetch(self, bytes, size, is_stream, anchor) end
  return used
end

-- ---- serving ---------------------------------------------------------------------------------------------------

-- Answers a datagram; parks while its question is asked elsewhere. What is no query is not answered.
function Forwarder:serve(dgram)
  if not istype(slice_t, dgram) then misuse("bad argument #1 to 'serve' (a datagram expected, got %s)", type(dgram)) end
  -- All of the slice is read before the first call to C: one that is read behind it is made into an object.
  local cell, epoch, bytes, size = dgram.cell_, dgram.epoch_, dgram.base_, dgram.size_
  if cell.epoch ~= epoch then misuse("slice expired") end
  local used = resolve(self, bytes, size, 0)
  if used > 0 then C.rille_datagram_reply(cell, epoch, out_text, used, nil) end
end

-- Answers a frame of a connection, whose codec is length_field{ length = 2 }. What is no query, or cannot be read, ends the connection.
function Forwarder:serve_frame(conn, frame)
  if not istype(slice_t, frame) then misuse("bad argument #2 to 'serve_frame' (a frame expected, got %s)", type(frame)) end
  local bytes, size = frame:ptr()
  local used = resolve(self, bytes, size, 1)
  if used < 0 then return conn:close() end
  local is_bad = out[3] % 16 == FORMERR
  conn:write_frame(to_string(out, used))
  if is_bad then conn:close() end
end

-- The answer to the message x, a string or a slice that stays valid meanwhile, as a string; parks while it is asked elsewhere. options:
-- { stream = true }: it may be as large as TCP allows. nil, "ignored" when x is no query.
function Forwarder:answer(x, options)
  local bytes, size = message.bytes_of(x, "answer")
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #2 to 'answer' (a table expected, got %s)", type(options))
  end
  local used = resolve(self, cast(bytes_t, bytes), size, options and options.stream and 1 or 0, x)
  if used < 0 then return nil, "ignored" end
  return to_string(out, used)
end

-- Forgets all answers.
function Forwarder:clear()
  C.rille_dns_cache_clear(self._cache)
end

local CACHE_STATS = { "entries", "bytes", "hits", "stale", "misses", "errors", "ignored", "evicted" }

-- A new table of numbers, of this loop; docs/dns.md has them all.
function Forwarder:stats()
  C.rille_dns_cache_stats(self._cache, stats_box)
  local list = { pending = self._pending, waiting = self._waiting }
  for _, name in ipairs(CACHE_STATS) do list[name] = tonumber(stats_box[0][name]) end
  for name, count in pairs(self._counts) do list[name] = count end
  return list
end

-- options: docs/dns.md. Raises for what is wrong with them.
return function(options)
  local set = settings.of(options)
  local core = ffi.new("rille_dns_options", {
    bytes_max = set.size, ttl_min = set.ttl_min, ttl_max = set.ttl_max, negative_max = set.negative_max, stale = set.stale,
  })
  local cache = C.rille_dns_cache_new(core)
  if cache == nil then misuse("no memory for a cache of DNS") end
  return setmetatable({
    _cache = ffi.gc(cache, C.rille_dns_cache_free), _servers = set.upstreams, _first = 1, _timeout = set.timeout,
    _tries = set.tries, _failure_ttl = set.failure_ttl, _max_pending = set.max_pending, _max_waiting = set.max_waiting,
    _flights = {}, _pending = 0, _waiting = 0,
    _counts = { asked = 0, failed = 0, tcp = 0, wrong = 0, joined = 0, full = 0 },
  }, Forwarder)
end
