-- folders: inotify watches on the folders that decide what the paths of files name. For a path these are all on its way from the
-- root: each may be moved, replaced, or a link that begins to point elsewhere. A watch belongs to a folder, not to its path, and all
-- files that need it share it; the last one that needs it no more takes it away.
--
-- An entry is a table of files.lua about one path. Here it has: full (the path from the root), links (watch and name, in turn),
-- is_blind (some of this cannot be watched), is_reached (its way ends at a regular file).

local ffi = require "ffi"
local C = require "rille.core"
local errors = require "rille.errors"
local log = require "rille.log"

local LINKS_MAX = 40 -- as many as the kernel follows
local ROOM = 4096
local EVENTS_MAX = 8192 -- in one go

local WRITTEN, CLOSED, CREATED = C.RILLE_FILE_EVENT_WRITTEN, C.RILLE_FILE_EVENT_CLOSED, C.RILLE_FILE_EVENT_CREATED
local FOLDER, END, LOST = C.RILLE_FILE_EVENT_FOLDER, C.RILLE_FILE_EVENT_END, C.RILLE_FILE_EVENT_LOST
local FILE_KIND, FOLDER_KIND, LINK_KIND = ("fdl"):byte(1, 3)

local text_box, err_box = ffi.new("char[?]", ROOM), ffi.new("int[1]")

local Folders = {}
Folders.__index = Folders

local M = { WRITTEN = WRITTEN, CLOSED = CLOSED, CREATED = CREATED, LOST = LOST }

local ADVICE = {
  watches = "fs.inotify.max_user_watches is used up: files are looked at once a second where it does not suffice; "
    .. "raise it (sysctl fs.inotify.max_user_watches=524288)",
  instances = "no inotify instance (%s): files are looked at once a second; raise fs.inotify.max_user_instances "
    .. "(sysctl fs.inotify.max_user_instances=1024) or the number of open files",
  other = "cannot watch %s (%s): its files are looked at once a second",
}

local function warn(self, what, ...)
  if self.warned[what] then return end
  self.warned[what] = true
  log.record("warn", "reload.folders." .. what, nil, ADVICE[what], ...)
end

function M.new()
  local self = setmetatable({
    watches = {},  -- by number: { number, names = { name -> { entry -> walk } }, count = of these pairs }
    count = 0,     -- of watches
    walks = 0,     -- each gives its links a number of its own
    added = {}, added_all = {}, steps = {}, targets = {}, -- what a pass has found out, by path
    event = ffi.new("rille_file_event"),
    budget = 0,    -- of events
    warned = {},
  }, Folders)
  local handle = C.rille_file_watch_new(err_box)
  if handle == nil then
    warn(self, "instances", errors.text[-err_box[0]])
  else
    self.handle = ffi.gc(handle, C.rille_file_watch_free)
    self.fd = C.rille_file_watch_fd(handle)
  end
  return self
end

-- Forget all; nobody waits for the descriptor any more.
function Folders:close()
  local handle = self.handle
  self.handle, self.fd, self.watches, self.count = nil, nil, {}, 0
  if handle then C.rille_file_watch_free(ffi.gc(handle, nil)) end
end

-- ---- watches -----------------------------------------------------------------------------------------------------

-- A pass is several walks between which no events are taken: what one of them has looked at, the next need not. A folder is watched
-- before anything in it is looked at, so what changes later makes an event.
function Folders:begin_pass()
  self.added, self.added_all, self.steps, self.targets = {}, {}, {}, {}
end

-- The watch of a folder, or nil, err. It is asked for again in each pass, for only the kernel knows whether this is the same folder.
local function add(self, folder, all)
  local known = self.added_all[folder] or not all and self.added[folder]
  if known then return known end
  if not self.handle then return nil, "too many open files" end
  local number = C.rille_file_watch_add(self.handle, folder, all and 1 or 0)
  if number < 0 then return nil, errors.text[-number] end
  local watch = self.watches[number]
  if not watch then
    watch = { number = number, names = {}, count = 0 }
    self.watches[number] = watch
    self.count = self.count + 1
  end
  self.added[folder] = watch
  if all then self.added_all[folder] = watch end
  return watch
end

local function forget(self, watch)
  if self.watches[watch.number] ~= watch then return end
  self.watches[watch.number] = nil
  self.count = self.count - 1
end

local function link(self, watch, name, entry)
  local entries = watch.names[name]
  if not entries then
    entries = {}
    watch.names[name] = entries
  end
  local walk = entries[entry]
  entries[entry] = self.walks
  if walk == self.walks then return end
  if not walk then watch.count = watch.count + 1 end
  local links = entry.links
  links[#links + 1], links[#links + 2] = watch, name
end

-- Take away those of links that no walk since has made again.
local function unlink(self, links, entry, walk)
  for i = 1, #links, 2 do
    local watch, name = links[i], links[i + 1]
    local entries = watch.names[name]
    if entries and entries[entry] and entries[entry] ~= walk then
      entries[entry] = nil
      if next(entries) == nil then watch.names[name] = nil end
      watch.count = watch.count - 1
    end
  end
  -- in a second go: a folder may have several of the names
  for i = 1, #links, 2 do
    local watch = links[i]
    if watch.count == 0 and self.watches[watch.number] == watch then
      forget(self, watch)
      C.rille_file_watch_remove(self.handle, watch.number)
    end
  end
end

-- ---- the way of a path -------------------------------------------------------------------------------------------

local function step(self, path)
  local kind = self.steps[path]
  if kind then return kind end
  kind = C.rille_file_watch_step(path, text_box, ROOM)
  self.steps[path] = kind
  if kind == LINK_KIND then self.targets[path] = ffi.string(text_box) end
  return kind
end

-- Put the names of a path onto a stack, the first one on top.
local function push(stack, path)
  local names = {}
  for name in path:gmatch("[^/]+") do
    if name ~= "." then names[#names + 1] = name end
  end
  for i = #names, 1, -1 do stack[#stack + 1] = names[i] end
end

local function refuse(self, entry, folder, err)
  if err == "not found" then return end -- it went just now, which the folder above has an event for
  entry.is_blind = true
  if not self.handle then return end -- and has been warned of
  if err == "full" then return warn(self, "watches") end
  if err ~= "permission denied" then return warn(self, "other", folder, err) end
end

-- One name of the way, seen from folder: the folder to go on from, or nil when it ends here.
local function go(self, entry, folder, name, stack)
  local is_last = #stack == 0
  local watch, err = add(self, folder, is_last)
  if watch then
    link(self, watch, name, entry)
  else
    refuse(self, entry, folder, err)
  end
  local path = folder == "/" and "/" .. name or folder .. "/" .. name
  local kind = step(self, path)
  if kind == FOLDER_KIND then return path end
  if kind ~= LINK_KIND then
    entry.is_reached = kind == FILE_KIND and is_last
    return nil
  end
  local target = self.targets[path]
  push(stack, target)
  return target:sub(1, 1) == "/" and "/" or folder
end

-- Walk the way of an entry as far as it goes, and watch what it goes by; again after something on it changed.
function Folders:follow(entry)
  local old = entry.links
  self.walks = self.walks + 1
  entry.links, entry.is_blind, entry.is_reached = {}, false, false
  local stack, folder, last, links = {}, "/", "/", 0
  push(stack, entry.full)
  while folder and #stack > 0 do
    last = folder
    local name = table.remove(stack)
    local before = #stack
    if name == ".." then
      folder = folder:match("^(.+)/[^/]*$") or "/"
    else
      folder = go(self, entry, folder, name, stack)
      if #stack > before then links = links + 1 end
      if links > LINKS_MAX then break end
    end
  end
  if C.rille_file_watch_is_blind(last) == 1 then entry.is_blind = true end
  if old then unlink(self, old, entry, self.walks) end
end

function Folders:drop(entry)
  local links = entry.links
  entry.links = nil
  if links and self.handle then unlink(self, links, entry) end
end

-- ---- events ------------------------------------------------------------------------------------------------------

-- Everybody who needs the watch, who all have to walk again.
local function all_of(watch)
  local all = {}
  for _, entries in pairs(watch.names) do
    for entry in pairs(entries) do all[entry] = true end
  end
  return all
end

function Folders:begin_events()
  self.budget = EVENTS_MAX
end

-- The next event that somebody cares for: its kind and a set of entries, which is to be read only (LOST: nil, all are meant). Nothing
-- when there is none, or enough were taken since begin_events; false, err when that cannot be told.
function Folders:next()
  local event, watches = self.event, self.watches
  while self.budget > 0 do
    self.budget = self.budget - 1
    local rc = C.rille_file_watch_next(self.handle, event)
    if rc == 0 then return nil end
    if rc < 0 then return false, errors.text[-rc] end
    local kind = event.kind
    if kind == LOST then return kind end
    local watch = watches[event.watch]
    if watch then
      if kind == END then forget(self, watch) end
      if kind == END or kind == FOLDER then return kind, all_of(watch) end
      -- most events in a busy folder end here
      local entries = watch.names[ffi.string(event.name)]
      if entries then return kind, entries end
    end
  end
end

return M
