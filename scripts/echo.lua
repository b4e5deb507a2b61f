-- echo: sends back what it gets. The bytes go out of the very blocks they were read into.
--
--   rille run scripts/echo.lua --listen tcp://127.0.0.1:7000
--   printf 'hello\n' | nc -q1 127.0.0.1 7000

return function(conn)
  conn:write(conn:next(conn:len()))
end
