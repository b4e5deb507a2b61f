-- status: `rille status`, how a server is doing.

local control = require "rille.cli.control"

local status = {}

status.help = [[
usage: rille status [--json] [--pid N | --control PATH | --conf FILE]

Say how a server is doing: connections, messages, bytes and errors of each loop, how long their turns last, addresses,
worker pools, dicts, topics, memory. A loop that is stalled does not hold it up: its last numbers are shown.

  --json           all of it, as JSON on one line

]] .. control.help

status.spec = { positional = 0, options = { json = {} } }
for name, option in pairs(control.options) do status.spec.options[name] = option end

local bytes, span = control.bytes, control.span

local function say(...)
  io.stdout:write((...):format(select(2, ...)), "\n")
end

local function count(n)
  return ("%.0f"):format(n)
end

-- Columns as wide as what is in them, the first to the left.
local function print_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for _, row in ipairs(rows) do
    local parts = {}
    for i, text in ipairs(row) do
      local gap = (" "):rep(widths[i] - #text)
      parts[i] = i == 1 and text .. gap or gap .. text
    end
    say("  %s", (table.concat(parts, "  "):gsub("%s+$", "")))
  end
end

local function print_loops(answer)
  local rows = { { "loop", "conns", "accepted", "messages", "in", "out", "errors", "p50", "p99", "lua" } }
  for _, l in ipairs(answer.loops) do
    rows[#rows + 1] = { count(l.id), count(l.connections), count(l.accepted), count(l.messages), bytes(l.bytes_in), bytes(l.bytes_out),
                        count(l.errors), span(l.turn_p50), span(l.turn_p99), bytes(l.lua_bytes) }
  end
  local t = answer.total
  rows[#rows + 1] = { "all", count(t.connections), count(t.accepted), count(t.messages), bytes(t.bytes_in), bytes(t.bytes_out),
                      count(t.errors) }
  print_table(rows)
  for _, l in ipairs(answer.loops) do
    if l.moved_in + l.moved_out > 0 then
      say("  loop %d: %d connections came from other loops, %d went to others", l.id, l.moved_in, l.moved_out)
    end
  end
  for _, l in ipairs(answer.loops) do
    if l.stalled then say("  loop %d is stalled for %s; its numbers are %s old", l.id, span(l.since), span(l.age)) end
  end
end

-- One line an address, whatever the number of loops.
local function print_listeners(answer)
  local rows, by_address = { { "address", "accepted", "conns", "script" } }, {}
  local order = {}
  for _, l in ipairs(answer.listeners) do
    local one = by_address[l.address]
    if not one then
      one = { accepted = 0, script = l.script }
      by_address[l.address] = one
      order[#order + 1] = l.address
    end
    one.accepted = one.accepted + l.accepted
    if l.connections then one.connections = (one.connections or 0) + l.connections end
  end
  for _, address in ipairs(order) do
    local one = by_address[address]
    rows[#rows + 1] = { address, count(one.accepted), one.connections and count(one.connections) or "-", one.script }
  end
  if #order > 0 then print_table(rows) end
end

local FIRST_LINE = "^[^\n]*"

-- Who runs what: of each server its generations, how many connections each has, and how its last reload went.
local function print_servers(answer)
  local rows, by_label = { { "script", "phase", "conns", "lua", "content" } }, {}
  for _, l in ipairs(answer.loops) do
    for _, s in ipairs(l.states) do
      local one = by_label[s.script]
      if not one then
        one = { script = s.script, phase = s.phase, connections = 0, lua_bytes = 0, hash = s.hash }
        by_label[s.script], by_label[#by_label + 1] = one, one
      elseif one.phase ~= s.phase then
        one.phase = "mixed" -- a canary, or a change under way
      end
      one.connections, one.lua_bytes = one.connections + s.connections, one.lua_bytes + s.lua_bytes
    end
  end
  for _, one in ipairs(by_label) do
    rows[#rows + 1] = { one.script, one.phase, count(one.connections), bytes(one.lua_bytes), one.hash or "-" }
  end
  print_table(rows)
  for _, server in ipairs(answer.servers) do
    local last = server.last_reload
    if last then
      say("  %s: %d reloads, %d failed, %d of them rolled back; the last, %s: %s", server.name, server.reloads + server.failed,
        server.failed, server.rolled_back, os.date("%Y-%m-%d %H:%M:%S", last.at), last.ok and last.label .. " serves" or
        last.message:match(FIRST_LINE))
    end
  end
end

local function print_shared(answer)
  for _, p in ipairs(answer.pools) do
    say("  pool %s: %d of %d workers, %d busy, %d lost; %d queued, %d done, %d failed", p.name, p.workers, p.max, p.busy, p.lost,
      p.queued, p.done, p.failed)
  end
  for _, d in ipairs(answer.dicts) do
    say("  dict %s: %d keys, %s of %s free", d.name, d.keys, bytes(d.free), bytes(d.capacity))
  end
  for _, t in ipairs(answer.topics) do
    say("  topic %s: %d subscribers, %d publishes, %d deliveries, %d dropped", t.name, t.subscribers, t.publishes, t.deliveries,
      t.dropped)
  end
  if answer.more_topics > 0 then say("  and %d more topics", answer.more_topics) end
  local c = answer.children
  if c.started > 0 then say("  programs: %d run, %d started", c.running, c.started) end
  local b, l = answer.blocks, answer.log
  say("  blocks: %s in use, %s cached; %d slices retained, %d leaked", bytes(b.bytes), bytes(b.cached_bytes), b.slices, b.slices_leaked)
  say("  log lines: %d error, %d warn, %d info, %d debug; %d dropped", l.error, l.warn, l.info, l.debug, l.dropped)
end

function status.main(given)
  local answer, text = control.ask(given, "status\n")
  if not answer then return answer, text end
  if given.json then
    io.stdout:write(text)
    return 0
  end
  say("rille %s, pid %d, %s for %s", answer.version, answer.pid, answer.health, span(answer.uptime))
  if answer.conf ~= "" then say("  %s", answer.conf) end
  say("  memory %s, %d descriptors, %d stalls", bytes(answer.rss), answer.descriptors, answer.total.stalls)
  print_loops(answer)
  print_listeners(answer)
  print_servers(answer)
  print_shared(answer)
  return 0
end

return status
