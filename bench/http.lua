-- HTTP/1.1: a short answer to one request at a time and to many in a row, and 1 KiB of JSON.
local compare = require "bench.compare"
local server = require "bench.server"
local syscalls = require "bench.syscalls"

local http = {}

local RILLE = "bin/rille run %s --listen http://127.0.0.1:{port} --loops 1"

-- answer: what the baseline, or another server in Rille's place, is asked to serve
local HELLO = { answer = "hello", script = "scripts/hello.lua", arguments = { "--body", "Hello, World!" } }
local JSON = { answer = "json", script = "bench/json_answer.lua", arguments = { "--path", "/items", "--json" } }

http.CASES = {
  { name = "hello", kind = HELLO, depth = 1 },
  { name = "pipelined", kind = HELLO, depth = 16 },
  { name = "json", kind = JSON, depth = 1 },
}

local function start_all(settings, name, command, kind)
  local core = settings.server_core
  local baseline_command = ("%s/http {port} %s"):format(settings.build, kind.answer)
  local tested_command = command and command:gsub("{answer}", kind.answer) or RILLE:format(kind.script)
  return {
    baseline = server.start("baseline", baseline_command, core),
    twin = server.start("baseline", baseline_command, core),
    tested = server.start(name, tested_command, core),
  }
end

local function stop_all(servers)
  servers.tested:stop()
  servers.twin:stop()
  servers.baseline:stop()
end

local function measure_case(settings, servers, case)
  local arguments = { "--depth", case.depth }
  for _, argument in ipairs(case.kind.arguments) do arguments[#arguments + 1] = argument end
  local job = { program = "http_client", arguments = arguments }
  local result = compare.run(settings, job, servers.baseline, servers.twin, servers.tested)
  result.case, result.depth = case.name, case.depth
  result.syscalls = syscalls.compare(settings, job, servers.baseline, servers.tested)
  return result
end

-- wanted: the names of the cases to run, as keys. command: of the server, or nil for Rille. Returns one record for each
-- case. Cases next to each other that serve the same are run against the same processes.
function http.measure(settings, name, command, wanted, progress)
  local results, servers, kind = {}, nil, nil
  for _, case in ipairs(http.CASES) do
    if wanted[case.name] then
      progress("http %s: %d pairs of %g s, twice", case.name, settings.pairs, settings.seconds)
      if case.kind ~= kind then
        if servers then stop_all(servers) end
        servers, kind = start_all(settings, name, command, case.kind), case.kind
      end
      results[#results + 1] = measure_case(settings, servers, case)
    end
  end
  if servers then stop_all(servers) end
  return results
end

return http
