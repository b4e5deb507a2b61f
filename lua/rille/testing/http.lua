-- testing/http: one HTTP/1.1 request over a connection, and its response, for specs. Strict on purpose: a client that forgives
-- would hide what a server does wrong. RFC numbers name the rule.

local misuse = require "rille.misuse"
local near = require "rille.config.near"
local shown = require("rille.config.check").shown

local LINE_MAX, HEADERS_MAX = 65536, 1000
local FIELDS = { "method", "path", "headers", "body", "timeout" }
local TOKEN = "^[%w!#$%%&'*+%-.^_`|~]+$"     -- RFC 9110, 5.6.2
local NOT_IN_VALUE = "[%z\1-\8\10-\31\127]"  -- RFC 9110, 5.5

local http = {}

-- ---- the request -----------------------------------------------------------------------------------------------

local function need(is_good, name, expected, value)
  if not is_good then misuse("request.%s: got %s; expected %s", name, shown(value), expected) end
end

local function check_header(name, value)
  need(type(name) == "string" and name:find(TOKEN), "headers", "names as a header has them", name)
  local values = type(value) == "table" and value or { value }
  for _, one in ipairs(values) do
    need((type(one) == "string" or type(one) == "number") and not tostring(one):find(NOT_IN_VALUE),
      ('headers["%s"]'):format(name), "a string on one line, a number, or a list of such", one)
  end
end

-- Raise at the script's line for what is no request.
function http.check(request)
  if type(request) ~= "table" then misuse("bad argument #1 to 'request' (a table expected, got %s)", type(request)) end
  for name in pairs(request) do
    local is_known = false
    for _, field in ipairs(FIELDS) do is_known = is_known or name == field end
    if not is_known then
      local meant = type(name) == "string" and near(name, FIELDS)
      misuse("request has no field '%s'; %s", tostring(name),
        meant and ("did you mean '%s'?"):format(meant) or "expected one of " .. table.concat(FIELDS, ", "))
    end
  end
  local method, path, headers, body, timeout = request.method, request.path, request.headers, request.body, request.timeout
  need(method == nil or type(method) == "string" and method:find(TOKEN), "method", 'a word such as "GET"', method)
  need(path == nil or type(path) == "string" and path:find("^[^%c ]+$"), "path", 'a path without spaces such as "/"', path)
  need(headers == nil or type(headers) == "table", "headers", "a table", headers)
  need(body == nil or type(body) == "string", "body", "a string", body)
  need(timeout == nil or type(timeout) == "number" and timeout >= 0, "timeout", "seconds", timeout)
  for name, value in pairs(headers or {}) do check_header(name, value) end
end

local function send(conn, request, host)
  local names, lines, given = {}, {}, {}
  for name in pairs(request.headers or {}) do
    names[#names + 1] = name
    given[name:lower()] = true
  end
  table.sort(names) -- the same bytes each time
  for _, name in ipairs(names) do
    local value = request.headers[name]
    for _, one in ipairs(type(value) == "table" and value or { value }) do lines[#lines + 1] = ("%s: %s"):format(name, one) end
  end
  if request.body and not given["content-length"] and not given["transfer-encoding"] then
    table.insert(lines, 1, "Content-Length: " .. #request.body)
  end
  if not given.connection then table.insert(lines, 1, "Connection: close") end
  if not given.host then table.insert(lines, 1, "Host: " .. host) end
  conn:write(("%s %s HTTP/1.1\r\n%s\r\n\r\n"):format(request.method or "GET", request.path or "/", table.concat(lines, "\r\n")))
  -- What fails here shows in the answer: a server may refuse the body and answer without having read it.
  if request.body then conn:write(request.body) end
  conn:flush()
end

-- ---- the response ----------------------------------------------------------------------------------------------

local function broken_off(what, err, partial)
  if not partial or #partial == 0 then return ("%s: %s"):format(what, err) end
  return ("%s: %s after %s"):format(what, err, shown(partial:str()))
end

-- A line without its end, which is CR LF (RFC 9112, 2.2); what: what it would be, for messages.
local function read_line(conn, what)
  local line, err, partial = conn:read_until("\r\n", LINE_MAX)
  if not line then return nil, broken_off(what, err, partial) end
  local text = line:sub(1, -3):str()
  conn:release()
  if text:find("[%z\r\n]") then return nil, ("%s: a bare CR, LF or a NUL in %s"):format(what, shown(text)) end
  return text
end

-- Header lines to the empty one; of a name that comes twice the values are joined.
local function read_headers(conn, what)
  local headers = {}
  for _ = 1, HEADERS_MAX do
    local line, err = read_line(conn, what)
    if not line then return nil, err end
    if line == "" then return headers end
    local name, value = line:match("^([^:]+):[ \t]*(.-)[ \t]*$")
    if not name or not name:find(TOKEN) or value:find(NOT_IN_VALUE) then
      return nil, ("%s: no header line: %s"):format(what, shown(line))
    end
    name = name:lower()
    -- a cookie may hold a comma: RFC 9110, 5.3
    headers[name] = headers[name] and headers[name] .. (name == "set-cookie" and "\n" or ", ") .. value or value
  end
  return nil, ("%s: more than %d lines"):format(what, HEADERS_MAX)
end

-- size bytes, in pieces: a connection holds less of its input than a body may have.
local function read_bytes(conn, size, parts)
  local left = size
  while left > 0 do
    local piece, err = conn:read(left)
    if not piece then return nil, ("the body: %s after %d of %d bytes"):format(err, size - left, size) end
    parts[#parts + 1] = piece:str()
    left = left - #piece
    conn:release()
  end
  return true
end

-- RFC 9112, 7.1. The body and the trailers.
local function read_chunks(conn)
  local parts = {}
  while true do
    local line, err = read_line(conn, "a chunk's size")
    if not line then return nil, err end
    local digits, extension = line:match("^(%x+)(.*)$")
    if not digits or #digits > 12 or not extension:find("^[ \t]*;") and extension ~= "" then
      return nil, "a chunk's size: no such number: " .. shown(line)
    end
    local size = tonumber(digits, 16)
    if size == 0 then break end
    local ok, why = read_bytes(conn, size, parts)
    if not ok then return nil, why end
    line, err = read_line(conn, "a chunk's end")
    if not line then return nil, err end
    if line ~= "" then return nil, ("a chunk's end: %s where CR LF should be"):format(shown(line)) end
  end
  local trailers, err = read_headers(conn, "the trailers")
  if not trailers then return nil, err end
  return table.concat(parts), trailers
end

local function read_rest(conn)
  local parts = {}
  while true do
    local piece, err = conn:read()
    if not piece and err ~= "closed" then return nil, "the body: " .. err end
    if not piece then return table.concat(parts) end
    parts[#parts + 1] = piece:str()
    conn:release()
  end
end

-- RFC 9112, 6.3. The body, and trailers if it was chunked.
local function read_body(conn, status, headers, is_head)
  local length, coding = headers["content-length"], headers["transfer-encoding"]
  if length and coding then return nil, "Content-Length and Transfer-Encoding in one response" end
  if length and not length:find("^%d+$") then return nil, "Content-Length: no such number: " .. shown(length) end
  if coding and coding:lower() ~= "chunked" then return nil, "Transfer-Encoding: not understood: " .. shown(coding) end
  if (status < 200 or status == 204) and (length or coding) then
    return nil, ("a response %d with Content-Length or Transfer-Encoding"):format(status)
  end
  if is_head or status < 200 or status == 204 or status == 304 then return "" end
  if coding then return read_chunks(conn) end
  if not length then return read_rest(conn) end
  local parts = {}
  local ok, err = read_bytes(conn, tonumber(length), parts)
  if not ok then return nil, err end
  return table.concat(parts)
end

local function read_head(conn)
  local line, err = read_line(conn, "the status line")
  if not line then return nil, err end
  local status, reason = line:match("^HTTP/1%.1 ([1-5]%d%d) (.*)$")
  if not status then return nil, "no status line of HTTP/1.1: " .. shown(line) end
  local headers, why = read_headers(conn, "the headers")
  if not headers then return nil, why end
  return { status = tonumber(status), reason = reason, headers = headers }
end

-- Send a request and read its response. { status =, reason =, headers =, body =, trailers = (a table, or nil) }; nil, message.
function http.exchange(conn, request, host)
  send(conn, request, host)
  local response, err
  repeat
    response, err = read_head(conn)
    if not response then return nil, err end
  until response.status >= 200 or response.status == 101 -- 100 and 103 announce another one
  response.body, err = read_body(conn, response.status, response.headers, request.method == "HEAD")
  if not response.body then return nil, err end
  response.trailers = err
  if response.status ~= 101 and conn:len() > 0 then
    return nil, ("%d bytes after the response: %s"):format(conn:len(), shown(conn:peek(conn:len()):str()))
  end
  return response
end

return http
