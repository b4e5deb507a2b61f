-- mux_options: what rille.mux takes, checked, and what it is without: frames with a u32 length, and a u32 id in front of the rest.

local codecs = require "rille.codec"
local conn = require "rille.conn"
local misuse = require "rille.misuse"
local timer = require "rille.timer"

local MAX_IN_FLIGHT, QUEUE_MAX, ID_MAX = 2 ^ 20, 2 ^ 20, 2 ^ 53 - 1

local M = {}

local function id_of(frame)
  return (frame:u32(0))
end

local function encode(out, id, request)
  local ok, err = out:write_u32(id)
  if not ok then return nil, err end
  return out:write(request)
end

local KINDS = { id_of = "function", encode = "function", on_unmatched = "function", timeout = "number" }
local WHOLE = { max_in_flight = { 1, MAX_IN_FLIGHT }, queue = { 0, QUEUE_MAX }, id_max = { 1, ID_MAX } }

local function check_one(key, value)
  local kind, range = KINDS[key], WHOLE[key]
  if kind then
    if type(value) ~= kind then misuse("rille.mux: %s is a %s, got %s", key, kind, type(value)) end
  elseif range then
    if type(value) ~= "number" or not (value >= range[1] and value <= range[2]) or value % 1 ~= 0 then
      misuse("rille.mux: %s is a whole number from %d to %.0f, got %s", key, range[1], range[2], tostring(value))
    end
  elseif key ~= "codec" then
    misuse("rille.mux has no option '%s': docs/mux.md lists them", tostring(key))
  end
end

local function codec_of(value)
  if value == nil then return codecs.length_field {} end
  if not codecs.is_framing(value) and codecs.is_spec(value) then
    local codec, _, problem = codecs.of(value)
    if not codec then misuse("rille.mux: codec: %s", problem) end
    return codec
  end
  if type(value) ~= "table" or type(value.decode) ~= "function" then
    misuse("rille.mux: codec is one of rille.codec, or a table with a function 'decode'")
  end
  return value
end

-- A table of settings; raises for what is wrong.
function M.of(to, options)
  if options == nil then options = {} end
  if type(options) ~= "table" then misuse("bad argument #2 to 'mux' (a table expected, got %s)", type(options)) end
  if type(to) ~= "function" and not conn.is(to) then
    misuse("bad argument #1 to 'mux' (a connection, or a function that returns one, expected, got %s)", type(to))
  end
  for key, value in pairs(options) do check_one(key, value) end
  if options.timeout then timer.seconds(options.timeout, "mux") end
  local codec = codec_of(options.codec)
  local max_in_flight, id_max = options.max_in_flight or 1024, options.id_max or 2 ^ 32 - 1
  if max_in_flight > id_max / 2 then
    misuse("rille.mux: max_in_flight is %d, more than half of the ids up to %.0f", max_in_flight, id_max)
  end
  if id_max > 2 ^ 32 - 1 and not (options.id_of and options.encode) then
    misuse("rille.mux: id_max is %.0f, for which id_of and encode have to be given: without, an id has four bytes", id_max)
  end
  return {
    dial = type(to) == "function" and to or false, codec = codec, decode = codec.decode,
    id_of = options.id_of or id_of, encode = options.encode or encode, on_unmatched = options.on_unmatched or false,
    max_in_flight = max_in_flight, queue = options.queue or 1024, timeout = options.timeout or 5, id_max = id_max,
  }
end

return M
