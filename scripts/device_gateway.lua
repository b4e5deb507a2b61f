-- device_gateway: long-lived devices speak binary frames over TCP. What they ask goes to an HTTP backend; POST /devices/KEY, at another
-- address, sends a command to one of them, whichever loop it is on, and is answered with what the device answers. docs/gateways.md.
--
--   return { loops = 2, servers = { { listen = "tcp://0.0.0.0:7000", script = "scripts/device_gateway.lua",
--     codec = { "length_field", length = 2, max = "4k" }, concurrency = 16, ordered = false, timeouts = { idle = 30, write = 10 },
--     options = { backend = "http://127.0.0.1:8080", commands = "http://127.0.0.1:8081", deadline = 2 } } } }

local options = ...
local rille = require "rille"
local DEADLINE, BODY_MAX, COMMANDS_MAX, DEVICE_MAX = tonumber(options.deadline or 2), 4000, 4000, 32 -- at a time: of a loop, of a device
local backend
local silent, serial = {}, 0 -- by conn.id: it was asked whether it is there
local waiting, count, counts = {}, 0, {} -- commands under way: by id, their number, and by key

local function frame(kind, id, bytes)
  local size, shift = #bytes + 5, bit.rshift
  return string.char(shift(size, 8), size % 256, kind:byte(), shift(id, 24), shift(id, 16) % 256, shift(id, 8) % 256, id % 256) .. bytes
end

-- The answer to a command is there, on the loop that waits for it. Too late, or from another device: nobody wants it.
package.loaded["device_gateway.answers"] = { arrive = function(id, key, bytes)
  if waiting[id] and waiting[id].key == key then waiting[id].channel:send(bytes, 0) end
end }

-- By the kind of a frame; what is true ends the connection.
local handlers = {
  P = function() end,
  H = function(conn, _, bytes, before)
    local key = bytes:str()
    return before or #key > 64 or not key:find "^[%w_.-]+$" or not rille.bind("device:" .. key, conn)
  end,
  R = function(conn, id, bytes, key)
    local res, err = backend:post("/devices/" .. key, { body = bytes })
    local body = res and res:body()
    local is_good = body and res.status == 200
    conn:write(frame(is_good and "R" or "E", id, is_good and body or err or body and "status " .. res.status or "no whole answer"))
  end,
  C = function(_, id, bytes, key) rille.post(id % 256 + 1, "device_gateway.answers", "arrive", id, key, bytes:str()) end,
}

local function command(key, bytes)
  local device, under_way = rille.lookup("device:" .. key), counts[key] or 0
  if not device then return 404, "no such device" end
  if count >= COMMANDS_MAX or under_way >= DEVICE_MAX then return 503, "too many commands" end
  serial = serial % 2 ^ 22 + 1
  local id, channel = serial * 256 + rille.loop.id - 1, rille.channel(1)
  waiting[id], count, counts[key] = { key = key, channel = channel }, count + 1, under_way + 1
  local answer = device:send(frame("C", id, bytes)) and channel:receive(DEADLINE)
  waiting[id], count, counts[key] = nil, count - 1, counts[key] > 1 and counts[key] - 1 or nil
  return answer and 200 or 504, answer or "no answer"
end

return {
  on_start = function()
    backend = rille.http.client { base = options.backend, timeout = DEADLINE, max_body = BODY_MAX }
    rille.log.info("commands at %s", assert(rille.listen(options.commands, "on_command", { limits = { body = BODY_MAX } })):address())
  end,
  on_command = function(req, res)
    local key, body = req.path:match "^/devices/([%w_.-]+)$", req:body()
    if not body then return end
    local status, text = 404, "no such page"
    if key and req.method == "POST" then status, text = command(key, body:str()) end
    res.status = status
    res:send(text)
  end,
  on_request = function(conn, f)
    silent[conn.id] = nil
    local kind, name = #f >= 5 and string.char(f:byte(1)), rille.bound(conn)
    local key = name and name:sub(#"device:" + 1)
    if not handlers[kind] or not key and kind ~= "H" or handlers[kind](conn, f:u32(1), f:sub(6), key) then conn:abort() end
  end,
  on_idle = function(conn, which)
    if which ~= "read" then return end
    if silent[conn.id] then return conn:abort() end
    silent[conn.id] = conn:write(frame("P", 0, ""))
  end,
  on_close = function(conn) silent[conn.id] = nil end,
  on_retire = function() return { serial = serial } end,
  on_reload = function(data) serial = data.serial end,
}
