-- load: many connections that ask and ask again beside what a spec does: HTTP with keep-alive, HTTP pipelined, lines over TCP. What is
-- answered otherwise than it should be is counted, and so is what is closed; the connection comes back at once.

local client = require "spec.support.client"
local ffi = require "ffi"
local net = require "spec.support.net"

local C = net.C
local ROOM = 65536
local room = ffi.new("uint8_t[?]", ROOM)

local Load = {}
Load.__index = Load

local M = {}

local GET = "GET / HTTP/1.1\r\nHost: spec\r\n\r\n"

-- One HTTP answer at a place of a text: where it ends, and whether it is good; nil: it is not all there.
local function http_answer(text, from)
  local _, head_end = text:find("\r\n\r\n", from, true)
  if not head_end then return nil end
  local head = text:sub(from, head_end)
  local length = tonumber(head:match("[Cc]ontent%-[Ll]ength: (%d+)"))
  local stop = head_end + (length or 0)
  if #text < stop then return nil end
  return stop, head:sub(1, 15) == "HTTP/1.1 200 OK" and text:sub(head_end + 1, head_end + 3) == "ok "
end

local function line_answer(text, from)
  local at = text:find("\n", from, true)
  if not at then return nil end
  return at, text:sub(from, from + 2) == "ok "
end

local KINDS = {
  http = { request = GET, depth = 1, answer = http_answer },
  pipelined = { request = GET:rep(8), depth = 8, answer = http_answer },
  lines = { request = "ask\n", depth = 1, answer = line_answer },
}

-- So many connections of a kind to a URL. counts: shared by several.
function M.new(counts, kind, url, count)
  counts.failed, counts.closed, counts.answers = counts.failed or 0, counts.closed or 0, counts.answers or 0
  counts.spans = counts.spans or {}
  local self = setmetatable({ counts = counts, kind = KINDS[kind], url = url, list = {} }, Load)
  for i = 1, count do
    self.list[i] = { client = client.connect(url), text = "", waits = 0 }
  end
  return self
end

local function reconnect(self, one)
  one.client:close()
  one.client, one.text, one.waits = client.connect(self.url), "", 0
end

local function take(self, one)
  local kind, counts, from = self.kind, self.counts, 1
  while one.waits > 0 do
    local stop, is_good = kind.answer(one.text, from)
    if not stop then break end
    from, one.waits = stop + 1, one.waits - 1
    counts.answers = counts.answers + 1
    if not is_good then
      counts.failed = counts.failed + 1
      counts.bad = one.text:sub(1, 200)
    end
    if one.waits == 0 and counts.times then counts.spans[#counts.spans + 1] = net.now() - one.since end
  end
  one.text = one.text:sub(from)
  if one.waits == 0 and one.text ~= "" then counts.failed = counts.failed + 1 end
end

local function serve(self, one)
  local got = tonumber(C.net_recv(one.client.fd, room, ROOM, 0))
  if got > 0 then
    one.text = one.text .. ffi.string(room, got)
    take(self, one)
  elseif got == 0 or ffi.errno() ~= net.EAGAIN then
    self.counts.closed = self.counts.closed + 1
    reconnect(self, one)
  end
end

-- Each connection that waits for nothing asks.
function Load:ask()
  for _, one in ipairs(self.list) do
    if one.waits == 0 then
      one.waits, one.since = self.kind.depth, net.now()
      if not one.client:try_send(self.kind.request) then
        self.counts.closed = self.counts.closed + 1
        reconnect(self, one)
      end
    end
  end
end

-- All answers that are there.
function Load:read()
  local left = 0
  for _, one in ipairs(self.list) do
    if one.waits > 0 then serve(self, one) end
    if one.waits > 0 then left = left + 1 end
  end
  return left
end

-- Every load asks and reads once.
function M.step(loads)
  for _, one in ipairs(loads) do one:ask() end
  net.nap(1)
  for _, one in ipairs(loads) do one:read() end
end

-- Wait for what is still to come; fails when it does not.
function M.settle(loads, seconds)
  local found = net.poll_until(function()
    local left = 0
    for _, one in ipairs(loads) do left = left + one:read() end
    return left == 0
  end, seconds or 10)
  if not found then error("answers are missing", 0) end
end

-- The p99 of what was timed, in ms.
function M.p99(counts)
  table.sort(counts.spans)
  return (counts.spans[math.ceil(#counts.spans * 0.99)] or 0) * 1e3
end

return M
