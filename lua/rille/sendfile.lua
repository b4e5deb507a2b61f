-- sendfile: a file that goes to a connection in pieces, with back-pressure, for res:file and conn:sendfile. What is not in memory is read
-- by a worker.

local C = require "rille.core"
local ffi = require "ffi"

local errors = require "rille.errors"
local io = require "rille.io"
local write_slow = require("rille.conn_write").slow

local PIECE = 65536 -- of what waits for a slow client, beside the one that is read
local PARK, END, COLD = C.RILLE_PARK, C.RILLE_HTTP_END, C.RILLE_HTTP_COLD

local NOT_THERE = { ["invalid argument"] = true, ["not supported"] = true } -- a folder, a pipe

local M = {}

local err_box, stat_box = ffi.new("int[1]"), ffi.new("rille_file_stat")

-- The file, opened by a worker if a disk would have to be waited for. nil, err.
function M.open(path)
  local handle = C.rille_file_open_cached(path, err_box)
  if handle ~= nil then return handle end
  if err_box[0] ~= C.RILLE_ERR_BUSY then return nil, errors.text[-err_box[0]] end
  local job, err = io.call(io.deadline(nil, "file"), C.RILLE_IO_OPEN, path, nil, C.RILLE_FILE_READ, -1)
  if not job then return nil, NOT_THERE[err] and "not found" or err end
  handle = C.rille_io_take_file(job)
  io.drop(job)
  if C.rille_file_look(handle, stat_box) == 0 and string.char(stat_box.type) == "f" then return handle end
  C.rille_file_release(handle)
  return nil, "not found"
end

-- A worker reads the next piece, which is not in memory. A code as of next_piece; or nil, err.
local function send_cold(live, put, arg, handle)
  local job, err = io.call_file(io.deadline(nil, "file"), nil, false, C.RILLE_IO_READ, handle, PIECE)
  if not job then return nil, err end
  local p = live(arg)
  local code = p and put(p, job)
  io.drop(job)
  if not p then return nil, "closed" end
  return code
end

-- All pieces. live(arg): the connection's pointer, nil when it is over; next_piece(p, handle) and put(p, job): as
-- rille_conn_write_file and rille_conn_write_read. True; or nil, err, and the connection is closed if bytes that were promised are missing.
function M.send(conn, live, arg, handle, next_piece, put)
  while true do
    local p = live(arg)
    if not p then return nil, "closed" end
    local code = next_piece(p, handle)
    if code == COLD then
      local err
      code, err = send_cold(live, put, arg, handle)
      if not code then
        conn:close() -- the length is out already
        return nil, err
      end
    end
    if code == END then return true end
    if code == PARK then
      local ok, why = write_slow(conn, code, PIECE)
      if not ok then return nil, why end
    elseif code ~= 0 then
      if code == C.RILLE_ERR_SHORT then conn:close() end -- it shrank: the length is out already
      return nil, errors.text[-code]
    end
  end
end

-- Give the file back, and return or raise what pcall returned.
function M.finish(handle, ok, ...)
  C.rille_file_release(handle)
  if not ok then error((...), 0) end
  return ...
end

return M
