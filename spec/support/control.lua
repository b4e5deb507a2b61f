-- control: what `rille status` and its like say of a server that server.start() has started.

local json = require "rille.cli.json"
local server = require "spec.support.server"
local net = server.net

local M = {}

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- Run the command with these words: exit status, stdout, stderr. input: its stdin, a string.
function M.rille(words, input)
  local list = {}
  for i, word in ipairs(words) do list[i] = quote(word) end
  local out, err, into = server.folder() .. "/.out", server.folder() .. "/.err", server.folder() .. "/.in"
  local file = assert(io.open(into, "w"))
  file:write(input or "")
  file:close()
  local status = os.execute(("timeout -k 1 60 %s %s >%s 2>%s <%s"):format(quote(server.root .. "/bin/rille"), table.concat(list, " "),
    quote(out), quote(err), quote(into)))
  return math.floor(status / 256), server.read(out), server.read(err)
end

-- A server with a control socket in the spec's own folder: process.socket.
function M.start(script, opts)
  opts = opts or {}
  opts.conf = opts.conf or {}
  local path = ("%s/control%d.sock"):format(server.folder(), math.random(2 ^ 31))
  if opts.conf.control == nil then opts.conf.control = { path = path } end
  local process = server.start(script, opts)
  process.socket = path
  return process
end

-- The status of a process as a table.
function M.status(process)
  local code, out, err = M.rille { "status", "--json", "--control", process.socket }
  if code ~= 0 then error("rille status: " .. err, 0) end
  return assert(json.decode(out))
end

-- Wait until the status fulfils something: fn(status) -> true. The status; fails the spec after some seconds.
function M.wait_status(process, fn)
  local last
  local found = net.poll_until(function()
    last = M.status(process)
    return fn(last) and last
  end, 10)
  if not found then error("the status never came about", 0) end
  return found
end

-- What the control socket answers to these bytes, as they are.
function M.ask(process, request)
  local c = server.client.connect("unix://" .. process.socket)
  c:send(request)
  return c:receive_all(10)
end

-- A page over HTTP: the whole answer.
function M.get(url, target)
  local c = server.client.connect(url)
  c:send(("GET %s HTTP/1.1\r\nHost: spec\r\nConnection: close\r\n\r\n"):format(target))
  return c:receive_all(10)
end

return M
