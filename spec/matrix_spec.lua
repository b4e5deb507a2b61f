-- Every way to accept, with every kind of address, handlers in the loop and on workers, one loop and several: ten clients at once get
-- back what they send, each connection begins and ends once, and nothing of them is left.

local server = require "spec.support.server"
local udp = require "spec.support.udp"
local net = server.net

local CLIENTS = 10
local STREAM = 2 ^ 20
local DATAGRAMS, DATAGRAM = 200, 1024

-- The hooks that count what begins and ends, in front of each script's on_request.
local COUNTED = [[
local echo
local hooks = {
  on_connect = function(conn) say("connect %.0f", conn.id) end,
  on_request = function(...) return echo(...) end,
  on_close = function(conn) say("close %.0f", conn.id) end,
}
]]

local ON_STREAM = COUNTED .. [[
function echo(conn) conn:write(conn:next(conn:len())) end
return hooks
]]

-- A session ends when its client says so, with "bye".
local ON_SESSION = COUNTED .. [[
function echo(conn, dgram)
  conn:send(dgram)
  if dgram == "bye" then conn:close() end
end
return hooks
]]

local ON_SESSION_POOLED = COUNTED .. [[
local pool = rille.pool()
function echo(conn, dgram)
  local back = assert(pool:call("work", "echo", dgram))
  conn:send(back)
  if back == "bye" then conn:close() end
  back:release()
end
return hooks
]]

local ON_DATAGRAM = [[
return function(dgram) dgram:reply(dgram) end
]]

local ON_DATAGRAM_POOLED = [[
local pool = rille.pool()
return function(dgram)
  local back = assert(pool:call("work", "echo", dgram))
  dgram:reply(back)
  back:release()
end
]]

local function noises(size, seed)
  local list = {}
  for i = 1, CLIENTS do list[i] = net.noise(size, seed + i) end
  return list
end

-- ---- each kind of address --------------------------------------------------------------------------------------

-- configure(opts, case): what the server is started with besides; the script. run(s): ten clients, from the first to the last byte.
local streams = {}

function streams.configure(opts, case)
  if case.family == "unix" then opts.listen = "unix://" .. server.folder() .. "/sock" end
  if case.pooled then opts.server.offload = "pool" end
  return ON_STREAM
end

function streams.run(s)
  local clients, sent = {}, noises(STREAM, s.pid)
  for i = 1, CLIENTS do clients[i] = s:connect() end
  local back = server.client.exchange_all(clients, sent)
  for i = 1, CLIENTS do assert.is_true(back[i] == sent[i], ("client %d got something else, of noise %d"):format(i, s.pid + i)) end
  for i = 1, CLIENTS do clients[i]:close() end
end

local datagrams = {}

function datagrams.configure(opts, case)
  opts.listen = "udp://127.0.0.1:0"
  server.write("work.lua", "return { echo = function(dgram) return dgram end }")
  if case.accept == "balanced" then opts.server.balance = "source_hash" end
  if case.accept == "shared" and case.loops > 1 then -- which cannot keep a peer on one loop
    return case.pooled and ON_DATAGRAM_POOLED or ON_DATAGRAM
  end
  opts.server.session = {}
  return case.pooled and ON_SESSION_POOLED or ON_SESSION
end

function datagrams.run(s)
  local clients, sent = {}, {}
  for i, bytes in ipairs(noises(DATAGRAMS * DATAGRAM, s.pid)) do
    clients[i], sent[i] = udp.connect(s.url, { bind = ("udp://127.0.0.%d:0"):format(i) }), {}
    for k = 1, DATAGRAMS do sent[i][k] = bytes:sub((k - 1) * DATAGRAM + 1, k * DATAGRAM) end
    sent[i][DATAGRAMS + 1] = "bye"
  end
  udp.ask_all(clients, sent)
  for i = 1, CLIENTS do clients[i]:close() end
end

local FAMILIES = { tcp = streams, unix = streams, udp = datagrams }

-- ---- what is left ----------------------------------------------------------------------------------------------

-- How often each connection began and ended: { [id] = { connect = 1, close = 1 } }, and how many there were.
local function lives(s)
  local by_id, count = {}, 0
  for _, text in ipairs(s:said()) do
    local what, id = text:match "^(%a+) (%d+)$"
    if not by_id[id] then
      by_id[id] = { connect = 0, close = 0 }
      count = count + 1
    end
    by_id[id][what] = by_id[id][what] + 1
  end
  return by_id, count
end

local function check_lives(s, expected, may_be_more)
  local by_id, count = lives(s)
  for id, life in pairs(by_id) do assert.same({ connect = 1, close = 1 }, life, "connection " .. id) end
  assert.is_true(count == expected or may_be_more and count > expected, ("%d connections instead of %d"):format(count, expected))
end

local function connections(s, loops)
  local count = 0
  for _, state in ipairs(s:states(loops)) do count = count + state.connections end
  return count
end

local function resources(s)
  return ("%d descriptors, %d threads"):format(s:descriptors(), s:threads())
end

local function check_case(case)
  local family = FAMILIES[case.family]
  local opts = { conf = { loops = case.loops, workers = { max = 3, idle_timeout = 0.05 } }, server = { accept = case.accept } }
  local script = family.configure(opts, case)
  local s = server.start(script, opts)
  s:states(case.loops) -- a loop that answers has all it needs
  local before = resources(s)
  family.run(s)
  assert.is_true(net.poll_until(function() return connections(s, case.loops) == 0 end), "connections are left")
  local now
  net.poll_until(function()
    now = resources(s)
    return now == before
  end)
  assert.equal(before, now)
  if case.pooled then
    s:states(case.loops)
    s:wait_log "pool default: 0 of 3 workers, 0 busy, 0 lost; jobs: 0 queued, [1-9]%d* done, 0 failed, 0 abandoned"
  end
  s:stop() -- which fails when a block, slice or buffer is left
  -- a "bye" whose answer is lost comes again, to a session of its own
  check_lives(s, script:find("on_connect", 1, true) and CLIENTS or 0, opts.server.session)
end

describe("ten clients at once get back what they send", function()
  after_each(function()
    udp.close_all()
    server.cleanup()
  end)

  for _, accept in ipairs { "reuseport", "shared", "balanced" } do
    for _, family in ipairs { "tcp", "udp", "unix" } do
      for _, pooled in ipairs { false, true } do
        for _, loops in ipairs { 1, 3 } do
          if not (family == "unix" and accept == "reuseport") then -- the kernel has no such thing
            it(("over %s, %s, %s, %d loops"):format(family, accept, pooled and "on workers" or "in the loop", loops), function()
              check_case { accept = accept, family = family, pooled = pooled, loops = loops }
            end)
          end
        end
      end
    end
  end
end)
