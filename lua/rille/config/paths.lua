-- paths: what a configuration names relative to its own folder.

local ffi = require "ffi"

-- under names of their own: scripts may declare the same functions
ffi.cdef [[
char *rille_paths_realpath(const char *path, char *resolved) __asm__("realpath");
void rille_paths_free(void *) __asm__("free");
]]

local paths = {}

-- The path without symbolic links, from the root; nil when there is no such file.
local function real(path)
  local resolved = ffi.C.rille_paths_realpath(path, nil)
  if resolved == nil then return nil end
  local text = ffi.string(resolved)
  ffi.C.rille_paths_free(resolved)
  return text
end
paths.real = real

-- path as seen from folder ("" or with a slash at its end). "conf/" and "../scripts/echo.lua" give "scripts/echo.lua", since
-- tracebacks show it; but not where conf is a symbolic link, whose parent is elsewhere.
function paths.join(folder, path)
  if path:sub(1, 1) == "/" then return path end
  while true do
    if path:sub(1, 2) == "./" then
      path = path:sub(3)
    else
      local parent, last = folder:match("^(.-)([^/]+)/$")
      if path:sub(1, 3) ~= "../" or not parent or last == "." or last == ".." then break end
      if real(folder .. "..") ~= real(parent == "" and "." or parent) then break end
      folder, path = parent, path:sub(4)
    end
  end
  return folder .. path
end

-- The same for each template of a package.path.
function paths.join_templates(folder, templates)
  local list = {}
  for template in templates:gmatch("[^;]+") do list[#list + 1] = paths.join(folder, template) end
  return table.concat(list, ";")
end

-- The folder of a file, with its slash; "" for the current one.
function paths.folder(file)
  return file:match("^(.*/)[^/]*$") or ""
end

return paths
