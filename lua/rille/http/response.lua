-- response: what a handler gets as `res`. A table made for each request, like req; the core keeps status and header fields and
-- writes the head together with the first bytes of the body. docs/http.md describes every field and method.

local C = require "rille.core"
local ffi = require "ffi"

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local conn_write = require "rille.conn_write"
local errors = require "rille.errors"
local json = require "rille.http.json"
local misuse = require "rille.misuse"

local type, tostring = type, tostring
local istype, to_string = ffi.istype, ffi.string
local slice_t, buffer_t = Slice.type, LinkBuffer.type
local write_slow = conn_write.slow
local text = errors.text
local ERR_BUSY, ERR_EXPIRED, OVER_LENGTH = C.RILLE_ERR_BUSY, C.RILLE_ERR_EXPIRED, C.RILLE_HTTP_OVER_LENGTH

local Res = {}
local field_box = ffi.new("const char *[1]")
local offer_box = ffi.new("rille_slice[1]")

local function live(self)
  local conn = self[1]
  if conn._serial ~= self[2] then misuse("this request is over: res is only good until its handler returns") end
  return conn._p
end

local function check_code(code)
  if code == ERR_BUSY then misuse("the answer to this request was sent already") end
  if code == ERR_EXPIRED then misuse("slice expired: its buffer was released or closed; retain() keeps a slice") end
  if code == OVER_LENGTH then misuse("more bytes than the Content-Length that was set") end
end

-- What is not simply done: above the high-water mark, or wrong.
local function answered(self, code)
  check_code(code)
  return write_slow(self[1], code)
end

-- ---- head ------------------------------------------------------------------------------------------------------

local FLAWS = {
  [C.RILLE_HTTP_BAD_NAME] = "'%s' is no name of a header field",
  [C.RILLE_HTTP_BAD_VALUE] = "the value of %s holds a control character (CR, LF, NUL, ...): it would be read as something else",
  [C.RILLE_HTTP_BAD_LENGTH] = "%s takes a number of bytes",
  [C.RILLE_HTTP_OWN_FIELD] = "%s is the server's own (Connection may be set to \"close\" or \"upgrade\")",
  [C.RILLE_HTTP_TOO_MANY] = "no room for %s: a response has at most 64 KiB of header fields",
  [C.RILLE_HTTP_TOO_LATE] = "the head is out already: set %s before the first write or send",
}

local function set_field(p, name, value, add)
  local flaw = C.rille_http_set_field(p, name, #name, value, value and #value or 0, add)
  if flaw ~= 0 then misuse(FLAWS[flaw], name) end
end

local function text_of(name, value)
  if type(value) == "string" then return value end
  if type(value) == "number" or istype(slice_t, value) then return tostring(value) end
  misuse("header %s takes a string, a number, a slice or a list of such, not a %s", name, type(value))
end

local function set_fields(p, name, value)
  if value == false then return set_field(p, name, nil, 0) end
  if type(value) ~= "table" then return set_field(p, name, text_of(name, value), 0) end
  set_field(p, name, nil, 0)
  for i = 1, #value do set_field(p, name, text_of(name, value[i]), 1) end
end

-- header(name, value) sets, header(name, false) removes, header(name) returns what was set. A list makes several fields.
function Res:header(name, value)
  if type(name) ~= "string" then misuse("bad argument #1 to 'header' (a name expected, got %s)", type(name)) end
  local p = live(self)
  if not p then return nil, "closed" end
  if value == nil then
    local size = C.rille_http_get_field(p, name, #name, field_box)
    if size < 0 then return nil end
    return to_string(field_box[0], size)
  end
  set_fields(p, name, value)
  return true
end

local function set_status(self, status)
  if type(status) ~= "number" or status % 1 ~= 0 or status < 200 or status > 599 then
    misuse("res.status takes a number from 200 to 599, not %s", tostring(status))
  end
  local p = live(self)
  if p and C.rille_http_set_status(p, status) ~= 0 then misuse("the head is out already: set res.status before the first write or send") end
end

function Res:is_sent()
  local p = live(self)
  return not p or C.rille_http_is_sent(p) == 1
end

-- ---- body ------------------------------------------------------------------------------------------------------

-- The whole answer, with its Content-Length.
function Res:send(x)
  local p = live(self)
  if not p then return nil, "closed" end
  local code
  if type(x) == "string" then
    code = C.rille_http_send(p, x, #x)
  elseif istype(slice_t, x) then
    code = C.rille_http_send_view(p, x.base_, x.size_, x.cell_, x.block_, x.epoch_)
  elseif istype(buffer_t, x) then
    code = C.rille_http_send_buffer(p, x)
  elseif x == nil then
    code = C.rille_http_send(p, "", 0)
  else
    misuse("bad argument #1 to 'send' (a string, slice or LinkBuffer expected, got %s)", type(x))
  end
  if code ~= 0 then return answered(self, code) end
  return true
end

-- A piece of it, chunked where the client understands that. Parks above the connection's high-water mark.
function Res:write(x)
  local p = live(self)
  if not p then return nil, "closed" end
  local code
  if type(x) == "string" then
    code = C.rille_http_write(p, x, #x)
  elseif istype(slice_t, x) then
    code = C.rille_http_write_view(p, x.base_, x.size_, x.cell_, x.block_, x.epoch_)
  elseif istype(buffer_t, x) then
    code = C.rille_http_write_buffer(p, x)
  else
    misuse("bad argument #1 to 'write' (a string, slice or LinkBuffer expected, got %s)", type(x))
  end
  if code ~= 0 then return answered(self, code) end
  return true
end

-- Park until everything that was written is handed to the kernel.
function Res:flush()
  if not live(self) then return nil, "closed" end
  return self[1]:flush()
end

local JSON_TYPE = "application/json"

-- A value as JSON, as the whole answer.
function Res:json(value)
  local p = live(self)
  if not p then return nil, "closed" end
  json.need()
  local ok, body = pcall(json.encode, value)
  if not ok then misuse("json: %s", tostring(body)) end
  if C.rille_http_get_field(p, "Content-Type", 12, field_box) < 0 then set_field(p, "Content-Type", JSON_TYPE, 0) end
  return self:send(body)
end

-- A file as the whole answer: see file.lua.
function Res:file(path, options)
  if type(path) ~= "string" then misuse("bad argument #1 to 'file' (a path expected, got %s)", type(path)) end
  if not live(self) then return nil, "closed" end
  return require("rille.http.file").send(self, path, options)
end

-- Whether the request's Upgrade names the protocol: no other one may be switched to (RFC 9110 section 7.8).
local function is_offered(p, protocol)
  if C.rille_http_header(p, "Upgrade", 7, offer_box) ~= 0 then return false end
  for offer in to_string(offer_box[0].base_, offer_box[0].size_):lower():gmatch("[^,%s]+") do
    if offer == protocol or offer:match("^[^/]+") == protocol then return true end
  end
  return false
end

-- Leave HTTP: 101 for a request that asks for the upgrade to this protocol, 200 for CONNECT. The connection, which is the
-- handler's from now on, bytes that came already included.
function Res:upgrade(protocol)
  local p = live(self)
  if not p then return nil, "closed" end
  if protocol ~= nil and type(protocol) ~= "string" then
    misuse("bad argument #1 to 'upgrade' (a protocol's name expected, got %s)", type(protocol))
  end
  local conn, name = self[1], protocol or ""
  if C.rille_http_method(p) ~= C.RILLE_HTTP_CONNECT and not self:is_sent() and not is_offered(p, name:lower()) then
    return nil, "invalid argument"
  end
  local code = C.rille_http_upgrade(p, name, #name)
  if code == ERR_BUSY then misuse("the answer to this request was sent already") end
  if code < 0 then return nil, text[-code] end
  conn._upgraded = conn._on_request
  return conn
end

-- ---- the table -------------------------------------------------------------------------------------------------

local function get_status(self)
  local p = live(self)
  return p and C.rille_http_status(p) or nil
end

local function table_of(methods)
  return {
    live = live,
    answered = answered,
    check_code = check_code,
    set_field = set_field,
    __index = function(self, key)
      local method = methods[key]
      if method then return method end
      if key == "status" then return get_status(self) end
      if key == "conn" then return self[1] end
    end,
    __newindex = function(self, key, value)
      if key == "status" then return set_status(self, value) end
      misuse("res has no field '%s' (what belongs to a request has its place in req.ctx)", tostring(key))
    end,
    __tostring = function(self)
      return self[1]._serial == self[2] and ("res %s"):format(tostring(self.status)) or "res (over)"
    end,
  }
end

local response = table_of(Res)

-- The same with some methods of another kind, for job.lua.
function response.with(methods)
  return table_of(setmetatable(methods, { __index = Res }))
end

return response
