-- upstream: targets that do the same work, the connections to them that this loop keeps, and who gets which. docs/upstream.md describes
-- it. Each loop has its own: nothing here is shared.
--
-- options.lua reads what a script says; target.lua has the connections of one address; balance.lua chooses; queue.lua has those who wait
-- because everything is taken; health.lua says who is up; retry.lua what is tried again; discovery.lua follows names;
-- shared.lua has connections that many callers use at a time.

local balance = require "rille.upstream.balance"
local dial = require "rille.dial"
local discovery = require "rille.upstream.discovery"
local health = require "rille.upstream.health"
local misuse = require "rille.misuse"
local new_queue = require "rille.upstream.queue"
local new_retry = require "rille.upstream.retry"
local new_target = require("rille.upstream.target").new
local options = require "rille.upstream.options"
local resolve = require "rille.resolve"
local shared = require "rille.upstream.shared"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local type = type

local Upstream = {}
Upstream.__index = Upstream

local M = {}

local all = setmetatable({}, { __mode = "k" }) -- every one of this Lua state

-- ---- targets ---------------------------------------------------------------------------------------------------

-- Some target went up or down, came or left.
local function refill(self, is_new)
  local primary, backup = {}, {}
  local is_panic = self.settings.panic
  for _, target in ipairs(self.list) do is_panic = is_panic and target.state ~= "up" end
  for _, target in ipairs(self.list) do
    target.is_live = is_panic or target.state == "up"
    local rank = target.is_backup and backup or primary
    rank[#rank + 1] = target
  end
  balance.refill(self.primary, primary, is_new)
  balance.refill(self.backup, backup, is_new)
  self:serve_queue()
end

-- health.lua calls this when the state of a target is another one.
function Upstream:changed(target)
  if target.is_leaving or self.is_closed then return end
  if target.is_ejected and target.up_at < self.revive_at then self.revive_at = target.up_at end
  refill(self, false)
end

-- One that is not wanted any more: what is used is finished, what is idle ends.
local function leave(self, target)
  target.is_leaving, target.is_live, target.state = true, false, "draining"
  self.by_url[target.url] = nil
  if target.open > 0 then self.leaving[target] = true end
  target:drop_idle()
  health.leave(target)
end

-- The targets are these from now on: a list as options.targets leaves it, the names among them replaced by what they stand for.
local function install(self, list)
  local by_url, kept = {}, {}
  for _, one in ipairs(list) do
    if not by_url[one.url] and #kept < options.TARGETS_MAX then
      local target = self.by_url[one.url]
      if target then
        target:set(one)
      else
        target = new_target(self, one)
      end
      by_url[one.url] = target
      kept[#kept + 1] = target
    end
  end
  local before = self.list
  self.list = kept
  for _, target in ipairs(before) do
    if not by_url[target.url] then leave(self, target) end
  end
  self.by_url = by_url
  refill(self, true)
end

-- discovery.lua calls this when a name stands for other addresses.
function Upstream:rebuild()
  if not self.is_closed then install(self, discovery.expand(self, self.sources)) end
end

local function set_sources(self, sources)
  self.sources = sources
  discovery.follow(self)
  self:rebuild()
end

-- ---- places ----------------------------------------------------------------------------------------------------

-- A target with room. nil: "full" or "unavailable".
local function choose(self, key, tried)
  if self.revive_at <= state.clock.now then
    self.revive_at = math.huge
    self.revive_at = math.min(health.revive(self.list), self.revive_at)
  end
  local set = self.primary
  if set.count == 0 then set = self.backup end
  if set.count == 0 then return nil, "unavailable" end
  local target = self.pick(set, key, tried)
  if not target and tried then target = self.pick(set, key, nil) end
  if target then return target end
  return nil, "full"
end

-- A target, and an idle connection of it, or none: a place for a new one is reserved then. nil, nil, err.
local function seat(self, key, tried)
  while true do
    local target, err = choose(self, key, tried)
    if not target then return nil, nil, err end
    local conn = target:take_idle()
    if conn then return target, conn end
    if target.open < target.max then
      target.open = target.open + 1
      if target.is_half then target.is_probing = true end
      return target, nil
    end
  end
end

-- Give those who wait what there is.
function Upstream:serve_queue()
  local queue = self.queue
  while queue.count > 0 do
    local waiter = queue:head()
    local target, conn, err = seat(self, waiter.key, waiter.tried)
    if err == "full" then return end
    queue.give(waiter, target, conn, err)
  end
end

-- target.lua calls this when a connection more may be made or taken.
function Upstream:place_free(target)
  if target.is_leaving and target.open == 0 then self.leaving[target] = nil end
  if self.queue.count > 0 then self:serve_queue() end
end

local function explain(self, err)
  local name = self.settings.name
  if err == "unavailable" then
    local latest = self.last_failed
    local problem = #self.list == 0 and discovery.problem(self) or latest and ("%s: %s"):format(latest.url, latest.last_error)
    local what = #self.list == 0 and "there are no targets" or ("none of %d targets is up"):format(#self.list)
    return ("%s: %s%s"):format(name, what, problem and " (" .. problem .. ")" or "")
  elseif err == "full" then
    return ("%s: every connection is taken, and %d callers wait"):format(name, self.queue.count)
  elseif err == "timeout" then
    return ("%s: no connection came free in %g s"):format(name, self.settings.queue_timeout)
  elseif err == "closed" then
    return ("%s is closed"):format(name)
  end
end

-- Before the first use of targets with names, and after the end.
local function is_ready(self)
  if self.unresolved > 0 and not self.is_closed then discovery.settle(self) end
  return not self.is_closed
end

local function find_place(self, key, tried)
  local target, conn, err
  if self.queue.count == 0 then
    target, conn, err = seat(self, key, tried)
    if target or err ~= "full" then return target, conn, err end
  end
  if self.queue.count >= self.settings.queue then
    self.refused = self.refused + 1
    return nil, nil, "full"
  end
  return self.queue:wait(self.settings.queue_timeout, key, tried)
end

-- A connection for use. nil, err, message, and the target that failed, if it was one.
local function acquire(self, key, tried)
  if not is_ready(self) then return nil, "closed", explain(self, "closed") end
  local target, conn, err = find_place(self, key, tried)
  if not target then return nil, err, explain(self, err) end
  if conn then return conn end
  local message
  conn, err, message = target:fill_place()
  if conn then return conn end
  return nil, err, message, target
end

local function tried_too(tried, target)
  tried = tried or {}
  tried[target] = true
  return tried
end

-- A connection, tried again as the rules say. number: of the attempt. Then that number and the targets tried before.
local function obtain(self, key, number, tried)
  while true do
    local conn, err, message, target = acquire(self, key, tried)
    if conn then return conn, number, tried end
    if not target or not self.retry:allows(number + 1, err, true, false) then return nil, err, message end
    number = number + 1
    tried = tried_too(tried, target)
  end
end

-- ---- use -------------------------------------------------------------------------------------------------------

-- Of a task whose time was over while it waited, for which no target is to blame.
local function check_doom(conn)
  local doom = task.current().doom
  if not doom then return end
  conn._lease:finish(conn, true)
  error(doom, 0)
end

local attempt

-- What fn said, after it raised or returned.
local function conclude(self, fn, key, number, tried, conn, ok, a, b, ...)
  local lease = conn._lease
  local target, is_reused = lease.target, lease.requests > 1
  if not ok then
    if rawequal(a, task.timeout) then health.failed(target, "timeout") end
    lease:finish(conn, false)
    error(a, 0)
  end
  if type(a) ~= "nil" or type(b) == "nil" then
    health.succeeded(target)
    lease:finish(conn, true)
    return a, b, ...
  end
  health.failed(target, b)
  lease:finish(conn, false)
  if self.is_closed or not self.retry:allows(number + 1, b, false, is_reused) then return a, b, ... end
  return attempt(self, fn, key, number + 1, tried_too(tried, target))
end

function attempt(self, fn, key, number, tried)
  local conn, number_or_err, tried_or_message = obtain(self, key, number, tried)
  if not conn then return nil, number_or_err, tried_or_message end
  check_doom(conn)
  conn._lease.is_lent = true
  return conclude(self, fn, key, number_or_err, tried_or_message, conn, task.protect(fn, conn, conn._lease.target.view))
end

local NONE = {}
local CALL = { key = true, timeout = true }

local function check_call(self, opts, what)
  resolve.need_task(what)
  if opts == nil then
    opts = NONE
  else
    if type(opts) ~= "table" then misuse("bad options of '%s' (a table expected, got %s)", what, type(opts)) end
    for name in pairs(opts) do
      if not CALL[name] then misuse("%s has no option '%s': it takes key, timeout", what, tostring(name)) end
    end
    if opts.timeout then timer.seconds(opts.timeout, what) end
  end
  local key = opts.key
  if type(key) == "number" then key = tostring(key) end
  if key ~= nil and type(key) ~= "string" then misuse("%s: key is a string or a number, got %s", what, type(key)) end
  if key == nil and self.needs_key then misuse('%s: balance = "consistent_hash" needs a key', what) end
  return key, opts.timeout
end

local function need_own(self, what)
  if self.settings.mux then misuse("%s: the connections of this upstream are shared (mux), use upstream:call", what) end
end

local function fresh(self)
  self.retry:note_request()
  self.requests = self.requests + 1
end

-- fn(conn, target) with a connection that is the caller's until it returns: its results. nil, err, message when there is none.
-- opts: key, timeout.
function Upstream:with(fn, opts)
  if type(fn) ~= "function" then misuse("bad argument #1 to 'with' (function expected, got %s)", type(fn)) end
  need_own(self, "upstream:with")
  local key, timeout = check_call(self, opts, "upstream:with")
  fresh(self)
  if timeout then return task.with_timeout(timeout, attempt, self, fn, key, 1, nil) end
  return attempt(self, fn, key, 1, nil)
end

local function get(self, key)
  local conn, err, message = obtain(self, key, 1, nil)
  if not conn then return nil, err, message end
  check_doom(conn)
  return conn, conn._lease.target.view
end

-- A connection, to be given back by put, and its target; or nil, err, message.
function Upstream:get(opts)
  need_own(self, "upstream:get")
  local key, timeout = check_call(self, opts, "upstream:get")
  fresh(self)
  if timeout then return task.with_timeout(timeout, get, self, key) end
  return get(self, key)
end

-- Give a connection of get back. failure: the error that makes it of no further use.
function Upstream:put(conn, failure)
  local lease = type(conn) == "table" and rawget(conn, "_lease")
  if not lease or lease.target.owner ~= self then misuse("bad argument #1 to 'put' (a connection of this upstream expected)") end
  if failure ~= nil and type(failure) ~= "string" then
    misuse("bad argument #2 to 'put' (the name of an error expected, got %s)", type(failure))
  end
  if not lease.is_out then return nil, "closed" end
  if lease.is_lent then misuse("put: this connection is of 'with', which gives it back when its function returns") end
  if failure then health.failed(lease.target, failure) else health.succeeded(lease.target) end
  lease:finish(conn, failure == nil)
  return true
end

-- Of an upstream with the option mux: the frame that answers the request, of any of its targets; or nil, err, message.
-- opts: key, timeout (seconds of each attempt).
function Upstream:call(request, opts)
  if not self.settings.mux then misuse("upstream:call: the connections of this upstream are not shared: give it the option mux") end
  local key, timeout = check_call(self, opts, "upstream:call")
  if not is_ready(self) then return nil, "closed", explain(self, "closed") end
  fresh(self)
  return shared.call(self, choose, explain, request, timeout, key)
end

-- ---- at run time -----------------------------------------------------------------------------------------------

local function need_open(self)
  if self.is_closed then return nil, "closed" end
  return true
end

-- These and no others. True, or nil, "closed".
function Upstream:set_targets(list)
  local sources = options.targets(list, "set_targets")
  if self.is_closed then return need_open(self) end
  set_sources(self, sources)
  return true
end

-- One more; nil, "exists" when its url is there.
function Upstream:add(target)
  local one = options.target(target, "add")
  if self.is_closed then return need_open(self) end
  local sources = {}
  for i, other in ipairs(self.sources) do
    if other.url == one.url then return nil, "exists" end
    sources[i] = other
  end
  if #sources >= options.TARGETS_MAX then return nil, "full" end
  sources[#sources + 1] = one
  set_sources(self, sources)
  return true
end

-- One less: what is used goes on until it is given back. nil, "not found".
function Upstream:remove(url)
  if type(url) ~= "string" then misuse("bad argument #1 to 'remove' (a url expected, got %s)", type(url)) end
  url = options.url(url)
  local sources, found = {}, false
  for _, other in ipairs(self.sources) do
    if other.url == url then found = true else sources[#sources + 1] = other end
  end
  if self.is_closed then return need_open(self) end
  if not found then return nil, "not found" end
  set_sources(self, sources)
  return true
end

local function describe(target)
  return {
    url = target.url, name = target.name, weight = target.weight, backup = target.is_backup, from = target.origin,
    state = target.is_half and target.state == "up" and "probing" or target.state,
    in_use = target.in_use, idle = target.idle_count, connecting = target.open - target.in_use - target.idle_count,
    requests = target.requests, failures = target.failures, last_error = target.last_error,
    in_flight = target.mux and target.mux.in_flight,
  }
end

-- A list of tables, one for each target, those that are leaving last.
function Upstream:targets()
  local list = {}
  for i, target in ipairs(self.list) do list[i] = describe(target) end
  for target in pairs(self.leaving) do list[#list + 1] = describe(target) end
  return list
end

-- { targets =, waiting =, requests =, retries =, refused =, in_use =, idle = }
function Upstream:stats()
  local targets = self:targets()
  local in_use, idle = 0, 0
  for _, one in ipairs(targets) do in_use, idle = in_use + one.in_use, idle + one.idle end
  return {
    targets = targets, waiting = self.queue.count, in_use = in_use, idle = idle, requests = self.requests,
    retries = self.retry.count, over_budget = self.retry.refused, refused = self.refused,
  }
end

-- Whether there is any connection, those on their way and those that end included.
function Upstream:has_connections()
  for _, target in ipairs(self.list) do
    if target.open > 0 then return true end
  end
  return next(self.leaving) ~= nil
end

-- ---- the end ---------------------------------------------------------------------------------------------------

local function drop_idle(self)
  for _, target in ipairs(self.list) do target:drop_idle() end
end

-- No more connections: idle ones end, those who wait get "closed", used ones end when they are given back.
function Upstream:close()
  if self.is_closed then return true end
  self.is_closed = true
  all[self] = nil
  health.stop(self)
  discovery.stop(self)
  local list = self.list
  self.list = {}
  for _, target in ipairs(list) do leave(self, target) end
  local queue = self.queue
  while queue.count > 0 do queue.give(queue:head(), nil, nil, "closed") end
  return true
end

-- ---- making ----------------------------------------------------------------------------------------------------

-- Options of rille.dialer for targets whose certificate has this name (nil: as their URL says).
function Upstream:dial_options(tls_name)
  local out = {}
  for key, value in pairs(self.settings.dial or {}) do out[key] = value end
  out.timeout = self.settings.connect_timeout
  if tls_name then
    out.tls = { name = tls_name }
    for key, value in pairs(self.settings.dial and self.settings.dial.tls or {}) do out.tls[key] = value end
  end
  return out
end

function Upstream:plain_dialer()
  local dialer = self.dialer
  if not dialer then
    dialer = dial.dialer_of(self:dial_options())
    self.dialer = dialer
  end
  return dialer
end

-- rille.upstream{ targets = { ... }, ... }
function M.new(values)
  state.need_loop("upstream")
  local settings = options.check(values)
  if settings.dial and (settings.dial.max or settings.dial.timeout) then
    misuse("rille.upstream: dial: max_per_target and connect_timeout say what dial.max and dial.timeout would")
  end
  local self = setmetatable({
    settings = settings, pick = balance[settings.balance], needs_key = settings.balance == "consistent_hash",
    list = {}, by_url = {}, leaving = {}, sources = {}, unresolved = 0, revive_at = math.huge,
    primary = balance.new_set(), backup = balance.new_set(), queue = new_queue(), retry = new_retry(settings.retry),
    requests = 0, refused = 0, is_closed = false, last_failed = nil,
  }, Upstream)
  self:plain_dialer() -- which says what is wrong with its options
  all[self] = true
  set_sources(self, settings.targets)
  health.start(self)
  return self
end

-- Another generation serves: nothing is kept for later.
function M.aside()
  for self in pairs(all) do drop_idle(self) end
end

-- The loop is gone, and every connection with it. In a state that is on its way to another loop upstreams go on there.
function M.reset()
  for self in pairs(all) do
    for _, target in ipairs(self.list) do target:reset() end
    self.leaving, self.dialer = {}, nil
    self.queue:reset()
    self.is_closed = not state.is_staged
  end
end

return M
