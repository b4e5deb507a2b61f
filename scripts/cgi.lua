-- cgi: runs the programs in a folder: any request to /NAME/rest?query runs NAME with the body as its input, in the manner of CGI
-- (RFC 3875), and answers with what it writes: fields, an empty line, the content. One that takes longer than options.limit (5) seconds is
-- killed, with all it has started.
--
--   rille run scripts/cgi.lua --listen http://127.0.0.1:8080 -- root=./cgi-bin limit=10

local rille = require "rille"

local options = ...
local root = tostring(options.root or "./cgi-bin"):gsub("/+$", "")
local limit = tonumber(options.limit) or 5

local function answer(res, status, text)
  res.status = status
  return res:send(text .. "\n")
end

local function variables(req, name, rest, size)
  local env = {
    GATEWAY_INTERFACE = "CGI/1.1", SERVER_PROTOCOL = "HTTP/1.1", REQUEST_METHOD = req.method, SCRIPT_NAME = "/" .. name,
    PATH_INFO = rest, QUERY_STRING = tostring(req.query), CONTENT_LENGTH = size, REMOTE_ADDR = req.remote,
    PATH = os.getenv "PATH",
  }
  for field, value in pairs(req:headers()) do
    if field ~= "proxy" then env["HTTP_" .. field:upper():gsub("%-", "_")] = value end -- HTTP_PROXY means something else
  end
  return env
end

-- The program's fields, then its content.
local function pass_on(res, output)
  local head, content = output:match("^(.-\n)\r?\n(.*)$")
  if not head then return answer(res, 502, "the program's answer has no head") end
  for field, value in head:gmatch("([^\r\n:]+):[ \t]*([^\r\n]*)") do
    if field:lower() == "status" then
      res.status = math.min(math.max(tonumber(value:match "^%d+") or 500, 200), 599)
    else
      res:header(field, value)
    end
  end
  return res:send(content)
end

return function(req, res)
  local name, rest = req.path:match("^/([%w_-]+)(.*)$")
  if not name then return answer(res, 404, "not found") end
  local body = req:body()
  if not body then return end -- the server has said why
  local status, output, err = rille.process.run {
    root .. "/" .. name, input = body, env = variables(req, name, rest, #body), inherit_env = false, stderr = "inherit",
    timeout = limit,
  }
  if status then return pass_on(res, output) end
  if output == "not found" then return answer(res, 404, "not found") end
  rille.log.warn("%s: %s", name, err)
  return answer(res, output == "timeout" and 504 or 502, output)
end
