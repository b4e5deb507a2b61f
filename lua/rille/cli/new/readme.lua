-- The template of README.md.

return [=[
# {{name}}

An HTTP server on [Rille](https://github.com/rille-lua/rille).

| command | what it does |
|---|---|
| `rille run` | serves what `conf/rille.lua` describes, until Ctrl-C |
| `rille check` | says whether the configuration and its script are good |
| `rille test` | runs `spec/` (needs busted) |

While it runs:

```sh
curl http://127.0.0.1:8080/
curl http://127.0.0.1:8080/json
```

`scripts/{{name}}.lua` is the server (its JSON needs lua-cjson); `conf/rille.lua` says where it listens and with which options.
]=]
