-- scheme: http://, https:// and tls:// among the addresses to listen on. They are TCP with something over it; everything below knows
-- tcp:// alone.

local scheme = {}

local DEFAULT_PORTS = { http = ":80", https = ":443" }

-- That of a URL with something over TCP: "http", "https", "tls"; nil.
function scheme.name(url)
  local name = url:match("^(%l+)://")
  return (name == "tls" or DEFAULT_PORTS[name]) and name or nil
end

-- The protocol that is spoken at a URL, the address below it, and whether TLS is between them. protocol: that of the server, for other
-- schemes.
function scheme.split(url, protocol)
  local name = scheme.name(url)
  if not name then return scheme.is_datagram(url) and "datagram" or protocol, url, false end
  local rest = url:sub(#name + 4)
  if name == "tls" then return protocol, "tcp://" .. rest, true end
  rest = rest:gsub("/$", "")
  if rest ~= "" and not rest:find(":%d*$") then rest = rest .. DEFAULT_PORTS[name] end
  return "http", "tcp://" .. rest, name == "https"
end

-- Whether it is an address of datagrams.
function scheme.is_datagram(url)
  return url:find("^[uU][dD][pP][46]?:") ~= nil or url:find("^[uU][nN][iI][xX][gG][rR][aA][mM]:") ~= nil
end

local ANY = { tcp = "[::]", udp = "[::]", tcp4 = "0.0.0.0", udp4 = "0.0.0.0", tcp6 = "[::]", udp6 = "[::]" }
local LOCAL = { tcp = "127.0.0.1", udp = "127.0.0.1", tcp4 = "127.0.0.1", udp4 = "127.0.0.1", tcp6 = "[::1]", udp6 = "[::1]" }

-- An address in one way of writing it, so that two that are the same compare equal. (Not every two: IPv6 has many ways.)
function scheme.canonical(url)
  local _, address = scheme.split(url, nil)
  local name, rest = address:match("^(%a[%w]*):(.*)$")
  name = name and name:lower()
  if name == "unix" or name == "unixgram" then return name .. ":" .. rest:gsub("^//", "") end
  if ANY[name] and rest:sub(1, 2) == "//" then rest = rest:sub(3) else name, rest = "tcp", address end
  local host, port = rest:match("^(.-):(%d+)$")
  if not host then return address end -- such as fd:NAME
  host = host == "" and ANY[name] or host:lower() == "localhost" and LOCAL[name] or host:lower()
  if not (name:find("6$") and host == "[::]") then name = name:sub(1, 3) end -- there it says IPv6 alone
  return ("%s://%s:%d"):format(name, host, tonumber(port))
end

-- A bound address as it was written, with a scheme of scheme.name().
function scheme.named(address, name)
  return (address:gsub("^tcp[46]?://", name .. "://", 1))
end

return scheme
