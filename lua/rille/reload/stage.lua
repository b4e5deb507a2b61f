-- stage: what the staging thread does: it builds the states of a new generation, runs their on_stage, tries selftest in one that is thrown
-- away, and closes the states of old ones. A worker's Lua state; the loops it makes run here and serve nobody.

local ffi = require "ffi"
local buffer = require "string.buffer"

local C = require "rille.core"
local errors = require "rille.errors"
local vm = require "rille.vm"

local stage = {}

local MESSAGE_MAX = 16384
local err_box = ffi.new("int[1]")
local message_box = ffi.new("char[?]", MESSAGE_MAX)

local function pointer(kind, address)
  return ffi.cast(kind, ffi.cast("uintptr_t", address))
end

-- What the state said, or that it said nothing.
local function why(handle)
  local text = C.rille_state_explanation(handle)
  return text ~= nil and ffi.string(text) or "a hook failed; see the log"
end

-- A state on a loop of its own, its on_stage called. The loop and the state, or nil, message.
local function build(generation, plan)
  local loop = C.rille_loop_new(C.RILLE_LOOP_PRIVATE, err_box)
  if loop == nil then return nil, ("cannot make a loop: %s"):format(errors.text[-err_box[0]]) end
  local bytes = buffer.encode(plan)
  local handle = C.rille_state_new(loop, generation, plan.server.limits.memory, vm.source("rille.boot"), bytes, #bytes, message_box,
    MESSAGE_MAX)
  local message
  if handle == nil then
    message = ffi.string(message_box)
  elseif plan.is_probe or C.rille_state_wish(handle) % 2 == C.RILLE_WISH_STAGE then
    if C.rille_loop_run(loop) ~= 0 then message = why(handle) end
  end
  if not message then return loop, handle end
  C.rille_loop_free(loop)
  return nil, message
end

-- The state of one loop goes into the batch. What its hooks wish, or nil, message.
local function put(batch, plan, loop_id)
  plan.loop_id = loop_id
  local loop, handle = build(C.rille_batch_generation(batch), plan)
  if not loop then return nil, handle end
  local wish = C.rille_state_wish(handle)
  C.rille_state_detach(handle)
  C.rille_loop_free(loop)
  C.rille_batch_put(batch, loop_id, handle)
  return wish
end

-- Run on_stage and selftest in a state that is thrown away. True, or nil, message.
function stage.probe(generation, plan)
  plan.loop_id, plan.is_probe = 1, true
  local loop, message = build(generation, plan)
  plan.is_probe = nil
  if not loop then return nil, message end
  C.rille_loop_free(loop)
  return true
end

local function fill(batch, plan)
  for id = 1, plan.loop_count do
    if not plan.server.only_loop or plan.server.only_loop == id then
      local wish, message = put(batch, plan, id)
      if not wish then return nil, message end
      if id == 1 and wish >= C.RILLE_WISH_SELFTEST then
        local ok, text = stage.probe(C.rille_batch_generation(batch), plan)
        if not ok then return nil, text end
      end
    end
  end
  return true
end

-- For one that failed on that loop: as above, but from what that was built from. True, or false and why not.
function stage.renew(address, bytes, loop_id, seconds)
  local batch, plan = pointer("rille_batch *", address), buffer.decode(bytes)
  plan.is_staged, plan.hooks_until = true, C.rille_now() + seconds * 0.9
  local ok, wish, message = pcall(put, batch, plan, loop_id)
  C.rille_batch_release(batch)
  if not ok then return false, tostring(wish) end
  return wish and true or false, message
end

-- Fill the batch, a reference to which is handed over. True, or false and why not.
function stage.run(address, plan)
  local batch = pointer("rille_batch *", address)
  local ok, filled, message = pcall(fill, batch, plan)
  C.rille_batch_release(batch)
  if not ok then return false, tostring(filled) end
  return filled or false, message
end

-- ---- the configuration -----------------------------------------------------------------------------------------

-- Read and check a file, which may hang as any program. overrides: of the command line. The configuration; or false, message, the files
-- that it has loaded.
function stage.configure(file, overrides)
  local conf, message, files = require("rille.config").load(file)
  if not conf then return false, message, files end
  local ok, problem = require("rille.cli.conf").override(conf, overrides)
  if not ok then return false, problem, conf.loaded.files end
  return conf
end

-- Whether these addresses of a server can be listened on: true, or false, message.
function stage.try(server, urls)
  local options = require("rille.listener").options(server)
  for _, url in ipairs(urls) do
    local _, address = require("rille.config.scheme").split(url, server.protocol)
    if C.rille_listen_try(address, options, message_box, MESSAGE_MAX) < 0 then return false, ffi.string(message_box) end
  end
  return true
end

-- The end of a state.
function stage.discard(address)
  C.rille_state_discard(pointer("rille_state *", address))
end

return stage
