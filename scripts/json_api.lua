-- json_api: notes in memory, as JSON.
--
--   GET /notes                   200  {"1":{"text":"milk"}, ...}
--   POST /notes {"text":"milk"}  201  the note, and its address as Location
--   GET, PUT, DELETE /notes/1    200, 200, 204; 404 for a note that is not there
--
--   rille run scripts/json_api.lua --listen http://127.0.0.1:8080
--   curl -d '{"text":"milk"}' http://127.0.0.1:8080/notes

local notes, last_id = {}, 0

local function fail(res, status, message)
  res.status = status
  return res:json { error = message }
end

-- The note in the request's body; nil when there is none, and then that was answered.
local function read_note(req, res)
  local note, _, message = req:json()
  if type(note) == "table" and type(note.text) == "string" then return { text = note.text } end
  if note == nil and not message then return nil end -- the body never came: the server has answered
  fail(res, 400, message or 'expected {"text": "..."}')
end

local all, one = {}, {}

function all.GET(_, res) return res:json(notes) end

function all.POST(req, res)
  local note = read_note(req, res)
  if not note then return end
  last_id = last_id + 1
  notes[tostring(last_id)] = note -- a string: a table with keys 1, 2, 3 would be a list
  res.status = 201
  res:header("Location", "/notes/" .. last_id)
  return res:json(note)
end

function one.GET(_, res, id) return res:json(notes[id]) end

function one.PUT(req, res, id)
  local note = read_note(req, res)
  if not note then return end
  notes[id] = note
  return res:json(note)
end

function one.DELETE(_, res, id)
  notes[id] = nil
  res.status = 204
end

return function(req, res)
  local id = req.path:match("^/notes/(%d+)$")
  if (id and not notes[id]) or not (id or req.path == "/notes") then return fail(res, 404, "not found") end
  local method = (id and one or all)[req.method == "HEAD" and "GET" or req.method]
  if method then return method(req, res, id) end
  res:header("Allow", id and "GET, HEAD, PUT, DELETE" or "GET, HEAD, POST")
  return fail(res, 405, "method not allowed")
end
