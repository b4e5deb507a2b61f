-- What http1_probe.py expects of a server: 200 with "Hello, World!", and the body of a request to /echo.

return function(req, res)
  if req.path ~= "/echo" then return res:send("Hello, World!") end
  local body = req:body()
  if body then res:send(body) end
end
