-- address: what is wrong with a URL to listen on, as a sentence; nil when it is fine. Asks the core, which also binds it.

local ffi = require "ffi"

local MESSAGE_MAX = 512

return function(url)
  local C = require "rille.core"
  local message = ffi.new("char[?]", MESSAGE_MAX)
  if C.rille_address_check(url, #url, message, MESSAGE_MAX) == 0 then return nil end
  return ffi.string(message)
end
