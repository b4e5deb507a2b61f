-- chain: frames in frames: the first codec finds the outermost ones, the last one those that on_request gets.

local C = require "rille.core"
local errors = require "rille.errors"
local framing = require "rille.codec.framing"

local COUNT_MAX = 4 -- RILLE_CODEC_MEMBERS_MAX

local chain = {}

-- What keeps these codecs from being a chain, as the number of one (nil: all of them) and a sentence; nil.
function chain.problem(members)
  if #members < 2 or #members > COUNT_MAX then return nil, ("got %d codecs; expected 2 to %d"):format(#members, COUNT_MAX) end
  for i, member in ipairs(members) do
    if not framing.is(member) then return i, "a codec of rille.codec expected; others decode what on_request gets" end
    if member.members then return i, "is a chain; name its codecs" end
    if member.name == "resp" and i < #members then return i, "resp makes values; it has to be the last one" end
  end
end

function chain.new(members)
  local last = members[#members]
  local self = framing.new("chain", { kind = C.RILLE_CODEC_CHAIN }, last.parse, last.print)
  self.members = members
  for _, member in ipairs(members) do
    local code = C.rille_codec_add_member(self._p, member._p)
    if code ~= 0 then error(errors.text[-code], 0) end
  end
  return self
end

return chain
