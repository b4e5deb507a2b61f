-- loaded: which other files the code of a configuration loads, by dofile, loadfile and require. Modules are forgotten again, so that the
-- next time reads them anew.

local C = require "rille.core"

local loaded = {}

local function copy(of)
  local out = {}
  for key, value in pairs(of) do out[key] = value end
  return out
end

-- The modules that came since, but for the library's own, and their files.
local function forget_modules(before, files)
  for name in pairs(package.loaded) do
    if before[name] == nil and type(name) == "string" and not name:find("^rille%f[.%z]") then
      files[#files + 1] = package.searchpath(name, package.path)
      package.loaded[name] = nil
    end
  end
end

-- Call a function: what pcall returns of it, true and one value or false and the error; then the list of files.
function loaded.call(fn)
  local files, before = {}, copy(package.loaded)
  local dofile_before, loadfile_before = dofile, loadfile
  local function noting(load)
    return function(path, ...)
      if type(path) == "string" then files[#files + 1] = path end
      return load(path, ...)
    end
  end
  rawset(_G, "dofile", noting(dofile_before))
  rawset(_G, "loadfile", noting(loadfile_before))
  local ok, value = pcall(fn)
  rawset(_G, "dofile", dofile_before)
  rawset(_G, "loadfile", loadfile_before)
  forget_modules(before, files)
  return ok, value, files
end

-- What is in these files now, by path; false: nothing that can be read. Of those that cannot be looked at for now, nothing is said.
function loaded.texts(files)
  local texts = {}
  for _, path in ipairs(files) do
    local file, _, errno = io.open(path, "rb")
    local is_short = not file and C.rille_err_is_shortage(errno) ~= 0
    if not is_short then texts[path] = file and file:read("*a") or false end
    if file then file:close() end
  end
  return texts
end

return loaded
