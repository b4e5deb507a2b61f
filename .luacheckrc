std = "luajit"
cache = false
max_line_length = 120
codes = true

files["spec"] = { std = "+busted" }
-- a handler script gets its parameters as `...` and need not use every argument of a callback
files["scripts"] = { unused_args = false }
files["rockspec"] = { std = "+rockspec" }
files[".busted"] = { std = "luajit" }
-- the lines the shell reads are a Lua string that nothing uses
files["bin/rille"] = { ignore = { "111/_", "113/_" } }
