-- TLS beside nginx with the same keys, ciphers and kernel: handshakes, in full and resumed, and bulk.
local compare = require "bench.compare"
local server = require "bench.server"
local syscalls = require "bench.syscalls"

local tls = {}

local BODY = 1048576

-- One process each.
local NGINX = [[
daemon off; master_process off; pid DIR/@PORT@.pid; error_log DIR/error.log;
events { worker_connections 1024; }
http {
  access_log off; keepalive_requests 1000000000; sendfile on;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers ECDHE+AES128+AESGCM; ssl_prefer_server_ciphers on;
  server {
    listen 127.0.0.1:@PORT@ ssl; ssl_certificate DIR/KEY.pem; ssl_certificate_key DIR/KEY.key;
    location / { root DIR; }
  }
}
]]

local RILLE = [[
return { loops = 1, servers = { { listen = "https://127.0.0.1:" .. os.getenv "BENCH_PORT", script = "DIR/script.lua",
  tls = { certificate = "DIR/KEY.pem", key = "DIR/KEY.key", ciphers = "ECDHE+AES128+AESGCM" } } } }
]]

local SCRIPT = [[return function(req, res) res:file("DIR/body") end]]

local KEYS = {
  { name = "p256", words = "ec -pkeyopt ec_paramgen_curve:P-256" },
  { name = "rsa", words = "rsa:2048" },
}

local CASES = {}
for _, version in ipairs { "1.3", "1.2" } do
  for _, kind in ipairs { "full", "resumed" } do CASES[#CASES + 1] = { kind = kind, version = version } end
end
CASES[#CASES + 1] = { kind = "bulk", version = "1.3", only = "p256" }

function tls.is_there()
  return os.execute("command -v nginx openssl >/dev/null 2>&1") == 0
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function prepare(folder)
  write(folder .. "/body", ("x"):rep(BODY))
  write(folder .. "/script.lua", (SCRIPT:gsub("DIR", folder)))
  for _, key in ipairs(KEYS) do
    local made = os.execute(("openssl req -x509 -newkey %s -nodes -keyout %s/%s.key -out %s/%s.pem -days 2 -subj /CN=localhost 2>/dev/null")
      :format(key.words, folder, key.name, folder, key.name))
    if made ~= 0 then error("openssl cannot make a key", 0) end
    write(("%s/%s.lua"):format(folder, key.name), (RILLE:gsub("DIR", folder):gsub("KEY", key.name)))
    write(("%s/%s.conf"):format(folder, key.name), (NGINX:gsub("DIR", folder):gsub("KEY", key.name)))
  end
end

local function start_nginx(settings, folder, key)
  local command = ("sh -c 'sed s/@PORT@/{port}/g %s/%s.conf >%s/{port}.conf; exec nginx -p %s -c %s/{port}.conf'"):format(
    folder, key, folder, folder, folder)
  local one = server.start("nginx", command, settings.server_core)
  one.has_state = false -- SIGQUIT ends it
  return one
end

local function measure_case(settings, key, case, nginx, twin, tested)
  local job = { program = "tls_client", arguments = { "--kind", case.kind, "--version", case.version, "--path", "/body" } }
  local result = compare.run(settings, job, nginx, twin, tested)
  result.case, result.key = ("%s, TLS %s"):format(case.kind, case.version), key
  result.kind, result.pairs, result.connections = case.kind, settings.pairs, settings.connections
  result.syscalls = syscalls.compare(settings, job, nginx, tested)
  return result
end

local function measure_key(settings, folder, key, name, progress, results)
  local nginx, twin = start_nginx(settings, folder, key), start_nginx(settings, folder, key)
  local tested = server.start(name, ("env BENCH_PORT={port} bin/rille run --conf %s/%s.lua"):format(folder, key), settings.server_core)
  for _, case in ipairs(CASES) do
    if not case.only or case.only == key then
      progress("tls %s %s %s: %d pairs of %g s, twice", key, case.kind, case.version, settings.pairs, settings.seconds)
      results[#results + 1] = measure_case(settings, key, case, nginx, twin, tested)
    end
  end
  tested:stop()
  twin:stop()
  nginx:stop()
end

function tls.measure(all, name, progress)
  local settings = setmetatable({ pairs = math.ceil(all.pairs / 3), connections = 16 }, { __index = all })
  local folder, results = os.tmpname(), {}
  os.remove(folder)
  assert(os.execute("mkdir -m 700 " .. folder) == 0)
  local ok, err = pcall(function()
    prepare(folder)
    for _, key in ipairs(KEYS) do measure_key(settings, folder, key.name, name, progress, results) end
  end)
  os.execute("rm -rf " .. folder)
  if not ok then error(err, 0) end
  return results
end

return tls
