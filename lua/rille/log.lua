-- log: a script's way to the process's log. Formatting is Lua's, everything behind it (rate, escaping, target) is
-- core/log.c. A log call never raises and never parks, whatever its arguments.

local ffi = require "ffi"
local bit = require "bit"
local C = require "rille.core"
local errors = require "rille.errors"

local select, tostring, pcall, format, byte = select, tostring, pcall, string.format, string.byte
local getinfo = debug.getinfo
local bxor, lshift, tobit, bor = bit.bxor, bit.lshift, bit.tobit, bit.bor

local log = {}

local DEBUG, INFO, WARN, ERROR = 0, 1, 2, 3
local LINE_MAX = 8192
assert(C.RILLE_LOG_ERROR == ERROR and C.RILLE_LOG_LINE_MAX == LINE_MAX)

local levels = { debug = DEBUG, info = INFO, warn = WARN, error = ERROR, off = 4 }
local level_names = { [0] = "debug", "info", "warn", "error", "off" }
local formats = { logfmt = C.RILLE_LOG_LOGFMT, json = C.RILLE_LOG_JSON }
local targets = { stderr = C.RILLE_LOG_STDERR, queue = C.RILLE_LOG_QUEUE }

-- Who speaks in this state; the label is kept in Lua because the struct only borrows its bytes.
local context = ffi.new("rille_log_context")
local label_owner

-- Set what every line of this state carries: label such as "echo@1", loop 1.. (nil: the thread's).
function log.set_context(label, loop)
  label_owner = label
  context.label = label_owner
  context.loop = loop or 0
end

-- ---- call sites ----

-- FNV-1a, as a uint32_t; 0 means "no limit" to C, so it is never made here.
local function hash(text)
  local h = tobit(0x811c9dc5)
  for i = 1, #text do
    h = bxor(h, byte(text, i))
    -- h * 0x01000193 by shifts: the product of two doubles would lose its low bits
    h = tobit(h + lshift(h, 1) + lshift(h, 4) + lshift(h, 7) + lshift(h, 8) + lshift(h, 24))
  end
  return bor(h, 1) % 2 ^ 32
end

-- source -> line -> hash. Scripts that load chunks under ever new names must not fill the memory, so it starts over
-- at a bound.
local SITES_MAX = 4096
local sites, site_count = {}, 0

local function site_of(source, line)
  local lines = sites[source]
  local site = lines and lines[line]
  if site then return site end
  if site_count >= SITES_MAX then sites, site_count, lines = {}, 0, nil end
  if not lines then
    lines = {}
    sites[source] = lines
  end
  site = hash(source .. ":" .. line)
  lines[line] = site
  site_count = site_count + 1
  return site
end

-- The line that runs at this level, as the caller of this function counts.
local function site_at(level)
  local info = getinfo(level + 1, "Sl")
  if not info then return site_of("?", 0) end -- the bottom of a coroutine, left by a tail call
  return site_of(info.source, info.currentline)
end

-- ---- records ----

-- tostring that neither raises nor returns anything but a string, whatever a __tostring does: a slice that has expired
-- prints as its type and why.
local function text_of(value)
  local is_ok, text = pcall(tostring, value)
  if type(text) ~= "string" then return type(value) end
  return is_ok and text or type(value) .. " (" .. text .. ")"
end

local function message_of(fmt, ...)
  if select("#", ...) == 0 then return text_of(fmt) end
  local is_ok, text = pcall(format, fmt, ...) -- LuaJIT's %s applies tostring, to slices too
  if is_ok then return text end
  return text_of(fmt) .. " (not formatted: " .. text_of(text) .. ")"
end

local function write(level, ...)
  local text = message_of(...)
  C.rille_log_write(level, site_at(3), context, text, #text, nil, 0)
end

-- Each is a function of its own, and calls write without a tail call, so that its caller is always at level 3.

function log.debug(...)
  if C.rille_log_is_enabled(DEBUG) ~= 0 then write(DEBUG, ...) end
end

function log.info(...)
  if C.rille_log_is_enabled(INFO) ~= 0 then write(INFO, ...) end
end

function log.warn(...)
  if C.rille_log_is_enabled(WARN) ~= 0 then write(WARN, ...) end
end

function log.error(...)
  if C.rille_log_is_enabled(ERROR) ~= 0 then write(ERROR, ...) end
end

-- For the library, which logs in the name of others. site, whose rate it is: a string that names the place, or the
-- number of calls above the caller's own (1: the line that called the function which calls this). conn: an id, or nil.
function log.record(name, site, conn, ...)
  local level = levels[name]
  if C.rille_log_is_enabled(level) == 0 then return end
  local text = message_of(...)
  local key = type(site) == "number" and site_at(site + 2) or site_of(site, 0)
  context.conn = conn or 0
  C.rille_log_write(level, key, context, text, #text, nil, 0)
  context.conn = 0
end

-- ---- control ----

local function choice(value, choices, what, expected)
  local chosen = choices[value]
  if chosen == nil then
    error(("log %s is %s; expected %s"):format(what, tostring(value), expected), 3)
  end
  return chosen
end

local LEVELS_TEXT = '"debug", "info", "warn", "error" or "off"'

-- For the whole process, from now on.
function log.set_level(name)
  C.rille_log_set_level(choice(name, levels, "level", LEVELS_TEXT))
end

function log.level()
  return level_names[C.rille_log_level()]
end

function log.is_enabled(name)
  return C.rille_log_is_enabled(choice(name, levels, "level", LEVELS_TEXT)) ~= 0
end

-- options: level = "info", format = "logfmt" or "json", file = a path, or to = "stderr" or "queue" (for log.take).
-- Returns true, or nil, err when the file cannot be opened, which changes nothing. For the whole process.
function log.configure(options)
  local level = choice(options.level or "info", levels, "level", LEVELS_TEXT)
  local line_format = choice(options.format or "logfmt", formats, "format", '"logfmt" or "json"')
  local file = options.file
  if file ~= nil and (type(file) ~= "string" or file == "" or file:find("%z")) then
    error(("log file is %s; expected a path"):format(tostring(file)), 2)
  end
  local target = file and C.RILLE_LOG_FILE or choice(options.to or "stderr", targets, "to", '"stderr" or "queue"')
  local rc = C.rille_log_configure(level, line_format, target, file)
  if rc < 0 then return nil, errors.text[-rc] end
  return true
end

-- Records a second and calling line; 0 is no limit.
function log.set_rate(per_second)
  C.rille_log_set_rate(per_second)
end

-- Open the log file again; what SIGUSR1 does. Returns true, or nil, err: then the old file is still in use.
function log.reopen()
  local rc = C.rille_log_reopen()
  if rc < 0 then return nil, errors.text[-rc] end
  return true
end

local line_buffer

-- The oldest line of the queue, without its newline, or nil.
function log.take()
  line_buffer = line_buffer or ffi.new("char[?]", LINE_MAX)
  local size = C.rille_log_take(line_buffer, LINE_MAX)
  if size > 0 then return ffi.string(line_buffer, size) end
end

-- Of the process since its start: lines written at each level, records over their calling line's rate, lines the target
-- did not take.
function log.counts()
  local counts = ffi.new("rille_log_counts")
  C.rille_log_count(counts)
  return {
    debug = counts.debug, info = counts.info, warn = counts.warn, error = counts.error,
    suppressed = counts.suppressed, dropped = counts.dropped,
  }
end

return log
