-- json: lua-cjson, loaded when it is first asked for: nothing else of the library needs it.

local misuse = require "rille.misuse"

local json = {}

local function load()
  local found, cjson = pcall(require, "cjson")
  if not found then
    misuse("JSON needs lua-cjson: luarocks --lua-version=5.1 install lua-cjson, or apt-get install lua-cjson")
  end
  local own = cjson.new() -- the script's own settings of cjson are not changed, nor does it change these
  own.encode_invalid_numbers(false)
  own.decode_invalid_numbers(false)
  return own
end

local own

function json.encode(value)
  own = own or load()
  return own.encode(value)
end

function json.decode(text)
  own = own or load()
  return own.decode(text)
end

return json
