-- plan: what a Lua state of a server is built from.

local C = require "rille.core"
local names = require "rille.config.names"

local plan = {}

local GROUPS = 256 -- addresses of one server

-- Of server number i of a configuration, for its generation of that number, g. The loop is filled in for each.
function plan.of(conf, i, generation, g)
  local one = conf.servers[i]
  return {
    label = ("%s@%d"):format(names.of(one), generation), generation = generation, loop_count = conf.loops, server = one,
    number = i, groups = i * GROUPS, linger = conf.timeouts.linger, io_timeout = conf.io.timeout,
    dns = conf.dns, dial = conf.dial,
    limits = one.limits, is_dev = conf.dev, chunks = C.rille_chunks_id(C.rille_generation_chunks(g)),
    path = (conf.path and conf.path .. ";" or "") .. package.path,
    cpath = (conf.cpath and conf.cpath .. ";" or "") .. package.cpath,
  }
end

return plan
