-- The HTTP/1 decoders once more, as plainly as can be: whole strings and patterns, from RFC 9110, RFC 9112 and RFC 3986.
-- What core/http_head.h and core/http_chunk.h promise beyond the RFCs (limits, statuses, which of two errors counts) is as
-- they say. Results are the lines of spec/c/http_decode_tool.c.

local bit = require "bit"

local PARTIAL = 0
local TOKEN = "[%w!#$%%&'*+.^_`|~-]"
local TARGET = '[!"$-~]' -- visible ASCII without "#"
local VALUE = "[\t\32-\126\128-\255]"
local METHODS = { GET = 1, HEAD = 2, POST = 3, PUT = 4, DELETE = 5, CONNECT = 6, OPTIONS = 7, TRACE = 8, PATCH = 9 }
local METHOD_SIZE_MAX = 32
local LENGTH_MAX = "9223372036854775807"

local function printable(s)
  return (s:gsub("[^!-$&-~]", function(c) return ("%%%02X"):format(c:byte()) end))
end

local function unescape(s)
  return (s:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end))
end

-- ---- targets -----------------------------------------------------------------------------------------------------

-- The path that is meant, or nil for a bad one.
local function meaning(path)
  if path:gsub("%%%x%x", ""):find("%", 1, true) then return nil end
  local decoded = unescape(path)
  if decoded:find("[%c]") then return nil end
  local segments = {}
  for segment in decoded:gmatch("[^/]+") do
    if segment == ".." then
      if not table.remove(segments) then return nil end
    elseif segment ~= "." then
      segments[#segments + 1] = segment
    end
  end
  local is_folder = decoded:find("/%.?%.?$") and #segments > 0
  return "/" .. table.concat(segments, "/") .. (is_folder and "/" or "")
end

-- The value of the parameter `name`, or nil.
local function parameter(query, name)
  for piece in query:gmatch("[^&]+") do
    local key, value = piece:match("^([^=]*)=?(.*)$")
    if unescape((key:gsub("%+", " "))) == name then return unescape((value:gsub("%+", " "))) end
  end
end

local function is_host(s)
  local host, port = s:match("^(%[[%x:.][%x:.]+%])(.*)$")
  if not host then
    host, port = s:match("^([^:]+)(.*)$")
    if not host or host:gsub("%%%x%x", "x"):find("[^%w._~!$&'()*+,;=-]") then return false end
  end
  local number = port:match("^:?(%d*)$")
  if port == "" then return true end
  return port:sub(1, 1) == ":" and number ~= nil and (number == "" or tonumber(number) <= 65535)
end

-- Fills path, query, host of the head; false when the target has none of the four forms.
local function split_target(head)
  local target = head.target
  if head.method == "CONNECT" then
    head.host = target
    head.path = ""
    return is_host(target) and target:find(":%d+$") ~= nil
  end
  if target == "*" then
    head.path = "*"
    return head.method == "OPTIONS"
  end
  local rest = target
  if target:sub(1, 1) ~= "/" then
    local scheme, authority, behind = target:match("^(%a+)://([^/?]+)(.*)$")
    scheme = scheme and scheme:lower()
    if scheme ~= "http" and scheme ~= "https" or not is_host(authority) then return false end
    head.host, rest = authority, behind
  end
  head.path, head.query = rest:match("^([^?]*)%??(.*)$")
  if not rest:find("?", 1, true) then head.query = nil end
  head.is_absent = head.path == ""
  return true
end

-- ---- the request line --------------------------------------------------------------------------------------------

-- What an incomplete or wrong line is: `rest` begins with the version.
local function unfinished_version(rest)
  local form = "HTTP/0.0\r\n"
  local digits = rest:sub(1, 5) .. rest:sub(6, 6):gsub("%d", "0") .. rest:sub(7, 7) .. rest:sub(8, 8):gsub("%d", "0") ..
    rest:sub(9)
  return digits == form:sub(1, #digits) and PARTIAL or -400
end

-- The head begun, and where the next line begins; or nil, status.
local function request_line(text, at, limits, is_full)
  local method, rest = text:match("^(" .. TOKEN .. "*)(.*)$", at)
  if #method > METHOD_SIZE_MAX then return nil, -501 end
  if rest == "" then return nil, PARTIAL end
  if method == "" or rest:sub(1, 1) ~= " " then return nil, -400 end
  local target, behind = rest:match("^ (" .. TARGET .. "*)(.*)$")
  if #target > limits.target or behind == "" and is_full then return nil, -414 end
  if behind == "" then return nil, PARTIAL end
  if target == "" or behind:sub(1, 1) ~= " " then return nil, -400 end
  local major, minor = behind:match("^ HTTP/(%d)%.(%d)\r\n")
  if not major then return nil, unfinished_version(behind:sub(2)) end
  if major ~= "1" or minor > "1" then return nil, -505 end
  local head = { method = method, target = target, minor = minor, host = "" }
  if not split_target(head) then return nil, -400 end
  return head, #text - #behind + 12
end

-- ---- fields ------------------------------------------------------------------------------------------------------

local LINE = "^(" .. TOKEN .. "+):[ \t]*(" .. VALUE .. "-)[ \t]*\r\n()"
local BEGUN = { "^\r?$", "^" .. TOKEN .. "+$", "^" .. TOKEN .. "+:" .. VALUE .. "*\r?$" }

local function unfinished_line(rest)
  for _, pattern in ipairs(BEGUN) do
    if rest:find(pattern) then return PARTIAL end
  end
  return -400
end

local function length_of(value)
  local digits = value:match("^0*(%d*)$")
  if value == "" or not digits or #digits > 19 or #digits == 19 and digits > LENGTH_MAX then return nil end
  return digits == "" and "0" or digits
end

-- What the server obeys: each gets the head and the value, and returns a status for a request that is refused.
local obey = {}

function obey.host(head, value)
  if head.has_host or value ~= "" and not is_host(value) then return -400 end
  head.has_host = true
  if head.host == "" then head.host = value end
end

obey["content-length"] = function(head, value)
  if head.length or head.is_chunked then return -400 end
  head.length = length_of(value)
  if not head.length then return -400 end
end

obey["transfer-encoding"] = function(head, value)
  if head.length or head.is_chunked or head.minor == "0" or value == "" then return -400 end
  if value:lower() ~= "chunked" then return -501 end
  head.is_chunked = true
end

function obey.expect(head, value)
  if head.minor == "0" then return end
  if value:lower() ~= "100-continue" then return -417 end
  head.wants_continue = true
end

function obey.upgrade(head) head.has_upgrade = true end

function obey.connection(head, value)
  for option in (value:lower() .. ","):gmatch("[ \t]*([^,]-)[ \t]*,") do head.options[option] = true end
end

-- All fields: where the next line begins, or nil, status.
local function fields(head, text, at, limits)
  while text:sub(at, at + 1) ~= "\r\n" do
    local name, value, next_at = text:match(LINE, at)
    if not name then return nil, unfinished_line(text:sub(at)) end
    if #head.fields == limits.headers then return nil, -431 end
    local check = obey[name:lower()]
    local status = check and check(head, value)
    if status then return nil, status end
    head.fields[#head.fields + 1] = printable(name) .. ":" .. printable(value)
    at = next_at
  end
  return at + 2
end

local function flags(head)
  local is_11, options = head.minor == "1", head.options
  local has_body = head.is_chunked or head.length and head.length ~= "0"
  local path = head.path
  local is_plain = not (path:find("%", 1, true) or path:find("//", 1, true) or path:find("/.", 1, true))
  return (head.is_chunked and "c" or "") ..
    ((is_11 or options["keep-alive"]) and not options.close and "k" or "") ..
    (head.wants_continue and "e" or "") ..
    (head.has_upgrade and options.upgrade and is_11 and not has_body and "u" or "") ..
    (is_plain and "p" or "") .. (head.is_absent and "n" or "")
end

local function line(head, size)
  local path, query, a = head.path, "-", "-"
  if path:sub(1, 1) == "/" then path = meaning(path) or "!400" end
  if head.query then
    query = printable(head.query)
    local value = parameter(head.query, "a")
    a = value and printable(value) or "-"
  end
  if path ~= "!400" then path = printable(path) end
  local words = { size, METHODS[head.method] or 0, printable(head.method), printable(head.target), path, query, a,
    printable(head.host), head.minor, head.length or "-", flags(head), unpack(head.fields) }
  return table.concat(words, " ")
end

-- ---- bodies ------------------------------------------------------------------------------------------------------

local QUOTED = '^"[^"\\]*' -- only to find where a quoted string ends

-- The end of the quoted string at `at`, which begins with a quote: the place behind it, or nil, status.
local function quoted(s, at)
  local from = at
  at = select(2, s:find(QUOTED, at)) + 1
  while s:sub(at, at) == "\\" do at = select(2, s:find("^\\.?[^\"\\]*", at)) + 1 end
  local inside = s:sub(from + 1, at - 1)
  local bad = inside:find("[%z\1-\8\10-\31\127]")
  if bad then return nil, -400, from + bad end
  if s:sub(at, at) ~= '"' then return nil, PARTIAL, #s end
  return at + 1
end

-- The size line at `at`: size as hex digits, place behind it, extension bytes; or nil, status, the place of the wrong byte.
local function size_line(s, at)
  local digits, next_at = s:match("^(%x*)()", at)
  if #digits > 16 then return nil, -400, at + 16 end
  if next_at > #s then return nil, PARTIAL, #s end
  if digits == "" then return nil, -400, at end
  at = next_at
  while not s:find("^\r", at) do
    local semicolon = s:match("^[ \t]*()", at)
    if semicolon > #s then return nil, PARTIAL, #s end
    if s:sub(semicolon, semicolon) ~= ";" then return nil, -400, semicolon end
    local name, behind = s:match("^[ \t]*(" .. TOKEN .. "*)()", semicolon + 1)
    if behind > #s then return nil, PARTIAL, #s end
    if name == "" then return nil, -400, behind end
    at = behind
    local value_at = s:match("^[ \t]*=[ \t]*()", behind)
    if value_at then
      if value_at > #s then return nil, PARTIAL, #s end
      at = s:match("^" .. TOKEN .. "*()", value_at)
      if s:sub(value_at, value_at) == '"' then
        local status, bad
        at, status, bad = quoted(s, value_at)
        if not at then return nil, status, bad end
      elseif at == value_at then
        return nil, -400, at
      end
      if at > #s then return nil, PARTIAL, #s end
    end
  end
  if at == #s then return nil, PARTIAL, #s end
  if s:sub(at + 1, at + 1) ~= "\n" then return nil, -400, at + 1 end
  return digits, at + 2, at - next_at
end

-- A trailer line, or the last line: the place behind it, its bytes beside the last LF; or nil, status, place.
local function trailer(s, at)
  local name, colon = s:match("^(" .. TOKEN .. "*)()", at)
  if colon > #s then return nil, PARTIAL, #s end
  if name == "" or s:sub(colon, colon) ~= ":" then return nil, -400, colon end
  local cr = s:match("^" .. VALUE .. "*()", colon + 1)
  if cr > #s then return nil, PARTIAL, #s end
  if s:sub(cr, cr) ~= "\r" then return nil, -400, cr end
  if cr == #s then return nil, PARTIAL, #s end
  if s:sub(cr + 1, cr + 1) ~= "\n" then return nil, -400, cr + 1 end
  return cr + 2, cr + 1 - at
end

local function trailers(s, at, extra, extra_max)
  while s:sub(at, at) ~= "\r" do
    if at > #s then return PARTIAL, #s end
    local next_at, more, bad = trailer(s, at)
    local bytes = next_at and more or bad - at + (more == PARTIAL and 1 or 0)
    if extra + bytes > extra_max then return -431 end
    if not next_at then return more, #s end
    at, extra = next_at, extra + bytes
  end
  if at == #s then return PARTIAL, #s end
  if s:sub(at + 1, at + 1) ~= "\n" then return -400 end
  return 1, at + 1
end

-- status (0 partial, 1 over, -400 ...), data, how many bytes were consumed
local function decode_body(s, extra_max)
  local data, at, extra = {}, 1, 0
  local function result(status, consumed) return status, table.concat(data), consumed end
  while true do
    local digits, next_at, more = size_line(s, at)
    if not digits then
      local status, place = next_at, more
      local well = s:sub(at, status == PARTIAL and place or place - 1)
      local extension = well:gsub("^%x*", ""):gsub("\r$", "")
      if extra + #extension > extra_max then return result(-431) end -- it was passed before the wrong byte
      return result(status, #s)
    end
    extra = extra + more
    if extra > extra_max then return result(-431) end
    if #digits == 16 and digits:sub(1, 1):find("[^0-7]") then return result(-413) end
    local size = math.min(tonumber(digits, 16), #s + 1) -- as good as more
    if size == 0 then return result(trailers(s, next_at, extra, extra_max)) end
    data[#data + 1] = s:sub(next_at, next_at + size - 1)
    at = next_at + size
    if at > #s then return result(PARTIAL, #s) end
    local ending = s:sub(at, at + 1)
    if ending == "\r" then return result(PARTIAL, #s) end
    if ending ~= "\r\n" then return result(-400) end
    at = at + 2
  end
end

local function digest(s) -- FNV-1a
  local d = 0xcbf29ce484222325ULL
  for i = 1, #s do d = bit.bxor(d, s:byte(i)) * 0x100000001b3ULL end
  return bit.tohex(d)
end

local function body(s, extra_max)
  local status, data, consumed = decode_body(s, extra_max)
  if status < 0 then return (" [%d %d %s]"):format(status, #data, digest(data)) end
  return (" [%d %d %d %s]"):format(status, consumed, #data, digest(data))
end

-- ---- the face ----------------------------------------------------------------------------------------------------

local M = {}

-- The line that the tool prints for a request; limits: head, target, extra (bytes), headers (a number).
function M.decode(bytes, limits)
  local text = bytes:sub(1, limits.head)
  local is_full = #bytes >= limits.head
  local function failed(status) return tostring(status == PARTIAL and is_full and -431 or status) end
  local at = 1
  while text:sub(at, at + 1) == "\r\n" do at = at + 2 end
  if text:sub(at) == "\r" then return failed(PARTIAL) end
  local head, next_at = request_line(text, at, limits, is_full)
  if not head then return failed(next_at) end
  head.fields, head.options = {}, {}
  local behind, status = fields(head, text, next_at, limits)
  if not behind then return failed(status) end
  if head.minor == "1" and not head.has_host then return failed(-400) end
  local result = line(head, behind - 1)
  return head.is_chunked and result .. body(bytes:sub(behind), limits.extra) or result
end

return M
