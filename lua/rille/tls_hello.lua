-- tls_hello: what a client of TLS says first, read from bytes that are passed on as they are: whom it wants, and what it would speak.
-- RFC 8446 has the message (4.1.2) and its records (5.1), RFC 6066 the name (3), RFC 7301 the protocols (3.1).

local Slice = require "rille.slice"
local misuse = require "rille.misuse"

local HANDSHAKE, CLIENT_HELLO = 22, 1
local SERVER_NAME, ALPN = 0, 16
local RECORD_MAX = 16384
local HELLO_MAX = 65535
local RECORDS_MAX = 32 -- a client that sends more makes work

local function u16(text, at)
  local a, b = text:byte(at, at + 1)
  return b and a * 256 + b
end

-- The handshake message in its records: nil, err, and how many bytes there have to be at least.
local function message_of(text)
  local parts, size, at = {}, 0, 1
  for _ = 1, RECORDS_MAX do
    local kind, major = text:byte(at, at + 1)
    if kind and kind ~= HANDSHAKE or major and major ~= 3 then return nil, "handshake failed" end
    local length = u16(text, at + 3)
    if not length then return nil, "short", at + 4 end
    if length == 0 or length > RECORD_MAX then return nil, "handshake failed" end
    parts[#parts + 1] = text:sub(at + 5, at + 4 + length)
    size = size + #parts[#parts]
    local message = table.concat(parts)
    if size > 0 and message:byte() ~= CLIENT_HELLO then return nil, "handshake failed" end
    local high, rest = message:byte(2), u16(message, 3)
    local whole = rest and 4 + high * 65536 + rest
    if whole and whole > HELLO_MAX then return nil, "too large" end
    if whole and size >= whole then return message:sub(5, whole) end
    if #text < at + 4 + length then return nil, "short", at + 4 + length end
    at = at + 5 + length
  end
  return nil, "too large"
end

-- A part behind its own length of one byte or two: what it has, and where the next begins; nil when it is cut.
local function part(text, at, bytes)
  local length = bytes == 1 and text:byte(at) or bytes == 2 and u16(text, at)
  if not length or at + bytes + length - 1 > #text then return nil end
  return text:sub(at + bytes, at + bytes + length - 1), at + bytes + length
end

local function name_of(extension)
  local list = part(extension, 1, 2)
  if not list or list:byte() ~= 0 then return nil end -- 0: a host name, the only kind there is
  local name = part(list, 2, 2)
  return name and name ~= "" and not name:find("[%z\1-\32\127-\255]") and name:lower() or nil
end

local function protocols_of(extension)
  local list, out, at = part(extension, 1, 2), {}, 1
  while list and at <= #list do
    local one
    one, at = part(list, at, 1)
    if not one then return nil end
    out[#out + 1] = one
  end
  return #out > 0 and out or nil
end

local function extensions_of(body)
  local at = 2 + 32 + 1 -- version, random
  for _, bytes in ipairs { 1, 2, 1 } do -- session, ciphers, compression
    local passed
    passed, at = part(body, at, bytes)
    if not passed then return nil end
  end
  if at > #body then return "" end -- an old client has none
  return (part(body, at, 2))
end

-- rille.tls_hello(x): { name =, alpn = { ... } } of the first bytes of a client, a slice or string; each may be missing. nil, "short", n:
-- n bytes are needed at least; nil, "handshake failed": no client of TLS says so; nil, "too large".
return function(x)
  if Slice.is(x) then x = x:str() end
  if type(x) ~= "string" then misuse("bad argument #1 to 'tls_hello' (a string or slice expected, got %s)", type(x)) end
  local body, err, need = message_of(x)
  if not body then return nil, err, need end
  local all = extensions_of(body)
  if not all then return nil, "handshake failed" end
  local hello, at = {}, 1
  while at <= #all do
    local kind = u16(all, at)
    local value
    value, at = part(all, at + 2, 2)
    if not value then return nil, "handshake failed" end
    if kind == SERVER_NAME then hello.name = name_of(value) elseif kind == ALPN then hello.alpn = protocols_of(value) end
  end
  return hello
end
