-- A head that lies in two blocks is decoded from the first of them and, when that is not all, from a copy of both. With more than
-- two arrivals the decoder was given the first block again, shorter than what it had read, and a good request was answered 400.

local server = require "spec.support.server"
local http = require "spec.support.http"

local FIRST = http.get("/", { "X-Padding: " })
local HEAD = http.get("/", { "X-A: " .. ("a"):rep(40), "X-B: " .. ("b"):rep(40), "X-C: c" })

describe("a head over two blocks", function()
  after_each(server.cleanup)

  it("is read however it arrives", function()
    local s = http.start [[
      return function(_, res) res:send "well" end
    ]]
    local sent = 0
    -- a request before it pushes it to where a block ends, for blocks of some sizes
    for _, block_size in ipairs { 4096, 8192, 16384 } do
      for at = block_size - #HEAD, block_size, 16 do
        local c = s:connect()
        local function send(text)
          c:send(text)
          sent = sent + #text
        end
        send(FIRST:sub(1, -5) .. ("x"):rep(at - #FIRST) .. "\r\n\r\n" .. HEAD:sub(1, 60))
        assert.equal("well", http.answer(c, "GET").body)
        send(HEAD:sub(61, 120))
        s:wait_state(function(state) return state.bytes_in == sent end)
        send(HEAD:sub(121))
        assert.equal(200, http.answer(c, "GET").status)
        c:close()
      end
    end
  end)
end)
