-- stop: `rille stop`, as SIGTERM does.

local control = require "rille.cli.control"

local stop = {}

stop.help = [[
usage: rille stop [--now] [--pid N | --control PATH | --conf FILE]

Stop a server, with all its processes: it takes no more connections and lets those there are finish. Does not wait for its end.

  --now            stop at once

]] .. control.help

stop.spec = { positional = 0, options = { now = {} } }
for name, option in pairs(control.options) do stop.spec.options[name] = option end

function stop.main(given)
  local answer, message = control.ask(given, given.now and "stop now\n" or "stop\n", nil, true)
  if not answer then return answer, message end
  print(("stopping pid %d"):format(answer.server))
  return 0
end

return stop
