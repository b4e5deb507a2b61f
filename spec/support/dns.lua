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

-- A query. options: id (7), flags (0x100: recursion is desired), class, edns (its UDP size), ok (DO), version, raw (stands behind).
function M.query(name, kind, options)
  options = options or {}
  local edns = options.edns
  return u16(options.id or 7) .. u16(options.flags or 0x100) .. u16(1) .. u16(0) .. u16(0) .. u16(edns and 1 or 0)
    .. M.name(name) .. u16(M.types[kind] or kind) .. u16(options.class or 1)
    .. (edns and "\0" .. u16(41) .. u16(edns) .. u16(options.version or 0) .. u16(options.ok and 0x8000 or 0) .. u16(0) or "")
    .. (options.raw or "")
end

-- What a message is: id, flags, rcode, truncated, counts of questions, answers, authorities, additionals; ttls, a list, those of
-- answers and authorities; question, its bytes; size.
function M.read(message)
  local function number(at) return message:byte(at) * 256 + message:byte(at + 1) end
  local out = { id = number(1), flags = number(3), rcode = number(3) % 16, truncated = math.floor(number(3) / 512) % 2 == 1,
    questions = number(5), answers = number(7), authorities = number(9), additionals = number(11), ttls = {}, size = #message }
  local function behind(at)
    while true do
      local n = message:byte(at)
      if n >= 192 then return at + 2 elseif n == 0 then return at + 1 end
      at = at + n + 1
    end
  end
  local at = 13
  if out.questions == 1 then
    at = behind(13) + 4
    out.question = message:sub(13, at - 1)
  end
  for i = 1, out.answers + out.authorities do
    at = behind(at)
    out.ttls[i] = number(at + 4) * 65536 + number(at + 6)
    at = at + 10 + number(at + 8)
  end
  return out
end

-- reply(name in lower case, type, "udp" or "tcp", how often it was asked, whether with EDNS) -> an answer as above; nil: silence; with
-- `delay`: it comes so many seconds late; with `before`, that is called first as before(send, id, question, peer), where send(bytes) sends
-- what it likes; `silent`: that was all.
-- { address = "127.0.0.1:PORT", asked = { ["name type"] = count }, total = count, close = function }
function M.serve(reply)
  local rille = require "rille"
  local self = { asked = {}, total = 0, over_tcp = 0 }
  local function handle(message, way, send, peer)
    local id, name, kind, question = parse(message)
    local key = name:lower() .. " " .. kind
    self.asked[key] = (self.asked[key] or 0) + 1
    self.total = self.total + 1
    if way == "tcp" then self.over_tcp = self.over_tcp + 1 end
    local answer = reply(name:lower(), kind, way, self.asked[key], message:byte(12) > 0)
    if not answer then return end
    if answer.delay then rille.sleep(answer.delay) end
    if answer.before then answer.before(send, id, question, peer) end
    if answer.silent then return end
    return build(id, question, answer)
  end
  local function serve_tcp(conn)
    local size = conn:next(2):u16(0)
    local message = handle(conn:read_string(size), "tcp", function(bytes) conn:write(bytes) end)
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
        local answer = handle(message, "udp", function(bytes) peer:send(bytes) end, peer)
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
