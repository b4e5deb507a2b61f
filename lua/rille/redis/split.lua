-- split: what a proxy does with a command that is no one server's: commands about each of several keys become a command a key, whose
-- replies are put together; a few are answered here; the others are refused by their name.

local answers = require "rille.redis.answers"
local backend = require "rille.redis.backend"
local commands = require "rille.redis.commands"
local resp_value = require "rille.codec.resp_value"
local wire = require "rille.redis.wire"

local answer = answers.answer

local KEYS_MAX = 10000
local PARSE = { strings = true }

local M = {}

-- ---- putting together ------------------------------------------------------------------------------------------
-- join(replies): the reply to the whole, from those to the parts, none of which is an error.

local function sum(replies)
  local total = 0
  for _, reply in ipairs(replies) do total = total + (tonumber(reply:match "^:(%-?%d+)") or 0) end
  return (":%d\r\n"):format(total)
end

local function concat(replies)
  local parts = { ("*%d\r\n"):format(#replies) }
  for i, reply in ipairs(replies) do parts[i + 1] = reply:match "^%*1\r\n(.*)$" or "$-1\r\n" end
  return table.concat(parts)
end

local function ok() return "+OK\r\n" end

-- words of a part, how the whole is made of the replies
local SPLIT = {
  DEL = { 1, sum }, EXISTS = { 1, sum }, TOUCH = { 1, sum }, UNLINK = { 1, sum }, MGET = { 1, concat }, MSET = { 2, ok },
}

local Whole = {}
Whole.__index = Whole

function Whole:collect(index, reply)
  if reply:byte(1) == 45 then self.problem = self.problem or reply end -- "-"
  self.replies[index] = reply
  self.missing = self.missing - 1
  if self.missing > 0 then return end
  local entry = self.entry
  entry.left = 0
  answers.say(entry, self.problem or self.join(self.replies))
  return answers.finish(entry)
end

local function split(proxy, client, name, words)
  local width, join = SPLIT[name][1], SPLIT[name][2]
  local count = (#words - 1) / width
  if count < 1 or count % 1 ~= 0 then return answer(client, M.arity(name)) end
  if count > KEYS_MAX then return answer(client, ("-ERR '%s' with more than %d keys is not supported\r\n"):format(name, KEYS_MAX)) end
  local whole = setmetatable({ entry = answers.add(client, count, 1), replies = {}, missing = count, join = join }, Whole)
  for i = 1, count do
    local at = 2 + (i - 1) * width
    local bytes = wire.encode { name, words[at], width == 2 and words[at + 1] or nil }
    backend.send_part(proxy:backend_of(client, words[at]), whole, i, bytes)
  end
end

-- ---- answered here ---------------------------------------------------------------------------------------------

local function bulk(text) return ("$%d\r\n%s\r\n"):format(#text, text) end

function M.arity(name)
  return ("-ERR wrong number of arguments for '%s' command\r\n"):format(name:lower())
end

local own = {}

function own.PING(_, _, words)
  if #words > 2 then return M.arity "ping" end
  return words[2] and bulk(words[2]) or "+PONG\r\n"
end

function own.ECHO(_, _, words) return #words == 2 and bulk(words[2]) or M.arity "echo" end
function own.COMMAND() return "*0\r\n" end

function own.SELECT(_, _, words)
  return words[2] == "0" and "+OK\r\n" or "-ERR 'SELECT' is not supported here: there is database 0 alone\r\n"
end

function own.INFO(proxy)
  local lines = { "# Proxy", ("shards:%d"):format(#proxy.shards), ("clients:%d"):format(proxy.clients) }
  for i, lanes in ipairs(proxy.shards) do
    local up = 0
    for _, one in ipairs(lanes) do up = up + (one.conn and 1 or 0) end
    lines[#lines + 1] = ("shard%d:address=%s,connections=%d"):format(i, lanes[1].address.text, up)
  end
  return bulk(table.concat(lines, "\r\n") .. "\r\n")
end

function own.QUIT(_, client)
  client.is_over = true
  answers.await(client, 0)
  client.conn:write "+OK\r\n"
  client.conn:close()
end

-- ---- the rest --------------------------------------------------------------------------------------------------

local function shown(name) return (name:sub(1, 64):gsub("[^%w%-_.|]", "?")) end

local function refusal(name, words)
  local keys = commands.keys[name]
  if not keys then return ("-ERR '%s' is not supported by this proxy\r\n"):format(shown(name)) end
  if #words <= keys.first and keys.numkeys == 0 then return M.arity(name) end
  if not commands.first_key(name, words) then return ("-ERR '%s' without a key has no shard\r\n"):format(name) end
  return ("-ERR '%s': its keys hash to different shards\r\n"):format(name)
end

-- One command in a slice. May park.
function M.serve(proxy, client, s)
  local words = resp_value.parse(s, PARSE)
  local name = words[1]:upper()
  if SPLIT[name] then return split(proxy, client, name, words) end
  local text
  if own[name] then text = own[name](proxy, client, words) else text = refusal(name, words) end
  if text then return answer(client, text) end
end

return M
