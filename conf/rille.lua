-- The default configuration: what `make run`, and `rille run` without arguments, serve. Copy it and change it;
-- docs/conf.md describes every key. Relative paths start at the folder of this file.

return {
  -- Where log lines go: to stderr, unless a file is named here. level: debug, info, warn, error, off; format: logfmt, json.
  log = { level = "info", format = "logfmt" },

  -- Written to stderr when everything listens.
  banner = {
    "try: printf 'hello\\n' | nc -q1 127.0.0.1 7000",
    "     stop with Ctrl-C; rille --help names the other commands",
  },

  servers = {
    {
      listen = "tcp://127.0.0.1:7000", -- or a list of addresses: { "tcp://127.0.0.1:7000", "unix:///run/echo.sock" }
      script = "../scripts/echo.lua",  -- a path, or the name of a module
      -- options = { greeting = "hello" },                -- the script gets it as `...`
      -- timeouts = { idle = "75s", lifetime = "1h" },    -- 0: none
      -- limits = { max_input = "1m", max_connections = 10000 },
    },
  },

  -- At a shutdown, connections have this long to finish.
  drain_timeout = "30s",
}
