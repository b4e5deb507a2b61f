-- defaults: every key of the configuration, with its type, default, bounds and meaning. config.lua checks against this table, and
-- docs/conf.md shows it (spec/config_spec.lua compares them): there is no second list.
--
-- A key: name, type, default (nil: none), min, max, values (of an enum), about. Durations and sizes are written as in a
-- configuration. Types:
--   count        a whole number
--   seconds      a number of seconds, or "250ms", "2s", "5m", "1h"
--   bytes        a number of bytes, or "64k", "1m", "1g"
--   boolean, string
--   function     only in a program
--   enum         one of `values`
--   lines        a string or a list of strings
--   addresses    a URL or a list of URLs
--   script       a path or a module name; rille.run also takes a function or a table of hooks
--   codec        a module name; rille.run and rille.listen also take the module's table
--   options      a table of plain data
--   networks     a network such as "10.0.0.0/8", or a list of such
--   pin          true, or a list of processor numbers
--   mode         permission bits: "0660" or a number
--   file         a path, relative to the configuration's folder
--   templates    a package.path; relative ones are relative to the configuration's folder
--   loops        a whole number, or "auto"
--   table        with `keys` of its own; `optional`: without it there is none; true or false stands for one whose key `switch` is that
--   workers      a whole number, or a table with `keys`
--   list         of tables with `keys`
--   map          of such tables, by names of the user's

local TIME_MAX = "1000h" -- the core counts milliseconds in 32 bits

local timeouts = {
  { name = "read", type = "seconds", default = 0, min = 0, max = TIME_MAX,
    about = "for what a parked read waits for" },
  { name = "write", type = "seconds", default = "60s", min = 0, max = TIME_MAX,
    about = "without progress while output waits for the peer" },
  { name = "idle", type = "seconds", default = "75s", min = 0, max = TIME_MAX,
    about = "without a byte in either direction" },
  { name = "lifetime", type = "seconds", default = 0, min = 0, max = TIME_MAX,
    about = "of a connection in all" },
  { name = "linger", type = "seconds", default = "2s", min = 0, max = TIME_MAX,
    about = "without progress of the output of a connection that is being closed, then for the peer's end" },
  { name = "header", type = "seconds", default = "10s", min = 0, max = TIME_MAX,
    about = "HTTP: for a whole request head, from its first byte; then 408" },
  { name = "body", type = "seconds", default = "60s", min = 0, max = TIME_MAX,
    about = "HTTP: that a handler waits for a request body in all, `limits.body_rate` apart; then 408" },
}

local session = {
  { name = "idle", type = "seconds", default = "60s", min = 0, max = TIME_MAX,
    about = "without a datagram in either direction; then it ends, `\"timeout\"`. 0: none" },
  { name = "max", type = "count", default = 10000, min = 1, max = 2 ^ 20,
    about = "at a time for each address; datagrams of further peers are dropped" },
  { name = "queue", type = "count", default = 64, min = 1, max = 2 ^ 16,
    about = "datagrams that wait for the handler of one session; further ones are dropped" },
}

local multicast = {
  { name = "groups", type = "lines", default = {},
    about = "addresses to receive from: `\"239.1.2.3\"`, `\"ff02::1\"`, or a list of such" },
  { name = "interface", type = "string", min = 1, max = 15,
    about = "the network interface of the groups and of what is sent; without: the system's choice" },
  { name = "ttl", type = "count", min = 0, max = 255,
    about = "how many routers what is sent may pass; without: 1" },
  { name = "loop", type = "boolean",
    about = "whether what is sent comes back to this host; without: it does" },
}

local server_limits = {
  { name = "max_input", type = "bytes", default = "1m", min = 1, max = "1g",
    about = "unread and unreleased input of a connection; reads beyond it return `nil, \"too large\"`" },
  { name = "high_water", type = "bytes", default = "1m", min = 1, max = "1g",
    about = "unsent output of a connection above which writing parks" },
  { name = "low_water", type = "bytes", min = 0, max = "1g",
    about = "unsent output at which writing goes on; without: half of `high_water`" },
  { name = "read_rate", type = "bytes", default = 0, min = 0, max = "1g",
    about = "bytes a second that are taken from a connection; 0: no limit" },
  { name = "write_rate", type = "bytes", default = 0, min = 0, max = "1g",
    about = "bytes a second that are sent to a connection; 0: no limit" },
  { name = "head", type = "bytes", default = "16k", min = 256, max = "1m",
    about = "HTTP: of a request head; then 431. Also of a chunked body's extensions and trailers" },
  { name = "target", type = "bytes", default = "8k", min = 16, max = "1m",
    about = "HTTP: of a request-target; then 414" },
  { name = "headers", type = "count", default = 100, min = 1, max = 10000,
    about = "HTTP: fields of a request; then 431" },
  { name = "body", type = "bytes", default = "1m", min = 0, max = "1000000g",
    about = "HTTP: of a request body; then 413. 0: no limit" },
  { name = "body_rate", type = "bytes", default = "1k", min = 0, max = "1g",
    about = "HTTP: each so many bytes of a body give `timeouts.body` a second more; 0: none do" },
  { name = "requests", type = "count", default = 0, min = 0, max = 2 ^ 30,
    about = "HTTP: of a connection, which is closed then; 0: no limit" },
  { name = "max_datagram", type = "bytes", default = "64k", min = 1, max = "64k",
    about = "datagrams: of one; larger ones are dropped" },
  { name = "max_handlers", type = "count", default = 4096, min = 1, max = 2 ^ 20,
    about = "datagrams: that handlers have at a time; further ones wait in the kernel" },
  { name = "send_queue", type = "count", default = 1024, min = 64, max = 2 ^ 20,
    about = "datagrams: that wait to be sent; further ones are `nil, \"full\"`" },
  { name = "max_connections", type = "count", default = 0, min = 0, max = 2 ^ 20,
    about = "open at a time for each address; 0: no limit" },
  { name = "memory", type = "bytes", default = "1g", min = 0, max = "1024g",
    about = "of the server's Lua state on each loop; one that uses it up is replaced. 0: no limit" },
  { name = "max_connections_per_address", type = "count", default = 0, min = 0, max = 2 ^ 20,
    about = "open at a time from one source address (IPv6: one /64), on all of the server's addresses; 0: no limit" },
  { name = "shed_after", type = "seconds", default = "5s", min = 0, max = TIME_MAX,
    about = "out of descriptors for so long: connections that wait are closed; 0: they wait on" },
}

local server = {
  { name = "listen", type = "addresses", required = true,
    about = "where: `\"tcp://127.0.0.1:7000\"`, `\"unix:///run/echo.sock\"`, or a list of such" },
  { name = "script", type = "script", required = true,
    about = "the handler script: a path (with a `/` or `.lua`) or a module name" },
  { name = "protocol", type = "enum", default = "stream", values = { "stream", "http" },
    about = "`\"http\"`: on_request gets `(req, res)`; so it does at a listen address `http://HOST:PORT`" },
  { name = "options", type = "options", default = {},
    about = "any plain table; the script gets it as `...`" },
  { name = "codec", type = "codec",
    about = "a module with `decode(conn)`: on_request then gets whole frames" },
  { name = "concurrency", type = "count", default = 1, min = 1, max = 1024,
    about = "frames of one connection that are handled at a time; above 1 it needs a codec" },
  { name = "ordered", type = "boolean", default = true,
    about = "what handlers of one connection write goes out in the order of their frames" },
  { name = "offload", type = "string", min = 1, max = 63,
    about = "on_request runs on the workers of this pool; `\"pool\"`: the default one" },
  { name = "timeouts", type = "table", keys = timeouts, inherits = "timeouts",
    about = "as the top level's, for this server" },
  { name = "limits", type = "table", keys = server_limits,
    about = "of its connections" },
  { name = "nodelay", type = "boolean", default = true,
    about = "send small packets at once (TCP_NODELAY)" },
  { name = "keepalive", type = "count", default = 0, min = 0, max = 32767,
    about = "seconds of silence before TCP probes the peer; 0: never" },
  { name = "backlog", type = "count", default = 0, min = 0, max = 65535,
    about = "connections that wait to be accepted; 0: the system's maximum" },
  { name = "ipv6_only", type = "boolean", default = false,
    about = "an IPv6 address does not take IPv4 connections" },
  { name = "receive_buffer", type = "bytes", default = 0, min = 0, max = "1g",
    about = "the kernel's, for each connection; 0: the system's choice" },
  { name = "send_buffer", type = "bytes", default = 0, min = 0, max = "1g",
    about = "the kernel's, for each connection; 0: the system's choice" },
  { name = "mode", type = "mode",
    about = "permission bits of a unix path, such as `\"0660\"`; without: what the umask leaves" },
  { name = "device", type = "string", min = 1, max = 15,
    about = "the network interface to take connections from, such as `\"eth0\"`" },
  { name = "accept", type = "enum", values = { "reuseport", "shared", "balanced" },
    about = "how connections come to several loops; without: what fits, see below" },
  { name = "balance", type = "enum", default = "round_robin",
    values = { "round_robin", "random", "least_connections", "source_hash", "script" },
    about = "of `accept = \"balanced\"`: which loop gets the next connection" },
  { name = "allow", type = "networks", max = 4096,
    about = "networks that connections may come from; without: all" },
  { name = "deny", type = "networks", max = 4096,
    about = "networks that they may not come from, whatever `allow` says" },
  { name = "session", type = "table", keys = session, optional = true,
    about = "datagrams: what one peer sends is a [session](udp.md#sessions)" },
  { name = "multicast", type = "table", keys = multicast, optional = true,
    about = "datagrams: groups to receive from, and how to send to such" },
  { name = "broadcast", type = "boolean", default = false,
    about = "datagrams: may be sent to broadcast addresses" },
  reserved = { "tls", "reload" },
}

local log = {
  { name = "level", type = "enum", default = "info", values = { "debug", "info", "warn", "error", "off" },
    about = "the least that is logged" },
  { name = "format", type = "enum", default = "logfmt", values = { "logfmt", "json" },
    about = "of a line" },
  { name = "file", type = "file",
    about = "where lines go; without: to stderr" },
  { name = "to", type = "function",
    about = "called with each line instead; only in `rille.run`" },
}

local dict = {
  { name = "size", type = "bytes", default = "16m", min = "16k", max = "256g",
    about = "of all it has: keys, values and what they need" },
}

local workers = {
  { name = "max", type = "count", min = 1, max = 1024,
    about = "workers; without: as many as processors" },
  { name = "scale_threshold", type = "count", default = 1, min = 1, max = 2 ^ 20,
    about = "so many jobs wait for no worker before another one starts" },
  { name = "queue", type = "count", default = 1024, min = 1, max = 2 ^ 20,
    about = "jobs that wait" },
  { name = "idle_timeout", type = "seconds", default = "60s", min = 0, max = "1h",
    about = "without a job, after which a worker ends" },
  { name = "memory", type = "bytes", default = "1g", min = 0, max = "1024g",
    about = "of a worker's Lua state; a job that passes it fails, `\"no memory\"`. 0: no limit" },
}

local io = {
  { name = "workers", type = "count", default = 4, min = 1, max = 1024,
    about = "threads that read files and make other calls that block, at most" },
  { name = "queue", type = "count", default = 4096, min = 1, max = 2 ^ 20,
    about = "such calls that wait; then `\"full\"`" },
  { name = "timeout", type = "seconds", default = "60s", min = 0, max = TIME_MAX,
    about = "that a task waits for such a call, if it does not say itself; then `\"timeout\"`. 0: none" },
}

local control = {
  { name = "enabled", type = "boolean", default = true,
    about = "there is one; `control = false` is short for this" },
  { name = "path", type = "file",
    about = "of the socket; without: `rille-PID.sock` in `$XDG_RUNTIME_DIR`, else in `/tmp`" },
}

local metrics = {
  { name = "listen", type = "addresses",
    about = "where `/metrics` and `/healthz` are served over HTTP; without: nowhere" },
  { name = "max", type = "count", default = 1000, min = 0, max = 100000,
    about = "metrics that scripts may make; then `\"full\"`" },
  { name = "series", type = "count", default = 1000, min = 1, max = 1000000,
    about = "combinations of label values of one metric; then `\"full\"`" },
}

local limits = {
  { name = "turn_time", type = "seconds", default = "1ms", min = "0.1ms", max = "1s",
    about = "how long one connection is served in a turn while others wait" },
  { name = "processes", type = "count", default = 256, min = 1, max = 65536,
    about = "that scripts have started and that run, of all loops; then `\"full\"`" },
}

return {
  top = {
    { name = "loops", type = "loops", default = 1, min = 1, max = 256,
      about = "event loops, a thread each; `\"auto\"`: as many as there are processors to use" },
    { name = "processes", type = "loops", default = 1, min = 1, max = 64,
      about = "processes, each with all of these loops; `\"auto\"`: as many as there are processors to use" },
    { name = "user", type = "string", min = 1, max = 255,
      about = "whom root becomes when the addresses are bound: `\"www-data\"`, or `\"USER:GROUP\"`" },
    { name = "drain_timeout", type = "seconds", default = "30s", min = 0, max = TIME_MAX,
      about = "at a shutdown, for connections to finish" },
    { name = "pin", type = "pin",
      about = "`true`: each loop stays on a processor of its own, in order; or the list of their numbers" },
    { name = "path", type = "templates",
      about = "put in front of `package.path`, behind the script's own folder" },
    { name = "cpath", type = "templates",
      about = "the same for `package.cpath`" },
    { name = "dev", type = "boolean", default = false,
      about = "for developers, as `--dev`" },
    { name = "banner", type = "lines",
      about = "written to stderr, as it is, when all servers listen; not with `log.format = \"json\"`" },
    { name = "log", type = "table", keys = log, about = "the log" },
    { name = "limits", type = "table", keys = limits, about = "of a loop, and of the process" },
    { name = "io", type = "table", keys = io, about = "the worker pool of `rille.fs`" },
    { name = "control", type = "table", keys = control, switch = "enabled",
      about = "the socket that `rille status` and its like ask; `false`: none" },
    { name = "stall_after", type = "seconds", default = "1s", min = 0, max = "1h",
      about = "a turn of a loop that lasts longer is logged as a stall; 0: none is" },
    { name = "dicts", type = "map", keys = dict, max = 255, about = "shared memory for `rille.dict`, by name" },
    { name = "workers", type = "workers", keys = workers,
      about = "the worker pool `\"default\"`: a number, which is its `max`, or a table" },
    { name = "pools", type = "map", keys = workers, max = 63, about = "other worker pools for `rille.pool`, by name" },
    { name = "workers_timeout", type = "seconds", default = "2s", min = 0, max = TIME_MAX,
      about = "at the end, for workers to come back from their jobs" },
    { name = "timeouts", type = "table", keys = timeouts, about = "of every server's connections; 0: none" },
    -- behind timeouts, which it inherits from; one server is one Lua state, and a loop has room for 64
    { name = "servers", type = "list", keys = server, max = 64, about = "what is served, at least one" },
    { name = "metrics", type = "table", keys = metrics, about = "numbers for Prometheus" },
    reserved = { "reload" },
  },
}
