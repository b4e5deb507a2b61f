-- The template of scripts/NAME.lua.

return [=[
-- {{name}}: GET / answers with a greeting, GET /json with the same as JSON, everything else with 404.

local options = ...
local greeting = options.greeting or "Hello, World!"

local pages = {}

pages["/"] = function(_, res)
  res:send(greeting .. "\n")
end

pages["/json"] = function(_, res)
  res:json { greeting = greeting }
end

-- Called for each request, in a task of its own: what waits in here (a body, rille.sleep) keeps nobody else waiting.
return function(req, res)
  local is_read = req.method == "GET" or req.method == "HEAD"
  local page = is_read and pages[req.path]
  if page then return page(req, res) end
  res.status = 404
  res:send("not found\n")
end
]=]
