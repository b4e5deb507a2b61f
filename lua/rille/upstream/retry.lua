-- retry: which failures are tried again, and how many of them may be. A budget is a bucket of tokens: each request puts a part of one in,
-- each retry takes one out, and what is in it loses its worth within some seconds. So when everything fails, retries are a share of the
-- load and not a multiple of it; and when one of many targets dies, what was on its way there has enough.

local state = require "rille.state"

local exp, max, min = math.exp, math.max, math.min

local Retry = {}
Retry.__index = Retry

local RESERVE = 10 -- tokens at the beginning; it comes back by one a second
local MEMORY = 10  -- seconds after which a third of what is above it is left
local STEP = 0.1   -- seconds

-- settings: { attempts =, budget =, on = { [name] = true } }
local function new(settings)
  return setmetatable({ settings = settings, tokens = RESERVE, at = 0, count = 0, refused = 0 }, Retry)
end

local function age(self, now)
  local seconds, tokens = max(0, now - self.at), self.tokens
  self.at = now
  if tokens > RESERVE then self.tokens = max(RESERVE, tokens * exp(-seconds / MEMORY))
  else self.tokens = min(RESERVE, tokens + seconds) end
end

function Retry:note_request()
  local now = state.clock.now
  if now - self.at >= STEP then age(self, now) end
  self.tokens = self.tokens + self.settings.budget
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
