-- job_stream: the streams of a job, as the job sees them in its worker: an input with the reading methods of a connection, and an output
-- with the writing ones. What would park on a loop makes the worker's thread wait here. core/stream.c does the rest.

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local errors = require "rille.errors"
local misuse = require "rille.misuse"

local text = errors.text

local LINE_MAX = 65536
local PUBLISH_SIZE = 65536 -- what was written goes to the loop when it is so much

local job_stream = { Reader = {}, Writer = {} }
local Reader, Writer = job_stream.Reader, job_stream.Writer

local current = {} -- the objects of the job that runs

-- ---- reading ---------------------------------------------------------------------------------------------------

local function check_size(n, name)
  if type(n) ~= "number" then misuse("bad argument #1 to '%s' (a number of bytes expected, got %s)", name, type(n)) end
end

-- What stands in front when a read fails, as a third result.
local function failed(self, err)
  local buffer = C.rille_stream_input(self._s)
  local n = C.rille_linkbuffer_len(buffer)
  if n > 0 then return nil, err, (LinkBuffer.peek(buffer, n)) end
  return nil, err
end

-- Wait until n bytes are there: the buffer, or nil, err, partial.
local function wait(self, n)
  if not self._s then return nil, "closed" end
  local code = C.rille_stream_want(self._s, n)
  if code ~= 0 then return failed(self, text[-code]) end
  return C.rille_stream_input(self._s)
end

local function reader(name, with)
  return function(self, n)
    check_size(n, name)
    local buffer, err, partial = wait(self, n)
    if not buffer then return nil, err, partial end
    return with(buffer, n)
  end
end

for _, name in ipairs { "next", "peek", "skip", "read_string", "take" } do Reader[name] = reader(name, LinkBuffer[name]) end

-- At least a byte, at most max: what there is in one piece.
function Reader:read(max)
  if max ~= nil then check_size(max, "read") end
  local buffer, err = wait(self, 1)
  if not buffer then return nil, err end
  local n = C.rille_stream_front(self._s)
  return LinkBuffer.next(buffer, max and max < n and max or n)
end

function Reader:read_byte()
  local buffer, err = wait(self, 1)
  if not buffer then return nil, err end
  return LinkBuffer.read_byte(buffer)
end

-- Through delim, at most max bytes.
local function read_until(self, delim, max)
  local from = 0
  while self._s do
    local buffer = C.rille_stream_input(self._s)
    local length = C.rille_linkbuffer_len(buffer)
    local at = LinkBuffer.index_of(buffer, delim, from)
    if at and at + #delim > max or not at and length >= max then return failed(self, "too large") end
    if at then return LinkBuffer.next(buffer, at + #delim) end
    from = math.max(0, length - #delim + 1)
    local ok, err, partial = wait(self, length + 1)
    if not ok then return nil, err, partial end
  end
  return nil, "closed"
end

function Reader:read_until(delim, max)
  if type(delim) ~= "string" or delim == "" then misuse("bad argument #1 to 'read_until' (a string of 1 byte or more expected)") end
  if max ~= nil then check_size(max, "read_until") end
  return read_until(self, delim, max or math.huge)
end

-- A line without its end, LF or CR LF, of at most max bytes (65536).
function Reader:read_line(max)
  if max ~= nil then check_size(max, "read_line") end
  local line, err, partial = read_until(self, "\n", (max or LINE_MAX) + 2)
  if not line then return nil, err, partial end
  local size = line:len() - 1
  if size > 0 and line:byte(size) == 13 then size = size - 1 end
  return line:sub(1, size)
end

function Reader:index_of(delim, from)
  if not self._s then return nil, "closed" end
  return LinkBuffer.index_of(C.rille_stream_input(self._s), delim, from)
end

function Reader:len()
  return self._s and C.rille_linkbuffer_len(C.rille_stream_input(self._s)) or 0
end

-- The slices taken so far expire, and the loop may send as many bytes more.
function Reader:release()
  if self._s then C.rille_stream_give_back(self._s) end
  return true
end

-- ---- writing ---------------------------------------------------------------------------------------------------

local function output(self)
  if not self._s then return nil, "closed" end
  local code = C.rille_stream_writable(self._s)
  if code ~= 0 then return nil, text[-code] end
  return C.rille_stream_output(self._s)
end

local function result(code)
  if code ~= 0 then return nil, text[-code] end
  return true
end

-- Publish when there is enough; waits while the loop has more than the limit.
local function written(self, buffer, ok, err)
  if not ok then return nil, err end
  if C.rille_linkbuffer_malloc_len(buffer) < PUBLISH_SIZE then return ok end
  local code = C.rille_stream_flush(self._s)
  if code ~= 0 then return nil, text[-code] end
  return ok
end

for _, name in ipairs {
  "write", "append", "write_byte", "write_varint", "pack", "write_u8", "write_u16", "write_u24", "write_u32", "write_u64",
  "write_i8", "write_i16", "write_i24", "write_i32", "write_i64", "write_f32", "write_f64",
} do
  local method = LinkBuffer[name]
  Writer[name] = function(self, ...)
    local buffer, err = output(self)
    if not buffer then return nil, err end
    return written(self, buffer, method(buffer, ...))
  end
end

-- x as a frame of a codec, that of a connection if none is named.
function Writer:write_frame(x, codec)
  codec = codec or self._codec
  if type(codec) ~= "table" or type(codec.encode) ~= "function" then
    misuse("write_frame: there is no codec with a function 'encode'")
  end
  if not codec.put then return codec.encode(self, x) end -- one written in Lua
  local buffer, err = output(self)
  if not buffer then return nil, err end
  return written(self, buffer, codec:put(buffer, x))
end

function Writer:send_frame(x, codec)
  local ok, err = self:write_frame(x, codec)
  if not ok then return nil, err end
  return self:flush()
end

-- Hand what was written to the loop, and wait until that has no more than the limit.
function Writer:flush()
  if not self._s then return nil, "closed" end
  return result(C.rille_stream_flush(self._s))
end

function Writer:send(x)
  local ok, err = self:write(x)
  if not ok then return nil, err end
  return self:flush()
end

-- ---- a job's ---------------------------------------------------------------------------------------------------

Reader.__index, Writer.__index = Reader, Writer

-- The stream of the job that begins: its input and its output.
function job_stream.start(s)
  current = { setmetatable({ _s = s }, Reader), setmetatable({ _s = s }, Writer) }
  return current[1], current[2]
end

-- Another object over the same stream, until the job ends.
function job_stream.add(object)
  current[#current + 1] = object
end

-- The job is over: what it wrote is published, and its objects are of no use any more.
function job_stream.finish()
  local s = current[1] and current[1]._s
  if not s then return end
  for _, object in ipairs(current) do object._s = false end
  current = {}
  C.rille_stream_finish(s)
end

return job_stream
