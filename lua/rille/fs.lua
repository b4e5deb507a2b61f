-- fs: rille.fs, files without blocking the loop. Every call parks until a worker of the pool "io" has done it; see docs/fs.md. Files that
-- are open are in file.lua.

local ffi = require "ffi"

local C = require "rille.core"
local File = require "rille.file"
local io = require "rille.io"
local misuse = require "rille.misuse"

local READ_MAX = 16 * 2 ^ 20
local TYPES = { f = "file", d = "directory", l = "link", o = "other" }

local fs = {}

-- ---- arguments -------------------------------------------------------------------------------------------------

-- True, or nil, err, message for a path that no file can have.
local function check_path(path, what, position)
  if type(path) ~= "string" then
    misuse("bad argument #%d to '%s' (a path expected, got %s)", position or 1, what, type(path))
  end
  if path:find("%z") then return nil, "invalid argument", "a path cannot hold a NUL byte" end
  if #path > C.RILLE_IO_PATH_MAX then
    return nil, "invalid argument", ("a path has at most %d bytes"):format(tonumber(C.RILLE_IO_PATH_MAX))
  end
  return true
end

-- The options of a call, which may have those named in `known` and timeout.
local function check_options(options, what, position, known)
  if options == nil then return {} end
  if type(options) ~= "table" then
    misuse("bad argument #%d to '%s' (a table of options expected, got %s)", position, what, type(options))
  end
  for key in pairs(options) do
    if key ~= "timeout" and not known[key] then misuse("%s: there is no option '%s'", what, tostring(key)) end
  end
  return options
end

-- Permission bits: a number, or a string such as "0640".
local function check_mode(mode, what)
  if mode == nil then return nil end
  local bits = type(mode) == "string" and mode:find("^[0-7]+$") and tonumber(mode, 8) or mode
  if type(bits) ~= "number" or bits % 1 ~= 0 or bits < 0 or bits > 4095 then
    misuse("%s: mode: permission bits such as \"0640\" expected, got %s", what, tostring(mode))
  end
  return bits
end

local function check_max(max, what)
  if max == nil then return READ_MAX end
  if type(max) ~= "number" or max % 1 ~= 0 or max < 0 or max > C.RILLE_IO_READ_MAX then
    misuse("%s: max: bytes from 0 to %.0f expected, got %s", what, tonumber(C.RILLE_IO_READ_MAX), tostring(max))
  end
  return max
end

-- ---- calls -----------------------------------------------------------------------------------------------------

local function done(job, err, message)
  if not job then return nil, err, message end
  io.drop(job)
  return true
end

-- The whole file as a string. options: max (16 MiB; or the number itself in place of the table), timeout.
function fs.read_file(path, options)
  io.need_task("fs.read_file")
  if type(options) == "number" then options = { max = options } end
  options = check_options(options, "read_file", 2, { max = true })
  local max, deadline = check_max(options.max, "read_file"), io.deadline(options.timeout, "read_file")
  local ok, err, message = check_path(path, "read_file")
  local job
  if ok then job, err, message = io.call(deadline, C.RILLE_IO_READ_FILE, path, nil, max) end
  if not job then return nil, err, message end
  local content = ffi.string(C.rille_io_bytes(job), C.rille_io_result_of(job).size)
  io.drop(job)
  return content
end

-- An open file. mode: "r", "r+", "w", "w+", "a", "a+", "x", "x+" (as in C11; "x" fails when there is one). options: mode (permission
-- bits of a new file), atomic (it takes its name at commit), timeout (of each call).
function fs.open(path, mode, options)
  io.need_task("fs.open")
  options = check_options(options, "open", 3, { mode = true, atomic = true })
  local bits = File.mode_bits(mode, options.atomic)
  local permissions, deadline = check_mode(options.mode, "open"), io.deadline(options.timeout, "open")
  local ok, err, message = check_path(path, "open")
  if not ok then return nil, err, message end
  return File.open(path, bits, permissions, options.timeout, deadline)
end

local function write_and_close(file, x, commits, syncs, deadline)
  local ok, err, message = file:_write(x, deadline)
  if ok and commits then
    ok, err, message = file:_commit(syncs, deadline)
  elseif ok then
    if syncs then ok, err, message = file:_simple(C.RILLE_IO_SYNC, deadline) end
    if ok then ok, err, message = file:_close(deadline) end
  end
  if not ok then return nil, err, message end
  return true
end

local function finish(file, ok, ...)
  file:_forget() -- closed already, but when something failed
  if not ok then error((...), 0) end
  return ...
end

local function write(what, path, bits, x, options, commits, syncs)
  local permissions, deadline = check_mode(options.mode, what), io.deadline(options.timeout, what)
  File.check_content(x, what, 2)
  local ok, err, message = check_path(path, what)
  if not ok then return nil, err, message end
  local file
  file, err, message = File.open(path, bits, permissions, nil, deadline)
  if not file then return nil, err, message end
  return finish(file, pcall(write_and_close, file, x, commits, syncs, deadline))
end

-- x, a string, slice or LinkBuffer, becomes the file. options: atomic (true: there is the old file or the whole new one, whatever
-- happens), sync (as atomic; whether it is on the disk when the call returns), mode, timeout.
function fs.write_file(path, x, options)
  io.need_task("fs.write_file")
  options = check_options(options, "write_file", 3, { atomic = true, sync = true, mode = true })
  local is_atomic = options.atomic ~= false
  local syncs = options.sync
  if syncs == nil then syncs = is_atomic end
  return write("write_file", path, File.mode_bits("w", is_atomic), x, options, is_atomic, syncs)
end

-- x behind what the file has; it is made when there is none. options: sync (false), mode, timeout.
function fs.append(path, x, options)
  io.need_task("fs.append")
  options = check_options(options, "append", 3, { sync = true, mode = true })
  return write("append", path, File.mode_bits("a"), x, options, false, options.sync)
end

-- A new table: type ("file", "directory", "link", "other"), size, mode, modified, accessed, changed (seconds since 1970), uid, gid, inode,
-- device, links. options: follow (true; false: a symbolic link itself), timeout.
function fs.stat(path, options)
  io.need_task("fs.stat")
  options = check_options(options, "stat", 2, { follow = true })
  local deadline = io.deadline(options.timeout, "stat")
  local ok, err, message = check_path(path, "stat")
  local job
  if ok then job, err, message = io.call(deadline, C.RILLE_IO_STAT, path, nil, options.follow == false and 1 or 0) end
  if not job then return nil, err, message end
  return File.stat_of(job)
end

-- Whether there is something of that name; or nil, err, message when that cannot be told.
function fs.exists(path, options)
  io.need_task("fs.exists")
  local found, err, message = fs.stat(path, options)
  if found then return true end
  if err == "not found" then return false end
  return nil, err, message
end

-- The names in a folder, sorted by their bytes, and a list of their types. options: timeout.
function fs.list(path, options)
  io.need_task("fs.list")
  options = check_options(options, "list", 2, {})
  local deadline = io.deadline(options.timeout, "list")
  local ok, err, message = check_path(path, "list")
  local job
  if ok then job, err, message = io.call(deadline, C.RILLE_IO_LIST, path) end
  if not job then return nil, err, message end
  local bytes = ffi.string(C.rille_io_bytes(job), C.rille_io_result_of(job).size)
  io.drop(job)
  local names, types = {}, {}
  for letter, name in bytes:gmatch("(.)(%Z+)%z") do
    names[#names + 1], types[#types + 1] = name, TYPES[letter]
  end
  return names, types
end

-- A folder. options: parents (those above it too, and it may be there already), mode, timeout.
function fs.mkdir(path, options)
  io.need_task("fs.mkdir")
  options = check_options(options, "mkdir", 2, { parents = true, mode = true })
  local mode, deadline = check_mode(options.mode, "mkdir") or 511, io.deadline(options.timeout, "mkdir")
  local ok, err, message = check_path(path, "mkdir")
  if not ok then return nil, err, message end
  return done(io.call(deadline, C.RILLE_IO_MKDIR, path, nil, mode, options.parents and 1 or 0))
end

-- A file, or an empty folder. options: timeout.
function fs.remove(path, options)
  io.need_task("fs.remove")
  options = check_options(options, "remove", 2, {})
  local deadline = io.deadline(options.timeout, "remove")
  local ok, err, message = check_path(path, "remove")
  if not ok then return nil, err, message end
  return done(io.call(deadline, C.RILLE_IO_REMOVE, path))
end

-- In place of what has the new name. options: timeout.
function fs.rename(path, to, options)
  io.need_task("fs.rename")
  options = check_options(options, "rename", 3, {})
  local deadline = io.deadline(options.timeout, "rename")
  local ok, err, message = check_path(path, "rename")
  if ok then ok, err, message = check_path(to, "rename", 2) end
  if not ok then return nil, err, message end
  return done(io.call(deadline, C.RILLE_IO_RENAME, path, to))
end

return fs
