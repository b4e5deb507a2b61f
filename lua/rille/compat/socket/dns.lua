-- dns: socket.dns over rille.resolve.

local resolve = require "rille.resolve"
local text_of = require "rille.compat.socket.texts"
local timeouts = require "rille.compat.socket.timeouts"

local dns = {}

local function family_of(ip)
  return ip:find(":", 1, true) and "inet6" or "inet"
end

local function failed(err)
  if err == "not found" or err == "invalid argument" then return nil, "host not found" end
  return nil, text_of(err)
end

-- The addresses of a name or an address.
local function look_up(name, kind)
  if name == "*" then name = "0.0.0.0" end
  return resolve.resolve(name, kind)
end

-- The first IPv4 address, and { name =, alias = {}, ip = { all of them } }.
function dns.toip(name)
  timeouts.need_task("toip")
  local list, err = look_up(tostring(name), "A")
  if not list then return failed(err) end
  local all = {}
  for i, ip in ipairs(list) do all[i] = ip end
  return all[1], { name = name, alias = {}, ip = all }
end

-- The name of an address, or of the first address of a name, and a table as above.
function dns.tohostname(name)
  timeouts.need_task("tohostname")
  local list, err = look_up(tostring(name))
  if not list then return failed(err) end
  local names
  names, err = resolve.resolve(list[1], "PTR")
  if not names then return failed(err) end
  return names[1], { name = names[1], alias = {}, ip = { list[1] } }
end

-- A list of { family = "inet" or "inet6", addr = }.
function dns.getaddrinfo(name)
  timeouts.need_task("getaddrinfo")
  local list, err = look_up(tostring(name))
  if not list then return nil, text_of(err) end
  local out = {}
  for i, ip in ipairs(list) do out[i] = { family = family_of(ip), addr = ip } end
  return out
end

-- A list of names of an address, and what it was given as the service.
function dns.getnameinfo(name, service)
  timeouts.need_task("getnameinfo")
  local host, err = dns.tohostname(name)
  if not host then return nil, err end
  return { host }, service
end

-- The name of this machine.
function dns.gethostname()
  local file = io.open("/proc/sys/kernel/hostname")
  local name = file and file:read("*l")
  if file then file:close() end
  return name or "localhost"
end

return dns
