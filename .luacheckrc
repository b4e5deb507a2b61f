std = "luajit"
cache = false
max_line_length = 140
codes = true
ignore = { "581" } -- `not (x >= y)` is how a NaN is caught

files["spec"] = { std = "+busted" }
-- a handler script gets its parameters as `...` and need not use every argument of a callback
files["scripts"] = { unused_args = false }
files["rockspec"] = { std = "+rockspec" }
-- the files that change a library of Lua's
files["lua/rille/pairs.lua"] = { globals = { "next", "pairs" } }
files["lua/rille/coroutine.lua"] = { globals = { coroutine = { read_only = false, other_fields = true } } }
-- the lines the shell reads are a Lua string that nothing uses
files["bin/rille"] = { ignore = { "111/_", "113/_" } }
