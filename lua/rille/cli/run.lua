-- run: `rille run`, the server.

local conf = require "rille.cli.conf"

local run = {}

run.help = [[
usage: rille run [--conf FILE] [OPTIONS]
       rille run SCRIPT --listen URL [--listen URL ...] [OPTIONS] [-- KEY=VALUE ...]

Serve what a configuration describes (without --conf: conf/rille.lua of this folder, else the one that was
installed), or one script at the given addresses. What follows -- reaches the script as its options.

  --conf FILE         the configuration
  --listen URL        http://HOST:PORT, tcp://HOST:PORT, HOST:PORT, :PORT (port 0: any free one), unix:///PATH,
                      unix:@NAME; at http:// the script gets requests
  --protocol NAME     http for addresses that do not say it, such as unix:///PATH
  --dev               for developers: log level debug, tracebacks in the answers of HTTP
  --loops N           event loops, 1 to 256; auto: as many as there are processors
  --processes N       processes, 1 to 64, each with these loops; auto: as above
  --log-level LEVEL   debug, info, warn, error or off
  --log-format FORMAT logfmt or json

SIGTERM and SIGINT let connections finish and stop; a second one stops at once.
]]

run.spec = {
  positional = 1, rest = true,
  options = {
    conf = { value = "FILE" }, listen = { value = "URL", many = true },
    protocol = { value = "NAME" }, dev = {}, loops = { value = "N" }, processes = { value = "N" },
    ["log-level"] = { value = "LEVEL" }, ["log-format"] = { value = "FORMAT" },
  },
}

local function configuration(given)
  local script = given[1]
  if not script then
    if given.listen then return false, "--listen needs a script: rille run SCRIPT --listen URL" end
    if given.protocol then return false, "--protocol needs a script: rille run SCRIPT --listen URL --protocol NAME" end
    if given.rest then return false, "options after -- need a script: rille run SCRIPT --listen URL -- KEY=VALUE" end
    return conf.of_file(given.conf)
  end
  if given.conf then return false, ("--conf and a script ('%s') exclude each other"):format(script) end
  if not given.listen then return false, "an address is missing: rille run SCRIPT --listen URL" end
  return conf.of_script(script, given.listen, given.rest, given.protocol)
end

function run.main(given)
  local settings, message = configuration(given)
  if not settings then return settings, message end
  local ok, problem = conf.override(settings, given)
  if not ok then return nil, problem end
  local status
  status, message = require("rille.server").run(settings)
  if status then return status end
  local first, more = tostring(message):match("^([^\n]*)\n?(.*)$")
  if more == "" then return nil, first end
  return nil, ("%s\nrille: `rille check%s` shows where"):format(first,
    given[1] and " " .. given[1] or given.conf and " --conf " .. given.conf or "")
end

return run
