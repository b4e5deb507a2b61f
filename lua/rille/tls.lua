-- tls: certificates and rules from a table, as the core has them; shared with whoever has given the same. docs/tls.md describes the keys.

local ffi = require "ffi"

local C = require "rille.core"

local tls = {}

local problem_box = ffi.new("rille_tls_problem[1]")

local KEPT_MAX = 256

-- By what they were made from, and these in order: the system's authorities, or a certificate that a script chooses, are not read for each
-- connection.
local kept, order = {}, {}
-- Of configurations: what was loaded before rights were given up is there for all loops.
local held = {} -- luacheck: ignore 241

local TEXTS = {
  ca = C.RILLE_TLS_CA, ciphers = C.RILLE_TLS_CIPHERS, client = C.RILLE_TLS_CLIENT, fingerprint = C.RILLE_TLS_FINGERPRINT,
  min_version = C.RILLE_TLS_MIN_VERSION, offload = C.RILLE_TLS_OFFLOAD,
}
local SWITCHES = {
  ktls = C.RILLE_TLS_KTLS, resume = C.RILLE_TLS_RESUME, session_tickets = C.RILLE_TLS_TICKETS, verify = C.RILLE_TLS_VERIFY,
}
local NAMES = { "ca", "ciphers", "client", "fingerprint", "min_version", "offload", "ktls", "resume", "session_tickets", "verify" }

local POOL = "tls" -- what `offload = true` means

-- nil, { path =, text = }: the keys below the table of what is wrong, and a sentence.
local function refuse(path, text)
  return nil, { path = path, text = text }
end

local function set_rules(t, rules)
  for _, name in ipairs(NAMES) do
    local value, key = rules[name], TEXTS[name] or SWITCHES[name]
    if name == "offload" then value = value == true and POOL or value or nil end
    if value ~= nil then
      if SWITCHES[name] then value = value and "1" or "0" end
      local code = C.rille_tls_set(t, key, value, #value)
      if code == C.RILLE_ERR_NO_MEMORY then return refuse({}, "no memory") end
      if code ~= 0 then return refuse({ name }, ("got %q; see docs/tls.md"):format(value)) end
    end
  end
  for i, name in ipairs(rules.alpn or {}) do
    if C.rille_tls_set(t, C.RILLE_TLS_ALPN, name, #name) ~= 0 then
      return refuse({ "alpn", i }, "expected names of 1 to 255 bytes, not more than 255 in all")
    end
  end
  return true
end

-- The certificates of a table: its own, then those of its list. With the path of each.
local function certificates_of(rules)
  local list = {}
  if rules.certificate then list[1] = { rules, {} } end
  for i, one in ipairs(rules.certificates or {}) do list[#list + 1] = { one, { "certificates", i } } end
  return list
end

local function below(path, key)
  local longer = { unpack(path) }
  longer[#longer + 1] = key ~= "" and key or nil
  return longer
end

local function add_certificates(t, list)
  for _, entry in ipairs(list) do
    local one, path = entry[1], entry[2]
    if not one.key then return refuse(path, "has a certificate and no key") end
    local names = type(one.names) == "table" and table.concat(one.names, "\n") or one.names or ""
    if C.rille_tls_add(t, one.certificate, one.key, one.ocsp or "", names) ~= 0 then
      return refuse(path, "no memory, or more than 1024 certificates")
    end
  end
  return true
end

local function make(rules, is_server)
  local t = C.rille_tls_new(is_server and 1 or 0)
  if t == nil then return refuse({}, "no memory") end
  local list = certificates_of(rules)
  local ok, problem = set_rules(t, rules)
  if ok then ok, problem = add_certificates(t, list) end
  if not ok then
    C.rille_tls_release(t)
    return nil, problem
  end
  t = C.rille_tls_seal(t, problem_box)
  if t == nil then
    local p = problem_box[0]
    local key = ffi.string(p.key)
    local is_rule = TEXTS[key] or not list[p.certificate]
    return refuse(below(is_rule and {} or list[p.certificate][2], key), ffi.string(p.text))
  end
  return ffi.gc(t, C.rille_tls_release)
end

-- What clients of this server see. nil, problem. protocol: "http" says what is agreed on when nothing else is given.
function tls.server(rules, protocol)
  if not rules.certificate and #(rules.certificates or {}) == 0 then
    return refuse({}, "has no certificate; add certificate = \"FILE\" and key = \"FILE\"")
  end
  if rules.client and rules.client ~= "none" and not rules.ca then
    return refuse({ "client" }, ('got "%s"; it needs ca, the file of who may sign such certificates'):format(rules.client))
  end
  if rules.verify ~= nil or rules.fingerprint then
    return refuse({ rules.fingerprint and "fingerprint" or "verify" }, "is for clients; set client and ca")
  end
  if protocol == "http" and not rules.alpn then
    rules = setmetatable({ alpn = { "http/1.1" } }, { __index = rules })
  end
  return make(rules, true)
end

-- What is wrong with those of a configuration: path, text; nil. They stay loaded.
function tls.problem(rules, protocol)
  local t, problem = tls.server(rules, protocol)
  if not t then return problem.path, problem.text end
  held[tostring(t)] = t
end

local function name_of(role, rules)
  local parts = { role }
  for _, name in ipairs { "certificate", "key", "ocsp", unpack(NAMES) } do parts[#parts + 1] = tostring(rules[name]) end
  for _, name in ipairs(rules.alpn or {}) do parts[#parts + 1] = name end
  return table.concat(parts, "\0")
end

local function keep(name, t, problem)
  if not t then return nil, problem end
  if #order >= KEPT_MAX then kept[table.remove(order, 1)] = nil end
  order[#order + 1], kept[name] = name, t
  return t
end

-- What servers that this program connects to are asked. nil, problem.
function tls.client(rules)
  local name = name_of("client", rules)
  if kept[name] then return kept[name] end
  return keep(name, make(rules, false))
end

-- A certificate that a script has chosen, under the rules of its server. nil, problem.
function tls.chosen(answer, rules, protocol)
  local own = { certificate = answer.certificate, key = answer.key, ocsp = answer.ocsp, names = "*" }
  local all = setmetatable(own, { __index = function(_, key) return key ~= "certificates" and rules[key] or nil end })
  if not answer.ocsp then all.ocsp = "" end
  local name = name_of("chosen " .. protocol, all)
  if kept[name] then return kept[name] end
  return keep(name, tls.server(all, protocol))
end

return tls
