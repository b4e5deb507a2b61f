-- tree: where the default configuration is, in a checkout, below a prefix, or in a rock.

local ffi = require "ffi"

ffi.cdef [[
int rille_tree_glob(const char *pattern, int flags, void *on_error, void *found) __asm__("glob");
void rille_tree_globfree(void *found) __asm__("globfree");
]]
-- glob_t, which begins with how many paths there are and where
local GLOB_WORDS, COUNT, PATHS = 32, 0, 1

local tree = {}

local here = debug.getinfo(1, "S").source:match("^@(.*)/rille/cli/tree%.lua$") or "."

local function exists(file)
  local f = io.open(file)
  return f and f:close()
end

local function quoted(text)
  return (text:gsub("[%*%?%[\\]", "\\%0"))
end

-- The files that match, in the order of names.
function tree.matches(pattern)
  local found, files = ffi.new("size_t[?]", GLOB_WORDS), {}
  if ffi.C.rille_tree_glob(pattern, 0, nil, found) == 0 then
    local paths = ffi.cast("char **", found[PATHS])
    for i = 1, tonumber(found[COUNT]) do files[i] = ffi.string(paths[i - 1]) end
  end
  ffi.C.rille_tree_globfree(found)
  return files
end

local function last_match(pattern)
  local files = tree.matches(pattern)
  return files[#files]
end

-- ./conf/rille.lua, else the one that came with this library. nil, message when there is none.
function tree.configuration()
  if exists("conf/rille.lua") then return "conf/rille.lua" end
  local checkout = here:match("^(.*)/lua$")
  local prefix = here:match("^(.*)/share/lua/5%.1$")
  local file = checkout and checkout .. "/conf/rille.lua"
  if file and exists(file) then return file end
  file = prefix and prefix .. "/share/rille/conf/rille.lua"
  if file and exists(file) then return file end
  file = prefix and last_match(quoted(prefix) .. "/lib/luarocks/rocks-5.1/rille/*/conf/rille.lua")
  if file then return file end
  return nil, "no conf/rille.lua here, and none was installed: name one with --conf FILE"
end

return tree
