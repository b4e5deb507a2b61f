-- tls: certificates that a spec makes for itself, in its folder, and openssl as a client.

local inside = require "spec.support.inside"
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
