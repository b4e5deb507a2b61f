-- mux: pieces of Lua about rille.mux, run as inside.lua does, with peers to talk to: frames(fn), bytes(fn) and echo() give addresses,
-- mux(address) a mux that is closed, and looked at, at the end. A task of many() that fails is logged, which fails the spec.

local inside = require "spec.support.inside"

local M = {}

M.HEAD = [[local LinkBuffer, codec = require "rille.linkbuffer", rille.codec.length_field {} ]]
  .. [[local listeners, muxes = {}, {} ]]
  -- a peer: fn(conn, frame) for each request
  .. [[local function frames(fn, options) options = options or {} options.codec = codec ]]
  .. [[local l = assert(rille.listen("tcp://127.0.0.1:0", fn, options)) listeners[#listeners + 1] = l return l:address() end ]]
  .. [[local function bytes(fn) local l = assert(rille.listen("tcp://127.0.0.1:0", fn)) ]]
  .. [[listeners[#listeners + 1] = l return l:address() end ]]
  .. [[local function echo() return frames(function(c, frame) c:write_frame(frame) end) end ]]
  .. [[local function mux(address, options) local m = rille.mux(assert(rille.dial(address)), options) ]]
  .. [[muxes[#muxes + 1] = m return m end ]]
  .. [[local function body(frame) return frame:sub(5):str() end ]]
  .. [[local function u32(n) local b = LinkBuffer.new() b:write_u32(n) b:flush() local s = b:read_string(4) b:close() return s end ]]
  .. [[local function call(m, text, timeout) local frame, err = m:call(text, timeout) ]]
  .. [[if not frame then return nil, err end return body(frame) end ]]
  .. [[local function many(n, fn) local tasks = {} for i = 1, n do tasks[i] = rille.spawn(fn, i) end ]]
  .. [[return function() for i = 1, n do tasks[i]:join() end end end ]]
  .. [[local function wait_until(look) local deadline = clock() + 5 * SLOW while not look() do ]]
  .. [[if clock() > deadline then error("it never came", 2) end rille.sleep(0.002) end end ]]
  .. [[local function finish() for _, m in ipairs(muxes) do m:close() ]]
  .. [[local s = m:stats() equal(s.in_flight, 0) equal(s.waiting, 0) end for _, l in ipairs(listeners) do l:close() end end ]]

function M.check(code, options)
  return inside.check(M.HEAD .. code .. "\nfinish()", options)
end

return M
