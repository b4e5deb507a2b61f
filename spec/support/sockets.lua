-- sockets: the other side for specs of rille.compat, and the same piece of Lua run twice: with LuaSocket, which blocks, and with
-- rille.compat.socket, which parks.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local M = {}

-- The first line of a connection says what the peer does, one command after the other, separated by ";":
--   sHEX     sends these bytes           wSECONDS  waits
--   h        ends its side               r         breaks off
--   c        closes                      eN        takes N bytes and sends them back
--   g        takes all until the end, and sends how many that were
--   zN       sends N bytes               p         does nothing until the connection ends
local PEER = [[
local function bytes_of(hex) return (hex:gsub("%x%x", function(two) return string.char(tonumber(two, 16)) end)) end
local all
local does = {
  s = function(conn, hex) conn:send(bytes_of(hex)) end,
  w = function(_, seconds) rille.sleep(tonumber(seconds)) end,
  h = function(conn) conn:shutdown "write" end,
  r = function(conn) conn:abort() end,
  c = function(conn) conn:close() end,
  e = function(conn, n) for _ = 1, tonumber(n) do conn:write_byte(conn:read_byte()) end conn:flush() end,
  g = function(conn)
    local total = 0
    while true do
      local piece = conn:read()
      if not piece then break end
      total = total + piece:len()
      conn:release()
    end
    conn:send(total .. "\n")
  end,
  z = function(conn, n) for _ = 1, tonumber(n) / 1000 do conn:write(("z"):rep(1000)) end conn:flush() end,
  p = function(conn) while conn:read() do conn:release() end end,
}
return function(conn)
  local line = conn:read_line()
  if not line then return conn:close() end
  for command, argument in tostring(line):gmatch("(%a)([^;]*)") do does[command](conn, argument) end
end
]]

function M.peer()
  return server.start(PEER, { name = "peer", allow_errors = true })
end

-- In front of each piece: the module, a connection to the peer that was told what to do, and a line of output that is the same wherever
-- it runs.
local HEAD = [[
local socket = require "socket"
local function told(what, ...)
  local c = assert(socket.tcp())
  assert(c:connect("127.0.0.1", PORT))
  if what then assert(c:send(what .. "\n")) end
  return c
end
local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
local function show(...)
  local parts = {}
  for i = 1, select("#", ...) do
    local v = select(i, ...)
    parts[i] = type(v) == "string" and ("%q"):format(#v > 80 and v:sub(1, 20) .. "..." .. #v or v) or tostring(v)
  end
  while parts[#parts] == "nil" and #parts > 1 do parts[#parts] = nil end
  print(table.concat(parts, " "))
end
]]

local OURS = [[require("rille.compat").install()
]]

local LUAJIT = os.getenv("RILLE_LUAJIT") or "luajit"

-- What the piece printed with LuaSocket, and with Rille's.
function M.both(code, port)
  local piece = HEAD:gsub("PORT", tostring(port)) .. code
  local theirs = inside.command({ "env", "-u", "LD_PRELOAD", LUAJIT, server.write("theirs.lua", piece) }, 30)
  local ours = inside.command({ server.root .. "/bin/rille", "exec", server.write("ours.lua", OURS .. piece) }, 30)
  return theirs, ours
end

return M
