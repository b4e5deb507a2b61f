-- sniff: HTTP, TLS and a protocol of lines on one port, told apart by the first bytes. Inside TLS it is the same again: HTTPS, or lines.
--
--   rille run scripts/sniff.lua --listen tcp://127.0.0.1:8443 -- certificate=site.pem key=site.key
--   curl http://127.0.0.1:8443/; curl -k https://127.0.0.1:8443/; printf 'hello\n' | nc 127.0.0.1 8443
--
-- Who has not said within 5 seconds what it speaks is let go. docs/gateways.md has more.

local rille = require "rille"

local options = ...

local HANDSHAKE = 22 -- the first byte of a record of TLS that begins a handshake (RFC 8446 section 5.1)
local METHOD_MAX, WAIT = 8, 5
local METHODS = {}
for method in ("GET HEAD POST PUT DELETE OPTIONS PATCH TRACE CONNECT"):gmatch "%a+" do METHODS[method .. " "] = true end

-- Whether the bytes begin a request of HTTP: true, false, or nil when more of them have to come.
local function is_http(bytes)
  for method in pairs(METHODS) do
    local size = math.min(#method, #bytes)
    if method:sub(1, size) == bytes:sub(1, size) then return #bytes >= #method or nil end
  end
  return false
end

-- "tls", "http" or "lines"; nil, err when the peer says too little.
local function sniff(conn)
  for n = 1, METHOD_MAX do
    local start, err = conn:peek(n)
    if not start then return nil, err end
    if n == 1 and start:byte(1) == HANDSHAKE and not conn:tls() then return "tls" end
    local answer = is_http(start:str())
    if answer ~= nil then return answer and "http" or "lines" end
  end
end

local function protocol_of(conn)
  local protocol, err = sniff(conn)
  if protocol == "tls" then
    local is_good
    is_good, err = conn:starttls { certificate = options.certificate, key = options.key, alpn = { "http/1.1" } }
    protocol = nil
    if is_good then protocol, err = sniff(conn) end
  end
  return protocol, err
end

return {
  on_connect = function(conn)
    local protocol = rille.with_timeout(WAIT, protocol_of, conn)
    if not protocol then return conn:abort() end
    return conn:on_request("on_" .. protocol, protocol == "http" and "http" or nil)
  end,
  on_http = function(req, res)
    res:send(("%s over %s\n"):format(req.path, req.conn:tls() and "HTTPS" or "HTTP"))
  end,
  on_lines = function(conn)
    local line, err = conn:read_line(1024)
    if not line then return err == "too large" and conn:abort() end
    conn:write(("%s over %s\n"):format(line:str(), conn:tls() and "TLS" or "TCP"))
  end,
  on_request = function() end,
}
