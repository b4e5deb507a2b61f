-- cidr: a list of networks, asked whether an address is in one of them. For scripts, and for allow and deny of servers.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local misuse = require "rille.misuse"

local Cidr = {}
Cidr.__index = Cidr

local M = {}

local MESSAGE_MAX = 256

local function add(p, text)
  local message = ffi.new("char[?]", MESSAGE_MAX)
  if C.rille_cidr_add(p, text, #text, message, MESSAGE_MAX) == 0 then return nil end
  return ffi.string(message)
end

local function new()
  local p = C.rille_cidr_new()
  if p == nil then error("no memory for a list of networks", 0) end
  return ffi.gc(p, C.rille_cidr_release)
end

-- What is wrong with the text of a network, as a sentence; nil when it is one.
function M.problem(text)
  return add(new(), text)
end

-- A rille_cidr * over a list of networks, which is released when the result is collected. nil, message.
function M.compile(list)
  local p = new()
  for i, text in ipairs(list) do
    if type(text) ~= "string" then return nil, ("network %d is a %s, not a string"):format(i, type(text)) end
    local message = add(p, text)
    if message then return nil, message end
  end
  C.rille_cidr_seal(p)
  return p
end

-- Whether an address is in one of the networks: of text, with or without a port as conn:peer() gives it, or a connection. A connection
-- over a unix socket is in none. nil, err for a text that is no address, and for a connection that is over.
function Cidr:contains(address)
  if type(address) == "table" and address.peer then
    local peer, err = address:peer()
    if not peer then return nil, err end
    address = peer
  end
  if type(address) ~= "string" then
    misuse("bad argument #1 to 'contains' (an address or a connection expected, got %s)", type(address))
  end
  if address:find("^unix:") then return false end
  local found = C.rille_cidr_contains(self._p, address, #address)
  if found < 0 then return nil, errors.text[-found] end
  return found == 1
end

-- rille.cidr{ "10.0.0.0/8", "2001:db8::/32" }
function M.of(list)
  if type(list) == "string" then list = { list } end
  if type(list) ~= "table" then misuse("bad argument #1 to 'cidr' (a list of networks expected, got %s)", type(list)) end
  local p, message = M.compile(list)
  if not p then misuse("bad argument #1 to 'cidr': %s", message) end
  return setmetatable({ _p = p }, Cidr)
end

return M
