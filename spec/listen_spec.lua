-- rille.listen at run time when several loops run: who shares an address, who leaves it, and what becomes of it then.

local server = require "spec.support.server"
local net, client = server.net, server.client

-- Commands of a line, run on the loop that accepted: "open NAME URL [ACCEPT]", "close NAME", "stats NAME". Connections of what it opens say
-- loop and name, then echo.
local SCRIPT = [[
local rille = require "rille"
local open = {}
local function serve(name)
  return {
    on_connect = function(c) c:write(rille.loop.id .. " " .. name .. "\n") end,
    on_request = function(c) c:write(c:next(c:len())) end,
  }
end
return {
  on_connect = function(conn) conn:write(rille.loop.id .. "\n") end,
  on_request = function(conn)
    local line = conn:read_line()
    if not line then return conn:close() end
    local what, name, url, accept = line:str():match("^(%S+) (%S+) ?(%S*) ?(%S*)$")
    if what == "open" then
      local l, err, message = rille.listen(url, serve(name), accept ~= "" and { accept = accept } or nil)
      open[name] = l
      conn:write((l and l:address() or ("nil %s: %s"):format(err, message)) .. "\n")
    elseif what == "close" then
      conn:write(tostring(open[name]:close()) .. "\n")
    elseif what == "stats" then
      local s = open[name]:stats()
      conn:write(("%d %d\n"):format(s.accepted, s.connections))
    end
  end,
}
]]

-- A server of so many loops, and a connection to each.
local function start(loops, opts)
  opts = opts or {}
  opts.conf, opts.server = { loops = loops }, { accept = "balanced" }
  local s = server.start(SCRIPT, opts)
  local at = {}
  for _ = 1, loops do
    local c = s:connect()
    at[tonumber(c:receive_line())] = c
  end
  return s, at
end

local function command(c, ...)
  c:send((...):format(select(2, ...)) .. "\n")
  return c:receive_line()
end

-- Which loops serve an address, and under which name, when so many connect.
local function who_serves(url, count)
  local found, clients = {}, {}
  for i = 1, count or 24 do
    clients[i] = client.connect(url)
    found[clients[i]:receive_line()] = true
  end
  local list = {}
  for one in pairs(found) do list[#list + 1] = one end
  table.sort(list)
  return table.concat(list, ","), clients
end

local free_port = server.net.free_port

describe("rille.listen on several loops", function()
  after_each(server.cleanup)

  it("shares an address that each loop asks for", function()
    local _, at = start(3)
    local url = "tcp://127.0.0.1:" .. free_port()
    for i = 1, 3 do assert.equal(url, command(at[i], "open a %s", url)) end
    assert.equal("1 a,2 a,3 a", (who_serves(url, 60)))
  end)

  it("goes on with those that have not closed, and loses no connection of who closes", function()
    local _, at = start(2)
    local url = "tcp://127.0.0.1:" .. free_port()
    for i = 1, 2 do command(at[i], "open a %s", url) end
    local _, clients = who_serves(url, 30)
    assert.equal("true", command(at[1], "close a"))
    assert.equal("2 a", (who_serves(url)))
    for _, c in ipairs(clients) do c:send("x") assert.equal("x", c:receive(1)) end
    assert.equal(url, command(at[1], "open b %s", url)) -- and joins again
    assert.equal("1 b,2 a", (who_serves(url, 40)))
    command(at[1], "close b")
    command(at[2], "close a")
    assert.is_nil((client.try_connect(url)))
    assert.equal(url, command(at[2], "open c %s", url))
    assert.equal("2 c", (who_serves(url)))
  end)

  it("lets in who waits in the queue of a loop that closes", function()
    local s, at = start(2)
    local url = "tcp://127.0.0.1:" .. free_port()
    for i = 1, 2 do command(at[i], "open a %s", url) end
    s:signal("STOP")
    local clients = {}
    for i = 1, 400 do clients[i] = client.connect(url) end -- more for each than are accepted in a turn
    at[1]:send("close a\n")
    s:signal("CONT")
    assert.equal("true", at[1]:receive_line())
    for _, c in ipairs(clients) do assert.matches("^[12] a$", c:receive_line()) end
  end)

  it("shares unix sockets by descriptor, and removes the path with the last", function()
    local _, at = start(2)
    local path = server.folder() .. "/sock"
    local url = "unix://" .. path
    for i = 1, 2 do assert.equal(url, command(at[i], "open a %s", url)) end
    for _ = 1, 20 do assert.matches("^[12] a$", client.connect(url):receive_line()) end
    command(at[1], "close a")
    assert.equal("2 a", (who_serves(url)))
    assert.is_true(os.rename(path, path) == true)
    command(at[2], "close a")
    assert.is_nil((os.rename(path, path)))
    assert.equal(url, command(at[1], "open b %s", url))
    assert.equal("1 b", (who_serves(url)))
  end)

  it("shares one TCP socket when asked to", function()
    local _, at = start(2)
    local url = "tcp://127.0.0.1:" .. free_port()
    for i = 1, 2 do assert.equal(url, command(at[i], "open a %s shared", url)) end
    assert.matches("^[12]", (who_serves(url)))
    command(at[2], "close a")
    assert.equal("1 a", (who_serves(url)))
  end)

  it("is an address in use for a second listener of one loop, for another way to accept, and for single", function()
    local _, at = start(2)
    local url = "tcp://127.0.0.1:" .. free_port()
    command(at[1], "open a %s", url)
    local answer = command(at[1], "open b %s", url)
    assert.matches("^nil address in use: cannot listen on " .. url:gsub("%p", "%%%0") .. ": address in use", answer)
    assert.matches("^nil address in use", command(at[2], "open b %s shared", url))
    assert.matches("^nil address in use", command(at[2], "open b %s single", url))
    answer = command(at[2], "open b %s balanced", url)
    assert.matches("^nil not supported: cannot listen on .*: balanced is for servers of the configuration", answer)
    answer = command(at[2], "open b unix:@x reuseport")
    assert.matches("^nil not supported: cannot listen on .*: a Unix socket has no reuseport", answer)
    assert.equal(url, command(at[2], "open c %s", url)) -- what failed left nothing
    command(at[1], "close a")
    command(at[2], "close c")
    assert.equal(url, command(at[2], "open d %s single", url))
    assert.matches("^nil address in use", command(at[1], "open d %s single", url))
  end)

  it("notices a port of another process, and of a server", function()
    local other = server.start(SCRIPT)
    local s, at = start(2)
    for i = 1, 2 do
      assert.matches("^nil address in use", command(at[i], "open a %s", other.url))
      assert.matches("^nil address in use", command(at[i], "open a %s", s.url))
    end
  end)

  it("picks a port for each call with port 0, and one for all when a way to accept is named", function()
    local _, at = start(2)
    local one, two = command(at[1], "open a tcp://127.0.0.1:0"), command(at[2], "open a tcp://127.0.0.1:0")
    assert.are_not.equal(one, two)
    assert.equal("1 a", (who_serves(one, 8)))
    -- the first of each loop belong together, then the second
    local first, second = command(at[1], "open b tcp://127.0.0.1:0 reuseport"), command(at[1], "open c tcp://127.0.0.1:0 reuseport")
    assert.are_not.equal(first, second)
    assert.equal(first, command(at[2], "open b tcp://127.0.0.1:0 reuseport"))
    assert.equal(second, command(at[2], "open c tcp://127.0.0.1:0 reuseport"))
    assert.equal("1 b,2 b", (who_serves(first, 40)))
  end)

  it("keeps the scripts of a server apart", function()
    local port = free_port()
    local path = server.script_path(([[
      local rille = require "rille"
      local o = ...
      return {
        on_start = function()
          local l, err = rille.listen("tcp://127.0.0.1:%d", function() end)
          rille.log.info("said %%s %%s %%s", o.name, tostring(l ~= nil), tostring(err))
        end,
        on_request = print,
      }]]):format(port))
    local s = server.spawn(nil, { command = { server.root .. "/bin/rille", "run", "--conf", server.write("two.lua", ([[
      return { loops = 2, servers = {
        { listen = "tcp://127.0.0.1:0", script = %q, options = { name = "one" } },
        { listen = "tcp://127.0.0.1:0", script = %q, options = { name = "two" } } } }]]):format(path, path)) } })
    local said = table.concat(s:wait_said(4), ",")
    -- whoever comes first has it on both loops, or on one of them if the other was faster there
    assert.equal(2, select(2, said:gsub("true nil", "")), said)
    assert.equal(2, select(2, said:gsub("false address in use", "")), said)
    assert.truthy(said:find("one true") and not said:find("two true") or said:find("two true") and not said:find("one true"), said)
  end)

  it("works when all loops ask at the same moment, again and again", function()
    local port = free_port()
    local s = server.start(([[
      local rille = require "rille"
      return {
        on_start = function()
          rille.spawn(function()
            local failures = 0
            for round = 1, 300 do
              local l, err = rille.listen("tcp://127.0.0.1:%d", function(c) c:write(c:next(c:len())) end)
              if not l then failures = failures + 1 rille.log.info("said failed %%s", err) else
                if round %% 3 == 0 then rille.yield() end
                l:close()
              end
              local u = assert(rille.listen("unix:@rille-spec-listen-%d", print))
              if round %% 5 == 0 then rille.yield() end
              u:close()
            end
            local l = assert(rille.listen("tcp://127.0.0.1:%d", function(c) c:write(c:next(c:len())) end))
            rille.log.info("said done %%d", failures)
          end)
        end,
        on_request = print,
      }]]):format(port, net.C.net_getpid(), port), { conf = { loops = 4 } })
    for i, text in ipairs(s:wait_said(4, 20 * net.slow)) do assert.equal("done 0", text, i) end
    for _ = 1, 20 do
      local c = client.connect("tcp://127.0.0.1:" .. port)
      c:send("hello")
      assert.equal("hello", c:receive(5))
    end
  end)

  it("loses no client while loops come and go", function()
    local port = free_port()
    local s = server.start(([[
      local rille = require "rille"
      local function serve(c) c:write(c:next(c:len())) end
      return {
        on_start = function()
          local url = "tcp://127.0.0.1:%d"
          local l = assert(rille.listen(url, serve, { accept = "shared" }))
          if rille.loop.id == 1 then return end
          rille.spawn(function()
            while true do
              rille.sleep(0.002)
              l:close()
              rille.sleep(0.001)
              l = assert(rille.listen(url, serve, { accept = "shared" }))
            end
          end)
        end,
        on_request = print,
      }]]):format(port), { conf = { loops = 3 } })
    for _ = 1, 300 do
      local c = client.connect("tcp://127.0.0.1:" .. port)
      c:send("hello")
      assert.equal("hello", c:receive(5))
      c:close()
    end
    s:stop()
  end)

  it("is full at 1024 addresses, and has room again when one closes", function()
    local s = server.start(([[
      local rille = require "rille"
      return {
        on_start = function()
          if rille.loop.id ~= 1 then return end
          local open, err, message = {}, nil, nil
          for i = 1, 1100 do
            open[i], err, message = rille.listen("unix:@rille-spec-%d-" .. i, print)
            if not open[i] then break end
          end
          rille.log.info("said %%s %%s", #open + 1, message)
          open[5]:close()
          rille.sleep(0.01) -- it is gone at the end of the turn
          rille.log.info("said %%s", tostring(rille.listen("unix:@rille-spec-%d-again", print) ~= nil))
          for _, l in ipairs(open) do l:close() end
        end,
        on_request = print,
      }]]):format(net.C.net_getpid(), net.C.net_getpid()), { conf = { loops = 2 } })
    local said = s:wait_said(2)
    -- one is the server's
    assert.matches("^1024 cannot listen on unix:@%S+: the loops share 1024 addresses already, which is the limit$", said[1])
    assert.equal("true", said[2])
  end)

  it("counts what each loop has let in", function()
    local _, at = start(2)
    local url = "tcp://127.0.0.1:" .. free_port()
    for i = 1, 2 do command(at[i], "open a %s", url) end
    local _, clients = who_serves(url, 20)
    local function sum(which)
      local total = 0
      for i = 1, 2 do
        local counts = { command(at[i], "stats a"):match("(%d+) (%d+)") }
        total = total + tonumber(counts[which])
      end
      return total
    end
    assert.equal(20, sum(1))
    assert.equal(20, sum(2))
    for _, c in ipairs(clients) do c:close() end
    assert.is_true(net.poll_until(function() return sum(2) == 0 end))
    assert.equal(20, sum(1))
  end)

  it("stops while they listen, and while connections outlive their listener", function()
    local s, at = start(2)
    local url = "tcp://127.0.0.1:" .. free_port()
    for i = 1, 2 do command(at[i], "open a %s", url) end
    local _, clients = who_serves(url, 10)
    command(at[1], "close a")
    s:signal("TERM")
    for _, c in ipairs(clients) do assert.same({ "", "closed" }, { c:receive_all() }) end
    assert.equal(0, s:wait_exit())
    s:check_end()
    s:forget()
  end)
end)
