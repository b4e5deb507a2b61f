-- answer: what a request has brought: `res`. Its head is there; its body comes from the connection, which goes back to the upstream with
-- the body's end. docs/http_client.md describes every field and method.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local json = require "rille.http.json"
local misuse = require "rille.misuse"
local park = require("rille.conn_read").park

local type, to_string = type, ffi.string
local new_slice = Slice.new_from
local text = errors.text
local PARK, END, TIMEOUT, CLOSED = C.RILLE_PARK, C.RILLE_HTTP_END, C.RILLE_ERR_TIMEOUT, C.RILLE_ERR_CLOSED
local BROKEN, TOO_LARGE = C.RILLE_ERR_SERVER_FAILURE, C.RILLE_ERR_TOO_LARGE
local SET_READ = C.RILLE_SET_READ

local DISCARD_MAX = 65536 -- bytes that are read to keep a connection
local INTERIM_MAX = 16    -- answers 1xx before the final one

local Answer = {}
Answer.__index = Answer

local M = {}

local scratch = ffi.new("rille_slice[1]")
local text_box = ffi.new("const char *[1]")

-- ---- the connection --------------------------------------------------------------------------------------------

-- It goes back: for use by others when all was as it should be.
local function leave(self)
  local conn = self._conn
  if not conn then return end
  self._conn = false
  local sender = self._sender
  local is_good = sender.is_done and sender.is_sent and C.rille_reply_keeps_alive(self._reply) == 1 and not self._call.is_last
  sender:stop()
  if not is_good then conn:close() end
  self._upstream:put(conn)
end

-- It is of no further use.
local function drop(self, err)
  local conn = self._conn
  if not conn then return end
  self._conn = false
  self._sender:stop()
  conn:abort()
  self._upstream:put(conn, err)
end

local function fail(self, err, message)
  drop(self, err)
  self._err, self._message = err, ("%s %s: %s"):format(self._call.method, self.url, message)
  return nil, err, self._message
end

-- Seconds for the next wait: until `at`, at most those of the whole request.
local function patience(self, at)
  local now = C.rille_now()
  local left = math.min(at, self._deadline) - now
  return left, left <= 0
end

-- What rille_reply_head and rille_reply_read have said that is wrong.
local function explain(self, code, where)
  local sender = self._sender
  if sender.fault then
    local fault = sender.fault
    drop(self, "error")
    error(fault, 0)
  end
  if code == BROKEN or code == TOO_LARGE then
    local flaw = to_string(C.rille_reply_flaw(self._reply))
    return fail(self, text[-code], "the answer is malformed: " .. flaw)
  end
  if code == CLOSED then return fail(self, "closed", "the server has closed the connection " .. where) end
  return fail(self, text[-code], text[-code] .. " " .. where)
end

local function gone(self, where)
  local conn = self._conn
  return explain(self, errors.code[conn._error or "closed"] or CLOSED, where)
end

local function late(self, what, seconds)
  if C.rille_now() >= self._deadline then return fail(self, "timeout", ("not done in %g s"):format(self._call.timeout)) end
  return fail(self, "timeout", ("%s in %g s"):format(what, seconds))
end

-- The answer is whole. What is left of the request is sent nonetheless, unless the server has said that it does not want it (RFC 9110
-- section 7.5). True, or nil, err, message.
local function part(self)
  local sender = self._sender
  if not sender.is_done and C.rille_reply_keeps_alive(self._reply) == 1 then
    sender:wait((patience(self, math.huge)))
    if not sender.is_done then return late(self, "the request was not sent", self._call.timeout) end
    if sender.fault then return explain(self, CLOSED) end
  end
  leave(self)
  return true
end

-- ---- the head --------------------------------------------------------------------------------------------------

-- The time that the server has for its answer begins when the request is sent.
local function answer_due(self)
  local sender = self._sender
  return (sender.is_done and sender.at or C.rille_now()) + self._call.answer_timeout
end

-- The next head: its status; nil, err, message.
local function next_head(self)
  local conn, reply, is_head = self._conn, self._reply, self._call.method == "HEAD" and 1 or 0
  while true do
    local p = conn._p
    if not p then return gone(self, "before its answer was whole") end
    local left, is_late = patience(self, answer_due(self))
    if is_late then return late(self, "no answer", self._call.answer_timeout) end
    C.rille_conn_set(p, SET_READ, left * 1000)
    local code = C.rille_reply_head(reply, p, is_head)
    if code == 0 then return C.rille_reply_status(reply) end
    if code == PARK then
      park(conn)
    elseif code ~= TIMEOUT then
      return explain(self, code, "before its answer was whole")
    end
  end
end

-- Wait for the head of the final answer: self, or nil, err, message.
function M.await(self)
  for _ = 0, INTERIM_MAX do
    local status, err, message = next_head(self)
    if not status then return nil, err, message end
    if status == 101 then return fail(self, "server failure", "the answer switches protocols (101), which nobody asked for") end
    if status >= 200 then
      self.status = status
      if status >= 300 then self._sender:stop() end -- it need not read on, and says so
      if C.rille_reply_is_over(self._reply) == 1 then
        status, err, message = part(self)
        if not status then return nil, err, message end
      end
      return self
    end
    C.rille_reply_start(self._reply)
    self._is_begun = true
  end
  return fail(self, "server failure", ("more than %d answers 1xx"):format(INTERIM_MAX))
end

-- Whether anything has come of an answer; what is in the input of a connection that is there counts.
function M.has_begun(self, conn)
  return self._is_begun or C.rille_reply_has_begun(self._reply) == 1 or conn:len() > 0
end

-- ---- fields ----------------------------------------------------------------------------------------------------

local function value_of(reply, trailer, i)
  local size = C.rille_reply_value(reply, trailer, i, text_box)
  return to_string(text_box[0], size)
end

local function values_of(reply, trailer, name)
  local list = {}
  local i = C.rille_reply_find(reply, trailer, name, #name, 0)
  while i >= 0 do
    list[#list + 1] = value_of(reply, trailer, i)
    i = C.rille_reply_find(reply, trailer, name, #name, i + 1)
  end
  return list
end

-- The value of the field; of several the values with ", " between them (RFC 9110 section 5.3).
local function field(self, trailer, name, what)
  if type(name) ~= "string" then misuse("bad argument #1 to '%s' (a name expected, got %s)", what, type(name)) end
  local reply = self._reply
  local i = C.rille_reply_find(reply, trailer, name, #name, 0)
  if i < 0 then return nil end
  if C.rille_reply_find(reply, trailer, name, #name, i + 1) >= 0 then return table.concat(values_of(reply, trailer, name), ", ") end
  return value_of(reply, trailer, i)
end

local function all_fields(self, trailer)
  local out, reply = {}, self._reply
  for i = 0, C.rille_reply_fields(reply, trailer) - 1 do
    local size = C.rille_reply_name(reply, trailer, i, text_box)
    local name = to_string(text_box[0], size):lower()
    local value = value_of(reply, trailer, i)
    local before = out[name]
    if name == "set-cookie" then -- RFC 6265 section 3: its values cannot be joined
      if before then before[#before + 1] = value else out[name] = { value } end
    else
      out[name] = before and before .. ", " .. value or value
    end
  end
  return out
end

function Answer:header(name)
  return field(self, 0, name, "header")
end

function Answer:headers()
  return all_fields(self, 0)
end

-- A list of the values of all fields of that name.
function Answer:values(name)
  if type(name) ~= "string" then misuse("bad argument #1 to 'values' (a name expected, got %s)", type(name)) end
  return values_of(self._reply, 0, name)
end

-- Of the fields behind a chunked body; they are there when its end was read.
function Answer:trailer(name)
  return field(self, 1, name, "trailer")
end

function Answer:trailers()
  return all_fields(self, 1)
end

-- ---- the body --------------------------------------------------------------------------------------------------

local function read(self, max)
  if not self._conn then
    if self._err then return nil, self._err, self._message end
    return nil
  end
  local due = C.rille_now() + self._call.read_timeout
  while true do
    local p = self._conn._p
    if not p then return gone(self, "in the middle of the body") end
    local left, is_late = patience(self, due)
    if is_late then return late(self, "nothing more of the body", self._call.read_timeout) end
    C.rille_conn_set(p, SET_READ, left * 1000)
    local code = C.rille_reply_read(self._reply, p, max, scratch)
    if code == 0 then return new_slice(scratch) end
    if code == END then
      local _, err, message = part(self)
      return nil, err, message
    end
    if code == C.RILLE_ERR_BUSY then return nil, "busy", "another task reads this body" end
    if code == PARK then
      park(self._conn)
    elseif code ~= TIMEOUT then
      return explain(self, code, "in the middle of the body")
    end
    if not self._conn then return nil, self._err or "closed", self._message or nil end -- another task has given it up
  end
end

-- The next piece of the body, 1 to max bytes, until the next call; nil at its end; nil, err, message.
function Answer:read(max)
  if max == nil then
    max = math.huge
  elseif type(max) ~= "number" or not (max >= 1) then
    misuse("bad argument #1 to 'read' (1 or more bytes expected, got %s)", tostring(max))
  end
  return read(self, max)
end

local function too_large(self, max)
  return fail(self, "too large", ("the body has more than %d bytes"):format(max))
end

-- The whole body, or what read() has left of it, as a string. Above max bytes: nil, "too large".
function Answer:body(max)
  if max ~= nil and (type(max) ~= "number" or not (max >= 0)) then
    misuse("bad argument #1 to 'body' (a number of bytes expected, got %s)", tostring(max))
  end
  max = max or self._call.max_body
  if self._body then return self._body end
  if self._conn and C.rille_reply_length(self._reply) > max then return too_large(self, max) end
  local parts, size = {}, 0
  while true do
    local piece, err, message = read(self, math.huge)
    if not piece then
      if err then return nil, err, message end
      self._body = #parts == 1 and parts[1] or table.concat(parts)
      return self._body
    end
    size = size + piece:len()
    if size > max then return too_large(self, max) end
    parts[#parts + 1] = piece:str()
  end
end

-- The body as the value that it is in JSON.
function Answer:json(max)
  local body, err, message = self:body(max)
  if not body then return nil, err, message end
  json.need()
  local ok, value = pcall(json.decode, body)
  if not ok then return nil, "invalid argument", value end
  return value
end

-- The rest of the body is not wanted: a little is read, so that the connection can be used again, else it is closed. True.
function Answer:discard()
  local left = DISCARD_MAX
  if C.rille_reply_length(self._reply) > left then drop(self, "closed") end
  while self._conn do
    local piece = read(self, left)
    if not piece then break end
    left = left - piece:len()
    if left <= 0 then drop(self, "closed") end
  end
  return true
end

-- ---- the table -------------------------------------------------------------------------------------------------

local getters = {
  reason = function(self)
    local size = C.rille_reply_reason(self._reply, text_box)
    return to_string(text_box[0], size)
  end,
  version = function(self) return C.rille_reply_minor(self._reply) == 1 and "1.1" or "1.0" end,
}

local metatable = {
  __index = function(self, key)
    local method = Answer[key]
    if method then return method end
    local getter = getters[key]
    return getter and getter(self)
  end,
  __tostring = function(self) return ("res %d %s"):format(self.status, self.url) end,
}

-- An answer that is to come: M.await waits for it.
function M.new(upstream, conn, sender, call, url)
  local reply = C.rille_reply_new(call.max_head, call.max_headers)
  if reply == nil then return nil end
  return setmetatable({
    status = 0, url = url.text, _conn = conn, _upstream = upstream, _sender = sender, _call = call, _deadline = call.deadline,
    _reply = ffi.gc(reply, C.rille_reply_free), _is_begun = false, _err = false, _message = false, _body = false,
  }, metatable)
end

M.drop = drop

return M
