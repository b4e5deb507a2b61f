-- prefork: what is done before there are loops: the descriptors of a service manager are taken, addresses are bound, the rights of
-- root given up, processes forked.

local ffi = require "ffi"

local C = require "rille.core"
local boot = require "rille.boot"
local errors = require "rille.errors"
local listener = require "rille.listener"
local log = require "rille.log"
local scheme = require "rille.config.scheme"

local prefork = {}

local message_box = ffi.new("char[?]", 512)
local address_box = ffi.new("char[?]", 512)

-- What a service manager passed is found by listeners from now on. True, or nil, message.
function prefork.adopt()
  if C.rille_given_adopt(message_box, 512) < 0 then return nil, ffi.string(message_box) end
  return true
end

-- Bind every address of the configuration now; it then holds them with the ports that were picked. True, or nil, message.
local function bind(conf)
  for _, one in ipairs(conf.servers) do
    local options = listener.options(one)
    one.asked = { unpack(one.listen) } -- what the next configuration is compared with
    for i, url in ipairs(one.listen) do
      local _, address = scheme.split(url, one.protocol)
      local size = C.rille_given_bind(address, options, conf.loops, conf.processes, address_box, 512, message_box, 512)
      if size < 0 then
        C.rille_given_close()
        return nil, ffi.string(message_box)
      end
      local bound = ffi.string(address_box, size)
      one.listen[i] = scheme.name(url) and scheme.named(bound, scheme.name(url)) or bound
    end
  end
  return true
end

local function become(user)
  if C.rille_user_become(user, message_box, 512) == 0 then return true end
  C.rille_given_close()
  return nil, ("user: %s"):format(ffi.string(message_box))
end

-- True, or nil, message.
function prefork.prepare(conf)
  local ok, message = prefork.adopt()
  if ok and (conf.processes > 1 or conf.user) then ok, message = bind(conf) end
  if ok and conf.user then ok, message = become(conf.user) end
  return ok, message
end

local function warn_of_dicts(conf)
  local names = {}
  for name, one in pairs(conf.dicts or {}) do
    if not one.store then names[#names + 1] = name end
  end
  if #names == 0 then return end
  table.sort(names)
  log.warn("each of the %d processes has dicts of its own, they share nothing: %s", conf.processes, table.concat(names, ", "))
end

local function announce(conf, banner)
  local addresses = {}
  for _, one in ipairs(conf.servers) do
    for _, url in ipairs(one.listen) do addresses[#addresses + 1] = url end
  end
  boot.announcer(banner)(addresses)
end

-- Run serve(conf) in conf.processes processes, and start those again that die. In each of them it returns what serve returned; in
-- the parent, when all are over, the exit status, or nil, message.
function prefork.fork(conf, serve, banner)
  warn_of_dicts(conf)
  local code = C.rille_prefork_start(conf.processes, conf.loops)
  if code < 0 then return nil, ("cannot start processes: %s"):format(errors.text[-code]) end
  while true do
    local event = C.rille_prefork_wait()
    if event == C.RILLE_PREFORK_CHILD then return serve(conf) end
    if event == C.RILLE_PREFORK_OVER then break end
    announce(conf, banner)
  end
  return C.rille_prefork_status()
end

return prefork
