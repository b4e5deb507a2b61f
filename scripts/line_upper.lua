-- line_upper: answers each line with the same line in capitals; "quit" ends the conversation.
--
--   rille run scripts/line_upper.lua --listen tcp://127.0.0.1:7000 -- max=200
--   printf 'hello\nquit\n' | nc 127.0.0.1 7000

local options = ...
local max = options.max or 1000 -- bytes of a line, its end not counted

return function(conn)
  local line, err = conn:read_line(max)
  if not line then
    if err == "too large" then conn:write("line too long\n") end
    return conn:close()
  end
  if line == "quit" then
    conn:write("bye\n")
    return conn:close()
  end
  conn:write(line:str():upper() .. "\n")
end
