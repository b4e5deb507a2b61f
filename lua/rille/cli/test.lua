-- test: `rille test`, busted inside a loop. busted runs specs in coroutines of its own, which hand a park on to the task they
-- run in, so that specs may call anything that parks.

local task = require "rille.cli.task"

local test = {}

test.help = [[
usage: rille test [SPEC ...] [-- OPTIONS OF BUSTED]

Run busted inside a loop: specs may call everything of Rille, that parks too. SPEC is a file or a folder; without one,
busted takes spec/ or what .busted says. Exit status 0 if all passed.
]]

test.spec = { positional = math.huge, rest = true, options = {} }

-- Modules stay what they are while busted insulates files from each other: FFI types cannot be declared twice.
local LIBRARY = { "rille", "rille.linkbuffer", "rille.slice", "rille.testing" }

function test.main(given)
  for _, file in ipairs(given) do
    local f, message = io.open(file)
    if not f then return nil, "cannot open " .. message end
    f:close()
  end
  local has_busted = package.searchpath("busted.runner", package.path)
  if not has_busted then
    return nil, "busted is not installed for LuaJIT (Debian: apt-get install lua-busted; luarocks --lua-version=5.1 install busted)"
  end
  -- .busted may name another interpreter, which would leave the loop
  arg = { [0] = "rille test", "--ignore-lua" } -- luacheck: ignore 121
  for _, one in ipairs(given.rest or {}) do arg[#arg + 1] = one end -- luacheck: ignore 122
  for _, file in ipairs(given) do arg[#arg + 1] = file end -- luacheck: ignore 122
  return task.run("test", function()
    for _, name in ipairs(LIBRARY) do require(name) end
    -- busted calls itself by the file that calls it; after failures it raises nil, so that the interpreter ends with 1
    local run = assert(load("local runner = ...; runner { standalone = false } return true", "@rille test"))
    local ok, result = pcall(run, require "busted.runner")
    if not ok and result ~= nil then error(result, 0) end
    if not ok then os.exit(1) end
  end, {})
end

return test
