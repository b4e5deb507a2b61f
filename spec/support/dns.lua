-- dns: a server of DNS for specs, inside the run that asks it: over UDP and TCP, on one port of loopback. It answers as a function
-- says, rightly or not.

local M = {}

M.types = { A = 1, NS = 2, CNAME = 5, SOA = 6, PTR = 12, MX = 15, TXT = 16, AAAA = 28, SRV = 33 }
local names = {}
for name, number in pairs(M.types) do names[number] = name end

local function u16(n) return string.char(math.floor(n / 256) % 256, n % 256) end
local function u32(n) return u16(math.floor(n / 65536)) .. u16(n % 65536) end
M.u16, M.u32 = u16, u32

-- A name as labels.
function M.name(text)
  local out = {}
  for label in text:gmatch("[^.]+") do out[#out + 1] = string.char(#label) .. label end
  return table.concat(out) .. "\0"
end

local writers = {
  A = function(r) return (r:gsub("(%d+)%.?", function(n) return string.char(tonumber(n)) end)) end,
  AAAA = function(r) -- all eight groups
    return (r:gsub("(%x+):?", function(g) return u16(tonumber(g, 16)) end))
  end,
  TXT = function(r)
    local out = {}
    for _, part in ipairs(r) do out[#out + 1] = string.char(#part) .. part end
    return table.concat(out)
  end,
  SRV = function(r) return u16(r[1]) .. u16(r[2]) .. u16(r[3]) .. M.name(r[4]) end,
  MX = function(r) return u16(r[1]) .. M.name(r[2]) end,
  SOA = function(r) return M.name("ns.test") .. M.name("admin.test") .. u32(1) .. u32(2) .. u32(3) .. u32(4) .. u32(r) end,
  raw = function(r) return r end,
}

-- { name, type, ttl, data }
local function record(r)
  local data = (type(r[4]) == "table" and r[4].raw) or (writers[r[2]] or M.name)(r[4])
  return M.name(r[1]) .. u16(M.types[r[2]]) .. u16(1) .. u32(r[3]) .. u16(#data) .. data
end

-- What is asked: id, name as it was sent, type, the bytes of the question.
local function parse(message)
  local at, labels = 13, {}
  while message:byte(at) > 0 do
    local size = message:byte(at)
    labels[#labels + 1] = message:sub(at + 1, at + size)
    at = at + size + 1
  end
  local number = message:byte(at + 1) * 256 + message:byte(at + 2)
  return message:sub(1, 2), table.concat(labels, "."), names[number] or number, message:sub(13, at + 4)
end

-- answer: { rcode =, truncated =, [i] = record, authority = { record } }, or raw bytes to stand behind the question.
local function build(id, question, answer)
  local flags = 0x8180 + (answer.truncated and 0x200 or 0) + (answer.rcode or 0)
  local authority = answer.authority or {}
  local out = { id, u16(flags), u16(1), u16(answer.count or #answer), u16(#authority), u16(0), question }
  for _, r in ipairs(answer) do out[#out + 1] = record(r) end
  for _, r in ipairs(authority) do out[#out + 1] = record(r) end
  out[#out + 1] = answer.raw
  return table.concat(out)
end

-- reply(name in lower case, type, "udp" or "tcp", how often it was asked) -> an answer as above; nil: silence; with `delay`: it comes so
-- many seconds late.
-- { address = "127.0.0.1:PORT", asked = { ["name type"] = count }, total = count, close = function }
function M.serve(reply)
  local rille = require "rille"
  local self = { asked = {}, total = 0, over_tcp = 0 }
  local function handle(message, way)
    local id, name, kind, question = parse(message)
    local key = name:lower() .. " " .. kind
    self.asked[key] = (self.asked[key] or 0) + 1
    self.total = self.total + 1
    if way == "tcp" then self.over_tcp = self.over_tcp + 1 end
    local answer = reply(name:lower(), kind, way, self.asked[key])
    if not answer then return end
    if answer.delay then rille.sleep(answer.delay) end
    return build(id, question, answer)
  end
  local function serve_tcp(conn)
    local size = conn:next(2):u16(0)
    local message = handle(conn:read_string(size), "tcp")
    if message then conn:write(u16(#message) .. message) end
  end
  local socket, listener
  repeat -- a port that is free for both
    if socket then socket:close() end
    socket = assert(rille.udp("udp://127.0.0.1:0"))
    self.address = socket:address():match("^udp://(.*)$")
    listener = rille.listen("tcp://" .. self.address, serve_tcp)
  until listener
  rille.spawn(function()
    while true do
      local datagram, peer = socket:receive()
      if not datagram then return end
      local message = datagram:str()
      rille.spawn(function()
        local answer = handle(message, "udp")
        if answer then peer:send(answer) end
      end)
    end
  end)
  function self.close()
    socket:close()
    listener:close()
  end
  return self
end

return M
