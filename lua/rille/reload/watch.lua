-- watch: reloads servers when a file of theirs changes: what their generation loaded, what it looked for and did not find, and what the
-- configuration names. A generation that was refused is watched beside the one that serves, so that mending it is seen. What is there is
-- compared with what was loaded, so an event that changed nothing is none, and nothing is missed before the watch began.

local ffi = require "ffi"

local C = require "rille.core"
local chunk = require "rille.chunk"
local files = require "rille.reload.files"
local log = require "rille.log"
local timer = require "rille.timer"

local watch = {}

local LOOK_S = 1 -- between two looks whether a generation has loaded more

local watcher = nil
local on_change = nil

local function chunks_of(one)
  return C.rille_generation_chunks(one.g)
end

-- Add what a generation has loaded. How much that is, as a number that grows.
local function add_files(one, paths, missing)
  local set = one and chunk.find(C.rille_chunks_id(chunks_of(one)))
  if not set then return 0 end
  for _, file in ipairs(set:files()) do paths[#paths + 1] = file.absolute end
  for _, path in ipairs(set:misses()) do missing[#missing + 1] = path end
  local version = set:version()
  set:release()
  return version
end

local function version_of(one)
  return one and C.rille_chunks_version(chunks_of(one)) or 0
end

-- The first file that is not as the generation found it; nil: all are.
local function changed(one)
  local path = C.rille_chunks_changed(chunks_of(one))
  return path ~= nil and ffi.string(path) or nil
end

-- Whether a generation is of what is there now.
local function is_fresh(one)
  return one and not changed(one)
end

-- A reload is due when what is there is neither what serves, nor what is about to, nor what was refused.
local function is_due(server)
  if is_fresh(server.coming) or is_fresh(server.refused) then return false end
  local path = not server.current and "a file" or changed(server.current)
  if path then log.info("%s: %s has changed", server.current and server.current.label or server.name, path) end
  return path ~= nil
end

-- What a generation depends on beside what it loads, before it does.
function watch.expect(server, one)
  for _, path in ipairs(server.reload.depends) do C.rille_chunks_note(chunks_of(one), path, C.RILLE_CHUNK_DATA) end
end

-- Watch the files of a server's generations, as they are now.
function watch.renew(server)
  if not watcher or not server.reload.watch or server.is_gone then return end
  local paths, missing = {}, {}
  server.watched = add_files(server.current, paths, missing) + add_files(server.refused, paths, missing)
  watcher:set(server.number, paths, missing)
  if server.current and is_due(server) then on_change { [server.number] = true } end
end

-- The same for the configuration: loads: its file and what that loads; refused: servers of it that did not come up.
function watch.renew_conf(reload, loads, refused)
  if not watcher or not reload.watch then return end
  local paths, missing = { unpack(loads) }, {}
  for _, server in ipairs(refused) do add_files(server.refused, paths, missing) end
  watcher:set("conf", paths, missing)
end

-- Other settings hold from now on.
function watch.tune(reload)
  if not watcher then return end
  watcher.quiet, watcher.longest = reload.quiet, reload.longest
  if not reload.watch then watcher:remove("conf") end
end

function watch.forget(server)
  server.watched = nil
  if watcher then watcher:remove(server.number) end
end

local function look(servers)
  for _, server in pairs(servers) do
    if server.watched and version_of(server.current) + version_of(server.refused) ~= server.watched then watch.renew(server) end
  end
end

-- From now on changed_keys(set) is called when something is to be loaded anew: of numbers of servers, and "conf". conf: quiet, longest.
function watch.start(servers, conf, changed_keys)
  on_change = changed_keys
  watcher = files.watch(function(keys)
    local due = { conf = keys.conf }
    for number in pairs(keys) do
      if servers[number] and is_due(servers[number]) then due[number] = true end
    end
    if next(due) then on_change(due) end
  end, { quiet = conf.quiet, longest = conf.longest })
  timer.every(LOOK_S, function() look(servers) end)
end

return watch
