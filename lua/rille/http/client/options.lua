-- options: what a client and a request are told: each key with its kind, its default and its bounds. What is wrong raises at the script's
-- line.

local C = require "rille.core"
local Slice = require "rille.slice"
local misuse = require "rille.misuse"
local options = require "rille.options"

local ffi = require "ffi"

local type = type

local M = {}

local DAY = 86400

-- { kind, default, least, most }
local CLIENT = {
  base = { "string" },
  headers = { "table" },
  upstream = { "table" },
  dial = { "table" },
  tls = { "table" },
  connect_timeout = { "span", 5, 0.001, DAY },
  answer_timeout = { "span", 30, 0.001, DAY },
  read_timeout = { "span", 30, 0.001, DAY },
  timeout = { "span", 60, 0, DAY },
  redirects = { "count", 0, 0, 20 },
  max_head = { "size", 16384, 256, 2 ^ 20 },
  max_headers = { "count", 100, 1, 10000 },
  max_body = { "size", 8 * 2 ^ 20, 0, 2 ^ 30 },
  max_origins = { "count", 64, 1, 4096 },
  max_per_origin = { "count", 64, 1, 1e5 },
  keepalive = { "count", 32, 0, 1e5 },
  keepalive_timeout = { "span", 30, 0.001, DAY },
  max_requests = { "count", 1000, 0, 2 ^ 53 },
  queue = { "count", 1024, 0, 1e6 },
  queue_timeout = { "span", 5, 0.001, DAY },
}

local REQUEST = {
  method = { "string" }, url = { "string" }, path = { "string" }, headers = { "table" }, query = { "query" }, body = { "body" },
  json = { "any" }, key = { "key" }, idempotent = { "boolean" },
  answer_timeout = CLIENT.answer_timeout, read_timeout = CLIENT.read_timeout, timeout = CLIENT.timeout,
  redirects = CLIENT.redirects, max_body = CLIENT.max_body,
}

local fill = options.filler {
  key = options.typed("a string or a number", "string", "number"),
  query = options.typed("a string or a table", "string", "table"),
  body = options.typed("a string, a slice, a LinkBuffer, a function or an object with read()", "string", "cdata", "function", "table"),
}

-- ---- header fields ---------------------------------------------------------------------------------------------

-- What the client writes itself.
local OWN = { ["transfer-encoding"] = true, expect = true, upgrade = true, te = true, trailer = true }

local function text_of(where, name, value)
  if type(value) == "string" then return value end
  if type(value) == "number" or ffi.istype(Slice.type, value) then return tostring(value) end
  misuse("%s: headers: %s takes a string, a number, a slice or a list of such, not a %s", where, name, type(value))
end

local function add(list, where, name, value)
  local text = text_of(where, name, value)
  local flaw = C.rille_http_check_field(name, #name, text, #text)
  if flaw == C.RILLE_HTTP_BAD_NAME then misuse("%s: headers: '%s' is no name of a header field", where, name) end
  if flaw ~= 0 then
    misuse("%s: headers: the value of %s holds a control character (CR, LF, NUL, ...): it would be read as something else", where, name)
  end
  list[#list + 1] = { name = name, lower = name:lower(), value = text }
end

-- A list of { name, lower, value } of a table: name → a value, a list of such, or false for none.
function M.fields(headers, where)
  local list, names = {}, {}
  for name, value in pairs(headers or {}) do
    if type(name) ~= "string" then misuse("%s: headers is a table of names, %s is none", where, tostring(name)) end
    local lower = name:lower()
    if OWN[lower] then misuse("%s: headers: %s is the client's own", where, name) end
    if lower == "connection" and value ~= "close" then misuse('%s: headers: Connection may be "close" alone', where) end
    if names[lower] then misuse("%s: headers: %s stands there twice", where, name) end
    names[lower] = true
    if type(value) == "table" then
      for i = 1, #value do add(list, where, name, value[i]) end
    elseif value ~= false then
      add(list, where, name, value)
    end
  end
  return list, names
end

-- All of http.client{}.
function M.client(values)
  if values ~= nil and type(values) ~= "table" then misuse("bad argument #1 to 'client' (a table expected, got %s)", type(values)) end
  local out = fill(values or {}, CLIENT, "http.client")
  out.fields, out.field_names = M.fields(out.headers, "http.client")
  return out
end

-- All of client:request{}; defaults: the client's.
function M.request(values, defaults, where)
  if type(values) ~= "table" then misuse("bad argument to '%s' (a table expected, got %s)", where, type(values)) end
  local out = fill(values, REQUEST, where, { answer_timeout = defaults.answer_timeout, read_timeout = defaults.read_timeout,
    timeout = defaults.timeout, redirects = defaults.redirects, max_body = defaults.max_body })
  if out.url and out.path then misuse("%s: url or path, not both", where) end
  if out.json ~= nil and out.body ~= nil then misuse("%s: body or json, not both", where) end
  return out
end

return M
