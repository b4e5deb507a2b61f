-- flow: sources and sinks over sockets, for ltn12. Each kind is a function in the table sourcet or sinkt, where socket.http puts its own.

local M = { BLOCKSIZE = 2048, sourcet = {}, sinkt = {} }

local function is_dirty(sock) return sock:dirty() end

-- A callable that can be selected as its socket can.
local function over(sock, call)
  return setmetatable({
    getfd = function() return sock:getfd() end,
    dirty = function() return is_dirty(sock) end,
  }, { __call = call })
end

-- ---- sinks -----------------------------------------------------------------------------------------------------

M.sinkt["keep-open"] = function(sock)
  return over(sock, function(_, chunk)
    if not chunk then return 1 end
    return sock:send(chunk)
  end)
end

M.sinkt["close-when-done"] = function(sock)
  return over(sock, function(_, chunk)
    if chunk then return sock:send(chunk) end
    sock:close()
    return 1
  end)
end

M.sinkt["default"] = M.sinkt["keep-open"]

-- ---- sources ---------------------------------------------------------------------------------------------------

M.sourcet["by-length"] = function(sock, length)
  return over(sock, function()
    if length <= 0 then return nil end
    local chunk, err = sock:receive(math.min(M.BLOCKSIZE, length))
    if not chunk then return nil, err end
    length = length - #chunk
    return chunk
  end)
end

M.sourcet["until-closed"] = function(sock)
  local is_over = false
  return over(sock, function()
    if is_over then return nil end
    local chunk, err, partial = sock:receive(M.BLOCKSIZE)
    if chunk then return chunk end
    if err ~= "closed" then return nil, err end
    is_over = true
    sock:close()
    return partial ~= "" and partial or nil
  end)
end

M.sourcet["default"] = M.sourcet["until-closed"]

-- A function that makes what the table has under a name; without one: the default.
function M.choose(kinds)
  return function(name, ...)
    if type(name) ~= "string" then return kinds["default"](name, ...) end
    local make = kinds[name]
    if not make then error(("unknown key (%s)"):format(name), 3) end
    return make(...)
  end
end

M.source = M.choose(M.sourcet)
M.sink = M.choose(M.sinkt)

return M
