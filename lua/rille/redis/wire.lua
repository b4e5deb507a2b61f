-- wire: commands as bytes, replies as values, and what is said first on a connection.

local C = require "rille.core"
local Slice = require "rille.slice"
local codec = require "rille.codec"
local dial = require "rille.dial"
local misuse = require "rille.misuse"
local state = require "rille.state"

local resp = codec.resp
local floor, tostring, type, concat = math.floor, tostring, type, table.concat

local DEPTH = 32
-- Whoever only listens would not notice that the server has vanished: seconds of silence, between probes, and how many.
local ALIVE_IDLE, ALIVE_PAUSE, ALIVE_PROBES = 30, 10, 3
local SOON = 0.001 -- seconds

local wire = {}

-- ---- commands --------------------------------------------------------------------------------------------------

local function word_of(x, name)
  local kind = type(x)
  if kind == "string" then return x end
  if kind == "number" then return x == floor(x) and x > -1e15 and x < 1e15 and ("%d"):format(x) or ("%.17g"):format(x) end
  if Slice.is(x) then return x:str() end
  if kind == "cdata" then return (tostring(x):gsub("[UL]+$", "")) end
  misuse("redis: a word of %s is a %s; strings, numbers and slices are expected", tostring(name), kind)
end

-- The words of a command as strings.
function wire.words(name, ...)
  local words = { name, ... }
  for i = 1, select("#", ...) + 1 do words[i] = word_of(words[i], name) end
  return words
end

function wire.encode(words)
  local out = { "*" .. #words .. "\r\n" }
  for i = 1, #words do out[i + 1] = "$" .. #words[i] .. "\r\n" .. words[i] .. "\r\n" end
  return concat(out)
end

-- ---- replies ---------------------------------------------------------------------------------------------------

function wire.codec(options)
  return resp { max = options.max_reply, depth = DEPTH, strings = not options.slices, version = 3 }
end

-- The error that a reply is, if it is one.
function wire.error_of(value)
  return type(value) == "table" and resp.type(value) == "error" and value.err or nil
end

-- What a call returns for a reply: its value, nil for null; nil, "error", message.
function wire.result(value)
  if value == resp.null then return nil end
  local message = wire.error_of(value)
  if message then return nil, "error", message end
  return value
end

-- A slice in a reply outlives the handler that read it; who gets it releases it.
function wire.retain(value)
  if Slice.is(value) then
    value:retain()
  elseif type(value) == "table" then
    for _, one in pairs(value) do wire.retain(one) end
  end
end

-- For what the library itself has asked for.
function wire.release(value)
  if Slice.is(value) then
    value:release()
  elseif type(value) == "table" then
    for _, one in pairs(value) do wire.release(one) end
  end
end

-- ---- opening ---------------------------------------------------------------------------------------------------

-- What is said before there is a connection to use, until when: { conn =, replies =, ends_at = }.

-- The next reply; parks. nil, err.
local function read(self)
  local conn = self.conn
  while true do
    local value, err = self.replies.decode(conn)
    if value ~= nil or err then return value, err end
    local left = self.ends_at - state.clock.now
    if left <= 0 then return nil, "timeout" end
    conn:set_timeouts { read = left < math.huge and math.max(left, SOON) or 0 }
    local more
    more, err = conn:peek(conn:len() + 1)
    if not more then return nil, err end
  end
end

-- One command at a time: true; nil, err, message.
local function say(self, ...)
  local ok, err = self.conn:write(wire.encode(wire.words(...)))
  if not ok then return nil, err end
  local value
  value, err = read(self)
  if value == nil then return nil, err end
  local message = wire.error_of(value)
  if message then return nil, "error", message end
  return true
end

-- HELLO says all at once; servers that do not know it are told in the words of RESP2.
local function greet(self, address, options)
  local ok, hello, err, message
  if options.protocol == 3 then
    local words = { "HELLO", "3" }
    if address.password then words[3], words[4], words[5] = "AUTH", address.user or "default", address.password end
    hello, err, message = say(self, unpack(words))
    if not hello and not (message and (message:find "^ERR unknown command" or message:find "^NOPROTO")) then return nil, err, message end
  end
  if not hello and address.password then
    if address.user then
      ok, err, message = say(self, "AUTH", address.user, address.password)
    else
      ok, err, message = say(self, "AUTH", address.password)
    end
    if not ok then return nil, err, message end
  end
  if options.name then
    ok, err, message = say(self, "CLIENT", "SETNAME", options.name)
    if not ok then return nil, err, message end
  end
  if address.db > 0 then return say(self, "SELECT", address.db) end
  return true
end

-- A connection that is ready for commands; parks. nil, err, message.
function wire.open(address, options)
  local ends_at = state.clock.now + (options.connect_timeout or math.huge)
  local conn, err, message = dial.dial(address.dial, {
    timeout = options.connect_timeout, max_input = options.max_reply, tls = address.is_tls and options.tls or nil,
  })
  if not conn then return nil, err, message end
  C.rille_conn_own(conn._p, 1)
  conn:set_timeouts { write = options.timeout or 0 }
  conn:set_keepalive(ALIVE_IDLE, ALIVE_PAUSE, ALIVE_PROBES) -- not of a Unix socket
  local replies = resp { max = math.min(options.max_reply, 65536), strings = true }
  local ok
  ok, err, message = greet({ conn = conn, replies = replies, ends_at = ends_at }, address, options)
  if not ok then
    conn:abort()
    return nil, err, ("%s: %s"):format(address.text, message or err)
  end
  conn:release()
  conn:set_timeouts { read = 0 }
  return conn
end

return wire
