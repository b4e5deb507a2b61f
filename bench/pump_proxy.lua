-- A TCP proxy for bench/pump.lua: `to` is a port of this host; `by` is "pump", or "copy" for a task that reads and writes each way.

local ffi = require "ffi"
local rille = require "rille"

local options = ...

ffi.cdef [[
struct bench_address { uint16_t family, port; uint8_t ip[4]; char zero[8]; };
int bench_socket(int, int, int) __asm__("socket");
int bench_connect(int, const struct bench_address *, unsigned) __asm__("connect");
]]

local function dial(port)
  local address = ffi.new("struct bench_address", { 2, bit.rshift(bit.bswap(port), 16), { 127, 0, 0, 1 } })
  local fd = ffi.C.bench_socket(2, 1, 0)
  assert(ffi.C.bench_connect(fd, address, 16) == 0, "connect")
  return assert(rille.adopt(fd))
end

local function copy(from, to)
  while true do
    local piece = from:read()
    if not piece then return to:shutdown("write") end
    to:write(piece)
    from:release()
  end
end

return {
  on_connect = function(conn)
    local other = dial(tonumber(options.to))
    if options.by == "pump" then
      conn:pump(other)
    else
      local back = rille.spawn(copy, other, conn)
      copy(conn, other)
      back:join()
    end
    other:close()
    conn:close()
  end,
  on_request = function() end,
}
