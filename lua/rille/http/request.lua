-- request: what a handler gets as `req`. A table made for each request; it holds nothing but its connection and the request's number
-- on it, and asks the core when it is asked. docs/http.md describes every field and method.

local C = require "rille.core"
local ffi = require "ffi"

local Slice = require "rille.slice"
local errors = require "rille.errors"
local json = require "rille.http.json"
local misuse = require "rille.misuse"
local park = require("rille.conn_read").park

require "rille.http.query"

local type, to_string = type, ffi.string
local new_slice = Slice.new_from
local text = errors.text
local PARK, END = C.RILLE_PARK, C.RILLE_HTTP_END
local PART_METHOD, PART_TARGET, PART_PATH = C.RILLE_HTTP_PART_METHOD, C.RILLE_HTTP_PART_TARGET, C.RILLE_HTTP_PART_PATH
local PART_QUERY, PART_HOST = C.RILLE_HTTP_PART_QUERY, C.RILLE_HTTP_PART_HOST

local Req = {}
local getters = {}
local scratch = ffi.new("rille_slice[1]")
local value_box = ffi.new("rille_slice[1]")

local METHODS = {
  [C.RILLE_HTTP_GET] = "GET", [C.RILLE_HTTP_HEAD] = "HEAD", [C.RILLE_HTTP_POST] = "POST", [C.RILLE_HTTP_PUT] = "PUT",
  [C.RILLE_HTTP_DELETE] = "DELETE", [C.RILLE_HTTP_CONNECT] = "CONNECT", [C.RILLE_HTTP_OPTIONS] = "OPTIONS",
  [C.RILLE_HTTP_TRACE] = "TRACE", [C.RILLE_HTTP_PATCH] = "PATCH",
}

-- The connection's pointer; false when it is over. Raises when the handler has returned.
local function live(self)
  local conn = self[1]
  if conn._serial ~= self[2] then
    misuse("this request is over: req is only good until its handler returns (retain() keeps a slice of it)")
  end
  return conn._p
end

-- ---- the head --------------------------------------------------------------------------------------------------

local function part(self, which)
  local p = live(self)
  if not p or C.rille_http_part(p, which, scratch) ~= 0 then return nil end
  return to_string(scratch[0].base_, scratch[0].size_)
end

function getters.method(self)
  local p = live(self)
  return p and METHODS[C.rille_http_method(p)] or part(self, PART_METHOD)
end

function getters.path(self)
  return part(self, PART_PATH)
end

function getters.target(self)
  return part(self, PART_TARGET)
end

-- A slice, empty without a query; called as a method it looks parameters up: see query.lua.
function getters.query(self)
  local p = live(self)
  if p and C.rille_http_part(p, PART_QUERY, scratch) == 0 then return new_slice(scratch) end
  return Slice.empty()
end

function getters.version(self)
  local p = live(self)
  return p and (C.rille_http_minor(p) == 1 and "1.1" or "1.0") or nil
end

-- Without the port, in lower case.
function getters.host(self)
  local host = part(self, PART_HOST)
  if not host then return nil end
  local from = 1
  if host:byte(1) == 91 then from = host:find("]", 1, true) or 1 end
  local colon = host:find(":", from, true)
  if colon then host = host:sub(1, colon - 1) end
  return host:lower()
end

function getters.remote(self)
  live(self)
  return self[1]:peer()
end

function getters.conn(self)
  live(self)
  return self[1]
end

-- A table for whatever belongs to this request.
function getters.ctx(self)
  live(self)
  local ctx = {}
  rawset(self, "ctx", ctx)
  return ctx
end

function Req:header(name)
  if type(name) ~= "string" then misuse("bad argument #1 to 'header' (a name expected, got %s)", type(name)) end
  local p = live(self)
  if not p or C.rille_http_header(p, name, #name, scratch) ~= 0 then return nil end
  return new_slice(scratch)
end

-- All fields: lower-case name → value as a string; of several of one name the combined value.
function Req:headers()
  local p = live(self)
  local all, i = {}, 0
  while p and C.rille_http_field_at(p, i, scratch, value_box) == 0 do
    local name = to_string(scratch[0].base_, scratch[0].size_):lower()
    local value = to_string(value_box[0].base_, value_box[0].size_)
    local before = all[name]
    all[name] = before and before .. (name == "cookie" and "; " or ", ") .. value or value
    i = i + 1
  end
  return all
end

-- ---- the body --------------------------------------------------------------------------------------------------

local function body_slow(self, code)
  while code == PARK do
    park(self[1])
    local p = live(self)
    if not p then return nil, "closed" end
    code = C.rille_http_body(p, scratch)
  end
  if code ~= 0 then return nil, text[-code] end
  return new_slice(scratch)
end

-- The body, or what read() has left of it, in one piece; empty when there is none. Parks until all of it is there.
function Req:body()
  local p = live(self)
  if not p then return nil, "closed" end
  local code = C.rille_http_body(p, scratch)
  if code ~= 0 then return body_slow(self, code) end
  return new_slice(scratch)
end

-- The next piece of the body, 1 to max bytes; nil at its end. Expires at the next call.
function Req:read(max)
  if max == nil then
    max = math.huge
  elseif type(max) ~= "number" then
    misuse("bad argument #1 to 'read' (a number of bytes expected, got %s)", type(max))
  end
  local p = live(self)
  if not p then return nil, "closed" end
  local code = C.rille_http_read(p, max, scratch)
  while code == PARK do
    park(self[1])
    p = live(self)
    if not p then return nil, "closed" end
    code = C.rille_http_read(p, max, scratch)
  end
  if code == END then return nil end
  if code ~= 0 then return nil, text[-code] end
  return new_slice(scratch)
end

-- The body as the value that it is in JSON; nil, "invalid argument", message when it is none.
function Req:json()
  local body, err = self:body()
  if not body then return nil, err end
  json.need()
  local ok, value = pcall(json.decode, body:str())
  if not ok then return nil, "invalid argument", value end
  return value
end

-- ---- the table -------------------------------------------------------------------------------------------------

local function table_of(methods)
  return {
    live = live,
    __index = function(self, key)
      local method = methods[key]
      if method then return method end
      local getter = getters[key]
      return getter and getter(self)
    end,
    __tostring = function(self)
      if self[1]._serial ~= self[2] then return "req (over)" end
      return ("req %s %s"):format(self.method or "?", self.target or "?")
    end,
  }
end

local request = table_of(Req)

-- The same with some methods of another kind, for job.lua.
function request.with(methods)
  return table_of(setmetatable(methods, { __index = Req }))
end

return request
