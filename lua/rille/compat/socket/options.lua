-- options: LuaSocket's names of socket options over those of a connection. What is set before there is one is kept until then.

local misuse = require "rille.misuse"
local text_of = require "rille.compat.socket.texts"

local NAMES = {
  ["tcp-nodelay"] = "nodelay",
  ["keepalive"] = "keepalive",
  ["tcp-keepidle"] = "keepalive_idle",
  ["tcp-keepintvl"] = "keepalive_interval",
  ["tcp-keepcnt"] = "keepalive_count",
  ["recv-buffer-size"] = "receive_buffer",
  ["send-buffer-size"] = "send_buffer",
}
-- Rille sets these, or nothing, when it listens.
local OF_LISTENERS = { reuseaddr = true, reuseport = true, ["ipv6-v6only"] = true }

local M = { methods = {} }

-- { on =, timeout = }: how long a close may go on sending, and with 0 seconds that it sends nothing more, but RST.
local function set_linger(conn, value)
  if type(value) ~= "table" then misuse("bad argument #2 to 'setoption' (linger: a table { on =, timeout = } expected)") end
  local seconds = value.on and tonumber(value.timeout) or nil
  if seconds and seconds > 0 then conn:set_timeouts { linger = seconds } end
  return conn:option("reset_on_close", seconds == 0)
end

local function apply(conn, name, value)
  if OF_LISTENERS[name] then return true end
  if name == "linger" then return set_linger(conn, value) end
  return conn:option(NAMES[name], value)
end

-- What was set before there was a connection. True, or nil, err.
function M.settle(self)
  for name, value in pairs(self._options or {}) do
    local ok, err = apply(self._conn, name, value)
    if not ok then return nil, err end
  end
  return true
end

local function check(name, what)
  if not NAMES[name] and not OF_LISTENERS[name] and name ~= "linger" then
    misuse("bad argument #1 to '%s' (unsupported option '%s')", what, tostring(name))
  end
end

function M.methods:setoption(name, value)
  check(name, "setoption")
  if value == nil then value = true end
  if self._conn then
    local ok, err = apply(self._conn, name, value)
    if not ok then return nil, text_of(err) end
    return 1
  end
  self._options = self._options or {}
  self._options[name] = value
  return 1
end

function M.methods:getoption(name)
  check(name, "getoption")
  local conn = self._conn
  if not conn or OF_LISTENERS[name] then
    local value = self._options and self._options[name]
    return value == nil and name ~= "linger" and false or value
  end
  if name == "linger" then
    local on, err = conn:option "reset_on_close"
    if on == nil then return nil, text_of(err) end
    return { on = on, timeout = 0 }
  end
  local value, err = conn:option(NAMES[name])
  if value == nil then return nil, text_of(err) end
  return value
end

return M
