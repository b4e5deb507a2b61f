-- test: for the specs of those who write codecs: the same bytes, cut in every way that makes a difference.

local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local misuse = require "rille.misuse"
local null = require("rille.codec.resp_value").null

local test = {}

-- Call fn(pieces) with the bytes as a list of strings: whole, in two parts cut at each place, and byte by byte.
function test.each_split(bytes, fn)
  if type(bytes) ~= "string" then misuse("bad argument #1 to 'each_split' (string expected, got %s)", type(bytes)) end
  if type(fn) ~= "function" then misuse("bad argument #2 to 'each_split' (function expected, got %s)", type(fn)) end
  fn({ bytes })
  for at = 1, #bytes - 1 do fn({ bytes:sub(1, at), bytes:sub(at + 1) }) end
  local single = {}
  for i = 1, #bytes do single[i] = bytes:sub(i, i) end
  fn(single)
end

local function plain(x)
  if Slice.is(x) then return x:str() end
  if type(x) ~= "table" or x == null then return x end
  local copy = {}
  for key, value in pairs(x) do copy[key] = plain(value) end
  return setmetatable(copy, getmetatable(x))
end

-- At the end of a buffer, in a block of its own.
local function add(buffer, piece)
  local part = assert(LinkBuffer.new(math.max(1, #piece)))
  part:write(piece)
  part:flush()
  assert(buffer:append(part))
  part:close()
end

-- The frames that are there; an error.
local function drain(codec, buffer, list)
  while true do
    local frame, err = codec.decode(buffer)
    if frame == nil then return err end
    list[#list + 1] = plain(frame)
    buffer:release()
  end
end

-- What a codec makes of pieces that come one after the other, each in a block of its own: a list of frames, slices as strings; then, when
-- it refused, the error; and how many bytes are left over.
function test.frames(codec, pieces)
  if type(codec) ~= "table" or type(codec.decode) ~= "function" then
    misuse("bad argument #1 to 'frames' (a codec expected, got %s)", type(codec))
  end
  local buffer, list = assert(LinkBuffer.new(1)), {}
  local failure
  local unfed = 0 -- what comes behind an error
  for _, piece in ipairs(pieces) do
    if failure then
      unfed = unfed + #piece
    else
      add(buffer, piece)
      failure = drain(codec, buffer, list)
    end
  end
  local left = buffer:len() + unfed
  buffer:close()
  return list, failure, left
end

return test
