-- static_files: serves the files below a folder; "/" at the end of a path means index.html in that folder.
--
--   rille run scripts/static_files.lua --listen http://127.0.0.1:8080 -- root=./public
--
-- req.path is decoded and normalized, so it cannot lead out of the folder by "..". Symbolic links can: they are followed. Let nobody
-- make any in the folder who may not read what they lead to. Files and folders whose names begin with a dot are not served.

local options = ...
local root = tostring(options.root or "."):gsub("/+$", "") -- relative to the current folder of the process

local function answer(res, status, text)
  res.status = status
  return res:send(text .. "\n")
end

return function(req, res)
  if req.method ~= "GET" and req.method ~= "HEAD" then
    res:header("Allow", "GET, HEAD")
    return answer(res, 405, "files are read with GET")
  end
  local path = req.path
  if path:find("/.", 1, true) then return answer(res, 404, "not found") end
  if path:sub(-1) == "/" then path = path .. "index.html" end

  local ok, err = res:file(root .. path)
  if ok or res:is_sent() then return end -- sent, or the client left in the middle of it
  if err == "not found" then return answer(res, 404, "not found") end
  return answer(res, err == "permission denied" and 403 or 500, err)
end
