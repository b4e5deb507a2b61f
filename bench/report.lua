-- The numbers as text for people. JSON has the same and more; what is not known is json.null there and n/a here.
local dict = require "bench.dict"
local redis = require "bench.redis"
local reload = require "bench.reload"
local tail = require "bench.tail"

local report = {}

local ROW = "  %-10s %10s %9s %7s %7s %5s %6s %8s %8s %8s %9s\n"

local DISTURBED = 0.02 -- share of a window in which other work had the core

local function fixed(value, digits)
  return type(value) == "number" and ("%." .. digits .. "f"):format(value) or "n/a"
end

local function row(name, side)
  return ROW:format(name, fixed(side.requests_per_second, 0), fixed(side.cpu_us, 3), fixed(side.user_us, 3),
    fixed(side.system_us, 3), fixed(side.busy * 100, 0) .. "%", fixed(side.waited * 100, 1) .. "%",
    fixed(side.p50_us, 0), fixed(side.p99_us, 0),
    fixed(side.p999_us, 0), fixed(side.lua_bytes_per_message, 2))
end

local function spread(quartiles)
  return ("%.3f (%.3f .. %.3f)"):format(quartiles.median, quartiles.q1, quartiles.q3)
end

local function spread_us(quartiles)
  return ("%.0f (%.0f .. %.0f)"):format(quartiles.median, quartiles.q1, quartiles.q3)
end

local function ratio_row(name, ratios)
  return ("  %-22s CPU %s   rate %s   p99 %s\n"):format(
    name, spread(ratios.cpu), spread(ratios.rate), spread(ratios.p99))
end

local function calls_row(tool, name, unit, calls)
  local names, parts = {}, {}
  for call, count in pairs(calls) do
    if call ~= "total" and count >= 0.0005 then names[#names + 1] = call end
  end
  table.sort(names, function(a, b)
    if calls[a] ~= calls[b] then return calls[a] > calls[b] end
    return a < b
  end)
  for i, call in ipairs(names) do parts[i] = ("%s %.3f"):format(call, calls[call]) end
  local title = ("syscalls (%s) %s"):format(tool, name)
  return ("  %-26s %.3f a %s: %s\n"):format(title, calls.total, unit, table.concat(parts, ", "))
end

-- unit: { short, long } name of what is counted
local function comparison_text(title, unit, result, settings, name)
  local parts = {
    ("%s, %d connections, %d pairs of %g s\n"):format(title, result.connections or settings.connections,
      result.pairs or settings.pairs, settings.seconds),
    ROW:format("", "requests/s", "CPU us/" .. unit[1], "user", "system", "busy", "waited", "p50 us", "p99 us",
      "p99.9 us", "Lua B/" .. unit[1]),
    row("baseline", result.baseline),
    row(name, result.server),
    ratio_row(name .. "/baseline", result.ratio),
    ratio_row("noise (A/A)", result.noise),
  }
  if type(result.syscalls.error) == "string" then
    parts[#parts + 1] = "  syscalls: " .. result.syscalls.error .. "\n"
  else
    parts[#parts + 1] = calls_row(result.syscalls.tool, "baseline", unit[2], result.syscalls.baseline)
    parts[#parts + 1] = calls_row(result.syscalls.tool, name, unit[2], result.syscalls.server)
  end
  local waited = math.max(result.baseline.waited, result.server.waited)
  local client_waited = math.max(result.baseline.client_waited, result.server.client_waited)
  if math.max(result.shares_core and 0 or waited, client_waited) > DISTURBED then
    local text = "  DISTURBED: the server waited %.0f %% and the client %.0f %% of the time for their cores\n"
    parts[#parts + 1] = text:format(waited * 100, client_waited * 100)
  end
  return table.concat(parts)
end

local function echo_text(result, settings, name)
  return comparison_text(("echo %d B"):format(result.size), { "msg", "message" }, result, settings, name)
end

local function http_text(result, settings, name)
  local title = ("http %s, %d in a row, answers of %.0f B (baseline) and %.0f B"):format(
    result.case, result.depth, result.baseline.answer_bytes, result.server.answer_bytes)
  return comparison_text(title, { "req", "request" }, result, settings, name)
end

local function rpc_text(result, settings, name)
  local title = ("rpc %s, 1 KiB, %d at a time on a connection"):format(result.case, result.depth)
  return comparison_text(title, { "call", "call" }, result, settings, name)
end

local function idle_text(name, result)
  local parts = {}
  for i, point in ipairs(result.points) do
    parts[i] = ("%d: %.0f/%.0f"):format(point.connections, point.vm_rss / 1024, point.private / 1024)
  end
  local slopes = result.bytes_per_connection
  local text = ("  %-10s %s\n  %-10s bytes/connection: VmRSS %s, Pss %s, private %s, anonymous %s\n"):format(
    name, table.concat(parts, "   "), "", fixed(slopes.vm_rss, 0), fixed(slopes.pss, 0), fixed(slopes.private, 0),
    fixed(slopes.anonymous, 0))
  if type(result.error) == "string" then text = text .. ("  %-10s %s\n"):format("", result.error) end
  return text
end

local function dict_rows(result, field)
  local parts = {}
  for _, store in ipairs(dict.STORES) do
    parts[#parts + 1] = ("  %-10s"):format(store)
    for _, case in ipairs(dict.CASES) do
      local q = result.stores[store][case][field]
      parts[#parts + 1] = ("  %s %6.2f M (%.2f .. %.2f)"):format(case, q.median / 1e6, q.q1 / 1e6, q.q3 / 1e6)
    end
    parts[#parts + 1] = "\n"
  end
  return table.concat(parts)
end

local function dict_text(result)
  local text = ("dict, %d loops at once on %d cores, 10000 keys, 32 B values, %d windows; operations a second and loop\n"):format(
    result.loops, result.cores, result.windows) .. dict_rows(result, "rate")
  if result.waited <= DISTURBED then return text end
  return text .. ("  DISTURBED: the loops waited %.0f %% of the time for their cores; a second on a CPU:\n"):format(
    result.waited * 100) .. dict_rows(result, "cpu_rate")
end

local function connects_text(result, name)
  local parts = { ("connects, 15000 in a second over two loops, %d rounds; p99 of 16 old connections before and meanwhile\n"):format(
    result.rounds) }
  for _, side in ipairs { { "baseline", result.baseline }, { name, result.server } } do
    local one = side[2]
    parts[#parts + 1] = ("  %-10s %6.0f connects/s, %d of %d lost; p50 %.0f -> %.0f us, p99 %.0f -> %.0f us, times %s\n"):format(
      side[1], one.rate, one.lost, one.lost + one.connects, one.quiet_p50_us, one.p50_us, one.quiet_p99_us, one.p99_us,
      spread(one.p99_growth))
  end
  return table.concat(parts)
end

local function tail_text(one)
  local a, b = one.plain, one.mixed
  return ("tail: %d requests a second on one loop; with the pool 1 %% of them compute 10 ms there; "
    .. "p50, p99 of the others in us, %d pairs of %g s\n"):format(tail.RATE, one.pairs, tail.SECONDS)
    .. ("    in the server   without %6.1f %7.1f   with %6.1f %7.1f   p99 %s\n"):format(a.server_p50_us, a.server_p99_us,
      b.server_p50_us, b.server_p99_us, spread(one.server_ratio))
    .. ("    at the client   without %6.1f %7.1f   with %6.1f %7.1f   p99 %s\n"):format(a.p50_us, a.p99_us, b.p50_us,
      b.p99_us, spread(one.client_ratio))
end

local function devices_text(one)
  return ("devices: %d over %d loops, %d commands a second to them at random over HTTP, %d windows of %g s\n"):format(one.devices,
    one.loops, one.rate, one.windows, one.seconds)
    .. ("    %d commands, %d answered, %d failed, %d with another answer; devices received %d\n"):format(one.sent, one.answered,
      one.failed, one.wrong, one.received)
    .. ("    in the server, with the way to the device and back   p50 %s us   p99 %s us\n"):format(spread_us(one.server_p50_us),
      spread_us(one.server_p99_us))
    .. ("    at the client                                        p50 %s us   p99 %s us\n"):format(spread_us(one.p50_us),
      spread_us(one.p99_us))
    .. ("    memory %.0f bytes a device, %.0f of them in use by Lua\n"):format(one.resident_per_device, one.lua_per_device)
end

local function reload_row(one)
  return ("  %-8s p99 %6.0f -> %6.0f us, times %s\n"):format(one.name or "", one.p99_us.steady, one.p99_us.reloading, spread(one.p99_ratio))
    .. ("           %d reloads, %d requests: %d failed, %d connections closed; new code answers after %.0f ms (at most %.0f), old code\n"
      .. "           for %.0f ms (%.0f); memory at most %.1f -> %.1f MB\n"):format(one.reloads, one.answers, one.failed, one.closed,
      one.first_s.median * 1e3, one.first_s.most * 1e3, one.last_s.median * 1e3, one.last_s.most * 1e3, one.memory.steady / 1e6,
      one.memory.reloading / 1e6)
end

local function reload_text(result)
  local parts = { ("reload every %g s under %d requests a second over %d connections, %d loops or workers; %d pairs of %g s\n"):format(
    reload.EVERY_S, reload.RATE, reload.CONNECTIONS, reload.LOOPS, result.pairs, result.seconds) }
  for _, one in ipairs(result.servers) do parts[#parts + 1] = reload_row(one) end
  local many = result.modules
  parts[#parts + 1] = ("reload of a script of %d modules\n"):format(reload.MODULES) .. reload_row(many)
  return table.concat(parts) .. ("           longest turn %.2f -> %.2f ms; without waits for a processor %.2f -> %.2f ms\n"):format(
    many.longest_turn_ms.steady, many.longest_turn_ms.reloading, many.longest_work_ms.steady, many.longest_work_ms.reloading)
end

local function dns_text(one)
  local parts = { ("dns: %d names in the cache, dnsperf with 200 questions under way, %d pairs; for a second of processor time\n"):format(
    one.names, one.pairs) }
  for _, side in ipairs { { "dnsmasq", one.dnsmasq }, { "rille", one.server } } do
    parts[#parts + 1] = ("  %-10s %8.0f answers, %.3f us each; %8.0f answers/s, waited %.1f%%, Lua %.2f B/answer\n"):format(side[1],
      side[2].answers_per_cpu_second, side[2].cpu_us, side[2].rate, side[2].waited * 100, side[2].lua_bytes)
  end
  return table.concat(parts) .. ("  rille/dnsmasq: answers a CPU second %s\n"):format(spread(one.ratio))
end

local function tls_text(result, settings, name)
  local unit = result.kind == "bulk" and { "MiB", "MiB" } or { "hs", "handshake" }
  local title = ("tls %s, %s; the baseline is nginx"):format(result.key, result.case)
  local text = comparison_text(title, unit, result, settings, name)
  return text .. ("  %s of a second on a CPU, beside nginx: %.2f times\n"):format(result.kind == "bulk" and "bytes" or "handshakes",
    1 / result.ratio.cpu.median)
end

local function loops_text(result)
  local parts = { ("loops, %s, %d windows; on every core\n"):format(result.case, result.rounds) }
  for _, one in ipairs(result.loops) do
    parts[#parts + 1] = ("  %d loops  %8.0f requests/s  CPU %.3f us  busy %.0f%%  p50 %.0f us  p99 %.0f us\n"):format(one.loops,
      one.requests_per_second, one.cpu_us, one.busy * 100, one.p50_us, one.p99_us)
  end
  return table.concat(parts) .. ("  2 loops/1 loop: rate %s\n"):format(spread(result.ratio))
end

local function redis_text(list)
  local parts = {}
  for _, one in ipairs(list) do
    parts[#parts + 1] = ("redis: %d clients, %d commands at a time, through a proxy; %d pairs of %d requests\n"):format(
      redis.CLIENTS, one.depth, one.pairs, 2 * one.requests)
    for _, name in ipairs { "rille", "haproxy" } do
      parts[#parts + 1] = ("  %-10s %8s us of CPU a request %10s requests/s\n"):format(name, fixed(one[name].cpu_us, 3),
        fixed(one[name].requests_per_second, 0))
    end
    parts[#parts + 1] = ("  CPU, rille / haproxy: %s\n"):format(spread(one.ratio))
  end
  return table.concat(parts)
end

-- document: what run.lua writes as JSON; parts that were not run are not in it.
function report.text(document)
  local machine, settings, name = document.machine, document.settings, document.server.name
  local parts = { ("%s, Linux %s; server on core %d, load on core %d\n"):format(
    machine.cpu, machine.kernel, settings.server_core, settings.client_core) }
  if document.stolen > DISTURBED then
    parts[2] = ("DISTURBED: the host of this machine kept its processors for %.0f %% of the time\n"):format(document.stolen * 100)
  end
  parts[#parts + 1] = "\n"
  for _, result in ipairs(document.echo or {}) do
    parts[#parts + 1] = echo_text(result, settings, name) .. "\n"
  end
  for _, result in ipairs(document.http or {}) do
    parts[#parts + 1] = http_text(result, settings, name) .. "\n"
  end
  for _, result in ipairs(document.rpc or {}) do
    parts[#parts + 1] = rpc_text(result, settings, name) .. "\n"
  end
  if document.fanout then
    local unit = { "msg", "delivery" }
    parts[#parts + 1] = comparison_text("fanout of 1 KiB, two loops", unit, document.fanout, settings, name) .. "\n"
  end
  if document.connects then parts[#parts + 1] = connects_text(document.connects, name) .. "\n" end
  for _, result in ipairs(document.loops or {}) do parts[#parts + 1] = loops_text(result) .. "\n" end
  for _, result in ipairs(document.udp or {}) do
    local title, unit = ("udp echo %d B"):format(result.size), { "msg", "datagram" }
    parts[#parts + 1] = comparison_text(title, unit, result, settings, name) .. "\n"
  end
  if document.idle then
    parts[#parts + 1] = "idle connections: VmRSS/private kB at 0, 1000, 5000, 15000\n"
    parts[#parts + 1] = idle_text("baseline", document.idle.baseline)
    parts[#parts + 1] = idle_text(name, document.idle.server)
  end
  if document.dict then parts[#parts + 1] = dict_text(document.dict) end
  if document.tail then parts[#parts + 1] = tail_text(document.tail) end
  if document.reload then parts[#parts + 1] = reload_text(document.reload) end
  if document.dns then parts[#parts + 1] = dns_text(document.dns) end
  for _, result in ipairs(document.tls or {}) do parts[#parts + 1] = tls_text(result, document.settings, name) .. "\n" end
  if document.redis then parts[#parts + 1] = redis_text(document.redis) end
  if document.devices then parts[#parts + 1] = devices_text(document.devices) end
  return table.concat(parts)
end

return report
