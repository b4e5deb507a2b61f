-- retry: which failures are tried again, and how many of them may be. A budget is a bucket of tokens: each request puts a part of one in,
-- each retry takes one out. So when everything fails, retries are a share of the load and not a multiple of it.

local Retry = {}
Retry.__index = Retry

local RESERVE = 10 -- tokens at the beginning, and at most

-- settings: { attempts =, budget =, on = { [name] = true } }
local function new(settings)
  return setmetatable({ settings = settings, tokens = RESERVE, count = 0, refused = 0 }, Retry)
end

function Retry:note_request()
  local tokens = self.tokens + self.settings.budget
  self.tokens = tokens < RESERVE and tokens or RESERVE
end

-- Whether what failed so may be tried again, as attempt `number`. A connection that could not be made is "connect", whatever the error.
-- One that had been idle and breaks at its first use is "reused" besides its error.
function Retry:allows(number, err, is_connect, is_reused)
  local settings, on = self.settings, self.settings.on
  if number > settings.attempts then return false end
  local is_broken = is_reused and (err == "closed" or err == "reset")
  if not (is_connect and on.connect or on[err] or is_broken and on.reused) then return false end
  if self.tokens < 1 then
    self.refused = self.refused + 1
    return false
  end
  self.tokens = self.tokens - 1
  self.count = self.count + 1
  return true
end

return new
