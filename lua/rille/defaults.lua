-- defaults: every key of the configuration, with its type, default, bounds and meaning. config.lua checks against this table, and
-- docs/conf.md shows it (spec/config_spec.lua compares them): there is no second list.
--
-- A key: name, type, default (nil: none), min, max, values (of an enum), about. Durations and sizes are written as in a
-- configuration. Types:
--   count        a whole number
--   number       any number
--   seconds      a number of seconds, or "250ms", "2s", "5m", "1h"
--   deadline     the same, or "none"
--   bytes        a number of bytes, or "64k", "1m", "1g"
--   boolean, string
--   function     only in a program
--   name         letters, digits, "_", "." and "-"
--   enum         one of `values`
--   lines        a string or a list of strings
--   addresses    a URL or a list of URLs
--   script       a path or a module name; rille.run also takes a function or a table of hooks
--   codec        a framing or a module name, see codec/init.lua; rille.run and rille.listen also take the module's table
--   options      a table of plain data
--   networks     a network such as "10.0.0.0/8", or a list of such
--   pin          true, or a list of processor numbers
--   mode         permission bits: "0660" or a number
--   file         a path, relative to the configuration's folder
--   pem          the same, or the text of such a file
--   files        a path or a list of such
--   redis        the URL of a Redis server
--   templates    a package.path; relative ones are relative to the configuration's folder
--   loops        a whole number, or "auto"
--   table        with `keys` of its own; `optional`: without it there is none; true or false stands for one whose key `switch` is that
--   workers      a whole number, or a table with `keys`
--   list         of tables with `keys`
--   map          of such tables, by names of the user's
--
-- live: how a new value comes to a server that runs, when its configuration is loaded again (config/diff.lua). Each key says it itself,
-- or a table for all its keys. Of a map it says how further names do; those that are gone stay to the end.
--   "generation"   with new Lua states: of this server, or, outside of servers, of each
--   "listen"       addresses are opened and closed; those that stay are not touched
--   "address"      with an address that is opened; one that stays open keeps the old value until a restart
--   "log", "loops", "pools", "dicts", "process", "reload"   what it belongs to is told at once
--   "servers"      in the servers that have it from here
--   "start"        nothing is to be done: it is for the next start
--   false          only with a restart

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
  { name = "handshake", type = "seconds", default = "10s", min = 0, max = TIME_MAX,
    about = "TLS: from the connection, or from `starttls`, until both sides have agreed" },
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
  { name = "max_input", live = "generation", type = "bytes", default = "1m", min = 1, max = "1g",
    about = "unread and unreleased input of a connection; reads beyond it return `nil, \"too large\"`" },
  { name = "high_water", live = "generation", type = "bytes", default = "1m", min = 1, max = "1g",
    about = "unsent output of a connection above which writing parks" },
  { name = "low_water", live = "generation", type = "bytes", min = 0, max = "1g",
    about = "unsent output at which writing goes on; without: half of `high_water`" },
  { name = "read_rate", live = "generation", type = "bytes", default = 0, min = 0, max = "1g",
    about = "bytes a second that are taken from a connection; 0: no limit" },
  { name = "write_rate", live = "generation", type = "bytes", default = 0, min = 0, max = "1g",
    about = "bytes a second that are sent to a connection; 0: no limit" },
  { name = "head", live = "generation", type = "bytes", default = "16k", min = 256, max = "1m",
    about = "HTTP: of a request head; then 431. Also of a chunked body's extensions and trailers" },
  { name = "target", live = "generation", type = "bytes", default = "8k", min = 16, max = "1m",
    about = "HTTP: of a request-target; then 414" },
  { name = "headers", live = "generation", type = "count", default = 100, min = 1, max = 10000,
    about = "HTTP: fields of a request; then 431" },
  { name = "body", live = "generation", type = "bytes", default = "1m", min = 0, max = "1000000g",
    about = "HTTP: of a request body; then 413. 0: no limit" },
  { name = "body_rate", live = "generation", type = "bytes", default = "1k", min = 0, max = "1g",
    about = "HTTP: each so many bytes of a body give `timeouts.body` a second more; 0: none do" },
  { name = "requests", live = "generation", type = "count", default = 0, min = 0, max = 2 ^ 30,
    about = "HTTP: of a connection, which is closed then; 0: no limit" },
  { name = "max_datagram", live = "generation", type = "bytes", default = "64k", min = 1, max = "64k",
    about = "datagrams: of one; larger ones are dropped" },
  { name = "max_handlers", live = "generation", type = "count", default = 4096, min = 1, max = 2 ^ 20,
    about = "datagrams: that handlers have at a time; further ones wait in the kernel" },
  { name = "send_queue", live = "generation", type = "count", default = 1024, min = 64, max = 2 ^ 20,
    about = "datagrams: that wait to be sent; further ones are `nil, \"full\"`" },
  { name = "max_connections", live = "generation", type = "count", default = 0, min = 0, max = 2 ^ 20,
    about = "open at a time for each address; 0: no limit" },
  { name = "memory", live = "generation", type = "bytes", default = "1g", min = 0, max = "1024g",
    about = "of the server's Lua state on each loop; one that uses it up is replaced. 0: no limit" },
  { name = "max_connections_per_address", live = "generation", type = "count", default = 0, min = 0, max = 2 ^ 20,
    about = "open at a time from one source address (IPv6: one /64), on all of the server's addresses; 0: no limit" },
  { name = "shed_after", live = "generation", type = "seconds", default = "5s", min = 0, max = TIME_MAX,
    about = "out of descriptors for so long: connections that wait are closed; 0: they wait on" },
}

local proxy = {
  { name = "accept", type = "enum", default = "required", values = { "required", "optional" },
    about = "a trusted peer sends a header, or may" },
  { name = "trusted", type = "networks", max = 4096, required = true,
    about = "networks of the proxies; others are refused, or with `\"optional\"` served without a header" },
  { name = "timeout", type = "seconds", default = "5s", min = "10ms", max = TIME_MAX,
    about = "for the whole header, from accepting on" },
  { name = "max", type = "bytes", default = "4k", min = 232, max = 65551,
    about = "of a header" },
}

local canary = {
  { name = "loops", type = "count", default = 0, min = 0, max = 256,
    about = "so many loops get a new generation first, the others after its `soak`; 0: all at once" },
  { name = "soak", type = "seconds", default = "10s", min = 0, max = TIME_MAX,
    about = "how long it is watched there" },
  { name = "max_error_rate", type = "number", default = 0.01, min = 0, max = 1,
    about = "the part of messages that may fail; above, the reload is taken back" },
  { name = "max_p99_ratio", type = "number", default = 1.5, min = 1, max = 1000,
    about = "how much slower than the old generation's its 99th percentile may be; above, the reload is taken back" },
  { name = "min_requests", type = "count", default = 100, min = 0, max = 2 ^ 30,
    about = "messages it has to have had before the two are judged" },
}

local drain = {
  { name = "policy", type = "enum", default = "migrate", values = { "stay", "migrate", "close" },
    about = "connections of the old generation: stay with it, go over between two messages, or end between two messages" },
  { name = "deadline", type = "deadline", default = "none", min = 0, max = TIME_MAX,
    about = "how long the old generation may serve what is still with it; then its connections are closed" },
  { name = "jitter", type = "seconds", default = 0, min = 0, max = TIME_MAX,
    about = "closing connections is spread over so long" },
}

local reload = {
  { name = "watch", type = "boolean", default = true,
    about = "a file that changes is loaded again" },
  { name = "quiet", type = "seconds", default = "50ms", min = 0, max = "1m",
    about = "without a further change, before it is" },
  { name = "longest", type = "seconds", default = "500ms", min = 0, max = "10m",
    about = "after the first change, whatever follows; at least `quiet`" },
  { name = "depends", type = "files", default = {}, max = 256,
    about = "files that count as the script's, beside those it has loaded" },
  { name = "stage_timeout", type = "seconds", default = "5s", min = "100ms", max = "1h",
    about = "for a new generation to load and to pass its `on_stage` and `selftest`" },
  { name = "isolate", type = "boolean", default = false,
    about = "it does so in a process of its own first, where a crash harms nobody" },
  { name = "soak", type = "seconds", default = 0, min = 0, max = TIME_MAX,
    about = "how long a new generation is watched, with the bounds of `canary`, before the old one is given up" },
  { name = "max_generations", type = "count", default = 8, min = 2, max = 64,
    about = "of one server at a time; a reload beyond is refused" },
  { name = "canary", type = "table", keys = canary,
    about = "a new generation on a few loops first" },
  { name = "drain", type = "table", keys = drain,
    about = "what becomes of the connections of an old generation" },
}

local certificates = {
  { name = "certificate", live = "generation", type = "pem", required = true,
    about = "a file (PEM), with those that lead to the authority behind it; or its text" },
  { name = "key", live = "generation", type = "pem", required = true,
    about = "its private key, without a password; a file or its text" },
  { name = "names", live = "generation", type = "lines", max = 64,
    about = "the names it is for, `\"*.example.org\"` among them; without: those in it" },
  { name = "ocsp", live = "generation", type = "file",
    about = "a file with the authority's answer about it (DER), which clients get" },
}

local tls = {
  { name = "certificate", type = "pem",
    about = "the default one: a file (PEM), with those that lead to the authority behind it; or its text" },
  { name = "key", type = "pem",
    about = "its private key, without a password; a file or its text" },
  { name = "names", type = "lines",
    about = "the names it is for; without: those in it" },
  { name = "ocsp", type = "file",
    about = "a file with the authority's answer about it (DER), which clients get" },
  { name = "certificates", type = "list", keys = certificates, max = 1000,
    about = "further ones, chosen by the name that the client asks for" },
  { name = "client", type = "enum", default = "none", values = { "none", "optional", "required" },
    about = "whether clients show a certificate; one that `ca` did not sign ends the connection" },
  { name = "ca", type = "pem",
    about = "certificates of those who may have signed clients' ones: a file (PEM) or its text" },
  { name = "min_version", type = "enum", default = "1.2", values = { "1.2", "1.3" },
    about = "the oldest version of TLS" },
  { name = "ciphers", type = "string", min = 1, max = 4096,
    about = "of TLS 1.2, as OpenSSL writes lists; without: those with forward secrecy and authenticated encryption" },
  { name = "alpn", type = "lines",
    about = "protocols, the most wanted first; a client that offers others alone is refused. Without: "
      .. "`\"http/1.1\"` over HTTP, else none" },
  { name = "session_tickets", type = "boolean", default = true,
    about = "clients that come again need no full handshake" },
  { name = "ktls", type = "boolean", default = false,
    about = "the kernel encrypts, where it can (module `tls`)" },
  { name = "offload", type = "pool", default = false,
    about = "the [workers](tls.md#private-keys-on-workers) of this pool sign for handshakes, not the loop; `true`: those of "
      .. "the pool `tls`" },
}

local server = {
  { name = "name", live = "generation", type = "name", min = 1, max = 48,
    about = "what the log and the commands call it, and what it is known by when it is moved; without: after its script" },
  { name = "listen", live = "listen", type = "addresses", required = true,
    about = "where: `\"tcp://127.0.0.1:7000\"`, `\"unix:///run/echo.sock\"`, or a list of such" },
  { name = "script", live = "generation", type = "script", required = true,
    about = "the handler script: a path (with a `/` or `.lua`) or a module name" },
  { name = "protocol", live = "generation", type = "enum", default = "stream", values = { "stream", "http" },
    about = "`\"http\"`: on_request gets `(req, res)`; so it does at a listen address `http://HOST:PORT`" },
  { name = "options", live = "generation", type = "options", default = {},
    about = "any plain table; the script gets it as `...`" },
  { name = "codec", live = "generation", type = "codec",
    about = "on_request gets whole frames: a [framing](codec.md), `\"line\"` or `{ \"line\", max = \"4k\" }`, or a module with "
      .. "`decode(conn)`" },
  { name = "concurrency", live = "generation", type = "count", default = 1, min = 1, max = 1024,
    about = "frames of one connection that are handled at a time; above 1 it needs a codec" },
  { name = "ordered", live = "generation", type = "boolean", default = true,
    about = "what handlers of one connection write goes out in the order of their frames" },
  { name = "offload", live = "generation", type = "string", min = 1, max = 63,
    about = "on_request runs on the workers of this pool; `\"pool\"`: the default one" },
  { name = "timeouts", live = "generation", type = "table", keys = timeouts, inherits = "timeouts",
    about = "as the top level's, for this server" },
  { name = "limits", type = "table", keys = server_limits,
    about = "of its connections" },
  { name = "tls", live = "generation", type = "table", keys = tls, optional = true,
    about = "of addresses `tls://` and `https://`, and of [`conn:starttls`](tls.md)" },
  { name = "nodelay", live = "generation", type = "boolean", default = true,
    about = "send small packets at once (TCP_NODELAY)" },
  { name = "keepalive", live = "generation", type = "count", default = 0, min = 0, max = 32767,
    about = "seconds of silence before TCP probes the peer; 0: never" },
  { name = "backlog", live = "generation", type = "count", default = 0, min = 0, max = 65535,
    about = "connections that wait to be accepted; 0: the system's maximum" },
  { name = "ipv6_only", live = "address", type = "boolean", default = false,
    about = "an IPv6 address does not take IPv4 connections" },
  { name = "receive_buffer", live = "address", type = "bytes", default = 0, min = 0, max = "1g",
    about = "the kernel's, for each connection; 0: the system's choice" },
  { name = "send_buffer", live = "address", type = "bytes", default = 0, min = 0, max = "1g",
    about = "the kernel's, for each connection; 0: the system's choice" },
  { name = "mode", live = "address", type = "mode",
    about = "permission bits of a unix path, such as `\"0660\"`; without: what the umask leaves" },
  { name = "device", live = "address", type = "string", min = 1, max = 15,
    about = "the network interface to take connections from, such as `\"eth0\"`" },
  { name = "accept", live = "address", type = "enum", values = { "reuseport", "shared", "balanced" },
    about = "how connections come to several loops; without: what fits, see below" },
  { name = "balance", live = "address", type = "enum", default = "round_robin",
    values = { "round_robin", "random", "least_connections", "source_hash", "script" },
    about = "of `accept = \"balanced\"`: which loop gets the next connection" },
  { name = "allow", live = "generation", type = "networks", max = 4096,
    about = "networks that connections may come from; without: all" },
  { name = "deny", live = "generation", type = "networks", max = 4096,
    about = "networks that they may not come from, whatever `allow` says" },
  { name = "proxy", live = "address", type = "table", keys = proxy, optional = true,
    about = "connections come by a proxy that says from where, with a [PROXY header](proxy.md)" },
  { name = "session", live = "generation", type = "table", keys = session, optional = true,
    about = "datagrams: what one peer sends is a [session](udp.md#sessions)" },
  { name = "multicast", live = "address", type = "table", keys = multicast, optional = true,
    about = "datagrams: groups to receive from, and how to send to such" },
  { name = "broadcast", live = "address", type = "boolean", default = false,
    about = "datagrams: may be sent to broadcast addresses" },
  { name = "reload", live = "reload", type = "table", keys = reload, inherits = "reload",
    about = "as the top level's, for this server" },
}

local log = {
  { name = "level", live = "log", type = "enum", default = "info", values = { "debug", "info", "warn", "error", "off" },
    about = "the least that is logged" },
  { name = "format", live = "log", type = "enum", default = "logfmt", values = { "logfmt", "json" },
    about = "of a line" },
  { name = "file", live = "log", type = "file",
    about = "where lines go; without: to stderr" },
  { name = "to", live = false, type = "function",
    about = "called with each line instead; only in `rille.run`" },
}

local dict = {
  { name = "size", live = false, type = "bytes", default = "16m", min = "16k", max = "256g",
    about = "of all it has: keys, values and what they need; not of one with `store`" },
  { name = "store", live = false, type = "redis",
    about = "the Redis server that [keeps it](dict.md#shared-by-several-machines): `\"redis://127.0.0.1:6379\"`; without: this process" },
  { name = "prefix", live = false, type = "string", min = 1, max = 255,
    about = "of its keys in the store; without: `rille:NAME:`" },
  { name = "timeout", live = false, type = "seconds", default = "1s", min = "1ms", max = "1h",
    about = "for a connection to the store, and for each reply" },
  { name = "scan_timeout", live = false, type = "seconds", default = "30s", min = "1ms", max = "1h",
    about = "of a store: for `keys` and `flush` in all" },
  { name = "max_value", live = false, type = "bytes", default = "16m", min = "1k", max = "512m",
    about = "of a store: a value; larger ones are `\"too large\"`" },
  { name = "cache", live = false, type = "seconds", default = 0, min = 0, max = "24h",
    about = "of a store: how long `get` may take a value from memory that the store says nothing new of; 0: it asks each time" },
  { name = "cache_size", live = false, type = "bytes", default = "1m", min = "1k", max = "1g",
    about = "of a store: bytes of that memory, in each Lua state" },
  { name = "ca", live = false, type = "pem",
    about = "for `rediss://`: certificates of those who may have signed the server's, a file (PEM) or its text; without: the system's" },
}

local topic = {
  { name = "bridge", live = "generation", type = "redis", required = true,
    about = "the Redis server that takes messages to [other processes](script.md#topics-of-several-machines)" },
  { name = "prefix", live = "generation", type = "string", default = "rille:topic:", min = 1, max = 255,
    about = "of the channel there, the topic's name follows" },
  { name = "timeout", live = "generation", type = "seconds", default = "1s", min = "1ms", max = "1h",
    about = "for a connection to it, and for each reply" },
  { name = "queue", live = "generation", type = "bytes", default = "4m", min = "1k", max = "32m",
    about = "messages that wait to be sent there, in each Lua state; others stay in the process" },
  { name = "ca", live = "generation", type = "pem",
    about = "for `rediss://`: certificates of those who may have signed the server's, a file (PEM) or its text; without: the system's" },
}

local workers = {
  { name = "max", live = "pools", type = "count", min = 1, max = 1024,
    about = "workers; without: as many as processors" },
  { name = "scale_threshold", live = false, type = "count", default = 1, min = 1, max = 2 ^ 20,
    about = "so many jobs wait for no worker before another one starts" },
  { name = "queue", live = false, type = "count", default = 1024, min = 1, max = 2 ^ 20,
    about = "jobs that wait" },
  { name = "idle_timeout", live = false, type = "seconds", default = "60s", min = 0, max = "1h",
    about = "without a job, after which a worker ends" },
  { name = "memory", live = false, type = "bytes", default = "1g", min = 0, max = "1024g",
    about = "of a worker's Lua state; a job that passes it fails, `\"no memory\"`. 0: no limit" },
}

local io = {
  { name = "workers", live = "pools", type = "count", default = 4, min = 1, max = 1024,
    about = "threads that read files and make other calls that block, at most" },
  { name = "queue", live = false, type = "count", default = 4096, min = 1, max = 2 ^ 20,
    about = "such calls that wait; then `\"full\"`" },
  { name = "timeout", live = "generation", type = "seconds", default = "60s", min = 0, max = TIME_MAX,
    about = "that a task waits for such a call, if it does not say itself; then `\"timeout\"`. 0: none" },
}

local dns = {
  { name = "servers", type = "lines", default = {},
    about = "whom to ask: `\"192.0.2.1\"`, `\"127.0.0.1:5353\"`, `\"[::1]:53\"`; without: those of `resolv_conf`" },
  { name = "timeout", type = "seconds", default = "2s", min = "10ms", max = "1m",
    about = "for the first answer of a server; each further round waits longer" },
  { name = "tries", type = "count", default = 3, min = 1, max = 10,
    about = "rounds of questions to the servers; then `\"timeout\"`" },
  { name = "search", type = "lines",
    about = "domains that short names are looked up in; `{}`: none; without: those of `resolv_conf`" },
  { name = "cache", type = "count", default = 1000, min = 0, max = 1000000,
    about = "answers that each loop keeps, for as long as they say; 0: none" },
  { name = "negative", type = "seconds", default = "60s", min = 0, max = "1h",
    about = "the longest that \"there is no such name\" is kept" },
  { name = "hosts", type = "string", default = "/etc/hosts", min = 0, max = 4095,
    about = "a file of names and addresses that come first; `\"\"`: none" },
  { name = "resolv_conf", type = "string", default = "/etc/resolv.conf", min = 1, max = 4095,
    about = "where the system says whom to ask" },
}

local dial = {
  { name = "timeout", type = "seconds", default = "10s", min = 0, max = TIME_MAX,
    about = "for a `rille.dial` in all, its name included, if it does not say itself; 0: none" },
  { name = "max", type = "count", default = 10000, min = 1, max = 1000000,
    about = "connects and look-ups that are under way on a loop; then a connect is `\"full\"`" },
}

local control = {
  { name = "enabled", type = "boolean", default = true,
    about = "there is one; `control = false` is short for this" },
  { name = "path", type = "file",
    about = "of the socket; without: `rille-PID.sock` in `$XDG_RUNTIME_DIR`, else in `/tmp`" },
}

local metrics = {
  { name = "listen", live = false, type = "addresses",
    about = "where `/metrics` and `/healthz` are served over HTTP; without: nowhere" },
  { name = "max", live = "process", type = "count", default = 1000, min = 0, max = 100000,
    about = "metrics that scripts may make; then `\"full\"`" },
  { name = "series", live = "process", type = "count", default = 1000, min = 1, max = 1000000,
    about = "combinations of label values of one metric; then `\"full\"`" },
}

local debugging = {
  { name = "leaks", type = "enum", default = "off", values = { "off", "sample", "all" },
    about = "what the [leak detector](leaks.md) records: nothing, one in `sample`, or everything with its traceback" },
  { name = "sample", type = "count", default = 100, min = 1, max = 1000000,
    about = "one in so many is recorded at `\"sample\"`" },
  { name = "turns", type = "boolean", default = false,
    about = "measure [`longest_work`](status.md#loops) of each loop, which is two reads of a file in `/proc` a turn" },
}

local limits = {
  { name = "pipes", live = false, type = "count", default = 256, min = 0, max = 65536,
    about = "with bytes in them that each loop may have for `conn:pump`; beyond, bytes are copied. 0: all are" },
  { name = "turn_time", live = "loops", type = "seconds", default = "1ms", min = "0.1ms", max = "1s",
    about = "how long one connection is served in a turn while others wait" },
  { name = "processes", live = "process", type = "count", default = 256, min = 1, max = 65536,
    about = "that scripts have started and that run, of all loops; then `\"full\"`" },
  { name = "bindings", live = "process", type = "count", default = 1048576, min = 1, max = 100000000,
    about = "keys of `rille.bind`, of all loops; then `\"full\"`" },
}

return {
  top = {
    { name = "loops", live = false, type = "loops", default = 1, min = 1, max = 256,
      about = "event loops, a thread each; `\"auto\"`: as many as there are processors to use" },
    { name = "processes", live = false, type = "loops", default = 1, min = 1, max = 64,
      about = "processes, each with all of these loops; `\"auto\"`: as many as there are processors to use" },
    { name = "user", live = false, type = "string", min = 1, max = 255,
      about = "whom root becomes when the addresses are bound: `\"www-data\"`, or `\"USER:GROUP\"`" },
    { name = "drain_timeout", live = "loops", type = "seconds", default = "30s", min = 0, max = TIME_MAX,
      about = "at a shutdown, for connections to finish" },
    { name = "pin", live = false, type = "pin",
      about = "`true`: each loop stays on a processor of its own, in order; or the list of their numbers" },
    { name = "path", live = "generation", type = "templates",
      about = "put in front of `package.path`, behind the script's own folder" },
    { name = "cpath", live = "generation", type = "templates",
      about = "the same for `package.cpath`" },
    { name = "dev", live = "generation", type = "boolean", default = false,
      about = "for developers, as `--dev`" },
    { name = "banner", live = "start", type = "lines",
      about = "written to stderr, as it is, when all servers listen; not with `log.format = \"json\"`" },
    { name = "log", type = "table", keys = log, about = "the log" },
    { name = "limits", type = "table", keys = limits, about = "of a loop, and of the process" },
    { name = "io", type = "table", keys = io, about = "the worker pool of `rille.fs`" },
    { name = "dns", live = "generation", type = "table", keys = dns, about = "how names are looked up" },
    { name = "dial", live = "generation", type = "table", keys = dial, about = "connections that scripts open" },
    { name = "control", live = false, type = "table", keys = control, switch = "enabled",
      about = "the socket that `rille status` and its like ask; `false`: none" },
    { name = "debug", live = "process", type = "table", keys = debugging, about = "what costs time and is not for every day" },
    { name = "stall_after", live = "process", type = "seconds", default = "1s", min = 0, max = "1h",
      about = "a turn of a loop that lasts longer is logged as a stall; 0: none is" },
    { name = "dicts", live = "dicts", type = "map", keys = dict, max = 255, about = "shared memory for `rille.dict`, by name" },
    { name = "topics", live = "generation", type = "map", keys = topic, max = 255,
      about = "`rille.topic`s that several processes share, by name" },
    { name = "workers", live = "pools", type = "workers", keys = workers,
      about = "the worker pool `\"default\"`: a number, which is its `max`, or a table" },
    { name = "pools", live = "pools", type = "map", keys = workers, max = 63, about = "other worker pools for `rille.pool`, by name" },
    { name = "workers_timeout", live = "process", type = "seconds", default = "2s", min = 0, max = TIME_MAX,
      about = "at the end, for workers to come back from their jobs" },
    { name = "timeouts", live = "servers", type = "table", keys = timeouts, about = "of every server's connections; 0: none" },
    { name = "reload", live = "reload", type = "table", keys = reload, about = "of scripts and of this file, while they are served" },
    -- behind what it inherits; one server is one Lua state, and a loop has room for 64
    { name = "servers", type = "list", keys = server, max = 64, about = "what is served, at least one" },
    { name = "metrics", type = "table", keys = metrics, about = "numbers for Prometheus" },
  },
}
