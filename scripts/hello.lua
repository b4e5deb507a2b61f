-- The smallest HTTP server: one answer to every request.
--
--   rille run scripts/hello.lua --listen http://127.0.0.1:8080
--   curl http://127.0.0.1:8080/

return function(req, res)
  res:send("Hello, World!")
end
