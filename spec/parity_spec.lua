-- docs/parity.md: every row has its three columns, a reason or a spec, and every spec it names is there.

local server = require "spec.support.server"

local function rows()
  local list = {}
  for line in server.read(server.root .. "/docs/parity.md"):gmatch("[^\n]+") do
    local cells = {}
    for cell in line:gmatch("| *([^|]*[^| ])") do cells[#cells + 1] = cell end
    if line:find("^| ") and not line:find("^|%-") and cells[3] ~= "spec" then list[#list + 1] = { line = line, cells = cells } end
  end
  return list
end

describe("the table of what netpoll and gnet do", function()
  it("says for each feature what Rille has instead", function()
    assert.is_true(#rows() > 80)
    for _, row in ipairs(rows()) do assert.equal(3, #row.cells, row.line) end
  end)

  it("names specs that are there, or gives a reason", function()
    for _, row in ipairs(rows()) do
      local proof = row.cells[3]
      for name in proof:gmatch("[%w_/]+_spec%.lua") do
        local file = io.open(server.root .. "/spec/" .. name)
        assert(file, name .. " is named, but not there: " .. row.line)
        file:close()
      end
      if not proof:find("_spec%.lua") then assert.matches("[,:] ?%S", row.cells[2], row.line) end
    end
  end)
end)
