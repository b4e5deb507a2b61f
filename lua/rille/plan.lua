-- plan: what a Lua state of a server is built from.

local C = require "rille.core"
local names = require "rille.config.names"

local plan = {}

-- Of a server of a configuration, for its generation of that number, g. number: its own; groups: those of its addresses, see
-- reload/groups.lua. The loop is filled in for each.
function plan.of(conf, one, number, generation, g, groups)
  return {
    label = ("%s@%d"):format(names.of(one), generation), generation = generation, loop_count = conf.loops, server = one,
    number = number, groups = groups, linger = conf.timeouts.linger, io_timeout = conf.io.timeout,
    dns = conf.dns, dial = conf.dial, dicts = conf.dicts, topics = conf.topics, stage_timeout = (one.reload or conf.reload).stage_timeout,
    limits = one.limits, is_dev = conf.dev, chunks = C.rille_chunks_id(C.rille_generation_chunks(g)),
    path = (conf.path and conf.path .. ";" or "") .. package.path,
    cpath = (conf.cpath and conf.cpath .. ";" or "") .. package.cpath,
  }
end

return plan
