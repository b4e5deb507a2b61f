-- conn_option: what a connection's socket can be asked and told, and its rates. docs/conn.md describes each option.

local C = require "rille.core"
local ffi = require "ffi"

local errors = require "rille.errors"
local gone = require("rille.conn_read").gone
local misuse = require "rille.misuse"
local result = require("rille.conn_write").result

local type = type
local text = errors.text

local Conn = {}
local M = { methods = Conn }

local value_box = ffi.new("double[1]")
local info_box = ffi.new("rille_tcp_info[1]")

-- ---- options ---------------------------------------------------------------------------------------------------

local boolean = {
  what = "a boolean",
  to_c = function(value) return type(value) == "boolean" and (value and 1 or 0) or nil end,
  from_c = function(number) return number ~= 0 end,
}

local function number_of(what, factor)
  return {
    what = what,
    to_c = function(value)
      if type(value) ~= "number" then return nil end
      return factor == 1 and value or math.floor(value * factor + 0.5)
    end,
    from_c = function(number) return number / factor end,
  }
end

local seconds, count, bytes = number_of("seconds", 1), number_of("a number", 1), number_of("bytes", 1)

local OPTIONS = {
  nodelay = { C.RILLE_OPTION_NODELAY, boolean },
  keepalive = { C.RILLE_OPTION_KEEPALIVE, boolean },
  keepalive_idle = { C.RILLE_OPTION_KEEPALIVE_IDLE, seconds },
  keepalive_interval = { C.RILLE_OPTION_KEEPALIVE_INTERVAL, seconds },
  keepalive_count = { C.RILLE_OPTION_KEEPALIVE_COUNT, count },
  receive_buffer = { C.RILLE_OPTION_RECEIVE_BUFFER, bytes },
  send_buffer = { C.RILLE_OPTION_SEND_BUFFER, bytes },
  reset_on_close = { C.RILLE_OPTION_LINGER, boolean },
  quickack = { C.RILLE_OPTION_QUICKACK, boolean },
  user_timeout = { C.RILLE_OPTION_USER_TIMEOUT, number_of("seconds", 1000) },
  mark = { C.RILLE_OPTION_MARK, count },
  tos = { C.RILLE_OPTION_TOS, count },
}

local function names_of(options)
  local names = {}
  for name in pairs(options) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

-- option(name): its value; option(name, value): true. Or nil, err.
function Conn:option(name, value)
  local option = OPTIONS[name]
  if not option then
    misuse("bad argument #1 to 'option' (there is no '%s'; there are %s)", tostring(name), names_of(OPTIONS))
  end
  local number, kind = option[1], option[2]
  if value == nil then
    if not self._p then return gone(self) end
    local code = C.rille_conn_option(self._p, number, value_box)
    if code ~= 0 then return nil, text[-code] end
    return kind.from_c(value_box[0])
  end
  local given = kind.to_c(value)
  if not given then misuse("bad argument #2 to 'option' (%s: %s expected, got %s)", name, kind.what, type(value)) end
  if not self._p then return gone(self) end
  return result(C.rille_conn_set_option(self._p, number, given))
end

-- Another descriptor of its socket, the caller's to close.
function Conn:dup()
  if not self._p then return gone(self) end
  local fd = C.rille_conn_dup(self._p)
  if fd < 0 then return nil, text[-fd] end
  return fd
end

-- ---- tcp_info --------------------------------------------------------------------------------------------------

-- By the number the kernel has for it.
local STATES = {
  "established", "syn_sent", "syn_recv", "fin_wait1", "fin_wait2", "time_wait", "close", "close_wait", "last_ack", "listen",
  "closing", "new_syn_recv",
}

local FIELDS = {
  "rtt", "rttvar", "min_rtt", "rto", "last_data_sent", "last_data_received", "retransmits", "total_retransmits", "unacked",
  "sacked", "lost", "reordering", "snd_cwnd", "snd_ssthresh", "snd_mss", "rcv_mss", "pmtu", "snd_wnd", "rcv_space",
  "delivery_rate", "pacing_rate", "bytes_sent", "bytes_acked", "bytes_received", "bytes_retransmitted", "notsent_bytes",
  "busy_time", "rwnd_limited", "sndbuf_limited",
}

-- What the kernel knows of it, a new table; or nil, err.
function Conn:tcp_info()
  if not self._p then return gone(self) end
  local code = C.rille_conn_tcp_info(self._p, info_box)
  if code ~= 0 then return nil, text[-code] end
  local info = { state = STATES[info_box[0].state] or "unknown" }
  for _, name in ipairs(FIELDS) do info[name] = info_box[0][name] end
  return info
end

-- ---- rates -----------------------------------------------------------------------------------------------------

local RATE_MAX = 2 ^ 30

local RATES = { read = C.RILLE_SET_READ_RATE, write = C.RILLE_SET_WRITE_RATE }

-- set_rate{ read =, write = }: bytes a second, 0 for none; what is not named stays.
function Conn:set_rate(t)
  if type(t) ~= "table" then misuse("bad argument #1 to 'set_rate' (table expected, got %s)", type(t)) end
  for name, rate in pairs(t) do
    if not RATES[name] then
      misuse("set_rate has no '%s': it takes read, write", tostring(name))
    elseif type(rate) ~= "number" or not (rate == 0 or rate >= 1 and rate <= RATE_MAX) then
      misuse("set_rate: %s takes bytes a second, 0 (none) or 1 to %d, not %s", name, RATE_MAX, tostring(rate))
    end
  end
  if not self._p then return gone(self) end
  for name, rate in pairs(t) do
    local code = C.rille_conn_set(self._p, RATES[name], rate)
    if code ~= 0 then return nil, text[-code] end
  end
  return true
end

return M
