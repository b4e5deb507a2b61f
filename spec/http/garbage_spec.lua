-- How much Lua garbage a request leaves in a server's steady state: what the collector has to clear away costs each request time.

local http = require "spec.support.http"
local server, net = http.server, http.net

local MAX = 256 -- bytes a request
local WARM_UP, COUNT = 5000, 10000

local SCRIPTS = {
  ["scripts/hello.lua"] = "scripts/hello.lua",
  ["a handler that reads path and a header"] = [[
    return function(req, res)
      if req.path == "/none" or not req:header "user-agent" then res.status = 404 end
      res:send "Hello, World!"
    end
  ]],
}

local function exchange(c, count, depth, length)
  local text = http.get("/", { "User-Agent: spec", "Accept: */*" }):rep(depth)
  for _ = 1, count / depth do
    c:send(text)
    c:receive(length * depth)
  end
end

-- The least of some starts: where the JIT compiler begins a trace is partly chance.
local function garbage_of(script, depth)
  local least = math.huge
  for _ = 1, 4 do
    local s = http.start(script)
    local c = s:connect()
    local request = http.get("/", { "User-Agent: spec", "Accept: */*" })
    local answer = http.ask(c, request)
    local length = #table.concat(answer.lines, "\r\n") + #answer.body + #"HTTP/1.1 200 OK\r\n\r\n\r\n"
    exchange(c, WARM_UP, depth, length)
    local before = s:state()
    exchange(c, COUNT, depth, length)
    local after = s:state()
    assert.equal(COUNT, after.messages - before.messages)
    least = math.min(least, (after.lua_allocated - before.lua_allocated) / COUNT)
    c:close()
    s:stop()
    if least <= MAX then break end
  end
  return least
end

describe("http garbage", function()
  after_each(server.cleanup)

  for name, script in pairs(SCRIPTS) do
    for way, depth in pairs { ["one at a time"] = 1, pipelined = 50 } do
      it(("is at most 256 bytes a request: %s, %s"):format(name, way), function()
        if net.is_sanitized then return end
        local bytes = garbage_of(script, depth)
        if bytes > MAX then error(("%.0f bytes a request"):format(bytes), 0) end
      end)
    end
  end
end)
