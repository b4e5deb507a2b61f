-- errors: the list that scripts compare with.

local errors = require "rille.errors"
local C = require "rille.core"

describe("rille.errors", function()
  it("lists every error once", function()
    local seen = {}
    assert.equal(-tonumber(C.RILLE_ERR_LAST), #errors.list)
    for _, text in ipairs(errors.list) do
      assert.is_string(text)
      assert.is_nil(seen[text])
      seen[text] = true
    end
  end)

  it("names the errors of the documentation", function()
    for _, text in ipairs {
      "closed", "reset", "timeout", "short", "too large", "refused", "unreachable", "address in use",
      "permission denied", "not found", "busy", "full", "cancelled", "no memory", "invalid argument", "slice expired",
      "read only", "shutdown", "error", "bad address", "too many open files", "not supported", "address not available",
      "system error", "exists", "not a number", "value not a list", "value is a list",
    } do
      assert.is_number(errors.code[text], text)
    end
  end)

  it("turns the result of a C function into its text", function()
    assert.equal("timeout", errors.text[-C.RILLE_ERR_TIMEOUT])
    assert.equal("system error", errors.text[-C.RILLE_ERR_SYSTEM])
    for number, text in ipairs(errors.text) do
      assert.equal(-number, errors.code[text])
    end
  end)

  it("has the errno beside each text, where there is one", function()
    assert.equal(111, errors.errno["refused"])
    assert.equal(104, errors.errno["reset"])
    assert.equal(98, errors.errno["address in use"])
    assert.equal(17, errors.errno["exists"])
    assert.is_false(errors.errno["slice expired"])
    assert.is_nil(errors.errno["no such error"])
  end)
end)
