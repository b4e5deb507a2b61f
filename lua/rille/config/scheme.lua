-- scheme: http:// among the addresses to listen on. It is TCP with a protocol over it; everything below knows tcp:// alone.

local scheme = {}

local DEFAULT_PORT = ":80"

-- The protocol that is spoken at a URL and the address below it. protocol: that of the server, for other schemes.
function scheme.split(url, protocol)
  local rest = url:match("^http://(.*)$")
  if not rest then return scheme.is_datagram(url) and "datagram" or protocol, url end
  rest = rest:gsub("/$", "")
  if rest ~= "" and not rest:find(":%d*$") then rest = rest .. DEFAULT_PORT end
  return "http", "tcp://" .. rest
end

-- Whether it is an address of datagrams.
function scheme.is_datagram(url)
  return url:find("^[uU][dD][pP][46]?:") ~= nil or url:find("^[uU][nN][iI][xX][gG][rR][aA][mM]:") ~= nil
end

-- A bound address as it was written.
function scheme.http(address)
  return (address:gsub("^tcp[46]?://", "http://", 1))
end

return scheme
