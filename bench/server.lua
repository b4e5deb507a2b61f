-- A server under test: started on a free port, asked for its state, ended.
local posix = require "bench.posix"
local proc = require "bench.proc"
local usage = require "bench.usage"

local server = {}
server.__index = server

local START_MAX_S, STATE_MAX_S = 10, 2

-- command: a shell command line in which {port} stands for the port on 127.0.0.1. Returns when is_there(port)
-- (posix.is_listening) says that it accepts.
function server.start(name, command, core, is_there)
  is_there = is_there or posix.is_listening
  local port = posix.free_port()
  local line = "exec " .. command:gsub("{port}", tostring(port))
  local child = proc.start({ "/bin/sh", "-c", line }, { core = core })
  local self = setmetatable({ name = name, port = port, proc = child, pid = child.pid }, server)
  local is_up = posix.wait_for(START_MAX_S, function()
    return not child:is_running() or is_there(port)
  end)
  if not is_up then error(child:complaint(name .. " does not accept connections"), 0) end
  if not child:is_running() then error(child:complaint(name .. " ended before it accepted"), 0) end
  self.has_state = usage.is_caught(self.pid, posix.SIGQUIT)
  return self
end

-- The counters of its SIGQUIT line: messages, lua_allocated, lua_bytes, connections; nil when it has no such line.
function server:state()
  if not self.has_state then return nil end
  local from = #self.proc:read_log(0)
  self.proc:signal(posix.SIGQUIT)
  local line = posix.wait_for(STATE_MAX_S, function()
    for text in self.proc:read_log(from):gmatch("([^\n]*)\n") do
      if text:find('msg="?state"?%f[%s%z]') then return text end
    end
    return nil
  end)
  if not line then
    self.has_state = false
    return nil
  end
  local function field(key) return tonumber(line:match("%f[%w_]" .. key .. "=(%d+)")) end
  return {
    messages = field("messages"),
    lua_allocated = field("lua_allocated"),
    lua_bytes = field("lua_bytes"),
    connections = field("connections"),
  }
end

function server:stop()
  self.proc:stop()
end

return server
