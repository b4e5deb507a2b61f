-- dns_cache: a DNS server that asks others and remembers what they say. It answers over UDP and, on the same ports, over TCP.
--
--   rille run scripts/dns_cache.lua --listen udp://127.0.0.1:5300 -- upstreams=9.9.9.9,149.112.112.112
--   dig @127.0.0.1 -p 5300 www.debian.org
--
-- Options besides: size=16m of the cache (of each loop), ttl_min, ttl_max, negative_max, stale (seconds; how long an answer may stand in
-- when no upstream answers), timeout, tries, block=NAME,NAME (which do not exist, and none below them do). See docs/gateways.md.

local rille = require "rille"
local dns = require "rille.dns"

local options = ...
local blocked = {}
for name in (options.block or ""):gmatch("[^%s,]+") do blocked[name:lower():gsub("%.$", "")] = true end
local blocks = next(blocked) ~= nil

local forwarder = dns.forwarder {
  upstreams = options.upstreams,
  size = options.size,
  ttl_min = options.ttl_min,
  ttl_max = options.ttl_max,
  negative_max = options.negative_max,
  stale = options.stale,
  timeout = options.timeout,
  tries = options.tries,
}

-- The answer to a query for a name that is blocked, or that is below one; nil to all others.
local function refusal(query)
  local name = dns.question(query)
  while name do
    if blocked[name] then return dns.error(query, "nxdomain") end
    name = name:match("%.(.+)$")
  end
end

local function on_frame(conn, frame)
  local answer = blocks and refusal(frame)
  if answer then return conn:write_frame(answer) end
  forwarder:serve_frame(conn, frame)
end

local tcp = {
  codec = rille.codec.length_field { length = 2, max = 65537 },
  concurrency = 100, -- a client need not wait for one answer before it asks the next question (RFC 7766, 6.2.1.1) ...
  ordered = false, -- ... and gets what is known first
  timeouts = { idle = 10, write = 10 },
  limits = { max_connections = 1000 },
}

return {
  on_start = function(server)
    for _, url in ipairs(server.addresses) do
      local ok, _, message = rille.listen(url:gsub("^udp", "tcp"), on_frame, tcp)
      if not ok then error(message, 0) end
    end
  end,
  on_request = function(dgram)
    local answer = blocks and refusal(dgram)
    if answer then return dgram:reply(answer) end
    forwarder:serve(dgram)
  end,
}
