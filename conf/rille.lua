-- The default configuration: what `make run`, and `rille run` without arguments, serve. Copy it and change it;
-- docs/conf.md describes every key. Relative paths start at the folder of this file.

return {
  -- Where log lines go: to stderr, unless a file is named here. level: debug, info, warn, error, off; format: logfmt, json.
  log = { level = "info", format = "logfmt" },

  -- Written to stderr when everything listens.
  banner = {
    "try: curl http://127.0.0.1:8080/",
    "     printf 'hello\\n' | nc -q1 127.0.0.1 7000",
    "     stop with Ctrl-C; rille --help names the other commands",
  },

  servers = {
    {
      listen = "http://127.0.0.1:8080", -- or a list of addresses: { "http://127.0.0.1:8080", "unix:///run/hello.sock" }
      script = "../scripts/hello.lua",  -- a path, or the name of a module
      -- protocol = "http",                               -- for addresses that do not say so: unix:///run/hello.sock
      -- options = { greeting = "hello" },                -- the script gets it as `...`
      -- timeouts = { idle = "75s", lifetime = "1h" },    -- 0: none
      -- limits = { body = "1m", max_connections = 10000 },
    },
    { listen = "tcp://127.0.0.1:7000", script = "../scripts/echo.lua" },
  },

  -- Memory that scripts on all loops share: rille.dict("sessions") is this one.
  -- dicts = { sessions = { size = "16m" } },

  -- Threads that read files for rille.fs and res:file, and how many programs rille.process may run at a time.
  -- io = { workers = 4 }, limits = { processes = 256 },

  -- At a shutdown, connections have this long to finish.
  drain_timeout = "30s",
}
