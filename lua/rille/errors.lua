-- errors: the closed list of short strings that calls return as `nil, err`, built from the one table in core/errors.c.
--
-- Inside the library a C function's negative result becomes its string by errors.text[-result].

local ffi = require "ffi"
local C = require "rille.core"

local errors = {
  list = {},  -- every text, in the order of their numbers
  text = {},  -- number without its sign -> text
  code = {},  -- text -> negative number, as C functions return it
  errno = {}, -- text -> errno of the kernel that stands nearest, or false
}

for number = 1, -tonumber(C.RILLE_ERR_LAST) do
  local text = ffi.string(C.rille_err_text(-number))
  local errno = C.rille_err_errno(-number)
  errors.list[number] = text
  errors.text[number] = text
  errors.code[text] = -number
  errors.errno[text] = errno ~= 0 and errno
end

return errors
