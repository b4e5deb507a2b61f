-- file: a file that rille.fs.open has opened. Its calls are done one after the other, in the order they were made, by whichever task.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local io = require "rille.io"
local misuse = require "rille.misuse"

local READ_MAX = 16 * 2 ^ 20
local READ_PIECE = 65536
local WRITE_PIECE = 2 ^ 20 -- of a string, which is copied
local TYPES = { f = "file", d = "directory", l = "link", o = "other" }
local WHENCE = { set = 0, cur = 1, ["end"] = 2 }

local R, W, CREATE = C.RILLE_FILE_READ, C.RILLE_FILE_WRITE, C.RILLE_FILE_CREATE
local MODES = {
  r = R, ["r+"] = R + W,
  w = W + CREATE + C.RILLE_FILE_TRUNCATE, ["w+"] = R + W + CREATE + C.RILLE_FILE_TRUNCATE,
  a = W + CREATE + C.RILLE_FILE_APPEND, ["a+"] = R + W + CREATE + C.RILLE_FILE_APPEND,
  x = W + CREATE + C.RILLE_FILE_EXCLUSIVE, ["x+"] = R + W + CREATE + C.RILLE_FILE_EXCLUSIVE,
}

local err_box = ffi.new("int[1]")
local slice_box = ffi.new("rille_slice[1]")
local bytes_t = ffi.typeof("const char *")

local File = {}
File.__index = File

local M = {}

-- ---- arguments -------------------------------------------------------------------------------------------------

function M.mode_bits(mode, is_atomic)
  if mode == nil then mode = "r" end
  local bits = type(mode) == "string" and MODES[mode]
  if not bits then
    misuse("bad argument #2 to 'open' (one of \"r\", \"r+\", \"w\", \"w+\", \"a\", \"a+\", \"x\", \"x+\" expected, got %s)",
      tostring(mode))
  end
  if not is_atomic then return bits end
  if mode ~= "w" and mode ~= "w+" then misuse("open: atomic is for the modes \"w\" and \"w+\", not \"%s\"", mode) end
  return bits + C.RILLE_FILE_ATOMIC
end

function M.check_content(x, what, position)
  if type(x) == "string" or LinkBuffer.is(x) then return end
  if not Slice.is(x) then
    misuse("bad argument #%d to '%s' (a string, slice or LinkBuffer expected, got %s)", position, what, type(x))
  end
  if not x:is_valid() then misuse("bad argument #%d to '%s' (slice expired)", position, what) end
end

-- What is to be written as a LinkBuffer of its own: nothing is copied but strings and what is short. NULL with the error in err_box.
-- Of a string: size bytes behind the first `from`.
local function buffer_of(x, from, size)
  local buffer = C.rille_linkbuffer_new(4096, err_box)
  if buffer == nil then return nil end
  ffi.gc(buffer, C.rille_linkbuffer_free)
  if type(x) == "string" then
    err_box[0] = C.rille_linkbuffer_write(buffer, ffi.cast(bytes_t, x) + from, size)
  elseif Slice.is(x) then
    err_box[0] = C.rille_linkbuffer_write_slice(buffer, x)
  else
    err_box[0] = C.rille_linkbuffer_write_buffer(buffer, x)
  end
  if err_box[0] == 0 then err_box[0] = C.rille_linkbuffer_flush(buffer) end
  if err_box[0] == 0 then return buffer end
  C.rille_linkbuffer_free(ffi.gc(buffer, nil))
  return nil
end

-- ---- life ------------------------------------------------------------------------------------------------------

function M.open(path, bits, permissions, timeout, deadline)
  local job, err, message = io.call(deadline, C.RILLE_IO_OPEN, path, nil, bits, permissions or -1)
  if not job then return nil, err, message end
  local pointer = ffi.gc(C.rille_io_take_file(job), C.rille_file_release)
  io.drop(job)
  return setmetatable({ path = path, _file = pointer, _gate = io.new_gate(), _timeout = timeout,
    _is_atomic = bits >= C.RILLE_FILE_ATOMIC }, File)
end

-- Give it up; what a worker still does with it comes to its end.
function File:_forget()
  if self._file then C.rille_file_release(ffi.gc(self._file, nil)) end
  self._file = false
end

local function closed()
  return nil, "closed", "the file is closed"
end

-- A request when it is its turn. The job, or nil, err, message.
local function request(self, deadline, op, a, b)
  if not self._file then return closed() end
  local ok, err, message = io.pass(deadline, self._gate)
  if not ok then return nil, err, message end
  if not self._file then
    self._gate:release()
    return closed()
  end
  return io.call_file(deadline, self._gate, false, op, self._file, a, b)
end

function File:_simple(op, deadline, a, b)
  local job, err, message = request(self, deadline, op, a, b)
  if not job then return nil, err, message end
  io.drop(job)
  return true
end

function File:_close(deadline)
  local ok, err, message = self:_simple(C.RILLE_IO_CLOSE, deadline)
  self:_forget()
  return ok, err, message
end

function File:_commit(syncs, deadline)
  local ok, err, message = self:_simple(C.RILLE_IO_COMMIT, deadline, syncs and 1 or 0)
  if ok then self:_forget() end
  return ok, err, message
end

local function begin(self, what)
  io.need_task("file:" .. what)
  return io.deadline(self._timeout, what)
end

-- Seconds that each call may take, beginning with the wait for its turn; nil: what the configuration says, 0: any time.
function File:set_timeout(seconds)
  io.deadline(seconds, "set_timeout")
  self._timeout = seconds
  return true
end

-- ---- reading ---------------------------------------------------------------------------------------------------

-- A request for n bytes, at least so many.
local function request_bytes(self, what, operation, n, least)
  local deadline = begin(self, what)
  if type(n) ~= "number" or n % 1 ~= 0 or n < least or n > C.RILLE_IO_READ_MAX then
    misuse("bad argument #1 to '%s' (bytes from %d to %.0f expected, got %s)", what, least, tonumber(C.RILLE_IO_READ_MAX), tostring(n))
  end
  return request(self, deadline, operation, n)
end

-- A retained slice of the next n bytes, less only before the end; nil alone at the end.
function File:read(n)
  local job, err, message = request_bytes(self, "read", C.RILLE_IO_READ, n == nil and READ_PIECE or n, 1)
  if not job then return nil, err, message end
  if C.rille_io_result_of(job).size == 0 then
    io.drop(job)
    return nil
  end
  local code = C.rille_io_take_slice(job, slice_box)
  io.drop(job)
  if code ~= 0 then return nil, errors.text[-code], errors.text[-code] end
  return Slice.adopt(slice_box)
end

-- What is left, as a string; "too large" when that is more than max (16 MiB) bytes.
function File:read_all(max)
  local job, err, message = request_bytes(self, "read_all", C.RILLE_IO_READ_ALL, max == nil and READ_MAX or max, 0)
  if not job then return nil, err, message end
  local content = ffi.string(C.rille_io_bytes(job), C.rille_io_result_of(job).size)
  io.drop(job)
  return content
end

-- ---- writing ---------------------------------------------------------------------------------------------------

-- One piece, the gate passed. True, or nil, err, message; keeps: the gate stays passed.
local function write_piece(self, x, deadline, keeps, from, size)
  local buffer = buffer_of(x, from, size)
  if not buffer then
    self._gate:release()
    local err = errors.text[-err_box[0]]
    return nil, err, err
  end
  local job, err, message = io.call_file(deadline, self._gate, keeps, C.RILLE_IO_WRITE, self._file, 0, 0, buffer)
  if not job then return nil, err, message end
  io.drop(job)
  return true
end

function File:_write(x, deadline)
  if not self._file then return closed() end
  local ok, err, message = io.pass(deadline, self._gate)
  if not ok then return nil, err, message end
  if not self._file then
    self._gate:release()
    return closed()
  end
  if type(x) ~= "string" then return write_piece(self, x, deadline, false) end
  local from = 0
  repeat
    local size = math.min(WRITE_PIECE, #x - from)
    ok, err, message = write_piece(self, x, deadline, from + size < #x, from, size)
    from = from + size
  until not ok or from == #x
  return ok, err, message
end

-- All of x, a string, slice or LinkBuffer (which keeps what it has). One write of several tasks comes after the other.
function File:write(x)
  local deadline = begin(self, "write")
  M.check_content(x, "write", 1)
  return self:_write(x, deadline)
end

-- ---- the rest --------------------------------------------------------------------------------------------------

-- The new position, from the start. As in Lua: whence is "set", "cur" (nil) or "end", offset 0 when it is nil.
function File:seek(whence, offset)
  local deadline = begin(self, "seek")
  local from = WHENCE[whence == nil and "cur" or whence]
  if offset == nil then offset = 0 end
  if not from then misuse("bad argument #1 to 'seek' (\"set\", \"cur\" or \"end\" expected, got %s)", tostring(whence)) end
  if type(offset) ~= "number" or offset % 1 ~= 0 or math.abs(offset) > 2 ^ 53 then
    misuse("bad argument #2 to 'seek' (a whole number expected, got %s)", tostring(offset))
  end
  local job, err, message = request(self, deadline, C.RILLE_IO_SEEK, offset, from)
  if not job then return nil, err, message end
  local position = C.rille_io_result_of(job).size
  io.drop(job)
  return position
end

-- True when the disk has it all.
function File:sync()
  return self:_simple(C.RILLE_IO_SYNC, begin(self, "sync"))
end

function File:truncate(size)
  local deadline = begin(self, "truncate")
  if type(size) ~= "number" or size % 1 ~= 0 or size < 0 or size > 2 ^ 53 then
    misuse("bad argument #1 to 'truncate' (bytes, 0 or more, expected, got %s)", tostring(size))
  end
  return self:_simple(C.RILLE_IO_TRUNCATE, deadline, size)
end

-- The table of fs.stat for the result of a job, which is dropped.
function M.stat_of(job)
  local s = C.rille_io_result_of(job).stat
  local out = {
    type = TYPES[string.char(s.type)], size = s.size, mode = s.mode, modified = s.modified, accessed = s.accessed,
    changed = s.changed, uid = s.uid, gid = s.gid, inode = s.inode, device = s.device, links = s.links,
  }
  io.drop(job)
  return out
end

function File:stat()
  local job, err, message = request(self, begin(self, "stat"), C.RILLE_IO_FILE_STAT)
  if not job then return nil, err, message end
  return M.stat_of(job)
end

-- Of a file opened with atomic = true: it is complete, and takes its name in place of what had it. The end of the file.
-- options: sync (true).
function File:commit(options)
  local deadline = begin(self, "commit")
  if not self._is_atomic then misuse("commit is for files that were opened with atomic = true") end
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #1 to 'commit' (a table of options expected, got %s)", type(options))
  end
  return self:_commit(not (options and options.sync == false), deadline)
end

-- When what was asked for before is done. True; or nil, err, message of the file system, and it is closed as well. One that is atomic and
-- was not committed is removed. True also when it was closed before.
function File:close()
  local deadline = begin(self, "close")
  if not self._file then return true end
  return self:_close(deadline)
end

File.__tostring = function(self)
  return ("file %s%s"):format(self.path, self._file and "" or " (closed)")
end

return M
