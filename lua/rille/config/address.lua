-- address: what is wrong with a URL to listen on, as a sentence; nil when it is fine. Asks the core, which also binds it.

local ffi = require "ffi"

local scheme = require "rille.config.scheme"

local MESSAGE_MAX = 512

return function(url)
  local C = require "rille.core"
  local _, address = scheme.split(url, nil)
  local message = ffi.new("char[?]", MESSAGE_MAX)
  local rest = url:match("^http://(.*)$")
  if rest and rest:find("/.") then return ('bad address "%s": a path; expected http://HOST:PORT'):format(url) end
  if C.rille_address_check(address, #address, message, MESSAGE_MAX) == 0 then return nil end
  return rest and (ffi.string(message):gsub("tcp://", "http://", 1)) or ffi.string(message)
end
