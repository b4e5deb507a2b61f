-- luajit bench/pump.lua [MIB] [PAIRS], from the root of the repository: CPU seconds for a GiB through a TCP proxy: conn:pump, a task that
-- reads and writes, and HAProxy with splice, if it is installed. In turn, PAIRS times each; the least of each counts, as others use the
-- machine too.
package.path = "./?.lua;" .. package.path

local posix = require "bench.posix"
local proc = require "bench.proc"
local usage = require "bench.usage"

local MIB, PAIRS = tonumber(arg[1]) or 1024, tonumber(arg[2]) or 5
local SERVER, FIRST = 7410, 7411

local HAPROXY = [[
global
  nbthread 1
defaults
  mode tcp
  timeout client 60s
  timeout server 60s
  timeout connect 5s
  option splice-request
  option splice-response
listen proxy
  bind 127.0.0.1:%d
  server s 127.0.0.1:%d
]]

local function rille(by)
  return function(port)
    return { "bin/rille", "run", "bench/pump_proxy.lua", "--listen", "tcp://127.0.0.1:" .. port, "--", "to=" .. SERVER, "by=" .. by }
  end
end

local function haproxy(port)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(HAPROXY:format(port, SERVER))
  file:close()
  return { "haproxy", "-db", "-f", path }
end

local proxies = { { name = "pump", command = rille "pump" }, { name = "read and write", command = rille "copy" } }
if os.execute("command -v haproxy >/dev/null") == 0 then proxies[3] = { name = "haproxy", command = haproxy } end

local function measure()
  for i, proxy in ipairs(proxies) do
    proxy.port = FIRST + i - 1
    proxy.process = proc.start(proxy.command(proxy.port), {})
    assert(posix.wait_for(5, function() return posix.is_listening(proxy.port) end), proxy.name .. " does not listen")
  end
  for _ = 1, PAIRS do
    for _, proxy in ipairs(proxies) do
      local user, system = usage.user_system(proxy.process.pid)
      local command = ("build/bench/pump %d %d %d 1 >/dev/null"):format(proxy.port, SERVER, MIB)
      assert(os.execute(command) == 0, proxy.name .. " did not pass the bytes on")
      local user_after, system_after = usage.user_system(proxy.process.pid)
      local seconds = (user_after + system_after - user - system) / 1e6 * 1024 / MIB
      proxy.least = math.min(proxy.least or math.huge, seconds)
    end
  end
  for _, proxy in ipairs(proxies) do print(("%-16s %.2f CPU s/GiB"):format(proxy.name, proxy.least)) end
end

local ok, err = pcall(measure)
proc.stop_all()
if not ok then error(err, 0) end
