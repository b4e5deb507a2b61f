-- The shared conformance cases of HTTP/1.1 (spec/conformance/http1_shared.json), sent by spec/conformance/http1_probe.py to a
-- server from outside. Each case is one expectation of an RFC, or one attack.

local server = require "spec.support.server"

local HEADER_TIME = 2 -- seconds

-- The probe's last lines and whether every case passed.
local function probe(s, words)
  local command = ("python3 spec/conformance/http1_probe.py %d spec/conformance/http1_shared.json %s 2>&1; echo status $?"):format(
    s.port, words or "")
  local pipe = assert(io.popen(command))
  local out = pipe:read("*a")
  pipe:close()
  return out
end

local function assert_all_pass(out)
  if not out:find("status 0\n", 1, true) or out:find("\nFAIL", 1, true) then error(out, 0) end
end

describe("HTTP/1.1", function()
  after_each(server.cleanup)

  local function start(opts)
    opts.listen = opts.listen or "http://127.0.0.1:0"
    return server.start("spec/conformance/http1_handler.lua", opts)
  end

  it("passes every case of the probe, those of slow clients too", function()
    assert_all_pass(probe(start { timeouts = { header = HEADER_TIME } }, "--header-timeout " .. HEADER_TIME))
  end)

  it("passes them with the smallest of buffers", function()
    assert_all_pass(probe(start { limits = { max_input = 1, high_water = 1 } }))
  end)
end)
