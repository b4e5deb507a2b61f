-- message: what a message of DNS asks, as Lua values, and answers that are errors. core/dns_message.c reads and writes the bytes.

local ffi = require "ffi"

local C = require "rille.core"
local Slice = require "rille.slice"
local misuse = require "rille.misuse"

local type, to_string = type, ffi.string
local istype = ffi.istype
local slice_t = Slice.type

local M = {}

local query = ffi.new("rille_dns_query")
local room = ffi.new("uint8_t[?]", C.RILLE_DNS_QUERY_MAX)

M.TYPES = {
  A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, HINFO = 13, MX = 15, TXT = 16, AAAA = 28, SRV = 33, NAPTR = 35, DS = 43, SSHFP = 44,
  RRSIG = 46, NSEC = 47, DNSKEY = 48, TLSA = 52, SVCB = 64, HTTPS = 65, ANY = 255, CAA = 257,
}
local names = {}
for name, number in pairs(M.TYPES) do names[number] = name end

local RCODES = {
  formerr = C.RILLE_DNS_FORMERR, servfail = C.RILLE_DNS_SERVFAIL, nxdomain = C.RILLE_DNS_NXDOMAIN, notimp = C.RILLE_DNS_NOTIMP,
  refused = C.RILLE_DNS_REFUSED,
}

-- The bytes of a string or slice, and their number.
function M.bytes_of(x, name)
  if type(x) == "string" then return x, #x end
  if not istype(slice_t, x) then misuse("bad argument to '%s' (a string or a slice expected, got %s)", name, type(x)) end
  return x:ptr()
end

local function escaped(byte)
  if byte == 46 or byte == 92 then return "\\" .. string.char(byte) end
  if byte <= 32 or byte >= 127 then return ("\\%03d"):format(byte) end
  return string.char(byte)
end

-- The name of a question as text without the last dot, "." for the root; what is no plain letter is escaped (RFC 1035, 5.1).
local function text_of(bytes)
  local labels, at = {}, 0
  while bytes[at] > 0 do
    local label = {}
    for i = 1, bytes[at] do label[i] = escaped(bytes[at + i]) end
    labels[#labels + 1] = table.concat(label)
    at = at + 1 + bytes[at]
  end
  return at == 0 and "." or table.concat(labels, ".")
end

-- What a message asks: the name in lower case, the type ("A", or a number that has no name here). Or nil, err: "formerr", "notimp",
-- "refused", "badvers" (what it would be answered with), "ignored" (it is no query).
function M.question(x)
  local rcode = C.rille_dns_query_read(ffi.cast("const uint8_t *", (M.bytes_of(x, "question"))), #x, query)
  if rcode == 0 then return text_of(query.key), names[query.type] or query.type end
  if rcode < 0 then return nil, "ignored" end
  for name, number in pairs(RCODES) do
    if number == rcode then return nil, name end
  end
  return nil, "badvers"
end

-- The answer without records to the query x: "formerr", "servfail", "nxdomain", "notimp" or "refused", as a string. nil, "ignored" when
-- x is no query.
function M.error(x, name)
  local rcode = RCODES[name]
  if not rcode then
    misuse("bad argument #2 to 'error' (formerr, servfail, nxdomain, notimp or refused expected, got %s)", tostring(name))
  end
  local bytes = ffi.cast("const uint8_t *", (M.bytes_of(x, "error")))
  if C.rille_dns_query_read(bytes, #x, query) < 0 then return nil, "ignored" end
  return to_string(room, C.rille_dns_error(query, bytes, rcode, room))
end

return M
