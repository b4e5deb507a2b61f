-- The servers whose code is changed under load, each with a folder of its own. start(folder) returns a server.lua's, which answers "1";
-- change(folder, version, it) lets it answer that number; see reload.lua.
local posix = require "bench.posix"
local server = require "bench.server"

local servers = { LOOPS = 2, MODULES = 100 }

-- Renamed into place: no half of it is ever there.
local function put(path, text)
  local file = assert(io.open(path .. ".new", "w"))
  file:write(text)
  file:close()
  assert(os.rename(path .. ".new", path))
end

-- ---- Rille -----------------------------------------------------------------------------------------------------

local CONF = [[
return {
  loops = %d,
  control = { path = %q },
  debug = { turns = %s },
  servers = { { listen = "http://127.0.0.1:" .. os.getenv "BENCH_PORT", script = %q } },
}
]]

-- Sockets that listen on a port: connections that come before a loop has its own are the others' for as long as they last.
local function count_listening(port)
  local count, pattern = 0, ("^ *%%d+: %%x+:%04X %%x+:%%x+ 0A "):format(port)
  for line in io.lines "/proc/net/tcp" do
    if line:find(pattern) then count = count + 1 end
  end
  return count
end

-- times_work: it is asked for longest_turn.
local function start_rille(folder, times_work)
  put(folder .. "/conf.lua", CONF:format(servers.LOOPS, folder .. "/control.sock", tostring(times_work or false), folder .. "/handler.lua"))
  local it = server.start("rille", ("env BENCH_PORT={port} bin/rille run --conf %s/conf.lua"):format(folder))
  local till = posix.now() + 10
  while count_listening(it.port) < servers.LOOPS and posix.now() < till do posix.sleep(0.01) end
  return it
end

local rille = { name = "rille" }

function rille.change(folder, version)
  put(folder .. "/handler.lua", ("return function(req, res) res:send '%d\\n' end\n"):format(version))
end

function rille.start(folder)
  rille.change(folder, 1)
  return start_rille(folder)
end

-- The longest turn of a loop since it started, ms; and the longest without the time in which its thread waited for a processor.
local function longest_turn(folder)
  local pipe = io.popen(("bin/rille status --json --control %s/control.sock"):format(folder))
  local text = pipe:read("*a")
  pipe:close()
  local function most_of(key)
    local longest
    for seconds in text:gmatch(('"%s":([%%d.e-]+)'):format(key)) do longest = math.max(longest or 0, tonumber(seconds) * 1e3) end
    return longest or error(("rille status says no %s: %s"):format(key, text:sub(1, 200)), 0)
  end
  return most_of "longest_turn", most_of "longest_work"
end

-- ---- Rille, a script of many modules ---------------------------------------------------------------------------

local FUNCTION = [[
function M.f%d(list)
  local sum, texts = %d, {}
  for i, value in ipairs(list) do
    if value %% 2 == 0 then sum = sum + value else texts[#texts + 1] = ("%%d of %%d"):format(i, value) end
  end
  return sum, table.concat(texts, ", ")
end
]]
local HANDLER = [[
local modules = { %s }
local text = modules[1].version .. "\n"
return function(req, res) res:send(text) end
]]

local function module_of(version)
  local parts = { ("local M = { version = %d }\n"):format(version) }
  for i = 1, 20 do parts[i + 1] = FUNCTION:format(i, i) end
  parts[#parts + 1] = "return M\n"
  return table.concat(parts)
end

local many = { name = "modules", longest_turn = longest_turn }

function many.change(folder, version)
  put(folder .. "/m1.lua", module_of(version))
end

function many.start(folder)
  local names = {}
  for i = 1, servers.MODULES do
    put(("%s/m%d.lua"):format(folder, i), module_of(1))
    names[i] = ("require 'm%d'"):format(i)
  end
  put(folder .. "/handler.lua", HANDLER:format(table.concat(names, ", ")))
  return start_rille(folder, true)
end

-- ---- nginx -----------------------------------------------------------------------------------------------------

local NGINX = [[
daemon off;
worker_processes %d;
pid %s/nginx.pid;
error_log stderr;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  server { listen 127.0.0.1:%s; location / { return 200 "%d\n"; } }
}
]]

local nginx = { name = "nginx" }

function nginx.is_there()
  return os.execute("command -v nginx >/dev/null") == 0
end

local function write_nginx(folder, version, port)
  put(folder .. "/nginx.conf", NGINX:format(servers.LOOPS, folder, port, version))
end

function nginx.change(folder, version, it)
  write_nginx(folder, version, it.port)
  if os.execute(("nginx -p %s -c nginx.conf -s reload 2>/dev/null"):format(folder)) ~= 0 then error("nginx -s reload failed", 0) end
end

function nginx.start(folder)
  write_nginx(folder, 1, "@PORT@")
  return server.start("nginx", ("sh -c 'sed -i s/@PORT@/{port}/ %s/nginx.conf && exec nginx -p %s -c nginx.conf'"):format(folder, folder))
end

-- ---- both ------------------------------------------------------------------------------------------------------

-- Bytes of a process and its children, shared pages once.
function servers.memory(pid)
  local usage = require "bench.usage"
  local total = 0
  local function add(one)
    total = total + usage.memory(one).pss
    for _, tid in ipairs(posix.list(("/proc/%d/task"):format(one)) or {}) do
      local file = io.open(("/proc/%d/task/%s/children"):format(one, tid))
      for child in (file and file:read("*a") or ""):gmatch("%d+") do pcall(add, tonumber(child)) end -- it may have ended
      if file then file:close() end
    end
  end
  add(pid)
  return total
end

servers.rille, servers.many, servers.nginx = rille, many, nginx

return servers
