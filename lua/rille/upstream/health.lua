-- health: whether a target is up. Passive: requests that fail in a row take it down; after a while one request is let through to see.
-- Active: it is asked from time to time, by a function or a URL.

local C = require "rille.core"
local log = require "rille.log"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local M = {}

local function now() return C.rille_now() end

-- ---- passive ---------------------------------------------------------------------------------------------------

local function go_down(target, settings)
  target.is_half, target.is_probing, target.row = false, false, 0
  target.is_ejected = true
  target.up_at = now() + settings.cooldown
  M.judge(target)
end

-- What requests and checks say of it, taken together.
function M.judge(target)
  local is_down = target.is_ejected or target.is_down
  if is_down == (target.state == "down") or target.is_leaving then return end
  target.state = is_down and "down" or "up"
  local name = target.owner.settings.name
  if is_down then
    log.warn("%s: %s: %s is down: %s", state.label, name, target.url, target.last_error)
    target:drop_idle()
  else
    log.info("%s: %s: %s is %s", state.label, name, target.url, target.is_half and "tried again" or "up again")
  end
  target.owner:changed(target)
end

-- A request was well.
function M.succeeded(target)
  target.row = 0
  if not target.is_half then return end
  target.is_half, target.is_probing = false, false
end

function M.remember(target, what)
  target.last_error, target.owner.last_failed = tostring(what), target
end

-- A request failed, or a connection to it.
function M.failed(target, err, message)
  target.failures = target.failures + 1
  M.remember(target, message or err)
  local settings = target.owner.settings.health.passive
  if not settings then return end
  if target.is_half then return go_down(target, settings) end
  if target.is_ejected then return end
  local at = now()
  if target.row == 0 or at - target.first_failure > settings.within then target.row, target.first_failure = 0, at end
  target.row = target.row + 1
  if target.row >= settings.failures then go_down(target, settings) end
end

-- Those whose time is over may be tried by one request each. The next such time, math.huge for none.
function M.revive(targets)
  local at, next_at = now(), math.huge
  for _, target in ipairs(targets) do
    if target.is_ejected then
      if target.up_at <= at then
        target.is_ejected, target.is_half, target.is_probing = false, true, false
        M.judge(target)
      elseif target.up_at < next_at then
        next_at = target.up_at
      end
    end
  end
  return next_at
end

-- ---- active ----------------------------------------------------------------------------------------------------

local LINE_MAX = 4096

-- "http://HOST:PORT/path" as { path =, host =, port = }, "tcp://:PORT" as { port = }; each part may be missing. nil: it is no such URL.
function M.parse(url)
  local scheme, host, port, path = url:match("^(%a+)://([^/:%s%c]*):?(%d*)(/?[^%s%c]*)$")
  local number = tonumber(port)
  if number and (number < 1 or number > 65535) then return nil end
  if scheme == "tcp" and host == "" and path == "" then return { port = number } end
  if scheme ~= "http" then return nil end
  return { path = path == "" and "/" or path, host = host ~= "" and host or nil, port = number }
end

local function ask_http(conn, target, what)
  local host = what.host or target.host or target.address:match("^%w+://(.*):%d+$") or "localhost"
  conn:send(("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: rille\r\nConnection: close\r\n\r\n"):format(what.path, host))
  local line, err = conn:read_line(LINE_MAX)
  if not line then return nil, err end
  local status = tonumber(line:str():match("^HTTP/1%.[01] (%d%d%d)"))
  if status and status >= 200 and status < 400 then return true end
  return nil, status and ("status %d"):format(status) or "no answer of HTTP"
end

local function talk(conn, target, check)
  if type(check) == "function" then return check(conn, target.view) end
  if not check.path then return true end
  return ask_http(conn, target, check)
end

-- A connection of its own, which no limit counts.
local function ask(target, check)
  local port = type(check) == "table" and check.port
  local conn, err, message = target:connect(port and target.address:gsub(":%d+$", ":" .. port) or nil)
  if not conn then return nil, err, message end
  local ok, is_well, why, more = task.protect(talk, conn, target, check)
  conn:abort()
  if not ok then error(is_well, 0) end
  return is_well, why, more
end

-- It was asked: err is nil, or what was wrong.
local function note(target, err, settings)
  if target.is_leaving then return end
  local row = target.asked_row
  if err then
    M.remember(target, err)
    target.asked_row = row > 0 and -1 or row - 1
    if target.asked_row <= -settings.fall then target.is_down = true end
  else
    target.asked_row = row < 0 and 1 or row + 1
    if target.asked_row >= settings.rise then
      target.is_down, target.is_ejected, target.is_half, target.row = false, false, false, 0
    end
  end
  M.judge(target)
end

local function check_one(target)
  local settings = target.owner.settings.health.active
  local ok, is_well, err, message = task.protect(task.with_timeout, settings.timeout, ask, target, target.owner.checks)
  target.asker = nil
  if not ok and rawequal(is_well, task.cancelled) then error(is_well, 0) end
  if not ok then
    log.error("%s: %s: the health check of %s failed: %s", state.label, target.owner.settings.name, target.url, tostring(is_well))
    note(target, tostring(is_well), settings)
  else
    note(target, not is_well and tostring(message or err or "it says so") or nil, settings)
  end
end

function M.start(self)
  local settings = self.settings.health.active
  if not settings then return end
  self.checks = type(settings.check) == "string" and M.parse(settings.check) or settings.check
  self.checker = timer.pulse(settings.interval, function()
    for _, target in ipairs(self.list) do
      if not target.asker then target.asker = task.spawn(check_one, target) end
    end
  end)
end

-- Nobody asks it any more.
function M.leave(target)
  if target.asker then target.asker:cancel() end
  target.asker = nil
end

function M.stop(self)
  if self.checker then self.checker:cancel() end
end

return M
