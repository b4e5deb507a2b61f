-- new: `rille new`, the folder of a project that runs, checks and tests as it is. Its files are the templates in new/.
--
-- They are written into a folder beside the one that was asked for, which takes its place by one rename: there is all or
-- nothing. An empty folder of the name is made first, so that nothing that was there can be replaced.

local ffi = require "ffi"

local shown = require("rille.config.check").shown

-- under names of their own: see rille.config.paths
ffi.cdef [[
int rille_new_mkdir(const char *path, unsigned mode) __asm__("mkdir");
int rille_new_rmdir(const char *path) __asm__("rmdir");
int rille_new_rename(const char *from, const char *to) __asm__("rename");
int rille_new_getpid(void) __asm__("getpid");
char *rille_new_strerror(int errno_) __asm__("strerror");
]]

local new = {}

new.help = [[
usage: rille new NAME

Make a folder NAME with a small HTTP server to start from: conf/rille.lua, scripts/NAME.lua, spec/NAME_spec.lua and a
README.md. In it `rille run`, `rille check` and `rille test` work as they are. NAME, or the last part of a path: letters,
digits, - and _, a letter first, at most 64. What is there already is never touched.
]]

new.spec = { positional = 1, options = {} }

local NAME_MAX = 64
local EEXIST = 17
-- A script's folder comes first for require: these the library, or the script itself, would find there.
local TAKEN = { rille = true, cjson = true }

local FOLDERS = { "conf", "scripts", "spec" }
local FILES = {
  { "conf/rille.lua", "rille.cli.new.conf" },
  { "scripts/{{name}}.lua", "rille.cli.new.script" },
  { "spec/{{name}}_spec.lua", "rille.cli.new.spec" },
  { "README.md", "rille.cli.new.readme" },
}

local function filled(template, name)
  return (template:gsub("{{name}}", name))
end

-- ---- files and folders -----------------------------------------------------------------------------------------

local function make_folder(path)
  if ffi.C.rille_new_mkdir(path, 511) == 0 then return true end -- 0777, less what the umask takes away
  local errno = ffi.errno()
  if errno == EEXIST then return nil, ("%s is there already; nothing was changed"):format(path) end
  return nil, ("cannot make %s: %s"):format(path, ffi.string(ffi.C.rille_new_strerror(errno)))
end

-- True, or nil and the system's reason.
local function write(path, text)
  local file, message = io.open(path, "wb")
  if not file then return nil, message:sub(#path + 3) end -- without "path: "
  local ok, why = file:write(text)
  local is_closed, also = file:close() -- which writes too
  if not (ok and is_closed) then return nil, why or also end
  return true
end

-- path: what the folder will be called.
local function fill(folder, path, name)
  for _, part in ipairs(FOLDERS) do
    local ok, message = make_folder(folder .. "/" .. part)
    if not ok then return nil, message end
  end
  for _, file in ipairs(FILES) do
    local place = filled(file[1], name)
    local ok, why = write(folder .. "/" .. place, filled(require(file[2]), name))
    if not ok then return nil, ("cannot write %s/%s: %s"):format(path, place, why) end
  end
  return true
end

-- What fill() made, or a part of that.
local function remove(folder, name)
  for _, file in ipairs(FILES) do os.remove(folder .. "/" .. filled(file[1], name)) end
  for _, part in ipairs(FOLDERS) do ffi.C.rille_new_rmdir(folder .. "/" .. part) end
  ffi.C.rille_new_rmdir(folder)
end

-- True, or nil, message: nothing is left then.
local function build(path, parent, name)
  local ok, message = make_folder(path)
  if not ok then return nil, message end
  local draft = ("%s.%s.%d"):format(parent, name, ffi.C.rille_new_getpid())
  ok, message = make_folder(draft)
  if ok then
    ok, message = fill(draft, path, name)
    if ok and ffi.C.rille_new_rename(draft, path) ~= 0 then
      ok, message = nil, ("cannot make %s: %s"):format(path, ffi.string(ffi.C.rille_new_strerror(ffi.errno())))
    end
    if not ok then remove(draft, name) end
  end
  if not ok then ffi.C.rille_new_rmdir(path) end
  return ok, message
end

-- ---- the command -----------------------------------------------------------------------------------------------

-- A path as a shell takes it.
local function quoted(path)
  if not path:find("[^%w_./-]") then return path end
  return "'" .. path:gsub("'", "'\\''") .. "'"
end

-- What is wrong with a name; nil when it is fine.
local function problem_of(name)
  if not name:find("^%a[%w_-]*$") or #name > NAME_MAX then
    return ("%s is no name of a project; expected letters, digits, - and _, a letter first, at most %d"):format(shown(name), NAME_MAX)
  end
  if TAKEN[name] then return ('"%s" is a library\'s name: require "%s" would find the script; take another'):format(name, name) end
end

function new.main(given)
  local path = given[1]
  if not path then return false, "a name is missing: rille new NAME" end
  path = path:gsub("(.)/+$", "%1")
  local parent, name = path:match("^(.*/)([^/]*)$")
  if not parent then parent, name = "", path end
  local problem = problem_of(name)
  if problem then return nil, problem end
  local ok, message = build(path, parent, name)
  if not ok then return nil, message end
  for _, file in ipairs(FILES) do print(("made %s/%s"):format(path, filled(file[1], name))) end
  print(("try: cd %s && rille run"):format(quoted(path)))
  return 0
end

return new
