-- url: where a request goes: http and https URLs (RFC 3986, RFC 9110 section 4.2), taken apart, and references to be followed from them.

local ffi = require "ffi"

local C = require "rille.core"
local misuse = require "rille.misuse"

local M = {}

local PORTS = { http = 80, https = 443 }
local URL_MAX = 16384
local KEPT_MAX = 256

local kept, kept_count = {}, 0 -- by the text of a URL, for those that are asked for again and again

local function refuse(text, why)
  return nil, "bad address", ("%s: %s"):format(#text > 200 and text:sub(1, 200) .. "..." or (text:gsub("%c", "?")), why)
end

local function split_authority(text, scheme, authority)
  if authority:find("@", 1, true) then return refuse(text, "a name or password in a URL is not supported: set Authorization") end
  local host, port = authority:match("^(%[[%x:.]+%]):?(%d*)$")
  if not host then
    host, port = authority:match("^([^:]+):?(%d*)$")
  end
  if not host or C.rille_http_check_host(authority, #authority) ~= 1 then return refuse(text, "it has no host, or one that cannot be") end
  port = port ~= "" and tonumber(port) or PORTS[scheme]
  if port < 1 or port > 65535 then return refuse(text, "its port is not one from 1 to 65535") end
  return host:lower(), port
end

local function parse(text)
  if #text > URL_MAX then return refuse(text, ("a URL has at most %d bytes"):format(URL_MAX)) end
  local scheme, authority, target = text:match("^(%a+)://([^/?#]*)([^#]*)")
  scheme = scheme and scheme:lower()
  if not PORTS[scheme] then return refuse(text, "expected http:// or https://") end
  local host, port, message = split_authority(text, scheme, authority)
  if not host then return nil, port, message end
  if target:sub(1, 1) ~= "/" then target = "/" .. target end
  if C.rille_http_check_target(target, #target) ~= 1 then
    return refuse(text, "its path or query holds what has to be percent-encoded")
  end
  local name = port == PORTS[scheme] and host or ("%s:%d"):format(host, port)
  return { scheme = scheme, host = host, port = port, target = target, name = name, origin = ("%s://%s:%d"):format(scheme, host, port),
    text = ("%s://%s%s"):format(scheme, name, target) }
end

-- { scheme, host, port, target, name = for the field Host, origin, text }, which is not to be changed. nil, err, message.
function M.parse(text)
  local url = kept[text]
  if url then return url end
  local err, message
  url, err, message = parse(text)
  if not url then return nil, err, message end
  if kept_count >= KEPT_MAX then kept, kept_count = {}, 0 end
  kept[text] = url
  kept_count = kept_count + 1
  return url
end

-- "." and ".." away (RFC 3986 section 5.2.4).
local function remove_dots(path)
  local out = {}
  for segment in path:gmatch("/([^/]*)") do
    if segment == ".." then
      out[#out] = nil
    elseif segment ~= "." then
      out[#out + 1] = segment
    end
  end
  local is_folder = path:find("/%.%.?$") or path:find("/$")
  local whole = "/" .. table.concat(out, "/")
  if is_folder and whole:sub(-1) ~= "/" then whole = whole .. "/" end
  return whole
end

-- What a reference (of Location) means, seen from a URL (RFC 3986 section 5.2).
function M.resolve(base, reference)
  reference = reference:match("^[^#]*")
  if reference:find("^%a[%w+.-]*:") then return M.parse(reference) end
  if reference:find("^//") then return M.parse(base.scheme .. ":" .. reference) end
  local root = ("%s://%s"):format(base.scheme, base.name)
  if reference == "" then return base end
  local path, query = reference:match("^([^?]*)(.*)$")
  local base_path = base.target:match("^[^?]*")
  if path == "" then return M.parse(root .. base_path .. query) end
  if path:sub(1, 1) ~= "/" then path = base_path:match("^(.*/)") .. path end
  return M.parse(root .. remove_dots(path) .. query)
end

-- ---- queries ---------------------------------------------------------------------------------------------------

local ROOM_FIRST = 1024
local room = ROOM_FIRST
local encoded = ffi.new("uint8_t[?]", room)

local NO_TEXT = { table = true, ["function"] = true, thread = true, userdata = true }

local function encode(value, where)
  if NO_TEXT[type(value)] then misuse("%s: query takes strings, numbers, true, false and lists of these, not a %s", where, type(value)) end
  local text = tostring(value)
  if 3 * #text > room then
    room = 3 * #text
    encoded = ffi.new("uint8_t[?]", room)
  end
  return ffi.string(encoded, C.rille_http_query_encode(text, #text, encoded))
end

-- "a=1&b=two" of a table: name → a value or a list of such; names in order, so that the same table is always the same URL.
function M.query(parameters, where)
  local names, out = {}, {}
  for name in pairs(parameters) do
    if type(name) ~= "string" then misuse("%s: query is a table of names, %s is none", where, tostring(name)) end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = parameters[name]
    local key = encode(name, where)
    if type(value) == "table" then
      for i = 1, #value do out[#out + 1] = key .. "=" .. encode(value[i], where) end
    else
      out[#out + 1] = key .. "=" .. encode(value, where)
    end
  end
  return table.concat(out, "&")
end

return M
