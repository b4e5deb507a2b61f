-- reload: a server whose script a spec changes while it serves. Versions are put in place by put() and loaded by now(); watching is off
-- unless the options say otherwise.

local control = require "spec.support.control"
local json = require "rille.cli.json"
local server = require "spec.support.server"
local net = server.net

local M = { server = server, net = net }

-- A server with this version; opts as for server.start, and reload: keys of its configuration.
function M.start(source, opts)
  opts = opts or {}
  opts.conf = opts.conf or {}
  local settings = { watch = false }
  for key, value in pairs(opts.reload or {}) do settings[key] = value end
  opts.conf.reload = settings
  local s = control.start(source, opts)
  net.poll_until(function() return (pcall(M.eval, s, 0, "print(1)")) end) -- it listens before it can be reloaded
  return s
end

-- Another version of the script, written in place; where nothing watches, nothing happens yet.
function M.put(source)
  return server.script_path(source, nil, true)
end

-- Code, on loop 0 where the generations are deployed, or on another: what it printed.
function M.eval(s, loop, code, seconds)
  local c = server.client.connect("unix://" .. s.socket)
  c:send(("eval loop=%d timeout=%d size=%d\n%s"):format(loop, (seconds or 20) * net.slow * 1000, #code, code))
  local answer = json.decode((c:receive_all(seconds or 20)))
  c:close()
  if not answer.ok then error(("the server says: %s"):format(answer.text or answer.error), 0) end
  return answer.text
end

-- Load the script again, or this version of it: the report of deploy.lua. options: canary, soak, wait.
function M.now(s, source, options)
  if source then M.put(source) end
  local parts = {}
  for key, value in pairs(options or {}) do parts[#parts + 1] = ("%s = %s"):format(key, tostring(value)) end
  local text = M.eval(s, 0, ("print(require('rille.reload').answer { %s })"):format(table.concat(parts, ", ")))
  return json.decode(text).reports[1]
end

-- The same; it has to go well.
function M.to(s, source, options)
  local report = M.now(s, source, options)
  if not report.ok then error(("not reloaded: %s\n%s"):format(report.message, s:tail()), 0) end
  return report
end

-- The command: exit status, stdout, stderr.
function M.command(s, ...)
  return control.rille { "reload", "--control", s.socket, ... }
end

-- Answers each line with `version` and what it was.
function M.lines(version, more)
  return ([[
local version = %q
local M = {}
%s
function M.on_request(conn)
  local line = conn:read_line()
  if line then conn:write(version .. " " .. line:str() .. "\n") end
end
return M
]]):format(version, more or "")
end

-- The same, where what a line names is done.
function M.commands(version, text)
  return ([[
local version = %q
local M, commands = {}, {}
%s
M.on_request = M.on_request or function(conn)
  local line = conn:read_line()
  if not line then return end
  local name, rest = line:str():match("^(%%S+) ?(.*)$")
  local answer = commands[name] and commands[name](conn, rest)
  if answer ~= false then conn:write(version .. " " .. tostring(answer) .. "\n") end
end
return M
]]):format(version, text or "")
end

-- For commands(): a handler that keeps its connection.
M.LOOPS = [[
  function M.on_request(conn)
    while true do
      local line = conn:read_line()
      if not line then return end
      conn:write(version .. " " .. line:str() .. (rille.retiring() and " retiring" or "") .. "\n")
      if line:str() == "leave" then return end
    end
  end
]]

-- A line there, and one back.
function M.ask(client, line)
  client:send(line .. "\n")
  return client:receive_line()
end

-- Let the generation of that number, which soaks, fail: a connection sends "fail", for which its script raises.
function M.fail(s, number)
  M.eval(s, 0, ("require('rille.core').rille_generation_watch(require('rille.reload').servers()[1].generations[%d].g, 1, 1, 0)"):format(
    number))
  local failing = s:connect()
  failing:send("fail\n")
  failing:receive_all()
  s:wait_log(("@%d: rolled back"):format(number))
end

-- Wait until a new connection is answered so.
function M.wait_answer(s, line, want, seconds)
  local got
  local found = net.poll_until(function()
    local c = s:connect()
    got = M.ask(c, line)
    c:close()
    return got == want
  end, seconds)
  if not found then error(("it answers %q instead of %q:\n%s"):format(tostring(got), want, s:tail()), 0) end
end

-- Wait until only one generation is left.
function M.wait_retired(s, seconds)
  local found = net.poll_until(function()
    return tonumber(M.eval(s, 0, [[
      local n = 0
      for _ in pairs(require("rille.reload").servers()[1].generations) do n = n + 1 end
      print(n)
    ]])) == 1
  end, seconds or 10)
  if not found then error("the old generation does not end:\n" .. s:tail(), 0) end
end

return M
