-- file: res:file. Conditional requests by date and single ranges (RFC 9110 sections 13.1.3, 14.2), so that browsers and resumed
-- downloads work; the content goes in pieces with back-pressure.

local C = require "rille.core"
local ffi = require "ffi"

local errors = require "rille.errors"
local misuse = require "rille.misuse"
local response = require "rille.http.response"
local sendfile = require "rille.sendfile"
local types = require "rille.http.types"

local file = {}

local stat_box = ffi.new("rille_file_stat")
local date_box, slice_box = ffi.new("char[32]"), ffi.new("rille_slice[1]")

local function date_of(seconds)
  C.rille_http_format_date(seconds, date_box)
  return ffi.string(date_box)
end

local function header_of(p, name)
  if C.rille_http_header(p, name, #name, slice_box) ~= 0 then return nil end
  return ffi.string(slice_box[0].base_, slice_box[0].size_)
end

-- The bytes that a Range field asks for: first and last (from 0); nil: the whole file; false: none of it is there.
local function range_of(field, size)
  local first, last = field:match("^bytes=(%d*)%-(%d*)$")
  if not first or (first == "" and last == "") or #first > 15 or #last > 15 then return nil end
  if first == "" then
    local n = tonumber(last)
    if n == 0 or size == 0 then return false end
    return math.max(size - n, 0), size - 1
  end
  first, last = tonumber(first), last == "" and size - 1 or tonumber(last)
  if first >= size then return false end
  if last < first then return nil end
  return first, math.min(last, size - 1)
end

-- Status and the part of the file to send, from what the client asks: first byte and length.
local function select_part(res, p, size, date)
  local method = C.rille_http_method(p)
  if method ~= C.RILLE_HTTP_GET and method ~= C.RILLE_HTTP_HEAD then return 0, size end
  if header_of(p, "If-Modified-Since") == date then
    res.status = 304
    return 0, 0
  end
  local range, condition = header_of(p, "Range"), header_of(p, "If-Range")
  if not range or method ~= C.RILLE_HTTP_GET or (condition and condition ~= date) then return 0, size end
  local first, last = range_of(range, size)
  if first == nil then return 0, size end
  if first == false then
    res.status = 416
    response.set_field(p, "Content-Range", ("bytes */%d"):format(size), 0)
    return 0, 0
  end
  res.status = 206
  response.set_field(p, "Content-Range", ("bytes %d-%d/%d"):format(first, last, size), 0)
  return first, last - first + 1
end

local function send(res, p, path, handle, options)
  local code = C.rille_file_look(handle, stat_box)
  if code ~= 0 then return nil, errors.text[-code] end
  local size, date = stat_box.size, date_of(math.floor(stat_box.modified))
  local is_plain = res.status == 200
  if not res:header("Content-Type") then
    response.set_field(p, "Content-Type", options and options.type or types.of(path), 0)
  end
  response.set_field(p, "Last-Modified", date, 0)
  local first, length = 0, size
  if is_plain then
    response.set_field(p, "Accept-Ranges", "bytes", 0)
    first, length = select_part(res, p, size, date)
  end
  if first > 0 then
    code = C.rille_http_file_seek(handle, first)
    if code ~= 0 then return nil, errors.text[-code] end
  end
  code = C.rille_http_open_body(p, length)
  if code ~= 0 then
    local ok, err = response.answered(res, code)
    if not ok then return nil, err end
  end
  return sendfile.send(res.conn, response.live, res, handle, C.rille_http_write_file, C.rille_http_write_read)
end

-- True when the file was sent; nil, err, with nothing sent, when it cannot be opened: "not found", "permission denied".
function file.send(res, path, options)
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #2 to 'file' (a table expected, got %s)", type(options))
  end
  local p = response.live(res)
  if options and options.type ~= nil and type(options.type) ~= "string" then
    misuse("the type of a file is a string such as \"text/html\", not a %s", type(options.type))
  end
  if res:is_sent() then return response.answered(res, C.rille_http_open_body(p, 0)) end -- raises, or says what ended it
  if path:find("%z") then return nil, "not found" end
  local handle, err = sendfile.open(path)
  if not handle then return nil, err end
  p = response.live(res)
  if not p then
    C.rille_file_release(handle)
    return nil, "closed"
  end
  return sendfile.finish(handle, pcall(send, res, p, path, handle, options))
end

return file
