-- conn_proxy: the PROXY protocol for scripts: what the header of a connection said, and headers to send. docs/proxy.md says more.

local C = require "rille.core"
local ffi = require "ffi"

local conn_read = require "rille.conn_read"
local misuse = require "rille.misuse"

local type = type
local gone = conn_read.gone

local Conn = {}
local M = { methods = Conn }

local TLV_CRC32C = 3
local SIZE_MAX = 16 + 65535

local head_box, via_box = ffi.new("rille_proxy_head[1]"), ffi.new("char[56]")
local text_box = ffi.new("char[64]")
local header_box -- made with the first header

-- ---- in --------------------------------------------------------------------------------------------------------

local function path_at(bytes, at)
  return (ffi.string(bytes + at, 108):match("^[^%z]*"))
end

local function address_of(bytes, head, which)
  if head.family == C.RILLE_PROXY_UNIX then
    return "unix:" .. path_at(bytes, which == 0 and head.source_at or head.destination_at)
  end
  local size = C.rille_proxy_address(head, which, text_box, 64)
  return size > 0 and ffi.string(text_box, size) or nil
end

local function tlvs_of(bytes, head)
  local tlvs, at, stop = {}, head.tlv_at, head.tlv_at + head.tlv_size
  while at < stop do
    local size = bytes[at + 1] * 256 + bytes[at + 2]
    tlvs[bytes[at]] = ffi.string(bytes + at + 3, size)
    at = at + 3 + size
  end
  return tlvs
end

-- A table of what the bytes of a header, and its rille_proxy_head, say.
function M.describe(bytes, head)
  return {
    version = head.version, source = address_of(bytes, head, 0), destination = address_of(bytes, head, 1),
    tlvs = tlvs_of(bytes, head),
  }
end

-- What the PROXY header of this connection said; nil: it came without one.
function Conn:proxied()
  local p = self._p
  if not p then return nil end
  local bytes = C.rille_conn_proxied(p, head_box, via_box)
  if bytes == nil then return nil end
  local said = M.describe(bytes, head_box[0])
  said.via = ffi.string(via_box)
  return said
end

-- ---- out -------------------------------------------------------------------------------------------------------

local KEYS = { version = true, source = true, destination = true, tlvs = true, crc32c = true }

local function encode_tlvs(tlvs)
  local types, parts = {}, {}
  for kind, value in pairs(tlvs) do
    if type(kind) ~= "number" or kind % 1 ~= 0 or kind < 0 or kind > 255 or type(value) ~= "string" then
      misuse("proxy_header: tlvs are strings by types from 0 to 255, got %s by %s", type(value), tostring(kind))
    end
    if kind == TLV_CRC32C then misuse("proxy_header: say crc32c = true instead of a value of type 3") end
    types[#types + 1] = kind
  end
  table.sort(types)
  for i, kind in ipairs(types) do
    local value = tlvs[kind]
    if #value > 65535 then misuse("proxy_header: the value of type %d has more than 65535 bytes", kind) end
    parts[i] = string.char(kind, math.floor(#value / 256), #value % 256) .. value
  end
  return table.concat(parts)
end

local function check(options)
  if type(options) ~= "table" then misuse("bad argument #1 to 'proxy_header' (a table expected, got %s)", type(options)) end
  for key in pairs(options) do
    if not KEYS[key] then
      misuse("proxy_header has no option '%s'; there are version, source, destination, tlvs, crc32c", tostring(key))
    end
  end
  for _, key in ipairs { "source", "destination" } do
    local value = options[key]
    if value ~= nil and (type(value) ~= "string" or value:find("%z")) then
      misuse("proxy_header: %s is an address such as \"192.0.2.1:80\", not %s", key, type(value))
    end
  end
  if (options.source == nil) ~= (options.destination == nil) then
    misuse("proxy_header: source and destination belong together")
  end
  if options.tlvs ~= nil and type(options.tlvs) ~= "table" then
    misuse("proxy_header: tlvs is a table, not a %s", type(options.tlvs))
  end
end

-- The bytes of a header. options: version (1 or 2, which is the default), source and destination ("192.0.2.1:80"; neither: the proxy
-- speaks for itself), tlvs (strings by type) and crc32c of version 2. nil, err.
function M.header(options)
  check(options)
  local version = options.version == nil and 2 or options.version
  if version ~= 1 and version ~= 2 then misuse("proxy_header: version is 1 or 2, not %s", tostring(version)) end
  local tlvs = encode_tlvs(options.tlvs or {})
  if version == 1 and (tlvs ~= "" or options.crc32c) then misuse("proxy_header: version 1 has no tlvs") end
  header_box = header_box or ffi.new("uint8_t[?]", SIZE_MAX)
  local size = C.rille_proxy_encode(version, options.source, options.destination, tlvs, #tlvs, options.crc32c and 1 or 0,
    header_box, SIZE_MAX)
  if size == C.RILLE_PROXY_NO_ROOM then return nil, "too large" end
  if size < 0 then return nil, "bad address" end
  return ffi.string(header_box, size)
end

-- Write a header: for another connection, whose bytes are to follow, or as M.header. As write.
function Conn:send_proxy(from, options)
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #2 to 'send_proxy' (a table expected, got %s)", type(options))
  end
  if type(from) == "table" and from.send_proxy == Conn.send_proxy then
    local all = { source = from:peer(), destination = from:local_address() }
    if not all.source then return gone(from) end
    all.destination = all.destination and all.destination:gsub("^%w+://", "")
    if not all.destination or all.source:find("^unix:") or all.source == "?" or all.destination:find("^/") then
      all.source, all.destination = nil, nil -- a path that nobody else knows
    end
    local said = from:proxied()
    if said and said.source then all.source, all.destination = said.source, said.destination end
    for key, value in pairs(options or {}) do all[key] = value end
    from = all
  end
  local header, err = M.header(from)
  if not header then return nil, err end
  return self:write(header)
end

return M
