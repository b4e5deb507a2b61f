-- The shared conformance cases of HTTP/1.1 (spec/conformance/http1_shared.json), sent by spec/conformance/http1_probe.py to a
-- server from outside. Each case is one expectation of an RFC, or one attack.

local server = require "spec.support.server"

local HEADER_TIME = 2 -- seconds

-- The probe's last lines and whether every case passed.
local function probe(s, words, cases)
  local command = ("python3 spec/conformance/http1_probe.py %d %s %s 2>&1; echo status $?"):format(
    s.port, cases or "spec/conformance/http1_shared.json", words or "")
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

  -- Cases of more than this many bytes would take minutes at a byte a time.
  local ONE_BY_ONE = [[
import json, sys
cases = json.load(open("spec/conformance/http1_shared.json"))
def size(case):
    return sum(len(s.get("text", "")) + len(s.get("hex", "")) // 3 + len(s.get("repeat", "")) * s.get("times", 0) for s in case["send"])
picked = [c for c in cases if size(c) < 1500 and "timer" not in c and not any("split" in s for s in c["send"])]
for c in picked:
    c["send"].insert(0, {"split": "byte", "gap_ms": 0})
json.dump(picked, open(sys.argv[1], "w"))
print(len(picked))
]]

  it("passes them when every byte comes alone", function()
    local script = server.write("one_by_one.py", ONE_BY_ONE)
    local file = server.folder() .. "/one_by_one.json"
    local count = tonumber(io.popen(("python3 %s %s"):format(script, file)):read("*a"))
    assert.is_true(count > 150, count)
    assert_all_pass(probe(start {}, "--jobs 8", file))
  end)

  it("passes them with the smallest of buffers", function()
    assert_all_pass(probe(start { limits = { max_input = 1, high_water = 1 } }))
  end)
end)
