-- redis: redis-server as a child process, and what its own clients say to a server.

local server = require "spec.support.server"
local net = require "spec.support.net"

local M = {}
local count = 0

-- A real server, with further words for its command line; server.cleanup() ends it. { port =, url =, process = }
function M.start(...)
  count = count + 1
  local port = net.free_port()
  local process = server.spawn("", { command = { "/usr/bin/env", "redis-server", "--bind", "127.0.0.1", "--port", tostring(port), "--save",
    "", "--dir", server.folder(), "--enable-debug-command", "yes", ... } })
  process:forget()
  local ready = net.poll_until(function() return process:log():find "eady to accept connections" or process:has_exited() end, 10)
  if not ready or process:has_exited() then error("redis-server does not start:\n" .. process:tail(), 0) end
  return { port = port, url = "redis://127.0.0.1:" .. port, process = process }
end

-- scripts/redis_proxy.lua over these URLs, with further options.
function M.proxy(urls, ...)
  return server.run("scripts/redis_proxy.lua", { "shards=" .. table.concat(urls, ","), ... })
end

-- A server in Lua that is no Redis: source of function(conn, frame) with frames of strings. Its URL.
function M.fake(source)
  return (server.start(("return { on_connect = function(conn) conn:on_request(function(conn, frame)\n%s\nend, "
    .. "rille.codec.resp { strings = true }) end, on_request = function() end }"):format(source)).url:gsub("^tcp", "redis"))
end

-- What a program prints, and its exit status.
function M.output(format, ...)
  local pipe = assert(io.popen("exec 2>&1; timeout 60 " .. format:format(...) .. "; echo \"exit $?\""))
  local text, status = pipe:read("*a"):match "^(.*)exit (%d+)\n$"
  pipe:close()
  return text, tonumber(status)
end

function M.command(...)
  local out = { ("*%d\r\n"):format(select("#", ...)) }
  for i, word in ipairs { ... } do out[i + 1] = ("$%d\r\n%s\r\n"):format(#word, word) end
  return table.concat(out)
end

return M
