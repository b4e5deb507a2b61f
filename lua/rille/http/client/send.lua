-- send: a request on its way out: head and body. Small bodies go out with the head at the end of the turn; others have a task of their
-- own, so that the answer is read meanwhile: a server may answer before it has read everything.

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local misuse = require "rille.misuse"
local task = require "rille.task"

local type, istype = type, ffi.istype
local slice_t, buffer_t = Slice.type, LinkBuffer.type

local M = {}

local head = buffer.new(1024) -- nothing parks while something is in it

-- ---- bodies ----------------------------------------------------------------------------------------------------

-- How many bytes x has; nil when it comes in pieces.
local function size_of(x)
  if x == nil then return 0 end
  if type(x) == "string" then return #x end
  if istype(slice_t, x) then return x:len() end
  if istype(buffer_t, x) then return x:len() end
end

-- A function that returns the pieces of a body.
local function pieces_of(body)
  if type(body) == "function" then return body end
  if type(body) == "table" and type(body.read) == "function" then return function() return body:read() end end
  misuse("a body is a string, a slice, a LinkBuffer, a function that returns the next piece or an object with read(), not a %s",
    type(body))
end

-- How many bytes the fields say that a body has; nil: nothing of it.
local function length_of(fields)
  local length
  for _, field in ipairs(fields) do
    if field.lower == "content-length" then
      local value = field.value
      if length or not value:find("^%d+$") or #value > 15 then -- 2^53 has 16 digits
        misuse("headers: Content-Length is one whole number, got %q%s", value, length and " besides another" or "")
      end
      length = tonumber(value)
    end
  end
  return length
end

-- What request.body is: its size, or its pieces and what Content-Length says of them (nil: chunks).
function M.prepare(request, fields)
  local body = request.body
  local size = size_of(body)
  if size then return { whole = body, size = size } end
  return { next = pieces_of(body), size = length_of(fields) }
end

-- Whether it can be sent once more.
function M.can_repeat(body)
  return not body.next and not istype(buffer_t, body.whole)
end

-- ---- the head --------------------------------------------------------------------------------------------------

local function write_framing(method, body)
  if body.next and not body.size then
    head:put("Transfer-Encoding: chunked\r\n")
  elseif body.next or body.size > 0 or method == "POST" or method == "PUT" or method == "PATCH" then
    head:put("Content-Length: ", ("%d"):format(body.size), "\r\n")
  end
end

-- Put the head into the connection's output; a code of C.
local function write_head(conn, call, url)
  head:reset()
  head:put(call.method, " ", url.target, " HTTP/1.1\r\n")
  if not call.names.host then head:put("Host: ", url.name, "\r\n") end
  if not call.names["user-agent"] then head:put("User-Agent: rille\r\n") end
  if not call.names.accept then head:put("Accept: */*\r\n") end
  for i = 1, #call.fields do
    local field = call.fields[i]
    if field.lower ~= "content-length" then head:put(field.name, ": ", field.value, "\r\n") end
  end
  write_framing(call.method, call.body)
  head:put("\r\n")
  local bytes, size = head:ref()
  return C.rille_conn_write(conn._p, bytes, size)
end

-- ---- sending ---------------------------------------------------------------------------------------------------

local function write_piece(conn, piece, size, is_chunked)
  if size == 0 then return true end
  if is_chunked and not conn:write(("%x\r\n"):format(size)) then return nil, "closed" end
  local ok, err = conn:write(piece)
  if ok and is_chunked then ok, err = conn:write("\r\n") end
  return ok, err
end

-- All pieces. nil, err: the connection took no more; a raise: what was to be sent is not there.
local function write_pieces(conn, body)
  local is_chunked, left = not body.size, body.size or math.huge
  while true do
    local piece, why = body.next()
    if piece == nil then
      if why ~= nil then error(("the body could not be read: %s"):format(tostring(why)), 0) end
      break
    end
    local size = size_of(piece)
    if not size then misuse("the piece of a body is a string, a slice or a LinkBuffer, not a %s", type(piece)) end
    left = left - size
    if left < 0 then misuse("the body has more bytes than its Content-Length") end
    local ok, err = write_piece(conn, piece, size, is_chunked)
    if not ok then return nil, err end
  end
  if is_chunked then return conn:write("0\r\n\r\n") end
  if left > 0 then misuse("the body has %d bytes less than its Content-Length", left) end
  return true
end

local function send_all(conn, body)
  local ok, err
  if body.next then ok, err = write_pieces(conn, body) else ok, err = conn:write(body.whole) end
  if ok then ok, err = conn:flush() end
  return ok, err
end

local function run(self, conn, body)
  local is_whole, ok, err = task.protect(send_all, conn, body)
  self.task = nil
  if self.is_stopped then return end
  self.is_done, self.at = true, C.rille_now()
  if is_whole then
    self.is_sent, self.err = ok, err
    return
  end
  self.fault = ok -- what was raised
  conn:abort()
end

local Sender = {}
Sender.__index = Sender

-- The rest is not wanted.
function Sender:stop()
  if self.is_done then return end
  self.is_done, self.is_stopped, self.is_sent, self.at = true, true, false, C.rille_now()
  if self.task then self.task:cancel() end
end

-- Park until all of it was sent or nothing more will be, at most so many seconds.
function Sender:wait(seconds)
  local running = self.task
  if not running then return end
  if seconds == math.huge then running:join() else task.with_timeout(seconds, running.join, running) end
end

-- Begin to send. What tells how far it is: is_done, is_sent (all of it was), at (since when), fault (what the script's function raised).
function M.start(conn, call, url)
  local body = call.body
  local self = setmetatable({
    is_done = true, is_sent = true, is_stopped = false, at = C.rille_now(), fault = nil, task = nil,
  }, Sender)
  if not conn._p or write_head(conn, call, url) < 0 then -- it is over already
    self.is_sent = false
  elseif body.next or body.size > 0 and C.rille_conn_is_above(conn._p, body.size) == 1 then
    self.is_done, self.is_sent = false, false
    C.rille_conn_set(conn._p, C.RILLE_SET_WRITE, call.read_timeout * 1000)
    self.task = task.spawn(run, self, conn, body)
  elseif body.size > 0 then
    self.is_sent = conn:write(body.whole)
  end
  return self
end

return M
