-- 1 KiB of JSON, from a table that is built anew for each request: what bench/http.lua measures beside hello.
--
--   rille run bench/json_answer.lua --listen http://127.0.0.1:8080
--   curl http://127.0.0.1:8080/items

return function(req, res)
  local path, items = req.path, {}
  for i = 1, 10 do
    local id = 1000 + i
    items[i] = { id = id, href = path .. "/" .. id, name = "An item of medium length", price = 19.95, is_new = true }
  end
  res:json { path = path, method = req.method, count = #items, items = items }
end
