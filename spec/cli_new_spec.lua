-- `rille new`: what it makes runs, checks and tests as it is; what it cannot make leaves nothing.

local server = require "spec.support.server"

local RILLE = server.root .. "/bin/rille"

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- A shell command in a folder (the spec's own), with `rille` in it for the command: exit status, stdout, stderr.
local function sh(command, folder)
  local out, err = server.folder() .. "/.out", server.folder() .. "/.err"
  local status = os.execute(("cd %s && rille() { timeout -k 1 60 %s \"$@\"; } && { %s\n} >%s 2>%s </dev/null"):format(
    quote(folder or server.folder()), quote(RILLE), command, quote(out), quote(err)))
  return math.floor(status / 256), server.read(out), server.read(err)
end

local function must(command, folder)
  local status, out, err = sh(command, folder)
  if status ~= 0 or err ~= "" then error(("%s: exit status %d\n%s%s"):format(command, status, out, err), 2) end
  return out
end

-- Every file and folder below the spec's own, as a list, the helper's own two aside.
local function everything()
  local list = {}
  for name in must("find . -mindepth 1 | LC_ALL=C sort"):gmatch("%./([^\n]+)") do
    if name:sub(1, 1) ~= "." or name:find("/", 1, true) or (name ~= ".out" and name ~= ".err") then list[#list + 1] = name end
  end
  return list
end

local function project(name)
  return {
    name, name .. "/README.md", name .. "/conf", name .. "/conf/rille.lua", name .. "/scripts", name .. "/scripts/" .. name .. ".lua",
    name .. "/spec", name .. "/spec/" .. name .. "_spec.lua",
  }
end

-- Status 1, one line on stderr, and nothing made or changed.
local function assert_refused(pattern, command)
  local before = everything()
  local status, out, err = sh(command)
  assert.matches("^rille: [^\n]*\n$", err)
  assert.matches(pattern, err)
  assert.equal("", out)
  assert.equal(1, status)
  assert.same(before, everything())
end

local function get(port, path)
  local client = server.client.connect("tcp://127.0.0.1:" .. port)
  client:send(("GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"):format(path))
  return client:receive_all()
end

describe("rille new", function()
  after_each(server.cleanup)

  it("makes the files of a project and says so", function()
    assert.equal("made shop/conf/rille.lua\nmade shop/scripts/shop.lua\nmade shop/spec/shop_spec.lua\nmade shop/README.md\n"
      .. "try: cd shop && rille run\n", must("rille new shop"))
    assert.same(project("shop"), everything())
  end)

  it("makes files and folders as the umask has it", function()
    must("umask 027 && rille new shop")
    assert.equal("750 shop\n640 shop/README.md\n750 shop/conf\n", must("stat -c '%a %n' shop shop/README.md shop/conf"))
  end)

  -- the shortest, the longest, letters of every kind, words that mean something to Lua, to busted and to the layout
  for _, name in ipairs { "a", ("x"):rep(64), "My-Shop_2-", "end", "foo_spec", "spec", "string", "testing" } do
    it(("makes a project called %s that is good and passes its tests"):format(#name < 20 and name or "x..."), function()
      must("rille new " .. name)
      local folder = server.folder() .. "/" .. name
      assert.equal(("ok conf/rille.lua\nok scripts/%s.lua\n"):format(name), must("rille check", folder))
      assert.matches("3 successes / 0 failures / 0 errors / 0 pending", must("rille test", folder))
    end)
  end

  it("makes a project that serves what its banner names", function()
    must("rille new shop")
    local folder, port = server.folder() .. "/shop", server.net.free_port()
    must(("sed -i 's/8080/%d/' conf/rille.lua"):format(port), folder)
    local one = server.spawn(nil, { command = { "sh", "-c", 'cd "$0" && exec "$@"', folder, RILLE, "run" } })
    one:wait_log(("try: curl http://127%%.0%%.0%%.1:%d/\n"):format(port))
    assert.matches("^HTTP/1.1 200 .*\r\n\r\nHello, World!\n$", get(port, "/"))
    assert.matches('^HTTP/1.1 200 .*application/json.*\r\n\r\n{"greeting":"Hello, World!"}$', get(port, "/json"))
    assert.matches("^HTTP/1.1 404 .*\r\n\r\nnot found\n$", get(port, "/nothing"))
    one:stop()
  end)

  it("makes a project whose Lua is clean", function()
    if os.execute("command -v luacheck >/dev/null") ~= 0 then return pending("luacheck is not installed") end
    must("rille new shop && luacheck -q --no-cache --no-default-config --std luajit --max-line-length 140 shop/conf shop/scripts && "
      .. "luacheck -q --no-cache --no-default-config --std luajit+busted --max-line-length 140 shop/spec")
  end)

  it("takes a path", function()
    must("mkdir -p 'a b/c' && rille new 'a b/c/shop' && rille new ./shop/ && rille new \"$PWD/third\"")
    assert.matches("\ntry: cd '[^']*/a b/fourth' && rille run\n$", must("rille new \"$PWD/a b/fourth\""))
    must("rille check", server.folder() .. "/a b/c/shop")
    must("rille check", server.folder() .. "/shop")
    must("rille check", server.folder() .. "/third")
  end)

  it("touches nothing that is there", function()
    must("mkdir empty full && echo mine > full/file && echo mine > file && ln -s nowhere link")
    for _, name in ipairs { "empty", "full", "file", "link" } do
      assert_refused(("^rille: %s is there already; nothing was changed\n$"):format(name), "rille new " .. name)
    end
    assert.equal("mine\nmine\n", must("cat full/file file"))
  end)

  it("says why it cannot make the folder", function()
    must("touch file")
    assert_refused("^rille: cannot make no/shop: No such file or directory\n$", "rille new no/shop")
    assert_refused("^rille: cannot make file/shop: Not a directory\n$", "rille new file/shop")
    assert_refused("^rille: cannot make /sys/shop: %u[%a -]+\n$", "rille new /sys/shop") -- read-only, for root as well
  end)

  it("leaves nothing of a folder that it cannot fill", function()
    -- no file may have a byte; through a pipe, because that holds for the files of this spec as well
    local status, out = sh("{ trap '' XFSZ; ulimit -f 0; rille new shop; echo $?; } 2>&1 | cat")
    assert.equal(0, status)
    assert.matches("^rille: cannot write shop/conf/rille.lua: File too large\n1\n$", out)
    assert.same({}, everything())
  end)

  it("refuses a bad name", function()
    for _, name in ipairs { "9lives", "_shop", "a.b", "a b", "a%s", "tür", "..", ".", "/", "", ("x"):rep(65), "shop/.hidden" } do
      assert_refused("^rille: \"[^\n]*\" is no name of a project; expected letters, digits, %- and _, a letter first, at most 64\n$",
        "rille new " .. quote(name))
    end
    for _, name in ipairs { "rille", "cjson" } do
      assert_refused(("^rille: \"%s\" is a library's name: require \"%s\" would find the script; take another\n$"):format(name, name),
        "rille new " .. name)
    end
  end)

  it("says what a call lacks or has too much", function()
    for command, message in pairs {
      ["rille new"] = "rille new: a name is missing: rille new NAME",
      ["rille new a b"] = "rille new: surplus argument 'b'",
      ["rille new --force a"] = "rille new: unknown option '--force'",
      ["rille nwe a"] = "rille: unknown command 'nwe'; did you mean 'new'?",
    } do
      local status, out, err = sh(command)
      assert.equal(("%s\ntry '%s --help'\n"):format(message, message:match("^[^:]+")), err)
      assert.equal("", out)
      assert.equal(2, status)
    end
    assert.same({}, everything())
  end)

  it("has help, and is named in that of the command", function()
    assert.matches("^usage: rille new NAME\n", must("rille new --help"))
    assert.equal(must("rille new --help"), must("rille help new"))
    assert.matches("\n  new NAME ", must("rille --help"))
  end)
end)
