-- rpc_server: procedures that are called over TCP, many calls at a time on each connection. All numbers are big endian.
--
--   a call    u32 length | u32 id | NAME ARGUMENT         "echo hello"
--   its answer u32 length | u32 id | u8 0 | result        or u8 1 and what went wrong
--
-- Calls are answered as soon as they are done, in any order; the id says which one an answer belongs to. One with id 0 has no answer.
--
--   rille run scripts/rpc_server.lua --listen tcp://127.0.0.1:7000 -- concurrency=1000 max=64k
--
-- scripts/rpc_client.lua calls it.

local LinkBuffer = require "rille.linkbuffer"
local rille = require "rille"

local options = ...
local codec = rille.codec.length_field { max = options.max or "64k" }
local concurrency = tonumber(options.concurrency) or 1000 -- calls of one connection that run; further ones wait unread

local procedures = {}

function procedures.echo(argument) return argument end

function procedures.upper(argument) return argument:str():upper() end

function procedures.sleep(argument)
  local seconds = argument:tonumber()
  if not seconds or not (seconds >= 0) then error("sleep takes seconds", 0) end
  rille.sleep(seconds)
  return argument
end

function procedures.sum(argument)
  local total = 0
  for number in argument:str():gmatch("%S+") do total = total + (tonumber(number) or error(number .. " is no number", 0)) end
  return total
end

local buffers = {} -- that no answer is in; write_frame may park, and others answer meanwhile

-- The frame is one write, so answers do not mix; bytes that came as a slice leave as one.
local function answer(conn, id, status, result)
  local out = table.remove(buffers) or LinkBuffer.new()
  out:write(id)
  out:write_u8(status)
  out:write(result)
  out:flush()
  conn:write_frame(out, codec)
  out:skip(out:len())
  out:release()
  buffers[#buffers + 1] = out
end

local function handle(conn, frame)
  if frame:len() < 4 then return conn:abort() end -- no id: it speaks something else
  local space = frame:find(" ", 5)
  local name = frame:sub(5, space and space - 1 or -1):str()
  local procedure = procedures[name]
  local ok, result = false, "no procedure " .. name
  if procedure then ok, result = pcall(procedure, space and frame:sub(space + 1) or frame:sub(5, 4)) end
  if frame:u32(0) == 0 then return end
  if type(result) ~= "cdata" then result = tostring(result) end -- a number, a string, an error; else the slice
  answer(conn, frame:sub(1, 4), ok and 0 or 1, result)
end

return {
  on_connect = function(conn) conn:on_request(handle, codec, { concurrency = concurrency, ordered = false }) end,
  on_request = handle,
}
