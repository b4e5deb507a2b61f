-- vm: what every Lua state that Rille makes gets, on a loop or in a worker: a seed, a print that goes to the log.

local C = require "rille.core"
local log = require "rille.log"

local vm = {}

-- The states that are made from here on take the library's code from memory, where the first of them puts it.
local root = debug.getinfo(1, "S").source:match("^@(.*)rille/vm%.lua$")
if root then C.rille_chunks_set_library(root) end

-- A seed from the kernel: every fresh state would give the same random numbers otherwise.
function vm.seed()
  local file = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(6)
  if file then file:close() end
  local n = bytes and 0 or os.time()
  for i = 1, bytes and #bytes or 0 do n = n * 256 + bytes:byte(i) end
  math.randomseed(n)
end

function vm.print_to_log(...)
  local parts = { ... }
  for i = 1, select("#", ...) do parts[i] = tostring(parts[i]) end
  log.record("info", 1, nil, "%s", table.concat(parts, "\t"))
end

-- A global that is new from here on is named in the log with the place that sets it, once: mostly a `local` was forgotten. Each loop
-- has its own, and the next generation none. A script that gives _G a metatable of its own is left alone.
function vm.watch_globals()
  if getmetatable(_G) then return end
  local named = {}
  setmetatable(_G, { __newindex = function(globals, name, value)
    rawset(globals, name, value)
    if named[name] then return end
    named[name] = true
    local info = debug.getinfo(2, "Sl")
    log.warn("%s:%d: sets the global '%s', which this loop alone has, and the next generation has not: is a local meant, or a dict?",
      info and info.short_src or "?", info and info.currentline or 0, tostring(name))
  end })
end

-- A chunk that runs main(...) of a module of the library, found where this state found it.
function vm.source(module)
  return ("package.path, package.cpath = %q, %q\nreturn require(%q).main(...)"):format(package.path, package.cpath, module)
end

return vm
