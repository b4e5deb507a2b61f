-- resolve: names looked up without a thread. core/resolver.c asks and keeps the answers; here are the options, and what a script gets.

local ffi = require "ffi"

local C = require "rille.core"
local errors = require "rille.errors"
local misuse = require "rille.misuse"
local next_token = require "rille.token"
local state = require "rille.state"
local task = require "rille.task"
local timer = require "rille.timer"

local text = errors.text
local PARK = C.RILLE_PARK

local M = {}

local TYPES = {
  A = C.RILLE_DNS_A, AAAA = C.RILLE_DNS_AAAA, SRV = C.RILLE_DNS_SRV, TXT = C.RILLE_DNS_TXT, MX = C.RILLE_DNS_MX,
  PTR = C.RILLE_DNS_PTR, NS = C.RILLE_DNS_NS, CNAME = C.RILLE_DNS_CNAME,
}

local message_box = ffi.new("char[?]", 1024)
local count_box = ffi.new("double[1]")
local record_box = ffi.new("rille_dns_record[1]")
local stats_box = ffi.new("rille_resolver_stats[1]")

-- ---- what is under way: looked-up names, and connects of dial.lua ----------------------------------------------

local waiting = {} -- fibers by token
local last_token = 0

-- The DIAL event.
function M.event(token)
  local fiber = waiting[token]
  if not fiber then return end
  waiting[token] = nil
  if not fiber.queued then return task.resume(fiber, true) end
end

function M.reset()
  waiting = {}
end

local function cancel(arg)
  waiting[arg.token] = nil
  if state.loop then C.rille_dial_cancel(state.loop, arg.id) end
end

function M.new_token()
  last_token = next_token(last_token, waiting)
  return last_token
end

-- Park until what has this id and token is over.
function M.await(id, token, timeout)
  waiting[token] = task.current()
  return timer.park(timeout, cancel, { id = id, token = token })
end

local function need_task(what)
  state.need_loop(what)
  if not task.current() then misuse("rille.%s needs a task: use rille.spawn, a handler, or `rille exec`", what) end
end
M.need_task = need_task

-- ---- options ---------------------------------------------------------------------------------------------------

local defaults -- of the configuration: a table, as config.check leaves it

local function set(options, conf)
  local kept = {
    table.concat(conf.servers or {}, ","), conf.search and (#conf.search == 0 and "." or table.concat(conf.search, " ")) or "",
    conf.hosts or "/etc/hosts", conf.resolv_conf or "",
  }
  if conf.hosts == "" then kept[3] = "" end
  options.servers, options.search, options.hosts, options.resolv_conf = kept[1], kept[2], kept[3], kept[4]
  options.timeout_ms = (conf.timeout or 2) * 1000
  options.negative_ms = (conf.negative or 60) * 1000
  options.tries = conf.tries or 3
  options.cache = conf.cache or 1000
  return kept -- what options point to
end

-- conf: `dns` of a configuration. { options = rille_resolver_options, kept = ... }
function M.options(conf)
  local options = ffi.new("rille_resolver_options")
  return { options = options, kept = set(options, conf or {}) }
end

function M.set_defaults(conf)
  defaults = M.options(conf)
end

-- The options of a table `dns`, which may be nil; misuse names `what`.
function M.checked(conf, what)
  if conf == nil then
    defaults = defaults or M.options {}
    return defaults
  end
  if type(conf) ~= "table" then misuse("%s: dns is a table, got %s", what, type(conf)) end
  local settings, message = require("rille.config").section("dns", conf, what)
  if not settings then misuse(message) end
  return M.options(settings)
end

-- ---- records ---------------------------------------------------------------------------------------------------

local function plain(r) return ffi.string(r.text, r.size) end

local READERS = {
  [TYPES.SRV] = function(r)
    return { priority = r.priority, weight = r.weight, port = r.port, target = ffi.string(r.text, r.size) }
  end,
  [TYPES.MX] = function(r) return { preference = r.priority, exchange = ffi.string(r.text, r.size) } end,
}

local function before(a, b)
  local x, y = a.priority or a.preference, b.priority or b.preference
  if x ~= y then return x < y end
  return (a.weight or 0) > (b.weight or 0)
end

local function read_all(id, count, number)
  local read, list = READERS[number] or plain, { ttl = math.huge }
  for i = 1, count do
    C.rille_resolve_record(state.loop, id, i - 1, record_box)
    list[i] = read(record_box[0])
    list.ttl = math.min(list.ttl, record_box[0].ttl)
  end
  if READERS[number] then table.sort(list, before) end
  return list
end

local function is_address(name)
  return name:find(":", 1, true) ~= nil or name:find("^%d+%.%d+%.%d+%.%d+$") ~= nil
end

-- Whether what looks like an address is one.
local function is_good_address(name)
  local url = name:find(":", 1, true) and "tcp://[" .. name .. "]:1" or "tcp://" .. name .. ":1"
  return C.rille_address_check(url, #url, message_box, 1024) == 0
end

-- Good addresses as DNS has them for PTR, and names as they are.
local function arpa(name)
  local a, b, c, d = name:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$")
  if a then return ("%s.%s.%s.%s.in-addr.arpa"):format(d, c, b, a) end
  if not name:find(":", 1, true) then return name end
  name = name:gsub("%%.*$", ""):gsub("(%d+)%.(%d+)%.(%d+)%.(%d+)$", function(p, q, r, s)
    return ("%x:%x"):format(p * 256 + q, r * 256 + s)
  end)
  local head, tail = name:match("^(.-)::(.*)$")
  local function groups(part)
    local list = {}
    for group in (part or ""):gmatch("[^:]+") do list[#list + 1] = ("%04x"):format(tonumber(group, 16) or 0) end
    return list
  end
  local list, rest = groups(head or name), groups(tail)
  while #list + #rest < 8 do list[#list + 1] = "0000" end
  for _, group in ipairs(rest) do list[#list + 1] = group end
  return table.concat(list):reverse():gsub(".", "%0.") .. "ip6.arpa"
end

-- The records, or nil, err, message. options of M.checked.
function M.look_up(name, number, options)
  local token = M.new_token()
  local id = C.rille_resolve_start(state.handle, name, #name, number, options.options, token, message_box, 1024)
  if id < 0 then return nil, text[-id], ("%s: %s"):format(text[-id], ffi.string(message_box)) end
  local code = C.rille_resolve_count(state.loop, id, count_box)
  if code == PARK then
    M.await(id, token)
    code = C.rille_resolve_count(state.loop, id, count_box)
  end
  local list = code == 0 and read_all(id, count_box[0], number)
  C.rille_dial_cancel(state.loop, id)
  if list then return list end
  return nil, text[-code], ("cannot look up %s: %s"):format(name, text[-code])
end

-- rille.resolve(name[, type[, { dns = {...} }]]): a list of records with its `ttl` in seconds. Without a type: addresses, IPv4
-- first. Or nil, err, message.
function M.resolve(name, kind, options)
  need_task("resolve")
  if type(name) ~= "string" then misuse("bad argument #1 to 'resolve' (a name expected, got %s)", type(name)) end
  local number = kind == nil and C.RILLE_DNS_BOTH or TYPES[kind]
  if not number then
    misuse("bad argument #2 to 'resolve' (A, AAAA, SRV, TXT, MX, PTR, NS or CNAME expected, got %s)", tostring(kind))
  end
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #3 to 'resolve' (a table expected, got %s)", type(options))
  end
  local o = M.checked(options and options.dns, "rille.resolve")
  if is_address(name) then
    local is_six = name:find(":", 1, true) ~= nil
    local is_own = number == C.RILLE_DNS_BOTH or number == (is_six and TYPES.AAAA or TYPES.A)
    if not is_good_address(name) then return nil, "invalid argument", ("%q is no address"):format(name) end
    if is_own then return { name, ttl = math.huge } end
    if kind ~= "PTR" then return nil, "invalid argument", "an address is no name: rille.resolve looks up PTR of one" end
    name = arpa(name)
  end
  return M.look_up(name, number, o)
end

-- A URL with an address in place of its name; or nil, err, message. One that has none, or is wrong, comes back as it is.
function M.numeric(url, options)
  if C.rille_address_needs_lookup(url) == 0 or not task.current() then return url end
  local prefix, host, port = url:match("^(%a+[46]?://)(.*):(%d+)$")
  if not prefix then
    prefix = ""
    host, port = url:match("^(.*):(%d+)$")
  end
  local family = prefix:match("[46]:")
  local number = family == "4:" and TYPES.A or family == "6:" and TYPES.AAAA or C.RILLE_DNS_BOTH
  local list, err, message = M.look_up(host, number, options or M.checked(nil))
  if not list then return nil, err, message end
  local address = list[1]
  if address:find(":", 1, true) then address = "[" .. address .. "]" end
  return prefix .. address .. ":" .. port
end

-- What the resolver with these options has done on this loop: queries, questions, hits, entries.
function M.stats(options)
  state.need_loop("resolve")
  if options ~= nil and type(options) ~= "table" then
    misuse("bad argument #1 to 'resolver_stats' (a table expected, got %s)", type(options))
  end
  local o = M.checked(options and options.dns, "rille.resolve")
  if C.rille_resolver_stats_read(state.loop, o.options, stats_box) ~= 0 then
    return { queries = 0, questions = 0, hits = 0, entries = 0 }
  end
  local s = stats_box[0]
  return { queries = s.queries, questions = s.questions, hits = s.hits, entries = s.entries }
end

return M
