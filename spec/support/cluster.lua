-- cluster: several Rille processes that one redis-server joins, which a spec may kill and start again on its port.

local net = require "spec.support.net"
local redis = require "spec.support.redis"
local server = require "spec.support.server"

local M = { net = net, server = server }

-- Each line is Lua; what it returns is answered, as text, on one line.
local SCRIPT = [[
  local rille = require "rille"
  return function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local code = line:str()
    local function answer(ok, ...)
      local out = { ok and "" or "raised" }
      for i = 1, select("#", ...) do
        local x = select(i, ...)
        out[#out + 1] = type(x) == "table" and "{" .. table.concat(x, ",") .. "}" or type(x) == "string" and "'" .. x .. "'" or tostring(x)
      end
      conn:write((table.concat(out, " "):gsub("^ ", ""):gsub("\n", " ")) .. "\n")
    end
    answer(pcall(assert(loadstring("local rille = require 'rille' " .. code))))
  end
]]

-- A redis-server on a port that stays its own.
function M.store()
  local self = redis.start()
  function self.kill()
    self.process:kill()
    self.process:wait_exit(10)
  end
  function self.revive()
    local again = redis.start("--port", tostring(self.port)) -- the last word holds
    self.process = again.process
  end
  return self
end

-- A Rille process; conf: keys of its configuration. node:ask(code[, seconds]): what the code returned, as text.
function M.node(conf, options)
  options = options or {}
  options.conf = conf
  options.name = options.name or "node"
  local self = server.start(options.script or SCRIPT, options)
  function self.ask(_, code, seconds)
    self.asker = self.asker or self:connect()
    self.asker:send(code:gsub("\n", " ") .. "\n")
    return self.asker:receive_line(seconds or 10 * net.slow)
  end
  -- Wait until the code returns that; fails after some seconds.
  function self.await(_, code, expected, seconds)
    local got
    net.poll_until(function()
      got = self:ask(code)
      return got == expected
    end, seconds or 10)
    if got ~= expected then error(("%s: got %s, expected %s\n%s"):format(code, tostring(got), expected, self:tail()), 0) end
  end
  return self
end

return M
