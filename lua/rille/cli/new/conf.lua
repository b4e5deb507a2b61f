-- The template of conf/rille.lua.

return [=[
-- What `rille run` serves in this folder; `rille check` says whether it is good. Relative paths start at the folder of this file.

return {
  -- to stderr, unless a file is named here; level: debug, info, warn, error, off; format: logfmt, json
  log = { level = "info", format = "logfmt" },

  -- written to stderr when the server listens
  banner = { "try: curl http://127.0.0.1:8080/" },

  servers = {
    {
      listen = "http://127.0.0.1:8080",
      script = "../scripts/{{name}}.lua",
      options = { greeting = "Hello, World!" }, -- the script gets them as `...`
    },
  },
}
]=]
