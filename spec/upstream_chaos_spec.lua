-- rille.upstream against peers that refuse, hang, reset, half-close or answer late: the right error for each, no answer to somebody else's
-- question, no limit exceeded, nothing left.

local inside = require "spec.support.inside"
local server = require "spec.support.server"

local ROUNDS = tonumber(os.getenv "RILLE_ROUNDS") or 1000

local HEAD = ("local ROUNDS = %d "):format(ROUNDS) .. [[
local MAX, TASKS = 4, 16
local SHORT = 0.02 * SLOW

-- Each question is a line with a number of its own, and the answer is the same line.
local kinds = {
  good = function(c, line) c:write(line .. "\n") end,
  hang = function() rille.sleep(3600) end,
  reset = function(c) c:abort() end,
  half = function(c) c:shutdown "write" rille.sleep(0.001) end,
  close = function(c) c:close() end,
  late = function(c, line) rille.sleep(2 * SHORT) c:write(line .. "\n") end,
  twice = function(c, line) c:write(line .. "\n" .. line .. "\n") end,
  leave = function(c, line) c:write(line .. "\n") c:close() end,
  part = function(c, line) c:send(line:sub(1, 2)) c:abort() end,
}
local WANT = { hang = "timeout", reset = "reset", half = "closed", close = "closed", late = "timeout", refuse = "refused", part = "reset" }

local listeners = {}
local function peer(kind)
  if kind == "refuse" then
    local l = assert(rille.listen("tcp://127.0.0.1:0", function() end))
    local url = l:address()
    l:close()
    return url
  end
  local answer = kinds[kind]
  local l = assert(rille.listen("tcp://127.0.0.1:0", function(c)
    local line = c:read_line(100)
    if line then answer(c, line:str()) end
  end))
  listeners[#listeners + 1] = l
  return l:address()
end

local function within(up)
  for _, t in ipairs(up:targets()) do
    if t.in_use < 0 or t.idle < 0 or t.connecting < 0 or t.in_use + t.idle + t.connecting > MAX then
      error(("%s: %d used, %d idle, %d others"):format(t.url, t.in_use, t.idle, t.connecting), 2)
    end
  end
end

local number = 0
local function question(up)
  number = number + 1
  local mine = ("q%d"):format(number)
  return function(c)
    within(up)
    c:write(mine .. "\n")
    local line, err = c:read_line(100)
    if not line then return nil, err end
    if line:str() ~= mine then error(("asked %s, was told %s"):format(mine, line:str())) end
    return mine
  end
end

-- So many rounds, by several tasks at once; one(round) is a round.
local function rounds(n, one)
  local tasks, at = {}, 0
  for i = 1, TASKS do
    tasks[i] = rille.spawn(function()
      while at < n do
        at = at + 1
        one(at)
      end
      return true
    end)
  end
  for i = 1, TASKS do assert(tasks[i]:join()) end
end

local function finish(up)
  within(up)
  up:close()
  for _, l in ipairs(listeners) do l:close() end
  local till = clock() + 10 * SLOW
  while #up:targets() > 0 do
    rille.sleep(0.005)
    if clock() > till then error "its connections do not end" end
  end
end
]]

local function check(code)
  return inside.check(HEAD .. code, { seconds = 100, errors = true })
end

describe("an upstream", function()
  after_each(server.cleanup)

  for kind, share in pairs { refuse = 1, hang = 0.2, reset = 1, half = 1, close = 1, late = 0.2, part = 1 } do
    it("names the error of a peer of the kind " .. kind, function()
      check(("local kind, share = %q, %g\n"):format(kind, share) .. [=[
        local up = rille.upstream { targets = { peer(kind) }, max_per_target = MAX, retry = { attempts = 1 }, health = { passive = false },
          queue_timeout = 60 * SLOW }
        rounds(math.ceil(ROUNDS * share), function()
          local ok, err = up:with(function(c)
            c:set_timeouts { read = WANT[kind] == "timeout" and SHORT or 20 * SLOW }
            return question(up)(c)
          end)
          equal(ok, nil) equal(err, WANT[kind])
        end)
        equal(up:stats().in_use, 0) equal(up:stats().idle, 0) equal(up:stats().waiting, 0)
        finish(up)
      ]=])
    end)
  end

  it("gives each caller its own answer, whatever its other targets do", function()
    check [=[
      local targets = {}
      for _, kind in ipairs { "good", "refuse", "hang", "reset", "half", "close", "late", "twice", "leave", "part" } do
        targets[#targets + 1] = { url = peer(kind), name = kind }
      end
      local up = rille.upstream { targets = targets, max_per_target = MAX, queue = 2 * TASKS, queue_timeout = 60 * SLOW,
        health = { passive = false },
        retry = { attempts = 10, budget = 1, on = { "connect", "reset", "closed", "timeout" } } }
      local served, failed, raised = 0, {}, 0
      rounds(ROUNDS, function(i)
        local fn = question(up)
        if i % 50 == 0 then
          local ok = pcall(up.with, up, function() error "mine" end)
          equal(ok, false)
          raised = raised + 1
        elseif i % 20 == 0 then
          rille.with_timeout(SHORT / 4, up.with, up, fn)
        elseif i % 30 == 1 then
          local task = rille.spawn(up.with, up, fn)
          rille.yield()
          task:cancel()
          task:join()
        else
          local ok, err = up:with(fn, { timeout = 2 * SHORT })
          if ok then served = served + 1 else failed[err] = (failed[err] or 0) + 1 end
        end
      end)
      for err in pairs(failed) do assert(WANT.hang == err or err == "reset" or err == "closed" or err == "refused", err) end
      assert(served > ROUNDS / 10, served)
      equal(up:stats().in_use, 0) equal(up:stats().waiting, 0)
      finish(up)
    ]=]
  end)
end)
