-- discovery: targets whose names stand for addresses that change. Each name is looked up again when the time is over that DNS gave for
-- its answer; as long as DNS fails the last answer counts.

local resolve = require "rille.resolve"
local timer = require "rille.timer"
local C = require "rille.core"
local log = require "rille.log"
local state = require "rille.state"

local M = {}

local RETRY = 5 -- seconds after a failure, within ttl_min and ttl_max
local WEIGHT_MAX = 1000

-- ---- answers ---------------------------------------------------------------------------------------------------

local function child(source, url, tls_name)
  return {
    url = url, origin = source.url, tls_name = tls_name, name = source.name, weight = source.weight, backup = source.backup,
    max = source.max,
  }
end

-- Addresses as targets of the same port.
local function of_addresses(source, list)
  local scheme, host, port = source.url:match("^(%w+)://(.-):(%d+)$")
  local out = {}
  for i, address in ipairs(list) do
    if address:find(":", 1, true) then address = "[" .. address .. "]" end
    out[i] = child(source, ("%s://%s:%s"):format(scheme, address, port), scheme == "tls" and host or nil)
    out[i].host = host
  end
  return out
end

-- What DNS is asked for: nil, addresses of both families.
local function kind_of(source)
  if source.dns ~= true then return source.dns end
  local scheme = source.url:match("^%w+")
  return scheme == "tcp4" and "A" or scheme == "tcp6" and "AAAA" or nil
end

-- SRV records as targets: those of the best priority, the others for when none of these is up.
local function of_services(source, list)
  local scheme = source.url:match("^(%w+)://")
  local heaviest, best = 1, math.huge
  for _, r in ipairs(list) do heaviest, best = math.max(heaviest, r.weight), math.min(best, r.priority) end
  local scale = heaviest > WEIGHT_MAX and WEIGHT_MAX / heaviest or 1
  local out = {}
  for _, r in ipairs(list) do
    local host = r.target:gsub("%.$", "")
    if host ~= "" and r.port > 0 then
      local one = child(source, ("%s://%s:%d"):format(scheme, host, r.port))
      one.weight = math.max(1, math.floor(r.weight * scale))
      one.backup = source.backup or r.priority > best
      out[#out + 1] = one
    end
  end
  return out
end

local function signature(list)
  local parts = {}
  for i, one in ipairs(list) do parts[i] = ("%s %d %s"):format(one.url, one.weight, tostring(one.backup)) end
  table.sort(parts)
  return table.concat(parts, "\n")
end

-- ---- looking up ------------------------------------------------------------------------------------------------

local function bounded(self, seconds)
  return math.max(self.settings.ttl_min, math.min(self.settings.ttl_max, seconds))
end

local function settled(self, name)
  if name.is_settled then return end
  name.is_settled = true
  if self.names[name.source.url] == name then self.unresolved = self.unresolved - 1 end
end

local function take(self, name, list)
  local source = name.source
  local targets = source.dns == "SRV" and of_services(source, list) or of_addresses(source, list)
  local sign = signature(targets)
  name.due, name.problem = C.rille_now() + bounded(self, list.ttl), nil
  if sign == name.sign then return settled(self, name) end
  name.targets, name.sign = targets, sign
  settled(self, name)
  if self.names[source.url] == name then self:rebuild() end
end

-- Ask DNS for one name. Parks.
local function look_up(self, name)
  local dns = self.settings.dial and self.settings.dial.dns
  local list, err, message = resolve.resolve(name.host, kind_of(name.source), dns and { dns = dns } or nil)
  if list and #list > 0 then return take(self, name, list) end
  local problem = message or err or ("%s has no addresses"):format(name.host)
  if problem ~= name.problem and not self.is_closed then log.warn("%s: %s: %s", state.label, self.settings.name, problem) end
  name.due, name.problem = C.rille_now() + bounded(self, RETRY), problem
  settled(self, name)
end

-- For a caller who needs the first answers now.
function M.settle(self)
  for _, name in pairs(self.names) do
    if not name.is_settled then look_up(self, name) end
  end
end

-- Those whose time is over; seconds until the next.
local function look_around(self)
  for _, name in pairs(self.names) do
    if name.due <= C.rille_now() and not self.is_closed then look_up(self, name) end
  end
  local next_due = math.huge
  for _, name in pairs(self.names) do next_due = math.min(next_due, name.due) end
  return math.min(math.max(0.001, next_due - C.rille_now()), self.settings.ttl_max)
end

-- ---- following -------------------------------------------------------------------------------------------------

local function host_of(source)
  return source.url:match("^%w+://(.-):?%d*$")
end

-- Names among the sources are followed from now on, others no more.
function M.follow(self)
  local before, names, is_any, unresolved = self.names or {}, {}, false, 0
  for _, source in ipairs(self.sources) do
    if source.dns then
      local name = before[source.url]
      if not name or name.source.dns ~= source.dns then
        name = { host = host_of(source), targets = {}, sign = false, due = 0, is_settled = false, problem = nil }
      end
      name.source, name.sign, name.due = source, false, 0
      names[source.url] = name
      is_any = true
      if not name.is_settled then unresolved = unresolved + 1 end
    end
  end
  self.names, self.unresolved = names, unresolved
  M.stop(self)
  if is_any then self.follower = timer.pulse(self.settings.ttl_max, function() return look_around(self) end) end
end

-- The sources, with what names stand for in their places.
function M.expand(self, sources)
  local out = {}
  for _, source in ipairs(sources) do
    if source.dns then
      for _, one in ipairs(self.names[source.url].targets) do out[#out + 1] = one end
    else
      out[#out + 1] = source
    end
  end
  return out
end

-- Why there is no target.
function M.problem(self)
  for _, name in pairs(self.names) do
    if name.problem then return name.problem end
  end
end

function M.stop(self)
  if self.follower then self.follower:cancel() end
  self.follower = nil
end

return M
