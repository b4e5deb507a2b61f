-- misuse: raise an error that points at the script's line, however deep in the library it was noticed. For slow paths only.

local getinfo = debug.getinfo

local here = getinfo(1, "S").source:match("^(.*/)[^/]*$") or "@./"

-- The level of the first function outside the library, as seen from the caller of the function that calls this.
local function level_of_caller()
  local level = 3
  while true do
    local info = getinfo(level, "S")
    if not info then return 0 end
    if info.what ~= "C" and info.source:sub(1, #here) ~= here then return level - 1 end
    level = level + 1
  end
end

-- Raise message (formatted when there are more arguments) at the line of the script that called into the library.
return function(message, ...)
  if select("#", ...) > 0 then message = message:format(...) end
  error(message, level_of_caller())
end
