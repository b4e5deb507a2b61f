-- framing: a codec whose frames are found in C. An object with decode(conn or buffer) and encode(conn or buffer, x), as codecs written in
-- Lua have them; see docs/codec.md.

local ffi = require "ffi"

local C = require "rille.core"
local LinkBuffer = require "rille.linkbuffer"
local Slice = require "rille.slice"
local errors = require "rille.errors"
local misuse = require "rille.misuse"

local type = type
local istype = ffi.istype
local new_slice = Slice.new_from
local slice_t, buffer_t = Slice.type, LinkBuffer.type
local text = errors.text

local scratch = ffi.new("rille_slice[1]")
local err_box = ffi.new("int[1]")

local Framing = {}
local metatable = {
  __index = Framing,
  __tostring = function(self) return "codec " .. self.name end,
}

local M = {}

-- ---- decoding --------------------------------------------------------------------------------------------------

local decoders = setmetatable({}, { __mode = "k" }) -- by codec; of inputs that are no connection's, by what was given

local function decoder_for(self, key)
  local mine = decoders[self]
  if not mine then
    mine = setmetatable({}, { __mode = "k" })
    decoders[self] = mine
  end
  local decoder = mine[key]
  if not decoder then
    decoder = C.rille_decoder_new(self._p)
    if decoder == nil then return nil end
    decoder = ffi.gc(decoder, C.rille_decoder_free)
    mine[key] = decoder
  end
  return decoder
end

-- The input of a LinkBuffer, or of a connection on a worker.
local function take_elsewhere(self, target)
  local buffer = target
  if type(target) == "table" then
    if not target._s then return nil, target._error or "closed" end
    buffer = C.rille_stream_input(target._s)
  elseif not istype(buffer_t, target) then
    misuse("decode takes a connection or a LinkBuffer, not %s", type(target))
  end
  local decoder = decoder_for(self, target)
  if not decoder then return nil, "no memory" end
  local code = C.rille_decoder_take(decoder, buffer, scratch)
  if code == 1 then return new_slice(scratch) end
  if code < 0 then return nil, text[-code] end
end

-- The next frame as a slice; nil: it is not all there; nil, err.
local function take(self, target)
  local p = type(target) == "table" and target._p
  if not p then return take_elsewhere(self, target) end
  local code = C.rille_conn_frame(p, self._p, scratch)
  if code == 1 then return new_slice(scratch) end
  if code < 0 then return nil, text[-code] end
end

-- ---- encoding --------------------------------------------------------------------------------------------------

-- A frame with x at the end of a LinkBuffer.
function Framing:put(out, x)
  local print_value = self.print
  if print_value then
    local err
    x, err = print_value(x)
    if not x then return nil, err end
  end
  local code
  if type(x) == "string" then
    code = C.rille_codec_write(self._p, out, x, #x)
  elseif istype(slice_t, x) then
    if x.cell_.epoch ~= x.epoch_ then misuse("slice expired") end
    code = C.rille_codec_write_slice(self._p, out, x)
  elseif istype(buffer_t, x) then
    code = C.rille_codec_write_buffer(self._p, out, x)
  else
    misuse("%s: a string, slice or LinkBuffer expected, got %s", self.name, type(x))
  end
  if code ~= 0 then return nil, text[-code] end
  return true
end

local function encode(self, target, x)
  if istype(buffer_t, target) then return self:put(target, x) end
  return target:write_frame(x, self)
end

-- ---- making ----------------------------------------------------------------------------------------------------

-- A codec from what rille_codec_new takes. parse(slice) makes a frame's value of its bytes, print(value) the bytes; nil: they stay bytes.
function M.new(name, options, parse, print_value)
  local p = C.rille_codec_new(ffi.new("rille_codec_options", options), err_box)
  if p == nil then misuse("rille.codec.%s: %s", name, text[-err_box[0]]) end
  local self = setmetatable({ name = name, parse = parse, print = print_value }, metatable)
  self._p = ffi.gc(p, C.rille_codec_release)
  function self.decode(target)
    local frame, err = take(self, target)
    if not parse or not frame then return frame, err end
    return parse(frame)
  end
  function self.encode(target, x) return encode(self, target, x) end
  return self
end

function M.is(x)
  return type(x) == "table" and getmetatable(x) == metatable
end

-- Bytes that a frame may take; 0: its limit was not chosen.
function Framing:largest()
  return C.rille_codec_largest(self._p)
end

return M
