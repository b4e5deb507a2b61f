-- files: tells when files that a server was loaded from have another content. Whose they are is said by keys; one change of several
-- files is one call. See docs/reload.md, "What is watched". Runs as tasks of the loop that called watch(); its methods do not park.

local ffi = require "ffi"
local C = require "rille.core"
local channel = require "rille.channel"
local folders = require "rille.reload.folders"
local log = require "rille.log"
local misuse = require "rille.misuse"
local paths_of = require "rille.config.paths"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local QUIET, LONGEST = 0.05, 0.5 -- seconds
local PAUSE = 0.01 -- between looks for events: what many writes beside the files cost is bounded by it
local POLL = 1     -- between looks at what cannot be watched
local MISSING = 0 -- beside contents, which are above 0

local WRITTEN, CLOSED, CREATED, LOST = folders.WRITTEN, folders.CLOSED, folders.CREATED, folders.LOST

local Files = {}
Files.__index = Files

local M = {}

-- ---- what has changed ------------------------------------------------------------------------------------------

-- Something may have happened to an entry; the settler is told by notify.
local function touch(self, entry)
  local now = C.rille_now()
  self.dirty[entry] = true
  self.first = self.first or now
  self.last = now
end

local function notify(self)
  if self.first then self.bell:send(true, 0) end
end

local function touch_all(self)
  for _, entry in pairs(self.entries) do
    entry.is_open = false
    self.lost[entry] = true
    touch(self, entry)
  end
end

-- An event of one entry.
local function note(self, entry, kind)
  -- somebody is at it; in the second case if it turns out to be a file
  entry.is_open, entry.is_created = kind == WRITTEN, kind == CREATED
  if kind ~= WRITTEN and kind ~= CLOSED then self.lost[entry] = true end
  touch(self, entry)
end

-- Where the way of an entry ends.
local function end_of(entry)
  local links = entry.links
  return links[#links - 1], links[#links]
end

-- Walk again where a name on the way has changed: at once, so that what happens in new folders is not missed.
local function follow_lost(self)
  local lost = self.lost
  if next(lost) == nil then return end
  self.lost = {}
  self.folders:begin_pass()
  for entry in pairs(lost) do
    local watch, name = end_of(entry)
    self:_follow(entry)
    -- Who makes a file has it open, and closes it when its content is there; but a link may have been made.
    local watch_now, name_now = end_of(entry)
    if entry.is_created and entry.is_reached and watch == watch_now and name == name_now then entry.is_open = true end
    entry.is_created = false
  end
end

-- Take the events there are. False when that does not work.
local function take_events(self)
  self.folders:begin_events()
  while true do
    local kind, entries = self.folders:next()
    if not kind then
      if kind == false then
        log.record("error", "reload.files.read", nil, "cannot read what happened to files: %s", entries)
        touch_all(self)
      end
      follow_lost(self)
      notify(self)
      return kind == nil
    end
    if kind == LOST then
      touch_all(self)
    else
      for entry in pairs(entries) do note(self, entry, kind) end
    end
  end
end

local function look(self)
  while not self.is_closed do
    local ok, err = timer.wait(self.folders.fd, "r")
    if self.is_closed then return end
    if not ok then
      log.record("error", "reload.files.wait", nil, "cannot wait for what happens to files: %s", err)
      timer.sleep(POLL)
    elseif take_events(self) then
      timer.sleep(PAUSE)
    else
      timer.sleep(POLL)
    end
  end
end

-- Those that cannot be watched, as long as there are any.
local function poll(self)
  while next(self.blind) ~= nil do
    timer.sleep(POLL)
    if self.is_closed then return end
    for entry in pairs(self.blind) do
      -- Not compared with mark.content as it was before: compiled code may put off that load until after the call.
      local content = C.rille_file_mark_read(entry.mark, entry.full)
      if content ~= entry.polled then
        entry.polled = content
        self.lost[entry] = true
        touch(self, entry)
      end
    end
    follow_lost(self)
    notify(self)
  end
  self.poller = nil
end

-- ---- telling -----------------------------------------------------------------------------------------------------

-- When it is quiet. A file that somebody has open and has written to is waited for longer: half of it may be there.
local function due(self)
  local limit = self.first + self.longest
  for entry in pairs(self.dirty) do
    if entry.is_open then return limit end
  end
  return math.min(self.last + self.quiet, limit)
end

-- Look at the content of what was touched: the set of keys that knew another one and the list of paths, or nil.
local function settle(self)
  local dirty = self.dirty
  self.dirty, self.first = {}, nil
  local keys, changed = nil, {}
  for entry in pairs(dirty) do
    entry.is_open = false
    local content = C.rille_file_mark_read(entry.mark, entry.full)
    if entry.mark.is_unknown ~= 0 then touch(self, entry) end -- look again in a while
    local is_new = false
    for key, known in pairs(entry.users) do
      if known ~= content then
        keys = keys or {}
        keys[key], entry.users[key], is_new = true, content, true
      end
    end
    if is_new then changed[#changed + 1] = entry.path end
  end
  table.sort(changed)
  return keys, changed
end

local function trace_of(err)
  if rawequal(err, task.cancelled) or rawequal(err, task.timeout) then return err end
  return debug.traceback(tostring(err), 2)
end

local function tell(self, keys, changed)
  local ok, err = xpcall(self.on_change, trace_of, keys, changed)
  if ok then return end
  if rawequal(err, task.cancelled) then error(err, 0) end
  log.record("error", "reload.files.change", nil, "what has to happen after a change of %s failed: %s", changed[1], tostring(err))
end

-- Whether it is time to look, after what has happened and was not read yet: this loop may have been late.
local function is_due(self)
  if due(self) > C.rille_now() then return false end
  if self.folders.handle then take_events(self) end
  return due(self) <= C.rille_now()
end

local function wait_and_tell(self)
  while not self.is_closed do
    local left = self.first and due(self) - C.rille_now()
    if left and is_due(self) then
      local keys, changed = settle(self)
      if keys then tell(self, keys, changed) end
    else
      self.bell:receive(left or nil)
    end
  end
end

-- ---- what is watched ---------------------------------------------------------------------------------------------

function Files:_follow(entry)
  self.folders:follow(entry)
  self.blind[entry] = entry.is_blind or nil
  if entry.is_blind and not self.poller then self.poller = task.spawn(poll, self) end
end

-- From the root; a folder that was deleted under us still has a name there.
local function full_of(path, here)
  return path:sub(1, 1) == "/" and path or here .. "/" .. path
end

-- The entry of a path, with its content as it is now.
local function entry_of(self, path, full)
  local entry = self.entries[full]
  if not entry then
    entry = { path = path, full = full, users = {}, mark = ffi.new("rille_file_mark") }
    self.entries[full] = entry
    self:_follow(entry)
  end
  C.rille_file_mark_read(entry.mark, full)
  return entry
end

local function drop(self, entry, key)
  entry.users[key] = nil
  if next(entry.users) ~= nil then return end
  self.entries[entry.full], self.dirty[entry], self.lost[entry], self.blind[entry] = nil, nil, nil, nil
  self.folders:drop(entry)
end

local function check_list(list, what)
  if type(list) ~= "table" then misuse("set: %s: a list of paths expected, got %s", what, type(list)) end
  for i = 1, #list do
    if type(list[i]) ~= "string" or list[i] == "" or list[i]:find("%z") then
      misuse("set: %s: entry %d is no path", what, i)
    end
  end
end

-- Watch these files for key, and no others. paths: those it was loaded from; missing: those that were looked for and not found, a
-- list or nil. Key is taken to have loaded what it was told of last, or what is there now.
function Files:set(key, paths, missing)
  if key == nil then misuse("set: a key expected, got nil") end
  check_list(paths, "paths")
  check_list(missing or {}, "missing")
  if self.is_closed then return end
  local old, new = self.keys[key] or {}, {}
  local here = paths_of.real(".") or "/proc/self/cwd"
  self.folders:begin_pass()
  local function use(path, is_missing)
    local full = full_of(path, here)
    if new[full] then return end
    local entry = entry_of(self, path, full)
    new[full] = entry
    entry.users[key] = is_missing and MISSING or entry.users[key] or entry.mark.content
    if entry.users[key] ~= entry.mark.content then touch(self, entry) end
  end
  for _, path in ipairs(paths) do use(path, false) end
  for _, path in ipairs(missing or {}) do use(path, true) end
  self.keys[key] = new
  for full, entry in pairs(old) do
    if not new[full] then drop(self, entry, key) end
  end
  notify(self)
end

-- Nothing is watched for key any more.
function Files:remove(key)
  local old = self.keys[key]
  if not old then return end
  self.keys[key] = nil
  for _, entry in pairs(old) do drop(self, entry, key) end
end

-- No further call of on_change; one that runs goes on. Harmless twice.
function Files:close()
  if self.is_closed then return end
  self.is_closed = true
  if self.looker then self.looker:cancel() end
  if self.poller then self.poller:cancel() end
  self.bell:close()
  self.folders:close() -- the looker waits no more
  self.entries, self.keys, self.dirty, self.lost, self.blind = {}, {}, {}, {}, {}
end

-- What it takes: files, and folders that are watched.
function Files:stats()
  local count, blind = 0, 0
  for _ in pairs(self.entries) do count = count + 1 end
  for _ in pairs(self.blind) do blind = blind + 1 end
  return { files = count, polled = blind, folders = self.folders.count }
end

local function seconds(options, name, default)
  local s = options[name]
  if s == nil then return default end
  if type(s) ~= "number" or not (s > 0 and s <= 3600) then
    misuse("watch: %s: seconds above 0, at most 3600, expected, got %s", name, tostring(s))
  end
  return s
end

-- on_change(keys, paths): a set of keys, and a list of what has changed of theirs, as it was named. One call at a time, in a task,
-- when nothing has happened for `quiet` seconds, `longest` seconds after the first event at the latest.
function M.watch(on_change, options)
  if type(on_change) ~= "function" then
    misuse("bad argument #1 to 'watch' (function expected, got %s)", type(on_change))
  end
  options = options or {}
  if type(options) ~= "table" then misuse("bad argument #2 to 'watch' (a table expected, got %s)", type(options)) end
  state.need_loop("reload.files.watch")
  local self = setmetatable({
    on_change = on_change,
    quiet = seconds(options, "quiet", QUIET),
    longest = seconds(options, "longest", LONGEST),
    folders = folders.new(),
    entries = {}, -- by path from the root
    keys = {},    -- key -> { path from the root -> entry }
    dirty = {},   -- set: what may have changed since the last look
    lost = {},    -- set: what has to walk again
    blind = {},   -- set: what has to be looked at once in a while
    bell = channel(1),
    is_closed = false,
  }, Files)
  if self.folders.handle then self.looker = task.spawn(look, self) end
  task.spawn(wait_and_tell, self)
  return self
end

return M
