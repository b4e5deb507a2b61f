-- Addresses a server listens on: what it takes and gives back, limits, and what happens when descriptors run out.

local server = require "spec.support.server"
local net, client = server.net, server.client

local ECHO = [[
return function(conn) conn:write(conn:next(conn:len())) end
]]

local function echoes(c, text)
  text = text or "hello"
  c:send(text)
  assert.equal(text, c:receive(#text))
end

-- A listening socket of this process.
local function listen(url)
  local family, address, size = net.parse(url)
  local fd = net.C.net_socket(family, 1 + 0x80000, 0)
  assert(net.C.net_bind(fd, address, size) == 0 and net.C.net_listen(fd, 5) == 0)
  return client.over(fd, url)
end

local function exists(path)
  return os.rename(path, path) == true
end

describe("listener: addresses", function()
  after_each(server.cleanup)

  it("looks a host name up when a task listens", function()
    require("spec.support.inside").check [[
      local p = io.popen "hostname"
      local name = p:read "*l"
      p:close()
      local l, err, message = rille.listen("http://" .. name .. ":0", function() end)
      if l then
        assert(l:address():find "^http://[%d%[]", l:address())
        l:close()
      else
        equal(err, "not found")
        assert(message:find("no address for the host", 1, true), message)
      end
    ]]
  end)

  it("serves TCP, Unix and abstract sockets at once", function()
    local path = server.folder() .. "/sock"
    local name = "unix:@rille-spec-listener-" .. net.C.net_getpid()
    local s = server.start(ECHO, { listen = { "127.0.0.1:0", "tcp4://127.0.0.1:0", "unix://" .. path, name } })
    assert.equal("unix://" .. path, s.urls[3])
    assert.equal(name, s.urls[4])
    for _, url in ipairs(s.urls) do echoes(s:connect(nil, url)) end
    s:stop()
    assert.is_false(exists(path))
    for _, url in ipairs(s.urls) do assert.is_nil((client.try_connect(url))) end
  end)

  it("tells on_start the ports that were picked", function()
    local s = server.start([[
      return {
        on_start = function(started)
          say("%s %d %d", table.concat(started.addresses, ","), started.loop, started.loops)
        end,
        on_request = function() end,
      }
    ]], { listen = { "tcp://127.0.0.1:0", "tcp://127.0.0.1:0" } })
    assert.equal(s.urls[1] .. "," .. s.urls[2] .. " 1 1", s:said()[1])
  end)

  it("does not accept before on_start has returned, nor when it says no", function()
    local s = server.start([[
      return {
        on_start = function() rille.sleep(0.1); say("started") end,
        on_connect = function() say("connected") end,
        on_request = function() end,
      }
    ]])
    s:connect()
    assert.same({ "started", "connected" }, s:wait_said(2))

    s = server.spawn([[
      return { on_start = function() return false end, on_request = function() end }
    ]], { allow_errors = true })
    assert.equal(1, s:wait_exit())
    s:forget()
    s = server.spawn([[
      return { on_start = function() error("no luck") end, on_request = function() end }
    ]], { allow_errors = true })
    assert.equal(1, s:wait_exit())
    assert.matches("no luck", s:log())
    s:forget()
  end)

  it("fails with one line and status 1 on a busy port", function()
    local s = server.start(ECHO)
    local second = server.spawn(ECHO, { listen = s.url })
    assert.equal(1, second:wait_exit())
    second:forget()
    assert.matches("cannot listen on " .. s.url:gsub("%p", "%%%0") .. ": address in use", second:log())
    assert.is_true(select(2, second:log():gsub("\n", "")) <= 3)
    echoes(s:connect())

    -- one of several: the others are given back
    local third = server.spawn(ECHO, { listen = { "unix://" .. server.folder() .. "/third", s.url } })
    assert.equal(1, third:wait_exit())
    third:forget()
    assert.is_false(exists(server.folder() .. "/third"))
  end)

  it("fails with a line and status 1 on addresses of all wrong kinds", function()
    for _, url in ipairs { "tcp://127.0.0.1:99999", "unix:///no/such/folder/sock", "tcp://203.0.113.7:0", "gopher://x:1" } do
      local s = server.spawn(ECHO, { listen = url })
      assert.equal(1, s:wait_exit(), url)
      s:forget()
      assert.is_true(select(2, s:log():gsub("\n", "")) <= 3, s:log())
      assert.is_truthy(s:log():find(url, 1, true), s:log())
    end
  end)

  it("takes the place of a dead Unix socket", function()
    local path = server.folder() .. "/sock"
    local first = server.start(ECHO, { listen = "unix://" .. path })
    first:signal("KILL")
    first:wait_exit()
    first:forget()
    assert.is_true(exists(path))
    local s = server.start(ECHO, { listen = "unix://" .. path })
    echoes(s:connect())
  end)

  it("leaves the path alone when somebody answers there", function()
    local path = server.folder() .. "/sock"
    local first = server.start(ECHO, { listen = "unix://" .. path })
    local second = server.spawn(ECHO, { listen = "unix://" .. path })
    assert.equal(1, second:wait_exit())
    second:forget()
    assert.matches("address in use", second:log())
    echoes(first:connect())
    first:stop()

    -- somebody whose backlog is full answers, too
    local other = listen("unix://" .. path)
    repeat until not client.try_connect("unix://" .. path, { timeout = 0.01 }) -- they stay open
    second = server.spawn(ECHO, { listen = "unix://" .. path })
    assert.equal(1, second:wait_exit())
    second:forget()
    assert.is_true(exists(path))
    other:close()
  end)

  it("leaves the path alone when it is no socket", function()
    local path = server.write("precious", "data")
    local s = server.spawn(ECHO, { listen = "unix://" .. path })
    assert.equal(1, s:wait_exit())
    s:forget()
    assert.equal("data", server.read(path))
  end)

  it("does not remove the socket of a successor", function()
    local path = server.folder() .. "/sock"
    local first = server.start(ECHO, { listen = "unix://" .. path })
    os.remove(path)
    local second = server.start(ECHO, { listen = "unix://" .. path })
    first:stop()
    assert.is_true(exists(path))
    echoes(second:connect())
  end)

  it("gives a Unix socket the mode that is asked for", function()
    local path = server.folder() .. "/sock"
    server.start(ECHO, { listen = "unix://" .. path, server = { mode = "0600" } })
    local pipe = io.popen("stat -c %a " .. path)
    assert.equal("600", pipe:read("*l"))
    pipe:close()
  end)

  it("opens and closes at run time", function()
    local s = server.start([[
      local listener
      return {
        on_request = function(conn)
          local word = conn:read_line():str()
          if word == "open" then
            listener = assert(rille.listen("tcp://127.0.0.1:0", function(other) other:write("second " .. other:next(other:len())) end))
            conn:write(listener:address() .. "\n")
          elseif word == "key" then
            conn:write(assert(rille.listen("tcp://127.0.0.1:0", "by_key")):address() .. "\n")
          elseif word == "busy" then
            local l, err, message = rille.listen(conn:local_address(), function() end)
            conn:write(("%s %s %s\n"):format(l, err, message))
          else
            listener:close()
            listener:close()
            conn:write("closed " .. tostring(listener:address()) .. "\n")
          end
        end,
        by_key = { on_request = function(other) other:write("key " .. other:next(other:len())) end },
      }
    ]])
    local c = s:connect()
    c:send("open\n")
    local url = c:receive_line()
    local other = client.connect(url)
    other:send("x")
    assert.equal("second x", other:receive(8))
    c:send("close\n")
    assert.equal("closed nil", c:receive_line())
    assert.is_nil((client.try_connect(url)))
    other:send("y") -- what it accepted goes on
    assert.equal("second y", other:receive(8))
    c:send("busy\n")
    assert.equal(("nil address in use cannot listen on %s: address in use; stop what listens there, or choose another address")
      :format(s.url), c:receive_line())
    c:send("key\n")
    other = client.connect(c:receive_line())
    other:send("x")
    assert.equal("key x", other:receive(5))
  end)

  it("serves several scripts, each with options and hooks of its own", function()
    local one = server.write("one.lua", "local o = ... return function(c) c:write(o.name .. c:next(c:len())) end")
    local two = server.write("two.lua", "return { on_connect = function(c) c:write('two') end, on_request = function() end }")
    local s = server.spawn(ECHO, { conf = { servers = {
      { listen = "tcp://127.0.0.1:0", script = one, options = { name = "one " } },
      { listen = "unix://" .. server.folder() .. "/two", script = two },
    } } })
    s:wait_listening(2)
    table.sort(s.urls)
    local c = s:connect(nil, s.urls[1])
    c:send("x")
    assert.equal("one x", c:receive(5))
    assert.equal("two", s:connect(nil, s.urls[2]):receive(3))
  end)
end)

describe("listener: limits", function()
  after_each(server.cleanup)

  it("keeps new connections waiting at max_connections", function()
    local s = server.start(ECHO, { limits = { max_connections = 3 } })
    local clients = {}
    for i = 1, 3 do
      clients[i] = s:connect()
      echoes(clients[i])
    end
    local fourth = s:connect() -- the kernel completes it
    fourth:send("hello")
    s:wait_log("max_connections %(3%) reached")
    fourth:receives_nothing(0.05)
    assert.equal(3, s:state().connections)
    clients[1]:close()
    assert.equal("hello", fourth:receive(5))
    for _ = 1, 20 do
      local c = s:connect()
      fourth:close()
      echoes(c)
      fourth = c
    end
  end)

  it("lives through running out of descriptors, and recovers", function()
    local s = server.start(ECHO, { ulimit = "-n 50" })
    local clients = {}
    for i = 1, 60 do
      clients[i] = s:connect()
      clients[i]:send("hello")
    end
    s:wait_log("cannot accept on " .. s.url:gsub("%p", "%%%0") .. ": Too many open files")
    local served = s:wait_state(function(state) return state.connections >= 20 end).connections
    assert.is_true(served < 40)
    for i = 1, served do assert.equal("hello", clients[i]:receive(5)) end
    local cpu, turns = s:cpu(), s:state().turns
    net.nap(200)
    assert.is_true(s:cpu() - cpu <= 0.04 * net.slow) -- it waits, it does not try all the time
    assert.is_true(s:state().turns - turns < 100)
    for i = 1, served do clients[i]:close() end
    for i = served + 1, 60 do assert.equal("hello", clients[i]:receive(5)) end
    echoes(s:connect())
  end)

  it("keeps serving those it has while descriptors are out", function()
    local s = server.start(ECHO, { ulimit = "-n 30" })
    local first = s:connect()
    echoes(first)
    for _ = 1, 40 do s:connect() end
    s:wait_log("cannot accept")
    for _ = 1, 20 do echoes(first) end
  end)

  it("accepts a burst larger than its batch", function()
    local s = server.start([[
      return { on_connect = function(conn) conn:write("hi"); conn:close() end, on_request = function() end }
    ]])
    local clients = {}
    s:signal("STOP")
    for i = 1, 300 do clients[i] = s:connect() end
    s:signal("CONT")
    for i = 1, 300 do assert.equal("hi", (clients[i]:receive_all())) end
    assert.equal(300, s:state().accepted)
  end)

  it("survives clients that are gone before they are accepted", function()
    local s = server.start(ECHO)
    s:signal("STOP")
    for i = 1, 100 do
      local c = s:connect()
      if i % 2 == 0 then c:reset() else c:close() end
    end
    s:signal("CONT")
    echoes(s:connect())
    s:wait_state(function(state) return state.connections == 1 end)
  end)
end)
