-- close_race_script: a handler script that ends connections in every callback, and counts in a dict what it is told of each. The race is
-- the number of the address that a connection came by. A line to the last address gives the counts.

local rille = require "rille"
local options = ...

rille.log.set_rate(0)

-- Where each race ends the connection, and how. Races without a place leave that to the client.
local RACES = {
  "reset", "half_close", "close",
  "prepare false", "prepare close", "prepare abort", "prepare raise",
  "connect close", "connect abort", "connect raise", "connect shutdown",
  "request close", "request abort", "request raise", "request detach",
  "disconnect close", "disconnect abort", "disconnect raise",
  "idle close", "idle abort",
  "closed close", "closed raise",
  "other loop", "other loops", "closers",
}

local counts = rille.dict("races", { size = "4m" })
local race_of, seen = {}, {}

local function count(race, what)
  counts:incr(race .. " " .. what, 1, 0)
end

local function wrong(race, what)
  count(race, "wrong")
  rille.log.error("%s: %s", race, what)
end

-- One callback more; the order in which they may come.
local ORDER = { prepare = 1, connect = 2, request = 3, disconnect = 4, close = 5 }

local function note(conn, what)
  local race = conn.ctx or options.race or race_of[conn:local_address() or ""] or "?"
  conn.ctx = race
  local mine = seen[conn.id] or { at = 0 }
  seen[conn.id] = mine
  if what ~= "request" and mine[what] then wrong(race, "a second on_" .. what) end
  if ORDER[what] < mine.at then wrong(race, ("on_%s after %d"):format(what, mine.at)) end
  if what ~= "prepare" and not mine.prepare then wrong(race, ("on_%s without on_prepare"):format(what)) end
  mine.at, mine[what] = ORDER[what], true
  count(race, what)
  return race
end

local M = { RACES = RACES }

local function is_report(conn)
  return M.report_address and conn:local_address() == M.report_address
end

local function act(conn, race, place)
  local how = race:match("^" .. place .. " (.*)")
  if how == "close" then conn:close() end
  if how == "abort" then conn:abort() end
  if how == "shutdown" then conn:shutdown("write") end
  if how == "raise" then error("expected: " .. race, 0) end
  if how == "detach" then
    local fd = conn:detach()
    local other = fd and rille.adopt(fd)
    if other then other:close() end
  end
  return how == "false"
end

local function report(conn)
  conn:read_line()
  for _, race in ipairs(RACES) do
    local get = function(what) return counts:get(race .. " " .. what) or 0 end
    conn:write(("%s: %d %d %d %d %d\n"):format(race, get "prepare", get "connect", get "disconnect", get "close", get "wrong"))
  end
  conn:write("end\n")
end

-- What another loop is asked to do.
function M.close(id, times)
  for _ = 1, times do rille.connection(id):close() end
end
package.loaded["close_race_script"] = M

local function ask_others(conn, times)
  local other = rille.loop.id % rille.loop.count + 1
  rille.post(other, "close_race_script", "close", conn.id, times)
end

M.on_start = function(server)
  for i, race in ipairs(RACES) do race_of[server.addresses[i] or 0] = race end
  M.report_address = server.addresses[#RACES + 1]
end

M.on_prepare = function(conn)
  if is_report(conn) then return end
  if act(conn, note(conn, "prepare"), "prepare") then return false end
end

M.on_connect = function(conn)
  if is_report(conn) then return end
  local race = note(conn, "connect")
  if race:find("^idle") then conn:set_timeouts { idle = 0.002 } end
  if race == "other loop" then ask_others(conn, 1) end
  if race == "closers" then
    for _ = 1, 3 do conn:on_close(function() count(race, "closer") end) end
  end
  conn:write("hello\n")
  act(conn, race, "connect")
end

M.on_request = function(conn)
  if is_report(conn) then return report(conn) end
  local race = note(conn, "request")
  local line = conn:read_line()
  if not line then return end
  if line == "shutdown" then rille.shutdown(0.05) end
  if race == "other loops" then
    ask_others(conn, 3)
    rille.connection(conn.id):close()
  end
  conn:write(line .. "\n")
  act(conn, race, "request")
  if math.random(4) == 1 then rille.sleep(math.random() * 0.002) end
end

M.on_idle = function(conn) act(conn, conn.ctx or "", "idle") end

M.on_disconnect = function(conn)
  if conn.ctx then act(conn, note(conn, "disconnect"), "disconnect") end
end

M.on_close = function(conn)
  if conn.ctx == nil then return end -- of the last address
  local race = note(conn, "close")
  if math.random(8) == 1 then rille.sleep(math.random() * 0.002) end
  act(conn, race, "closed")
end

return M
