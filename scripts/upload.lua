-- upload: PUT /NAME puts the body into a file below a folder, bit by bit, whatever its size. The file appears under its name when it is
-- complete: an upload that breaks off leaves what was there before. GET /NAME sends it back, DELETE /NAME removes it.
--
--   rille run scripts/upload.lua --listen http://127.0.0.1:8080 -- root=./files
--   curl -T picture.jpg http://127.0.0.1:8080/picture.jpg
--
-- Whoever can reach the address may write: put something in front of it that asks who it is. The largest body is `limits.body` of the
-- server's configuration (1 MiB unless it says otherwise), which is refused with 413 before anything is written.

local rille = require "rille"

local options = ...
local root = tostring(options.root or "."):gsub("/+$", "")

local STATUS = { ["not found"] = 404, ["permission denied"] = 403, full = 507, ["invalid argument"] = 409, timeout = 503 }

local function answer(res, status, text)
  res.status = status
  return res:send(text .. "\n")
end

local function fail(res, err)
  return answer(res, STATUS[err] or 500, err)
end

-- What there is of the body, into the file. True, or nil, err.
local function receive(req, file)
  while true do
    local piece, err = req:read(65536)
    if not piece then return err == nil, err end
    local ok
    ok, err = file:write(piece)
    if not ok then return nil, err end
  end
end

local function put(req, res, path)
  local is_new = not rille.fs.exists(path)
  local file, err = rille.fs.open(path, "w", { atomic = true })
  if not file then return fail(res, err) end
  local ok
  ok, err = receive(req, file)
  if ok then ok, err = file:commit() end
  file:close() -- one that was not committed is removed
  if not ok then return not res:is_sent() and fail(res, err) end
  return answer(res, is_new and 201 or 200, "stored")
end

local methods = {
  PUT = put,
  GET = function(_, res, path)
    local ok, err = res:file(path)
    if not ok and not res:is_sent() then fail(res, err) end
  end,
  DELETE = function(_, res, path)
    local ok, err = rille.fs.remove(path)
    return ok and answer(res, 200, "removed") or fail(res, err)
  end,
}

return function(req, res)
  local name = req.path:match("^/([^/.][^/]*)$") -- no folders, nor names that begin with a dot
  local method = methods[req.method]
  if not method then
    res:header("Allow", "DELETE, GET, PUT")
    return answer(res, 405, "PUT, GET or DELETE")
  end
  if not name then return answer(res, 404, "not found") end
  return method(req, res, root .. "/" .. name)
end
