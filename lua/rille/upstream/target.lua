-- target: one address of an upstream, and the connections to it on this loop. Each connection has a lease, which counts it as long as it
-- is there and says whether it is used or idle. An idle one is held by its target alone; nothing waits for it (see core/conn_rest.c), and
-- what happens to it ends it.
--
-- `open` counts every connection: used, idle, on its way, and ending.

local conn = require "rille.conn"
local dial = require "rille.dial"
local health = require "rille.upstream.health"
local log = require "rille.log"
local shared = require "rille.upstream.shared"
local state = require "rille.state"
local task = require "rille.task"

local hold, rest, rouse = conn.hold, conn.rest, conn.rouse

local Target = {}
Target.__index = Target

local Lease = {}
Lease.__index = Lease

local M = {}

-- ---- targets ---------------------------------------------------------------------------------------------------

-- one: as options.lua leaves it; owner: the upstream.
function M.new(owner, one)
  local self = setmetatable({
    owner = owner, url = one.url, address = one.address or one.url, origin = one.origin, tls_name = one.tls_name, host = one.host,
    open = 0, in_use = 0, idle = {}, idle_count = 0, requests = 0, failures = 0, last_error = nil,
    state = "up", is_leaving = false,
    row = 0, first_failure = 0, up_at = 0, is_ejected = false, is_half = false, is_probing = false, -- health.lua
    asked_row = 0, is_down = false, asker = nil,
    current = 0, is_live = false, -- balance.lua
  }, Target)
  self:set(one)
  if owner.settings.mux then self.mux = shared.new(self, owner.settings.mux) end
  return self
end

-- What may change while it is there.
function Target:set(one)
  self.name, self.weight, self.is_backup = one.name, one.weight, one.backup
  self.max = one.max or self.owner.settings.max_per_target
  -- what scripts see
  self.view = { url = self.url, name = self.name, weight = self.weight, backup = self.is_backup }
end

-- Whether somebody can be given a connection now.
function Target:has_room()
  if self.is_half and self.is_probing then return false end
  if self.mux then return self.mux:has_place() end
  return self.idle_count > 0 or self.open < self.max
end

-- Used and on their way, for balancing.
function Target:load()
  if self.mux then return self.mux:load() end
  return self.open - self.idle_count
end

-- ---- the pool --------------------------------------------------------------------------------------------------

-- Bytes that nobody asked for: what they answer is unknown, so nobody may get them.
local function surprised(self)
  log.debug("%s: %s: bytes came on an idle connection, it is closed", state.label, self._lease and self._lease.target.url or "?")
  self:abort()
end

local function take_out(target, self)
  local idle, count = target.idle, target.idle_count
  for i = 1, count do
    if idle[i] == self then
      table.remove(idle, i)
      target.idle_count = count - 1
      return
    end
  end
end

-- The newest idle connection that still works, for use; nil.
function Target:take_idle()
  local idle = self.idle
  while self.idle_count > 0 do
    local n = self.idle_count
    local c = idle[n]
    idle[n] = nil
    self.idle_count = n - 1
    local lease = c._lease
    lease.is_idle = false
    if rouse(c) then
      lease:begin()
      return c
    end
    c:abort() -- it counts until it is gone
  end
end

-- End every connection that nobody uses.
function Target:drop_idle()
  local idle = self.idle
  for i = self.idle_count, 1, -1 do
    local c = idle[i]
    idle[i] = nil
    c._lease.is_idle = false
    c:close()
  end
  self.idle_count = 0
  if self.mux then self.mux:drop() end
end

-- ---- connecting ------------------------------------------------------------------------------------------------

local function dialer_of(self)
  if self.tls_name then
    self.dialer = self.dialer or dial.dialer_of(self.owner:dial_options(self.tls_name))
    return self.dialer
  end
  return self.owner:plain_dialer()
end

-- A new connection to it: a conn, or nil, err, message. Parks. Here is where another way of making them has its place.
-- address: another one of the same host.
function Target:connect(address)
  return dialer_of(self):dial(address or self.address)
end

-- A place was reserved: `open` has counted it. A connection for use, or nil, err, message, and the place is free again.
function Target:fill_place()
  local ok, c, err, message = task.protect(self.connect, self, nil)
  if ok and c then
    local lease = setmetatable({ target = self, requests = 0, is_idle = false, is_out = false, is_lent = false, is_probe = false }, Lease)
    rawset(c, "_lease", lease)
    hold(c, lease)
    lease:begin()
    return c
  end
  if ok then health.failed(self, err, message) end -- first: who waits is not to be sent there
  self:leave_place(self.is_half)
  if not ok then error(c, 0) end
  return nil, err, message
end

-- One of its connections is over, or was never made.
function Target:leave_place(was_probe)
  self.open = self.open - 1
  if was_probe then self.is_probing = false end
  self.owner:place_free(self)
end

-- The loop is gone, and every connection with it.
function Target:reset()
  self.open, self.in_use, self.idle, self.idle_count = 0, 0, {}, 0
  self.dialer, self.is_probing, self.asker = nil, false, nil
end

-- ---- leases ----------------------------------------------------------------------------------------------------

function Lease:begin()
  local target = self.target
  self.is_out = true
  self.requests = self.requests + 1
  target.in_use = target.in_use + 1
  target.requests = target.requests + 1
  self.is_probe = target.is_half
  if target.is_half then target.is_probing = true end
end

-- The connection is over; conn.lua calls this.
function Lease:left(c)
  local target = self.target
  if self.is_idle then take_out(target, c) end
  if self.is_out then target.in_use = target.in_use - 1 end
  self.is_idle, self.is_out = false, false
  target:leave_place(self.is_probe)
end

local function is_kept(lease)
  local target = lease.target
  local owner = target.owner
  local settings = owner.settings
  if owner.is_closed or target.is_leaving or target.state == "down" or state.is_retiring then return false end
  if settings.max_requests > 0 and lease.requests >= settings.max_requests then return false end
  return target.idle_count < settings.keepalive
end

-- The user is done with it. is_good: it may be used again.
function Lease:finish(c, is_good)
  if not self.is_out then return end
  local target = self.target
  self.is_out, self.is_lent = false, false
  target.in_use = target.in_use - 1
  if self.is_probe then target.is_probing, self.is_probe = false, false end
  if is_good and is_kept(self) and rest(c, surprised, target.owner.settings.keepalive_timeout) then
    self.is_idle = true
    local n = target.idle_count + 1
    target.idle[n], target.idle_count = c, n
    return target.owner:place_free(target)
  end
  -- What waits to be sent still is; a peer that is in the middle of something is told at once that nobody listens.
  if is_good and c:len() == 0 or not c:is_active() then c:close() else c:abort() end
end

return M
