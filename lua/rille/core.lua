-- core: finds the C library, declares it once in this Lua state and returns its handle. Everything that Lua knows of
-- the library comes from the library itself: rille_cdef() is the text of core/rille.h it was built from.

local has_ffi, ffi = pcall(require, "ffi")
if not has_ffi then error("rille needs LuaJIT, this is " .. _VERSION .. " without ffi: run it with luajit", 0) end

local ABI = 1 -- what the Lua files beside this one were written for: RILLE_ABI in core/rille.h

-- The handle and the metatypes of the library outlive package.loaded: a type is declared once in a state, and types
-- whose library was unloaded would be a crash. A test runner may empty package.loaded, so they are anchored in the
-- registry.
local registry = debug.getregistry()
local anchored = registry["rille.core"]
if anchored then return anchored end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

-- The library, and the places that were looked at when there is none.
local function find()
  local chosen = os.getenv("RILLE_CORE")
  if chosen and chosen ~= "" then return exists(chosen) and chosen, { chosen } end

  local tried = {}
  local function try(path)
    tried[#tried + 1] = path
    return exists(path) and path or nil
  end
  -- First beside this file, so that a checkout uses its own build even where a rock is installed.
  local here = package.searchpath("rille.core", package.path)
  local path = here and try((here:gsub("%.lua$", "") .. ".so"))
  if path then return path end
  path = package.searchpath("rille.core", package.cpath)
  if path then return path end
  local tree = here and here:match("^(.*/)share/lua/5%.1/rille/core%.lua$")
  path = tree and try(tree .. "lib/lua/5.1/rille/core.so")
  if path then return path end
  tried[#tried + 1] = "package.cpath"
  return nil, tried
end

local path, tried = find()
if not path then
  error("rille: core.so not found (looked at " .. table.concat(tried, ", ") .. "): run make, or reinstall the rock", 0)
end

-- ffi.load looks a bare name up in the system's directories.
path = path:find("/", 1, true) and path or "./" .. path
local loaded, C = pcall(ffi.load, path)
if not loaded then error("rille: cannot load " .. path .. ": " .. tostring(C), 0) end

ffi.cdef "const char *rille_cdef(void);"
local known, text = pcall(function() return ffi.string(C.rille_cdef()) end)
if not known then error("rille: " .. path .. " is not a library of Rille: run make clean all, or reinstall the rock", 0) end
ffi.cdef(text)

local abi = C.rille_abi()
if abi ~= ABI then
  error(("rille: %s has ABI %d, its Lua files need ABI %d: run make clean all, or reinstall the rock"):format(path, abi, ABI), 0)
end

registry["rille.core.path"] = path -- server.lua needs a C function of Lua's own kind from it
registry["rille.core"] = C
return C
