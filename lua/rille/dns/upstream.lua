-- upstream: asks one server one question, over UDP, and over TCP where its answer does not fit into a datagram. What comes is looked at as
-- if anybody had sent it: from a port of its own the socket hears the server alone, and an answer needs the id and the question.

local ffi = require "ffi"

local C = require "rille.core"
local dial = require "rille.dial"
local udp = require "rille.udp"

local to_string = ffi.string
local INVALID, TRUNCATED = C.RILLE_ERR_INVALID, C.RILLE_DNS_TRUNCATED
local YXDOMAIN, NOTZONE = 6, 10 -- rcodes that say something about the name lie between them, besides NXDOMAIN
local WRONG_MAX = 64 -- answers that are none: somebody guesses, which TCP makes harder

local M = {}

local room = ffi.new("uint8_t[?]", C.RILLE_DNS_QUERY_MAX)

local function says_something(rcode)
  return rcode == C.RILLE_DNS_NOERROR or rcode == C.RILLE_DNS_NXDOMAIN or rcode >= YXDOMAIN and rcode <= NOTZONE
end

-- The query as a string, and its id; nil, err.
local function written(query, has_edns)
  local id = C.rille_dns_random()
  if id < 0 then return nil, "system error" end
  return to_string(room, C.rille_dns_query_write(query, id, has_edns, room)), id
end

-- Of a message: it is the answer; or nil, and whether it counts: "wrong" (anybody may have sent it), "failure", "truncated", "format" (the
-- server could not read the query).
local function judge(query, id, bytes, size)
  local rcode = C.rille_dns_answer_check(query, id, bytes, size)
  if rcode == INVALID then return nil, "wrong" end
  if rcode >= TRUNCATED then return nil, "truncated" end
  if rcode == C.RILLE_DNS_FORMERR then return nil, "format" end
  if rcode < 0 or not says_something(rcode) then return nil, "failure" end
  return true
end

-- fn(thing, ...), then the end of thing, also when the task is cancelled.
local function using(thing, fn, ...)
  local ok, a, b = pcall(fn, thing, ...)
  thing:close()
  if not ok then error(a, 0) end
  return a, b
end

local function by_tcp(conn, query, has_edns)
  local text, id = written(query, has_edns)
  if not text then return nil, id end
  conn:send(string.char(math.floor(#text / 256), #text % 256) .. text)
  local head, err = conn:next(2)
  if not head then return nil, err end
  local answer
  answer, err = conn:next(head:u16(0))
  if not answer then return nil, err end
  local is_good, why = judge(query, id, answer:ptr())
  if not is_good then return nil, why end
  return answer:str()
end

local function over_tcp(server, query, has_edns, timeout, counts)
  counts.tcp = counts.tcp + 1
  local conn, err = dial.dial(server.tcp, { timeout = timeout })
  if not conn then return nil, err end
  conn:set_timeouts { read = timeout, write = timeout, lifetime = timeout }
  return using(conn, by_tcp, query, has_edns)
end

-- The answer; or nil, err: "truncated" asks for TCP.
local function by_udp(socket, server, query, has_edns, deadline, counts)
  local text, id = written(query, has_edns)
  if not text then return nil, id end
  local ok, err = socket:connect(server.udp) -- the kernel picks a port that cannot be guessed, and hears nobody else
  if ok then ok, err = socket:send(text) end
  if not ok then return nil, err end
  for _ = 1, WRONG_MAX do
    local left = deadline - C.rille_now()
    local answer
    answer, err = socket:receive(left > 0 and left or 0)
    if not answer then return nil, err end
    local is_good, why = judge(query, id, answer:ptr())
    if is_good then return answer:str() end
    if why ~= "wrong" then return nil, why end
    counts.wrong = counts.wrong + 1
  end
  return nil, "truncated"
end

local function ask(server, query, has_edns, timeout, counts)
  local socket, err = udp.open()
  if not socket then return nil, err end
  local answer
  answer, err = using(socket, by_udp, server, query, has_edns, C.rille_now() + timeout, counts)
  if err ~= "truncated" then return answer, err end
  return over_tcp(server, query, has_edns, timeout, counts)
end

-- server: { udp =, tcp = } URLs. query: rille_dns_query *. counts: tcp and wrong are added to. The message; or nil, err.
function M.ask(server, query, timeout, counts)
  local answer, err = ask(server, query, 1, timeout, counts)
  if err == "format" then answer, err = ask(server, query, 0, timeout, counts) end -- it may be too old for EDNS (RFC 6891, 6.2.2)
  if err == "format" then err = "failure" end
  return answer, err
end

return M
