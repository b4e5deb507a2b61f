-- conn_pump: bytes that go to a connection without passing through Lua: from another connection, or from a file. docs/pump.md says more.

local C = require "rille.core"
local ffi = require "ffi"

local conn_read = require "rille.conn_read"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local sendfile = require "rille.sendfile"

local type = type
local gone = conn_read.gone
local text = errors.text

local Conn = {}
local M = { methods = Conn }

local options_box, result_box = ffi.new("rille_pump_options[1]"), ffi.new("rille_pump_result[1]")

local KEYS = { bytes = true, until_idle = true, both = true }

local function check_options(options)
  if type(options) ~= "table" then misuse("bad argument #2 to 'pump' (a table expected, got %s)", type(options)) end
  for key in pairs(options) do
    if not KEYS[key] then misuse("pump has no option '%s'; there are bytes, until_idle, both", tostring(key)) end
  end
  local bytes, idle, both = options.bytes, options.until_idle, options.both
  if bytes ~= nil and not (type(bytes) == "number" and bytes >= 0 and bytes % 1 == 0 and bytes <= 2 ^ 53) then
    misuse("bytes: a whole number of bytes expected, got %s", tostring(bytes))
  end
  if idle ~= nil and not (type(idle) == "number" and idle > 0) then
    misuse("until_idle: a number of seconds above 0 expected, got %s", tostring(idle))
  end
  if both ~= nil and type(both) ~= "boolean" then misuse("both: true or false expected, got %s", tostring(both)) end
end

local NONE = {}

local function fill(options)
  if options == nil then options = NONE else check_options(options) end
  local box, both = options_box[0], options.both
  if both == nil then both = options.bytes == nil end
  box.bytes = options.bytes or -1
  box.idle_ms = (options.until_idle or 0) * 1000
  box.both = both and 1 or 0
end

local function keep(self)
  rawset(self, "_pumped", { there = result_box[0].there, back = result_box[0].back })
end

local function cancel(self)
  conn_read.unpark(self)
  if self._p and C.rille_pump_take(self._p, result_box) == 0 then keep(self) end
end

-- Move what comes from this connection to the other one and, unless options.both is false, back. Bytes there and back, and "idle" when
-- options.until_idle ended it; or nil, err and a table of both counts.
function Conn:pump(other, options)
  if type(other) ~= "table" or other.pump ~= Conn.pump then
    misuse("bad argument #1 to 'pump' (a connection expected, got %s)", type(other))
  end
  if other == self then misuse("bad argument #1 to 'pump' (another connection expected)") end
  fill(options)
  if not self._p then return gone(self) end
  if not other._p then return gone(other) end
  local code = C.rille_pump_start(self._p, other._p, options_box)
  if code ~= C.RILLE_PARK then return nil, text[-code], { there = 0, back = 0 } end
  repeat
    conn_read.park_for(self, cancel)
    if not self._p then
      local err = select(2, gone(self))
      return nil, err, { there = 0, back = 0 }
    end
    C.rille_pump_look(self._p, result_box)
  until result_box[0].is_over == 1
  C.rille_pump_take(self._p, result_box)
  keep(self)
  local result = result_box[0]
  if result.err ~= 0 then return nil, text[-result.err], self._pumped end
  return result.there, result.back, result.is_idle == 1 and "idle" or nil
end

-- Bytes there and back of the pump that runs, or of the last one; nil: there was none.
function Conn:pumped()
  if self._p and C.rille_pump_look(self._p, result_box) == 0 then return result_box[0].there, result_box[0].back end
  local last = rawget(self, "_pumped")
  if not last then return nil end
  return last.there, last.back
end

-- ---- files -----------------------------------------------------------------------------------------------------

local stat_box = ffi.new("rille_file_stat")

local function live(self)
  return self._p or nil
end

local function check_position(value, name)
  if value ~= nil and not (type(value) == "number" and value >= 0 and value % 1 == 0 and value <= 2 ^ 53) then
    misuse("sendfile: %s is a number of bytes, 0 or more, not %s", name, tostring(value))
  end
end

local function send(self, handle, offset, length)
  local code = C.rille_file_look(handle, stat_box)
  if code ~= 0 then return nil, text[-code] end
  local size = stat_box.size
  offset = offset or 0
  length = length or math.max(size - offset, 0)
  if offset + length > size then return nil, "short" end
  code = C.rille_http_file_seek(handle, offset)
  if code ~= 0 then return nil, text[-code] end
  local left = ffi.new("double[1]", length)
  local ok, err = sendfile.send(self, live, self, handle,
    function(p) return C.rille_conn_write_file(p, handle, left) end,
    function(p, job) return C.rille_conn_write_read(p, job, left) end)
  if not ok then return nil, err end
  return length
end

-- Write `length` bytes of a file from `offset` on (both without: all of it): how many bytes; nil, err. "not found", "permission denied",
-- "short" (there are fewer): nothing is written. A file that becomes shorter meanwhile closes the connection.
function Conn:sendfile(path, offset, length)
  if type(path) ~= "string" then misuse("bad argument #1 to 'sendfile' (a path expected, got %s)", type(path)) end
  check_position(offset, "offset")
  check_position(length, "length")
  if not self._p then return gone(self) end
  if C.rille_conn_is_http(self._p) == 1 then return nil, "busy" end
  if path:find("%z") then return nil, "not found" end
  local handle, err = sendfile.open(path)
  if not handle then return nil, err end
  return sendfile.finish(handle, pcall(send, self, handle, offset, length))
end

return M
