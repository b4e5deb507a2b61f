-- Every ```lua example of README.md and docs/*.md, run. The word behind ```lua says what it is:
--
--   (none)   a file for `rille exec`; with a `return function` or `return {` at the start of a line it is a script (of HTTP, if it
--            takes `req, res`), with `rille.run` in it an app
--   script   a handler script: it is checked, served, spoken to and stopped
--   http     the same, over HTTP
--   exec     a file for `rille exec`
--   app      a program for luajit: it serves until SIGTERM
--   datagram a handler script of datagrams
--   conf     a configuration
--   test     a file for `rille test`
--   file     a module: it can be loaded

local inside = require "spec.support.inside"
local server = require "spec.support.server"
local udp = require "spec.support.udp"

local RILLE = server.root .. "/bin/rille"

-- ---- the examples ----------------------------------------------------------------------------------------------

local function pages()
  local list = { "README.md" }
  local listing = io.popen("ls docs/*.md")
  for name in listing:lines() do list[#list + 1] = name end
  listing:close()
  return list
end

-- What a fence without a word is.
local function guess(code)
  if code:find("rille%.run") then return "app" end
  local returns = ("\n" .. code):match("\n(return [%w{]+)")
  if returns == "return {" and code:find("servers%s*=") then return "conf" end
  if returns and code:find("function%(req, res%)") then return "http" end
  if returns == "return {" or returns == "return function" then return "script" end
  return "exec"
end

local function examples(page)
  local list = {}
  local number, open, code = 0, nil, nil
  for line in io.lines(page) do
    number = number + 1
    local word = not open and line:match("^%s*```lua(.*)$")
    if word then
      open, code = { page = page, line = number, kind = word:match("^%s*(.-)%s*$") }, {}
    elseif open and line:find("^%s*```%s*$") then
      open.code = table.concat(code, "\n") .. "\n"
      if open.kind == "" then open.kind = guess(open.code) end
      list[#list + 1] = open
      open = nil
    elseif open then
      code[#code + 1] = line
    end
  end
  assert(not open, page .. ": a fence is not closed")
  return list
end

-- An example has the address a reader would type; here each gets one of its own.
local function free_ports(code)
  return (code:gsub("(127%.0%.0%.1):[78]%d%d%d", "%1:0"))
end

-- ---- what each kind has to do ----------------------------------------------------------------------------------

local runs = {}

local function must_succeed(result)
  if result.status ~= 0 then error(("exit status %s:\n%s"):format(tostring(result.status), result.out), 0) end
  if result.out:find("level=error", 1, true) then error("it logged an error:\n" .. result.out, 0) end
end

function runs.exec(one)
  must_succeed(inside.command { RILLE, "exec", server.write("example.lua", one.code) })
end

function runs.file(one)
  assert(type(assert(load(one.code))()) == "table")
end

function runs.test(one)
  must_succeed(inside.command { RILLE, "test", server.write("example_spec.lua", one.code) })
end

-- A client that says a line, or asks for "/", and goes.
local function speak(process)
  if not process.url:find("^http:") then
    process:connect():send("hello\n"):shutdown_write():receive_all(10)
    return
  end
  local c = process:connect():send("GET / HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n")
  local answer = c:receive_all(10)
  if not answer:find("^HTTP/1%.1 [234]%d%d ") then error("the answer is " .. answer, 0) end
end

local function serve(one, url)
  local path = server.write("example.lua", one.code)
  must_succeed(inside.command { RILLE, "check", path })
  local process = server.start(path, { listen = url })
  speak(process)
  process:stop()
end

function runs.script(one)
  serve(one, "tcp://127.0.0.1:0")
end

function runs.datagram(one)
  local path = server.write("example.lua", one.code)
  must_succeed(inside.command { RILLE, "check", path })
  local process = server.start(path, { listen = "udp://127.0.0.1:0" })
  udp.connect(process.url):ask "hello"
  udp.close_all()
  process:stop()
end

function runs.http(one)
  serve(one, "http://127.0.0.1:0")
end

function runs.app(one)
  local env = ("LUA_PATH=%s/lua/?.lua;%s/lua/?/init.lua;;"):format(server.root, server.root)
  local luajit = os.getenv("RILLE_LUAJIT") or "luajit"
  local path = server.write("example.lua", free_ports(one.code))
  local process = server.spawn(nil, { command = { "env", env, luajit, path } })
  process:forget()
  process:wait_listening(1)
  speak(process)
  process:signal("TERM")
  process:wait_exit()
  must_succeed { status = process.status, out = process:log() }
end

function runs.conf(one)
  for name in one.code:gmatch('script = "([%w_]+%.lua)"') do server.write(name, "return print\n") end
  local conf, message = require("rille.config").load(server.write("example.lua", one.code))
  if not conf then error(message, 0) end
end

-- ---- the specs -------------------------------------------------------------------------------------------------

local count = 0
for _, page in ipairs(pages()) do
  describe(page, function()
    after_each(server.cleanup)
    for _, one in ipairs(examples(page)) do
      count = count + 1
      it(("line %d works as %s"):format(one.line, one.kind), function()
        local run = runs[one.kind]
        if not run then error(("%s:%d: ```lua %s is not known; see spec/docs_spec.lua"):format(page, one.line, one.kind), 0) end
        run(one)
      end)
    end
  end)
end

describe("the documentation", function()
  it("has examples at all", function()
    assert.truthy(count >= 20)
  end)

  it("links to pages and files that exist", function()
    for _, page in ipairs(pages()) do
      local folder = page:match("^(.*/)") or ""
      for target in io.open(page):read("*a"):gmatch("%]%(([^)#]+)[^)]*%)") do
        if not target:find("^https?:") then
          local file = io.open(folder .. target)
          assert.truthy(file, ("%s links to %s, which is not there"):format(page, target))
          file:close()
        end
      end
    end
  end)

  -- What a script can call has its line in docs/script.md.
  it("names every function of rille and every method of a connection", function()
    local text = io.open("docs/script.md"):read("*a")
    for name, value in pairs(require "rille") do
      assert.truthy(text:find("rille." .. name, 1, true), ("docs/script.md does not name rille.%s (%s)"):format(name, type(value)))
    end
    for name in pairs(require("rille.conn").Conn) do
      assert.truthy(text:find("%f[%w_]" .. name .. "%f[^%w_]"), "docs/script.md does not name conn:" .. name)
    end
    for _, name in ipairs { "on_start", "on_prepare", "on_connect", "on_request", "on_tunnel", "on_idle", "on_disconnect", "on_close" } do
      assert.truthy(text:find("`" .. name .. "(", 1, true), "docs/script.md does not name " .. name)
    end
  end)

  -- The tables req and res show none of their names, so the source is asked.
  it("names every field and method of req and res", function()
    local text, found = io.open("docs/http.md"):read("*a"), 0
    local function find(name, form)
      found = found + 1
      assert.truthy(text:find("`" .. form:format(name) .. "%f[^%w_]"), "docs/http.md does not name " .. form:format(name))
    end
    local request = io.open("lua/rille/http/request.lua"):read("*a")
    for name in request:gmatch("\nfunction getters%.([%w_]+)") do find(name, "req.%s") end
    for name in request:gmatch("\nfunction Req:([%w_]+)") do find(name, "req:%s") end
    for name in io.open("lua/rille/http/response.lua"):read("*a"):gmatch("\nfunction Res:([%w_]+)") do find(name, "res:%s") end
    find("status", "res.%s")
    find("conn", "res.%s")
    assert.truthy(found >= 20, "it found " .. found)
  end)
end)
