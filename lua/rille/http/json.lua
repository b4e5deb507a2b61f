-- json: lua-cjson, loaded when it is first asked for: nothing else of the library needs it.

local misuse = require "rille.misuse"

local json = {}

local own -- the script's own settings of cjson are not changed, nor does it change these

-- Raises at the script's line when lua-cjson is not installed.
function json.need()
  if own then return end
  local found, cjson = pcall(require, "cjson")
  if not found then
    misuse("JSON needs lua-cjson: luarocks --lua-version=5.1 install lua-cjson, or apt-get install lua-cjson")
  end
  own = cjson.new()
  own.encode_invalid_numbers(false)
  own.decode_invalid_numbers(false)
end

function json.encode(value)
  return own.encode(value)
end

function json.decode(text)
  return own.decode(text)
end

return json
