-- live: what a new configuration says of the process and its loops, told at once. A task of the loop that deploys.

local ffi = require "ffi"

local C = require "rille.core"
local dict = require "rille.dict"
local errors = require "rille.errors"
local leaks = require "rille.leaks"
local log = require "rille.log"
local watching = require "rille.reload.watch"

local live = {}

local err_box = ffi.new("int[1]")

-- By `live` of defaults.lua; conf: the new configuration, team: the loops. Each returns true, or nil, message.
local apply = {}

function apply.log(conf)
  local l = conf.log
  local ok, err = log.configure { level = l.level, format = l.format, file = l.file }
  if not ok then return nil, ("log.file %s: %s"):format(tostring(l.file), err) end
  return true
end

function apply.loops(conf, team)
  local code = C.rille_team_tune(team, conf.drain_timeout * 1000, conf.limits.turn_time * 1000)
  if code == 0 then return true end
  return nil, ("drain_timeout, limits.turn_time: %s"):format(errors.text[-code])
end

function apply.process(conf)
  C.rille_processes_limit(conf.limits.processes)
  C.rille_pools_set_patience(conf.workers_timeout * 1000)
  leaks.configure(conf.debug)
  C.rille_loops_time_work(conf.debug.turns and 1 or 0)
  C.rille_control_set_stall(conf.stall_after * 1000)
  C.rille_metric_limit(conf.metrics.max, conf.metrics.series)
  return true
end

-- A pool that is new, or the number of workers of one that is not.
local function set_pool(name, one)
  local options = ffi.new("rille_pool_options", -1, -1, -1, -1, -1)
  local p = C.rille_pool_open(name, options, err_box)
  if p == nil then return nil, ("pool %s: %s"):format(name, errors.text[-err_box[0]]) end
  local code = C.rille_pool_resize(p, one.max or C.rille_cpu_count())
  C.rille_pool_release(p)
  if code ~= 0 then return nil, ("pool %s: %s"):format(name, errors.text[-code]) end
  return true
end

function apply.pools(conf, _, changes)
  for _, one in ipairs(changes) do
    local top, name = one.path[1], one.path[2]
    local ok, message
    if top == "io" then
      ok, message = set_pool("io", { max = conf.io.workers })
    elseif one.old == nil and type(one.new) == "table" then
      name = top == "workers" and "default" or name
      ok, message = require("rille.pool").make_all { pools = { [name] = one.new } }
    else
      ok, message = set_pool(top == "workers" and "default" or name, top == "workers" and conf.workers or conf.pools[name])
    end
    if not ok then return nil, message end
  end
  return true
end

function apply.dicts(_, _, changes)
  for _, one in ipairs(changes) do
    local ok, message = dict.make_all { [one.path[2]] = one.new }
    if not ok then return nil, message end
  end
  return true
end

function apply.reload(conf)
  watching.tune(conf.reload)
  return true
end

-- Do what the list `live` of a difference says. A list of messages of what did not work; and the set of the keys of that.
function live.apply(d, conf, team)
  local by, messages, failed = {}, {}, {}
  for _, one in ipairs(d.live) do
    by[one.how] = by[one.how] or {}
    table.insert(by[one.how], one)
  end
  for how, changes in pairs(by) do
    local ok, message = true, nil
    if apply[how] then ok, message = apply[how](conf, team, changes) end
    if not ok then
      messages[#messages + 1] = message
      for _, one in ipairs(changes) do failed[#failed + 1] = one end
    end
  end
  return messages, failed
end

return live
