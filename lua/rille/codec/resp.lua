-- resp: values of the Redis protocol, RESP2 and RESP3, as Lua values.

local resp_value = require "rille.codec.resp_value"

local resp = {
  name = "resp",
  options = {
    { name = "max", type = "bytes", default = 65536, min = 16, max = 2 ^ 30 },
    { name = "depth", type = "count", default = 32, min = 1, max = 128 },
    { name = "strings", type = "boolean", default = false },
    { name = "attributes", type = "boolean", default = false },
    { name = "version", type = "enum", default = 2, values = { 2, 3 } },
  },
}

function resp.core(values)
  return "RESP", { depth = values.depth }
end

-- How its frames are read and written, beside finding them.
function resp.values(values)
  local function parse(slice) return resp_value.parse(slice, values) end
  local function print_value(x) return resp_value.print(x, values.version) end
  return parse, print_value
end

return resp
