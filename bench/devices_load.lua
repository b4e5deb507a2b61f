-- The devices of bench/devices.lua, and who sends them commands: rille exec bench/devices_load.lua GATEWAY COMMANDS RATE. A device answers
-- a command with its own bytes. A line "+N" on stdin connects N devices more, "-" closes them all. Any other line is a number of seconds:
-- for so long, commands go to devices at random at a constant rate, whatever the answers do. One line says when it is done: of JSON,
-- behind commands. COMMANDS may be several URLs with commas between.
local rille = require "rille"

local gateway, commands, rate = ...
rate = tonumber(rate)

local codec = rille.codec.length_field { length = 2 }
local received = 0

local function on_frame(conn, f)
  if f:byte(1) ~= 67 then return end -- "C"
  received = received + 1
  conn:write_frame(f, codec)
end

local conns = {}
local function connect_all(first, last)
  for i = first, last do
    local conn = assert(rille.dial(gateway, { timeout = 30 }))
    conn:on_request(on_frame, codec)
    conn:write_frame("H\0\0\0\0d" .. i, codec)
    conns[i] = conn
  end
end

local clients = {}
for url in commands:gmatch "[^,]+" do
  clients[#clients + 1] = rille.http.client { base = url, max_per_origin = 128, queue = 100000, queue_timeout = 30, answer_timeout = 30 }
end

local function ask(i, bytes)
  local res = assert(clients[i % #clients + 1]:post("/devices/d" .. i, { body = bytes }))
  return res.status, assert(res:body())
end

local AT_ONCE = 20

local function connect(more)
  local tasks, before = {}, #conns
  for i = 1, AT_ONCE do
    local first, last = math.floor(more * (i - 1) / AT_ONCE), math.floor(more * i / AT_ONCE)
    tasks[i] = rille.spawn(connect_all, before + first + 1, before + last)
  end
  for i = 1, AT_ONCE do tasks[i]:join() end
  for i = before + 1, #conns, 97 do
    local till = rille.now() + 20
    while ask(i, "hello") ~= 200 do
      if rille.now() > till then error("device " .. i .. " is not there") end
      rille.sleep(0.01)
    end
  end
  return ("%d devices"):format(#conns)
end

local function close_all()
  for _, conn in ipairs(conns) do conn:close() end
  conns = {}
  return "0 devices"
end

-- Those that the server of the benchmark has measured; the gateway itself knows of none.
local function server_times()
  local list = {}
  for _, client in ipairs(clients) do
    for line in assert(client:get "/times"):body():gmatch "[%d.]+\n" do list[#list + 1] = tonumber(line) end
  end
  return list
end

local function quantile(list, q)
  table.sort(list)
  return list[math.max(1, math.ceil(q * #list))] or 0
end

local function window(seconds)
  local answered, failed, wrong, times = 0, 0, 0, {}
  local before, total = received, math.floor(rate * seconds)
  local clock = require("rille.core").rille_now
  local began, pending = clock(), 0
  for k = 1, total do
    local due = began + k / rate
    while clock() < due do rille.sleep(math.max(0, due - clock())) end
    pending = pending + 1
    rille.spawn(function()
      local bytes = "command " .. k
      local ok, status, body = pcall(ask, math.random(#conns), bytes)
      if not ok or status ~= 200 then failed = failed + 1
      elseif body ~= bytes then wrong = wrong + 1
      else answered = answered + 1 end
      times[#times + 1] = (clock() - due) * 1e6
      pending = pending - 1
    end)
  end
  while pending > 0 do rille.sleep(0.005) end
  local inside = server_times()
  return ('{"sent":%d,"answered":%d,"failed":%d,"wrong":%d,"received":%d,"p50_us":%.1f,"p99_us":%.1f,'
    .. '"server_p50_us":%.1f,"server_p99_us":%.1f}'):format(total, answered, failed, wrong, received - before,
    quantile(times, 0.5), quantile(times, 0.99), quantile(inside, 0.5), quantile(inside, 0.99))
end

local input = rille.adopt(0)
while true do
  local line = input:read_line()
  if not line then break end
  line = line:str()
  local more = line:match "^%+(%d+)$"
  io.write(line == "-" and close_all() or more and connect(tonumber(more)) or window(tonumber(line)), "\n")
  io.flush()
end
close_all()
