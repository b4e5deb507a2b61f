-- Versions that are refused leave nothing: what they have opened, begun and allocated until then is gone with them, however often.

local reload = require "spec.support.reload"
local server = reload.server
local net = server.net
local ask = reload.ask
local lines = reload.lines

-- What a version begins and opens before it is found to be bad.
local BEGINS = [[
  local LinkBuffer = require "rille.linkbuffer"
  M.file = io.open("/dev/null")
  M.buffer = LinkBuffer.new()
  M.buffer:write(("x"):rep(100000)) M.buffer:flush()
  M.kept = M.buffer:take(50000)
  M.text = ("y"):rep(1000000)
  local function begin()
    rille.every(0.01, function() end)
    rille.after(3600, function() end)
    rille.spawn(function() rille.sleep(3600) end)
    rille.spawn(function() rille.channel(1):receive() end)
  end
  local function open()
    local a, b = rille.pair()
    M.pair = { a, b }
    rille.spawn(function() a:read_line() end)
    begin()
  end
  begin()
  rille.listen("unix://%s/extra.sock", { on_request = function(conn) conn:read_line() end })
]]

local WAYS = {
  ["a syntax error"] = "local x = = 1",
  ["an error at the top level"] = "error 'top'",
  ["on_stage that raises"] = "function M.on_stage() open() error 'stage' end",
  ["on_stage that is parked for ever"] = "function M.on_stage() open() rille.sleep(3600) end",
  ["selftest that fails"] = "function M.on_stage() open() end function M.selftest() open() return false end",
  ["on_start that raises"] = "function M.on_stage() open() end function M.on_start() open() error 'start' end",
  ["on_start that returns false"] = "function M.on_start() open() return false end",
  ["on_reload that raises"] = "function M.on_start() open() end function M.on_reload() open() error 'reload' end",
}

-- The folders that it watches.
local function watches_of(s)
  local list = io.popen(("cat /proc/%d/fdinfo/* 2>/dev/null | grep -c ^inotify"):format(s.pid))
  local count = tonumber(list:read("*l"))
  list:close()
  return count
end

local function look(s)
  local out = { descriptors = s:descriptors(), threads = s:threads(), inotify = watches_of(s) }
  for i, state in ipairs(s:states(2)) do
    for _, key in ipairs { "connections", "watches", "blocks", "buffers" } do out[key .. i] = state[key] end
  end
  return out
end

-- Wait until there is no more of anything than before.
local function expect(s, before)
  local now
  local is_less = net.poll_until(function()
    now = look(s)
    for key, count in pairs(before) do
      if now[key] > count then return false end
    end
    return true
  end, 15)
  if is_less then return end
  local parts = {}
  for key, count in pairs(before) do parts[#parts + 1] = ("%s %d -> %d"):format(key, count, now[key]) end
  error(table.concat(parts, ", ") .. "\n" .. s:tail(), 0)
end

describe("a version that is refused twenty times", function()
  after_each(server.cleanup)

  for way, text in pairs(WAYS) do
    it("leaves nothing, for " .. way, function()
      local s = reload.start(lines("v1"), { allow_errors = true, conf = { loops = 2 }, reload = {
        stage_timeout = (way:find("parked") and 0.4 or 5) * net.slow } })
      local bad = lines("bad", BEGINS:gsub("%%s", server.folder()) .. text)
      local function refuse(count)
        for _ = 1, count do assert.is_false(reload.now(s, bad).ok) end
      end
      local c = s:connect()
      ask(c, "a")
      refuse(3) -- what is made once
      local before, bytes = look(s), s:rss()
      refuse(20)
      expect(s, before)
      if not net.has_sanitized_servers then assert.is_true(s:rss() - bytes < 16 * 2 ^ 20, ("%d bytes more"):format(s:rss() - bytes)) end
      assert.is_nil(server.client.try_connect("unix://" .. server.folder() .. "/extra.sock"))
      assert.equal("v1 b", ask(c, "b"))
      reload.to(s, lines("v2"))
      assert.equal("v2 c", ask(c, "c"))
      reload.wait_retired(s)
      s:stop() -- nothing of blocks, slices and buffers either
    end)
  end
end)
