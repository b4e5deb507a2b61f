-- Reading from a connection: what parks, what is handed out, what happens at the end of the input, limits, back-pressure.

local server = require "spec.support.server"
local net = server.net

-- A script whose on_request is `body`, with `conn` as its argument.
local function handler(body, more)
  return ([[
local function show(...)
  local parts = {}
  for i = 1, select("#", ...) do parts[i] = tostring((select(i, ...))) end
  return table.concat(parts, " ")
end
local on_request = function(conn)
%s
end
return { on_request = on_request, on_close = function(_, err) say("close %%s", tostring(err)) end, %s }
]]):format(body, more or "")
end

describe("conn: reading", function()
  after_each(server.cleanup)

  it("parks until the bytes are there, one at a time", function()
    local s = server.start(handler [[
      local head = conn:next(4):str()
      local line = conn:read_line():str()
      local part = conn:read_until("--"):str()
      local peeked = conn:peek(3):str()
      conn:skip(3)
      local text = conn:read_string(5)
      local buffer = conn:take(6)
      conn:write(show(head, line, part, peeked, text, buffer:read_string(6), conn:len()) .. "\n")
    ]])
    local c = s:connect()
    local message = "HEADa line\r\na-b--xyz12345buffer"
    c:send_slowly(message)
    assert.equal("HEAD a line a-b-- xyz 12345 buffer 0", c:receive_line())
    c:send(message .. message)
    assert.equal("HEAD a line a-b-- xyz 12345 buffer " .. #message, c:receive_line())
    assert.equal("HEAD a line a-b-- xyz 12345 buffer 0", c:receive_line())
  end)

  it("hands out what is there with read(), at most max", function()
    local s = server.start(handler [[
      local all = {}
      repeat
        local slice = conn:read(3)
        all[#all + 1] = slice:str()
      until slice == "!" or slice:byte(-1) == 33
      conn:write(table.concat(all, "|") .. "\n")
    ]])
    local c = s:connect()
    c:send("abcdefgh!")
    assert.equal("abc|def|gh!", c:receive_line())
    c:send("x")
    net.nap(10)
    c:send("!")
    assert.matches("^x|?!$", c:receive_line())
  end)

  it("resumes a parked next(n) once, when n bytes are there", function()
    local s = server.start(handler [[
      local slice = conn:next(300000)
      conn:write(slice:len() .. " " .. slice:byte(1) .. " " .. slice:byte(-1) .. "\n")
    ]])
    local c = s:connect()
    c:send("a")
    net.nap(20)
    c:send(("b"):rep(299998))
    s:wait_state(function(state) return state.bytes_in == 299999 end)
    assert.equal(1, s:state().messages)
    c:send("c")
    assert.equal("300000 97 99", c:receive_line())
    assert.equal(1, s:state().messages)
  end)

  it("finds a delimiter that straddles arrivals", function()
    local s = server.start(handler [[
      local part = conn:read_until("\r\n\r\n")
      conn:write(part:len() .. "\n")
    ]])
    local c = s:connect()
    for _, piece in ipairs { "abc\r", "\n", "\r", "x\r\n\r", "\n" } do
      c:send(piece)
      net.nap(5)
    end
    assert.equal("11", c:receive_line())
  end)

  it("reads lines with either end", function()
    local s = server.start(handler [[
      local line = conn:read_line()
      conn:write("<" .. line .. ">\n")
    ]])
    local c = s:connect()
    c:send("a\nb\r\n\n\r\n\r\r\nlast\n")
    for _, expected in ipairs { "<a>", "<b>", "<>", "<>", "<\r>", "<last>" } do assert.equal(expected, c:receive_line()) end
  end)

  it("refuses longer lines and consumes nothing then", function()
    local s = server.start(handler [[
      local line, err = conn:read_line(10)
      if line then return conn:write("<" .. line .. ">\n") end
      conn:write(err .. " " .. conn:len() .. "\n")
      conn:read_string(conn:len())
    ]])
    local c = s:connect()
    c:send("1234567890\n")
    assert.equal("<1234567890>", c:receive_line())
    c:send("1234567890\r\n")
    assert.equal("<1234567890>", c:receive_line())
    c:send("12345678901\n")
    assert.equal("too large 12", c:receive_line())
    c:send("12345678901\r\n")
    assert.equal("too large 13", c:receive_line())
    c:send(("x"):rep(200)) -- no end in sight
    assert.matches("^too large %d+", c:receive_line())
  end)

  it("refuses a part longer than max", function()
    local s = server.start(handler [[
      local part, err = conn:read_until("\n", 5)
      conn:write((part and part:str() or err) .. ";" .. conn:len() .. ";")
      if not part then conn:read_string(conn:len()) end
    ]])
    local c = s:connect()
    c:send("1234\n")
    assert.equal("1234\n;0;", c:receive(8))
    c:send("12345\n")
    assert.equal("too large;6;", c:receive(12))
  end)

  it("leaves what came at the end as partial, consumes nothing and says `closed`", function()
    local s = server.start(handler [[
      local slice, err, partial = conn:next(10)
      say("next %s", show(slice, err, partial, conn:len()))
      say("line %s", show(conn:read_line()))
      say("until %s", show(conn:read_until("--")))
      say("peek %s", show(conn:peek(10)))
      say("skip %s", show(conn:skip(10)))
      say("string %s", show(conn:read_string(10)))
      say("take %s", show(conn:take(10)))
      say("rest %s", show(conn:read(100)))
      say("read %s", show(conn:read(100)))
      say("byte %s", show(conn:read_byte()))
    ]])
    local c = s:connect()
    c:send("12345")
    s:wait_state(function(state) return state.messages == 1 end)
    c:close()
    s:wait_log("said close")
    assert.same({
      "next nil closed 12345 5", "line nil closed 12345", "until nil closed 12345", "peek nil closed 12345",
      "skip nil closed 12345", "string nil closed 12345", "take nil closed 12345", "rest 12345", "read nil closed",
      "byte nil closed", "close nil",
    }, s:said())
  end)

  it("says `reset` when the peer crashed in the middle of a message", function()
    local s = server.start(handler [[
      local slice, err, partial = conn:next(10)
      say("next %s", show(slice, err, partial))
      conn:skip(5)
      say("next %s", show(conn:next(10)))
    ]])
    local c = s:connect()
    c:send("12345")
    s:wait_state(function(state) return state.messages == 1 end)
    c:reset()
    s:wait_log("said close")
    assert.same({ "next nil reset 12345", "next nil reset", "close reset" }, s:said())
  end)

  it("gives everything that came before the end to a parked reader", function()
    local s = server.start(handler [[
      local total = 0
      while true do
        local slice = conn:read()
        if not slice then break end
        total = total + slice:len()
        conn:release()
      end
      say("total %d", total)
    ]])
    for i = 1, 20 do
      local c = s:connect()
      c:send(("x"):rep(i * 5000))
      c:close()
      assert.equal("total " .. i * 5000, s:wait_said(i * 2)[i * 2 - 1])
      assert.equal("close nil", s:said()[i * 2])
    end
  end)

  it("tells on_close `closed` when the peer ends in the middle of a message", function()
    local s = server.start(handler [[
      local frame = conn:next(10)
      if frame then conn:write(frame) end
    ]])
    local c = s:connect()
    c:send("12345")
    s:wait_state(function(state) return state.messages == 1 end)
    c:close()
    assert.same({ "close closed" }, s:wait_said(1))
  end)

  it("lets one task read at a time: a second gets `busy`", function()
    local s = server.start(handler [[
      conn:skip(1)
      local task = rille.spawn(function()
        conn:write(show(conn:read(10)) .. "\n")
        conn:write(show(conn:read_line()):sub(1, 8) .. "\n")
        conn:write(show(conn:next(1)) .. "\n")
      end)
      local slice = conn:next(5)
      task:join()
      conn:write(slice)
    ]])
    local c = s:connect()
    c:send("x")
    for _ = 1, 3 do assert.equal("nil busy", c:receive_line()) end
    c:send("abcde")
    assert.equal("abcde", c:receive(5))
  end)

  it("keeps every string and slice of 100 rounds as it was", function()
    local s = server.start(handler [[
      local strings, slices = {}, {}
      for i = 1, 100 do
        local slice = conn:next(1000)
        slices[i] = slice
        strings[i] = slice:str()
      end
      for i = 1, 100 do
        if slices[i] ~= strings[i] or strings[i] ~= ("%04d"):format(i):rep(250) then conn:write("broken at " .. i) end
      end
      conn:write("done\n")
    ]])
    local c = s:connect()
    for i = 1, 100 do c:send(("%04d"):format(i):rep(250)) end
    assert.equal("done", c:receive_line())
  end)

  it("takes ten thousand lines in pieces of another size", function()
    local s = server.start(handler [[
      local n, bytes = 0, 0
      while true do
        local part, err, partial = conn:read_until("\n")
        if not part then
          say("%d %d %s %s", n, bytes, err, partial and partial:len())
          return
        end
        n = n + 1
        bytes = bytes + part:len()
        conn:release()
      end
    ]])
    local c = s:connect()
    local piece = ("a"):rep(500) .. "\n" .. ("b"):rep(500) .. "\n"
    c:send(piece:rep(5000), 10)
    c:send(("c"):rep(100))
    c:close()
    assert.equal("10000 5010000 closed 100", s:wait_said(1, 10)[1])
  end)
end)

describe("conn: the input limit", function()
  after_each(server.cleanup)

  it("makes reads fail with `too large` when the handler never releases, and names release", function()
    local s = server.start(handler [[
      local total = 0
      while true do
        local slice, err = conn:read()
        if not slice then
          conn:write(err .. " " .. (total >= 100000 and total <= 130000 and "in time" or total) .. "\n")
          break
        end
        total = total + slice:len()
      end
      conn:release()
      conn:write("again " .. conn:read(1):len() .. "\n")
      while conn:read() do conn:release() end
    ]], { limits = { max_input = 100000 } })
    local c = s:connect()
    c:send(("x"):rep(300000))
    assert.matches("^too large", c:receive_line())
    assert.equal("again 1", c:receive_line())
    s:wait_log("level=warn[^\n]*max_input[^\n]*release")
    c:shutdown_write()
    c:receive_all()
  end)

  it("refuses to wait for more than fits", function()
    local s = server.start(handler [[
      conn:write(show(conn:next(100001)) .. "\n")
      conn:write(show(conn:next(2 ^ 40)) .. "\n")
      conn:write(show(conn:next(-1)) .. "\n")
      conn:write(show(conn:next(1.5)) .. "\n")
      conn:write(show(conn:next(0 / 0)) .. "\n")
      conn:write(show(conn:next(0):len(), conn:next(1)) .. "\n")
    ]], { limits = { max_input = 100000 } })
    local c = s:connect()
    c:send("x")
    assert.equal("nil too large x", c:receive_line())
    assert.equal("nil too large x", c:receive_line())
    for _ = 1, 3 do assert.equal("nil invalid argument", c:receive_line()) end
    assert.equal("0 x", c:receive_line())
  end)

  it("ends a connection whose full input nobody takes, and says so", function()
    local s = server.start([[
      return {
        on_request = function() end,
        on_close = function(_, err) say("close %s", tostring(err)) end,
      }
    ]], { limits = { max_input = 100000 }, timeouts = { linger = 0.05 } })
    local c = s:connect()
    c:try_send(("x"):rep(300000))
    assert.same({ "close too large" }, s:wait_said(1))
    s:wait_log("level=warn[^\n]*max_input")
  end)

  it("does not spin on a peer that is gone while the input is full", function()
    local s = server.start([[
      return {
        on_connect = function(conn)
          conn:shutdown("write")
          rille.spawn(function()
            rille.sleep(0.3)
            local total = 0
            while true do
              local slice = conn:read()
              if not slice then break end
              total = total + slice:len()
              conn:release()
            end
            say("total %d", total)
          end)
          rille.sleep(0.4) -- on_request does not start before
        end,
        on_request = function() end,
      }
    ]], { limits = { max_input = 100000 } })
    local c = s:connect()
    local sent = c:try_send(("x"):rep(300000))
    c:close() -- now both directions are over: epoll reports that until it is not asked any more
    local cpu, turns = s:cpu(), s:state().turns
    net.nap(150)
    assert.is_true(s:cpu() - cpu <= 0.04)
    assert.is_true(s:state().turns - turns < 20)
    assert.same({ "total " .. sent }, s:wait_said(1))
  end)

  it("bounds what is read for a handler that is busy", function()
    local s = server.start(handler [[
      rille.sleep(0.02)
      conn:next(conn:len())
    ]])
    local c = s:connect()
    c:send("x")
    local bytes, at = ("x"):rep(20000000), 0
    local deadline = net.deadline(10)
    local most = 0
    while at < #bytes do
      at = at + c:try_send(bytes, at)
      net.wait(c.fd, net.POLLOUT, net.now() + 0.01)
      most = math.max(most, s:state().block_bytes)
      assert(net.now() < deadline, "too slow")
    end
    assert.is_true(most <= 4 * 1024 * 1024)
    s:wait_state(function(state) return state.bytes_in == 20000001 end)
  end)

  it("does not read while paused, and goes on afterwards", function()
    local s = server.start(handler([[
      local line = conn:read_line()
      if line == "pause" then
        conn:pause()
        rille.on_resume = function() conn:resume() end
      elseif line == "go" then
        rille.on_resume()
      else
        conn.ctx = (conn.ctx or 0) + line:len()
        if conn.ctx == 8000000 then conn:write("all\n") end
      end
    ]]), { server = { receive_buffer = 65536 } })
    local c, other = s:connect(), s:connect()
    c:send("pause\n")
    s:wait_state(function(state) return state.messages == 1 end)
    other:send("x\n")
    s:wait_state(function(state) return state.messages == 2 end)
    local bytes, at = (("y"):rep(1000) .. "\n"):rep(8000), 0
    while at < #bytes and net.wait(c.fd, net.POLLOUT, net.now() + 0.1) do at = at + c:try_send(bytes, at) end
    assert.is_true(at < #bytes) -- the kernel's buffers are full, the server took nothing
    local state = s:state()
    assert.is_true(state.bytes_in < 100 and state.block_bytes < 100000)
    other:send("go\n")
    while at < #bytes do
      assert.is_truthy(net.wait(c.fd, net.POLLOUT, net.deadline(5)))
      at = at + c:try_send(bytes, at)
    end
    assert.equal("all", c:receive_line())
  end)
end)
