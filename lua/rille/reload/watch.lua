-- watch: reloads servers when a file of theirs changes: what their generation loaded, what it looked for and did not find, and what the
-- configuration names. A generation that was refused is watched beside the one that serves, so that mending it is seen.

local C = require "rille.core"
local chunk = require "rille.chunk"
local files = require "rille.reload.files"
local log = require "rille.log"
local timer = require "rille.timer"

local watch = {}

local LOOK_S = 1 -- between two looks whether a generation has loaded more

local watcher = nil

-- Add what a generation has loaded. How much that is, as a number that grows.
local function add_files(one, paths, missing)
  local set = one and chunk.find(C.rille_chunks_id(C.rille_generation_chunks(one.g)))
  if not set then return 0 end
  for _, file in ipairs(set:files()) do paths[#paths + 1] = file.absolute end
  for _, path in ipairs(set:misses()) do missing[#missing + 1] = path end
  local version = set:version()
  set:release()
  return version
end

local function version_of(one)
  return one and C.rille_chunks_version(C.rille_generation_chunks(one.g)) or 0
end

-- What is watched for a server, as of now. since: rille.time() before its generation began to load; nil: it had.
function watch.renew(server, since)
  if not watcher or not server.reload.watch or server.is_gone then return end
  local paths, missing = {}, {}
  for _, path in ipairs(server.reload.depends) do paths[#paths + 1] = path end
  server.watched = add_files(server.current, paths, missing) + add_files(server.refused, paths, missing)
  watcher:set(server.number, paths, missing, since)
end

-- The same for the configuration: loads: its file and what that loads; refused: servers of it that did not come up.
function watch.renew_conf(reload, loads, refused, since)
  if not watcher or not reload.watch then return end
  local paths, missing = { unpack(loads) }, {}
  for _, server in ipairs(refused) do add_files(server.refused, paths, missing) end
  watcher:set("conf", paths, missing, since)
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

-- From now on on_change(numbers of servers, and "conf", paths) is called when something of theirs has changed. conf: quiet, longest.
function watch.start(servers, conf, on_change)
  watcher = files.watch(function(keys, paths)
    log.info("changed: %s", table.concat(paths, ", "))
    on_change(keys)
  end, { quiet = conf.quiet, longest = conf.longest })
  timer.every(LOOK_S, function() look(servers) end)
end

return watch
