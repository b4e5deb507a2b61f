-- address: what is wrong with a URL to listen on, as a sentence; nil when it is fine. Asks the core, which also binds it.

local ffi = require "ffi"

local scheme = require "rille.config.scheme"

local MESSAGE_MAX = 512

return function(url)
  local C = require "rille.core"
  local _, address = scheme.split(url, nil)
  local name = scheme.name(url)
  local message = ffi.new("char[?]", MESSAGE_MAX)
  local rest = name and url:sub(#name + 4)
  if rest and rest:find("/.") then return ('bad address "%s": a path; expected %s://HOST:PORT'):format(url, name) end
  if C.rille_address_check(address, #address, message, MESSAGE_MAX) == 0 then return nil end
  return rest and (ffi.string(message):gsub("tcp://", name .. "://", 1)) or ffi.string(message)
end
