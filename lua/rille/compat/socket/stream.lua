-- stream: what sockets of TCP, Unix sockets and TLS have in common, over a connection of Rille in the field _conn: send, receive, and to be
-- waited for by select. Nothing that was received is held back between two calls: bytes stay in the connection until they are asked for.

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local conn_read = require "rille.conn_read"
local conn_write = require "rille.conn_write"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local task = require "rille.task"
local text_of = require "rille.compat.socket.texts"
local timeouts = require "rille.compat.socket.timeouts"

local text = errors.text
local PARK, TOO_LARGE, BUSY = C.RILLE_PARK, C.RILLE_ERR_TOO_LARGE, C.RILLE_ERR_BUSY

local PIECE = 65536 -- what waits in the connection at once, on its way in or out
local TURN = 16 * PIECE -- what one task sends before others have their turn, where the kernel takes all of it

local scratch = ffi.new("rille_slice[1]")
local scan_box = ffi.new("double[1]")
local bytes_t = ffi.typeof("const char *")

local Stream = {}
for name, method in pairs(timeouts.methods) do Stream[name] = method end

local M = { methods = Stream }

-- conn becomes the connection of a socket.
function M.take(self, conn)
  self._conn = conn
  self._received, self._sent, self._born = 0, 0, C.rille_now()
end

local function pointer_of(self)
  local conn = self._conn
  return conn and not self._is_deaf and conn._p
end

-- ---- receiving -------------------------------------------------------------------------------------------------

-- ask(p) is 0, RILLE_PARK or an error of C; it is asked again as long as it parks. The pointer and 0, or nil, err, code.
local function await(self, deadline, ask, argument)
  local is_late = false
  while true do
    local p = pointer_of(self)
    if not p then return nil, "closed" end
    local code = ask(p, argument)
    if code == 0 then return p end
    if code ~= PARK then return nil, text[-code], code end
    if is_late then
      C.rille_conn_unwant(p, 1)
      return nil, "timeout"
    end
    -- What came just in time is still taken: after the last wait it is asked once more.
    is_late = not conn_read.park_within(self._conn, timeouts.left(self, deadline))
  end
end

local function want(p, n)
  return C.rille_conn_want(p, n)
end

-- Goes on where it was, however often it is asked.
local function find_line(p, self)
  scan_box[0] = self._scan
  local code = C.rille_conn_read_until(p, "\n", 1, math.huge, scan_box, scratch)
  self._scan = scan_box[0]
  return code
end

-- What is there, at most n bytes, goes to the end of hoard: how many.
local function gather(self, n, hoard)
  local p = pointer_of(self)
  local size = p and math.min(C.rille_conn_len(p), n) or 0
  if size == 0 then return 0 end
  local room = hoard:reserve(size)
  local code = C.rille_linkbuffer_read_copy(C.rille_conn_input(p), room, size)
  hoard:commit(code == 0 and size or 0)
  C.rille_conn_release(p)
  if code ~= 0 then return 0 end
  self._received = self._received + size
  return size
end

local function new_hoard(prefix)
  local hoard = buffer.new()
  hoard:put(prefix)
  return hoard
end

-- Piece by piece, as the connection holds no more than limits.max_input.
local function receive_large(self, n, prefix, deadline)
  local hoard, left, piece = new_hoard(prefix), n, PIECE
  while left > 0 do
    local _, err, code = await(self, deadline, want, math.min(left, piece))
    left = left - gather(self, left, hoard)
    if code == TOO_LARGE and piece > 1 then
      piece = 1
    elseif err and left > 0 then
      local all = hoard:tostring()
      if n == math.huge and err == "closed" and #all > #prefix then return all end
      return nil, text_of(err), all
    end
  end
  return hoard:tostring()
end

local function receive_bytes(self, n, prefix, deadline)
  if n > PIECE then return receive_large(self, n, prefix, deadline) end
  local p, err, code = await(self, deadline, want, math.max(n, 1))
  if code == TOO_LARGE and n > 1 then return receive_large(self, n, prefix, deadline) end
  if not p then
    local hoard = new_hoard(prefix)
    gather(self, n, hoard)
    return nil, text_of(err), hoard:tostring()
  end
  local bytes = LinkBuffer.read_string(C.rille_conn_input(p), n)
  C.rille_conn_release(p)
  if not bytes then return nil, "Cannot allocate memory", prefix end
  self._received = self._received + n
  return prefix == "" and bytes or prefix .. bytes
end

-- Every CR is left out, wherever it stands: so LuaSocket reads lines.
local function without_cr(line)
  if line:find("\r", 1, true) then line = line:gsub("\r", "") end
  return line
end

-- hoard: the beginning of a line that is longer than a connection may hold; nil.
local function take_line(self, p, hoard)
  local s = scratch[0]
  local size = s.size_
  local line
  if hoard then
    hoard:putcdata(s.base_, size - 1)
    line = hoard:tostring()
  else
    line = ffi.string(s.base_, size - 1)
  end
  C.rille_conn_release(p)
  self._received = self._received + size
  return without_cr(line)
end

local function receive_line(self, prefix, deadline)
  local hoard
  while true do
    self._scan = 0
    local p, err, code = await(self, deadline, find_line, self)
    if p then return prefix .. take_line(self, p, hoard) end
    if code ~= BUSY then
      hoard = hoard or buffer.new()
      gather(self, math.huge, hoard)
    end
    if code ~= TOO_LARGE then return nil, text_of(err), prefix .. without_cr(hoard and hoard:tostring() or "") end
  end
end

local function count_of(pattern)
  local n = tonumber(pattern)
  if n and n >= 0 and n < math.huge then return math.floor(n) end
  misuse("bad argument #1 to 'receive' (invalid receive pattern)")
end

-- pattern: "*l" (a line), "*a" (everything to the end) or a number of bytes, prefix included. The string; or nil, err, and prefix with what
-- had come until then.
function Stream:receive(pattern, prefix)
  timeouts.need_task("receive")
  prefix = prefix and tostring(prefix) or ""
  local deadline = timeouts.begin(self)
  if pattern == nil or pattern == "*l" or pattern == "l" then return receive_line(self, prefix, deadline) end
  if pattern == "*a" or pattern == "a" then return receive_large(self, math.huge, prefix, deadline) end
  local n = count_of(pattern)
  if prefix ~= "" and n <= #prefix then return prefix end
  return receive_bytes(self, n - #prefix, prefix, deadline)
end

-- ---- sending ---------------------------------------------------------------------------------------------------

-- Until the kernel has all that was sent before. True, or nil, err.
local function await_output(self, deadline)
  local is_late = false
  while true do
    local conn = self._conn
    local p = conn and conn._p
    if not p or self._is_shut then return nil, "closed" end
    local code = C.rille_conn_wait_output(p, 0)
    if code == 0 then return p end
    if code ~= PARK then return nil, text[-code] end
    if is_late then return nil, "timeout" end
    is_late = not conn_write.park_within(conn, timeouts.left(self, deadline))
  end
end

-- What does not fit into the kernel's buffer is kept here, at most one piece; that counts as sent.
local function put(p, bytes, size)
  local code = C.rille_conn_write(p, bytes, size)
  if code == 0 or code == PARK then code = C.rille_conn_flush(p) end
  if code ~= 0 and code ~= PARK then return text[-code] end
end

-- data[i .. j], as string.sub counts: the place of the last byte that was sent; or nil, err, that place.
function Stream:send(data, i, j)
  timeouts.need_task("send")
  if type(data) == "number" then data = tostring(data) end
  if type(data) ~= "string" then misuse("bad argument #1 to 'send' (string expected, got %s)", type(data)) end
  i, j = i or 1, j or -1
  if i < 0 then i = math.max(1, #data + i + 1) elseif i == 0 then i = 1 end
  j = j < 0 and #data + j + 1 or math.min(j, #data)
  local bytes, at, deadline = ffi.cast(bytes_t, data), i - 1, timeouts.begin(self)
  local pause = at + TURN
  while at < j do
    if at >= pause then
      task.yield()
      pause = at + TURN
    end
    local p, err = await_output(self, deadline)
    local size = math.min(j - at, PIECE)
    err = err or put(p, bytes + at, size)
    if err then return nil, text_of(err), at end
    at = at + size
    self._sent = self._sent + size
  end
  return at
end

-- ---- the rest --------------------------------------------------------------------------------------------------

-- Whether bytes are there that nobody has asked for.
function Stream:dirty()
  local p = pointer_of(self)
  return p and C.rille_conn_len(p) > 0 or false
end

-- Bytes received, bytes sent, seconds of age.
function Stream:getstats()
  return self._received or 0, self._sent or 0, C.rille_now() - (self._born or C.rille_now())
end

function Stream:setstats(received, sent, age)
  self._received, self._sent = received or self._received, sent or self._sent
  if age then self._born = C.rille_now() - age end
  return 1
end

-- There is none that others could wait for: the loop has it.
function Stream.getfd()
  return -1
end

-- ---- for select.lua --------------------------------------------------------------------------------------------
-- look: true when it is ready; false, and the running task is woken when it may be, until leave; nil: another task waits for it.

function M.look(self)
  local p = pointer_of(self)
  if not p then return true end
  local code = C.rille_conn_want(p, 1)
  if code == BUSY then return nil end
  if code ~= PARK then return true end
  conn_read.watch(self._conn)
  return false
end

function M.leave(self)
  local conn = self._conn
  if conn and conn._p and conn_read.unwatch(conn) then C.rille_conn_unwant(conn._p, 1) end
end

function M.look_to_send(self)
  local p = self._conn and self._conn._p
  if not p or C.rille_conn_wait_output(p, 0) ~= PARK then return true end
  conn_write.watch(self._conn)
  return false
end

function M.leave_to_send(self, fiber)
  local conn = self._conn
  if conn and conn._p then conn_write.unwatch { slot = conn._slot, fiber = fiber } end
end

return M
