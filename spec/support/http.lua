-- http: requests and answers as text, for specs that look at what goes over the wire. What an answer may look like is checked
-- while it is read: a client that accepts more would hide mistakes.

local server = require "spec.support.server"

local M = { server = server, net = server.net }

-- A server that speaks HTTP; see server.start.
function M.start(script, opts)
  opts = opts or {}
  opts.listen = opts.listen or "http://127.0.0.1:0"
  return server.start(script, opts)
end

-- A request as text. fields: a list of lines. Host comes by itself, Content-Length with a body.
function M.request(method, target, fields, body)
  local lines = { ("%s %s HTTP/1.1"):format(method, target), "Host: test" }
  for _, line in ipairs(fields or {}) do lines[#lines + 1] = line end
  if body then lines[#lines + 1] = "Content-Length: " .. #body end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or "")
end

function M.get(target, fields)
  return M.request("GET", target or "/", fields)
end

function M.post(target, body, fields)
  return M.request("POST", target or "/", fields, body)
end

-- A body in the chunked coding, a chunk for each piece.
function M.chunked(pieces, trailers)
  local parts = {}
  for _, piece in ipairs(pieces) do parts[#parts + 1] = ("%x\r\n%s\r\n"):format(#piece, piece) end
  return table.concat(parts) .. "0\r\n" .. (trailers or "") .. "\r\n"
end

local function receive_line(c, seconds)
  local line = c:receive_line(seconds)
  local text = line:match("^([^\r]*)\r$")
  if not text then error(("a line that does not end in CR LF: %q"):format(line), 0) end
  return text
end

local function receive_chunked(c, seconds)
  local pieces = {}
  while true do
    local size = tonumber(receive_line(c, seconds):match("^%x+$"), 16)
    if size == 0 then break end
    pieces[#pieces + 1] = c:receive(size, seconds)
    assert(c:receive(2, seconds) == "\r\n", "no CR LF behind a chunk")
  end
  assert(receive_line(c, seconds) == "", "trailers nobody asked for")
  return table.concat(pieces), pieces
end

-- Status line and fields: { status =, reason =, lines = { "Name: value", ... }, [lower-case name] = value }. Several fields of
-- one name are joined with " | ".
function M.head(c, seconds)
  local line = receive_line(c, seconds)
  local status, reason = line:match("^HTTP/1%.1 (%d%d%d) ([^\r\n]*)$")
  if not status then error(("no status line: %q"):format(line), 0) end
  local answer = { status = tonumber(status), reason = reason, lines = {} }
  while true do
    line = receive_line(c, seconds)
    if line == "" then return answer end
    local name, value = line:match("^([%w-]+): (.*)$")
    if not name then error(("no header field: %q"):format(line), 0) end
    answer.lines[#answer.lines + 1] = line
    name = name:lower()
    answer[name] = answer[name] and answer[name] .. " | " .. value or value
  end
end

-- A whole answer; its body is in `body` (and `pieces`, its chunks). How the end of the body is told has to be clear. method: what
-- was asked with ("HEAD" has no body).
function M.answer(c, method, seconds)
  local answer = M.head(c, seconds)
  local length, coding = answer["content-length"], answer["transfer-encoding"]
  assert(not (length and coding), "both Content-Length and Transfer-Encoding")
  local is_bodiless = method == "HEAD" or answer.status == 204 or answer.status == 304 or answer.status < 200
  if is_bodiless then
    if answer.status == 204 or answer.status < 200 then assert(not length and not coding, "a length of nothing") end
    answer.body = ""
  elseif coding then
    assert(coding == "chunked", coding)
    answer.body, answer.pieces = receive_chunked(c, seconds)
  elseif length then
    answer.body = c:receive(tonumber(length:match("^%d+$")), seconds)
  else
    assert(answer.connection == "close", "neither a length nor an end")
    answer.body = c:receive_all(seconds)
  end
  return answer
end

-- Send a request and read its answer.
function M.ask(c, text, seconds)
  c:send(text)
  return M.answer(c, text:match("^%S+"), seconds)
end

-- One request over a connection of its own.
function M.once(s, text, seconds)
  local c = s:connect()
  local answer = M.ask(c, text, seconds)
  c:close()
  return answer
end

return M
