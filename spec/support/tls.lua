-- tls: certificates that a spec makes for itself, in its folder, and openssl as a client.

local inside = require "spec.support.inside"
local net = require "spec.support.net"
local server = require "spec.support.server"

local M = {}

-- A sanitizer is for the server alone: with it curl hangs.
local function sh(command)
  local p = io.popen("unset LD_PRELOAD; cd " .. server.folder() .. " && { " .. command .. "; } 2>&1")
  local out = p:read("*a")
  p:close()
  return out
end
M.sh = sh

local KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"

-- An authority: NAME.pem and NAME.key.
function M.authority(name)
  sh(("openssl req -x509 %s -keyout %s.key -out %s.pem -days 30 -subj /CN=%s"):format(KEY, name, name, name))
end

-- A certificate that an authority has signed. names: "DNS:localhost,IP:127.0.0.1"; days: how long it is good.
function M.certificate(name, authority, names, days)
  sh(("openssl req -new %s -keyout %s.key -out %s.csr -subj /CN=%s"):format(KEY, name, name, name))
  server.write(name .. ".ext", "subjectAltName=" .. names .. "\n")
  sh(("openssl x509 -req -in %s.csr -CA %s.pem -CAkey %s.key -CAcreateserial -days %d -extfile %s.ext -out %s.pem"):format(
    name, authority, authority, days or 30, name, name))
  return M.file(name .. ".pem"), M.file(name .. ".key")
end

function M.file(name)
  return server.folder() .. "/" .. name
end

-- One with an RSA key that has signed itself: "rsa", for localhost. Its ca is itself.
function M.rsa(bits)
  sh(("openssl req -x509 -newkey rsa:%d -nodes -keyout rsa.key -out rsa.pem -days 30 -subj /CN=localhost"
    .. " -addext subjectAltName=DNS:localhost,IP:127.0.0.1"):format(bits or 2048))
  return { certificate = M.file "rsa.pem", key = M.file "rsa.key", ca = M.file "rsa.pem" }
end

-- What most specs need: an authority "ca" and a certificate "site" for localhost.
function M.set_up()
  M.authority "ca"
  M.certificate("site", "ca", "DNS:localhost,IP:127.0.0.1")
  return { certificate = M.file "site.pem", key = M.file "site.key" }
end

-- openssl s_client against a port, with nothing to send: what it said, all of it.
function M.client(port, words)
  return sh(("timeout 10 openssl s_client -connect 127.0.0.1:%d -CAfile ca.pem %s </dev/null"):format(port, words or ""))
end

-- It sends a line and ends when that came back, or when it cannot go on.
local EXCHANGE = [[
rm -f talk.*; mkfifo talk.in
timeout 10 openssl s_client -connect 127.0.0.1:%d -CAfile ca.pem %s <talk.in >talk.out 2>talk.err &
exec 3>talk.in
echo hello >&3
until grep -q hello talk.out || ! kill -0 $! 2>/dev/null; do sleep 0.02; done
exec 3>&-
wait]]

-- What openssl got back for the line "hello", and what it complained of.
function M.talk(port, words)
  sh(EXCHANGE:format(port, "-quiet -no_ign_eof " .. (words or "")))
  return server.read(M.file "talk.out"), server.read(M.file "talk.err")
end

-- The same, with all it has to say of the session.
function M.look(port, words)
  sh(EXCHANGE:format(port, words or ""))
  return server.read(M.file "talk.out") .. server.read(M.file "talk.err")
end

-- openssl s_server on a port of its choice, which sends each line back to front. Its port, and a function that ends it.
function M.openssl_server(words)
  sh(("timeout 60 openssl s_server -accept 127.0.0.1:0 -rev %s </dev/null >server.out 2>&1 & echo $! >server.pid"):format(words))
  local port = net.poll_until(function()
    return tonumber(server.read(M.file "server.out"):match "ACCEPT [%d.]+:(%d+)")
  end, 10)
  local pid = tonumber(server.read(M.file "server.pid"))
  return port, function() sh("kill " .. pid) end
end

local function u16(n) return string.char(math.floor(n / 256), n % 256) end

local function extension(id, body) return u16(id) .. u16(#body) .. body end

-- The hello of a client of TLS 1.2 (RFC 5246, 7.4.1.2): what a server answers with a signature. more: what differs: version, ciphers (a
-- list of numbers), compressions (bytes).
function M.hello(more)
  more = more or {}
  local ciphers, list = more.ciphers or { 0xc02b, 0xc02f }, {}
  for i, one in ipairs(ciphers) do list[i] = u16(one) end
  local compressions = more.compressions or "\0"
  local extensions = extension(10, u16(2) .. u16(23)) .. extension(11, "\1\0") .. extension(13, u16(6) .. "\4\3\8\4\4\1")
    .. (more.extensions or "")
  local body = u16(more.version or 0x303) .. ("r"):rep(32) .. "\0" .. u16(2 * #list) .. table.concat(list)
    .. string.char(#compressions) .. compressions .. u16(#extensions) .. extensions
  local message = "\1\0" .. u16(#body) .. body
  return "\22\3\1" .. u16(#message) .. message
end

-- In front of pieces that run inside a loop: client(port) is a connection to a local port.
M.PRELUDE = [[local spec_client = require "spec.support.client" ]]
  .. [[local function dial(port) local c = spec_client.connect("tcp://127.0.0.1:" .. port) ]]
  .. [[local fd = require("spec.support.net").C.net_fcntl(c.fd, 1030, require("ffi").cast("int", 3)) c:close() ]]
  .. [[return assert(rille.adopt(fd)) end ]]
  .. [[local function together(...) local tasks = {} for i, fn in ipairs { ... } do tasks[i] = rille.spawn(fn) end ]]
  .. [[for _, t in ipairs(tasks) do local ok, err = t:join() if not ok and err then error(err, 0) end end end ]]

function M.check(code, options)
  return inside.check(("local folder = %q "):format(server.folder()) .. M.PRELUDE .. code, options)
end

return M
