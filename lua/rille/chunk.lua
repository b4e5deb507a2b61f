-- chunk: the files of a generation. Every Lua state of one generation, on whichever loop or worker, loads them by way of one set
-- (core/chunk.h): the first compiles a file, the others take the same code, and what was looked for is noted for whoever watches.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local misuse = require "rille.misuse"

local chunk = {}

chunk.current = nil -- the id of this state's set

local own -- that set

local err_box = ffi.new("int[1]")
local hash_box = ffi.new("char[?]", C.RILLE_CHUNK_HASH)

local KINDS = {
  [C.RILLE_CHUNK_LUA] = "lua", [C.RILLE_CHUNK_BROKEN] = "broken", [C.RILLE_CHUNK_MODULE] = "module", [C.RILLE_CHUNK_DATA] = "data",
}

-- ---- sets ------------------------------------------------------------------------------------------------------

local Set = {}
Set.__index = Set

local function wrap(p)
  p = ffi.gc(p, C.rille_chunks_release)
  return setmetatable({ p = p, id = C.rille_chunks_id(p), label = ffi.string(C.rille_chunks_label(p)) }, Set)
end

-- An empty set, which lives as long as somebody has it: this object, or a state that it was installed in. nil, err.
function chunk.new(label)
  local p = C.rille_chunks_new(label, err_box)
  if p == nil then return nil, errors.text[-err_box[0]] end
  return wrap(p)
end

-- The set of that id; nil, "not found" when it is gone.
function chunk.find(id)
  local p = C.rille_chunks_find(id)
  if p == nil then return nil, "not found" end
  return wrap(p)
end

-- Give the reference back now and not when the collector comes. The object is of no use then.
function Set:release()
  if not self.p then return end
  C.rille_chunks_release(ffi.gc(self.p, nil))
  self.p = nil
end

local function describe(c)
  return {
    path = ffi.string(c.path), absolute = ffi.string(c.absolute), kind = KINDS[c.kind], hash = ffi.string(c.hash),
    size = c.size, inode = c.inode, device = c.device, mtime = c.mtime_s + c.mtime_ns / 1e9, bytecode = c.bytes_size,
  }
end

-- The file that was loaded by this path: { path, absolute, kind, hash, size, inode, device, mtime, bytecode = bytes }, or nil. kind is
-- "lua", "broken" (does not compile), "module" (in C) or "data".
function Set:find(path)
  local c = C.rille_chunks_look(self.p, path)
  if c ~= nil then return describe(c) end
end

-- All of them, in the order in which they came.
function Set:files()
  local list = {}
  for i = 0, C.rille_chunks_count(self.p) - 1 do list[i + 1] = describe(C.rille_chunks_file(self.p, i)) end
  return list
end

-- The absolute paths where there was no file.
function Set:misses()
  local list, seen = {}, {}
  for i = C.rille_chunks_misses(self.p) - 1, 0, -1 do -- from the end: one that becomes a file meanwhile hides no other
    local p = C.rille_chunks_miss(self.p, i)
    local path = p ~= nil and ffi.string(p)
    if path and not seen[path] then
      list[#list + 1], seen[path] = path, true
    end
  end
  return list
end

-- Files, paths that are missing, bytes of bytecode.
function Set:count()
  return C.rille_chunks_count(self.p), C.rille_chunks_misses(self.p), C.rille_chunks_bytes(self.p)
end

-- A number that grows with each file and each missing path.
function Set:version()
  return C.rille_chunks_version(self.p)
end

-- What is in the files, as 16 digits: the same content, in the order of the paths, has the same hash. nil, err.
function Set:hash()
  local code = C.rille_chunks_hash(self.p, hash_box)
  if code ~= 0 then return nil, errors.text[-code] end
  return ffi.string(hash_box)
end

-- The absolute path of a file that is not what it was when it was loaded, or is there and was missing; nil: there is none. Reads files.
function Set:changed()
  local path = C.rille_chunks_changed(self.p)
  if path ~= nil then return ffi.string(path) end
end

-- ---- of this state ---------------------------------------------------------------------------------------------

-- From here on require, loadfile and dofile of this state go through the set of that id, which lives at least as long as the state.
-- Raises when the set is gone, or in a state that has one, or in one that Rille did not make.
function chunk.install(id)
  local attach = debug.getregistry()["rille.chunk"]
  if not attach then error("chunk.install: this Lua state is not one of Rille's", 2) end
  if not attach(id) then error("chunk.install: the generation is over, or there is one already", 2) end
  chunk.current, own = id, chunk.find(id)
end

-- The function of a script's file; nil, message as loadfile has it.
function chunk.load(path)
  return loadfile(path)
end

-- Whether this state's generation has the Lua file at this path already.
function chunk.is_kept(path)
  local c = own and C.rille_chunks_look(own.p, path)
  return c and c ~= nil and c.kind == C.RILLE_CHUNK_LUA or false
end

-- The file at this path, which is no Lua, belongs to this generation as well: a change of it is one of the generation. True, or
-- nil, err; one that is not there is noted as missing, and its appearance is a change.
function chunk.depends(path)
  if type(path) ~= "string" then misuse("bad argument #1 to 'depends' (string expected, got %s)", type(path)) end
  if path == "" or path:find("\0", 1, true) then return nil, "invalid argument" end
  if not own then return nil, "not supported" end
  local code = C.rille_chunks_note(own.p, path, C.RILLE_CHUNK_DATA)
  if code ~= 0 then return nil, errors.text[-code] end
  return true
end

return chunk
