-- Random requests: most of them right or nearly so, for what is wrong everywhere is refused at its first byte and tests
-- nothing else. The same seed makes the same requests.

local random = math.random

local function pick(list) return list[random(#list)] end
local function chance(percent) return random(100) <= percent end

-- ---- targets -----------------------------------------------------------------------------------------------------

local SEGMENTS = { "a", "index.html", "..", ".", "", "%2e%2e", "%2E", "%2f", "%41", "%c3%a9", ".hidden", "...", "a%20b", "x;y=z",
  "%00", "%7f", "%", "%4", "%zz", "a\\b", "%25", "~u", "{}", "a:b@c" }
local QUERIES = { "", "a=1", "a=%20+b&b=2", "b=2&a=%zz%", "x", "a", "a=", "a?b", "&&a=3", "%61=4", "a==5", "/../", "b&a+=1" }
local HOSTS = { "example.org", "example.org:80", "localhost:8080", "127.0.0.1", "[::1]", "[::1]:443", "a", "A.b-c_d~", "a%41" }
local BAD_HOSTS = { "", ":80", "a:", "a:65535", "a:65536", "a:x", "a:1:2", "[::1", "[]", "[:]", "[::1]x", "u@a", "a/b", "a b", "a%4",
  "a%zz", "%", "\195\169", "[v1.x]", "a:0000000080", "a:99999999999999999999", "a#b", "a\\b" }

local function host() return chance(85) and pick(HOSTS) or pick(BAD_HOSTS) end

local function path()
  local parts = {}
  for i = 1, random(0, 4) do parts[i] = chance(60) and pick { "a", "b.c", "users" } or pick(SEGMENTS) end
  return "/" .. table.concat(parts, "/")
end

local function target(method)
  local query = chance(40) and "?" .. pick(QUERIES) or ""
  if chance(2) then return pick { "", "*", "a", "?a", "http:", "http://", "//", "*?", "\\", "/#f", "/\195\169", "/a\0b" } end
  if method == "CONNECT" and chance(80) then return host() .. (chance(50) and ":" .. random(0, 70000) or "") end
  if method == "OPTIONS" and chance(50) then return "*" end
  if chance(15) then
    local scheme = pick { "http", "https", "HTTP", "Https", "http", "ftp", "ws" }
    return scheme .. "://" .. host() .. (chance(70) and path() or "") .. query
  end
  return path() .. query
end

-- ---- fields ------------------------------------------------------------------------------------------------------

local METHODS = { "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "get",
  "PROPFIND", "M-SEARCH", "X!#$%&'*+.^_`|~", ("M"):rep(32), ("M"):rep(33), "G", "GETGET", "PRI" }
local VERSIONS = { "1.0", "1.2", "2.0", "0.9", "1.10", "01.1", "1", "1.", "3.1", "9.9" }
local NAMES = { "Accept", "User-Agent", "X-Test", "Cookie", "content_length", "X!#$%&'*+-.^_`|~", "Hosts", "Connections", "Te", "X" }
local VALUES = { "", "a", "some value", "a\tb", "\195\169", "\255", "a, b", "\"q\"", ("v"):rep(40), "100-continue", "chunked" }
local LENGTHS = { "0", "00", "5", "005", "9223372036854775807", "9223372036854775808", "18446744073709551616", "+5", "-5", "0x5",
  "5a", "5, 5", "5 5", "", "5,", "1e3", "1_0", "5\11", "99999999999999999999999" }
local CODINGS = { "chunked", "CHUNKED", "gzip", "gzip, chunked", "chunked, chunked", "chunked;q=1", "xchunked", "identity", "",
  "chunked,", "chunked\11", "\11chunked", "chunked\160", "\"chunked\"" }
local OPTIONS = { "close", "keep-alive", "upgrade", "Close", "Keep-Alive", "closed", "x", "", " close", "close\t", "clos e" }
local EXPECTATIONS = { "100-continue", "100-Continue", "200-ok", "", "100-continue, x" }

local function options()
  local list = {}
  for i = 1, random(1, 3) do list[i] = pick(OPTIONS) end
  return table.concat(list, pick { ",", ", ", " ,\t" })
end

local function cased(name)
  if chance(80) then return name end
  return chance(50) and name:upper() or name:lower()
end

local function field(name, value)
  local before = chance(85) and " " or pick { "", "\t", "  ", " \t " }
  local after = chance(90) and "" or pick { " ", "\t", " \t " }
  return cased(name) .. ":" .. before .. value .. after .. "\r\n"
end

local function some_field()
  local kind = random(100)
  if kind <= 60 then return field(pick(NAMES), pick(VALUES)) end
  if kind <= 75 then return field("Connection", options()) end
  if kind <= 85 then return field("Upgrade", pick { "websocket", "h2c", "" }) end
  if kind <= 90 then return field("Expect", chance(70) and "100-continue" or pick(EXPECTATIONS)) end
  if kind <= 94 then return field("Content-Length", chance(50) and "0" or pick(LENGTHS)) end
  if kind <= 97 then return field("Transfer-Encoding", chance(50) and "chunked" or pick(CODINGS)) end
  return field("Host", host())
end

local BAD_LINES = { "X : a\r\n", ": a\r\n", "X\r\n", " folded\r\n", "\tfolded\r\n", "X: a\n", "X: a\rY: b\r\n", "X: a\0b\r\n",
  "X: \127\r\n", "X[: a\r\n", "\195\169: a\r\n", "X: a\r\r\n", "\n", "\r", "X: \27[0m\r\n",
  "Transfer-Encoding : chunked\r\n", "Content-Length : 5\r\n" }

-- ---- bodies ------------------------------------------------------------------------------------------------------

local EXTENSIONS = { ";a", ";a=b", " ; a = b", ";a=\"q;\\\" \t\"", ";a;b;c=d", "\t;\ta", ";a=\"\"" }
local BAD_EXTENSIONS = { ";", "; ", ";a=", ";=b", ";a b", ";a=b c", " ", "\t", ";a ", ";a=b ", ";a=\"b", ";a=\"b\\", ";a=\"b\"c", ";a\0",
  ";\195\169", ";a=\"\127\"", ";a\n", ";a\r", ";a=\"b\" ", ";;", ";a==b", "a" }
local BAD_SIZES = { "", "0x5", "+5", "-5", " 5", "5g", "g", ("0"):rep(17), ("f"):rep(17), ("0"):rep(15) .. "5", "8000000000000000",
  "7fffffffffffffff", ("f"):rep(16), "100000005", "\r\n5" }
local BAD_ENDS = { "\n", "\r", "", "\r\r\n", "\n\r", "XX", " \r\n" }
local TRAILERS = { "X: a\r\n", "X:\r\n", "Content-Length: 5\r\n", "x-check: \255\t \r\n" }

local function end_of_line() return chance(97) and "\r\n" or pick(BAD_ENDS) end

local function extension()
  if chance(80) then return "" end
  return chance(80) and pick(EXTENSIONS) or pick(BAD_EXTENSIONS)
end

local function chunk()
  local data = pick { "a", "hello", "\r\n", "0\r\n\r\n", ("x"):rep(random(1, 40)), "\0\255" }
  local size = chance(96) and pick({ "%x", "%X", "%04x", "%016x" }):format(#data) or pick(BAD_SIZES)
  if chance(1) then data = data .. "!" end
  return size .. extension() .. end_of_line() .. data .. end_of_line()
end

local function chunked_body()
  local parts = {}
  for i = 1, random(0, 3) do parts[i] = chunk() end
  parts[#parts + 1] = pick { "0", "0", "0", "000", ("0"):rep(16) } .. extension() .. end_of_line()
  while chance(15) do parts[#parts + 1] = chance(80) and pick(TRAILERS) or pick(BAD_LINES) end
  parts[#parts + 1] = end_of_line()
  if chance(20) then parts[#parts + 1] = "GET / HTTP/1.1\r\n" end
  return table.concat(parts)
end

-- ---- requests ----------------------------------------------------------------------------------------------------

local NASTY = { "\r", "\n", "\0", " ", "\t", ":", "\r\n", "\127", "\255", "%", "?", "/", "\"", ";", ",", "0", "A", "\r\n ", "\r\n\r\n" }

-- One byte replaced, put in or left out, or everything behind it.
local function mutate(bytes)
  local at, kind = random(#bytes), random(4)
  if kind == 1 then return bytes:sub(1, at - 1) .. pick(NASTY) .. bytes:sub(at + 1) end
  if kind == 2 then return bytes:sub(1, at) .. pick(NASTY) .. bytes:sub(at + 1) end
  if kind == 3 then return bytes:sub(1, at - 1) .. bytes:sub(at + 1) end
  return bytes:sub(1, at)
end

local function request_line(version)
  local method = chance(50) and "GET" or pick(METHODS)
  local space = chance(99) and " " or pick { "", "  ", "\t", " \r" }
  local before = chance(97) and "" or pick { "\r\n", "\r\n\r\n", "\n", " ", "\r" }
  return before .. method .. space .. target(method) .. space .. "HTTP/" .. version .. (chance(99) and "\r\n" or pick(BAD_ENDS))
end

local function request()
  local version = chance(85) and "1.1" or chance(70) and "1.0" or pick(VERSIONS)
  local parts = { request_line(version) }
  local function add(text) parts[#parts + 1] = text end
  local has_host, is_chunked = chance(97), chance(30)
  if has_host and chance(70) then add(field("Host", host())) has_host = false end
  for _ = 1, random(0, 4) do add(chance(98) and some_field() or pick(BAD_LINES)) end
  if has_host then add(field("Host", host())) end
  if is_chunked then add(field("Transfer-Encoding", chance(95) and "chunked" or pick(CODINGS))) end
  if not is_chunked and chance(20) then add(field("Content-Length", chance(60) and "5" or pick(LENGTHS))) end
  add(chance(98) and "\r\n" or pick(BAD_ENDS))
  if is_chunked then add(chunked_body()) end
  local bytes = table.concat(parts)
  while #bytes > 0 and chance(20) do bytes = mutate(bytes) end
  return bytes
end

local M = {}

-- A request, and limits for it, which are often near what it needs.
function M.next()
  local bytes = request()
  local limits = { head = 16384, target = 8192, headers = 100, extra = 1000 }
  if chance(10) then limits.head = random(0, #bytes + 10) end
  if chance(5) then limits.target = random(0, 40) end
  if chance(5) then limits.headers = random(0, 8) end
  if chance(10) then limits.extra = random(0, 30) end
  return bytes, limits
end

return M
